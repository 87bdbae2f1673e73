package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	finalTimeout = 10 * time.Second // for the last flush on shutdown
	writeTimeout = 2 * time.Minute  // for one try at a flush
	firstPause   = 250 * time.Millisecond
	lastPause    = 5 * time.Second // between tries while the database is away
)

// claimPosition makes the row that a writer compares and locks: a writer of another life of the stream finds it changed, and stops.
const claimPosition = `with old as (select stream, seq from stream_position where reader = 'history'),
	new as (insert into stream_position (reader, stream, seq) select 'history', @stream, 0 where not exists (select from old where stream = @stream)
		on conflict (reader) do update set stream = excluded.stream, seq = 0)
	select coalesce((select seq from old where stream = @stream), 0)`

// errMoved is what a flush says when somebody else has written, too.
var errMoved = errors.New("another writer has stored history")

// Writer takes samples in the order of the stream, gathers them by series and writes chunks every Config.Flush, or when half of what
// may wait waits. Each flush is one transaction that stores the position in the stream as well: each sample is recorded once,
// whatever crashes. While the database is away it gathers on until Config.Pending samples wait; then Deliver blocks.
type Writer struct {
	store   *Store
	stream  string
	release func(seq uint64)

	// Rewind has the reader deliver from a sequence on, and calls ready on the reader's goroutine before it does. It is asked for when another writer (an old process
	// that was still ending) stored history beside this one. Set it before Run; without it, Run ends with an error then.
	Rewind func(seq uint64, ready func())

	flushing chan struct{} // cap 1: held by the one flush that is under way; guards what follows
	ids      []int32       // history_series by SeriesID, 0: unknown
	noted    []int32       // the hour of each that was last put into history_dirty, plus one
	epoch    int64         // history_generation that ids are of
	unmade   bool          // some partition could not be made the last time
	copying  copier

	kick chan struct{} // cap 1: write now

	mu      sync.Mutex // guards what follows; held for no I/O
	room    sync.Cond  // waiting fell, or halted rose
	slots   []slot     // by SeriesID
	fresh   []devices.SeriesID
	pending int    // units in fresh
	writing *batch // taken from fresh, not yet committed
	seq     uint64 // of the last message delivered
	stored  uint64 // position in the database, as we know it
	halted  bool   // Deliver takes nothing more
	lost    bool   // what is delivered is of a position given up, until the reader has gone back
	stats   Stats
}

// slot is what waits of one series.
type slot struct {
	now, writing, spare *gathered // any may be nil
}

// Stats are counts since the start, and how it stands.
type Stats struct {
	Samples, Chunks, Bytes uint64        // written; Bytes of chunks' data
	Repeated               uint64        // samples that another for the same time and series replaced before they were written
	LeftOut                uint64        // samples of series that are gone
	Parked, ParkedSamples  uint64        // chunks refused by the database, and what was in them
	Flushes, Failed        uint64        // transactions
	Moved                  uint64        // times that another writer had written
	Took, LastTook         time.Duration // all flushes together, and the last one
	Waits                  uint64        // times that Deliver had to wait

	Pending   int    // units (samples, and 16 bytes of text) that wait or are being written
	Limit     int    // most that may
	Delivered uint64 // sequence
	Position  uint64 // sequence up to which all is in the database
	Blocked   bool   // Deliver waits for room
	Away      bool   // the last flush failed
}

// NewWriter returns a writer for one life of the stream, told apart by a text of the caller's, and the position up to which the stream
// is recorded: the reader begins at the next. release is called on Run's goroutine with each position that was written.
func (s *Store) NewWriter(ctx context.Context, life string, release func(seq uint64)) (*Writer, uint64, error) {
	w := &Writer{store: s, stream: life, release: release, flushing: make(chan struct{}, 1), kick: make(chan struct{}, 1), epoch: -1}
	w.room.L = &w.mu
	position, err := w.claim(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("position of history: %w", err)
	}
	w.seq, w.stored = position, position
	if err := s.EnsurePartitions(ctx); err != nil { // the default partition takes it all, for now
		s.log.Warn("partitions of history can't be made for now", "err", err)
	}
	s.writer.Store(w)
	return w, position, nil
}

