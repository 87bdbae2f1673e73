package webpubsub

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/dashboard/webpubsub/protocol"
	"millrace/fanout/hub"
)

// counters since start.
type counters struct {
	refused, lost, messages, malformed, failedEvents, refusedRequests, requests, badRequests atomic.Uint64
}

// Stats are counters since start.
type Stats struct {
	hub.Stats
	Refused         uint64 // handshakes
	Unrecovered     uint64 // clients that came back in vain
	Messages        uint64 // of clients
	Malformed       uint64 // of these
	RefusedRequests uint64 // of clients: without the right, or that failed
	FailedEvents    uint64 // whose handler failed, or that had none
	Requests        uint64 // REST
	BadRequests     uint64 // of these: answered with 4xx
}

// Stats is safe to call at any time.
func (e *Endpoint) Stats() Stats {
	c := &e.counts
	return Stats{Stats: e.hubs.Stats(), Refused: c.refused.Load(), Unrecovered: c.lost.Load(), Messages: c.messages.Load(), Malformed: c.malformed.Load(),
		RefusedRequests: c.refusedRequests.Load(), FailedEvents: c.failedEvents.Load(), Requests: c.requests.Load(), BadRequests: c.badRequests.Load()}
}

// A TraceLine is something that happened to a connection.
type TraceLine struct {
	At         time.Time
	Hub        string
	Connection string
	User       string
	What       string // connected, joined, sendToGroup …
	Group      string
	Detail     string
}

// A tracer shows what happens to those who watch.
type tracer struct {
	watched atomic.Int64
	mu      sync.Mutex
	all     map[*trace]struct{}
}

type trace struct {
	hub, connection, group string
	lines                  chan TraceLine
}

// Trace watches a connection, a group, or with neither a whole hub. What the reader is too slow for is left out. Stop ends it.
func (e *Endpoint) Trace(hubName, connection, group string) (lines <-chan TraceLine, stop func()) {
	t := &trace{hub: strings.ToLower(hubName), connection: connection, group: group, lines: make(chan TraceLine, 256)}
	tr := &e.tracer
	tr.mu.Lock()
	if tr.all == nil {
		tr.all = map[*trace]struct{}{}
	}
	tr.all[t] = struct{}{}
	tr.watched.Store(int64(len(tr.all)))
	tr.mu.Unlock()
	return t.lines, func() {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		delete(tr.all, t)
		tr.watched.Store(int64(len(tr.all)))
	}
}

// on reports whether anybody watches.
func (t *tracer) on() bool { return t.watched.Load() > 0 }

func (t *tracer) note(c *hub.Conn, what, detail string) {
	if !t.on() {
		return
	}
	group := ""
	if what == "joined" || what == "left" {
		group, detail = detail, ""
	}
	t.line(TraceLine{At: time.Now(), Hub: c.Hub().Name(), Connection: c.ID(), User: c.User(), What: what, Group: group, Detail: detail})
}

func (t *tracer) request(c *hub.Conn, r *protocol.Request) {
	detail := r.Event
	if r.HasData {
		detail = strings.TrimSpace(fmt.Sprintf("%s %.200q", detail, r.Data.Bytes))
	}
	t.line(TraceLine{At: time.Now(), Hub: c.Hub().Name(), Connection: c.ID(), User: c.User(), What: r.Type.String(), Group: r.Group, Detail: detail})
}

func (t *tracer) line(l TraceLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.all {
		if w.hub != l.Hub || w.connection != "" && w.connection != l.Connection || w.group != "" && w.group != l.Group {
			continue
		}
		select {
		case w.lines <- l:
		default:
		}
	}
}
