package event

import (
	"context"
	"net/http"
	"strings"
	"time"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// maxShown is how much of an answer a trial has.
const maxShown = 64 << 10

// A Trial is what came of trying a handler.
type Trial struct {
	Handshake *Step  // nil: the handler needs none
	Delivery  *Step  // nil: the handshake failed
	Event     string // that was sent
}

// OK reports whether the handler takes events.
func (t Trial) OK() bool { return t.Delivery != nil && t.Delivery.Error == "" }

// A Step is a request and its answer.
type Step struct {
	Method, URL   string
	RequestHeader http.Header
	RequestBody   []byte
	Status        int // 0: there was no answer
	Header        http.Header
	Body          []byte // the first 64 KiB
	Duration      time.Duration
	Error         string // "": as it should be
}

// Try asks a handler for its consent and sends it a sample of an event it is for, each once, with ten seconds to answer. The event is of
// a connection "trial", and one of users if the handler takes any, since others change more in most servers.
func (d *Dispatcher) Try(ctx context.Context, h hubs.Handler, hubName string) Trial {
	name, prefix, ct, body := sample(h)
	t := Trial{Event: name}
	u, err := resolve(h.URL, hubName, name)
	if err != nil {
		t.Delivery = &Step{Method: http.MethodPost, URL: h.URL, Error: err.Error()}
		return t
	}
	if !h.Trusted && u.Scheme != "tunnel" {
		v, _ := resolve(h.URL, hubName, "validate")
		short, cancel := context.WithTimeout(ctx, checkTimeout)
		t.Handshake, err = d.handshake(short, v)
		cancel()
		if err != nil {
			if t.Handshake == nil {
				t.Handshake = &Step{Method: http.MethodOptions, URL: v.String(), Error: err.Error()}
			}
			return t
		}
	}
	short, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	e := d.envelope(Client{Hub: strings.ToLower(hubName), Connection: "trial", ID: 1}, prefix, name, ct, body)
	t.Delivery = &Step{Method: http.MethodPost, URL: u.String(), RequestBody: body}
	req, err := e.newRequest(short, u, d.config.Origin, d.source.Keys())
	if err != nil {
		t.Delivery.Error = err.Error()
		return t
	}
	t.Delivery.RequestHeader = req.Header
	start := d.now()
	r, err := d.do(short, e.client, u, req)
	t.Delivery.Duration = d.now().Sub(start)
	if err != nil {
		t.Delivery.Error = err.Error()
		return t
	}
	t.Delivery.Status, t.Delivery.Header, t.Delivery.Body = r.status, r.header, r.body[:min(len(r.body), maxShown)]
	switch {
	case !r.ok():
		t.Delivery.Error = http.StatusText(r.status)
		if t.Delivery.Error == "" {
			t.Delivery.Error = "unexpected status"
		}
	case prefix == userPrefix:
		if _, err := parseAnswer(r, false); err != nil {
			t.Delivery.Error = err.Error()
		}
	case name == connect:
		if _, err := parseConnect(r, nil); err != nil {
			t.Delivery.Error = err.Error()
		}
	}
	return t
}

// sample is an event that a handler is for.
func sample(h hubs.Handler) (name, prefix, ct string, body []byte) {
	for p := range strings.SplitSeq(h.UserEvents, ",") {
		switch p = strings.TrimSpace(p); {
		case p == "":
		case strings.ContainsAny(p, `*?\`):
			name = "message"
			if !Matches(h.UserEvents, name) {
				name = strings.NewReplacer("*", "x", "?", "x", `\`, "").Replace(p)
			}
		default:
			name = p
		}
		if name != "" {
			return name, userPrefix, contentType(hub.Text), []byte("a trial from the settings page")
		}
	}
	for _, name := range []string{connected, disconnected, joined, left, connect} {
		if !contains(h.SystemEvents, name) {
			continue
		}
		switch name {
		case joined, left:
			return name, gpPrefix, jsonType, []byte(`{"group":"trial"}`)
		case connect:
			return name, sysPrefix, jsonType, []byte(`{"claims":{},"query":{},"headers":{},"subprotocols":[],"clientCertificates":[]}`)
		case disconnected:
			return name, sysPrefix, jsonType, []byte(`{"reason":"trial"}`)
		}
		return name, sysPrefix, jsonType, []byte(`{}`)
	}
	return "message", userPrefix, contentType(hub.Text), []byte("a trial from the settings page")
}
