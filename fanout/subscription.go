package fanout

import (
	"fmt"
	"slices"
	"time"

	"millrace/devices"
)

// Options of a subscription.
type Options struct {
	Group    devices.GroupPath
	Patterns []string      // "device/metric", each part may be "*"; nil: all. ErrInvalid when malformed, ErrTooLarge over MaxPatterns
	Pace     time.Duration // least time between frames; 0: the group's tick
	Detail   Detail
	Credit   int       // frames sent but not yet acknowledged as painted: 1 or 2; 0 means 1
	From     *Position // resume after it if still possible, else the first frame is a snapshot
	// Wake is called when Next may have something. It must only signal (it runs inside the engine's tick): a non-blocking send, say.
	Wake func()
}

// Start is the answer to subscribe. Seq is where a resumed subscription goes on, which is From; it is 0 when the first frame
// will be a snapshot. (A viewer that loses its connection before that frame and resumes from 0 gets a snapshot again.)
type Start struct {
	Position
	Series []Member // those there now; more come by Update.Added
}

// Subscription is one viewer's interest in one group from a cursor on. Its methods are for one goroutine at a time; Close
// may come from any.
type Subscription struct {
	engine   *Engine
	set      *interest
	class    *class
	detail   Detail
	most     int // credit in all
	wakeFunc func()

	// Guarded by Engine.mu.
	cursor   uint64 // Seq of the last frame sent
	pos      uint64 // what came up to here is sent, in fold, or was nothing for this set
	fold     *fold
	fresh    bool     // the first frame is a snapshot, and has not been cut
	told     uint64   // version of the members that the viewer was told of
	known    []uint64 // bits: indexes that the viewer knows
	inFlight []uint64
	idle     bool // Next had nothing: Wake is owed when that changes
	closed   bool
	err      error
}

// maxPace bounds Options.Pace.
const maxPace = 24 * time.Hour