func (w *Writer) claim(ctx context.Context) (uint64, error) {
	var seq int64
	err := w.store.pool.QueryRow(ctx, claimPosition, pgx.StrictNamedArgs{"stream": w.stream}).Scan(&seq)
	return uint64(seq), pgerr.Domain(err)
}

// Deliver takes samples in the order of the stream; the slice may be reused after it returns. It blocks while as many samples
// wait as may: until some are written, or Halt.
func (w *Writer) Deliver(seq uint64, samples []devices.Sample) {
	n := 0
	for i := range samples {
		n += units(&samples[i])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if limit := w.store.c.Pending; w.waiting() > 0 && w.waiting()+n > limit && !w.halted && !w.lost {
		w.stats.Waits++
		w.stats.Blocked = true
		for w.waiting() > 0 && w.waiting()+n > limit && !w.halted && !w.lost {
			w.wake()
			w.room.Wait()
		}
		w.stats.Blocked = false
	}
	if w.halted || w.lost {
		return
	}
	w.seq = seq
	for i := range samples {
		in := &samples[i]
		if int(in.Series) >= len(w.slots) {
			w.slots = append(w.slots, make([]slot, int(in.Series)+1-len(w.slots))...)
		}
		s := &w.slots[in.Series]
		g := s.now
		if g == nil {
			if g = s.spare; g == nil {
				g = &gathered{id: in.Series}
			}
			s.now, s.spare = g, nil
			w.fresh = append(w.fresh, in.Series)
		}
		g.add(in)
	}
	w.pending += n
	if w.pending >= w.store.c.Pending/2 {
		w.wake()
	}
}

// waiting is how many units wait or are being written. The caller holds mu.
func (w *Writer) waiting() int {
	if w.writing != nil {
		return w.pending + w.writing.units
	}
	return w.pending
}

func (w *Writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Halt ends a Deliver that waits, which takes nothing more from then on: the stream has it, and is read again from the position after the next start.
// What was gathered before is still written. Call it when the reader is to end, else its Run might wait for ever.
func (w *Writer) Halt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.halted = true
	w.room.Broadcast()
}

// Run writes until ctx ends, and then once more: let it end after what delivers has ended.
func (w *Writer) Run(ctx context.Context) error {
	timer := time.NewTimer(w.store.c.Flush)
	defer timer.Stop()
	for pause := time.Duration(0); ; {
		kick := w.kick
		if pause > 0 { // while the database is away nothing makes us hurry
			kick = nil
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalTimeout)
			defer cancel()
			if err := w.Flush(last); err != nil { // the stream has it all, and is read again from the position before
				w.store.log.Warn("recorded samples were not written on shutdown; they are after the next start", "err", err)
			}
			return nil
		case <-timer.C:
		case <-kick:
		}
		err := w.Flush(ctx)
		switch {
		case ctx.Err() != nil:
			continue
		case errors.Is(err, errMoved):
			level := slog.LevelDebug // of several nodes one writes, and the others take over when it is gone
			if w.Stats().Moved == 0 {
				level = slog.LevelWarn
			}
			w.store.log.Log(ctx, level, "another writer has stored history beside this one: reading on from its position")
			if w.Rewind == nil {
				return err
			}
			if err = w.goBack(ctx); err == nil {
				pause = 0
			}
		case err == nil && pause > 0:
			w.store.log.Info("recorded samples are written again")
			pause = 0
		}
		next := w.store.c.Flush
		if err != nil {
			if pause == 0 {
				w.store.log.Warn("recorded samples can't be written for now", "err", err)
			}
			pause = min(max(2*pause, firstPause), lastPause)
			next = pause
		}
		timer.Reset(next)
	}
}

