package fanout

import (
	"slices"
	"strings"
	"time"

	"millrace/devices"
)

// A group is what one subscribes to. All fields are guarded by Engine.mu.
type group struct {
	path    devices.GroupPath
	set     bool // by SetGroup; false: only named by a series
	tick    int64
	cells   []*cell
	sets    map[string]*interest // by patterns
	classes []*class
	viewers int
	full    int    // viewers with detail full
	floor   uint64 // a cursor before it can't be resumed; cells have floors of their own
	lastSeq uint64 // of the newest tick in any of its cells

	listening bool  // its cells tell Run of their first change
	active    bool  // in Engine.active
	nextCut   int64 // monotonic; not before
	wakeAt    int64 // monotonic; when Run looks at it again
}

// A class is the subscriptions of a group with the same pace. They get their frames at the same cuts and so share them.
type class struct {
	pace   int64 // ns
	head   uint64
	nextAt int64 // monotonic; not before
	subs   []*Subscription
}

// A cell is the series that are in exactly the same groups. A sample is conflated once, here, however many groups it belongs to:
// a group's ticks are the ticks of its cells.
type cell struct {
	key    string
	groups []*group // with those above, sorted by path; never changes

	// Guarded by Engine.mu.
	slots []devices.SeriesID // 0: retired. A slot is never used again, as ticks in the ring may still name it
	live  int
	left  []retired
	ring  []*tick // by rising seq
	floor uint64  // ticks up to it are gone
	dead  bool    // had neither series nor ticks when trimOld last looked
	spare []point // the closed tick's, then becomes open at the next cut

	// Guarded by Engine.in.
	open      []point // the open tick
	aux       []textLon
	raw       []raw
	rawAll    bool   // raw has all samples of the open tick
	gen       uint32 // number of the open tick, never 0
	listeners int    // listening groups
	full      int    // viewers with detail full
	stale     int
	lastRecv  int64
	rateEnd   int64 // Unix ms
	second    int   // index of the present second in rate
	rate      [rateSeconds + 1]uint32
}

// retired is a slot whose series went to another cell or away, as long as there are ticks that name it.
type retired struct {
	slot uint32
	id   devices.SeriesID
	move uint64 // Engine.moves then
	seq  uint64 // the last tick that can name it
}

func (c *cell) setAux(p *point, a textLon) {
	if p.aux == 0 {
		c.aux = append(c.aux, a)
		p.aux = uint32(len(c.aux))
	} else {
		c.aux[p.aux-1] = a
	}
}

// record keeps a sample for detail full; over the bound all of the tick's are given up.
func (c *cell) record(slot uint32, t int64, v float64, bound int) {
	if !c.rawAll {
		return
	}
	if len(c.raw) >= bound {
		c.raw, c.rawAll = nil, false
		return
	}
	c.raw = append(c.raw, raw{slot, t, v})
}

// SetGroup adds a group or changes its tick.
func (e *Engine) SetGroup(g devices.Group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	to := e.group(g.Path)
	to.set = true
	tick := g.Tick
	if tick <= 0 {
		tick = devices.DefaultTick
	}
	to.tick = int64(min(max(tick, devices.MinTick), devices.MaxTick))
}

// group returns the group with this path, making it if needed.
func (e *Engine) group(p devices.GroupPath) *group {
	g := e.groups[p]
	if g == nil {
		g = &group{path: p, tick: int64(devices.DefaultTick), sets: map[string]*interest{}, floor: e.seq, lastSeq: e.seq}
		e.groups[p] = g
	}
	return g
}

// RemoveGroup ends the group's subscriptions (their Err becomes ErrNotFound). Its series stay in the groups above.
func (e *Engine) RemoveGroup(p devices.GroupPath) {
	var ended []*Subscription
	e.mu.Lock()
	g := e.groups[p]
	if g == nil {
		e.mu.Unlock()
		return
	}
	g.set = false
	for _, set := range g.sets {
		ended = append(ended, set.subs...)
	}
	for _, s := range ended {
		s.err = devices.ErrNotFound
		e.detach(s)
	}
	e.dropGroup(g)
	e.mu.Unlock()
	wake(ended)
}

