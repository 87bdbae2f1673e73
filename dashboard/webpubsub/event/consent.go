package event

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	checkTimeout = 10 * time.Second
	freshFor     = time.Minute // a consent is asked for again after this, in the background
	firstBackOff = time.Second
	lastBackOff  = time.Minute
	maxChecks    = 4096
)

// errRefused is wrapped by what is wrong with the answer to a handshake. Asking again at once does not help.
var errRefused = errors.New("the handler has not allowed events from here")

// A check is where consent is asked for.
type check struct{ template, hub string }

// checks has the consent of every URL: the abuse protection of CloudEvents webhooks.
type checks struct {
	mu      sync.Mutex
	known   map[string]*consent // by URL
	refresh chan check          // consents that are old
}

type consent struct {
	given   bool
	err     error         // of the last check
	fails   int           // in a row
	next    time.Time     // not asked before
	asking  chan struct{} // closed when who asks now is done; nil: nobody does
	renewal bool          // is in the channel
}

// consent returns nil if the handler has agreed to get events, and asks it if that is not known. What refuses is asked again after
// a second at first, after a minute in the end.
func (d *Dispatcher) consent(ctx context.Context, template, hub string) error {
	u, err := resolve(template, hub, "validate")
	if err != nil {
		return err
	}
	k := &d.checks
	for {
		k.mu.Lock()
		c := k.of(u.String())
		now := d.now()
		if c.given {
			if !now.Before(c.next) && !c.renewal {
				select {
				case k.refresh <- check{template, hub}:
					c.renewal = true
				default: // with the next event
				}
			}
			k.mu.Unlock()
			return nil
		}
		if c.asking == nil && now.Before(c.next) {
			err := c.err
			k.mu.Unlock()
			return err
		}
		if wait := c.asking; wait != nil {
			k.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		k.mu.Unlock()
		return d.ask(ctx, u, c)
	}
}

// of returns what is known of a URL.
func (k *checks) of(u string) *consent {
	c := k.known[u]
	if c == nil {
		if k.known == nil || len(k.known) >= maxChecks {
			k.known = map[string]*consent{}
		}
		c = &consent{}
		k.known[u] = c
	}
	return c
}

// ask asks, unless somebody else does meanwhile, and keeps the answer.
func (d *Dispatcher) ask(ctx context.Context, u *url.URL, c *consent) error {
	k := &d.checks
	k.mu.Lock()
	if now := d.now(); now.Before(c.next) { // somebody else has just asked
		defer k.mu.Unlock()
		if c.given {
			return nil
		}
		return c.err
	}
	if wait := c.asking; wait != nil {
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return d.ask(ctx, u, c) // who asked may have gone away
	}
	done := make(chan struct{})
	c.asking = done
	k.mu.Unlock()

	short, cancel := context.WithTimeout(ctx, checkTimeout)
	_, err := d.handshake(short, u)
	cancel()

	k.mu.Lock()
	defer k.mu.Unlock()
	c.asking, c.renewal = nil, false
	close(done)
	switch {
	case err == nil:
		c.given, c.err, c.fails, c.next = true, nil, 0, d.now().Add(freshFor)
	case ctx.Err() != nil: // it was us who stopped
	default:
		if errors.Is(err, errRefused) {
			c.given = false // one that is only away for a moment keeps what it gave
		}
		back := min(firstBackOff<<min(c.fails, 10), lastBackOff)
		c.err, c.fails, c.next = err, c.fails+1, d.now().Add(back)
	}
	return err
}

// handshake asks once, and returns the answer and what is wrong with it: CloudEvents, HTTP 1.1 Web Hooks, 4.
func (d *Dispatcher) handshake(ctx context.Context, u *url.URL) (*Step, error) {
	var step *Step
	for _, method := range []string{http.MethodOptions, http.MethodGet} {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errTemplate, err)
		}
		req.Header.Set("WebHook-Request-Origin", d.config.Origin)
		req.Header.Set("ce-awpsversion", awpsVersion)
		req.Header.Set("User-Agent", "Millrace")
		step = &Step{Method: method, URL: u.String(), RequestHeader: req.Header}
		start := d.now()
		resp, err := d.client.Do(req)
		step.Duration = d.now().Sub(start)
		if err != nil {
			if ue, ok := errors.AsType[*url.Error](err); ok {
				err = ue.Err
			}
			step.Error = err.Error()
			return step, err
		}
		step.Body, _ = io.ReadAll(io.LimitReader(resp.Body, maxShown))
		resp.Body.Close()
		step.Status, step.Header = resp.StatusCode, resp.Header
		if resp.StatusCode != http.StatusNotFound {
			break
		}
	}
	var err error
	switch {
	case step.Status >= 500 || step.Status == http.StatusRequestTimeout || step.Status == http.StatusTooManyRequests:
		err = fmt.Errorf("the handshake was answered %d", step.Status)
	case step.Status/100 != 2:
		err = fmt.Errorf("%w: the handshake was answered %d", errRefused, step.Status)
	case !allowed(step.Header.Values("WebHook-Allowed-Origin"), d.config.Origin):
		err = fmt.Errorf("%w: WebHook-Allowed-Origin has neither * nor %s", errRefused, d.config.Origin)
	}
	if err != nil {
		step.Error = err.Error()
	}
	return step, err
}

// allowed looks for the origin in what may be lists, of hosts with or without a port.
func allowed(lines []string, origin string) bool {
	for _, l := range lines {
		for o := range strings.SplitSeq(l, ",") {
			o = strings.TrimSpace(o)
			if o == "*" || strings.EqualFold(o, origin) {
				return true
			}
			if u, err := url.Parse("//" + o); err == nil && u.Host != "" && strings.EqualFold(u.Hostname(), strings.Trim(origin, "[]")) {
				return true
			}
		}
	}
	return false
}

// refreshLoop asks for consents again that are old.
func (d *Dispatcher) refreshLoop(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, 32) // so many don't answer at a time
	for {
		var c check
		select {
		case <-ctx.Done():
			return
		case c = <-d.checks.refresh:
		}
		select {
		case <-ctx.Done():
			return
		case places <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-places }()
			u, err := resolve(c.template, c.hub, "validate")
			if err != nil {
				return
			}
			d.checks.mu.Lock()
			known := d.checks.of(u.String())
			d.checks.mu.Unlock()
			if err := d.ask(ctx, u, known); err != nil && ctx.Err() == nil {
				d.complain("event handler's handshake", c.hub, c.template, err)
			}
		})
	}
}
