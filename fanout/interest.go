package fanout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"millrace/devices"
)

// MaxPatterns is how many patterns a subscription may have.
const MaxPatterns = 10_000

// A matcher holds the patterns of a subscription.
type matcher struct {
	all     bool
	devices map[devices.ID]struct{} // of patterns device/*
	metrics map[string]struct{}     // of patterns */metric
	exact   map[name]struct{}
}

type name struct {
	device devices.ID
	metric string
}

// parsePatterns returns what the patterns match, and a key that is the same for the same patterns in any order.
func parsePatterns(patterns []string) (m matcher, key string, err error) {
	if patterns == nil {
		return matcher{all: true}, "*/*", nil
	}
	if len(patterns) > MaxPatterns {
		return m, "", fmt.Errorf("%d patterns: %w", len(patterns), devices.ErrTooLarge)
	}
	m.devices, m.metrics, m.exact = map[devices.ID]struct{}{}, map[string]struct{}{}, map[name]struct{}{}
	for _, p := range patterns {
		device, metric, ok := strings.Cut(p, "/")
		if !ok || device != "*" && devices.ID(device).Validate() != nil || metric != "*" && !devices.ValidMetric(metric) {
			return m, "", devices.Invalid("series", "%q is no pattern such as device/metric or device/*", p)
		}
		switch {
		case device == "*" && metric == "*":
			m.all = true
		case metric == "*":
			m.devices[devices.ID(device)] = struct{}{}
		case device == "*":
			m.metrics[metric] = struct{}{}
		default:
			m.exact[name{devices.ID(device), metric}] = struct{}{}
		}
	}
	if m.all {
		return matcher{all: true}, "*/*", nil
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(patterns)))
	return m, strings.Join(sorted, "\n"), nil
}

func (m *matcher) match(s *devices.Series) bool {
	if m.all {
		return true
	}
	if _, ok := m.exact[name{s.Device, s.Metric}]; ok {
		return true
	}
	if _, ok := m.devices[s.Device]; ok {
		return true
	}
	_, ok := m.metrics[s.Metric]
	return ok
}

// An interest is the series of a group that match some patterns. It is shared by all subscriptions with these.
type interest struct {
	group *group
	key   string
	match matcher

	// Guarded by Engine.mu.
	subs    []*Subscription
	version uint64 // of the members
	recent  [4]*cutting
	oldest  int      // index in recent
	snap    *cutting // the last snapshot
	snapAt  int64    // monotonic

	// Written under Engine.mu and mu, so either is enough to read them.
	mu      sync.Mutex // after Engine.mu, before Engine.in
	members []member   // by index
	index   map[devices.SeriesID]uint32
	maps    map[*cell][]uint32 // slot -> 1 + index
	live    int

	// Guarded by mu: room for merging.
	work  []accPoint
	marks []uint64
}

// A member is a series in an interest, or one that was.
type member struct {
	series  *devices.Series
	since   uint64 // version when it last came
	changed uint64 // version when it came, left or changed
	life    uint32 // how often it has left
	gone    bool
}