// Subscribe returns a subscription and what it starts with, under one lock: nothing is missed or comes twice. ErrNotFound: no
// such group.
func (e *Engine) Subscribe(o Options) (*Subscription, Start, error) {
	m, key, err := parsePatterns(o.Patterns)
	if err != nil {
		return nil, Start{}, fmt.Errorf("subscribe to %s: %w", o.Group, err)
	}
	if o.Detail > Full {
		return nil, Start{}, devices.Invalid("detail", "must be last, envelope or full")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[o.Group]
	if g == nil || !g.set {
		return nil, Start{}, fmt.Errorf("group %s: %w", o.Group, devices.ErrNotFound)
	}
	t := e.lastTime()
	set := e.interest(g, m, key)
	s := &Subscription{engine: e, set: set, detail: o.Detail, most: min(max(o.Credit, 1), 2), wakeFunc: o.Wake,
		told: set.version, idle: true, fresh: true}
	if g.viewers == 0 {
		e.in.Lock()
		g.listen(true)
		e.in.Unlock()
	}
	g.viewers++
	e.subs++
	e.flush(g.cells, t)
	if o.Detail == Full {
		e.keepSamples(g, 1)
	}
	start := Start{Position: Position{Epoch: e.config.Epoch}}
	if from := o.From; from != nil && from.Epoch == e.config.Epoch && from.Seq <= e.seq && from.Seq >= g.resumable() {
		s.fresh = false
		s.cursor, s.pos = from.Seq, from.Seq
		start.Seq = from.Seq
	}
	s.join(g, int64(min(max(o.Pace, 0), maxPace)))
	set.subs = append(set.subs, s)
	s.known = make([]uint64, (len(set.members)+63)/64)
	for k := range set.members {
		if m := &set.members[k]; !m.gone {
			start.Series = append(start.Series, Member{uint32(k), m.series})
			s.known[k/64] |= 1 << (k % 64)
		}
	}
	// What was flushed is news for those who watch already.
	e.activate(g, max(t, g.nextCut))
	e.signalRun()
	return s, start, nil
}

// signalRun makes Run look at what is active.
func (e *Engine) signalRun() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// resumable is the least cursor whose following ticks are all there. It is never 0.
func (g *group) resumable() uint64 {
	floor := g.floor
	for _, c := range g.cells {
		floor = max(floor, c.floor)
	}
	return floor
}

// join puts s into the class of its pace.
func (s *Subscription) join(g *group, pace int64) {
	pace = (pace + int64(time.Millisecond) - 1) / int64(time.Millisecond) * int64(time.Millisecond)
	if pace <= g.tick {
		pace = 0
	}
	i := slices.IndexFunc(g.classes, func(c *class) bool { return c.pace == pace })
	if i < 0 {
		i = len(g.classes)
		g.classes = append(g.classes, &class{pace: pace, head: g.lastSeq})
	}
	s.class = g.classes[i]
	s.class.subs = append(s.class.subs, s)
}

// keepSamples counts a viewer with detail full in or out.
func (e *Engine) keepSamples(g *group, n int) {
	g.full += n
	e.in.Lock()
	for _, c := range g.cells {
		c.full += n
		if c.full == 0 {
			c.raw, c.rawAll = nil, false
		} else if len(c.open) == 0 {
			c.rawAll = true
		}
	}
	e.in.Unlock()
}

func (s *Subscription) credit() bool { return len(s.inFlight) < s.most }

// Next returns what to send now, in order: membership changes come before the first point that needs them. ok is false when
// nothing is due: wait for Wake. Next takes one credit for a frame.
func (s *Subscription) Next(now time.Time) (u Update, ok bool) {
	e := s.engine
	e.mu.Lock()
	for {
		switch {
		case s.closed:
			e.mu.Unlock()
			return Update{}, false
		case s.told < s.set.version:
			if s.changes(&u); len(u.Added)+len(u.Removed) > 0 {
				e.mu.Unlock()
				return u, true
			}
			continue
		case !s.credit():
			s.idle = true
			e.mu.Unlock()
			return Update{}, false
		}
		var c *cutting
		from := s.cursor
		if s.fresh {
			c = e.snapshot(s.set, s.detail, now)
			s.fresh = false
			s.cursor = c.key.to
		} else {
			to := max(s.class.head, s.pos)
			if to == s.pos && s.fold == nil {
				s.idle = true
				e.mu.Unlock()
				return Update{}, false
			}
			c = s.set.cutting(e, cutKey{from: from, after: s.pos, to: to, fold: s.fold, detail: s.detail}, now.UnixMilli())
		}
		s.pos, s.fold = c.key.to, nil
		e.mu.Unlock()
		f := c.cut(e)
		e.mu.Lock()
		if s.closed {
			e.mu.Unlock()
			return Update{}, false
		}
		if len(f.Points) > 0 || f.Snapshot {
			s.cursor = f.Seq
			s.inFlight = append(s.inFlight, f.Seq)
			e.mu.Unlock()
			return Update{Frame: f}, true
		}
	}
}

// changes tells what is different in the members since s was last told.
func (s *Subscription) changes(u *Update) {
	if n := (len(s.set.members) + 63) / 64; n > len(s.known) {
		s.known = append(s.known, make([]uint64, n-len(s.known))...)
	}
	for k := range s.set.members {
		m, word, bit := &s.set.members[k], &s.known[k/64], uint64(1)<<(k%64)
		switch {
		case m.changed <= s.told:
		case !m.gone:
			u.Added = append(u.Added, Member{uint32(k), m.series})
			*word |= bit
		case *word&bit != 0:
			u.Removed = append(u.Removed, uint32(k))
			*word &^= bit
		}
	}
	s.told = s.set.version
}

// snapshot returns the state of a set and cuts what is open first. Those who come within a tick share one.
func (e *Engine) snapshot(set *interest, d Detail, now time.Time) *cutting {
	t := e.mono(now)
	if c := set.snap; c != nil && c.key.detail == d && t-set.snapAt < set.group.tick && c.key.to >= set.group.resumable() {
		e.count.framesShared.Add(1)
		return c
	}
	e.flush(set.group.cells, t)
	e.activate(set.group, max(t, set.group.nextCut))
	e.signalRun()
	set.snap = &cutting{key: cutKey{from: e.seq, after: e.seq, to: e.seq, detail: d, snapshot: true}, set: set, at: now.UnixMilli(), known: set.version}
	set.snapAt = t
	return set.snap
}

// Painted gives back the credit of all frames up to seq.
func (s *Subscription) Painted(seq uint64) {
	e := s.engine
	e.mu.Lock()
	n := 0
	for n < len(s.inFlight) && s.inFlight[n] <= seq {
		n++
	}
	s.inFlight = append(s.inFlight[:0], s.inFlight[n:]...)
	owed := n > 0 && s.idle && !s.closed && (s.fresh || s.fold != nil || s.class.head > s.pos)
	if owed {
		s.idle = false
	}
	e.mu.Unlock()
	if owed && s.wakeFunc != nil {
		s.wakeFunc()
	}
}

// Err says why a subscription ended by itself (its group was removed); nil while it lives.
func (s *Subscription) Err() error {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	return s.err
}

// Close ends the subscription. Wake may still be called once by a tick under way.
func (s *Subscription) Close() {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.engine.detach(s)
}

// detach takes a subscription out of its group.
func (e *Engine) detach(s *Subscription) {
	if s.closed {
		return
	}
	s.closed, s.fold = true, nil
	set, g, is := s.set, s.set.group, func(x *Subscription) bool { return x == s }
	set.subs = slices.DeleteFunc(set.subs, is)
	if len(set.subs) == 0 {
		delete(g.sets, set.key)
	}
	s.class.subs = slices.DeleteFunc(s.class.subs, is)
	if len(s.class.subs) == 0 {
		g.classes = slices.DeleteFunc(g.classes, func(c *class) bool { return c == s.class })
	}
	if s.detail == Full {
		e.keepSamples(g, -1)
	}
	e.subs--
	if g.viewers--; g.viewers == 0 {
		e.in.Lock()
		g.listen(false)
		e.in.Unlock()
		g.active = false
		e.active = slices.DeleteFunc(e.active, func(x *group) bool { return x == g })
	}
	e.dropGroup(g)
}
