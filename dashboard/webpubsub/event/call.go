package event

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"millrace/devices/hubs"
)

// maxAnswer is how long the body of an answer may be.
const maxAnswer = 16 << 20

var (
	errTooLong  = errors.New("the answer is longer than 16 MiB")
	errNoTunnel = errors.New("no server is connected through the tunnel")
	errBusy     = errors.New("too many calls to this handler are under way")
)

// A reply is what a handler answered, whatever that was.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r *reply) ok() bool { return r.status/100 == 2 }

// again reports whether a call may do better next time.
func again(r *reply, err error) bool {
	if err != nil {
		return !errors.Is(err, errTooLong) && !errors.Is(err, errRefused) && !errors.Is(err, errTemplate)
	}
	return r.status == http.StatusRequestTimeout || r.status >= 500
}

// call asks a handler, as often as Config says. It ends early with ctx, and then returns the cause of that.
func (d *Dispatcher) call(ctx context.Context, h hubs.Handler, e *envelope) (r *reply, err error) {
	for i := range d.config.Attempts {
		if i > 0 {
			d.retried.Add(1)
			pause := time.Second
			if n := len(d.config.Pauses); n > 0 {
				pause = d.config.Pauses[min(i-1, n-1)]
			}
			if !sleep(ctx, pause) {
				return nil, context.Cause(ctx)
			}
		}
		r, err = d.attempt(ctx, h, e, "")
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil && r.ok() {
			return r, nil
		}
		problem := err
		if problem == nil {
			problem = fmt.Errorf("answered %d", r.status)
		}
		if r == nil || r.status/100 != 4 { // to say no is a handler's right
			d.complain("event handler", e.client.Hub, h.URL, problem)
		}
		if !again(r, err) {
			break
		}
	}
	return r, err
}

// attempt asks once: it makes sure of the handler's consent, waits for a place among the calls to it, and is done after
// Config.Timeout. Calls of another lane don't take places of this one.
func (d *Dispatcher) attempt(ctx context.Context, h hubs.Handler, e *envelope, lane string) (r *reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.Timeout)
	defer cancel()
	u, err := resolve(h.URL, e.client.Hub, e.event)
	if err != nil {
		d.failed.Add(1)
		return nil, err
	}
	leave, err := d.gates.enter(ctx, lane+"\x00"+e.client.Hub+"\x00"+h.URL, d.config.Calls)
	if err != nil {
		d.failed.Add(1)
		return nil, err
	}
	defer leave()
	start := d.now()
	d.open.Add(1)
	defer func() {
		d.open.Add(-1)
		d.took.Add(int64(d.now().Sub(start)))
		if err != nil || !r.ok() {
			d.failed.Add(1)
		} else {
			d.sent.Add(1)
		}
	}()
	if !h.Trusted && u.Scheme != "tunnel" {
		if err := d.consent(ctx, h.URL, e.client.Hub); err != nil {
			return nil, err
		}
	}
	req, err := e.newRequest(ctx, u, d.config.Origin, d.source.Keys())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTemplate, err)
	}
	r, err = d.do(ctx, e.client, u, req)
	if err == nil && r.ok() {
		e.client.Cookies.read(u, r.header)
	}
	return r, err
}

// do sends a request and reads the answer.
func (d *Dispatcher) do(ctx context.Context, c Client, u *url.URL, req *http.Request) (*reply, error) {
	var resp *http.Response
	var err error
	switch {
	case u.Scheme != "tunnel":
		resp, err = d.client.Do(req)
	case d.tunnel == nil:
		err = errNoTunnel
	default:
		resp, err = d.tunnel.Do(ctx, c.Hub, c.Connection, req)
	}
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL may have a secret in it
		}
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, errTooLong
	}
	return &reply{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// sleep waits, and reports whether it could to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// gates bound the calls to one handler. Those that wait are no more than there are connections, for each of which one call is made at a
// time.
type gates struct {
	mu   sync.Mutex
	open map[string]*gate
}

type gate struct {
	places chan struct{}
	users  int // that have a place or wait for one
}

// enter waits for a place, which leave gives back.
func (g *gates) enter(ctx context.Context, key string, places int) (leave func(), err error) {
	g.mu.Lock()
	if g.open == nil {
		g.open = map[string]*gate{}
	}
	t := g.open[key]
	if t == nil {
		t = &gate{places: make(chan struct{}, places)}
		g.open[key] = t
	}
	t.users++
	g.mu.Unlock()
	out := func() {
		g.mu.Lock()
		if t.users--; t.users == 0 {
			delete(g.open, key)
		}
		g.mu.Unlock()
	}
	select {
	case t.places <- struct{}{}:
		return func() { <-t.places; out() }, nil
	case <-ctx.Done():
		out()
		return nil, errBusy
	}
}
