package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/pgerr"
)

// Limits of a query's times: beyond them nobody measures, and arithmetic stays in range.
const (
	MinTime = -1 << 52 // Unix milliseconds
	MaxTime = 1 << 52
)

const (
	// What lies in spans of time of one series.
	chunksIn = ` from unnest(@starts::bigint[], @ends::bigint[]) as u (low, high)
		cross join lateral (
			select * from history_chunk where series = @series and start > u.low - 86400000 and start < u.high and start + span >= u.low offset 0) c`

	// For samples.
	wholeChunks = `select start, flush, span, n, kind, quality, first, last, min, max, sum, data` + chunksIn + ` order by start, flush`

	// For buckets data comes along only where the row's figures are not enough: the chunk overlaps another one or what is not written yet (lows, highs), lies over
	// the edge of what is asked for or of a bucket, or its last sample has what no figure tells.
	chunkFigures = `
		select start, flush, span, n, kind, quality, first, last, min, max, sum,
			case when start < @from or start + span >= @to or kind in (3, 4)
				or start - mod(mod(start, @width) + @width, @width) + @width <= start + span
				or coalesce(start <= max(start + span) over before, false)
				or coalesce(lead(start) over (order by start, flush) <= start + span, false)
				or exists (select from unnest(@lows::bigint[], @highs::bigint[]) as h (low, high) where start <= h.high and start + span >= h.low)
			then data end as data` + chunksIn + `
		window before as (order by start, flush rows between unbounded preceding and 1 preceding)
		order by start, flush`

	// Whole hours that stand for their chunks.
	hoursIn = `select hour, n, quality, first, last, min, max, sum from history_hour h where series = @series and hour >= @low and hour < @high
		and not exists (select from history_dirty d where d.series = h.series and d.hour = h.hour) order by hour`
)

// A row is a chunk's, with its data where it was asked for.
type row struct {
	Start, Flush               int64
	Span, N                    int32
	Kind                       devices.Kind
	Quality                    devices.Quality
	First, Last, Min, Max, Sum float64
	Data                       []byte
}

func (r *row) end() int64 { return r.Start + int64(r.Span) } // time of the last sample

// An hourRow is a row of history_hour.
type hourRow struct {
	Hour, N                    int32
	Quality                    devices.Quality
	First, Last, Min, Max, Sum float64
}

// A sink takes what a query finds of a series, in the order of time: rows and hours that lie whole within what was asked for and in one bucket, and samples.
type sink interface {
	row(r *row)
	hour(h *hourRow)
	samples(r *Run, from, to int) error
}

// besides is how many connections may read along with those that have a query, all queries together: the pool has others to serve.
const (
	besides     = 2
	besidesWait = 20 * time.Millisecond // for a connection
)

// errOver ends what reads along without being why the query fails.
var errOver = errors.New("another part of the query has failed")

// snapshot is what a query's transactions see: one state of the database, so that no background work changes the answer midway.
var snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}

