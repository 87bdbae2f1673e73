package fanout

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/devices"
)

// The model keeps every sample, and what each viewer was shown. Whoever has caught up must show what the samples say.
type model struct {
	t       *rapid.T
	e       *Engine
	now     time.Time
	log     []devices.Sample
	series  map[devices.SeriesID]*modelSeries
	viewers []*viewer
	cutAt   map[*Frame]int // position in log when a snapshot was first seen
	nextID  devices.SeriesID
	full    int // points with their samples
}

type modelSeries struct {
	devices.Series
	given  []devices.GroupPath
	joined map[devices.GroupPath]int // position in log
	last   devices.Sample
	ok     bool
}

type viewer struct {
	Options
	sub    *Subscription
	match  matcher
	woken  bool
	member map[uint32]devices.SeriesID
	seq    uint64 // of the last frame; 0: none
	base   int    // position in log of the snapshot
	shown  map[devices.SeriesID]*shown
	flight []uint64
}

// shown is what the frames a viewer got make of a series.
type shown struct {
	last          Point
	ok            bool
	count         uint64
	min, max, sum float64
}

func newShown() *shown { return &shown{min: inf, max: -inf} }

var testGroups = []devices.GroupPath{"plant", "plant/a", "plant/b", "plant/b/c", "yard"}

func (m *model) addSeries() {
	m.nextID++
	id := m.nextID
	s := &modelSeries{Series: devices.Series{ID: id, Device: devices.ID(fmt.Sprintf("d%d", id%5)), Metric: fmt.Sprintf("m%d", id/5),
		Kind: devices.Kind(rapid.SampledFrom([]uint8{0, 0, 0, 1, 2, 3, 4}).Draw(m.t, "kind"))}, joined: map[devices.GroupPath]int{}}
	if rapid.Bool().Draw(m.t, "interval set") {
		s.ExpectedInterval = time.Second
	}
	m.series[id] = s
	m.setGroups(s, rapid.SliceOfN(rapid.SampledFrom(testGroups), 0, 2).Draw(m.t, "groups"))
}

func (m *model) setGroups(s *modelSeries, groups []devices.GroupPath) {
	s.given = groups
	now := devices.WithAncestors(groups)
	for g := range s.joined {
		if !slices.Contains(now, g) {
			m.leave(s, g)
		}
	}
	for _, g := range now {
		if _, ok := s.joined[g]; !ok {
			s.joined[g] = len(m.log)
		}
	}
	m.e.SetSeries(s.Series, groups)
}

// leave lets viewers forget a series that leaves their group: what they did not get of it is not theirs any more.
func (m *model) leave(s *modelSeries, g devices.GroupPath) {
	delete(s.joined, g)
	for _, v := range m.viewers {
		if v.Group == g {
			delete(v.shown, s.ID)
		}
	}
}

func (m *model) someSeries() *modelSeries {
	ids := make([]devices.SeriesID, 0, len(m.series))
	for id := range m.series {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		m.t.Skip("no series")
	}
	slices.Sort(ids)
	return m.series[rapid.SampledFrom(ids).Draw(m.t, "series")]
}

func (m *model) offer() {
	var batch []devices.Sample
	for range rapid.IntRange(1, 20).Draw(m.t, "batch") {
		s := m.someSeries()
		sm := devices.Sample{Series: s.ID, Kind: s.Kind, Recv: m.now.UnixMilli(),
			At:      m.now.UnixMilli() - int64(rapid.SampledFrom([]int{0, 0, 0, 1, 10, 5000}).Draw(m.t, "late")),
			Quality: devices.Quality(rapid.SampledFrom([]uint8{0, 0, 0, 1, 2}).Draw(m.t, "quality")),
			Value:   float64(rapid.IntRange(-1000, 1000).Draw(m.t, "value"))}
		switch s.Kind {
		case devices.Bool:
			sm.Value = float64(int(sm.Value) & 1)
		case devices.String:
			sm.Text, sm.Value = fmt.Sprint("t", sm.Value), 0
		case devices.Location:
			sm.Lon = -sm.Value
		}
		batch = append(batch, sm)
		if rapid.IntRange(0, 9).Draw(m.t, "repeat") == 0 {
			batch = append(batch, sm)
		}
	}
	for _, sm := range batch {
		m.log = append(m.log, sm)
		if s := m.series[sm.Series]; !s.ok || sm.At >= s.last.At {
			s.last, s.ok = sm, true
		}
	}
	m.e.Offer(batch)
}

