package fanout

import (
	"time"

	"millrace/devices"
)

// Bounds of how long a series may be silent, in milliseconds.
const (
	minSilence      = 1000
	maxSilence      = 24 * 3600 * 1000 // of a learned interval; one that is set may be longer
	restoredSilence = 30_000           // of a value from before a restart, until the interval is known
	farCheck        = 4000             // a check planned further ahead is moved when the interval turns out shorter
)

// silence returns for how many milliseconds after its last sample a series counts as fresh: twice the expected interval.
func (s *hot) silence() int64 {
	if s.flags&fixedGap != 0 {
		return max(int64(2*s.gap), minSilence)
	}
	if s.gap == 0 {
		if s.flags&isRestored != 0 {
			return restoredSilence
		}
		return maxSilence
	}
	return min(max(int64(2*(s.gap+s.dev)), minSilence), maxSilence)
}

func (s *hot) interval() time.Duration {
	return time.Duration(s.gap+s.dev) * time.Millisecond
}

// heard notes that a sample came, and learns how often that happens: the smoothed gap between receive times and its
// smoothed deviation, each by an eighth. Samples that came together count as one. A gap counts as at most four times what was
// expected, so that an outage does not teach a long interval.
func (e *Engine) heard(s *hot, sm *devices.Sample) {
	if s.flags&hasValue == 0 {
		s.flags |= hasValue
		s.recv = sm.Recv
		e.watchFreshness(s, sm.Series)
		return
	}
	if s.flags&(isStale|isRestored) != 0 {
		e.heardAgain(s, sm)
		return
	}
	if sm.Recv <= s.recv {
		return
	}
	x := float32(sm.Recv - s.recv)
	s.recv = sm.Recv
	if s.flags&fixedGap == 0 {
		s.learn(x)
	}
	if s.due-sm.Recv > farCheck && sm.Recv+s.silence()+farCheck/4 < s.due {
		e.watchFreshness(s, sm.Series)
	}
}

func (s *hot) learn(x float32) {
	if s.gap == 0 {
		s.gap, s.dev = min(x, maxSilence/2), x/4
		return
	}
	x = min(x, 4*(s.gap+s.dev)+minSilence)
	d := x - s.gap
	s.gap += d / 8
	if d < 0 {
		d = -d
	}
	s.dev += (d - s.dev) / 8
}

// heardAgain is heard for the first sample after a series was stale or restored.
func (e *Engine) heardAgain(s *hot, sm *devices.Sample) {
	if s.flags&isStale != 0 {
		s.flags &^= isStale
		s.cell.stale--
		if sm.Recv > s.recv && s.gap > 0 && s.flags&fixedGap == 0 {
			s.learn(float32(sm.Recv - s.recv))
		}
	}
	s.flags &^= isRestored
	s.recv = max(s.recv, sm.Recv)
	e.watchFreshness(s, sm.Series)
}

// watchFreshness asks for a look at the series when its silence may have become too long. It needs Engine.in.
func (e *Engine) watchFreshness(s *hot, id devices.SeriesID) {
	s.due = s.recv + s.silence()
	if len(e.recheck) == 0 {
		e.signal = true
	}
	e.recheck = append(e.recheck, id)
}

// A wheel holds the looks that are planned, by when, in steps of wheelStep. Plans further ahead than the wheel reaches are
// looked at when it has turned once. Times are monotonic, so that a step of the wall clock stops nothing.
type wheel struct {
	slots [1024][]look
	turn  int64 // steps done
	held  int
	free  [][]look // of slots that were worked off, at most wheelFree: those a second ahead, where most looks are planned
}

const wheelFree = 16

const wheelStep = int64(100 * time.Millisecond)

type look struct {
	id  devices.SeriesID
	due int64 // hot.due when it was planned: if that has changed, another look has taken this one's place
}

// plan puts a look into the wheel that is due in the given milliseconds from t.
func (w *wheel) plan(l look, t, ms int64) {
	at := (t+max(ms, 0)*int64(time.Millisecond))/wheelStep + 1
	at = min(max(at, w.turn+1), w.turn+int64(len(w.slots))-1)
	slot := &w.slots[at%int64(len(w.slots))]
	if k := len(w.free); *slot == nil && k > 0 {
		*slot = w.free[k-1]
		w.free = w.free[:k-1]
	}
	*slot = append(*slot, l)
	w.held++
}

// next returns when the first planned look is due, or never.
func (w *wheel) next() int64 {
	if w.held == 0 {
		return never
	}
	for at := w.turn + 1; ; at++ {
		if len(w.slots[at%int64(len(w.slots))]) > 0 {
			return at * wheelStep
		}
	}
}

// freshen looks at the series whose time has come and marks those that have become stale. It needs Engine.mu, and takes
// Engine.in for some hundred series at a time.
func (e *Engine) freshen(now time.Time, t int64) {
	const some = 256
	wall := now.UnixMilli()
	w := &e.wheel
	if w.held == 0 && w.turn < t/wheelStep {
		w.turn = t / wheelStep
	}
	e.in.Lock()
	for len(e.recheck) > 0 {
		k := max(0, len(e.recheck)-some)
		for _, id := range e.recheck[k:] {
			if s := &e.series[id]; s.cell != nil {
				w.plan(look{id, s.due}, t, s.due-wall)
			}
		}
		e.recheck = e.recheck[:k]
		e.in.Unlock()
		e.in.Lock()
	}
	e.in.Unlock()
	// A look that is planned again lands in a later slot than those that are due now, so this ends.
	for last := t / wheelStep; w.turn < last && w.held > 0; {
		w.turn++
		slot := &w.slots[w.turn%int64(len(w.slots))]
		looks := *slot
		*slot = nil
		w.held -= len(looks)
		for part := looks; len(part) > 0; {
			n := min(some, len(part))
			e.in.Lock()
			for _, l := range part[:n] {
				e.look(l, wall, t)
			}
			e.unlockIn()
			part = part[n:]
		}
		if cap(looks) > 0 && len(w.free) < wheelFree {
			w.free = append(w.free, looks[:0])
		}
	}
}

// look marks a series stale, or plans the next look.
func (e *Engine) look(l look, wall, t int64) {
	s := &e.series[l.id]
	if s.cell == nil || s.due != l.due || s.flags&isStale != 0 {
		return
	}
	if left := s.recv + s.silence() - wall; left >= 0 {
		s.due = s.recv + s.silence()
		e.wheel.plan(look{l.id, s.due}, t, left)
		return
	}
	s.due = 0
	s.flags |= isStale
	s.cell.stale++
	e.announce(s, l.id)
}

// setInterval applies the interval of a series' settings, which may change whether it is stale. It needs Engine.in.
func (e *Engine) setInterval(s *hot, id devices.SeriesID, interval time.Duration) {
	fixed := s.flags&fixedGap != 0
	ms := float32(interval.Milliseconds())
	switch {
	case interval > 0:
		if fixed && s.gap == ms {
			return
		}
		s.flags |= fixedGap
		s.gap, s.dev = max(ms, 1), 0
	case fixed:
		s.flags &^= fixedGap
		s.dev = s.gap / 4 // what was set is where learning starts
	default:
		return
	}
	if s.flags&hasValue == 0 {
		return
	}
	if s.flags&isStale != 0 { // fresh until the look says otherwise
		s.flags &^= isStale
		s.cell.stale--
		e.announce(s, id)
	}
	e.watchFreshness(s, id)
}
