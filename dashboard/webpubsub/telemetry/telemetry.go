// Package telemetry lets Web PubSub clients see the groups of devices: who joins a group of the hub "telemetry" that has the path of a group
// of devices gets its conflated frames as JSON group messages (docs/protocol.md), a snapshot first.
package telemetry

import (
	"context"
	"sync"
	"time"

	"millrace/devices"
	"millrace/fanout"
	"millrace/fanout/hub"
	"millrace/fanout/wire"
)

// Hub is the name of the hub.
const Hub = "telemetry"

// Engine is what the bridge asks of fanout.
type Engine interface {
	Subscribe(o fanout.Options) (*fanout.Subscription, fanout.Start, error)
}

// A Bridge sends frames to groups that have members. Run must run.
type Bridge struct {
	engine Engine

	mu     sync.Mutex
	feeds  map[string]*feed
	joined []joiner
	work   chan struct{} // cap 1: look at joined and at who is there
}

// A joiner gets a snapshot.
type joiner struct {
	conn  *hub.Conn
	group string
}

// A feed is the frames of one group.
type feed struct {
	sub  *fanout.Subscription
	wake chan struct{} // cap 1
	end  chan struct{} // closed to end it
	news chan *hub.Conn
}

// New returns a bridge.
func New(e Engine) *Bridge {
	return &Bridge{engine: e, feeds: map[string]*feed{}, work: make(chan struct{}, 1)}
}

// Joined is called when a connection has joined a group of the hub. It does not block, and may be called with the hub locked.
func (b *Bridge) Joined(c *hub.Conn, group string) {
	b.mu.Lock()
	b.joined = append(b.joined, joiner{c, group})
	b.mu.Unlock()
	b.look()
}

// Left is called when a connection has left groups of the hub, or ended. It does not block, and may be called with the hub locked.
func (b *Bridge) Left() { b.look() }

func (b *Bridge) look() {
	select {
	case b.work <- struct{}{}:
	default:
	}
}

// retry is how soon a group is looked for again that members wait for and that isn't there yet.
const retry = 2 * time.Second

// Run feeds groups until ctx ends.
func (b *Bridge) Run(ctx context.Context, h *hub.Hub) error {
	var feeds sync.WaitGroup
	defer feeds.Wait()
	defer func() {
		for _, f := range b.feeds {
			close(f.end)
		}
	}()
	again := time.NewTicker(retry)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.work:
		case <-again.C:
			if sizes := h.GroupSizes(); len(sizes) == len(b.feeds) {
				continue
			}
		}
		b.mu.Lock()
		joined := b.joined
		b.joined = nil
		b.mu.Unlock()
		sizes := h.GroupSizes()
		for group, f := range b.feeds {
			if sizes[group] == 0 || f.sub.Err() != nil {
				close(f.end)
				delete(b.feeds, group)
			}
		}
		for group := range sizes {
			if b.feeds[group] == nil {
				b.begin(h, group, &feeds)
			}
		}
		for _, j := range joined {
			if f := b.feeds[j.group]; f != nil {
				select {
				case f.news <- j.conn:
				case <-ctx.Done():
				}
			}
		}
	}
}

// begin feeds a group, if there is one of that path.
func (b *Bridge) begin(h *hub.Hub, group string, feeds *sync.WaitGroup) {
	path := devices.GroupPath(group)
	if path.Validate() != nil {
		return
	}
	f := &feed{wake: make(chan struct{}, 1), end: make(chan struct{}), news: make(chan *hub.Conn, 16)}
	sub, _, err := b.engine.Subscribe(fanout.Options{Group: path, Detail: fanout.Envelope, Wake: func() {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return // made later, perhaps
	}
	f.sub = sub
	b.feeds[group] = f
	feeds.Go(func() {
		defer sub.Close()
		b.feed(h, group, f)
	})
}

// feed sends the frames of a group until it is ended.
func (b *Bridge) feed(h *hub.Hub, group string, f *feed) {
	first := true
	var last uint64 // frame that members have
	for {
		for {
			u, ok := f.sub.Next(time.Now())
			if !ok {
				break
			}
			if u.Frame == nil {
				continue // frames name their series
			}
			f.sub.Painted(u.Frame.Seq)
			if !first { // joiners have snapshots of their own
				h.SendGroup(message(group, u.Frame), nil, nil)
			}
			first, last = false, u.Frame.Seq
		}
		select {
		case <-f.end:
			return
		case <-f.wake:
		case c := <-f.news:
			b.snapshot(c, group, last)
		}
	}
}

// snapshot sends one member what is there now. The engine shares snapshots among those who come at about the same time: what
// the other members have got since, up to last, is sent after it.
func (b *Bridge) snapshot(c *hub.Conn, group string, last uint64) {
	f := b.frame(group, nil)
	if f == nil || !c.In(group) {
		return
	}
	c.Send(message(group, f))
	if f.Seq < last {
		if f = b.frame(group, &fanout.Position{Epoch: f.Epoch, Seq: f.Seq}); f != nil {
			c.Send(message(group, f))
		}
	}
}

// frame is the first frame of a group from a position on, nil without one: then it is a snapshot.
func (b *Bridge) frame(group string, from *fanout.Position) *fanout.Frame {
	sub, _, err := b.engine.Subscribe(fanout.Options{Group: devices.GroupPath(group), Detail: fanout.Envelope, From: from, Wake: func() {}})
	if err != nil {
		return nil
	}
	defer sub.Close()
	for {
		u, ok := sub.Next(time.Now())
		if !ok || u.Frame != nil {
			return u.Frame
		}
	}
}

func message(group string, f *fanout.Frame) *hub.Message {
	return &hub.Message{Group: group, Data: hub.Data{Kind: hub.JSON, Bytes: append([]byte(nil), f.Packet(wire.JSON{}, 0)...)}}
}
