package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

// rowBytes is what a chunk takes on disk beside its data: header and columns of the row, and its entry in the index.
const rowBytes = 28 + 76 + 24

const (
	// Changes of each partition since the database's statistics began: when they are as they were, so are its chunks.
	partitionChanges = `select c.relname as name, coalesce(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_deleted(c.oid), 0) as changes,
			pg_total_relation_size(c.oid) as bytes
		from pg_partition_tree('history_chunk') t join pg_class c on c.oid = t.relid where t.isleaf`
	sizesOfDevices = `select s.device, sum(c.n) as samples, sum(pg_column_size(c.data) + %d) as bytes, min(c.start) as oldest
		from %s c join history_series s on s.id = c.series group by s.device`
	otherSizes = `select pg_total_relation_size('history_hour') + pg_total_relation_size('history_dirty') + pg_total_relation_size('history_series') as bytes,
		(select count(*) from history_dirty where hour <= @until) as waiting, (select count(*) from history_doomed) as doomed`
	sizeBefore = `select coalesce(sum(n), 0) as samples, coalesce(sum(pg_column_size(data) + %d), 0) as bytes, coalesce(min(start), 0) as oldest
		from history_chunk where series = any(@series::int[]) and start < @before`
	seriesOfDevices = `select id, device from history_series`
)

// What is told of the space is read anew in the background when it is older than spaceAge and somebody has asked; who asks waits
// for it only when it is very old.
const (
	spaceAge    = 5 * time.Minute
	oldestSpace = time.Hour
)

// Space is what history takes, as it was lately.
type Space struct {
	At      time.Time
	Total   devices.HistorySize // of all devices
	Disk    int64               // bytes of tables and indexes, with what is free in them
	Waiting int64               // hours of series to be compacted
	Doomed  int64               // deleted series of which chunks are left
	devices map[devices.ID]devices.HistorySize
}

// Of adds up some devices.
func (sp *Space) Of(ids ...devices.ID) (sum devices.HistorySize) {
	for _, id := range ids {
		sum.Add(sp.devices[id])
	}
	return sum
}

// space keeps what was found, partition by partition, so that only those that changed are read again: rows without their data.
type space struct {
	busy chan struct{} // cap 1: held by who reads

	mu    sync.Mutex // guards now and asked; held for no I/O
	now   *Space
	asked bool                      // since now was measured
	parts map[string]partitionSpace // only for who holds busy
	names map[devices.ID]devices.ID // one string for each device
}

type partitionSpace struct {
	changes int64
	of      []deviceSpace
}

type deviceSpace struct {
	Device                 devices.ID
	Samples, Bytes, Oldest int64
}

// Space returns what history takes, as it was some minutes ago at most while Maintain runs.
func (s *Store) Space(ctx context.Context) (*Space, error) {
	s.space.mu.Lock()
	known := s.space.now
	s.space.asked = true
	s.space.mu.Unlock()
	if known != nil && time.Since(known.At) < oldestSpace {
		return known, nil
	}
	return s.MeasureSpace(ctx)
}

// refreshSpace measures again what somebody asked for.
func (s *Store) refreshSpace(ctx context.Context) error {
	s.space.mu.Lock()
	due := s.space.asked && (s.space.now == nil || time.Since(s.space.now.At) > spaceAge)
	s.space.mu.Unlock()
	if !due {
		return nil
	}
	_, err := s.MeasureSpace(ctx)
	return err
}

// MeasureSpace finds out what history takes now.
func (s *Store) MeasureSpace(ctx context.Context) (*Space, error) {
	select {
	case s.space.busy <- struct{}{}:
		defer func() { <-s.space.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	sp, err := s.measureSpace(ctx)
	if err != nil {
		return nil, fmt.Errorf("space of history: %w", pgerr.Domain(err))
	}
	s.space.mu.Lock()
	s.space.now, s.space.asked = sp, false
	s.space.mu.Unlock()
	return sp, nil
}

func (s *Store) measureSpace(ctx context.Context) (*Space, error) {
	sp := &Space{At: time.Now(), devices: make(map[devices.ID]devices.HistorySize)}
	until := floorDiv(sp.At.Add(-compactAfter).UnixMilli(), hourMs) - 1
	var bytes int64
	if err := s.pool.QueryRow(ctx, otherSizes, pgx.StrictNamedArgs{"until": until}).Scan(&bytes, &sp.Waiting, &sp.Doomed); err != nil {
		return nil, err
	}
	sp.Disk = bytes
	type table struct {
		Name           string
		Changes, Bytes int64
	}
	rows, _ := s.pool.Query(ctx, partitionChanges) // its error comes back from rows
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByName[table])
	if err != nil {
		return nil, err
	}
	parts := make(map[string]partitionSpace, len(tables))
	for _, t := range tables {
		sp.Disk += t.Bytes
		p, ok := s.space.parts[t.Name]
		if !ok || p.changes != t.Changes || t.Changes == 0 {
			if p.of, err = s.sizesIn(ctx, t.Name); err != nil {
				if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42P01" { // undefined_table: dropped meanwhile
					continue
				}
				return nil, err
			}
			p.changes = t.Changes
		}
		parts[t.Name] = p
		for _, d := range p.of {
			size := devices.HistorySize{Samples: d.Samples, Bytes: d.Bytes, Oldest: d.Oldest}
			sp.Total.Add(size)
			sum := sp.devices[d.Device]
			sum.Add(size)
			sp.devices[d.Device] = sum
		}
	}
	s.space.parts = parts
	return sp, nil
}