// query calls each with the place in q.Series of one series after the other and with what reads that one. If along is set, connections that are free read
// other series meanwhile: then each is called on several goroutines, though for every series only when all before it have been begun.
func (s *Store) query(ctx context.Context, q devices.HistoryQuery, width int64, along bool, each func(i int, read func(sink) error) error) error {
	if q.From < MinTime || q.To > MaxTime || q.From > q.To {
		return fmt.Errorf("from %d to %d is no time: %w", q.From, q.To, devices.ErrInvalid)
	}
	s.settle(ctx)
	heads := s.head(q.Series, q.From, q.To) // before the snapshot: what is written meanwhile is in both
	ids, err := s.DiskIDs(ctx, q.Series)
	if err != nil {
		return err
	}
	var begun atomic.Int64
	work := func(ctx context.Context, tx pgx.Tx) error {
		for {
			i := int(begun.Add(1)) - 1
			if i >= len(q.Series) {
				return nil
			}
			r := reading{store: s, tx: tx, series: ids[i], from: q.From, to: q.To, width: width, head: hourly(heads[i])}
			switch err := each(i, func(to sink) error { return r.run(ctx, to) }); {
			case errors.Is(err, errOver):
				return nil
			case err != nil:
				return err
			}
		}
	}
	err = pgx.BeginTxFunc(ctx, s.pool, snapshot, func(tx pgx.Tx) error {
		if !along || len(q.Series) < 2 {
			return work(ctx, tx)
		}
		var name string
		if err := tx.QueryRow(ctx, `select pg_export_snapshot()`).Scan(&name); err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return work(ctx, tx) })
		for range min(besides, len(q.Series)-1) {
			select {
			case s.besides <- struct{}{}:
				g.Go(func() error {
					defer func() { <-s.besides }()
					soon, cancel := context.WithTimeout(ctx, besidesWait)
					conn, err := s.pool.Acquire(soon)
					cancel()
					if err != nil {
						return nil // it goes without
					}
					defer conn.Release()
					return pgx.BeginTxFunc(ctx, conn, snapshot, func(tx pgx.Tx) error {
						if _, err := tx.Exec(ctx, `set transaction snapshot '`+name+`'`); err != nil { // takes no parameter; the name is the server's
							return err
						}
						return work(ctx, tx)
					})
				})
			default: // others read along
			}
		}
		return g.Wait()
	})
	if err != nil {
		return fmt.Errorf("history: %w", pgerr.Domain(err))
	}
	return nil
}

// hourly cuts runs at the ends of hours, so that one late sample does not make all between it and now overlap.
func hourly(runs []Run) (out []Run) {
	for _, r := range runs {
		for i := 0; i < r.Len(); {
			j := i + 1
			for j < r.Len() && hourOf(r.Times[j]) == hourOf(r.Times[i]) {
				j++
			}
			out = append(out, Run{r.Kind, *slice(&r.Columns, i, j)})
			i = j
		}
	}
	slices.SortStableFunc(out, func(a, b Run) int { return cmp.Compare(a.Times[0], b.Times[0]) })
	return out
}

// reading is a query of one series.
type reading struct {
	store    *Store
	tx       pgx.Tx
	series   int32
	from, to int64
	width    int64 // of buckets; 0: samples
	head     []Run // not written yet, or just now

	out     sink
	hours   []hourRow
	cluster []piece // that overlap
	end     int64   // of the cluster
	parts   []*chunk.Columns
	free    []*Run // for chunks to come
}

// blank is an empty run for a chunk.
func (r *reading) blank(k devices.Kind) *Run {
	if n := len(r.free); n > 0 {
		run := r.free[n-1]
		r.free = r.free[:n-1]
		run.Kind = k
		run.Reset()
		return run
	}
	return &Run{Kind: k}
}

// A piece is a chunk, or a run of the head.
type piece struct {
	row
	run *Run // nil: the row's figures are enough
}

