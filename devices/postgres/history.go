package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
)

// What is recorded (devices/history) goes in two steps: the names at once, the samples in the background. Raising the generation
// waits for transactions that write history now, and tells later ones that the ids they know are old.
const (
	raiseGeneration = `update history_generation set n = n + 1`
	doomHistory     = `with gone as (delete from history_series where device = any(@ids::text[]) returning id)
		insert into history_doomed (series) select id from gone`
)

// dropHistory deletes what is recorded of devices. It comes after whatever else the transaction locks: who writes history waits for it.
func (m *mutation) dropHistory(ctx context.Context, ids []devices.ID) error {
	if _, err := m.Exec(ctx, raiseGeneration, pgx.StrictNamedArgs{}); err != nil {
		return err
	}
	_, err := m.Exec(ctx, doomHistory, pgx.StrictNamedArgs{"ids": texts(ids)})
	return err
}
