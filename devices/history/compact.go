package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/pgerr"
)

// Compaction makes few large chunks of many small ones, and puts them where they stay. Whatever it does, answers stay the same: samples that it merges are
// merged as a query would, the later flush being right. It takes hours that ended some time ago and that the writer has
// noted in history_dirty, a batch of them in one transaction, which holds
//   - an advisory lock, so that of several nodes one at a time deletes chunks (retention and purge take it as well);
//   - the batch's rows of history_dirty, locked: a writer who has a late sample for one of the hours waits for it to end, and one
//     that it finds locked by a writer is left for later. So a chunk is either seen here or leaves its hour dirty;
//   - history_generation for share, as writers do: no series is deleted meanwhile, so that nothing merged outlives its series.
//
// Killed at any point, a transaction leaves nothing behind.
const (
	hourMs = int64(time.Hour / time.Millisecond)
	dayMs  = 24 * hourMs

	compactAfter = 10 * time.Minute // an hour waits for so long after its end
	maxCompacted = 4096             // samples of a chunk within an hour
	maxDay       = 1024             // samples of a day that becomes one chunk
	fullChunk    = maxCompacted / 2 // a chunk with so many that overlaps no other stays as it is

	batchHours   = 96      // hours taken at once
	batchSamples = 1 << 18 // and about so many samples: some 10 MB in memory
	maxOverlap   = 1 << 20 // more samples in chunks that overlap are left as they are: some 30 MB in memory
)

// maintenanceLock is the number of the advisory lock under which chunks are deleted.
const maintenanceLock = 0x6d696c6c72616365 // "millrace"

const (
	tryMaintenance  = `select pg_try_advisory_xact_lock(@key)`
	shareGeneration = `select n from history_generation for share`
	claimDirty      = `select series, hour from history_dirty where hour <= @until and (series, hour) > (@series, @hour) order by series, hour limit @limit for update skip locked`
	seriesThere     = `select id from history_series where id = any(@ids::int[])`
	deleteDirty     = `delete from history_dirty d using unnest(@series::int[], @hours::int[]) as u (series, hour) where d.series = u.series and d.hour = u.hour`
	markDirty       = `insert into history_dirty (series, hour) select * from unnest(@series::int[], @hours::int[]) on conflict do nothing`
	// offset 0 keeps the planner from joining otherwise than by the index, range for range.
	headersIn = `select c.* from unnest(@series::int[], @lo::bigint[], @hi::bigint[]) as u (series, lo, hi)
		cross join lateral (
			select tableoid::bigint as rel, ctid as tid, series, start, flush, span, n, kind, quality, fresh, first, last, min, max, sum
			from history_chunk where series = u.series and start >= u.lo and start < u.hi offset 0) c
		order by c.series, c.start, c.flush`
	relName = `select @rel::bigint::oid::regclass::text`
)

// A header is a chunk's row without its data, and where that is. It stays there while the transaction that read it lasts, for
// nobody updates chunks, and who deletes them holds the maintenance lock.
type header struct {
	Rel                        int64
	TID                        pgtype.TID
	Series                     int32
	Start, Flush               int64
	Span, N                    int32
	Kind                       devices.Kind
	Quality                    devices.Quality
	Fresh                      bool // in history_fresh
	First, Last, Min, Max, Sum float64
}

func (h *header) end() int64 { return h.Start + int64(h.Span) } // time of the last sample

// A compacted chunk is to be written.
type compacted struct {
	header
	data []byte
}

// dirtyHour is a row of history_dirty.
type dirtyHour struct{ Series, Hour int32 }

// A unit is what is compacted together: the dirty hours of one series in one day.
type unit struct {
	series int32
	day    int64 // days since 1970
	final  bool  // the day is over
	hours  []int32
	there  []header // of the day, as far as it is over, by start
}

// compactStats is what one batch did.
type compactStats struct {
	hours, read, written, samples int
}

func (c *compactStats) add(o compactStats) {
	c.hours, c.read, c.written, c.samples = c.hours+o.hours, c.read+o.read, c.written+o.written, c.samples+o.samples
}

// firstHour comes before all others.
var firstHour = dirtyHour{Series: math.MinInt32, Hour: math.MinInt32}

