package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const deviceColumns = `select d.id, d.label, d.type, d.attributes, d.state,
		array(select m.path from member m where m.device = d.id order by m.path) as groups,
		d.expected_interval_ms * 1000000 as expected_interval, d.last_seen, d.created_at, d.updated_at
	from device d`

const (
	deviceByID       = deviceColumns + ` where d.id = @id`
	deviceByIDLocked = deviceColumns + ` where d.id = @id for update of d`
	devicesByFilter  = deviceColumns + `
	where d.id > @after
		and (@state = '' or d.state = @state)
		and (@type = '' or d.type = @type)
		and (@search = '' or strpos(lower(d.id), lower(@search)) > 0 or strpos(lower(d.label), lower(@search)) > 0)
		and (@groups::text[] is null or exists (
			select from member m, unnest(@groups::text[]) as g (path)
			where m.device = d.id and (m.path = g.path or g.path = '' or starts_with(m.path, g.path || '/'))))
	order by d.id
	limit @limit`
	insertDevice = `insert into device (id, label, type, attributes, state, expected_interval_ms)
		values (@id, @label, @type, @attributes, @state, @interval)`
	updateDevice = `update device set label = @label, type = @type, attributes = @attributes, state = @state,
		expected_interval_ms = @interval, updated_at = now() where id = @id`
	deleteDevice  = `delete from device where id = @id`
	deleteMembers = `delete from member where device = @id and path <> all(@groups::text[])`
	insertMembers = `insert into member (device, path) select @id, unnest(@groups::text[]) on conflict do nothing`
	insertGroups  = `insert into device_group (path, label) select p, '' from unnest(@paths::text[]) as p on conflict do nothing`
)

// Devices returns a page of those that match, by id.
func (s *Store) Devices(ctx context.Context, f devices.DeviceFilter) (devices.List[devices.Device], error) {
	size := f.Size()
	found, err := list[devices.Device](ctx, s.pool, devicesByFilter, pgx.StrictNamedArgs{"after": f.After, "state": string(f.State), "type": f.Type,
		"search": f.Search, "groups": texts(f.Groups), "limit": size + 1})
	if err != nil {
		return devices.List[devices.Device]{}, fmt.Errorf("devices: %w", err)
	}
	return page(found, size, func(d devices.Device) string { return string(d.ID) }), nil
}

// Device returns one device.
func (s *Store) Device(ctx context.Context, id devices.ID) (devices.Device, error) {
	d, err := one[devices.Device](ctx, s.pool, deviceByID, pgx.StrictNamedArgs{"id": string(id)})
	if err != nil {
		return d, fmt.Errorf("device %s: %w", id, err)
	}
	return d, nil
}

// CreateDevice adds a device with its first credential, and the groups that are missing. ErrExists: the id is taken.
func (s *Store) CreateDevice(ctx context.Context, by devices.Actor, d devices.Device, first devices.Credential) (devices.Device, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if _, err = m.Exec(ctx, insertDevice, deviceArgs(d)); err != nil {
			return err
		}
		if err := m.setGroups(ctx, d.ID, nil, d.Groups); err != nil {
			return err
		}
		if first.Kind != "" {
			first.Device = d.ID
			if _, err := m.addCredential(ctx, first); err != nil {
				return err
			}
		}
		m.audit("device.create", string(d.ID), deviceDetail(devices.Device{}, d))
		m.changed(catalog.DevicesChanged, d.ID)
		d, err = one[devices.Device](ctx, m, deviceByID, pgx.StrictNamedArgs{"id": string(d.ID)})
		return err
	})
	if err != nil {
		return d, fmt.Errorf("create device %s: %w", d.ID, pgerr.Domain(err))
	}
	return d, nil
}

// UpdateDevice changes a device as the function says, which is called with the row locked; its error ends the transaction.
// Nothing is written when it changes nothing.
func (s *Store) UpdateDevice(ctx context.Context, by devices.Actor, id devices.ID, change func(*devices.Device) error) (devices.Device, error) {
	var now devices.Device
	err := s.mutate(ctx, by, func(m *mutation) error {
		before, err := one[devices.Device](ctx, m, deviceByIDLocked, pgx.StrictNamedArgs{"id": string(id)})
		if err != nil {
			return err
		}
		now = before
		now.Groups = slices.Clone(before.Groups)
		if err := change(&now); err != nil {
			return err
		}
		now.ID = id
		detail := deviceDetail(before, now)
		if len(detail) == 0 {
			return nil
		}
		if _, err := m.Exec(ctx, updateDevice, deviceArgs(now)); err != nil {
			return err
		}
		if err := m.setGroups(ctx, id, before.Groups, now.Groups); err != nil {
			return err
		}
		m.audit("device.update", string(id), detail)
		m.changed(catalog.DevicesChanged, id)
		now, err = one[devices.Device](ctx, m, deviceByID, pgx.StrictNamedArgs{"id": string(id)})
		return err
	})
	if err != nil {
		return now, fmt.Errorf("update device %s: %w", id, pgerr.Domain(err))
	}
	return now, nil
}

