package hub

import (
	"slices"
	"strings"
	"sync"
)

// A group is the connections that get what is sent to its name.
type group struct {
	name string

	mu       sync.Mutex
	members  []*member
	states   map[*Conn]State    // of members that have told one
	watchers map[*Conn]struct{} // members that hear of states
}

// A member is a connection's place in a group.
type member struct {
	conn  *Conn
	group *group
	place int // in members; under group.mu
}

// send puts m into the queues of the members, and returns how many got it and who has fallen behind.
func (g *group) send(m *Message, excluded []string, match Match) (n int, behind []*Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, to := range g.members {
		c := to.conn
		if len(excluded) > 0 && slices.Contains(excluded, c.spec.ID) || match != nil && !match(c) {
			continue
		}
		n++
		if !c.enqueue(m) {
			behind = append(behind, c)
		}
	}
	return n, behind
}

// maxSnapshot is how many states a snapshot has at most.
const maxSnapshot = 200

// maxState is how many bytes a state may have: of all its keys and values.
const maxState = 512

// SetGroupState replaces what c tells of itself in a group; nil clears it.
func (c *Conn) SetGroupState(name string, state map[string]string) error {
	m, err := c.statePlace(setGroupState, name)
	if err != nil {
		return err
	}
	size := 0
	for k, v := range state {
		size += len(k) + len(v)
	}
	if size > maxState {
		return &Error{"BadRequest", "The group state is larger than 512 bytes."}
	}
	now := c.hub.service.now().UnixMilli()
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	c.mu.Lock()
	c.updated = max(now, c.updated+1)
	s := State{Connection: c.spec.ID, User: c.spec.User, State: state, Updated: c.updated}
	gone := c.groups[name] != m
	c.mu.Unlock()
	if gone {
		return notMember
	}
	if state == nil {
		delete(g.states, c)
	} else {
		if g.states == nil {
			g.states = map[*Conn]State{}
		}
		g.states[c] = s
	}
	g.tell(s)
	return nil
}

var notMember = &Error{"Forbidden", "Not a member of group."}

// statePlace is where c is in a group, if it may.
func (c *Conn) statePlace(p Permission, name string) (*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.permissions[p].allowed(name) {
		return nil, &Error{"Forbidden", "Permission denied."}
	}
	m := c.groups[name]
	if m == nil {
		return nil, notMember
	}
	return m, nil
}

// WatchGroupState lets c hear of the states of a group: acknowledged is called first, then a snapshot is queued, then each change.
func (c *Conn) WatchGroupState(name string, acknowledged func()) error {
	m, err := c.statePlace(getGroupState, name)
	if err != nil {
		return err
	}
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	acknowledged()
	if g.watchers == nil {
		g.watchers = map[*Conn]struct{}{}
	}
	g.watchers[c] = struct{}{}
	items := make([]State, 0, min(len(g.states), maxSnapshot))
	for _, s := range g.states {
		items = append(items, s)
	}
	slices.SortFunc(items, func(a, b State) int { return strings.Compare(a.Connection, b.Connection) })
	c.enqueue(&Message{Group: name, States: &States{Snapshot: true, Items: items[:min(len(items), maxSnapshot)]}})
	return nil
}

// UnwatchGroupState ends WatchGroupState.
func (c *Conn) UnwatchGroupState(name string) {
	c.mu.Lock()
	m := c.groups[name]
	c.mu.Unlock()
	if m != nil {
		m.group.mu.Lock()
		delete(m.group.watchers, c)
		m.group.mu.Unlock()
	}
}

// tell lets the watchers know of a change; g.mu is held.
func (g *group) tell(s State) {
	if len(g.watchers) == 0 {
		return
	}
	m := &Message{Group: g.name, States: &States{Items: []State{s}}}
	for c := range g.watchers {
		c.enqueue(m) // one that falls behind by this is cut by its next message
	}
}

// forget clears what a leaving member told and wanted to hear; g.mu is held.
func (g *group) forget(c *Conn) {
	delete(g.watchers, c)
	s, told := g.states[c]
	if !told {
		return
	}
	delete(g.states, c)
	c.mu.Lock()
	c.updated = max(c.hub.service.now().UnixMilli(), c.updated+1)
	s.State, s.Updated = nil, c.updated
	c.mu.Unlock()
	g.tell(s)
}