// interest returns the set for these patterns, making it if needed.
func (e *Engine) interest(g *group, m matcher, key string) *interest {
	if set := g.sets[key]; set != nil {
		return set
	}
	set := &interest{group: g, key: key, match: m, index: map[devices.SeriesID]uint32{}, maps: map[*cell][]uint32{}}
	var ids []devices.SeriesID
	if m.all || len(m.metrics) > 0 {
		for _, c := range g.cells {
			for _, id := range c.slots {
				if id != 0 {
					ids = append(ids, id)
				}
			}
		}
	} else {
		for device := range m.devices {
			ids = append(ids, e.byDevice[device]...)
		}
		for n := range m.exact {
			if _, ok := m.devices[n.device]; !ok {
				for _, id := range e.byDevice[n.device] {
					if e.cold[id].series.Metric == n.metric {
						ids = append(ids, id)
					}
				}
			}
		}
	}
	ids = slices.DeleteFunc(ids, func(id devices.SeriesID) bool {
		return !m.match(e.cold[id].series) || !slices.Contains(e.cold[id].groups, g)
	})
	slices.SortFunc(ids, func(a, b devices.SeriesID) int {
		x, y := e.cold[a].series, e.cold[b].series
		return cmp.Or(cmp.Compare(x.Device, y.Device), cmp.Compare(x.Metric, y.Metric))
	})
	for _, id := range ids {
		e.in.Lock()
		c, slot := e.series[id].cell, e.series[id].slot
		e.in.Unlock()
		set.add(e.cold[id].series, c, slot)
	}
	// What a member was in another cell of the group is its, too: a viewer that resumes may not have been sent it.
	for _, c := range g.cells {
		for _, r := range c.left {
			if k, ok := set.index[r.id]; ok {
				if now := &e.cold[r.id]; now.since[slices.Index(now.groups, g)] < r.move {
					set.place(k, c, r.slot)
				}
			}
		}
	}
	set.version = 0
	for i := range set.members {
		set.members[i].since, set.members[i].changed = 0, 0
	}
	g.sets[key] = set
	return set
}

// add makes a series a member, or notes its new settings or cell. It reports whether it matches. It needs Engine.mu.
func (s *interest) add(series *devices.Series, c *cell, slot uint32) bool {
	if !s.match.match(series) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	k, ok := s.index[series.ID]
	if !ok {
		k = uint32(len(s.members))
		s.members = append(s.members, member{gone: true})
		s.index[series.ID] = k
	}
	m := &s.members[k]
	if m.gone {
		m.gone, m.since = false, s.version
		s.live++
	}
	m.series, m.changed = series, s.version
	s.place(k, c, slot)
	return true
}

// place says that a slot is a member's.
func (s *interest) place(index uint32, c *cell, slot uint32) {
	slots := s.maps[c]
	if n := int(slot) + 1; n > len(slots) {
		slots = append(slots, make([]uint32, max(n, len(c.slots))-len(slots))...)
		s.maps[c] = slots
	}
	slots[slot] = index + 1
}

// remove takes a series out and reports whether it was in.
func (s *interest) remove(id devices.SeriesID) bool {
	k, ok := s.index[id]
	if !ok || s.members[k].gone {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	m := &s.members[k]
	m.gone, m.changed = true, s.version
	m.life++
	s.live--
	for _, slots := range s.maps {
		for i := range slots {
			if slots[i] == k+1 {
				slots[i] = 0
			}
		}
	}
	return true
}

// news forgets frames cut for the old members and adds the subscriptions that wait to woken.
func (s *interest) news(woken []*Subscription) []*Subscription {
	s.forget()
	for _, sub := range s.subs {
		if sub.idle {
			sub.idle = false
			woken = append(woken, sub)
		}
	}
	return woken
}

// forget lets go of frames kept for sharing.
func (s *interest) forget() {
	s.recent = [4]*cutting{}
	s.snap = nil
}

// cutting returns the frame with this key, still to be cut, or shared with others.
func (s *interest) cutting(e *Engine, key cutKey, at int64) *cutting {
	for _, c := range s.recent {
		if c != nil && c.key == key {
			e.count.framesShared.Add(1)
			return c
		}
	}
	c := &cutting{key: key, set: s, at: at, ticks: s.capture(key.after, key.to)}
	s.recent[s.oldest] = c
	s.oldest = (s.oldest + 1) % len(s.recent)
	return c
}

// capture returns the ticks in (after, to] of cells the set has members in, by rising number. Each must be released.
func (s *interest) capture(after, to uint64) []*tick {
	var ticks []*tick
	for c := range s.maps {
		i, _ := slices.BinarySearchFunc(c.ring, after+1, func(k *tick, seq uint64) int { return cmp.Compare(k.seq, seq) })
		for ; i < len(c.ring) && c.ring[i].seq <= to; i++ {
			c.ring[i].refs.Add(1)
			ticks = append(ticks, c.ring[i])
		}
	}
	slices.SortFunc(ticks, func(a, b *tick) int { return cmp.Compare(a.seq, b.seq) })
	return ticks
}
