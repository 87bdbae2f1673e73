package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

// Retention deletes whole UTC days, so that neither a chunk nor a rollup is ever half in and half out. Queries need not know of it:
// what has not been deleted yet is still answered.

const deleteBatch = 2000 // chunks deleted in one transaction

const (
	retentionGroups  = `select path, retention_days as days from device_group where retention_days is not null`
	retentionMembers = `select device, path from member order by device`
	retentionSeries  = `select id, device from history_series order by id`
	// Of one partition. A rollup goes with the first of its chunks: until the others have gone, too, queries read those.
	deleteOld = `with gone as (
			delete from %[1]s where ctid = any (array(select ctid from %[1]s where series = any(@series::int[]) and start < @before limit @limit))
			returning series, start),
		rolled as (delete from history_hour h using (select distinct series, floor(start / 3600000.0)::int as hour from gone) g where h.series = g.series and h.hour = g.hour)
		select count(*) from gone`
	dropRollups = `delete from history_hour where hour >= @lo and hour < @hi`
	dropDirty   = `delete from history_dirty where hour >= @lo and hour < @hi`
	// Whoever waits to write waits behind us while we wait for queries to end, so we don't wait long.
	dropPatience = `set local lock_timeout = '200ms'`
)

// A class is the series that are deleted before the same time.
type class struct {
	days   int
	series []int32
}

// retention reads how long what stays.
func (s *Store) retention(ctx context.Context, tx pgx.Tx) (r devices.Retention, members map[devices.ID][]devices.GroupPath, err error) {
	r = devices.Retention{Site: s.SiteRetention(), Groups: make(map[devices.GroupPath]int)}
	type group struct {
		Path devices.GroupPath
		Days int
	}
	own, err := collect[group](ctx, tx, retentionGroups, pgx.StrictNamedArgs{})
	if err != nil {
		return r, nil, err
	}
	for _, g := range own {
		r.Groups[g.Path] = g.Days
	}
	type member struct {
		Device devices.ID
		Path   devices.GroupPath
	}
	in, err := collect[member](ctx, tx, retentionMembers, pgx.StrictNamedArgs{})
	if err != nil {
		return r, nil, err
	}
	members = make(map[devices.ID][]devices.GroupPath)
	for _, m := range in {
		members[m.Device] = append(members[m.Device], m.Path)
	}
	return r, members, nil
}

// SiteRetention is how many days samples stay where no group says otherwise.
func (s *Store) SiteRetention() int {
	return int((s.c.Retention + 24*time.Hour - 1) / (24 * time.Hour))
}

// cutoff is the time before which samples are deleted, in Unix milliseconds.
func cutoff(now time.Time, days int) int64 {
	return now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -days).UnixMilli()
}

// classes sorts all series by how long they stay, the longest first; those that stay for ever are in none, and forever tells that there are any.
func (s *Store) classes(ctx context.Context) (all []class, forever bool, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		policy, members, err := s.retention(ctx, tx)
		if err != nil {
			return err
		}
		type row struct {
			ID     int32
			Device devices.ID
		}
		series, err := collect[row](ctx, tx, retentionSeries, pgx.StrictNamedArgs{})
		if err != nil {
			return err
		}
		at := make(map[int]int)
		for _, sr := range series {
			days := policy.Days(members[sr.Device])
			if days == devices.Forever {
				forever = true
				continue
			}
			i, ok := at[days]
			if !ok {
				i = len(all)
				at[days] = i
				all = append(all, class{days: days})
			}
			all[i].series = append(all[i].series, sr.ID)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b class) int { return b.days - a.days })
	return all, forever, err
}

// A partition is a table of chunks from lo on and before hi, Unix milliseconds; that of fresh ones and the default one, of all other times, have neither.
type partition struct {
	name   string
	lo, hi int64
	other  bool
}

func (s *Store) partitions(ctx context.Context) ([]partition, error) {
	rows, _ := s.pool.Query(ctx, partitionNames) // its error comes back from rows
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	all := append(make([]partition, 0, len(names)+1), partition{name: "history_fresh", other: true})
	for _, name := range names {
		p := partition{name: pgx.Identifier{name}.Sanitize(), other: true}
		if start, err := time.Parse("20060102", strings.TrimPrefix(name, "history_chunk_")); err == nil {
			p.lo, p.hi, p.other = start.UnixMilli(), start.Add(week).UnixMilli(), false
		}
		all = append(all, p)
	}
	return all, nil
}