// dropGroup forgets a group that nothing refers to.
func (e *Engine) dropGroup(g *group) {
	if !g.set && len(g.cells) == 0 && g.viewers == 0 {
		delete(e.groups, g.path)
	}
}

// SetSeries adds a series or changes its settings and groups (as given: the groups above follow). Viewers are told
// of the series as far as their interest covers it, before its next point.
func (e *Engine) SetSeries(s devices.Series, groups []devices.GroupPath) {
	if s.ID == 0 {
		return
	}
	var woken []*Subscription
	e.mu.Lock()
	id := s.ID
	if n := int(id) + 1; n > len(e.cold) {
		e.cold = append(e.cold, make([]cold, n-len(e.cold))...)
		e.in.Lock()
		e.series = append(e.series, make([]hot, n-len(e.series))...)
		e.in.Unlock()
	}
	was := e.cold[id]
	if was.series != nil && (was.series.Device != s.Device || was.series.Metric != s.Metric) {
		woken = e.removeSeries(id, woken)
		was = cold{}
	}
	paths := devices.WithAncestors(groups)
	slices.Sort(paths)
	in := make([]*group, len(paths))
	for i, p := range paths {
		in[i] = e.group(p)
	}
	now := was
	now.groups, now.since = in, make([]uint64, len(in))
	e.moves++
	for i, g := range in {
		now.since[i] = e.moves
		if k := slices.Index(was.groups, g); k >= 0 {
			now.since[i] = was.since[k]
		}
	}
	changed := was.series == nil || !equalSeries(was.series, &s)
	if changed {
		now.series = &s
	}
	if was.series == nil {
		e.byDevice[s.Device] = append(e.byDevice[s.Device], id)
	}
	moved := was.series == nil || !slices.Equal(was.groups, in)
	e.cold[id] = now
	if moved {
		e.move(id, in)
	}
	e.in.Lock()
	e.setInterval(&e.series[id], id, s.ExpectedInterval)
	e.unlockIn()
	if changed || moved {
		woken = e.retell(id, was.groups, woken)
	}
	e.sweepCells(was.groups)
	e.mu.Unlock()
	wake(woken)
}

func equalSeries(a, b *devices.Series) bool {
	limit := func(x, y *float64) bool { return x == y || x != nil && y != nil && *x == *y }
	return a.Kind == b.Kind && a.Label == b.Label && a.Unit == b.Unit && a.ExpectedInterval == b.ExpectedInterval &&
		limit(a.Low, b.Low) && limit(a.High, b.High)
}

// RemoveSeries forgets a series; viewers are told.
func (e *Engine) RemoveSeries(id devices.SeriesID) {
	var woken []*Subscription
	e.mu.Lock()
	if uint(id) < uint(len(e.cold)) && e.cold[id].series != nil {
		woken = e.removeSeries(id, woken)
	}
	e.mu.Unlock()
	wake(woken)
}

func (e *Engine) removeSeries(id devices.SeriesID, woken []*Subscription) []*Subscription {
	was := e.cold[id]
	e.cold[id] = cold{}
	e.moves++
	e.move(id, nil)
	e.in.Lock()
	e.series[id] = hot{}
	if int(id) < len(e.text) {
		e.text[id] = textLon{}
	}
	e.in.Unlock()
	of := slices.DeleteFunc(e.byDevice[was.series.Device], func(x devices.SeriesID) bool { return x == id })
	if len(of) == 0 {
		delete(e.byDevice, was.series.Device)
	} else {
		e.byDevice[was.series.Device] = of
	}
	woken = e.retell(id, was.groups, woken)
	e.sweepCells(was.groups)
	return woken
}

