package event

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"millrace/devices/hubs"
)

// Connected tells that a client is connected. Neither this nor the others below block: they queue, in order for a connection.
func (d *Dispatcher) Connected(c Client) { d.notify(c, sysPrefix, connected, struct{}{}) }

// Disconnected tells that a connection has ended for good. mqtt is an *MQTTDisconnect, or nil for other clients.
func (d *Dispatcher) Disconnected(c Client, reason *string, mqtt any) {
	switch m := mqtt.(type) {
	case *MQTTDisconnect:
		if m == nil {
			mqtt = nil
		} else if p := m.DisconnectPacket; p != nil && p.UserProperties == nil {
			mqtt = &MQTTDisconnect{InitiatedByClient: m.InitiatedByClient, DisconnectPacket: &MQTTPacket{Code: p.Code, UserProperties: []Property{}}}
		}
	}
	d.notify(c, sysPrefix, disconnected, struct {
		Reason *string `json:"reason"`
		MQTT   any     `json:"mqtt,omitempty"`
	}{reason, mqtt})
}

type groupBody struct {
	Group string `json:"group"`
}

// Joined tells that a connection is in a group now.
func (d *Dispatcher) Joined(c Client, group string) { d.notify(c, gpPrefix, joined, groupBody{group}) }

// Left tells that a connection is no longer in a group.
func (d *Dispatcher) Left(c Client, group string) { d.notify(c, gpPrefix, left, groupBody{group}) }

func (d *Dispatcher) notify(c Client, prefix, event string, body any) {
	s := d.source.Hub(c.Hub)
	wanted := wants(s, event)
	if !wanted {
		return // most hubs, and at no cost
	}
	b, err := marshal(body)
	if err != nil {
		return // nothing here that can't be marshalled
	}
	e := d.envelope(c, prefix, event, jsonType, b)
	d.copy(e, s.Listeners, func(l hubs.Listener) bool { return contains(l.SystemEvents, event) })
	h, ok := d.system(c.Hub, event)
	if !ok {
		return
	}
	n := &notice{e: e, handler: h}
	if !d.notices.put(c.Hub+"\x00"+c.Connection, n) {
		d.mourn(n, "too many notifications wait")
	}
}

// A notice waits to be sent: a notification to a handler, or a copy to a listener.
type notice struct {
	e        *envelope
	handler  hubs.Handler // as it was found last
	listener hubs.Listener
	attempts int
}

// noticeTarget finds the handler anew, whose settings may have been put right meanwhile.
func (d *Dispatcher) noticeTarget(n *notice) string {
	if h, ok := d.system(n.e.client.Hub, n.e.event); ok {
		n.handler = h
	}
	return n.handler.URL
}

func (d *Dispatcher) sendNotice(ctx context.Context, n *notice) (retry bool, err error) {
	if n.attempts > 1 {
		d.retried.Add(1)
	}
	r, err := d.attempt(ctx, n.handler, n.e, "notice")
	switch {
	case err == nil && r.ok():
		return false, nil
	case err == nil:
		err = fmt.Errorf("answered %d", r.status)
		retry = again(r, nil) || r.status == http.StatusTooManyRequests
	default:
		retry = !errors.Is(err, errTooLong) // an answer came; a handshake that is refused may be put right
	}
	if ctx.Err() == nil {
		d.complain("notification to event handler", n.e.client.Hub, n.handler.URL, err)
	}
	return retry, err
}

func (d *Dispatcher) letter(n *notice, reason string) hubs.Letter {
	c := &n.e.client
	return hubs.Letter{
		At: n.e.at, Hub: c.Hub, Connection: c.Connection, User: c.User, Event: n.e.event, ID: n.e.id(), URL: n.handler.URL,
		Attempts: n.attempts, Reason: reason, Body: n.e.body,
	}
}

// deadNotice gives a notification up. It waits for room among the letters, and so holds up one of the calls to handlers, not clients.
func (d *Dispatcher) deadNotice(n *notice, reason string) {
	d.buried.Add(1)
	if d.dead == nil {
		d.lost.Add(1)
		return
	}
	d.letters <- d.letter(n, reason)
}

// mourn is deadNotice for who must not wait: without room the notification is lost.
func (d *Dispatcher) mourn(n *notice, reason string) {
	d.buried.Add(1)
	err := errors.New(reason)
	d.mu.Lock()
	kept := false
	if !d.finished && d.dead != nil {
		select {
		case d.letters <- d.letter(n, reason):
			kept = true
		default:
		}
	}
	d.mu.Unlock()
	if !kept {
		d.lost.Add(1)
		d.complain("notification lost", n.e.client.Hub, n.handler.URL, err)
		return
	}
	d.complain("notification to event handler", n.e.client.Hub, n.handler.URL, err)
}

// letterLoop keeps letters. While they can't be kept they wait, and those who write them; when ctx ends they are lost.
func (d *Dispatcher) letterLoop(ctx context.Context) {
	for l := range d.letters {
		for fails := 0; ; fails++ {
			short, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := d.dead.AddLetter(short, l)
			cancel()
			if err == nil {
				break
			}
			d.complain("dead letter", l.Hub, l.URL, err)
			if !sleep(ctx, backOff(fails)) {
				d.lost.Add(1)
				break
			}
		}
	}
}

func backOff(fails int) time.Duration { return min(firstBackOff<<min(fails, 10), lastBackOff) }
