package event

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"millrace/devices/hubs"
)

// A queue is the notifications of a connection, in order.
type queue struct {
	posts []*post
}

// Connected tells handlers and listeners that a client has connected. Like all notifications it does not block.
func (d *Dispatcher) Connected(c Client) {
	d.notify(c, "azure.webpubsub.sys.", "connected", []byte("{}"))
}

// Disconnected tells that a connection has ended, with a reason or nil; mqtt is what is told of an MQTT client, or nil.
func (d *Dispatcher) Disconnected(c Client, reason *string, mqtt any) {
	body, err := json.Marshal(struct {
		Reason *string `json:"reason"`
		MQTT   any     `json:"mqtt,omitempty"`
	}{reason, mqtt})
	if err == nil {
		d.notify(c, "azure.webpubsub.sys.", "disconnected", body)
	}
	d.jars.forget(c)
}

// Joined tells that a connection has joined a group.
func (d *Dispatcher) Joined(c Client, group string) { d.presence(c, "joined", group) }

// Left tells that a connection has left a group.
func (d *Dispatcher) Left(c Client, group string) { d.presence(c, "left", group) }

func (d *Dispatcher) presence(c Client, name, group string) {
	if body, err := json.Marshal(map[string]string{"group": group}); err == nil {
		d.notify(c, "azure.webpubsub.gp.", name, body)
	}
}

// Wants reports whether anybody wants to hear of a system event of a hub.
func (d *Dispatcher) Wants(hubName, name string) bool { return d.anybody(hubName, true, name) }

// Takes reports whether anybody wants a user event of a hub.
func (d *Dispatcher) Takes(hubName, name string) bool { return d.anybody(hubName, false, name) }

func (d *Dispatcher) anybody(hubName string, system bool, name string) bool {
	s := d.source.Hub(hubName)
	for _, h := range s.Handlers {
		if takes(h.UserEvents, h.SystemEvents, system, name) {
			return true
		}
	}
	for _, l := range s.Listeners {
		if takes(l.UserEvents, l.SystemEvents, system, name) {
			return true
		}
	}
	return false
}

func (d *Dispatcher) notify(c Client, prefix, name string, body []byte) {
	if !d.Wants(c.Hub, name) {
		return
	}
	p := &post{client: c, kind: prefix + name, name: name, content: contentJSON, body: body}
	d.listeners(p, true)
	h, ok := d.handlerOf(c.Hub, true, name)
	if !ok {
		return
	}
	p.url, p.trusted = resolve(h.URL, c.Hub, name), h.Trusted
	key := c.Hub + "\x00" + c.Connection
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped || d.waiting >= d.c.Queue {
		reason := "too many notifications wait"
		if d.stopped {
			reason = "the server stopped"
		}
		d.running.Go(func() { d.bury(p, 0, reason) })
		return
	}
	d.waiting++
	q := d.queues[key]
	if q != nil {
		q.posts = append(q.posts, p)
		return
	}
	q = &queue{posts: []*post{p}}
	d.queues[key] = q
	d.running.Go(func() { d.send(key, q) })
}

// send brings the notifications of a connection to their handler, one after the other.
func (d *Dispatcher) send(key string, q *queue) {
	for {
		d.mu.Lock()
		if len(q.posts) == 0 {
			delete(d.queues, key)
			d.mu.Unlock()
			return
		}
		p := q.posts[0]
		q.posts = q.posts[1:]
		d.mu.Unlock()
		if _, tries, err := d.deliver(d.ctx, p); err != nil {
			reason := err.Error()
			if d.ctx.Err() != nil {
				reason = "the server stopped"
			}
			d.bury(p, tries, reason)
		}
		d.mu.Lock()
		d.waiting--
		d.mu.Unlock()
	}
}

// bury lists a notification as dead.
func (d *Dispatcher) bury(p *post, tries int, reason string) {
	d.counts.dead.Add(1)
	d.log.Warn("a notification has no taker", "hub", p.client.Hub, "event", p.name, "connection", p.client.Connection, "url", withoutQuery(p.url), "tries", tries, "why", reason)
	if d.letters == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := d.letters.AddLetter(ctx, hubs.Letter{At: time.Now(), Hub: p.client.Hub, Connection: p.client.Connection, User: p.client.User, Event: p.name,
		ID: strconv.FormatUint(p.client.ID, 10), URL: withoutQuery(p.url), Attempts: tries, Reason: reason, Body: p.body})
	if err != nil {
		d.log.Error("a dead letter could not be kept", "err", err)
	}
}

// Run waits until ctx ends, and then for the notifications under way. What waits still gets a last try of two seconds in all, and is listed as dead
// otherwise.
func (d *Dispatcher) Run(ctx context.Context) error {
	<-ctx.Done()
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	last := time.AfterFunc(2*time.Second, d.cancel)
	defer last.Stop()
	defer d.cancel()
	d.running.Wait()
	d.http.CloseIdleConnections()
	return nil
}

// listeners gives copies of an event to all listeners that want it, and reports whether there is one. What they don't get is logged and
// counted: nobody waits for them.
func (d *Dispatcher) listeners(p *post, system bool) (heard bool) {
	for _, l := range d.source.Hub(p.client.Hub).Listeners {
		if !takes(l.UserEvents, l.SystemEvents, system, p.name) {
			continue
		}
		heard = true
		copied := *p
		d.mu.Lock()
		room := !d.stopped && d.waiting < d.c.Queue
		if room {
			d.waiting++
		}
		d.mu.Unlock()
		if !room {
			d.counts.unlistened.Add(1)
			continue
		}
		d.running.Go(func() {
			err := d.copy(l, &copied)
			d.mu.Lock()
			d.waiting--
			d.mu.Unlock()
			if err != nil {
				d.counts.unlistened.Add(1)
				d.log.Warn("a listener did not get an event", "hub", p.client.Hub, "event", p.name, "err", err)
				return
			}
			d.counts.listened.Add(1)
		})
	}
	return heard
}

// copyTimeout is how long a listener may take.
const copyTimeout = 10 * time.Second

func (d *Dispatcher) copy(l hubs.Listener, p *post) error {
	ctx, cancel := context.WithTimeout(d.ctx, copyTimeout)
	defer cancel()
	if l.URL != "" {
		p.url, p.trusted = resolve(l.URL, p.client.Hub, p.name), true
		p.request = requestID()
		_, err := d.once(ctx, p)
		return err
	}
	if d.publish == nil {
		return errNoNATS
	}
	subject := strings.NewReplacer("{hub}", subjectPart(p.client.Hub), "{event}", subjectPart(p.name)).Replace(l.Subject)
	return d.publish(ctx, subject, d.envelope(p), p.body)
}

var errNoNATS = errors.New("there is no NATS")

// subjectPart makes one part of a subject of a name.
func subjectPart(s string) string {
	return strings.NewReplacer(".", "_", "*", "_", ">", "_", " ", "_").Replace(s)
}

// envelope is the header of a copy on NATS: the attributes of CloudEvents as the AMQP binding names them.
func (d *Dispatcher) envelope(p *post) map[string][]string {
	all := map[string][]string{"Nats-Msg-Id": {p.client.Hub + "/" + p.client.Connection + "/" + strconv.FormatUint(p.client.ID, 10)}, "content-type": {p.content}}
	for k, v := range d.header(p) {
		if name, ok := strings.CutPrefix(strings.ToLower(k), "ce-"); ok && name != "signature" {
			all["cloudEvents:"+name] = v
		} else if strings.HasPrefix(strings.ToLower(k), "x-webpubsub-metadata-") {
			all[strings.ToLower(k)] = v
		}
	}
	return all
}
