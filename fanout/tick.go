package fanout

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const never = math.MaxInt64

// Run cuts ticks and watches freshness until ctx ends; then it cuts what is open once more.
func (e *Engine) Run(ctx context.Context) error {
	var folding sync.WaitGroup
	folding.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-e.folder:
				e.workOffFolds()
			}
		}
	})
	defer folding.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			e.finish(time.Now())
			return nil
		case <-e.kick:
		case <-timer.C:
		}
		if wait := e.step(time.Now()); wait < never {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// step does what is due at now, and returns how long nothing will be due unless a listening cell changes or a sample
// makes a check of freshness necessary, both of which kick Run. Wake functions are called without any lock.
func (e *Engine) step(now time.Time) time.Duration {
	e.mu.Lock()
	t := e.mono(now)
	e.freshen(now, t)
	e.hear(t)
	var woken []*Subscription
	next := e.wheel.next()
	rest := e.active[:0]
	for _, g := range e.active {
		if g.wakeAt <= t {
			woken = e.evaluate(g, t, woken)
		}
		if g.active {
			next = min(next, g.wakeAt)
			rest = append(rest, g)
		}
	}
	clear(e.active[len(rest):])
	e.active = rest
	e.trimOld(t)
	if e.trimAt > 0 {
		next = min(next, e.trimAt)
	}
	e.mu.Unlock()
	wake(woken)
	if next == never {
		return never
	}
	return time.Duration(max(next-t, 0))
}

// finish cuts every watched group regardless of its tick.
func (e *Engine) finish(now time.Time) {
	e.mu.Lock()
	t := e.mono(now)
	e.hear(t)
	var woken []*Subscription
	for _, g := range e.active {
		g.nextCut, g.wakeAt = t, t
		for _, cl := range g.classes {
			cl.nextAt = t
		}
		woken = e.evaluate(g, t, woken)
	}
	e.mu.Unlock()
	wake(woken)
}

// hear makes the listening groups of cells that changed active.
func (e *Engine) hear(t int64) {
	e.in.Lock()
	for _, c := range e.dirty {
		for _, g := range c.groups {
			if g.listening {
				g.listen(false)
				e.activate(g, t)
			}
		}
	}
	clear(e.dirty)
	e.dirty = e.dirty[:0]
	e.in.Unlock()
}

// listen says whether the group's cells are to tell of their first change. It needs Engine.in, too.
func (g *group) listen(on bool) {
	if g.listening == on {
		return
	}
	g.listening = on
	n := 1
	if !on {
		n = -1
	}
	for _, c := range g.cells {
		c.listeners += n
	}
}

func (e *Engine) activate(g *group, at int64) {
	g.wakeAt = at
	if !g.active {
		g.active = true
		e.active = append(e.active, g)
	}
}

// evaluate cuts a group if something changed and a class of its subscriptions is due. A group in which nothing changed since its
// last cut becomes quiet: it costs nothing until one of its cells tells of a change.
func (e *Engine) evaluate(g *group, t int64, woken []*Subscription) []*Subscription {
	if g.nextCut > t {
		g.wakeAt = g.nextCut
		return woken
	}
	e.in.Lock()
	dirty := false
	for _, c := range g.cells {
		if len(c.open) > 0 {
			dirty = true
			break
		}
	}
	when := int64(never)
	for _, cl := range g.classes {
		if dirty || cl.head < g.lastSeq {
			when = min(when, cl.nextAt)
		}
	}
	if when > t {
		g.listen(!dirty)
		g.wakeAt = when
		g.active = when < never
		e.in.Unlock()
		if !g.active {
			for _, set := range g.sets {
				set.forget()
			}
		}
		return woken
	}
	e.in.Unlock()
	e.flush(g.cells, t)
	for _, cl := range g.classes {
		if cl.nextAt > t || cl.head >= g.lastSeq {
			continue
		}
		cl.head = g.lastSeq
		cl.nextAt = after(cl.nextAt, max(cl.pace, g.tick), t)
		for _, s := range cl.subs {
			if s.idle && s.credit() {
				s.idle = false
				woken = append(woken, s)
			}
		}
	}
	g.nextCut = after(g.nextCut, g.tick, t)
	g.wakeAt = g.nextCut
	return woken
}

// after returns the time after due, which has come: in step with it under load, anew after quiet.
func after(due, interval, t int64) int64 {
	if t-due < interval {
		return due + interval
	}
	return t + interval
}

// wake calls the Wake functions. No lock is held.
func wake(subs []*Subscription) {
	for _, s := range subs {
		if s.wakeFunc != nil {
			s.wakeFunc()
		}
	}
}

// flush closes the open ticks of the cells that changed and puts them into their rings with the next number.
func (e *Engine) flush(cells []*cell, t int64) {
	var made []*tick
	e.in.Lock()
	for _, c := range cells {
		if len(c.open) == 0 {
			continue
		}
		k := &tick{cell: c, at: t, aux: c.aux, raw: c.raw, rawAll: c.rawAll, pool: &e.pool}
		c.open, c.spare = c.spare[:0], c.open
		c.aux, c.raw, c.rawAll = nil, nil, c.full > 0
		if c.gen++; c.gen == 0 {
			c.gen = 1
		}
		made = append(made, k)
	}
	e.in.Unlock()
	if len(made) == 0 {
		return
	}
	e.seq++
	for _, k := range made {
		c := k.cell
		k.seq = e.seq
		k.refs.Store(1)
		k.pack(c.spare)
		c.ring = append(c.ring, k)
		e.stored += k.size()
		for _, g := range c.groups {
			g.lastSeq = e.seq
		}
	}
	e.count.ticks.Add(1)
	if e.trimAt == 0 {
		e.trimAt = t + int64(e.config.Ring)
	}
	for e.stored > e.config.RingBytes && e.trimLargest() {
	}
}

// trimOld drops ticks that are older than Config.Ring, now and then: so cursors fold some at a time.
func (e *Engine) trimOld(t int64) {
	if e.trimAt == 0 || t < e.trimAt {
		return
	}
	left := false
	for _, c := range e.cells {
		n := 0
		for n < len(c.ring) && c.ring[n].at <= t-int64(e.config.Ring) {
			n++
		}
		e.trim(c, n)
		empty := c.live == 0 && len(c.ring) == 0
		if empty && c.dead && len(e.folds) == 0 { // at the second look: folds of its ticks have been worked off
			e.dropCell(c)
			continue
		}
		c.dead = empty
		left = left || empty || len(c.ring) > 0
	}
	e.trimAt = 0
	if left {
		e.trimAt = t + int64(e.config.Ring)/8
	}
}

// trimLargest drops the older half of the fullest ring, because all together hold too much.
func (e *Engine) trimLargest() bool {
	var largest *cell
	most := 0
	for _, c := range e.cells {
		size := 0
		for _, k := range c.ring {
			size += k.size()
		}
		if size > most {
			largest, most = c, size
		}
	}
	if largest == nil {
		return false
	}
	e.count.trims.Add(1)
	e.trim(largest, (len(largest.ring)+1)/2)
	return true
}

// trim drops the n oldest ticks of a cell. Subscriptions that have not been sent them keep what they make of them in a fold.
func (e *Engine) trim(c *cell, n int) {
	if n == 0 {
		return
	}
	upTo := c.ring[n-1].seq
	for _, g := range c.groups {
		for _, set := range g.sets {
			e.foldSet(set, upTo)
		}
	}
	c.floor = upTo
	c.left = slices.DeleteFunc(c.left, func(r retired) bool { return r.seq <= upTo })
	for _, k := range c.ring[:n] {
		e.stored -= k.size()
		k.release()
	}
	rest := copy(c.ring, c.ring[n:])
	clear(c.ring[rest:])
	c.ring = c.ring[:rest]
}

// foldSet folds all cursors of a set that lie before upTo, once for those at the same place.
func (e *Engine) foldSet(set *interest, upTo uint64) {
	type place struct {
		fold  *fold
		after uint64
	}
	var made map[place]*fold
	for _, s := range set.subs {
		if s.fresh || s.pos >= upTo {
			continue
		}
		at := place{s.fold, s.pos}
		f := made[at]
		if f == nil {
			f = &fold{set: set, base: s.fold, ticks: set.capture(s.pos, upTo)}
			if made == nil {
				made = map[place]*fold{}
			}
			made[at] = f
			e.folds = append(e.folds, f)
			e.count.folds.Add(1)
			select {
			case e.folder <- struct{}{}:
			default:
			}
		}
		s.fold, s.pos = f, upTo
	}
}

// workOffFolds works out the folds that wait.
func (e *Engine) workOffFolds() {
	for {
		e.mu.Lock()
		folds := e.folds
		e.folds = nil
		e.mu.Unlock()
		if len(folds) == 0 {
			return
		}
		for _, f := range folds {
			f.points()
		}
	}
}