// Flush writes what was delivered before the call. When it fails, nothing is lost: the next call writes it first.
func (w *Writer) Flush(ctx context.Context) error {
	select {
	case w.flushing <- struct{}{}:
		defer func() { <-w.flushing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range 2 { // what could not be written before, as it was taken then, so that a commit whose answer was lost is recognized
		b, left := w.take()
		if b == nil {
			return nil
		}
		began := time.Now()
		err := w.write(ctx, b)
		w.done(b, err, time.Since(began))
		if err != nil {
			return err
		}
		w.release(b.seq)
		if !left {
			return nil
		}
	}
	return nil
}

// take returns the batch that is to be written, nil when there is none. left tells that it is of an earlier call.
func (w *Writer) take() (b *batch, left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing != nil {
		return w.writing, true
	}
	if w.seq == w.stored && len(w.fresh) == 0 || w.lost {
		return nil, false
	}
	b = &batch{seq: w.seq, after: w.stored, units: w.pending, series: make([]*gathered, len(w.fresh))}
	for i, id := range w.fresh {
		s := &w.slots[id]
		b.series[i] = s.now
		s.now, s.writing = nil, s.now
	}
	w.fresh, w.pending, w.writing = w.fresh[:0], 0, b
	return b, false
}

// done counts a try to write, and if it succeeded, lets go of the batch.
func (w *Writer) done(b *batch, err error, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Away = err != nil
	if err != nil {
		w.stats.Failed++
		return
	}
	w.stats.Flushes++
	w.stats.Took += took
	w.stats.LastTook = took
	w.stats.Samples += b.count.Samples
	w.stats.Chunks += b.count.Chunks
	w.stats.Bytes += b.count.Bytes
	w.stats.Repeated += b.count.Repeated
	w.stats.LeftOut += b.count.LeftOut
	w.stats.Parked += b.count.Parked
	w.stats.ParkedSamples += b.count.ParkedSamples
	w.stored = b.seq
	w.writing = nil
	for _, g := range b.series {
		s := &w.slots[g.id]
		s.writing = nil
		if s.spare == nil {
			g.reset()
			s.spare = g
		}
	}
	w.room.Broadcast()
}

// goBack gives up what was gathered, because another writer has stored some of it, and reads on from where the database is.
func (w *Writer) goBack(ctx context.Context) error {
	position, err := w.claim(ctx)
	if err != nil {
		return err
	}
	select {
	case w.flushing <- struct{}{}:
		defer func() { <-w.flushing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	w.epoch = -1 // ids may be of what is no longer there
	w.mu.Lock()
	w.lost = true
	w.stats.Moved++
	for i := range w.slots {
		w.slots[i] = slot{}
	}
	w.fresh, w.pending, w.writing = nil, 0, nil
	w.room.Broadcast()
	w.mu.Unlock()
	w.Rewind(position+1, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seq, w.stored, w.lost = position, position, false
	})
	return nil
}

// Head copies what waits to be written or is being written of each series, from from on and before to, both Unix milliseconds, in time order; of several samples for the same
// time the one received last. The runs of a series, one for each change of its kind, don't overlap.
func (w *Writer) Head(ids []devices.SeriesID, from, to int64) [][]Run {
	copies := make([]*gathered, len(ids))
	w.mu.Lock()
	for i, id := range ids {
		if int(id) >= len(w.slots) {
			continue
		}
		s := &w.slots[id]
		for _, g := range []*gathered{s.writing, s.now} {
			if g == nil {
				continue
			}
			if copies[i] == nil {
				copies[i] = &gathered{id: id}
			}
			copies[i].addAll(g, from, to)
		}
	}
	w.mu.Unlock()
	out := make([][]Run, len(ids))
	for i, g := range copies {
		if g == nil || len(g.Times) == 0 {
			continue
		}
		known, _, ok := w.store.catalog.Series(ids[i])
		if !ok {
			continue
		}
		g = g.sorted()
		g.runs(0, len(g.Times), known.Kind, func(from, to int, k devices.Kind) {
			out[i] = append(out[i], Run{k, g.view(from, to, k)})
		})
	}
	return out
}

// Stats is how it stands.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.stats
	st.Pending, st.Limit, st.Delivered, st.Position = w.waiting(), w.store.c.Pending, w.seq, w.stored
	return st
}
