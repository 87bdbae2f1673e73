package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/pgerr"
)

const (
	generation     = `select n from history_generation for share`
	positionLocked = `select stream, seq from stream_position where reader = 'history' for update`
	updatePosition = `update stream_position set seq = @seq where reader = 'history'`
	nextFlush      = `select nextval('history_flush')`
	// A series of a device that is gone has nowhere to be.
	insertSeries = `insert into history_series (device, metric)
		select u.device, u.metric from unnest(@devices::text[], @metrics::text[]) as u (device, metric)
		join device d on d.id = u.device
		where not exists (select from history_series h where h.device = u.device and h.metric = u.metric)
		order by u.device, u.metric
		on conflict do nothing`
	// A row that is there is locked, not left alone: the compactor, which skips what is locked, must not take an hour whose new chunks it can't see yet.
	insertDirty = `insert into history_dirty (series, hour)
		select distinct u.series, u.hour from unnest(@series::int[], @hours::int[]) as u (series, hour) order by u.series, u.hour
		on conflict (series, hour) do update set hour = excluded.hour`
)

// batch is what one transaction writes. Its columns don't change any more: Head reads them meanwhile.
type batch struct {
	seq, after uint64 // position, and what it was before
	units      int
	series     []*gathered // as delivered
	prepared   bool
	parts      []part
	unfit      []part // of times that can't be stored
	gone       uint64 // samples of series that the catalog does not know
	repeated   uint64 // samples
	count      Stats  // only counts; of the last try to commit
}

// part is a chunk to be.
type part struct {
	*gathered       // sorted
	from, to  int32 // samples
	disk      int32 // history_series; 0: not there
	kind      devices.Kind
}

// start is the time of its first sample.
func (p *part) start() int64 { return p.Times[p.from] }

// columns share the batch's memory.
func (p *part) columns() chunk.Columns { return p.view(int(p.from), int(p.to), p.kind) }

// prepare sorts what is not sorted and cuts it into chunks.
func (w *Writer) prepare(b *batch) {
	if b.prepared {
		return
	}
	b.prepared = true
	for _, g := range b.series {
		known, _, ok := w.store.catalog.Series(g.id)
		if !ok { // deleted meanwhile
			b.gone += uint64(len(g.Times))
			continue
		}
		s := g.sorted()
		b.repeated += uint64(len(g.Times) - len(s.Times))
		s.chunks(known.Kind, func(from, to int, k devices.Kind) {
			p := part{gathered: s, from: int32(from), to: int32(to), kind: k}
			if h := hourOf(p.start()); h < math.MinInt32 || h > math.MaxInt32 {
				b.unfit = append(b.unfit, p)
			} else {
				b.parts = append(b.parts, p)
			}
		})
	}
}

// weeks are those that the batch has samples of.
func (b *batch) weeks() (all []time.Time) {
	var last time.Time
	for i := range b.parts {
		if start := weekOf(time.UnixMilli(b.parts[i].start())); !start.Equal(last) {
			last = start
			if !slices.ContainsFunc(all, start.Equal) {
				all = append(all, start)
			}
		}
	}
	return all
}

// write stores a batch with its position. When it fails nothing is stored, or all of it and the answer was lost: the next try finds out.
func (w *Writer) write(ctx context.Context, b *batch) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	w.prepare(b)
	err := w.store.EnsurePartitions(ctx, b.weeks()...)
	if errors.Is(err, devices.ErrUnavailable) {
		return err
	}
	if err != nil && ctx.Err() == nil && !w.unmade {
		w.store.log.Warn("partitions of history can't be made for now; the default one takes the samples", "err", err)
	}
	w.unmade = err != nil
	err = w.transact(ctx, b, false)
	if pgerr.IsData(err) { // some chunk is at fault: find it, the others must not wait
		err = w.transact(ctx, b, true)
	}
	return pgerr.Domain(err)
}

// transact is one try. With apart, chunks that are refused are found and parked. It returns the driver's errors as they are.
func (w *Writer) transact(ctx context.Context, b *batch, apart bool) error {
	tx, err := w.store.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // after Commit it does nothing
	var epoch int64
	if err := tx.QueryRow(ctx, generation).Scan(&epoch); err != nil {
		return err
	}
	if epoch != w.epoch { // series were deleted: their ids are not to be used any more
		clear(w.ids)
		clear(w.noted)
		w.store.forget()
		w.epoch = epoch
	}
	var stream string
	var seq int64
	switch err := tx.QueryRow(ctx, positionLocked).Scan(&stream, &seq); {
	case errors.Is(err, pgx.ErrNoRows):
		return errMoved
	case err != nil:
		return err
	case stream == w.stream && uint64(seq) == b.after:
	case stream == w.stream && uint64(seq) == b.seq: // a commit whose answer was lost
		return nil
	default:
		return errMoved
	}
	count := Stats{LeftOut: b.gone, Repeated: b.repeated}
	found, err := w.identify(ctx, tx, b)
	if err != nil {
		return err
	}
	parts := b.parts
	if slices.ContainsFunc(parts, func(p part) bool { return p.disk == 0 }) {
		parts = make([]part, 0, len(b.parts))
		for _, p := range b.parts {
			if p.disk == 0 {
				count.LeftOut += uint64(p.to - p.from)
			} else {
				parts = append(parts, p)
			}
		}
	}
	var flush int64
	if len(parts) > 0 {
		if err := tx.QueryRow(ctx, nextFlush).Scan(&flush); err != nil {
			return err
		}
		store := w.copyParts
		if apart {
			store = w.copyApart
		}
		if err := store(ctx, tx, flush, parts, &count); err != nil {
			return err
		}
	}
	for i := range b.unfit {
		if err := w.park(ctx, tx, &b.unfit[i], "its time can't be stored", &count); err != nil {
			return err
		}
	}
	note, err := w.markDirty(ctx, tx, parts)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, updatePosition, pgx.StrictNamedArgs{"seq": int64(b.seq)}); err != nil {
		return err
	}
	b.count = count
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	for id, disk := range found {
		w.ids = grown(w.ids, id)
		w.ids[id] = disk
	}
	for _, n := range note {
		w.noted = grown(w.noted, n.id)
		w.noted[n.id] = n.hour + 1
	}
	return nil
}

