package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	week      = 7 * 24 * time.Hour
	ahead     = 2 * week             // partitions are made so long before they are needed
	oldest    = 400 * 24 * time.Hour // older samples go to the default partition
	weekRetry = time.Minute          // before one that could not be made is tried again: whoever waits for us should not do so often
	weeksKept = time.Hour            // others may drop partitions: how long we believe that one is there
)

const (
	partitionNames = `select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'history_packed'::regclass`
	// Under it chunks are deleted, so also moved.
	partitionLock = `select pg_advisory_xact_lock(@key)`
	// Whoever reads or writes the default partition keeps us waiting, and others then wait behind us: so not for long.
	partitionPatience = `set local lock_timeout = '2s'`
	createPartition   = `create table %s (like history_chunk including all)`
	// What came before the partition was there.
	fillPartition   = `with moved as (delete from history_chunk_other where start >= %[2]d and start < %[3]d returning *) insert into %[1]s select * from moved`
	attachPartition = `alter table history_packed attach partition %s for values from (%d) to (%d)`
)

// partitions are those that we know to be there.
type partitions struct {
	sync.Mutex
	asked time.Time
	names map[string]bool

	failed time.Time // when one could not be made the last time
	err    error     // and why
}

// weekOf returns the start of the partition that a time belongs to: Monday 00:00 UTC.
func weekOf(t time.Time) time.Time {
	t = t.UTC().Truncate(24 * time.Hour)
	return t.AddDate(0, 0, -(int(t.Weekday())+6)%7)
}

// partitionName is the table of a week.
func partitionName(start time.Time) string { return "history_chunk_" + start.Format("20060102") }

// EnsurePartitions makes the partitions of the weeks that these times lie in, where they are missing, and those of this week and the two after it. Times more
// than 400 days ago or two weeks ahead are left to the default partition. What lies there of a week moves into its new partition. When all are
// there, it asks the database once an hour. What could not be made is not tried again for a minute.
func (s *Store) EnsurePartitions(ctx context.Context, times ...time.Time) error {
	now := time.Now()
	s.weeks.Lock()
	defer s.weeks.Unlock()
	want := []time.Time{weekOf(now), weekOf(now.Add(week)), weekOf(now.Add(ahead))}
	for _, t := range times {
		if start := weekOf(t); now.Sub(start) < oldest && start.Before(now.Add(ahead)) {
			want = append(want, start)
		}
	}
	if now.Sub(s.weeks.asked) > weeksKept {
		rows, _ := s.pool.Query(ctx, partitionNames) // its error comes back from rows
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("partitions of history: %w", pgerr.Domain(err))
		}
		s.weeks.asked, s.weeks.names = now, make(map[string]bool, len(names))
		for _, name := range names {
			s.weeks.names[name] = true
		}
	}
	for _, start := range want {
		name := partitionName(start)
		if s.weeks.names[name] {
			continue
		}
		if now.Sub(s.weeks.failed) < weekRetry {
			return s.weeks.err
		}
		if err := s.makePartition(ctx, name, start); err != nil {
			err = fmt.Errorf("partition %s: %w", name, pgerr.Domain(err))
			s.weeks.asked = time.Time{} // ask again what is there
			if !errors.Is(err, devices.ErrUnavailable) && ctx.Err() == nil {
				s.weeks.failed, s.weeks.err = now, err
			}
			return err
		}
		s.weeks.names[name] = true
	}
	return nil
}

// makePartition makes one unless somebody else just has. It returns the driver's errors as they are.
func (s *Store) makePartition(ctx context.Context, name string, start time.Time) error {
	from, to := start.UnixMilli(), start.Add(week).UnixMilli()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, partitionPatience); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, partitionLock, pgx.StrictNamedArgs{"key": int64(maintenanceLock)}); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, partitionNames+` and c.relname = $1`, name) // its error comes back from rows
		if there, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(there) > 0 {
			return err
		}
		for _, sql := range []string{fmt.Sprintf(createPartition, name), fmt.Sprintf(fillPartition, name, from, to), fmt.Sprintf(attachPartition, name, from, to)} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		s.log.Info("made a partition of history", "table", name)
		return nil
	})
}
