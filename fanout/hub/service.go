package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config of a Service; what is left at zero gets its default.
type Config struct {
	Connections     int           `default:"100000" help:"Web PubSub clients at a time, those that may still come back included."`
	Groups          int           `default:"10000" help:"Groups that a Web PubSub client may be in at a time."`
	QueueMessages   int           `default:"10000" help:"Messages that may wait for a Web PubSub client; one that falls further behind is disconnected."`
	QueueBytes      int           `default:"16777216" help:"Bytes that may wait for a Web PubSub client."`
	UnackedMessages int           `default:"10000" help:"Messages that a reliable Web PubSub client may leave unacknowledged."`
	UnackedBytes    int           `default:"16777216" help:"Bytes that a reliable Web PubSub client may leave unacknowledged."`
	Window          time.Duration `default:"30s" help:"How long a reliable Web PubSub client that dropped out can come back without loss."`
}

func (c *Config) defaults() {
	for _, d := range []struct {
		v *int
		n int
	}{{&c.Connections, 100_000}, {&c.Groups, 10_000}, {&c.QueueMessages, 10_000}, {&c.QueueBytes, 16 << 20}, {&c.UnackedMessages, 10_000}, {&c.UnackedBytes, 16 << 20}} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	if c.Window == 0 {
		c.Window = 30 * time.Second
	}
}

// Validate reports a setting that can't be.
func (c *Config) Validate() error {
	if c.Window < 0 || c.Window > time.Hour {
		return errors.New("window must be at most 1h")
	}
	for name, n := range map[string]int{"connections": c.Connections, "groups": c.Groups, "queue-messages": c.QueueMessages, "queue-bytes": c.QueueBytes,
		"unacked-messages": c.UnackedMessages, "unacked-bytes": c.UnackedBytes} {
		if n < 0 {
			return fmt.Errorf("%s must not be negative", name)
		}
	}
	return nil
}

// An Observer hears what happens to connections, in order for each. It is called with the hub locked: it must not block and not call
// the hub; of the connection it may ask for what it is.
type Observer interface {
	Connected(c *Conn) // before it joins the groups that it is in from the beginning
	Joined(c *Conn, group string)
	Left(c *Conn, group string) // not for the groups that a connection is in when it ends
	Ended(c *Conn, reason string)
}

// A Service is all hubs.
type Service struct {
	c        Config
	observer Observer // may be nil
	now      func() time.Time
	counts   counts

	connections atomic.Int64
	hubs        sync.Map // name → *Hub

	mu       sync.Mutex
	detached map[*Conn]struct{} // that have no transport; they end when their time is over
	streams  map[*Conn]struct{} // that have open streams
}

// counts since start.
type counts struct {
	published, delivered, bytes, slow, resumed, expired atomic.Uint64
}

// Stats are counters since start, but Connections and Detached.
type Stats struct {
	Connections int    // all
	Detached    int    // of these: gone, but may come back
	Published   uint64 // messages sent by clients and servers
	Delivered   uint64 // to a connection each
	Bytes       uint64 // of what was delivered
	Slow        uint64 // connections ended because they fell behind
	Resumed     uint64 // connections that came back in time
	Expired     uint64 // connections that did not
}

// New returns a service without hubs. The observer may be nil; now is time.Now but in tests.
func New(c Config, observer Observer, now func() time.Time) *Service {
	c.defaults()
	if now == nil {
		now = time.Now
	}
	return &Service{c: c, observer: observer, now: now, detached: map[*Conn]struct{}{}, streams: map[*Conn]struct{}{}}
}

// Hub returns the hub of a name, in any case; it is made when it is not there.
func (s *Service) Hub(name string) *Hub {
	name = strings.ToLower(name)
	if h, ok := s.hubs.Load(name); ok {
		return h.(*Hub)
	}
	h, _ := s.hubs.LoadOrStore(name, &Hub{service: s, name: name, conns: map[string]*Conn{}, users: map[string]map[*Conn]struct{}{}, groups: map[string]*group{}})
	return h.(*Hub)
}

// Hubs returns the hubs that somebody has asked for, by name.
func (s *Service) Hubs() []*Hub {
	var all []*Hub
	s.hubs.Range(func(_, h any) bool {
		all = append(all, h.(*Hub))
		return true
	})
	slices.SortFunc(all, func(a, b *Hub) int { return strings.Compare(a.name, b.name) })
	return all
}

// Stats is safe to call at any time.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	detached := len(s.detached)
	s.mu.Unlock()
	c := &s.counts
	return Stats{Connections: int(s.connections.Load()), Detached: detached, Published: c.published.Load(), Delivered: c.delivered.Load(), Bytes: c.bytes.Load(),
		Slow: c.slow.Load(), Resumed: c.resumed.Load(), Expired: c.expired.Load()}
}

// Run ends connections whose time to come back is over, and streams that are idle, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Expire(s.now())
		}
	}
}

// Expire ends what is over at a time. Run does it each second.
func (s *Service) Expire(now time.Time) {
	var over, idle []*Conn
	s.mu.Lock()
	for c := range s.detached {
		c.mu.Lock()
		if c.transport == nil && !now.Before(c.deadline) {
			over = append(over, c)
		}
		c.mu.Unlock()
	}
	for c := range s.streams {
		idle = append(idle, c)
	}
	s.mu.Unlock()
	for _, c := range over {
		s.counts.expired.Add(1)
		c.end(Closed{Code: PolicyViolation, Reason: "The connection recovery timeout expired."}, func() bool { return c.transport == nil })
	}
	for _, c := range idle {
		c.expireStreams(now)
	}
}

// set adds c to one of the sets of Service, or takes it out.
func (s *Service) set(of map[*Conn]struct{}, c *Conn, in bool) {
	s.mu.Lock()
	if in {
		of[c] = struct{}{}
	} else {
		delete(of, c)
	}
	s.mu.Unlock()
}
