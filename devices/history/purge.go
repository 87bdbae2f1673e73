package history

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"millrace/devices/postgres/pgerr"
)

const (
	doomedSeries  = `select series from history_doomed order by series limit 1000`
	purgeRollups  = `delete from history_hour where series = any(@series::int[])`
	purgeDirty    = `delete from history_dirty where series = any(@series::int[])`
	purgeFinished = `delete from history_doomed where series = any(@series::int[])`
)

// Purge deletes what is recorded of series that were deleted: their chunks in batches, with a pause after each, and at last what
// says that they are to be. Nobody writes chunks of theirs any more: the deletion waited for writers that knew them, and
// raised history_generation for the others.
func (s *Store) Purge(ctx context.Context) error {
	_, err := s.purge(ctx)
	if err != nil {
		return fmt.Errorf("purge: %w", pgerr.Domain(err))
	}
	return nil
}

func (s *Store) purge(ctx context.Context) (chunks int, err error) {
	for {
		rows, _ := s.pool.Query(ctx, doomedSeries) // its error comes back from rows
		doomed, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		if err != nil || len(doomed) == 0 {
			return chunks, err
		}
		all, err := s.partitions(ctx)
		if err != nil {
			return chunks, err
		}
		for _, p := range all {
			n, err := s.deleteChunks(ctx, p, doomed, math.MaxInt64)
			chunks += n
			if err != nil {
				return chunks, err
			}
		}
		finished := false
		err = s.maintenance(ctx, func(tx pgx.Tx) error {
			var left bool // a partition may have been made meanwhile, or another node been at it
			if err := tx.QueryRow(ctx, `select exists (select from history_chunk where series = any(@series::int[]))`, pgx.StrictNamedArgs{"series": doomed}).Scan(&left); err != nil || left {
				return err
			}
			for _, sql := range []string{purgeRollups, purgeDirty, purgeFinished} {
				if _, err := tx.Exec(ctx, sql, pgx.StrictNamedArgs{"series": doomed}); err != nil {
					return err
				}
			}
			finished = true
			return nil
		})
		if err != nil || !finished {
			return chunks, err
		}
	}
}
