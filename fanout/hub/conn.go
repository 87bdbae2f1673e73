package hub

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Close codes (RFC 6455, 7.4.1) that a hub gives.
const (
	NormalClosure   = 1000
	PolicyViolation = 1008
)

// A Transport carries what is due to a client. Its methods never block.
type Transport interface {
	Wake()                         // something is due: call Take
	Abort(code int, reason string) // another has taken its place
}

// A Spec is what a connection is.
type Spec struct {
	ID       string        // "": a new one
	User     string        // "": none
	Protocol string        // negotiated subprotocol
	Encoder  Encoder       // nil: the transport uses Deliveries
	Reliable bool          // messages are numbered and kept until Acked, and it may lose its transport
	Window   time.Duration // how long it may be without one; 0: Config's
	Groups   []string      // that it is in from the beginning
	Roles    []string
	Value    any                                   // for the owner
	May      func(p Permission, group string) bool // decides in place of roles and grants; nil: they do
	State    *string                               // what handlers keep with it
	First    []byte                                // a control frame that is due before all else
}

// Closed is why a connection has ended.
type Closed struct {
	Code   int
	Reason string
	Server bool // the server's wish
	Now    bool // what waits is not delivered
}

func (c *Closed) Error() string { return fmt.Sprintf("closed with %d: %s", c.Code, c.Reason) }

// errReplaced is answered to a transport in whose place another has come.
var errReplaced = &Closed{Code: NormalClosure, Reason: "Another connection has taken over.", Now: true}

// ErrGone is answered when a connection can't be recovered.
var ErrGone = errors.New("hub: the connection can't be recovered")

// A Conn is one logical client.
type Conn struct {
	hub   *Hub
	spec  Spec
	event atomic.Uint64

	mu          sync.Mutex
	transport   Transport // nil: detached
	deadline    time.Time // when detached
	closed      *Closed
	queue       []item // due; its messages are also in unacked if the connection is reliable
	head        int    // of queue
	bytes       int    // of the messages in queue
	unacked     []item // by number
	unackedSize int
	seq         uint64 // of the last message
	permissions [permissions]rules
	groups      map[string]*member // changed with hub.mu held as well
	acks        ackIDs
	state       *string
	updated     int64 // of the last group state
	streams     map[string]*stream
}

// An item is a message and its number on this connection; 0 on those that aren't reliable, and for control frames.
type item struct {
	m   *Message
	seq uint64
}

// ID is unique in the hub, and URL-safe.
func (c *Conn) ID() string { return c.spec.ID }

// User is "" if there is none.
func (c *Conn) User() string { return c.spec.User }

// Hub is where it is.
func (c *Conn) Hub() *Hub { return c.hub }

// Protocol is the negotiated subprotocol.
func (c *Conn) Protocol() string { return c.spec.Protocol }

// Reliable reports whether it outlives its transport.
func (c *Conn) Reliable() bool { return c.spec.Reliable }

// Value is Spec.Value.
func (c *Conn) Value() any { return c.spec.Value }

// NextEvent counts events from 1; 0 is that of connect.
func (c *Conn) NextEvent() uint64 { return c.event.Add(1) }

// Groups returns what it is in, in order.
func (c *Conn) Groups() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]string, 0, len(c.groups))
	for name := range c.groups {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// In reports whether it is in a group.
func (c *Conn) In(group string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, in := c.groups[group]
	return in
}

// Online reports whether it has a transport.
func (c *Conn) Online() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transport != nil && c.closed == nil
}

// State is what event handlers keep with a connection; false: nothing yet.
func (c *Conn) State() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == nil {
		return "", false
	}
	return *c.state, true
}

// SetState replaces State.
func (c *Conn) SetState(s string) {
	c.mu.Lock()
	c.state = &s
	c.mu.Unlock()
}

// Waiting is how many messages wait to be written, and how many are unacknowledged.
func (c *Conn) Waiting() (due, unacked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) - c.head, len(c.unacked)
}

// enqueue puts a message into the queue; false when the connection has fallen too far behind and must be cut.
func (c *Conn) enqueue(m *Message) bool {
	limits := &c.hub.service.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return true
	}
	size := m.size()
	it := item{m: m}
	if c.spec.Reliable {
		c.seq++
		it.seq = c.seq
		if len(c.unacked) >= limits.UnackedMessages || c.unackedSize+size > limits.UnackedBytes && len(c.unacked) > 0 {
			return false
		}
		c.unacked = append(c.unacked, it)
		c.unackedSize += size
	} else if len(c.queue)-c.head >= limits.QueueMessages || c.bytes+size > limits.QueueBytes && len(c.queue) > c.head {
		return false
	}
	c.push(it, size)
	return true
}

