package fanout

import (
	"sync/atomic"
	"time"

	"millrace/devices"
)

// Stats are counters since start, for the collector.
type Stats struct {
	Samples, UnknownSamples, LateSamples                                     uint64
	Ticks, FramesCut, FramesShared, Encodes, EncodesShared, Snapshots, Folds uint64
	Series, Groups, Subscriptions                                            int
	RingBytes                                                                int    // what is kept for cursors, of Config.RingBytes
	Trims                                                                    uint64 // times that bound cut a ring short
}

type counters struct {
	ticks, framesCut, framesShared, encodes, encodesShared, snapshots, folds, trims atomic.Uint64
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	c := &e.count
	st := Stats{Ticks: c.ticks.Load(), FramesCut: c.framesCut.Load(), FramesShared: c.framesShared.Load(), Encodes: c.encodes.Load(),
		EncodesShared: c.encodesShared.Load(), Snapshots: c.snapshots.Load(), Folds: c.folds.Load(), Trims: c.trims.Load()}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range e.groups {
		if g.set {
			st.Groups++
		}
	}
	for _, cell := range e.cells {
		st.Series += cell.live
	}
	st.Subscriptions, st.RingBytes = e.subs, e.stored
	e.in.Lock()
	st.Samples, st.UnknownSamples, st.LateSamples = e.intake.samples, e.intake.unknown, e.intake.late
	e.in.Unlock()
	return st
}

// GroupStats is what the home page shows of a group.
type GroupStats struct {
	Series, Stale, Viewers int
	Rate                   float64 // samples a second, over about the last 5 s
	LastSample             int64   // receive time, Unix ms; 0: none
}

// GroupStats returns the figures of a group and all below it; all zero if there is none.
func (e *Engine) GroupStats(p devices.GroupPath) GroupStats {
	return e.groupStats(p, time.Now().UnixMilli())
}

func (e *Engine) groupStats(p devices.GroupPath, now int64) GroupStats {
	var st GroupStats
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[p]
	if g == nil {
		return st
	}
	st.Viewers = g.viewers
	e.in.Lock()
	defer e.in.Unlock()
	for _, c := range g.cells {
		st.Series += c.live
		st.Stale += c.stale
		st.Rate += c.ratePerSecond(now)
		st.LastSample = max(st.LastSample, c.lastRecv)
	}
	return st
}

// Samples are counted in the second they were received, for the last rateSeconds whole ones and the present one.
const rateSeconds = 5

// nextSecond makes room for the second that recv lies in.
func (c *cell) nextSecond(recv int64) {
	steps := int64(rateSeconds + 1)
	if c.rateEnd > 0 {
		steps = min(steps, (recv-c.rateEnd)/1000+1)
	}
	for range steps {
		c.second = (c.second + 1) % (rateSeconds + 1)
		c.rate[c.second] = 0
	}
	c.rateEnd = recv - recv%1000 + 1000
}

// ratePerSecond is the mean over the last whole seconds.
func (c *cell) ratePerSecond(now int64) float64 {
	if c.rateEnd == 0 {
		return 0
	}
	behind := (now - now%1000 + 1000 - c.rateEnd) / 1000 // how many seconds the newest counted one lies back
	sum := 0
	for i := range int64(rateSeconds + 1) {
		if back := behind + i; back >= 1 && back <= rateSeconds {
			sum += int(c.rate[(c.second-int(i)+rateSeconds+1)%(rateSeconds+1)])
		}
	}
	return float64(sum) / rateSeconds
}
