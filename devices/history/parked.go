package history

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	insertParked = `insert into history_parked (device, metric, start, n, kind, reason, data) values (@device, @metric, @start, @n, @kind, @reason, @data)`
	parkedNewest = `select id, at, device, metric, start, n, kind, reason from history_parked order by id desc limit @limit`
	parkedCount  = `select count(*), coalesce(sum(n), 0) from history_parked`
)

// A Parked chunk is one that PostgreSQL refused.
type Parked struct {
	ID             int64
	At             time.Time // when it was refused
	Device, Metric string
	Start          int64 // Unix milliseconds of its first sample
	N              int   // samples
	Kind           devices.Kind
	Reason         string
}

// Parked returns the newest parked chunks, at most limit, and how many chunks and samples are parked in all.
func (s *Store) Parked(ctx context.Context, limit int) (newest []Parked, chunks, samples int64, err error) {
	if err := s.pool.QueryRow(ctx, parkedCount).Scan(&chunks, &samples); err != nil {
		return nil, 0, 0, fmt.Errorf("parked chunks: %w", pgerr.Domain(err))
	}
	if chunks == 0 || limit <= 0 {
		return nil, chunks, samples, nil
	}
	rows, _ := s.pool.Query(ctx, parkedNewest, pgx.StrictNamedArgs{"limit": limit}) // its error comes back from rows
	newest, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Parked, err error) {
		var kind int16
		err = row.Scan(&p.ID, &p.At, &p.Device, &p.Metric, &p.Start, &p.N, &kind, &p.Reason)
		p.Kind = devices.Kind(kind)
		return p, err
	})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("parked chunks: %w", pgerr.Domain(err))
	}
	return newest, chunks, samples, nil
}
