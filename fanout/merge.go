package fanout

import (
	"math"
	"math/bits"
	"sync"

	"millrace/devices"
)

var inf = math.Inf(1)

// A point is what a tick made of one series' samples, and its state at the end. 64 bytes.
type point struct {
	slot  uint32 // of the series in its cell
	count uint32
	aux   uint32          // 1 + index of text and longitude in the tick's aux; 0: none
	worst devices.Quality // of the samples; of the last value if there were none
	kind  devices.Kind    // of last
	stale bool            // at the end
	t     int64           // time of last, Unix ms

	first, last, min, max, sum float64 // min > max: no numeric sample
}

// merge adds what came after p. It is associative; aux is left to the caller.
func (p *point) merge(later *point) {
	switch {
	case later.count == 0 && p.count > 0:
	case later.count > 0 && p.count > 0:
		p.worst = max(p.worst, later.worst)
	default:
		p.worst, p.first = later.worst, later.first
	}
	if p.count += later.count; p.count < later.count {
		p.count = math.MaxUint32
	}
	p.t, p.last, p.kind, p.stale = later.t, later.last, later.kind, later.stale
	p.min, p.max = min(p.min, later.min), max(p.max, later.max)
	p.sum += later.sum
}

// raw is one sample, kept for detail "full".
type raw struct {
	slot uint32
	t    int64
	v    float64
}

// A fold holds what ticks that fell off the ring made of an interest set, for the subscriptions whose cursor they would have
// passed. It is worked out once, by the folding goroutine or by the first that needs it, and does not change afterwards.
type fold struct {
	set   *interest
	base  *fold   // what came before ticks; nil: nothing
	ticks []*tick // by rising seq
	once  sync.Once
	acc   []accPoint // by index of member
}

// accPoint is a point with its aux, and whose it is.
type accPoint struct {
	point
	textLon
	life uint32 // member.life: a member that left and came back starts anew
	has  bool
}

func (f *fold) points() []accPoint {
	f.once.Do(func() {
		var base []accPoint
		if f.base != nil {
			base = f.base.points()
		}
		s := f.set
		s.mu.Lock()
		defer s.mu.Unlock()
		f.acc = make([]accPoint, len(s.members))
		copy(f.acc, base)
		var room point
		for _, t := range f.ticks {
			slots := s.maps[t.cell]
			for i := range t.len() {
				p := t.point(i, &room)
				if int(p.slot) >= len(slots) || slots[p.slot] == 0 {
					continue
				}
				k := slots[p.slot] - 1
				a := &f.acc[k]
				if life := s.members[k].life; !a.has || a.life != life {
					a.point, a.has, a.life = *p, true, life
				} else {
					a.point.merge(p)
				}
				if p.aux > 0 {
					a.textLon = t.aux[p.aux-1]
				}
			}
		}
		releaseAll(f.ticks)
		f.ticks, f.base = nil, nil
	})
	return f.acc
}

// A cutting is a frame that is made once for all who ask for the same.
type cutting struct {
	key   cutKey
	set   *interest
	ticks []*tick // by rising seq
	at    int64   // Unix ms
	known uint64  // interest.version when it was asked for
	once  sync.Once
	frame *Frame
}

// cutKey says what a frame holds: the fold, then the ticks in (after, to]. from is only what the frame says of itself.
type cutKey struct {
	from, after, to uint64
	fold            *fold
	detail          Detail
	snapshot        bool
}

func (c *cutting) cut(e *Engine) *Frame {
	c.once.Do(func() {
		f := &Frame{Group: c.set.group.path, Epoch: e.config.Epoch, From: c.key.from, Seq: c.key.to,
			Snapshot: c.key.snapshot, At: c.at, Detail: c.key.detail, count: &e.count}
		var acc []accPoint
		if c.key.fold != nil {
			acc = c.key.fold.points()
		}
		if c.key.snapshot {
			c.set.snapshot(e, f, c.known)
			e.count.snapshots.Add(1)
		} else {
			c.set.merge(f, acc, c.ticks, e.config.FullSamples)
		}
		if len(f.Points) > 0 || f.Snapshot {
			e.count.framesCut.Add(1)
		}
		c.frame = f
		releaseAll(c.ticks)
		c.ticks = nil
	})
	return c.frame
}