// grown makes room for a series.
func grown(all []int32, id devices.SeriesID) []int32 {
	if short := int(id) + 1 - len(all); short > 0 {
		all = append(all, make([]int32, short)...)
	}
	return all
}

// identify gives each part the id of its series on disk, which stays 0 for those of devices that are gone, and returns those that
// are to be remembered once the transaction is committed.
func (w *Writer) identify(ctx context.Context, tx pgx.Tx, b *batch) (found map[devices.SeriesID]int32, err error) {
	var missing []devices.SeriesID
	var names, metrics []string
	for i := range b.parts {
		p := &b.parts[i]
		if p.disk = 0; int(p.id) < len(w.ids) {
			p.disk = w.ids[p.id]
		}
		if n := len(missing); p.disk == 0 && (n == 0 || missing[n-1] != p.id) {
			device, metric := w.store.catalog.Name(p.id)
			missing, names, metrics = append(missing, p.id), append(names, string(device)), append(metrics, metric)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	if _, err := tx.Exec(ctx, insertSeries, pgx.StrictNamedArgs{"devices": names, "metrics": metrics}); err != nil {
		return nil, fmt.Errorf("series: %w", err)
	}
	ids, err := lookUp(ctx, tx, names, metrics)
	if err != nil {
		return nil, fmt.Errorf("series: %w", err)
	}
	found = make(map[devices.SeriesID]int32, len(ids))
	for i, id := range ids {
		if id != 0 {
			found[missing[i]] = id
		}
	}
	for i := range b.parts {
		if p := &b.parts[i]; p.disk == 0 {
			p.disk = found[p.id]
		}
	}
	return found, nil
}

// noting is an hour that is dirty.
type noting struct {
	id         devices.SeriesID
	disk, hour int32
}

// markDirty tells the compactor of the hours that have new chunks, and returns what need not be told again while the hour lasts.
func (w *Writer) markDirty(ctx context.Context, tx pgx.Tx, parts []part) (all []noting, err error) {
	now := time.Now().UnixMilli()
	for i := range parts {
		p := &parts[i]
		n := noting{p.id, p.disk, int32(hourOf(p.start()))}
		if int(n.id) < len(w.noted) && w.noted[n.id] == n.hour+1 && (int64(n.hour)+1)*hour > now {
			continue
		}
		if len(all) == 0 || all[len(all)-1] != n {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	series, hours := make([]int32, len(all)), make([]int32, len(all))
	for i, n := range all {
		series[i], hours[i] = n.disk, n.hour
	}
	_, err = tx.Exec(ctx, insertDirty, pgx.StrictNamedArgs{"series": series, "hours": hours})
	return all, err
}

// copyParts writes chunks, all or none.
func (w *Writer) copyParts(ctx context.Context, tx pgx.Tx, flush int64, parts []part, count *Stats) error {
	w.copying.begin(flush, parts)
	defer w.copying.end()
	_, err := tx.Conn().PgConn().CopyFrom(ctx, &w.copying, copyChunks)
	if err == nil {
		count.Chunks += uint64(len(parts))
		count.Samples += w.copying.samples
		count.Bytes += w.copying.bytes
	}
	return err
}

// copyApart halves chunks that PostgreSQL refuses until the one at fault is alone, and parks that one.
func (w *Writer) copyApart(ctx context.Context, tx pgx.Tx, flush int64, parts []part, count *Stats) error {
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return w.copyParts(ctx, tx, flush, parts, count) })
	switch {
	case !pgerr.IsData(err):
		return err
	case len(parts) == 1:
		return w.park(ctx, tx, &parts[0], err.Error(), count)
	}
	half := len(parts) / 2
	if err := w.copyApart(ctx, tx, flush, parts[:half], count); err != nil {
		return err
	}
	return w.copyApart(ctx, tx, flush, parts[half:], count)
}

// park keeps a chunk where an admin sees it. If even that is refused, it is only counted and logged.
func (w *Writer) park(ctx context.Context, tx pgx.Tx, p *part, reason string, count *Stats) error {
	device, metric := w.store.catalog.Name(p.id)
	c := p.columns()
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertParked, pgx.StrictNamedArgs{"device": pgerr.Text(string(device)), "metric": pgerr.Text(metric), "start": p.start(), "n": c.Len(),
			"kind": int16(p.kind), "reason": pgerr.Text(reason), "data": chunk.Append(nil, p.kind, &c)})
		return err
	})
	count.Parked++
	count.ParkedSamples += uint64(c.Len())
	if pgerr.IsData(err) {
		w.store.log.Error("a chunk of samples can neither be stored nor parked and is lost", "device", device, "series", metric, "samples", c.Len(), "err", err, "reason", reason)
		return nil
	}
	if err == nil {
		w.store.log.Warn("a chunk of samples that can't be stored was parked", "device", device, "series", metric, "samples", c.Len(), "reason", reason)
	}
	return err
}
