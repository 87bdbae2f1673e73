package event

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"millrace/devices/hubs"
)

var errNoPublish = errors.New("there is no NATS to publish to")

// copy queues e for the listeners that want it, and reports whether there are any.
func (d *Dispatcher) copy(e *envelope, ls []hubs.Listener, wants func(hubs.Listener) bool) (heard bool) {
	plain := *e
	plain.client.Cookies = nil // those are of the handler
	for i, l := range ls {
		if !wants(l) {
			continue
		}
		heard = true
		to := l.Subject + l.URL
		key := e.client.Hub + "\x00" + e.client.Connection + "\x00" + strconv.Itoa(i) + "\x00" + to
		if !d.copies.put(key, &notice{e: &plain, listener: l}) {
			d.copiesFailed.Add(1)
			d.complain("copy for event listener", e.client.Hub, to, errors.New("too many copies wait"))
		}
	}
	return heard
}

func copyTarget(n *notice) string { return n.listener.Subject + "\x00" + n.listener.URL }

// sendCopy sends to a listener: as a message of NATS with what section 6 of the reference calls application properties for headers, or
// as a handler gets it.
func (d *Dispatcher) sendCopy(ctx context.Context, n *notice) (retry bool, err error) {
	if n.listener.Subject == "" {
		var r *reply
		r, err = d.attempt(ctx, hubs.Handler{URL: n.listener.URL, Trusted: true}, n.e, "copy")
		if err == nil && !r.ok() {
			err = fmt.Errorf("answered %d", r.status)
			retry = again(r, nil) || r.status == http.StatusTooManyRequests
		} else if err != nil {
			retry = again(nil, err)
		}
	} else {
		err = errNoPublish
		if d.publish != nil {
			short, cancel := context.WithTimeout(ctx, checkTimeout)
			err = d.publish(short, fill(n.listener.Subject, n.e.client.Hub, n.e.event, token), n.e.properties(), n.e.body)
			cancel()
			retry = true
		}
	}
	if err == nil {
		d.copied.Add(1)
	} else if ctx.Err() == nil {
		d.complain("copy for event listener", n.e.client.Hub, n.listener.Subject+n.listener.URL, err)
	}
	return retry, err
}

func (d *Dispatcher) deadCopy(*notice, string) { d.copiesFailed.Add(1) }

// properties are the headers of a copy in NATS.
func (e *envelope) properties() map[string][]string {
	c := &e.client
	h := map[string][]string{}
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{clean(value)}
		}
	}
	set("cloudEvents:specversion", "1.0")
	set("cloudEvents:awpsversion", awpsVersion)
	set("cloudEvents:type", e.kind)
	set("cloudEvents:source", e.source())
	set("cloudEvents:id", e.id())
	set("cloudEvents:time", e.time())
	set("cloudEvents:hub", c.Hub)
	set("cloudEvents:eventname", e.event)
	set("cloudEvents:connectionid", c.Connection)
	set("cloudEvents:userid", c.User)
	set("cloudEvents:subprotocol", c.Subprotocol)
	set("cloudEvents:datacontenttype", e.contentType)
	set("Content-Type", e.contentType)
	set("Nats-Msg-Id", "webpubsub/"+c.Hub+"/"+c.Connection+"/"+e.request+"/"+e.id()) // what is tried again is kept once
	if c.State != nil {
		set("cloudEvents:connectionstate", *c.State)
	}
	for k, v := range e.metadata {
		if validName(k) {
			set(metadataPrefix+k, v)
		}
	}
	return h
}
