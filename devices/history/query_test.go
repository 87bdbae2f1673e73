package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/devices"
)

func TestBucketWidth(t *testing.T) {
	f := func(from, to int64, buckets int, want int64) {
		t.Helper()
		if got := BucketWidth(devices.HistoryQuery{From: from, To: to, Buckets: buckets}); got != want {
			t.Errorf("%d to %d in %d buckets: width %d, want %d", from, to, buckets, got, want)
		}
	}
	f(0, 1000, 1000, 1)
	f(0, 1001, 1000, 2)
	f(0, 900_000, 1000, 1000)
	f(500, 900_500, 900, 2000) // touches 901 buckets of a second
	f(0, 30*dayMs, 1000, hourMs)
	f(0, 3650*dayMs, 100, 56*dayMs)
	f(5, 5, 100, 0)
	f(0, 10, 0, 0)
	rapid.Check(t, func(t *rapid.T) {
		q := devices.HistoryQuery{From: rapid.Int64Range(0, 1<<42).Draw(t, "from"), Buckets: rapid.IntRange(2, 10_000).Draw(t, "buckets")}
		q.To = q.From + rapid.Int64Range(1, 1<<40).Draw(t, "length")
		w := BucketWidth(q)
		if n := floorDiv(q.To-1, w) - floorDiv(q.From, w) + 1; n > int64(q.Buckets) {
			t.Fatalf("%d buckets of %d", n, w)
		}
		if i := slices.Index(widths[:], w); i > 0 {
			if v := widths[i-1]; floorDiv(q.To-1, v)-floorDiv(q.From, v)+1 <= int64(q.Buckets) {
				t.Fatalf("%d would do, got %d", v, w)
			}
		}
	})
}

// model keeps every sample as a query must find it: for each time of a series that received last.
type model map[devices.SeriesID]map[int64]devices.Sample

func (m model) take(samples ...devices.Sample) {
	for _, s := range samples {
		if m[s.Series] == nil {
			m[s.Series] = map[int64]devices.Sample{}
		}
		s.Recv = 0
		m[s.Series][s.At] = s
	}
}

// between returns a series' samples in order.
func (m model) between(id devices.SeriesID, from, to int64) (out []devices.Sample) {
	for at, s := range m[id] {
		if from <= at && at < to {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b devices.Sample) int { return cmp.Compare(a.At, b.At) })
	return out
}

func (m model) buckets(id devices.SeriesID, q devices.HistoryQuery) (out []devices.Bucket) {
	w := BucketWidth(q)
	numbers := false
	for _, s := range m.between(id, q.From, q.To) {
		t := s.At - ((s.At%w)+w)%w
		if len(out) == 0 || out[len(out)-1].T != t {
			out = append(out, devices.Bucket{T: t})
			numbers = false
		}
		b := &out[len(out)-1]
		b.Count++
		b.Quality = max(b.Quality, s.Quality)
		if s.Kind == devices.String {
			b.Text = s.Text
			continue
		}
		if s.Kind == devices.Location {
			b.Lon = s.Lon
		}
		if !numbers {
			numbers = true
			b.First, b.Min, b.Max = s.Value, s.Value, s.Value
		}
		b.Last, b.Min, b.Max, b.Sum = s.Value, min(b.Min, s.Value), max(b.Max, s.Value), b.Sum+s.Value
	}
	return out
}