// push puts an item into the queue, if there is a transport to take it; c.mu is held.
func (c *Conn) push(it item, size int) {
	if c.transport == nil {
		return
	}
	if c.head > 64 && c.head > len(c.queue)/2 {
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
	first := c.head == len(c.queue)
	c.queue = append(c.queue, it)
	c.bytes += size
	if first {
		c.transport.Wake()
	}
}

// Control queues a frame of the protocol's own, in order with messages: an acknowledgement, a pong. It is not kept when the transport goes.
func (c *Conn) Control(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.push(item{m: &Message{control: frame}}, len(frame))
	}
}

// Send queues a message from the server to this connection.
func (c *Conn) Send(m *Message) { c.hub.send([]*Conn{c}, m) }

// keepQueue is how long a queue may be to be kept when it is empty.
const keepQueue = 256

// taken drops what a transport has taken; c.mu is held.
func (c *Conn) taken() {
	if c.head < len(c.queue) {
		return
	}
	if cap(c.queue) > keepQueue {
		c.queue = nil
	} else {
		clear(c.queue)
		c.queue = c.queue[:0]
	}
	c.head, c.bytes = 0, 0
}

// next takes the next item that has not expired; c.mu is held.
func (c *Conn) next() (item, bool) {
	for c.head < len(c.queue) {
		it := c.queue[c.head]
		c.queue[c.head] = item{}
		c.head++
		if it.m.control != nil {
			c.bytes -= len(it.m.control)
			return it, true
		}
		c.bytes -= it.m.size()
		if !it.m.kept.IsZero() && c.hub.service.now().After(it.m.kept) {
			continue
		}
		return it, true
	}
	return item{}, false
}

// why is what a transport is told instead of messages; c.mu is held.
func (c *Conn) why(t Transport) *Closed {
	if c.transport != t {
		return errReplaced
	}
	if c.closed != nil && (c.closed.Now || c.head == len(c.queue)) {
		return c.closed
	}
	return nil
}

// Take appends what is due, at most about max bytes. A *Closed says that the connection has ended, or that another transport has taken
// over, and comes when what was due before has been taken.
func (c *Conn) Take(t Transport, dst []byte, max int) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why := c.why(t); why != nil {
		return dst, why
	}
	start, n := len(dst), uint64(0)
	for len(dst)-start < max {
		it, ok := c.next()
		if !ok {
			break
		}
		if it.m.control != nil {
			dst = append(dst, it.m.control...)
			continue
		}
		shared := it.m.shared(c.spec.Encoder)
		if shared == nil {
			continue
		}
		n++
		dst = c.spec.Encoder.Append(dst, shared, it.seq)
	}
	c.taken()
	if n > 0 {
		c.hub.service.counts.delivered.Add(n)
		c.hub.service.counts.bytes.Add(uint64(len(dst) - start))
	}
	return dst, nil
}

// A Delivery is a message and its number on the connection.
type Delivery struct {
	Message *Message
	Seq     uint64
}

// Deliveries is Take for transports that encode by themselves: at most n messages.
func (c *Conn) Deliveries(t Transport, dst []Delivery, n int) ([]Delivery, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why := c.why(t); why != nil {
		return dst, why
	}
	taken := uint64(0)
	for range n {
		it, ok := c.next()
		if !ok {
			break
		}
		if it.m.control == nil {
			dst = append(dst, Delivery{it.m, it.seq})
			taken++
		}
	}
	c.taken()
	c.hub.service.counts.delivered.Add(taken)
	return dst, nil
}

// Acked drops what a reliable client says it has: all messages up to a number.
func (c *Conn) Acked(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(c.unacked) && c.unacked[n].seq <= seq {
		c.unackedSize -= c.unacked[n].m.size()
		n++
	}
	c.dropUnacked(n)
}

// AckedOne drops one message, whatever is before it.
func (c *Conn) AckedOne(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := slices.BinarySearchFunc(c.unacked, seq, func(it item, seq uint64) int { return int(int64(it.seq) - int64(seq)) }); ok {
		c.unackedSize -= c.unacked[i].m.size()
		if i == 0 {
			c.dropUnacked(1)
			return
		}
		c.unacked = slices.Delete(c.unacked, i, i+1)
	}
}

// dropUnacked drops the first n; c.mu is held.
func (c *Conn) dropUnacked(n int) {
	if n == len(c.unacked) {
		clear(c.unacked)
		if c.unacked = c.unacked[:0]; cap(c.unacked) > keepQueue {
			c.unacked = nil
		}
		return
	}
	clear(c.unacked[:n])
	c.unacked = c.unacked[n:]
}

// Detach says that a transport is gone. A reliable connection waits for another (Resume), others end, with the reason.
func (c *Conn) Detach(t Transport, reason string) {
	c.mu.Lock()
	if c.transport != t {
		c.mu.Unlock()
		return
	}
	c.transport = nil
	c.queue, c.head, c.bytes = nil, 0, 0
	wait := c.spec.Reliable && c.closed == nil
	if wait {
		c.deadline = c.hub.service.now().Add(c.spec.Window)
	}
	c.mu.Unlock()
	if !wait {
		c.end(Closed{Code: NormalClosure, Reason: reason, Now: true}, nil)
		return
	}
	c.hub.service.set(c.hub.service.detached, c, true)
	c.mu.Lock()
	back := c.transport != nil || c.closed != nil
	c.mu.Unlock()
	if back {
		c.hub.service.set(c.hub.service.detached, c, false)
	}
}