func (s *Store) sizesIn(ctx context.Context, table string) ([]deviceSpace, error) {
	rows, _ := s.pool.Query(ctx, fmt.Sprintf(sizesOfDevices, rowBytes, pgx.Identifier{table}.Sanitize())) // its error comes back from rows
	of, err := pgx.CollectRows(rows, pgx.RowToStructByName[deviceSpace])
	if err != nil {
		return nil, err
	}
	if s.space.names == nil {
		s.space.names = make(map[devices.ID]devices.ID)
	}
	for i := range of {
		id, ok := s.space.names[of[i].Device]
		if !ok {
			id = of[i].Device
			s.space.names[id] = id
		}
		of[i].Device = id
	}
	return of, nil
}

// Lost tells what retention would delete beyond what it deletes anyway, if a change were made to the policy and to who is in which group.
// The answer is of the moment, and takes as long as it takes to look at the rows of what would go.
func (s *Store) lost(ctx context.Context, now time.Time, change func(r *devices.Retention, members map[devices.ID][]devices.GroupPath)) (sum devices.HistorySize, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		policy, members, err := s.retention(ctx, tx)
		if err != nil {
			return err
		}
		type row struct {
			ID     int32
			Device devices.ID
		}
		series, err := collect[row](ctx, tx, seriesOfDevices, pgx.StrictNamedArgs{})
		if err != nil {
			return err
		}
		before := make([]int, len(series))
		for i, sr := range series {
			before[i] = policy.Days(members[sr.Device])
		}
		change(&policy, members)
		shorter := make(map[int][]int32)
		for i, sr := range series {
			if days := policy.Days(members[sr.Device]); days != devices.Forever && (before[i] == devices.Forever || days < before[i]) {
				shorter[days] = append(shorter[days], sr.ID)
			}
		}
		type size struct{ Samples, Bytes, Oldest int64 }
		for days, ids := range shorter {
			found, err := collect[size](ctx, tx, fmt.Sprintf(sizeBefore, rowBytes), pgx.StrictNamedArgs{"series": ids, "before": cutoff(now, days)})
			if err != nil {
				return err
			}
			sum.Add(devices.HistorySize(found[0]))
		}
		return nil
	})
	if err != nil {
		return sum, fmt.Errorf("what retention would delete: %w", pgerr.Domain(err))
	}
	return sum, nil
}

// LostByRetention tells what retention would delete if a group's were so many days (nil: as above it), that it doesn't delete anyway.
func (s *Store) LostByRetention(ctx context.Context, path devices.GroupPath, days *int) (devices.HistorySize, error) {
	return s.lost(ctx, time.Now(), func(r *devices.Retention, _ map[devices.ID][]devices.GroupPath) {
		if days == nil {
			delete(r.Groups, path)
		} else {
			r.Groups[path] = *days
		}
	})
}

// LostByDeletion tells what retention would delete if a group were deleted with all below it and its devices stayed.
func (s *Store) LostByDeletion(ctx context.Context, path devices.GroupPath) (devices.HistorySize, error) {
	return s.lost(ctx, time.Now(), func(r *devices.Retention, members map[devices.ID][]devices.GroupPath) {
		for id, in := range members {
			left := in[:0:0]
			for _, p := range in {
				if !path.Contains(p) {
					left = append(left, p)
				}
			}
			members[id] = left
		}
	})
}

// SizeOf is what is recorded of these devices, as Space has it.
func (s *Store) SizeOf(ctx context.Context, ids []devices.ID) (devices.HistorySize, error) {
	sp, err := s.Space(ctx)
	if err != nil {
		return devices.HistorySize{}, err
	}
	return sp.Of(ids...), nil
}