// move puts a series into the cell of the groups; nil takes it out of all. What is open in its old cell is cut first, so that
// the series' points keep their order.
func (e *Engine) move(id devices.SeriesID, to []*group) {
	e.in.Lock()
	s := &e.series[id]
	old, slot, pending := s.cell, s.slot, s.cell != nil && s.gen == s.cell.gen
	e.in.Unlock()
	if old != nil {
		if pending && len(old.groups) > 0 {
			e.flush([]*cell{old}, e.lastTime())
		}
		old.slots[slot] = 0
		old.live--
		old.left = append(old.left, retired{slot, id, e.moves, e.seq})
	}
	var c *cell
	if to != nil {
		c = e.cell(to)
		c.slots = append(c.slots, id)
		c.live++
	}
	e.in.Lock()
	defer e.unlockIn()
	if old != nil && s.flags&isStale != 0 {
		old.stale--
	}
	s.cell, s.gen = c, 0
	if c == nil {
		return
	}
	s.slot = uint32(len(c.slots) - 1)
	if s.flags&isStale != 0 {
		c.stale++
	}
	e.announce(s, id)
}

// cell returns the cell of series that are in exactly these groups, sorted by path.
func (e *Engine) cell(in []*group) *cell {
	var key strings.Builder
	for _, g := range in {
		key.WriteString(string(g.path))
		key.WriteByte('\n')
	}
	c := e.cells[key.String()]
	if c != nil {
		return c
	}
	c = &cell{key: key.String(), groups: in, gen: 1, floor: e.seq}
	for _, g := range in {
		g.cells = append(g.cells, c)
		c.full += g.full
		if g.listening {
			c.listeners++
		}
	}
	c.rawAll = c.full > 0
	e.cells[c.key] = c
	return c
}

// sweepCells forgets cells of the groups that never had a tick and have no series any more, and groups that nothing refers to.
// Cells that had ticks wait for trimOld.
func (e *Engine) sweepCells(of []*group) {
	for _, g := range of {
		for _, c := range slices.Clone(g.cells) {
			if c.live == 0 && c.gen == 1 {
				e.dropCell(c)
			} else if c.live == 0 && e.trimAt == 0 {
				e.trimAt = e.lastTime() + int64(e.config.Ring)/8
			}
		}
		e.dropGroup(g)
	}
}

func (e *Engine) dropCell(c *cell) {
	delete(e.cells, c.key)
	for _, g := range c.groups {
		g.floor = max(g.floor, c.floor)
		g.cells = slices.DeleteFunc(g.cells, func(x *cell) bool { return x == c })
		for _, set := range g.sets {
			set.mu.Lock()
			delete(set.maps, c)
			set.mu.Unlock()
		}
		e.dropGroup(g)
	}
}

// retell brings the interest sets of the groups a series was and is in up to date, and returns who is to be woken.
func (e *Engine) retell(id devices.SeriesID, was []*group, woken []*Subscription) []*Subscription {
	now := e.cold[id]
	for _, g := range was {
		if !slices.Contains(now.groups, g) {
			for _, set := range g.sets {
				if set.remove(id) {
					woken = set.news(woken)
				}
			}
		}
	}
	if now.series == nil {
		return woken
	}
	e.in.Lock()
	c, slot := e.series[id].cell, e.series[id].slot
	e.in.Unlock()
	for _, g := range now.groups {
		for _, set := range g.sets {
			if set.add(now.series, c, slot) {
				woken = set.news(woken)
			}
		}
	}
	return woken
}

// firstTime is the first monotonic time: late enough that 0 means long ago.
const firstTime = int64(1 << 52)

// lastTime is the newest time that was seen; for changes of the inventory, which come without one.
func (e *Engine) lastTime() int64 { return max(e.seen, firstTime) }

// mono turns a time into nanoseconds since the first that was seen; steps of the wall clock don't touch it.
func (e *Engine) mono(now time.Time) int64 {
	if e.base.IsZero() {
		e.base = now
	}
	e.seen = max(e.seen, firstTime+int64(now.Sub(e.base)))
	return e.seen
}
