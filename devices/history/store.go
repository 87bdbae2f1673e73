package history

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const diskIDs = `select u.n, h.id from unnest(@devices::text[], @metrics::text[]) with ordinality as u (device, metric, n)
	join history_series h on h.device = u.device and h.metric = u.metric`

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// DiskIDs returns the ids of series in history_series; 0 for one of which nothing is recorded yet, or that is gone.
func (s *Store) DiskIDs(ctx context.Context, ids []devices.SeriesID) ([]int32, error) {
	out := make([]int32, len(ids))
	var ask []int // places in ids
	s.ids.RLock()
	for i, id := range ids {
		if int(id) < len(s.ids.disk) {
			out[i] = s.ids.disk[id]
		}
		if out[i] == 0 {
			ask = append(ask, i)
		}
	}
	times := s.ids.times
	s.ids.RUnlock()
	if len(ask) == 0 {
		return out, nil
	}
	names, metrics := make([]string, len(ask)), make([]string, len(ask))
	for n, i := range ask {
		device, metric := s.catalog.Name(ids[i])
		names[n], metrics[n] = string(device), metric
	}
	found, err := lookUp(ctx, s.pool, names, metrics)
	if err != nil {
		return nil, fmt.Errorf("ids of recorded series: %w", pgerr.Domain(err))
	}
	s.ids.Lock()
	defer s.ids.Unlock()
	for n, i := range ask {
		out[i] = found[n]
		if found[n] == 0 || s.ids.times != times {
			continue
		}
		for int(ids[i]) >= len(s.ids.disk) {
			s.ids.disk = append(s.ids.disk, 0)
		}
		s.ids.disk[ids[i]] = found[n]
	}
	return out, nil
}

// lookUp returns the ids of series by name, 0 where there is none. It returns the driver's errors as they are.
func lookUp(ctx context.Context, q querier, names, metrics []string) ([]int32, error) {
	out := make([]int32, len(names))
	rows, _ := q.Query(ctx, diskIDs, pgx.StrictNamedArgs{"devices": names, "metrics": metrics}) // its error comes back from rows
	var n int64
	var id int32
	_, err := pgx.ForEachRow(rows, []any{&n, &id}, func() error {
		out[n-1] = id
		return nil
	})
	return out, err
}

// forget drops the ids that DiskIDs keeps, because series were deleted.
func (s *Store) forget() {
	s.ids.Lock()
	defer s.ids.Unlock()
	clear(s.ids.disk)
	s.ids.times++
}
