package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const tokenColumns = `select id, name, role, path as "group", hint, hash, created_at, created_by, expires, last_used from api_token`

const (
	tokensPage = tokenColumns + `
	where not hidden and (name, id) > (@name, @id)
		and (@paths::text[] is null or exists (
			select from unnest(@paths::text[]) as p (path)
			where p.path = '' or api_token.path = p.path or starts_with(api_token.path, p.path || '/')))
	order by name, id
	limit @limit`
	tokenByID   = tokenColumns + ` where id = @id and not hidden`
	insertToken = `insert into api_token (id, name, role, path, hint, hash, hidden, created_by, expires)
		values (@id, @name, @role, @path, @hint, @hash, @hidden, @by, @expires)
		returning id, name, role, path as "group", hint, hash, created_at, created_by, expires, last_used`
	deleteToken       = `delete from api_token where id = @id and not hidden`
	hiddenToken       = `select hash from api_token where name = @name and hidden`
	deleteHiddenToken = `delete from api_token where name = @name and hidden`
	touchTokens       = `update api_token t set last_used = greatest(t.last_used, u.at)
		from unnest(@ids::text[], @ats::timestamptz[]) as u (id, at) where t.id = u.id`
)

// Tokens returns a page of API tokens made for one of the paths or below (nil: all), by name.
func (s *Store) Tokens(ctx context.Context, p devices.Page, paths []devices.GroupPath) (devices.List[devices.APIToken], error) {
	name, id := "", p.After
	if i := strings.LastIndexByte(p.After, '/'); i >= 0 {
		name, id = p.After[:i], p.After[i+1:]
	}
	found, err := list[devices.APIToken](ctx, s.pool, tokensPage, pgx.StrictNamedArgs{"name": name, "id": id, "paths": texts(paths), "limit": p.Size() + 1})
	if err != nil {
		return devices.List[devices.APIToken]{}, fmt.Errorf("tokens: %w", err)
	}
	return page(found, p.Size(), func(t devices.APIToken) string { return t.Name + "/" + t.ID }), nil
}

// Token returns one.
func (s *Store) Token(ctx context.Context, id string) (devices.APIToken, error) {
	t, err := one[devices.APIToken](ctx, s.pool, tokenByID, pgx.StrictNamedArgs{"id": id})
	if err != nil {
		return t, fmt.Errorf("token %s: %w", id, err)
	}
	return t, nil
}

// CreateToken adds one with a binding of its role on its group; its ID is made here.
func (s *Store) CreateToken(ctx context.Context, by devices.Actor, t devices.APIToken) (devices.APIToken, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		t, err = m.addToken(ctx, t, false)
		return err
	})
	if err != nil {
		return t, fmt.Errorf("create token %s: %w", t.Name, pgerr.Domain(err))
	}
	return t, nil
}

// DeleteToken revokes one.
func (s *Store) DeleteToken(ctx context.Context, by devices.Actor, id string) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		t, err := one[devices.APIToken](ctx, m, tokenByID, pgx.StrictNamedArgs{"id": id})
		if err != nil {
			return err
		}
		if err := exec(ctx, m, deleteToken, pgx.StrictNamedArgs{"id": id}); err != nil {
			return err
		}
		m.audit("token.delete", id, map[string]any{"name": t.Name})
		m.changed(catalog.AccessChanged)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete token %s: %w", id, pgerr.Domain(err))
	}
	return nil
}

// EnsureToken makes the token of this name with a secret that was given from outside the one there is: a site admin that no
// list shows. An empty hash revokes it.
func (s *Store) EnsureToken(ctx context.Context, by devices.Actor, t devices.APIToken) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		if _, err := m.Exec(ctx, lockAccess); err != nil {
			return err
		}
		rows, _ := m.Query(ctx, hiddenToken, pgx.StrictNamedArgs{"name": t.Name})
		there, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return err
		}
		if len(there) == 1 && string(there[0]) == string(t.Hash) || len(there) == 0 && len(t.Hash) == 0 {
			return nil
		}
		if len(there) > 0 {
			if err := exec(ctx, m, deleteHiddenToken, pgx.StrictNamedArgs{"name": t.Name}); err != nil {
				return err
			}
			m.audit("token.delete", t.Name, nil)
			m.changed(catalog.AccessChanged)
		}
		if len(t.Hash) == 0 {
			return nil
		}
		_, err = m.addToken(ctx, t, true)
		return err
	})
	if err != nil {
		return fmt.Errorf("ensure token %s: %w", t.Name, pgerr.Domain(err))
	}
	return nil
}

func (m *mutation) addToken(ctx context.Context, t devices.APIToken, hidden bool) (devices.APIToken, error) {
	made, err := one[devices.APIToken](ctx, m, insertToken, pgx.StrictNamedArgs{"id": newID(), "name": t.Name, "role": string(t.Role), "path": string(t.Group),
		"hint": t.Hint, "hash": t.Hash, "hidden": hidden, "by": m.by.Name, "expires": t.Expires})
	if err != nil {
		return t, err
	}
	m.audit("token.create", made.ID, map[string]any{"name": t.Name, "role": t.Role, "group": t.Group, "expires": t.Expires})
	_, err = m.addBinding(ctx, devices.Binding{Token: made.ID, Group: t.Group, Role: t.Role})
	return made, err
}
