package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const bindingColumns = `select id, coalesce(user_id, '') as "user", coalesce(token_id, '') as token, path as "group", role from role_binding`

const (
	bindingsByFilter = bindingColumns + `
	where (@path = '' or path = @path or starts_with(path, @path || '/'))
		and (@user = '' or user_id = @user)
		and (@token = '' or token_id = @token)
	order by path, role, id`
	bindingByID   = bindingColumns + ` where id = @id`
	insertBinding = `insert into role_binding (id, user_id, token_id, path, role)
		values (@id, nullif(@user, ''), nullif(@token, ''), @path, @role)`
	ensureBinding = insertBinding + ` on conflict do nothing`
	deleteBinding = `delete from role_binding where id = @id`
	groupKept     = `select path from device_group where path = @path for key share` // it can't be deleted before we commit
)

// Bindings returns those that match what is not empty, by path; a path matches itself and below.
func (s *Store) Bindings(ctx context.Context, path devices.GroupPath, user, token string) ([]devices.Binding, error) {
	found, err := list[devices.Binding](ctx, s.pool, bindingsByFilter, pgx.StrictNamedArgs{"path": string(path), "user": user, "token": token})
	if err != nil {
		return nil, fmt.Errorf("bindings: %w", err)
	}
	return found, nil
}

// Binding returns one.
func (s *Store) Binding(ctx context.Context, id string) (devices.Binding, error) {
	b, err := one[devices.Binding](ctx, s.pool, bindingByID, pgx.StrictNamedArgs{"id": id})
	if err != nil {
		return b, fmt.Errorf("binding %s: %w", id, err)
	}
	return b, nil
}

// CreateBinding gives a right. ErrExists: it is there already; ErrNotFound: no such user, token or group.
func (s *Store) CreateBinding(ctx context.Context, by devices.Actor, b devices.Binding) (devices.Binding, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if _, err := m.Exec(ctx, lockAccess); err != nil {
			return err
		}
		b, err = m.addBinding(ctx, b)
		return err
	})
	if err != nil {
		return b, fmt.Errorf("create binding: %w", pgerr.Domain(err))
	}
	return b, nil
}

// DeleteBinding takes a right away. That of the last site admin can't be.
func (s *Store) DeleteBinding(ctx context.Context, by devices.Actor, id string) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		return m.keepingAdmin(ctx, func() error {
			b, err := one[devices.Binding](ctx, m, bindingByID, pgx.StrictNamedArgs{"id": id})
			if err != nil {
				return err
			}
			if err := exec(ctx, m, deleteBinding, pgx.StrictNamedArgs{"id": id}); err != nil {
				return err
			}
			m.audit("binding.delete", id, bindingDetail(b))
			m.changed(catalog.AccessChanged)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("delete binding %s: %w", id, pgerr.Domain(err))
	}
	return nil
}

func (m *mutation) addBinding(ctx context.Context, b devices.Binding) (devices.Binding, error) {
	if b.Group != devices.Site {
		if tag, err := m.Exec(ctx, groupKept, pgx.StrictNamedArgs{"path": string(b.Group)}); err != nil {
			return b, err
		} else if tag.RowsAffected() == 0 {
			return b, fmt.Errorf("group %s: %w", b.Group, devices.ErrNotFound)
		}
	}
	b.ID = newID()
	if _, err := m.Exec(ctx, insertBinding, bindingArgs(b)); err != nil {
		return b, err
	}
	m.audit("binding.create", b.ID, bindingDetail(b))
	m.changed(catalog.AccessChanged)
	return b, nil
}

// ensureBinding is addBinding that has nothing to do when the right is there; for the site only.
func (m *mutation) ensureBinding(ctx context.Context, b devices.Binding) error {
	b.ID = newID()
	tag, err := m.Exec(ctx, ensureBinding, bindingArgs(b))
	if err == nil && tag.RowsAffected() > 0 {
		m.audit("binding.create", b.ID, bindingDetail(b))
		m.changed(catalog.AccessChanged)
	}
	return err
}

func bindingArgs(b devices.Binding) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"id": b.ID, "user": b.User, "token": b.Token, "path": string(b.Group), "role": string(b.Role)}
}

func bindingDetail(b devices.Binding) map[string]any {
	detail := map[string]any{"group": b.Group, "role": b.Role}
	if b.User != "" {
		detail["user"] = b.User
	} else {
		detail["token"] = b.Token
	}
	return detail
}
