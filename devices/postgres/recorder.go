package postgres

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

// Times of the Recorder.
const (
	RecordEvery  = 5 * time.Second
	finalTimeout = 10 * time.Second // for the last write on shutdown
	writeTimeout = time.Minute
	writeRows    = 5000 // series a statement
)

// Recorder keeps the newest sample of each series and writes what changed every few seconds: last values, new series, when
// devices were last seen, and the position in the stream these are as of, in one transaction. Its memory goes by the number
// of series, whatever the rate, and while Postgres is away it goes on collecting.
type Recorder struct {
	store   *Store
	catalog *catalog.Catalog
	stream  string
	release func(seq uint64)
	log     *slog.Logger

	mu       sync.Mutex
	slots    []slot // by SeriesID
	dirty    []devices.SeriesID
	seq      uint64 // of the last message delivered
	released uint64 // what was written last
}

// slot is what there is of one series.
type slot struct {
	devices.Sample
	seen  int64 // newest receive time, Unix milliseconds
	dirty bool
}

// NewRecorder returns a recorder for one life of the stream, told apart by a text of the caller's (say, when the stream was
// made). release is called on Run's goroutine with each position that was written.
func NewRecorder(s *Store, cat *catalog.Catalog, stream string, release func(seq uint64), log *slog.Logger) *Recorder {
	return &Recorder{store: s, catalog: cat, stream: stream, release: release, log: log}
}

// Deliver takes samples in the order of the stream; the slice may be reused after it returns. It waits for no database.
func (r *Recorder) Deliver(seq uint64, samples []devices.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq = seq
	for i := range samples {
		in := &samples[i]
		for int(in.Series) >= len(r.slots) {
			r.slots = append(r.slots, slot{})
		}
		s := &r.slots[in.Series]
		if s.Series == 0 || in.At >= s.At { // last is by device time, ties by arrival
			s.Sample = *in
		}
		s.seen = max(s.seen, in.Recv)
		if !s.dirty {
			s.dirty = true
			r.dirty = append(r.dirty, in.Series)
		}
	}
}

// Run writes until ctx ends, and then once more: let it end after what delivers has ended.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(RecordEvery)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalTimeout)
			defer cancel()
			if err := r.Write(last); err != nil { // the stream has it all, and is read again from the position before
				r.log.Warn("last values were not written on shutdown", "err", err)
			}
			return nil
		case <-tick.C:
		}
		err := r.Write(ctx)
		if err != nil && ctx.Err() == nil && !away {
			r.log.Warn("last values can't be written for now", "err", err)
		}
		if err == nil && away {
			r.log.Info("last values are written again")
		}
		away = err != nil
	}
}

// rows are the columns of what is written, one entry a series.
type rows struct {
	ids                       []devices.SeriesID
	devices, metrics, texts   []string
	kinds, sampled, qualities []int16
	ats, recvs, seen          []int64
	values, lons              []float64
	tokens                    []string
	used                      []time.Time
}

// Write writes what changed since it last did. When it fails, nothing is lost: the next call writes it, or what came since.
func (r *Recorder) Write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	b, seq, written := r.take()
	if len(b.ids) == 0 && seq == written && len(b.tokens) == 0 {
		return nil
	}
	err := r.store.record(ctx, b, r.stream, seq)
	if pgerr.IsData(err) { // some row is at fault: find it, the others must not wait
		if err = r.writeApart(ctx, b); err == nil {
			err = r.store.record(ctx, rows{}, r.stream, seq)
		}
	}
	if err != nil {
		r.putBack(b.ids)
		return pgerr.Domain(err)
	}
	r.mu.Lock()
	r.released = seq
	r.mu.Unlock()
	if seq != written {
		r.release(seq)
	}
	return nil
}

