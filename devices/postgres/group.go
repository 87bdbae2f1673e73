package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const groupColumns = `select g.path, g.label, g.tick_ms * 1000000 as tick, g.created_at,
		(select count(distinct m.device) from member m where m.path = g.path or starts_with(m.path, g.path || '/'))::int as devices
	from device_group g`

const (
	groupsAll         = groupColumns + ` order by g.path`
	groupByPath       = groupColumns + ` where g.path = @path`
	groupByPathLocked = groupColumns + ` where g.path = @path for update of g`
	insertGroup       = `insert into device_group (path, label, tick_ms) values (@path, @label, @tick)`
	updateGroup       = `update device_group set label = @label, tick_ms = @tick where path = @path`
	membersBelow      = `select distinct device from member where path = @path or starts_with(path, @path || '/') order by device`
	deleteGroups      = `delete from device_group where path = @path or starts_with(path, @path || '/')`
	deleteBindings    = `delete from role_binding where path = @path or starts_with(path, @path || '/')`
)

// Groups returns all, by path.
func (s *Store) Groups(ctx context.Context) ([]devices.Group, error) {
	found, err := list[devices.Group](ctx, s.pool, groupsAll, pgx.StrictNamedArgs{})
	if err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	return found, nil
}

// Group returns one.
func (s *Store) Group(ctx context.Context, path devices.GroupPath) (devices.Group, error) {
	g, err := one[devices.Group](ctx, s.pool, groupByPath, pgx.StrictNamedArgs{"path": string(path)})
	if err != nil {
		return g, fmt.Errorf("group %s: %w", path, err)
	}
	return g, nil
}

// CreateGroup adds a group and those missing above it.
func (s *Store) CreateGroup(ctx context.Context, by devices.Actor, g devices.Group) (devices.Group, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if parent := g.Path.Parent(); parent != devices.Site {
			if err := m.ensureGroups(ctx, []devices.GroupPath{parent}); err != nil {
				return err
			}
		}
		if _, err := m.Exec(ctx, insertGroup, groupArgs(g)); err != nil {
			return err
		}
		m.audit("group.create", string(g.Path), map[string]any{"label": g.Label, "tickMs": interval(g.Tick)})
		m.changed(catalog.GroupsChanged)
		g, err = one[devices.Group](ctx, m, groupByPath, pgx.StrictNamedArgs{"path": string(g.Path)})
		return err
	})
	if err != nil {
		return g, fmt.Errorf("create group %s: %w", g.Path, pgerr.Domain(err))
	}
	return g, nil
}

// UpdateGroup changes label and tick as the function says.
func (s *Store) UpdateGroup(ctx context.Context, by devices.Actor, path devices.GroupPath, change func(*devices.Group) error) (devices.Group, error) {
	var g devices.Group
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		if g, err = one[devices.Group](ctx, m, groupByPathLocked, pgx.StrictNamedArgs{"path": string(path)}); err != nil {
			return err
		}
		before := g
		if err := change(&g); err != nil {
			return err
		}
		if g == before {
			return nil
		}
		g.Path = path
		if _, err := m.Exec(ctx, updateGroup, groupArgs(g)); err != nil {
			return err
		}
		m.audit("group.update", string(path), map[string]any{"label": g.Label, "tickMs": interval(g.Tick)})
		m.changed(catalog.GroupsChanged)
		return nil
	})
	if err != nil {
		return g, fmt.Errorf("update group %s: %w", path, pgerr.Domain(err))
	}
	return g, nil
}

// DeleteGroup deletes a group and all below it with their bindings. It returns the devices that were in one of them; they
// stay, and so do API tokens, which may have no right left.
func (s *Store) DeleteGroup(ctx context.Context, by devices.Actor, path devices.GroupPath) (left []devices.ID, err error) {
	err = s.mutate(ctx, by, func(m *mutation) error {
		args := pgx.StrictNamedArgs{"path": string(path)}
		if _, err := one[devices.Group](ctx, m, groupByPathLocked, args); err != nil {
			return err
		}
		rows, _ := m.Query(ctx, membersBelow, args)
		if left, err = pgx.CollectRows(rows, pgx.RowTo[devices.ID]); err != nil {
			return err
		}
		if _, err := m.Exec(ctx, deleteBindings, args); err != nil {
			return err
		}
		if err := exec(ctx, m, deleteGroups, args); err != nil {
			return err
		}
		m.audit("group.delete", string(path), map[string]any{"devices": len(left)})
		m.changed(catalog.GroupsChanged)
		m.changed(catalog.AccessChanged)
		if len(left) > 0 {
			m.changed(catalog.DevicesChanged, left...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("delete group %s: %w", path, pgerr.Domain(err))
	}
	return left, nil
}

func groupArgs(g devices.Group) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"path": string(g.Path), "label": g.Label, "tick": interval(g.Tick)}
}