// flood offers plain numbers for every numeric series.
func (m *model) flood(r *rand.Rand) {
	for id := range m.nextID + 1 {
		s := m.series[id]
		if s == nil || !s.Kind.Numeric() {
			continue
		}
		for range r.IntN(4) {
			sm := devices.Sample{Series: id, Kind: s.Kind, At: m.now.UnixMilli(), Recv: m.now.UnixMilli(), Value: float64(r.IntN(2000) - 1000)}
			m.log = append(m.log, sm)
			if !s.ok || sm.At >= s.last.At {
				s.last, s.ok = sm, true
			}
			m.e.Offer([]devices.Sample{sm})
		}
	}
}

func (m *model) advance(d time.Duration) {
	m.now = m.now.Add(d)
	m.e.step(m.now)
}

func (m *model) subscribe(v *viewer, from *Position) {
	v.From = from
	v.Wake = func() { v.woken = true }
	sub, start, err := m.e.Subscribe(v.Options)
	if err != nil {
		m.t.Fatal(err)
	}
	v.match, _, _ = parsePatterns(v.Patterns)
	v.sub, v.woken, v.flight = sub, true, nil
	v.member = map[uint32]devices.SeriesID{}
	m.added(v, start.Series)
	for id, s := range m.series {
		if _, in := s.joined[v.Group]; in && v.match.match(&s.Series) {
			if !slices.ContainsFunc(start.Series, func(x Member) bool { return x.ID == id }) {
				m.t.Fatalf("series %d is missing at the start", id)
			}
		}
	}
	if start.Seq == 0 {
		v.seq = 0
	} else if from == nil || start.Seq != from.Seq || start.Seq != v.seq {
		m.t.Fatalf("resumed at %d, viewer is at %d", start.Seq, v.seq)
	}
}

func (m *model) added(v *viewer, members []Member) {
	for _, x := range members {
		if was, ok := v.member[x.Index]; ok && was != x.ID {
			m.t.Fatalf("index %d was %d and became %d", x.Index, was, x.ID)
		}
		s := m.series[x.ID]
		if s == nil || !v.match.match(x.Series) {
			m.t.Fatalf("added %v, which is none of ours", x.Series)
		}
		if _, in := s.joined[v.Group]; !in {
			m.t.Fatalf("added %v, which is not in %s", x.Series, v.Group)
		}
		v.member[x.Index] = x.ID
	}
}

// next takes one update and reports whether there was one.
func (m *model) next(v *viewer) bool {
	u, ok := v.sub.Next(m.now)
	if !ok {
		return false
	}
	for _, i := range u.Removed {
		if _, ok := v.member[i]; !ok {
			m.t.Fatalf("removed %d, which was not announced", i)
		}
		delete(v.member, i)
	}
	m.added(v, u.Added)
	f := u.Frame
	if f == nil {
		return true
	}
	if len(v.flight) >= max(v.Credit, 1) {
		m.t.Fatal("a frame without credit")
	}
	v.flight = append(v.flight, f.Seq)
	if f.Snapshot {
		if v.seq != 0 {
			m.t.Fatal("a snapshot in the middle")
		}
		if _, ok := m.cutAt[f]; !ok {
			m.cutAt[f] = len(m.log)
		}
		v.base = m.cutAt[f]
		v.shown = map[devices.SeriesID]*shown{}
	} else if v.seq == 0 || f.From != v.seq || f.Seq < f.From || len(f.Points) == 0 {
		m.t.Fatalf("frame (%d, %d] of %d points to a viewer at %d", f.From, f.Seq, len(f.Points), v.seq)
	}
	v.seq = f.Seq
	for i := range f.Points {
		p := &f.Points[i]
		if i > 0 && f.Points[i-1].Index >= p.Index {
			m.t.Fatal("indexes don't rise")
		}
		id, ok := v.member[p.Index]
		if !ok || id != p.Series.ID {
			m.t.Fatalf("point of %v, which was not announced", p.Series)
		}
		sh := v.shown[id]
		if sh == nil {
			sh = newShown()
			v.shown[id] = sh
		}
		sh.last, sh.ok = *p, true
		sh.count += uint64(p.Count)
		sh.sum += p.Sum
		if f.Snapshot && (p.Count != 0 || p.Min != p.Last || p.Max != p.Last) {
			m.t.Fatalf("snapshot has news: %+v", p)
		}
		if p.Count > 0 {
			sh.min, sh.max = min(sh.min, p.Min), max(sh.max, p.Max)
		}
		if f.Detail == Full && p.Count > 0 && p.Kind.Numeric() {
			lowest, highest, sum := inf, -inf, 0.0
			for _, s := range p.Samples {
				lowest, highest, sum = min(lowest, s.V), max(highest, s.V), sum+s.V
			}
			switch {
			case f.Truncated && p.Samples != nil:
				m.t.Fatal("samples in a frame that has none")
			case !f.Truncated && (len(p.Samples) != int(p.Count) || lowest != p.Min || highest != p.Max || math.Abs(sum-p.Sum) > 1e-6):
				m.t.Fatalf("samples %v of %+v", p.Samples, p)
			}
			if !f.Truncated {
				m.full++
			}
		}
	}
	return true
}

