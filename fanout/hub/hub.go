package hub

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
)

// A Hub is a name space of connections, users and groups.
type Hub struct {
	service *Service
	name    string

	mu     sync.RWMutex
	conns  map[string]*Conn
	users  map[string]map[*Conn]struct{} // connections that have a user
	groups map[string]*group             // those that have members
}

// ErrFull is answered when there are as many connections as may be.
var ErrFull = errors.New("hub: no more connections are taken")

// ErrTaken is answered when a connection of that name is there already.
var ErrTaken = errors.New("hub: there is such a connection already")

// A Match chooses connections. It is called with the hub locked and may ask a connection only for what it is.
type Match func(*Conn) bool

// Name is in lower case.
func (h *Hub) Name() string { return h.name }

// Connect adds a connection.
func (h *Hub) Connect(spec Spec, t Transport) (*Conn, error) {
	s := h.service
	if s.connections.Add(1) > int64(s.c.Connections) {
		s.connections.Add(-1)
		return nil, ErrFull
	}
	if spec.ID == "" {
		spec.ID = NewID()
	}
	if spec.Window == 0 {
		spec.Window = s.c.Window
	}
	c := &Conn{hub: h, spec: spec, transport: t, permissions: permissionsOf(spec.Roles), state: spec.State, groups: map[string]*member{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[spec.ID] != nil {
		s.connections.Add(-1)
		return nil, ErrTaken
	}
	h.conns[spec.ID] = c
	if spec.User != "" {
		if h.users[spec.User] == nil {
			h.users[spec.User] = map[*Conn]struct{}{}
		}
		h.users[spec.User][c] = struct{}{}
	}
	if s.observer != nil {
		s.observer.Connected(c)
	}
	for _, g := range spec.Groups {
		h.add(c, g)
	}
	if spec.First != nil {
		c.spec.First = nil
		c.Control(spec.First)
	}
	return c, nil
}

// NewID makes an id for a connection. It is opaque and needs no escaping in URLs.
func NewID() string {
	var b [21]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// add makes c a member; h.mu is held. False: it has ended, or is in as many groups as may be.
func (h *Hub) add(c *Conn, name string) bool {
	c.mu.Lock()
	_, in := c.groups[name]
	refused := c.closed != nil || len(c.groups) >= h.service.c.Groups
	c.mu.Unlock()
	if in || refused {
		return in
	}
	g := h.groups[name]
	if g == nil {
		g = &group{name: name}
		h.groups[name] = g
	}
	m := &member{conn: c, group: g}
	g.mu.Lock()
	m.place = len(g.members)
	g.members = append(g.members, m)
	g.mu.Unlock()
	c.mu.Lock()
	c.groups[name] = m
	c.mu.Unlock()
	if o := h.service.observer; o != nil {
		o.Joined(c, name)
	}
	return true
}

// remove ends a membership; h.mu is held.
func (h *Hub) remove(c *Conn, name string, tell bool) {
	c.mu.Lock()
	m, in := c.groups[name]
	delete(c.groups, name)
	c.mu.Unlock()
	if !in {
		return
	}
	g := m.group
	g.mu.Lock()
	last := len(g.members) - 1
	g.members[m.place] = g.members[last]
	g.members[m.place].place = m.place
	g.members[last] = nil
	g.members = g.members[:last]
	g.forget(c)
	empty := last == 0
	g.mu.Unlock()
	if empty {
		delete(h.groups, name)
	}
	if o := h.service.observer; o != nil && tell {
		o.Left(c, name)
	}
}

// drop takes out a connection that has ended.
func (h *Hub) drop(c *Conn, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[c.spec.ID] != c {
		return
	}
	for _, name := range c.Groups() {
		h.remove(c, name, false)
	}
	delete(h.conns, c.spec.ID)
	if of := h.users[c.spec.User]; of != nil {
		if delete(of, c); len(of) == 0 {
			delete(h.users, c.spec.User)
		}
	}
	h.service.connections.Add(-1)
	h.service.set(h.service.detached, c, false)
	h.service.set(h.service.streams, c, false)
	if o := h.service.observer; o != nil {
		o.Ended(c, reason)
	}
}

// Conn finds a connection, also one that may still come back.
func (h *Hub) Conn(id string) (*Conn, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	c, ok := h.conns[id]
	return c, ok
}

// UserExists reports whether the user has a connection.
func (h *Hub) UserExists(user string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return user != "" && len(h.users[user]) > 0
}

// GroupExists reports whether the group has a member.
func (h *Hub) GroupExists(name string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.groups[name] != nil
}

// Size counts what is there now.
func (h *Hub) Size() (connections, users, groups int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.conns), len(h.users), len(h.groups)
}

// Conns returns all connections, in no order.
func (h *Hub) Conns() []*Conn {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*Conn, 0, len(h.conns))
	for _, c := range h.conns {
		all = append(all, c)
	}
	return all
}

// GroupSizes returns the groups and how many members each has.
func (h *Hub) GroupSizes() map[string]int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make(map[string]int, len(h.groups))
	for name, g := range h.groups {
		g.mu.Lock()
		all[name] = len(g.members)
		g.mu.Unlock()
	}
	return all
}