// Resume gives a reliable connection a new transport: first frame, if it is not nil, is due, then what has not been acknowledged. A
// transport that it still has is aborted. ErrGone when it has ended or isn't reliable.
func (c *Conn) Resume(t Transport, frame []byte) error {
	c.mu.Lock()
	if c.closed != nil || !c.spec.Reliable {
		c.mu.Unlock()
		return ErrGone
	}
	old := c.transport
	c.transport = t
	c.queue, c.head = nil, 0
	c.bytes = c.unackedSize
	if frame != nil {
		c.queue = append(c.queue, item{m: &Message{control: frame}})
		c.bytes += len(frame)
	}
	c.queue = append(c.queue, c.unacked...)
	if len(c.queue) > 0 {
		t.Wake()
	}
	c.mu.Unlock()
	if old != nil {
		old.Abort(NormalClosure, errReplaced.Reason)
	}
	c.hub.service.counts.resumed.Add(1)
	c.hub.service.set(c.hub.service.detached, c, false)
	return nil
}

// Close ends the connection for good.
func (c *Conn) Close(code int, reason string) {
	c.end(Closed{Code: code, Reason: reason}, nil)
}

// CloseBy is Close, unless another transport has taken the place of t.
func (c *Conn) CloseBy(t Transport, code int, reason string) {
	c.end(Closed{Code: code, Reason: reason}, func() bool { return c.transport == t })
}

// end ends the connection, if the condition holds still (nil: always). Only the first call counts.
func (c *Conn) end(why Closed, still func() bool) {
	c.mu.Lock()
	if c.closed != nil || still != nil && !still() {
		c.mu.Unlock()
		return
	}
	c.closed = &why
	streams := c.streams
	c.streams = nil
	c.unacked, c.unackedSize = nil, 0
	if c.transport != nil {
		c.transport.Wake()
	}
	c.mu.Unlock()
	for id, s := range streams {
		c.streamOver(id, s, &StreamError{Name: "Cancelled", Message: "The publisher is gone."})
	}
	c.hub.drop(c, why.Reason)
}

// Join makes c a member of a group, if it may.
func (c *Conn) Join(group string) error {
	if !c.Allowed(JoinLeaveGroup, group) {
		return &Error{"Forbidden", fmt.Sprintf("The client does not have permission to join group '%s'.", group)}
	}
	if !c.hub.AddToGroup(c.spec.ID, group) {
		return &Error{"InternalServerError", "The client is in too many groups."}
	}
	return nil
}

// Leave ends a membership, if it may.
func (c *Conn) Leave(group string) error {
	if !c.Allowed(JoinLeaveGroup, group) {
		return &Error{"Forbidden", fmt.Sprintf("The client does not have permission to leave group '%s'.", group)}
	}
	c.hub.RemoveFromGroup(c.spec.ID, group)
	return nil
}

// Publish sends a message to a group, if c may; noEcho leaves c out. It sets the user of the message.
func (c *Conn) Publish(m *Message, noEcho bool) error {
	if err := c.maySend(m.Group); err != nil {
		return err
	}
	m.User = c.spec.User
	var excluded []string
	if noEcho {
		excluded = []string{c.spec.ID}
	}
	c.hub.SendGroup(m, excluded, nil)
	return nil
}

func (c *Conn) maySend(group string) error {
	if !c.Allowed(SendToGroup, group) {
		return &Error{"Forbidden", fmt.Sprintf("The client does not have permission to send to group '%s'.", group)}
	}
	return nil
}

// ackIDs are the last ackIds of requests that succeeded.
type ackIDs struct {
	known map[uint64]struct{}
	order []uint64
	next  int
}

// keepAckIDs is how many are remembered.
const keepAckIDs = 1000

// Seen returns the error for a request that has succeeded before, and nil for others.
func (c *Conn) Seen(ackID uint64) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, seen := c.acks.known[ackID]; seen {
		return &Error{"Duplicate", fmt.Sprintf("Message with ack-id: %d has been processed", ackID)}
	}
	return nil
}

// Succeeded remembers the ackId of a request that succeeded.
func (c *Conn) Succeeded(ackID uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &c.acks
	if a.known == nil {
		a.known = map[uint64]struct{}{}
	}
	if _, seen := a.known[ackID]; seen {
		return
	}
	if len(a.order) < keepAckIDs {
		a.order = append(a.order, ackID)
	} else {
		delete(a.known, a.order[a.next])
		a.order[a.next] = ackID
		a.next = (a.next + 1) % keepAckIDs
	}
	a.known[ackID] = struct{}{}
}