// check compares an answer of the store with the model's.
func (m model) check(t interface {
	Helper()
	Fatalf(string, ...any)
}, s *Store, q devices.HistoryQuery) {
	t.Helper()
	ctx := context.Background()
	got := map[devices.SeriesID][]devices.Sample{}
	if err := s.Samples(ctx, q, func(id devices.SeriesID, samples []devices.Sample) error {
		got[id] = append(got[id], samples...)
		return nil
	}); err != nil {
		t.Fatalf("samples: %v", err)
	}
	for _, id := range q.Series {
		want := m.between(id, q.From, q.To)
		same := func(a, b devices.Sample) bool {
			if a.Kind.Numeric() && b.Kind.Numeric() { // a run of both is one of floats
				a.Kind = b.Kind
			}
			return a == b
		}
		if !slices.EqualFunc(got[id], want, same) {
			t.Fatalf("series %d from %d to %d:\n%v\nwant\n%v", id, q.From, q.To, got[id], want)
		}
	}
	if q.From == q.To || q.Buckets == 0 {
		return
	}
	asked := 0
	if err := s.Buckets(ctx, q, func(id devices.SeriesID, buckets []devices.Bucket) error {
		want := m.buckets(id, q)
		asked++
		if !slices.EqualFunc(buckets, want, func(a, b devices.Bucket) bool {
			near := math.Abs(a.Sum-b.Sum) <= 1e-9*(math.Abs(a.Sum)+math.Abs(b.Sum)+1) // it depends on the order of adding
			a.Sum = b.Sum
			return near && a == b
		}) {
			return fmt.Errorf("series %d from %d to %d, width %d:\n%v\nwant\n%v", id, q.From, q.To, BucketWidth(q), buckets, want)
		}
		return nil
	}); err != nil {
		t.Fatalf("buckets: %v", err)
	}
	if asked != len(q.Series) {
		t.Fatalf("%d of %d series were answered", asked, len(q.Series))
	}
}

// Whatever came, late, twice, of other kinds, from clocks that are wrong, written or not, compacted or not: buckets and samples are what
// a naive computation makes of all that was received.
func TestQueriesEqualNaiveOnes(t *testing.T) {
	f := newFixture(t, Config{})
	base := time.Now().Add(-40*24*time.Hour).UnixMilli() / dayMs * dayMs
	serial := 0
	rapid.Check(t, func(t *rapid.T) {
		serial++
		w, seq := f.newWriter()
		f.seq = seq
		m := model{}
		var ids []devices.SeriesID
		main := []devices.Kind{devices.Float, devices.Int, devices.Bool, devices.String, devices.Location}
		for i := range rapid.IntRange(1, 3).Draw(t, "series") {
			ids = append(ids, f.series("a", fmt.Sprintf("m%d.%d", serial, i), main[rapid.IntRange(0, 4).Draw(t, "kind")]))
		}
		at := map[devices.SeriesID]int64{}
		steps := []int64{1, 20, 100, 1000, 60_000, 1_800_000}
		if rapid.Bool().Draw(t, "regular") { // then hours get so many samples that they are rolled up
			steps = []int64{rapid.SampledFrom(steps).Draw(t, "step")}
		}
		draw := func(id devices.SeriesID) devices.Sample {
			known, _, _ := f.catalog.Series(id)
			s := devices.Sample{Series: id, Kind: known.Kind, Value: math.Round(rapid.Float64Range(-100, 100).Draw(t, "value")*10) / 10}
			if rapid.IntRange(0, 40).Draw(t, "other kind") == 0 {
				s.Kind = rapid.SampledFrom(main).Draw(t, "its kind")
			}
			switch s.Kind {
			case devices.Int:
				s.Value = math.Round(s.Value)
			case devices.Bool:
				s.Value = float64(rapid.IntRange(0, 1).Draw(t, "bool"))
			case devices.String:
				s.Value, s.Text = 0, rapid.SampledFrom([]string{"on", "off", "gestört", ""}).Draw(t, "text")
			case devices.Location:
				s.Lon = 13.5
			}
			s.Quality = rapid.SampledFrom([]devices.Quality{0, 0, 0, 0, 0, 0, devices.Uncertain, devices.Bad}).Draw(t, "quality")
			if at[id] == 0 {
				at[id] = base + rapid.Int64Range(0, 2*dayMs).Draw(t, "start")
			}
			switch rapid.IntRange(0, 60).Draw(t, "clock") {
			case 0: // late
				s.At = at[id] - rapid.Int64Range(0, dayMs).Draw(t, "late")
			case 1: // a clock that starts in 1970
				s.At = rapid.Int64Range(-dayMs, dayMs).Draw(t, "old")
			case 2:
				s.At = at[id] // again
			case 3: // a gap
				at[id] += rapid.Int64Range(1, 2*dayMs).Draw(t, "gap")
				s.At = at[id]
			default:
				at[id] += rapid.SampledFrom(steps).Draw(t, "step")
				s.At = at[id]
			}
			return s
		}
		var spread int64 = 3 * dayMs
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			var batch []devices.Sample
			for range rapid.IntRange(1, 300).Draw(t, "samples") {
				batch = append(batch, draw(rapid.SampledFrom(ids).Draw(t, "of")))
			}
			m.take(batch...)
			f.send(w, batch...)
			switch rapid.IntRange(0, 3).Draw(t, "then") {
			case 0, 1:
				f.flush(w)
			case 2:
				f.flush(w)
				if err := f.Compact(context.Background(), time.Now()); err != nil {
					t.Fatalf("compact: %v", err)
				}
			}
			for range 3 {
				q := devices.HistoryQuery{Series: ids, Buckets: rapid.SampledFrom([]int{1, 2, 7, 50, 400, 5000}).Draw(t, "buckets")}
				q.From = base - dayMs + rapid.Int64Range(0, spread).Draw(t, "from")
				q.To = q.From + rapid.SampledFrom([]int64{0, 1, 1000, 60_000, hourMs, 5 * hourMs, dayMs, 10 * dayMs, 60 * dayMs}).Draw(t, "length")
				if rapid.IntRange(0, 5).Draw(t, "all") == 0 {
					q.From, q.To = -2*dayMs, base+100*dayMs
				}
				m.check(t, f.Store, q)
			}
		}
		f.flush(w)
		w.Halt()
	})
}