// compactBatch compacts some of the hours that ended before now less compactAfter and come after the given one, by series and hour. It
// returns the last one done, and more: false when there was nothing left, or somebody else is at it.
func (s *Store) compactBatch(ctx context.Context, now time.Time, after dirtyHour) (last dirtyHour, more bool, done compactStats, err error) {
	err = s.maintenance(ctx, func(tx pgx.Tx) error {
		until := floorDiv(now.Add(-compactAfter).UnixMilli(), hourMs) - 1
		claimed, err := collect[dirtyHour](ctx, tx, claimDirty, pgx.StrictNamedArgs{"until": until, "series": after.Series, "hour": after.Hour, "limit": batchHours})
		if err != nil || len(claimed) == 0 {
			return err
		}
		more = true
		b := &compaction{tx: tx, log: s.log, until: until}
		if err := b.gather(ctx, claimed); err != nil {
			return err
		}
		last, err = b.run(ctx)
		done = b.stats
		return err
	})
	if err != nil {
		return after, false, compactStats{}, fmt.Errorf("compact: %w", pgerr.Domain(err))
	}
	return last, more, done, nil
}

// maintenance runs f in a transaction with the maintenance lock and history_generation shared; it does nothing when another node has the lock.
func (s *Store) maintenance(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, tryMaintenance, pgx.StrictNamedArgs{"key": int64(maintenanceLock)}).Scan(&mine); err != nil || !mine {
			return err
		}
		var generation int64
		if err := tx.QueryRow(ctx, shareGeneration).Scan(&generation); err != nil {
			return err
		}
		return f(tx)
	})
}

// A compaction is the work of one transaction.
type compaction struct {
	tx    pgx.Tx
	log   *slog.Logger
	until int64 // the last hour that is over
	units []unit
	names map[int64]string // of partitions

	old     []header    // to delete
	made    []compacted // to write
	rollups rollupChanges
	marks   []dirtyHour // to be made dirty: the day is to be looked at when it is over
	done    []dirtyHour
	stats   compactStats
}

// gather makes units of dirty hours, sorted by series and hour, with the headers of their days.
func (b *compaction) gather(ctx context.Context, claimed []dirtyHour) error {
	var ids []int32
	var series []int32
	var lo, hi []int64
	for _, d := range claimed {
		day := floorDiv(int64(d.Hour), 24)
		if n := len(b.units); n == 0 || b.units[n-1].series != d.Series || b.units[n-1].day != day {
			b.units = append(b.units, unit{series: d.Series, day: day, final: day*24+23 <= b.until})
			series, lo, hi = append(series, d.Series), append(lo, day*dayMs), append(hi, min((day+1)*dayMs, (b.until+1)*hourMs))
			if n == 0 || ids[len(ids)-1] != d.Series {
				ids = append(ids, d.Series)
			}
		}
		u := &b.units[len(b.units)-1]
		u.hours = append(u.hours, d.Hour)
	}
	known, err := collectOne[int32](ctx, b.tx, seriesThere, pgx.StrictNamedArgs{"ids": ids})
	if err != nil {
		return err
	}
	headers, err := collect[header](ctx, b.tx, headersIn, pgx.StrictNamedArgs{"series": series, "lo": lo, "hi": hi})
	if err != nil {
		return err
	}
	there := make(map[int32]bool, len(known))
	for _, id := range known {
		there[id] = true
	}
	for i := range b.units { // both are sorted by series and time
		u, n := &b.units[i], 0
		for n < len(headers) && headers[n].Series == u.series && floorDiv(headers[n].Start, dayMs) == u.day {
			n++
		}
		if there[u.series] { // else purge deletes its chunks
			u.there = headers[:n:n]
		}
		headers = headers[n:]
	}
	return nil
}

// run compacts the units, as many as fit, and returns the last hour that is done.
func (b *compaction) run(ctx context.Context) (last dirtyHour, err error) {
	samples := 0
	for i := range b.units {
		u := &b.units[i]
		p := planUnit(u)
		n := p.samples()
		if i > 0 && samples+n > batchSamples {
			break
		}
		samples += n
		made, err := b.merge(ctx, u, p)
		if errors.Is(err, chunk.ErrCorrupt) { // what can't be read must not stop all else
			b.log.Error("a recorded chunk can't be read: that day of its series is not compacted", "day", time.UnixMilli(u.day*dayMs).UTC().Format(time.DateOnly), "err", err)
			p, made, err = p.abandon(), nil, nil
		}
		if err != nil {
			return last, err
		}
		b.finish(u, p, made)
		last = b.done[len(b.done)-1]
	}
	b.stats.samples = samples
	return last, b.write(ctx)
}