func (m *model) paint(v *viewer) {
	if n := len(v.flight); n > 0 {
		v.sub.Painted(v.flight[n-1])
		v.flight = nil
	}
}

// catchUp lets a viewer get all there is, by Wake only, and compares.
func (m *model) catchUp(v *viewer) {
	m.paint(v)
	m.advance(max(v.Pace, 200*time.Millisecond))
	for range 100 {
		m.paint(v)
		if !v.woken {
			break
		}
		v.woken = false
		for m.next(v) {
			m.paint(v)
		}
		m.advance(max(v.Pace, 200*time.Millisecond))
	}
	if len(v.flight) > 0 || v.woken {
		m.t.Fatal("a viewer never catches up")
	}
	want := map[devices.SeriesID]*shown{}
	for id, s := range m.series {
		if _, in := s.joined[v.Group]; in && v.match.match(&s.Series) {
			want[id] = newShown()
		}
	}
	if len(v.member) != len(want) {
		m.t.Fatalf("viewer knows %d series, want %d", len(v.member), len(want))
	}
	for at, sm := range m.log {
		w := want[sm.Series]
		if w == nil || at < v.base || at < m.series[sm.Series].joined[v.Group] {
			continue
		}
		w.count++
		if sm.Kind.Numeric() {
			w.min, w.max = min(w.min, sm.Value), max(w.max, sm.Value)
			w.sum += sm.Value
		}
	}
	for id, w := range want {
		s := m.series[id]
		got := v.shown[id]
		if got == nil {
			got = newShown()
		}
		if got.ok != s.ok {
			m.t.Fatalf("series %d: has value %v, want %v", id, got.ok, s.ok)
		}
		if !s.ok {
			continue
		}
		p, l := got.last, s.last
		if p.T != l.At || p.Last != l.Value || p.Text != l.Text || p.Lon != l.Lon || p.Kind != l.Kind {
			m.t.Fatalf("series %d shows %+v, want %+v", id, p, l)
		}
		stale := m.e.LastValues([]devices.SeriesID{id})[0].Quality == devices.Stale
		if (p.Quality == devices.Stale) != stale {
			m.t.Fatalf("series %d shows %v, is stale: %v", id, p.Quality, stale)
		}
		if got.count != w.count || math.Abs(got.sum-w.sum) > 1e-6 {
			m.t.Fatalf("series %d of %s: frames count %d sum %v, want %d and %v", id, v.Group, got.count, got.sum, w.count, w.sum)
		}
		if s.Kind.Numeric() && (got.min != w.min || got.max != w.max) {
			m.t.Fatalf("series %d: frames have [%v, %v], want [%v, %v]", id, got.min, got.max, w.min, w.max)
		}
	}
}

func (m *model) someViewer() *viewer {
	if len(m.viewers) == 0 {
		m.t.Skip("no viewers")
	}
	return rapid.SampledFrom(m.viewers).Draw(m.t, "viewer")
}

