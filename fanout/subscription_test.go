package fanout

import (
	"errors"
	"slices"
	"testing"
	"time"

	"millrace/devices"
)

// bench is an engine with one series in plant/line, and a time that tests move.
type bench struct {
	*testing.T
	*Engine
	now time.Time
}

func newBench(t *testing.T, interval time.Duration) *bench {
	b := &bench{t, New(Config{}), time.Unix(1_795_000_000, 0)}
	b.SetGroup(devices.Group{Path: "plant"})
	b.SetGroup(devices.Group{Path: "plant/line"})
	b.SetSeries(devices.Series{ID: 1, Device: "d", Metric: "m", ExpectedInterval: interval}, []devices.GroupPath{"plant/line"})
	b.step(b.now)
	return b
}

func (b *bench) offer(v float64) {
	ms := b.now.UnixMilli()
	b.Offer([]devices.Sample{{Series: 1, At: ms, Recv: ms, Value: v}})
}

func (b *bench) advance(d time.Duration) {
	b.now = b.now.Add(d)
	b.step(b.now)
}

func (b *bench) subscribe(o Options) *Subscription {
	b.Helper()
	s, _, err := b.Subscribe(o)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// frame returns the next frame and paints it; nil if there is none.
func (b *bench) frame(s *Subscription) *Frame {
	b.Helper()
	u, ok := s.Next(b.now)
	if !ok {
		return nil
	}
	if u.Frame == nil {
		b.Fatalf("%+v, want a frame", u)
	}
	s.Painted(u.Frame.Seq)
	return u.Frame
}

func (b *bench) want(f *Frame, quality devices.Quality, count uint32, last float64) {
	b.Helper()
	if f == nil || len(f.Points) != 1 {
		b.Fatalf("frame %+v, want one point", f)
	}
	if p := f.Points[0]; p.Quality != quality || p.Count != count || p.Last != last {
		b.Errorf("point %+v, want %v, count %d, last %v", p, quality, count, last)
	}
}

func TestFreshness(t *testing.T) {
	b := newBench(t, 2*time.Second)
	s := b.subscribe(Options{Group: "plant"})
	b.offer(1)
	b.advance(0)
	b.want(b.frame(s), devices.Good, 0, 1)
	b.advance(4 * time.Second)
	if f := b.frame(s); f != nil {
		t.Errorf("a frame after twice the interval: %+v", f)
	}
	b.advance(300 * time.Millisecond)
	b.want(b.frame(s), devices.Stale, 0, 1)
	if st := b.groupStats("plant", b.now.UnixMilli()); st.Stale != 1 || st.Series != 1 || st.Viewers != 1 {
		t.Errorf("stats %+v", st)
	}
	late := b.subscribe(Options{Group: "plant/line"})
	b.want(b.frame(late), devices.Stale, 0, 1)
	if p := b.LastValues([]devices.SeriesID{1, 99}); p[0].Quality != devices.Stale || p[0].Interval != 2*time.Second || p[1].OK {
		t.Errorf("last values %+v", p)
	}
	b.advance(time.Minute)
	if f := b.frame(s); f != nil {
		t.Errorf("stale once more: %+v", f)
	}
	b.offer(2)
	b.advance(0)
	b.want(b.frame(s), devices.Good, 1, 2)
	if st := b.groupStats("plant", b.now.UnixMilli()); st.Stale != 0 {
		t.Errorf("stats %+v", st)
	}
	b.advance(5 * time.Second)
	b.want(b.frame(s), devices.Stale, 0, 2)
	// A longer interval makes it fresh again without a sample.
	b.SetSeries(devices.Series{ID: 1, Device: "d", Metric: "m", ExpectedInterval: time.Minute}, []devices.GroupPath{"plant/line"})
	b.advance(100 * time.Millisecond)
	if u, ok := s.Next(b.now); !ok || len(u.Added) != 1 || u.Added[0].Index != 0 || u.Added[0].ExpectedInterval != time.Minute {
		t.Errorf("update %+v", u)
	}
	b.want(b.frame(s), devices.Good, 0, 2)
}

func TestLearnedInterval(t *testing.T) {
	b := newBench(t, 0)
	for range 100 {
		b.offer(1)
		b.advance(10 * time.Second)
	}
	last := func() LastPoint { return b.LastValues([]devices.SeriesID{1})[0] }
	if p := last(); p.Quality != devices.Good || p.Interval < 9*time.Second || p.Interval > 11*time.Second {
		t.Errorf("learned %+v", p)
	}
	for range 30 {
		b.advance(time.Second)
	}
	if p := last(); p.Quality != devices.Stale {
		t.Errorf("after 40 s of silence: %+v", p)
	}
	// It speaks much faster from now on, and then stops.
	for range 600 {
		b.offer(1)
		b.advance(100 * time.Millisecond)
	}
	for range 13 {
		b.advance(100 * time.Millisecond)
	}
	if p := last(); p.Quality != devices.Stale {
		t.Errorf("1.3 s after ten a second: %+v", p)
	}
}

func TestRestore(t *testing.T) {
	b := newBench(t, 0)
	ms := b.now.UnixMilli()
	b.Restore([]devices.Sample{{Series: 1, At: ms - 10_000, Recv: ms - 10_000, Value: 5}, {Series: 7, At: 1}})
	s := b.subscribe(Options{Group: "plant"})
	b.want(b.frame(s), devices.Good, 0, 5)
	b.Restore([]devices.Sample{{Series: 1, At: ms - 20_000, Recv: ms, Value: 4}})
	for range 25 {
		b.advance(time.Second)
	}
	b.want(b.frame(s), devices.Stale, 0, 5)
	b.offer(6)
	b.advance(time.Second)
	b.want(b.frame(s), devices.Good, 1, 6)
	if st := b.Stats(); st.UnknownSamples != 1 || st.Samples != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestQuietIsFastBusyIsBounded(t *testing.T) {
	b := newBench(t, time.Minute)
	wakes := 0
	s := b.subscribe(Options{Group: "plant", Wake: func() { wakes++ }})
	b.frame(s)
	b.frame(s)
	b.advance(time.Second)
	if wait := b.step(b.now); wait != never {
		t.Errorf("a quiet engine wants to run in %v", wait)
	}
	b.offer(1)
	select {
	case <-b.kick:
	default:
		t.Error("the first change after quiet does not tell Run")
	}
	b.advance(0)
	if b.want(b.frame(s), devices.Good, 1, 1); wakes != 1 {
		t.Errorf("%d wakes", wakes)
	}
	for len(b.kick) > 0 {
		<-b.kick
	}
	if b.frame(s) != nil {
		t.Error("a frame without a change")
	}
	for range 49 {
		b.offer(2)
		b.advance(time.Millisecond)
	}
	if f := b.frame(s); f != nil || len(b.kick) > 0 || wakes != 1 {
		t.Errorf("frame %v, %d kicks, %d wakes within a tick", f, len(b.kick), wakes)
	}
	b.advance(time.Millisecond)
	if b.want(b.frame(s), devices.Good, 49, 2); wakes != 2 {
		t.Errorf("%d wakes", wakes)
	}
}

func TestCredit(t *testing.T) {
	b := newBench(t, 0)
	wakes := 0
	s := b.subscribe(Options{Group: "plant", Credit: 2, Wake: func() { wakes++ }})
	var seqs []uint64
	for i := range 5 {
		b.offer(float64(i))
		b.advance(50 * time.Millisecond)
		if u, ok := s.Next(b.now); ok {
			seqs = append(seqs, u.Frame.Seq)
		}
	}
	if len(seqs) != 2 {
		t.Fatalf("%d frames with a credit of 2", len(seqs))
	}
	before := wakes
	s.Painted(seqs[0])
	if wakes != before+1 {
		t.Errorf("%d wakes for credit with news", wakes-before)
	}
	u, ok := s.Next(b.now)
	if !ok || u.Frame.From != seqs[1] || u.Frame.Points[0].Count != 3 || u.Frame.Points[0].Last != 4 {
		t.Errorf("frame %+v", u.Frame)
	}
	if _, ok := s.Next(b.now); ok {
		t.Error("a third frame in flight")
	}
	s.Painted(u.Frame.Seq)
	if wakes != before+1 {
		t.Error("woken for nothing")
	}
}

func TestShared(t *testing.T) {
	b := newBench(t, 0)
	b.SetSeries(devices.Series{ID: 2, Device: "e", Metric: "m"}, []devices.GroupPath{"plant"})
	b.offer(1)
	one := b.subscribe(Options{Group: "plant", Patterns: []string{"d/*", "e/m"}})
	two := b.subscribe(Options{Group: "plant", Patterns: []string{"e/m", "d/*", "d/*"}})
	other := b.subscribe(Options{Group: "plant"})
	if x, y := b.frame(one), b.frame(two); x != y || !x.Snapshot {
		t.Error("the same snapshot was cut twice")
	}
	b.frame(other)
	for range 3 {
		b.offer(2)
		b.advance(50 * time.Millisecond)
		x, y, z := b.frame(one), b.frame(two), b.frame(other)
		if x == nil || x != y || x == z {
			t.Errorf("frames %p %p %p", x, y, z)
		}
	}
	if st := b.Stats(); st.FramesShared != 4 || st.Snapshots != 2 || st.Subscriptions != 3 {
		t.Errorf("stats %+v", st)
	}
}

func TestGroupRemoved(t *testing.T) {
	b := newBench(t, 0)
	wakes := 0
	s := b.subscribe(Options{Group: "plant/line", Wake: func() { wakes++ }})
	b.RemoveGroup("plant/line")
	if _, ok := s.Next(b.now); ok || wakes != 1 || !errors.Is(s.Err(), devices.ErrNotFound) {
		t.Errorf("ok %v, %d wakes, err %v", ok, wakes, s.Err())
	}
	s.Painted(1)
	s.Close()
	if _, _, err := b.Subscribe(Options{Group: "plant/line"}); !errors.Is(err, devices.ErrNotFound) {
		t.Error(err)
	}
	b.offer(1)
	up := b.subscribe(Options{Group: "plant"})
	b.want(b.frame(up), devices.Good, 0, 1)
	b.RemoveSeries(1)
	if u, ok := up.Next(b.now); !ok || !slices.Equal(u.Removed, []uint32{0}) {
		t.Errorf("update %+v", u)
	}
	if st := b.Stats(); st.Series != 0 || st.Groups != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestPatterns(t *testing.T) {
	b := newBench(t, 0)
	bad := func(want error, patterns ...string) {
		t.Helper()
		if _, _, err := b.Subscribe(Options{Group: "plant", Patterns: patterns}); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	bad(devices.ErrInvalid, "d")
	bad(devices.ErrInvalid, "d/")
	bad(devices.ErrInvalid, "/m")
	bad(devices.ErrInvalid, "d*/m")
	bad(devices.ErrInvalid, "d/m/x")
	bad(devices.ErrInvalid, "d/m*")
	bad(devices.ErrTooLarge, make([]string, MaxPatterns+1)...)
	match := func(n int, patterns ...string) {
		t.Helper()
		_, start, err := b.Subscribe(Options{Group: "plant", Patterns: patterns})
		if err != nil || len(start.Series) != n {
			t.Errorf("%v matches %d (%v), want %d", patterns, len(start.Series), err, n)
		}
	}
	match(1)
	match(1, "*/*")
	match(1, "d/*")
	match(1, "*/m", "x/y")
	match(1, "d/m")
	match(0, "d/n", "e/*", "*/n")
}

func TestRate(t *testing.T) {
	b := newBench(t, 0)
	for range 80 {
		b.offer(1)
		b.now = b.now.Add(100 * time.Millisecond)
	}
	rate := func() float64 { return b.groupStats("plant/line", b.now.UnixMilli()).Rate }
	if r := rate(); r != 10 {
		t.Errorf("rate %v, want 10", r)
	}
	b.now = b.now.Add(3 * time.Second)
	if r := rate(); r != 4 {
		t.Errorf("rate %v 3 s later, want 4", r)
	}
	b.now = b.now.Add(time.Hour)
	if r := rate(); r != 0 {
		t.Errorf("rate %v an hour later", r)
	}
}

// What a viewer was not yet sent of a series that leaves its group is not its any more: not from the ring, not from a fold, and
// not when the series comes back.
func TestNothingOfALeaver(t *testing.T) {
	for _, folded := range []bool{false, true} {
		b := newBench(t, time.Hour)
		s := b.subscribe(Options{Group: "plant/line"})
		u, _ := s.Next(b.now)
		b.offer(1)
		b.advance(time.Second)
		if folded {
			b.advance(time.Minute)
			if st := b.Stats(); st.Folds != 1 || st.RingBytes != 0 {
				t.Errorf("stats %+v", st)
			}
			b.workOffFolds()
		}
		b.offer(2)
		b.SetSeries(devices.Series{ID: 1, Device: "d", Metric: "m"}, []devices.GroupPath{"plant"})
		s.Painted(u.Frame.Seq)
		if u, ok := s.Next(b.now); !ok || !slices.Equal(u.Removed, []uint32{0}) {
			t.Errorf("update %+v", u)
		}
		b.offer(3)
		b.advance(time.Second)
		if u, ok := s.Next(b.now); ok {
			t.Errorf("update %+v", u)
		}
		b.SetSeries(devices.Series{ID: 1, Device: "d", Metric: "m"}, []devices.GroupPath{"plant/line"})
		if u, ok := s.Next(b.now); !ok || len(u.Added) != 1 {
			t.Errorf("update %+v", u)
		}
		b.advance(time.Second)
		b.want(b.frame(s), devices.Good, 0, 3)
		b.offer(4)
		b.advance(time.Second)
		b.want(b.frame(s), devices.Good, 1, 4)
	}
}