// Members returns at most n members of a group whose id is after a given one, by id.
func (h *Hub) Members(name, after string, n int) []*Conn {
	h.mu.RLock()
	g := h.groups[name]
	h.mu.RUnlock()
	if g == nil {
		return nil
	}
	var all []*Conn
	g.mu.Lock()
	for _, m := range g.members {
		if m.conn.spec.ID > after {
			all = append(all, m.conn)
		}
	}
	g.mu.Unlock()
	slices.SortFunc(all, func(a, b *Conn) int { return strings.Compare(a.spec.ID, b.spec.ID) })
	return all[:min(n, len(all))]
}

// all returns connections but the excluded that match; of a user, or of everybody when it is nil.
func (h *Hub) all(user *string, excluded []string, match Match) []*Conn {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var chosen []*Conn
	add := func(c *Conn) {
		if !slices.Contains(excluded, c.spec.ID) && (match == nil || match(c)) {
			chosen = append(chosen, c)
		}
	}
	if user != nil {
		for c := range h.users[*user] {
			add(c)
		}
		return chosen
	}
	for _, c := range h.conns {
		add(c)
	}
	return chosen
}

// group finds a group that has members.
func (h *Hub) group(name string) *group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.groups[name]
}

// SendAll sends to everybody but the excluded who matches (nil: all), and returns to how many.
func (h *Hub) SendAll(m *Message, excluded []string, match Match) int {
	return h.send(h.all(nil, excluded, match), m)
}

// SendUser is SendAll to the connections of a user.
func (h *Hub) SendUser(user string, m *Message, match Match) int {
	return h.send(h.all(&user, nil, match), m)
}

// SendConn sends to one connection. False: there is none.
func (h *Hub) SendConn(id string, m *Message) bool {
	c, ok := h.Conn(id)
	return ok && h.send([]*Conn{c}, m) == 1
}

func (h *Hub) send(to []*Conn, m *Message) int {
	h.service.began(m)
	var behind []*Conn
	for _, c := range to {
		if !c.enqueue(m) {
			behind = append(behind, c)
		}
	}
	h.service.cut(behind)
	return len(to)
}

// SendGroup sends a message to the members of its group but the excluded who match, and returns to how many.
func (h *Hub) SendGroup(m *Message, excluded []string, match Match) int {
	h.service.began(m)
	g := h.group(m.Group)
	if g == nil {
		return 0
	}
	n, behind := g.send(m, excluded, match)
	h.service.cut(behind)
	return n
}

// began notes that a message is on its way.
func (s *Service) began(m *Message) {
	s.counts.published.Add(1)
	if m.TTL > 0 {
		m.kept = s.now().Add(m.TTL)
	}
}

// cut ends those that fell too far behind.
func (s *Service) cut(behind []*Conn) {
	for _, c := range behind {
		s.counts.slow.Add(1)
		c.end(Closed{Code: PolicyViolation, Reason: "The client takes messages too slowly.", Now: true}, nil)
	}
}

// AddToGroup makes a connection a member. False: there is no such connection.
func (h *Hub) AddToGroup(id, group string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.conns[id]
	return ok && h.add(c, group)
}

// RemoveFromGroup ends a membership.
func (h *Hub) RemoveFromGroup(id, group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.conns[id]; ok {
		h.remove(c, group, true)
	}
}

// RemoveFromAll ends all memberships of a connection.
func (h *Hub) RemoveFromAll(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.conns[id]; ok {
		h.removeAll(c)
	}
}

func (h *Hub) removeAll(c *Conn) {
	for _, name := range c.Groups() {
		h.remove(c, name, true)
	}
}

// AddUser makes all connections of a user members. False: it has none.
func (h *Hub) AddUser(user, group string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.users[user] {
		h.add(c, group)
	}
	return len(h.users[user]) > 0
}

// RemoveUser ends the membership of all connections of a user.
func (h *Hub) RemoveUser(user, group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.users[user] {
		h.remove(c, group, true)
	}
}

// RemoveUserFromAll ends all memberships of all connections of a user.
func (h *Hub) RemoveUserFromAll(user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.users[user] {
		h.removeAll(c)
	}
}

// ChangeGroups adds those who match to groups, or removes them. Who it is is decided before anything changes.
func (h *Hub) ChangeGroups(groups []string, add bool, match Match) {
	chosen := h.all(nil, nil, match)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range chosen {
		for _, name := range groups {
			if add {
				h.add(c, name)
			} else {
				h.remove(c, name, true)
			}
		}
	}
}

// byServer is how the server ends connections.
func byServer(reason string) Closed { return Closed{Code: NormalClosure, Reason: reason, Server: true} }

// CloseConn ends a connection. False: there is none.
func (h *Hub) CloseConn(id, reason string) bool {
	c, ok := h.Conn(id)
	if ok {
		c.end(byServer(reason), nil)
	}
	return ok
}

// CloseAll ends all connections but the excluded, and returns how many.
func (h *Hub) CloseAll(excluded []string, reason string) int {
	return closeThese(h.all(nil, excluded, nil), reason)
}

// CloseUser ends the connections of a user but the excluded.
func (h *Hub) CloseUser(user string, excluded []string, reason string) int {
	return closeThese(h.all(&user, excluded, nil), reason)
}

// CloseGroup ends the members of a group but the excluded.
func (h *Hub) CloseGroup(name string, excluded []string, reason string) int {
	return closeThese(slices.DeleteFunc(h.Members(name, "", 1<<30), func(c *Conn) bool { return slices.Contains(excluded, c.spec.ID) }), reason)
}

func closeThese(all []*Conn, reason string) int {
	for _, c := range all {
		c.end(byServer(reason), nil)
	}
	return len(all)
}
