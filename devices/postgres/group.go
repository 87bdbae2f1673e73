package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const groupColumns = `select g.path, g.label, g.tick_ms * 1000000 as tick, g.retention_days as retention, g.created_at,
		(select count(distinct m.device) from member m where m.path = g.path or starts_with(m.path, g.path || '/'))::int as devices
	from device_group g`

const (
	groupsAll         = groupColumns + ` order by g.path`
	groupByPath       = groupColumns + ` where g.path = @path`
	groupByPathLocked = groupColumns + ` where g.path = @path for update of g`
	insertGroup       = `insert into device_group (path, label, tick_ms, retention_days) values (@path, @label, @tick, @retention)`
	updateGroup       = `update device_group set label = @label, tick_ms = @tick, retention_days = @retention where path = @path`
	membersBelow      = `select device as id, bool_and(path = @path or starts_with(path, @path || '/')) as only
		from member group by device having bool_or(path = @path or starts_with(path, @path || '/')) order by device`
	deleteDevices  = `delete from device where id = any(@ids::text[])`
	deleteGroups   = `delete from device_group where path = @path or starts_with(path, @path || '/')`
	deleteBindings = `delete from role_binding where path = @path or starts_with(path, @path || '/')`
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
		m.audit("group.create", string(g.Path), groupDetail(g))
		m.changed(catalog.GroupsChanged)
		g, err = one[devices.Group](ctx, m, groupByPath, pgx.StrictNamedArgs{"path": string(g.Path)})
		return err
	})
	if err != nil {
		return g, fmt.Errorf("create group %s: %w", g.Path, pgerr.Domain(err))
	}
	return g, nil
}

// UpdateGroup changes label, tick and retention as the function says.
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
		if g.Label == before.Label && g.Tick == before.Tick && sameDays(g.Retention, before.Retention) {
			return nil
		}
		g.Path = path
		if _, err := m.Exec(ctx, updateGroup, groupArgs(g)); err != nil {
			return err
		}
		m.audit("group.update", string(path), groupDetail(g))
		m.changed(catalog.GroupsChanged)
		return nil
	})
	if err != nil {
		return g, fmt.Errorf("update group %s: %w", path, pgerr.Domain(err))
	}
	return g, nil
}

// DeleteGroup deletes a group and all below it with their bindings. It returns the devices that were in one of them: those that are left,
// which with withDevices are those that are also in another group, and those that were deleted with what is recorded of them. API tokens
// stay, and may have no right left.
func (s *Store) DeleteGroup(ctx context.Context, by devices.Actor, path devices.GroupPath, withDevices bool) (left, deleted []devices.ID, err error) {
	err = s.mutate(ctx, by, func(m *mutation) error {
		args := pgx.StrictNamedArgs{"path": string(path)}
		if _, err := one[devices.Group](ctx, m, groupByPathLocked, args); err != nil {
			return err
		}
		type member struct {
			ID   devices.ID
			Only bool
		}
		members, err := list[member](ctx, m, membersBelow, args)
		if err != nil {
			return err
		}
		left, deleted = nil, nil
		for _, d := range members {
			if withDevices && d.Only {
				deleted = append(deleted, d.ID)
			} else {
				left = append(left, d.ID)
			}
		}
		if _, err := m.Exec(ctx, deleteBindings, args); err != nil {
			return err
		}
		if err := exec(ctx, m, deleteGroups, args); err != nil {
			return err
		}
		m.audit("group.delete", string(path), map[string]any{"devices": len(left), "deletedDevices": len(deleted)})
		m.changed(catalog.GroupsChanged)
		m.changed(catalog.AccessChanged)
		if len(members) > 0 {
			m.changed(catalog.DevicesChanged, slices.Concat(left, deleted)...)
		}
		if len(deleted) == 0 {
			return nil
		}
		if _, err := m.Exec(ctx, deleteDevices, pgx.StrictNamedArgs{"ids": texts(deleted)}); err != nil {
			return err
		}
		for _, id := range deleted {
			m.audit("device.delete", string(id), map[string]any{"with": string(path)})
		}
		return m.dropHistory(ctx, deleted)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("delete group %s: %w", path, pgerr.Domain(err))
	}
	return left, deleted, nil
}

func groupArgs(g devices.Group) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"path": string(g.Path), "label": g.Label, "tick": interval(g.Tick), "retention": g.Retention}
}

// groupDetail is for the audit; a retention that is not the group's own is left out.
func groupDetail(g devices.Group) map[string]any {
	detail := map[string]any{"label": g.Label, "tickMs": interval(g.Tick)}
	switch {
	case g.Retention == nil:
	case *g.Retention == devices.Forever:
		detail["retention"] = "for ever"
	default:
		detail["retention"] = fmt.Sprintf("%d days", *g.Retention)
	}
	return detail
}

func sameDays(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }
