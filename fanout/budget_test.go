package fanout

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"millrace/devices"
)

// site returns an engine with series in groups three deep, as many in each of the leaves.
func site(series, leaves int) *Engine {
	e := New(Config{})
	for g := range leaves {
		e.SetGroup(devices.Group{Path: leaf(g)})
		e.SetGroup(devices.Group{Path: leaf(g).Parent()})
	}
	e.SetGroup(devices.Group{Path: "plant"})
	for i := range series {
		e.SetSeries(devices.Series{ID: devices.SeriesID(i + 1), Device: devices.ID(fmt.Sprint("d", i/10)), Metric: fmt.Sprint("m", i%10)},
			[]devices.GroupPath{leaf(i / 10 % leaves)})
	}
	return e
}

func leaf(g int) devices.GroupPath {
	return devices.GroupPath(fmt.Sprintf("plant/hall%d/line%d", g/10, g))
}

func batch(series, from, n int, at int64) []devices.Sample {
	b := make([]devices.Sample, n)
	for i := range b {
		b[i] = devices.Sample{Series: devices.SeriesID((from+i)%series + 1), At: at, Recv: at, Value: float64(i)}
	}
	return b
}

func TestOfferAllocatesNothing(t *testing.T) {
	e := site(1000, 10)
	now := time.Unix(1_795_000_000, 0)
	at := now.UnixMilli()
	e.step(now)
	b := batch(1000, 0, 1000, at)
	for i := range b {
		if i%10 == 0 {
			b[i].Kind, b[i].Text = devices.String, "running"
		}
	}
	e.Offer(b)
	e.step(now)
	if n := testing.AllocsPerRun(100, func() {
		at++
		for i := range b {
			b[i].At, b[i].Recv = at, at
		}
		e.Offer(b)
	}); n > 0 {
		t.Errorf("%v allocations for 1,000 samples", n)
	}
}

// Offering, ticking, watching, moving and looking at once; the race detector judges, and the counts.
func TestConcurrent(t *testing.T) {
	e := site(200, 4)
	ctx, stop := context.WithCancel(t.Context())
	var running, work sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	const rounds = 300
	for p := range 2 {
		work.Go(func() {
			ms := time.NewTicker(time.Millisecond)
			defer ms.Stop()
			for range rounds {
				e.Offer(batch(200, p*100, 100, time.Now().UnixMilli()))
				<-ms.C
			}
		})
	}
	for _, g := range []devices.GroupPath{"plant", leaf(0), leaf(1), leaf(2), leaf(3)} {
		e.SetGroup(devices.Group{Path: g, Tick: devices.MinTick})
	}
	counts := make([]int, 6)
	subs := make([]*Subscription, len(counts))
	for v := range subs {
		woken := make(chan struct{}, 1)
		wake := func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}
		s, _, err := e.Subscribe(Options{Group: "plant", Wake: wake, Detail: Detail(v % 3), Pace: time.Duration(v*5) * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		subs[v] = s
		running.Go(func() {
			for {
				for u, ok := s.Next(time.Now()); ok; u, ok = s.Next(time.Now()) {
					if f := u.Frame; f != nil {
						for _, p := range f.Points {
							counts[v] += int(p.Count)
						}
						s.Painted(f.Seq)
					}
				}
				select {
				case <-ctx.Done():
					return
				case <-woken:
				}
			}
		})
	}
	work.Go(func() {
		for i := range rounds {
			id := devices.SeriesID(i%200 + 1)
			e.SetSeries(devices.Series{ID: id, Device: devices.ID(fmt.Sprint("d", (id-1)/10)), Metric: fmt.Sprint("m", (id-1)%10), Unit: fmt.Sprint(i)},
				[]devices.GroupPath{leaf(i % 4)})
			s, _, err := e.Subscribe(Options{Group: leaf(i % 4)})
			if err != nil {
				t.Error(err)
				return
			}
			s.Next(time.Now())
			e.Stats()
			e.GroupStats("plant")
			e.LastValues([]devices.SeriesID{id})
			s.Close()
		}
	})
	work.Wait()
	until := time.Now().Add(10 * time.Second)
	for caughtUp := false; !caughtUp; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatal("the viewers never catch up")
		}
		e.mu.Lock()
		e.in.Lock()
		caughtUp = true
		for _, c := range e.groups["plant"].cells {
			caughtUp = caughtUp && len(c.open) == 0
		}
		e.in.Unlock()
		for _, s := range subs {
			caughtUp = caughtUp && s.idle && s.pos >= e.groups["plant"].lastSeq
		}
		e.mu.Unlock()
	}
	stop()
	running.Wait()
	st := e.Stats()
	if st.Samples != 2*rounds*100 {
		t.Errorf("%d samples", st.Samples)
	}
	for v, n := range counts { // all but those before the snapshot
		if n > 2*rounds*100 || n < rounds*100 {
			t.Errorf("viewer %d counts %d of %d", v, n, st.Samples)
		}
		subs[v].Close()
	}
}