func TestQueryOfNothing(t *testing.T) {
	f := newFixture(t, Config{})
	id := f.series("a", "temp", devices.Float)
	m := model{}
	m.check(t, f.Store, devices.HistoryQuery{Series: []devices.SeriesID{id}, From: 0, To: 1000, Buckets: 10})
	w, _ := f.newWriter()
	s := devices.Sample{Series: id, At: 500, Value: 1}
	m.take(s)
	f.send(w, s)
	m.check(t, f.Store, devices.HistoryQuery{Series: []devices.SeriesID{id, f.series("b", "other", devices.Int)}, From: 0, To: 1000, Buckets: 10}) // before it is written
	if err := f.Samples(t.Context(), devices.HistoryQuery{From: 2, To: 1}, nil); err == nil {
		t.Error("a time that ends before it begins is no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Buckets(ctx, devices.HistoryQuery{Series: []devices.SeriesID{id}, From: 0, To: 1000, Buckets: 10}, nil); err == nil {
		t.Error("a query goes on after its end")
	}
}

// A chunk that can't be read is left out; the others are answered.
func TestQueryOfCorruptChunk(t *testing.T) {
	f := newFixture(t, Config{})
	id := f.series("a", "temp", devices.Float)
	w, _ := f.newWriter()
	for i := range 3 {
		f.send(w, devices.Sample{Series: id, At: int64(i) * 1000, Value: float64(i)})
		f.flush(w)
	}
	f.exec(`update history_chunk set data = '\x01ff' where start = 1000`)
	var got []float64
	if err := f.Samples(t.Context(), devices.HistoryQuery{Series: []devices.SeriesID{id}, From: 0, To: 3000}, func(_ devices.SeriesID, samples []devices.Sample) error {
		for _, s := range samples {
			got = append(got, s.Value)
		}
		return nil
	}); err != nil || !slices.Equal(got, []float64{0, 2}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// Series that are read along come in the order in which they were asked for, and an error ends all and is the one that is told.
func TestManySeries(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	m := model{}
	var ids []devices.SeriesID
	var batch []devices.Sample
	for n := range 40 {
		ids = append(ids, f.series("a", fmt.Sprintf("m%d", n), devices.Float))
		for i := range 100 {
			batch = append(batch, devices.Sample{Series: ids[n], At: int64(i) * 1000, Value: float64(n*1000 + i)})
		}
	}
	m.take(batch...)
	f.send(w, batch...)
	f.flush(w)
	q := devices.HistoryQuery{Series: ids, From: 0, To: 100_000, Buckets: 10}
	m.check(t, f.Store, q)
	for stop := range ids {
		at, failed := 0, errors.New("enough")
		err := f.Buckets(t.Context(), q, func(id devices.SeriesID, _ []devices.Bucket) error {
			if id != ids[at] {
				t.Fatalf("series %d comes in place of %d", id, ids[at])
			}
			if at == stop {
				return failed
			}
			at++
			return nil
		})
		if !errors.Is(err, failed) || at != stop {
			t.Fatalf("after %d series: %v", at, err)
		}
	}
}