// finish notes what a unit's plan means for the tables; made are the chunks that its runs have become.
func (b *compaction) finish(u *unit, p plan, made []compacted) {
	for _, r := range p.runs {
		b.old = append(b.old, r.chunks...)
	}
	b.made = append(b.made, made...)
	final := make([]*header, 0, len(p.kept)+len(made))
	for i := range p.kept {
		final = append(final, &p.kept[i])
	}
	for i := range made {
		final = append(final, &made[i].header)
	}
	slices.SortFunc(final, func(x, y *header) int { return cmp.Compare(x.Start, y.Start) })
	b.rollups.add(u, p.hours, final)
	if p.mark {
		b.marks = append(b.marks, dirtyHour{u.series, int32(u.day*24 + 23)})
	}
	for _, h := range u.hours {
		b.done = append(b.done, dirtyHour{u.series, h})
	}
	b.stats.hours += len(u.hours)
}

var chunkColumns = []string{"start", "flush", "first", "last", "min", "max", "sum", "series", "span", "n", "kind", "quality", "fresh", "data"}

// write carries out what was noted.
func (b *compaction) write(ctx context.Context) error {
	if err := b.deleteChunks(ctx, b.old); err != nil {
		return err
	}
	if len(b.made) > 0 {
		n, err := b.tx.CopyFrom(ctx, pgx.Identifier{"history_chunk"}, chunkColumns, pgx.CopyFromSlice(len(b.made), func(i int) ([]any, error) {
			c := &b.made[i]
			return []any{c.Start, c.Flush, c.First, c.Last, c.Min, c.Max, c.Sum, c.Series, c.Span, c.N, int16(c.Kind), int16(c.Quality), c.Fresh, c.data}, nil
		}))
		if err != nil {
			return err
		}
		b.stats.written = int(n)
	}
	b.stats.read = len(b.old)
	if err := b.rollups.write(ctx, b.tx); err != nil {
		return err
	}
	series, hours := hourColumns(b.done)
	if _, err := b.tx.Exec(ctx, deleteDirty, pgx.StrictNamedArgs{"series": series, "hours": hours}); err != nil {
		return err
	}
	if len(b.marks) == 0 {
		return nil
	}
	series, hours = hourColumns(b.marks)
	_, err := b.tx.Exec(ctx, markDirty, pgx.StrictNamedArgs{"series": series, "hours": hours})
	return err
}

func hourColumns(rows []dirtyHour) (series, hours []int32) {
	for _, r := range rows {
		series, hours = append(series, r.Series), append(hours, r.Hour)
	}
	return series, hours
}

// deleteChunks deletes exactly these.
func (b *compaction) deleteChunks(ctx context.Context, old []header) error {
	for rel, tids := range byPartition(old) {
		name, err := b.partition(ctx, rel)
		if err != nil {
			return err
		}
		tag, err := b.tx.Exec(ctx, `delete from `+name+` where ctid = any(@tids::tid[])`, pgx.StrictNamedArgs{"tids": tids})
		if err != nil {
			return err
		}
		if int(tag.RowsAffected()) != len(tids) {
			return fmt.Errorf("%d of %d chunks were gone", len(tids)-int(tag.RowsAffected()), len(tids)) // undone, and tried again
		}
	}
	return nil
}

func byPartition(chunks []header) map[int64][]pgtype.TID {
	by := make(map[int64][]pgtype.TID)
	for i := range chunks {
		by[chunks[i].Rel] = append(by[chunks[i].Rel], chunks[i].TID)
	}
	return by
}

// partition is the name of a partition as SQL takes it.
func (b *compaction) partition(ctx context.Context, rel int64) (string, error) {
	if name, ok := b.names[rel]; ok {
		return name, nil
	}
	var name string
	if err := b.tx.QueryRow(ctx, relName, pgx.StrictNamedArgs{"rel": rel}).Scan(&name); err != nil {
		return "", err
	}
	if b.names == nil {
		b.names = make(map[int64]string)
	}
	b.names[rel] = name
	return name, nil
}

// collect runs a query for rows.
func collect[T any](ctx context.Context, tx pgx.Tx, sql string, args pgx.StrictNamedArgs) ([]T, error) {
	rows, _ := tx.Query(ctx, sql, args) // its error comes back from rows
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

// collectOne runs a query for rows of one column.
func collectOne[T any](ctx context.Context, tx pgx.Tx, sql string, args pgx.StrictNamedArgs) ([]T, error) {
	rows, _ := tx.Query(ctx, sql, args) // its error comes back from rows
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

// floorDiv divides, rounding down also below zero.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