// DeleteDevice deletes a device with all that belongs to it and is recorded of it, if the check, called with the row locked, has no objection.
func (s *Store) DeleteDevice(ctx context.Context, by devices.Actor, id devices.ID, check func(devices.Device) error) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		d, err := one[devices.Device](ctx, m, deviceByIDLocked, pgx.StrictNamedArgs{"id": string(id)})
		if err != nil {
			return err
		}
		if err := check(d); err != nil {
			return err
		}
		if err := exec(ctx, m, deleteDevice, pgx.StrictNamedArgs{"id": string(id)}); err != nil {
			return err
		}
		m.audit("device.delete", string(id), map[string]any{"label": d.Label, "groups": d.Groups})
		m.changed(catalog.DevicesChanged, id)
		return m.dropHistory(ctx, []devices.ID{id})
	})
	if err != nil {
		return fmt.Errorf("delete device %s: %w", id, pgerr.Domain(err))
	}
	return nil
}

// setGroups moves a device, and makes the groups that are missing with those above them.
func (m *mutation) setGroups(ctx context.Context, id devices.ID, before, now []devices.GroupPath) error {
	if slices.Equal(before, now) {
		return nil
	}
	if err := m.ensureGroups(ctx, now); err != nil {
		return err
	}
	args := pgx.StrictNamedArgs{"id": string(id), "groups": texts(append([]devices.GroupPath{}, now...))}
	if _, err := m.Exec(ctx, deleteMembers, args); err != nil {
		return err
	}
	_, err := m.Exec(ctx, insertMembers, args)
	return err
}

func (m *mutation) ensureGroups(ctx context.Context, paths []devices.GroupPath) error {
	all := devices.WithAncestors(paths)
	slices.Sort(all) // one order for all transactions: no deadlock
	tag, err := m.Exec(ctx, insertGroups, pgx.StrictNamedArgs{"paths": texts(append([]devices.GroupPath{}, all...))})
	if err != nil {
		return err
	}
	if tag.RowsAffected() > 0 {
		m.changed(catalog.GroupsChanged)
	}
	return nil
}

func deviceArgs(d devices.Device) pgx.StrictNamedArgs {
	attributes := []byte(d.Attributes)
	if len(attributes) == 0 {
		attributes = []byte("{}")
	}
	return pgx.StrictNamedArgs{"id": string(d.ID), "label": d.Label, "type": d.Type, "attributes": attributes, "state": string(d.State),
		"interval": interval(d.ExpectedInterval)}
}

// deviceDetail is what differs, for the audit.
func deviceDetail(before, now devices.Device) map[string]any {
	detail := make(map[string]any)
	if before.Label != now.Label {
		detail["label"] = now.Label
	}
	if before.Type != now.Type {
		detail["type"] = now.Type
	}
	if before.State != now.State {
		detail["state"] = now.State
	}
	if !sameJSON(before.Attributes, now.Attributes) {
		detail["attributes"] = now.Attributes
	}
	if !slices.Equal(before.Groups, now.Groups) {
		detail["groups"] = now.Groups
	}
	if before.ExpectedInterval != now.ExpectedInterval {
		detail["expectedIntervalMs"] = interval(now.ExpectedInterval)
	}
	return detail
}

// sameJSON compares two objects whatever their spacing and order.
func sameJSON(a, b json.RawMessage) bool {
	return string(canonical(a)) == string(canonical(b))
}

func canonical(raw json.RawMessage) []byte {
	var v map[string]any
	if json.Unmarshal(raw, &v) != nil || len(v) == 0 {
		return nil
	}
	out, _ := json.Marshal(v)
	return out
}

// texts are paths or ids as PostgreSQL takes them; nil stays null.
func texts[T ~string](in []T) []string {
	if in == nil {
		return nil
	}
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}