// take copies what is dirty, with the position it is as of.
func (r *Recorder) take() (b rows, seq, written uint64) {
	for id, at := range r.catalog.TokenUses() {
		b.tokens, b.used = append(b.tokens, id), append(b.used, at)
	}
	r.mu.Lock()
	taken := make([]slot, len(r.dirty))
	for i, id := range r.dirty {
		r.slots[id].dirty = false
		taken[i] = r.slots[id]
	}
	r.dirty = r.dirty[:0]
	seq, written = r.seq, r.released
	r.mu.Unlock()

	for _, s := range taken {
		settings, _, ok := r.catalog.Series(s.Series)
		if !ok { // deleted meanwhile
			continue
		}
		b.ids = append(b.ids, s.Series)
		b.devices, b.metrics, b.texts = append(b.devices, string(settings.Device)), append(b.metrics, settings.Metric), append(b.texts, pgerr.Text(s.Text))
		b.kinds, b.sampled, b.qualities = append(b.kinds, int16(settings.Kind)), append(b.sampled, int16(s.Kind)), append(b.qualities, int16(s.Quality))
		b.ats, b.recvs, b.seen = append(b.ats, s.At), append(b.recvs, s.Recv), append(b.seen, s.seen)
		b.values, b.lons = append(b.values, s.Value), append(b.lons, s.Lon)
	}
	return b, seq, written
}

func (r *Recorder) putBack(ids []devices.SeriesID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if s := &r.slots[id]; !s.dirty {
			s.dirty = true
			r.dirty = append(r.dirty, id)
		}
	}
}

// writeApart halves a batch that PostgreSQL refuses until the row at fault is alone, and leaves that one out.
func (r *Recorder) writeApart(ctx context.Context, b rows) error {
	for _, half := range []rows{b.slice(0, len(b.ids)/2), b.slice(len(b.ids)/2, len(b.ids))} {
		if len(half.ids) == 0 {
			continue
		}
		err := r.store.record(ctx, half, "", 0)
		switch {
		case pgerr.IsData(err) && len(half.ids) == 1:
			r.log.Warn("a last value that can't be stored was left out", "device", half.devices[0], "series", half.metrics[0], "err", err)
		case pgerr.IsData(err):
			err = r.writeApart(ctx, half)
			if err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// slice is rows i to j, without tokens.
func (b rows) slice(i, j int) rows {
	return rows{ids: b.ids[i:j], devices: b.devices[i:j], metrics: b.metrics[i:j], texts: b.texts[i:j], kinds: b.kinds[i:j], sampled: b.sampled[i:j],
		qualities: b.qualities[i:j], ats: b.ats[i:j], recvs: b.recvs[i:j], seen: b.seen[i:j], values: b.values[i:j], lons: b.lons[i:j]}
}

// record writes rows and position in one transaction; no position for stream "". It returns the driver's errors as they are.
func (s *Store) record(ctx context.Context, b rows, stream string, seq uint64) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for i := 0; i < len(b.ids); i += writeRows {
			c := b.slice(i, min(i+writeRows, len(b.ids)))
			if _, err := tx.Exec(ctx, upsertSeries, pgx.StrictNamedArgs{"devices": c.devices, "metrics": c.metrics, "kinds": c.kinds}); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, upsertValues, pgx.StrictNamedArgs{"devices": c.devices, "metrics": c.metrics, "kinds": c.sampled, "qualities": c.qualities,
				"ats": c.ats, "recvs": c.recvs, "values": c.values, "lons": c.lons, "texts": c.texts}); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, updateSeen, pgx.StrictNamedArgs{"devices": c.devices, "seen": c.seen}); err != nil {
				return err
			}
		}
		if len(b.tokens) > 0 {
			if _, err := tx.Exec(ctx, touchTokens, pgx.StrictNamedArgs{"ids": b.tokens, "ats": b.used}); err != nil {
				return err
			}
		}
		if stream == "" {
			return nil
		}
		_, err := tx.Exec(ctx, upsertPosition, pgx.StrictNamedArgs{"stream": stream, "seq": int64(seq)})
		return err
	})
}
