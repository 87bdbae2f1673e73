package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/hubs"
	"millrace/devices/postgres/pgerr"
)

// keepLetters is how many dead letters are kept.
const keepLetters = 10_000

// HubSettings returns the settings of all hubs that have any.
func (s *Store) HubSettings(ctx context.Context) ([]hubs.Settings, error) {
	type row struct {
		Settings []byte
		Changed  time.Time
	}
	rows, err := list[row](ctx, s.pool, `select settings, changed from webpubsub_hub order by name`, nil)
	if err != nil {
		return nil, fmt.Errorf("settings of hubs: %w", err)
	}
	all := make([]hubs.Settings, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r.Settings, &all[i]); err != nil {
			return nil, fmt.Errorf("settings of hubs: %w", err)
		}
		all[i].Changed = r.Changed
	}
	return all, nil
}

// HubKeys returns the access keys, empty ones when there are none.
func (s *Store) HubKeys(ctx context.Context) (k hubs.Keys, err error) {
	err = s.pool.QueryRow(ctx, `select coalesce(max(value) filter (where which = 'primary'), ''), coalesce(max(value) filter (where which = 'secondary'), '') from webpubsub_key`).
		Scan(&k.Primary, &k.Secondary)
	if err != nil {
		return k, fmt.Errorf("access keys: %w", pgerr.Domain(err))
	}
	return k, nil
}

// SaveHub stores the settings of a hub.
func (s *Store) SaveHub(ctx context.Context, by devices.Actor, h hubs.Settings) (hubs.Settings, error) {
	h.Changed = time.Time{}
	settings, err := json.Marshal(h)
	if err != nil {
		return h, err
	}
	err = s.mutate(ctx, by, func(m *mutation) error {
		m.audit("webpubsub.hub.update", h.Hub, json.RawMessage(settings))
		m.changed(catalog.HubsChanged)
		return m.QueryRow(ctx, `insert into webpubsub_hub (name, settings) values (@name, @settings)
			on conflict (name) do update set settings = @settings, changed = now() returning changed`,
			pgx.StrictNamedArgs{"name": h.Hub, "settings": settings}).Scan(&h.Changed)
	})
	if err != nil {
		return h, fmt.Errorf("settings of hub %s: %w", h.Hub, pgerr.Domain(err))
	}
	return h, nil
}

// DeleteHub deletes the settings of a hub.
func (s *Store) DeleteHub(ctx context.Context, by devices.Actor, hub string) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		m.audit("webpubsub.hub.delete", hub, nil)
		m.changed(catalog.HubsChanged)
		return exec(ctx, m, `delete from webpubsub_hub where name = @name`, pgx.StrictNamedArgs{"name": hub})
	})
	if err != nil {
		return fmt.Errorf("settings of hub %s: %w", hub, pgerr.Domain(err))
	}
	return nil
}

// SaveKeys stores the access keys. To make the first ones it leaves those that are there as they are.
func (s *Store) SaveKeys(ctx context.Context, by devices.Actor, k hubs.Keys, action string) error {
	conflict := `on conflict (which) do update set value = excluded.value, changed = now()`
	if by.Kind == "" {
		conflict = `on conflict do nothing`
	}
	err := s.mutate(ctx, by, func(m *mutation) error {
		m.audit(action, "webpubsub", nil)
		m.changed(catalog.HubsChanged)
		_, err := m.Exec(ctx, `insert into webpubsub_key (which, value) values ('primary', @primary), ('secondary', @secondary) `+conflict,
			pgx.StrictNamedArgs{"primary": k.Primary, "secondary": k.Secondary})
		return err
	})
	if err != nil {
		return fmt.Errorf("access keys: %w", pgerr.Domain(err))
	}
	return nil
}

// AddLetter keeps a notification that no handler took. Now and then it drops the oldest.
func (s *Store) AddLetter(ctx context.Context, l hubs.Letter) error {
	var id int64
	err := s.pool.QueryRow(ctx, `insert into webpubsub_dead_letter (at, hub, connection, user_id, event, event_id, url, attempts, reason, body)
		values (@at, @hub, @connection, @user, @event, @id, @url, @attempts, @reason, @body) returning id`,
		pgx.StrictNamedArgs{"at": l.At, "hub": l.Hub, "connection": l.Connection, "user": l.User, "event": l.Event, "id": l.ID, "url": l.URL,
			"attempts": l.Attempts, "reason": l.Reason, "body": append([]byte{}, l.Body...)}).Scan(&id)
	if err == nil && id%100 == 0 {
		_, err = s.pool.Exec(ctx, `delete from webpubsub_dead_letter where id <= $1`, id-keepLetters)
	}
	if err != nil {
		return fmt.Errorf("dead letter: %w", pgerr.Domain(err))
	}
	return nil
}

// Letters returns the newest dead letters of a hub.
func (s *Store) Letters(ctx context.Context, hub string, limit int) ([]hubs.Letter, error) {
	rows, _ := s.pool.Query(ctx, `select at, hub, connection, user_id, event, event_id, url, attempts, reason, body
		from webpubsub_dead_letter where hub = $1 order by id desc limit $2`, hub, limit) // its error comes back from rows
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[hubs.Letter])
	if err != nil {
		return nil, fmt.Errorf("dead letters: %w", pgerr.Domain(err))
	}
	return all, nil
}

// ClearLetters deletes the dead letters of a hub, and returns how many.
func (s *Store) ClearLetters(ctx context.Context, by devices.Actor, hub string) (n int, err error) {
	err = s.mutate(ctx, by, func(m *mutation) error {
		tag, err := m.Exec(ctx, `delete from webpubsub_dead_letter where hub = $1`, hub)
		n = int(tag.RowsAffected())
		m.audit("webpubsub.letters.clear", hub, map[string]int{"letters": n})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("dead letters: %w", pgerr.Domain(err))
	}
	return n, nil
}