// merge fills a frame with the merge of acc and ticks for the members of the set.
func (s *interest) merge(f *Frame, acc []accPoint, ticks []*tick, maxSamples int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.members); len(s.work) < n {
		s.work = make([]accPoint, n+n/8)
		s.marks = make([]uint64, (len(s.work)+63)/64)
	}
	work, marks := s.work, s.marks
	n := 0
	for k := range acc {
		if m := &s.members[k]; acc[k].has && acc[k].life == m.life && !m.gone {
			work[k] = acc[k]
			marks[k/64] |= 1 << (k % 64)
			n++
		}
	}
	for _, t := range ticks {
		slots := s.maps[t.cell]
		for i := range t.ones {
			o := &t.ones[i]
			if int(o.slot) >= len(slots) || slots[o.slot] == 0 {
				continue
			}
			k := slots[o.slot] - 1
			if bit := uint64(1) << (k % 64); marks[k/64]&bit == 0 {
				marks[k/64] |= bit
				work[k].point = o.point()
				n++
			} else {
				work[k].add(o)
			}
		}
		for i := range t.points {
			p := &t.points[i]
			if int(p.slot) >= len(slots) || slots[p.slot] == 0 {
				continue
			}
			k := slots[p.slot] - 1
			w := &work[k]
			if bit := uint64(1) << (k % 64); marks[k/64]&bit == 0 {
				marks[k/64] |= bit
				w.point = *p
				n++
			} else {
				w.point.merge(p)
			}
			if p.aux > 0 {
				w.textLon = t.aux[p.aux-1]
			}
		}
	}
	if n == 0 {
		return
	}
	f.Points = make([]Point, n)
	at := 0
	for i := range marks {
		for word := marks[i]; word != 0; word &= word - 1 {
			k := i*64 + bits.TrailingZeros64(word)
			work[k].fill(&f.Points[at], uint32(k), s.members[k].series)
			work[k].textLon = textLon{}
			at++
		}
		marks[i] = 0
	}
	if f.Detail == Full {
		f.Truncated = acc != nil || !s.addSamples(f, ticks, maxSamples)
	}
}

// fill makes of p what a frame shows.
func (p *accPoint) fill(out *Point, index uint32, series *devices.Series) {
	*out = Point{Member: Member{index, series}, Kind: p.kind, Quality: p.worst, T: p.t, First: p.first, Last: p.last,
		Min: p.min, Max: p.max, Sum: p.sum, Count: p.count}
	if p.stale {
		out.Quality = devices.Stale
	}
	if p.min > p.max || !p.kind.Numeric() || p.count == 0 {
		out.Min, out.Max = p.last, p.last
	}
	switch p.kind {
	case devices.String:
		out.Text = p.text
	case devices.Location:
		out.Lon = p.lon
	}
}

// addSamples fills in the samples of a frame's points and reports whether all are there; if not, none are.
func (s *interest) addSamples(f *Frame, ticks []*tick, maxSamples int) bool {
	at := make(map[uint32]*Point, len(f.Points))
	for i := range f.Points {
		at[f.Points[i].Index] = &f.Points[i]
	}
	each := func(do func(p *Point, r *raw)) {
		for _, t := range ticks {
			slots := s.maps[t.cell]
			for i := range t.raw {
				r := &t.raw[i]
				if int(r.slot) < len(slots) && slots[r.slot] > 0 {
					do(at[slots[r.slot]-1], r)
				}
			}
		}
	}
	for _, t := range ticks {
		if !t.rawAll && len(s.maps[t.cell]) > 0 {
			return false
		}
	}
	total := 0
	sizes := make(map[*Point]int, len(f.Points))
	each(func(p *Point, _ *raw) { sizes[p]++; total++ })
	if total > maxSamples {
		return false
	}
	all := make([]TimedValue, 0, total)
	for i := range f.Points {
		if n := sizes[&f.Points[i]]; n > 0 {
			f.Points[i].Samples = all[len(all) : len(all) : len(all)+n]
			all = all[:len(all)+n]
		}
	}
	each(func(p *Point, r *raw) { p.Samples = append(p.Samples, TimedValue{r.t, r.v}) })
	return true
}

// snapshot fills a frame with the present state of the members that have a value. It takes Engine.in for some hundred
// series at a time, so a value may be newer than the frame's number; the next frame then has it, too.
// Members that came after the version known are left out: what they had on coming is in a later tick.
func (s *interest) snapshot(e *Engine, f *Frame, known uint64) {
	const some = 256
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Points = make([]Point, 0, s.live)
	for k := 0; k < len(s.members); {
		end := min(k+some, len(s.members))
		e.in.Lock()
		for ; k < end; k++ {
			m := &s.members[k]
			if m.gone || m.since > known {
				continue
			}
			h := &e.series[m.series.ID]
			if h.cell == nil || h.flags&hasValue == 0 {
				continue
			}
			p := Point{Member: Member{uint32(k), m.series}, Kind: h.kind, Quality: h.shown(), T: h.at,
				First: h.value, Last: h.value, Min: h.value, Max: h.value}
			switch h.kind {
			case devices.String:
				p.Text = e.text[m.series.ID].text
			case devices.Location:
				p.Lon = e.text[m.series.ID].lon
			}
			f.Points = append(f.Points, p)
		}
		e.in.Unlock()
	}
}