func TestModel(t *testing.T) {
	var sum Stats
	full := 0
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, now: time.Unix(1_795_000_000, 0), series: map[devices.SeriesID]*modelSeries{}, cutAt: map[*Frame]int{}}
		m.e = New(Config{Ring: time.Duration(rapid.SampledFrom([]int{300, 3000, 30_000}).Draw(t, "ring")) * time.Millisecond,
			RingBytes: rapid.SampledFrom([]int{3000, 30_000, 10 << 20}).Draw(t, "ring bytes"), FullSamples: rapid.SampledFrom([]int{10, 1000}).Draw(t, "full")})
		for i, g := range testGroups {
			m.e.SetGroup(devices.Group{Path: g, Tick: time.Duration(i*30) * time.Millisecond})
		}
		m.e.step(m.now)
		for range rapid.IntRange(1, 12).Draw(t, "series") {
			m.addSeries()
		}
		t.Repeat(map[string]func(*rapid.T){
			"offer":   func(*rapid.T) { m.offer() },
			"offer 2": func(*rapid.T) { m.offer() },
			"advance": func(t *rapid.T) {
				m.advance(time.Duration(rapid.SampledFrom([]int{1, 20, 60, 200, 1500}).Draw(t, "ms")) * time.Millisecond)
			},
			"new": func(t *rapid.T) {
				if len(m.viewers) == 6 {
					t.Skip("enough")
				}
				v := &viewer{Options: Options{Group: rapid.SampledFrom(testGroups).Draw(t, "group"),
					Patterns: rapid.SampledFrom([][]string{nil, {"d1/*"}, {"*/m0"}, {"d1/m0", "d2/m1", "d3/*"}}).Draw(t, "patterns"),
					Pace:     time.Duration(rapid.SampledFrom([]int{0, 0, 200, 1000}).Draw(t, "pace")) * time.Millisecond,
					Detail:   Detail(rapid.IntRange(0, 2).Draw(t, "detail")), Credit: rapid.IntRange(0, 2).Draw(t, "credit")}}
				if len(m.viewers) > 0 && rapid.Bool().Draw(t, "same") {
					v.Options = m.someViewer().Options
				}
				m.subscribe(v, nil)
				m.viewers = append(m.viewers, v)
			},
			"next":  func(*rapid.T) { m.next2() },
			"paint": func(*rapid.T) { m.paint(m.someViewer()) },
			"catch up": func(*rapid.T) {
				m.catchUp(m.someViewer())
			},
			"resume": func(t *rapid.T) {
				v := m.someViewer()
				v.sub.Close()
				if len(m.series) > 0 && rapid.Bool().Draw(t, "away") {
					m.offer()
					m.advance(time.Duration(rapid.SampledFrom([]int{1, 100, 5000}).Draw(t, "ms")) * time.Millisecond)
				}
				at := &Position{m.e.config.Epoch, v.seq}
				switch rapid.IntRange(0, 9).Draw(t, "position") {
				case 0:
					at.Epoch = "other"
				case 1:
					at.Seq += 1_000_000
				}
				m.subscribe(v, at)
			},
			"leave": func(*rapid.T) {
				v := m.someViewer()
				v.sub.Close()
				m.viewers = slices.DeleteFunc(m.viewers, func(x *viewer) bool { return x == v })
			},
			"add series": func(*rapid.T) { m.addSeries() },
			"move series": func(t *rapid.T) {
				m.setGroups(m.someSeries(), rapid.SliceOfN(rapid.SampledFrom(testGroups), 0, 3).Draw(t, "groups"))
			},
			"change series": func(t *rapid.T) {
				s := m.someSeries()
				s.Unit += "x"
				m.setGroups(s, s.given)
			},
			"remove series": func(*rapid.T) {
				s := m.someSeries()
				for g := range s.joined {
					m.leave(s, g)
				}
				m.e.RemoveSeries(s.ID)
				delete(m.series, s.ID)
			},
			"fold": func(*rapid.T) { m.e.workOffFolds() },
			"flood": func(t *rapid.T) {
				for range rapid.IntRange(1, 10).Draw(t, "rounds") {
					m.flood(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
					m.advance(60 * time.Millisecond)
				}
			},
			"all next": func(*rapid.T) {
				for _, v := range m.viewers {
					v.woken = true
					m.next(v)
				}
			},
			"all paint": func(*rapid.T) {
				for _, v := range m.viewers {
					m.paint(v)
				}
			},
		})
		for _, v := range m.viewers {
			m.catchUp(v)
		}
		full += m.full
		st := m.e.Stats()
		sum.Folds += st.Folds
		sum.FramesShared += st.FramesShared
		sum.Trims += st.Trims
		sum.LateSamples += st.LateSamples
		if st.Samples != uint64(len(m.log)) || st.Series != len(m.series) || st.Subscriptions != len(m.viewers) {
			t.Fatalf("stats %+v, want %d samples, %d series, %d viewers", st, len(m.log), len(m.series), len(m.viewers))
		}
	})
	if !t.Failed() && (sum.Folds == 0 || sum.FramesShared == 0 || sum.Trims == 0 || sum.LateSamples == 0 || full == 0) {
		t.Errorf("the runs did not reach all: %+v", sum)
	}
}

func (m *model) next2() {
	v := m.someViewer()
	v.woken = true // so that catchUp looks, whatever this consumed
	m.next(v)
}
