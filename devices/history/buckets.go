package history

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"millrace/devices"
)

// Buckets asks for at most q.Buckets buckets of each series and calls each with those of one after the other; also of one that has none. The buckets are each's to keep; it is not called
// concurrently. Its error ends the query. What was measured in the last moments is in it, see Seam.
func (s *Store) Buckets(ctx context.Context, q devices.HistoryQuery, each func(id devices.SeriesID, buckets []devices.Bucket) error) error {
	width := BucketWidth(q)
	if width == 0 {
		return fmt.Errorf("no buckets are asked for, or no time: %w", devices.ErrInvalid)
	}
	var done turns
	return s.query(ctx, q, width, true, func(i int, read func(sink) error) error {
		b := bucketer{width: width}
		if err := read(&b); err != nil {
			done.end()
			return err
		}
		return done.take(i, func() error { return each(q.Series[i], b.buckets) })
	})
}

// turns puts what several goroutines have ready into order.
type turns struct {
	mu    sync.Mutex
	next  int
	ended bool
	later map[int]chan struct{} // who waits for their turn
}

// take calls f when all turns before the i-th are over. It is errOver where one of these failed.
func (t *turns) take(i int, f func() error) error {
	t.mu.Lock()
	if t.next < i && !t.ended {
		turn := make(chan struct{})
		if t.later == nil {
			t.later = map[int]chan struct{}{}
		}
		t.later[i] = turn
		t.mu.Unlock()
		<-turn
		t.mu.Lock()
	}
	ended := t.ended
	t.mu.Unlock()
	if ended {
		return errOver
	}
	if err := f(); err != nil {
		t.end()
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = i + 1
	if turn := t.later[t.next]; turn != nil {
		delete(t.later, t.next)
		close(turn)
	}
	return nil
}

// end ends all turns.
func (t *turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for i, turn := range t.later {
		delete(t.later, i)
		close(turn)
	}
}

// bucketer is a sink that fills buckets.
type bucketer struct {
	width   int64
	buckets []devices.Bucket
	numbers bool // the last bucket has numbers already
}

// at is the bucket of t, the last one or a new one.
func (b *bucketer) at(t int64) *devices.Bucket {
	t = floorDiv(t, b.width) * b.width
	if n := len(b.buckets); n == 0 || b.buckets[n-1].T != t {
		b.buckets = append(b.buckets, devices.Bucket{T: t})
		b.numbers = false
	}
	return &b.buckets[len(b.buckets)-1]
}

// figures adds what is known of n samples that come after those before.
func (b *bucketer) figures(to *devices.Bucket, n int64, first, last, least, most, sum float64, q devices.Quality) {
	if !b.numbers {
		b.numbers = true
		to.First, to.Min, to.Max = first, least, most
	}
	to.Last, to.Min, to.Max, to.Sum = last, min(to.Min, least), max(to.Max, most), to.Sum+sum
	to.Count += n
	to.Quality = max(to.Quality, q)
}

func (b *bucketer) row(r *row) {
	b.figures(b.at(r.Start), int64(r.N), r.First, r.Last, r.Min, r.Max, r.Sum, r.Quality)
}

func (b *bucketer) hour(h *hourRow) {
	b.figures(b.at(int64(h.Hour)*hourMs), int64(h.N), h.First, h.Last, h.Min, h.Max, h.Sum, h.Quality)
}

func (b *bucketer) samples(r *Run, from, to int) error {
	for from < to {
		t := b.at(r.Times[from])
		last := from + 1
		for end := t.T + b.width; last < to && r.Times[last] < end; last++ {
		}
		worst := devices.Good
		if len(r.Quality) > 0 {
			worst = slices.Max(r.Quality[from:last])
		}
		if r.Kind == devices.String {
			t.Text = r.Texts[last-1]
			t.Count += int64(last - from)
			t.Quality = max(t.Quality, worst)
		} else {
			if r.Kind == devices.Location {
				t.Lon = r.Lons[last-1]
			}
			values := r.Values[from:last]
			least, most, sum := values[0], values[0], 0.0
			for _, v := range values {
				if v < least {
					least = v
				}
				if v > most {
					most = v
				}
				sum += v
			}
			b.figures(t, int64(len(values)), values[0], values[len(values)-1], least, most, sum, worst)
		}
		from = last
	}
	return nil
}