func BenchmarkOffer(b *testing.B) {
	const series, some = 10_000, 1000
	e := site(series, 100)
	now := time.Unix(1_795_000_000, 0)
	s, _, _ := e.Subscribe(Options{Group: "plant"})
	defer s.Close()
	batches := make([][]devices.Sample, series/some)
	for i := range batches {
		batches[i] = batch(series, i*some, some, now.UnixMilli())
	}
	for _, x := range batches {
		e.Offer(x)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		x := batches[n%len(batches)]
		for i := range x {
			x[i].At += 10
			x[i].Recv += 10
		}
		e.Offer(x)
		if n++; n%50 == 0 { // 50,000 samples a tick of 50 ms
			now = now.Add(50 * time.Millisecond)
			e.step(now)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/some, "ns/sample")
}

func BenchmarkCut(b *testing.B) {
	for _, ticks := range []int{1, 20} {
		b.Run(fmt.Sprintf("ticks=%d", ticks), func(b *testing.B) {
			const series = 5000
			e := site(series, 10)
			now := time.Unix(1_795_000_000, 0)
			s, _, _ := e.Subscribe(Options{Group: "plant", Pace: time.Duration(ticks) * 50 * time.Millisecond})
			defer s.Close()
			fast, _, _ := e.Subscribe(Options{Group: "plant"})
			defer fast.Close()
			x := batch(series, 0, series, now.UnixMilli())
			u, _ := s.Next(now)
			b.ReportAllocs()
			var took time.Duration
			for b.Loop() {
				for range ticks {
					e.Offer(x)
					now = now.Add(50 * time.Millisecond)
					e.step(now)
				}
				s.Painted(u.Frame.Seq)
				begun := time.Now()
				next, ok := s.Next(now)
				took += time.Since(begun)
				if ok {
					u = next
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N)/series, "ns/series-of-frame")
		})
	}
}

func BenchmarkSubscription(b *testing.B) {
	e := site(1000, 10)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var subs []*Subscription
	for b.Loop() {
		s, _, err := e.Subscribe(Options{Group: leaf(3)})
		if err != nil {
			b.Fatal(err)
		}
		subs = append(subs, s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(subs)), "bytes/subscription")
	runtime.KeepAlive(subs)
}

// What ticks are kept for takes what it must: a ring of single samples some 24 bytes each, and what is dropped is used again.
func TestRingIsSmall(t *testing.T) {
	const series, ticks = 1000, 200
	e := site(series, 10)
	s, _, _ := e.Subscribe(Options{Group: "plant"})
	defer s.Close()
	now := time.Unix(1_795_000_000, 0)
	x := batch(series, 0, series, now.UnixMilli())
	cut := func(ticks int) {
		for range ticks {
			e.Offer(x)
			now = now.Add(50 * time.Millisecond)
			e.step(now)
		}
	}
	cut(ticks)
	size := e.Stats().RingBytes
	if per := float64(size) / (series * ticks); per > 28 {
		t.Errorf("%.1f bytes a point", per)
	}
	e.config.RingBytes = size
	cut(ticks)
	if st := e.Stats(); st.RingBytes > size || st.Trims == 0 {
		t.Errorf("a ring of %d bytes: %+v", size, st)
	}
	cut(ticks)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cut(ticks)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(size)/2 {
		t.Errorf("%d bytes allocated for a ring of %d to pass through once more", grown, size)
	}
}

func TestPoolFits(t *testing.T) {
	for n := 1; n < 100_000; n += 1 + n/50 {
		class, size := poolClass(n)
		if again, same := poolClass(size); again != class || same != size {
			t.Fatalf("%d: class %d of %d, then class %d of %d", n, class, size, again, same)
		}
		if size < n || n >= 8 && size-n > n/8 {
			t.Errorf("%d gets %d", n, size)
		}
	}
	var p pool[one]
	s := p.get(100)
	p.put(s)
	if p.held != cap(s)*24 || cap(p.get(99)) != cap(s) || p.held != 0 {
		t.Errorf("held %d", p.held)
	}
	for range 100 {
		p.put(p.get(maxPooled / 24))
		p.put(make([]one, 0, maxPooled/24/9*8))
	}
	if p.held > maxPooled {
		t.Errorf("holds %d bytes", p.held)
	}
}

// The wheel of freshness does not keep what it once held in each of its slots.
func TestWheelIsSmall(t *testing.T) {
	const series = 1000
	e := site(series, 10)
	now := time.Unix(1_795_000_000, 0)
	for range 2 * len(e.wheel.slots) {
		now = now.Add(time.Duration(wheelStep))
		e.Offer(batch(series, 0, series, now.UnixMilli()))
		e.step(now)
	}
	kept := 0
	for _, list := range [][][]look{e.wheel.slots[:], e.wheel.free} {
		for _, looks := range list {
			kept += cap(looks)
		}
	}
	if kept > 20*series || e.wheel.held > 2*series {
		t.Errorf("room for %d looks, %d held, of %d series", kept, e.wheel.held, series)
	}
}