func (r *reading) run(ctx context.Context, to sink) error {
	r.out = to
	if r.series == 0 {
		if err := r.heads(math.MaxInt64); err != nil {
			return err
		}
		return r.settle()
	}
	starts, ends, err := r.spans(ctx)
	if err != nil {
		return err
	}
	sql, args := wholeChunks, pgx.StrictNamedArgs{"series": r.series, "starts": starts, "ends": ends}
	if r.width > 0 {
		lows, highs := []int64{}, []int64{}
		for i := range r.head {
			lows, highs = append(lows, r.head[i].Times[0]), append(highs, r.head[i].Times[r.head[i].Len()-1])
		}
		sql = chunkFigures
		args["width"], args["from"], args["to"], args["lows"], args["highs"] = r.width, r.from, r.to, lows, highs
	}
	rows, _ := r.tx.Query(ctx, sql, args) // its error comes back from rows
	defer rows.Close()
	for rows.Next() {
		row, err := pgx.RowToStructByPos[row](rows)
		if err != nil {
			return err
		}
		p := piece{row: row}
		if row.Data != nil {
			p.run = r.blank(row.Kind)
			if err := chunk.Decode(row.Data, row.Kind, row.Start, int(row.N), &p.run.Columns); err != nil {
				r.store.log.Error("a chunk of history can't be read and is left out", "series", r.series, "start", row.Start, "flush", row.Flush, "err", err)
				continue
			}
			p.Data = nil
		}
		if err := r.heads(row.Start); err != nil {
			return err
		}
		if err := r.add(p); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if err := r.heads(math.MaxInt64); err != nil {
		return err
	}
	if err := r.settle(); err != nil {
		return err
	}
	r.wholeHours(math.MaxInt64)
	return nil
}

// spans reads the whole hours that there are, if buckets hold hours, and returns the spans of time that they leave open.
func (r *reading) spans(ctx context.Context) (starts, ends []int64, err error) {
	low, high := -floorDiv(-r.from, hourMs), floorDiv(r.to, hourMs)
	if r.width > 0 && r.width%hourMs == 0 && low < high {
		low, high = max(low, math.MinInt32), min(high, math.MaxInt32)
		if r.hours, err = collect[hourRow](ctx, r.tx, hoursIn, pgx.StrictNamedArgs{"series": r.series, "low": low, "high": high}); err != nil {
			return nil, nil, err
		}
		touched := map[int64]bool{}
		for i := range r.head {
			touched[hourOf(r.head[i].Times[0])] = true
		}
		r.hours = slices.DeleteFunc(r.hours, func(h hourRow) bool { return touched[int64(h.Hour)] })
	}
	at := r.from
	open := func(to int64) {
		if at < to {
			starts, ends = append(starts, at), append(ends, to)
		}
	}
	for i := range r.hours {
		begin := int64(r.hours[i].Hour) * hourMs
		open(begin)
		at = begin + hourMs
	}
	open(r.to)
	if starts == nil {
		starts, ends = []int64{}, []int64{}
	}
	return starts, ends, nil
}

// heads adds the runs of the head that begin before t.
func (r *reading) heads(t int64) error {
	for len(r.head) > 0 && r.head[0].Times[0] < t {
		h := &r.head[0]
		r.head = r.head[1:]
		p := piece{row: row{Start: h.Times[0], Flush: math.MaxInt64, Span: int32(h.Times[h.Len()-1] - h.Times[0]), N: int32(h.Len()), Kind: h.Kind}, run: h}
		if err := r.add(p); err != nil {
			return err
		}
	}
	return nil
}

// add takes the next piece by start. What overlaps is held until the last of it is there.
func (r *reading) add(p piece) error {
	if len(r.cluster) > 0 && p.Start > r.end {
		if err := r.settle(); err != nil {
			return err
		}
	}
	if len(r.cluster) == 0 {
		r.end = p.end()
	}
	r.cluster, r.end = append(r.cluster, p), max(r.end, p.end())
	return nil
}

// settle hands the cluster on.
func (r *reading) settle() error {
	if len(r.cluster) == 0 {
		return nil
	}
	pieces := r.cluster
	r.wholeHours(pieces[0].Start)
	defer func() {
		for _, p := range pieces {
			if p.run != nil && p.Flush != math.MaxInt64 { // a run of the head has its memory elsewhere
				r.free = append(r.free, p.run)
			}
		}
		clear(r.cluster)
		r.cluster = r.cluster[:0]
	}()
	if len(pieces) == 1 && pieces[0].run == nil {
		r.out.row(&pieces[0].row)
		return nil
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.Flush, b.Flush) })
	r.parts = r.parts[:0]
	for _, p := range pieces {
		if p.run == nil {
			return fmt.Errorf("a chunk that overlaps another came without data: series %d, start %d", r.series, p.Start)
		}
		r.parts = append(r.parts, &p.run.Columns)
	}
	var err error
	chunk.Walk(r.parts, func(part, from, to int) {
		run := pieces[part].run
		for from < to && run.Times[from] < r.from {
			from++
		}
		for from < to && run.Times[to-1] >= r.to {
			to--
		}
		if from < to && err == nil {
			err = r.out.samples(run, from, to)
		}
	})
	return err
}

// wholeHours hands on the hours that begin before t.
func (r *reading) wholeHours(t int64) {
	for len(r.hours) > 0 && int64(r.hours[0].Hour)*hourMs < t {
		r.out.hour(&r.hours[0])
		r.hours = r.hours[1:]
	}
}