// retained counts what retention deleted.
type retained struct{ partitions, chunks int }

// Retain deletes what is older than it is to be kept at this time: whole partitions where it can, else chunks in batches, with a pause after
// each. Of several nodes one at a time does.
func (s *Store) Retain(ctx context.Context, now time.Time) error {
	_, err := s.retain(ctx, now)
	if err != nil {
		return fmt.Errorf("retention: %w", pgerr.Domain(err))
	}
	return nil
}

func (s *Store) retain(ctx context.Context, now time.Time) (done retained, err error) {
	classes, forever, err := s.classes(ctx)
	if err != nil || len(classes) == 0 {
		return done, err
	}
	print := fingerprint(classes, forever, now)
	if print == s.upkeep.retained.Load() { // nothing can have become too old since
		return done, nil
	}
	all, err := s.partitions(ctx)
	if err != nil {
		return done, err
	}
	complete := true
	for _, p := range all {
		if !p.other && !forever && p.hi <= cutoff(now, classes[0].days) {
			dropped, err := s.dropPartition(ctx, p)
			if err != nil {
				return done, err
			}
			if dropped {
				done.partitions++
			} else {
				complete = false
			}
			continue
		}
		for _, c := range classes {
			before := cutoff(now, c.days)
			if !p.other && p.lo >= before {
				continue
			}
			n, err := s.deleteChunks(ctx, p, c.series, before)
			done.chunks += n
			if err != nil {
				return done, err
			}
		}
	}
	if complete {
		s.upkeep.retained.Store(print)
	}
	return done, nil
}

// fingerprint is the same as long as a retention that has deleted all it should has nothing more to do, late samples aside: those wait
// for the next day.
func fingerprint(classes []class, forever bool, now time.Time) uint64 {
	h := fnv.New64a()
	var b []byte
	for _, c := range classes {
		b = binary.AppendVarint(b[:0], cutoff(now, c.days))
		for _, id := range c.series {
			b = binary.AppendVarint(b, int64(id))
		}
		h.Write(b)
	}
	return h.Sum64() ^ uint64(len(classes))<<1 ^ map[bool]uint64{true: 1}[forever]
}

// deleteChunks deletes the chunks of these series that start before a time, in batches.
func (s *Store) deleteChunks(ctx context.Context, p partition, series []int32, before int64) (deleted int, err error) {
	for {
		n, began := 0, time.Now()
		err := s.maintenance(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, fmt.Sprintf(deleteOld, p.name), pgx.StrictNamedArgs{"series": series, "before": before, "limit": deleteBatch}).Scan(&n)
		})
		deleted += n
		if err != nil || n < deleteBatch {
			return deleted, err
		}
		if err := pause(ctx, time.Since(began)); err != nil {
			return deleted, err
		}
	}
}

// dropTries is how often a partition is tried to be dropped before that is left for the next hour.
const dropTries = 20

// dropPartition drops one with the rollups of its time, unless it is read or written all the time.
func (s *Store) dropPartition(ctx context.Context, p partition) (dropped bool, err error) {
	for try := range dropTries {
		if try > 0 {
			if err := pause(ctx, 500*time.Millisecond); err != nil {
				return false, err
			}
		}
		err = s.maintenance(ctx, func(tx pgx.Tx) error {
			for _, sql := range []string{dropPatience, "drop table " + p.name} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
			hours := pgx.StrictNamedArgs{"lo": floorDiv(p.lo, hourMs), "hi": floorDiv(p.hi, hourMs)}
			for _, sql := range []string{dropRollups, dropDirty} {
				if _, err := tx.Exec(ctx, sql, hours); err != nil {
					return err
				}
			}
			dropped = true
			return nil
		})
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" { // lock_not_available
			dropped, err = false, nil
			continue
		}
		break
	}
	if err == nil && dropped {
		s.weeks.Lock()
		s.weeks.asked = time.Time{} // to be made again when a late sample needs it
		s.weeks.Unlock()
		s.log.Info("dropped a partition of history: all in it was older than it is kept", "table", p.name)
	}
	return dropped && err == nil, err
}

// pause leaves the database to others after some work, for as long as that took.
func pause(ctx context.Context, took time.Duration) error {
	timer := time.NewTimer(min(max(took, 5*time.Millisecond), time.Second))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
