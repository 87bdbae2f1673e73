package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const auditByFilter = `select id, at, actor, actor_kind as kind, ip, action, object, detail from audit
	where (@before::bigint = 0 or id < @before)
		and (@actor = '' or actor = @actor)
		and (@action = '' or starts_with(action, @action))
		and (@object = '' or object = @object)
	order by id desc
	limit @limit`

// Audit returns a page, newest first.
func (s *Store) Audit(ctx context.Context, f devices.AuditFilter) (devices.List[devices.AuditEntry], error) {
	var before int64
	if f.After != "" {
		var err error
		if before, err = strconv.ParseInt(f.After, 10, 64); err != nil || before <= 0 {
			return devices.List[devices.AuditEntry]{}, devices.Invalid("after", "is no cursor of this list")
		}
	}
	found, err := list[devices.AuditEntry](ctx, s.pool, auditByFilter, pgx.StrictNamedArgs{"before": before, "actor": f.Actor, "action": f.Action,
		"object": f.Object, "limit": f.Size() + 1})
	if err != nil {
		return devices.List[devices.AuditEntry]{}, fmt.Errorf("audit: %w", err)
	}
	return page(found, f.Size(), func(e devices.AuditEntry) string { return strconv.FormatInt(e.ID, 10) }), nil
}

// AppendAudit adds an entry that goes with no change, such as a failed sign-in.
func (s *Store) AppendAudit(ctx context.Context, by devices.Actor, action, object string, detail any) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		m.audit(action, object, detail)
		return nil
	})
	if err != nil {
		return fmt.Errorf("audit %s: %w", action, pgerr.Domain(err))
	}
	return nil
}
