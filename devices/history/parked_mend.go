package history

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/pgerr"
)

const (
	parkedLocked  = `select device, metric, start, n, kind, data from history_parked where id = @id for update`
	discardParked = `delete from history_parked where id = @id`
	blameParked   = `update history_parked set reason = @reason, at = now() where id = @id`
)

// RetryParked writes a parked chunk again, as if it had come before all others: where there are samples for the same time, those are
// right. When the database refuses it again, it stays, with the new reason, and the error wraps devices.ErrInvalid.
func (s *Store) RetryParked(ctx context.Context, id int64) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return retryParked(ctx, tx, id) })
	if pgerr.IsData(err) {
		if _, e := s.pool.Exec(ctx, blameParked, pgx.StrictNamedArgs{"id": id, "reason": pgerr.Text(err.Error())}); e != nil {
			return fmt.Errorf("parked chunk %d: %w", id, pgerr.Domain(e))
		}
		return fmt.Errorf("the database refuses them still (%w): %w", err, devices.ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("parked chunk %d: %w", id, pgerr.Domain(err))
	}
	return nil
}

func retryParked(ctx context.Context, tx pgx.Tx, id int64) error {
	type row struct {
		Device, Metric string
		Start          int64
		N              int
		Kind           devices.Kind
		Data           []byte
	}
	rows, _ := tx.Query(ctx, parkedLocked, pgx.StrictNamedArgs{"id": id}) // its error comes back from rows
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if err != nil {
		return err
	}
	var epoch int64
	if err := tx.QueryRow(ctx, generation).Scan(&epoch); err != nil {
		return err
	}
	names, metrics := []string{p.Device}, []string{p.Metric}
	if _, err := tx.Exec(ctx, insertSeries, pgx.StrictNamedArgs{"devices": names, "metrics": metrics}); err != nil {
		return err
	}
	ids, err := lookUp(ctx, tx, names, metrics)
	if err != nil {
		return err
	}
	if ids[0] == 0 {
		return fmt.Errorf("the device %s is gone: %w", p.Device, devices.ErrInvalid)
	}
	var c chunk.Columns
	if err := chunk.Decode(p.Data, p.Kind, p.Start, p.N, &c); err != nil {
		return fmt.Errorf("its data: %w: %w", err, devices.ErrInvalid)
	}
	sum := chunk.Summarize(p.Kind, &c)
	first, last := floorDiv(sum.Start, hourMs), floorDiv(sum.Start+sum.Span, hourMs)
	if first != last || int64(int32(first)) != first {
		return fmt.Errorf("its times are out of range: %w", devices.ErrInvalid)
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"history_chunk"}, chunkColumns, pgx.CopyFromRows([][]any{{sum.Start, int64(0), sum.First, sum.Last, sum.Min, sum.Max, sum.Sum,
		ids[0], int32(sum.Span), int32(sum.N), int16(p.Kind), int16(sum.Quality), true, p.Data}})); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertDirty, pgx.StrictNamedArgs{"series": ids, "hours": []int32{int32(first)}}); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, discardParked, pgx.StrictNamedArgs{"id": id})
	return err
}

// DiscardParked deletes a parked chunk.
func (s *Store) DiscardParked(ctx context.Context, id int64) error {
	tag, err := s.pool.Exec(ctx, discardParked, pgx.StrictNamedArgs{"id": id})
	if err == nil && tag.RowsAffected() == 0 {
		err = devices.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("parked chunk %d: %w", id, pgerr.Domain(err))
	}
	return nil
}
