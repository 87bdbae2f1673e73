package event

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/devices/hubs"
)

// maxAnswer is the largest body of a handler's answer in bytes.
const maxAnswer = 16 << 20

func newHTTP(c Config) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.MaxIdleConnsPerHost = 64
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: !c.Certificates, MinVersion: tls.VersionTLS12} //nolint:gosec // as the setting says
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// A post is one event on its way to a handler.
type post struct {
	client  Client
	kind    string // of CloudEvents: azure.webpubsub.sys.connect
	name    string
	url     string
	trusted bool
	content string // type of the body
	body    []byte
	extra   http.Header
	request string // id, the same in all tries
}

// resolve fills in a template of a URL.
func resolve(template, hubName, event string) string {
	for _, p := range []struct{ name, value string }{{"{hub}", hubName}, {"{event}", event}} {
		for i := indexFold(template, p.name); i >= 0; i = indexFold(template, p.name) {
			template = template[:i] + url.PathEscape(p.value) + template[i+len(p.name):]
		}
	}
	return template
}

func indexFold(s, sub string) int { return strings.Index(strings.ToLower(s), sub) }

// signature signs a connection's id with each key.
func signature(connection string, keys hubs.Keys) string {
	var all []string
	for _, k := range []string{keys.Primary, keys.Secondary} {
		if k != "" {
			h := hmac.New(sha256.New, []byte(k))
			h.Write([]byte(connection))
			all = append(all, "sha256="+hex.EncodeToString(h.Sum(nil)))
		}
	}
	return strings.Join(all, ",")
}

func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// origin is the name that handlers know us by.
const origin = "localhost"

// header makes the header of an event.
func (d *Dispatcher) header(p *post) http.Header {
	h := http.Header{}
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value} // as they are spelled: HTTP/1 receivers see the case
		}
	}
	source := "/hubs/" + p.client.Hub + "/client/" + p.client.Connection
	if p.client.Physical != "" {
		source += "/" + p.client.Physical
	}
	set("WebHook-Request-Origin", d.origin())
	set("Content-Type", p.content)
	set("ce-specversion", "1.0")
	set("ce-awpsversion", "1.0")
	set("ce-type", p.kind)
	set("ce-source", source)
	set("ce-id", strconv.FormatUint(p.client.ID, 10))
	set("ce-time", time.Now().UTC().Format("2006-01-02T15:04:05Z"))
	set("ce-signature", signature(p.client.Connection, d.source.Keys()))
	set("ce-connectionId", p.client.Connection)
	set("ce-hub", p.client.Hub)
	set("ce-eventName", p.name)
	set("ce-userId", p.client.User)
	set("ce-subprotocol", p.client.Subprotocol)
	if p.client.State != nil {
		h["ce-connectionState"] = []string{*p.client.State}
	}
	set("ce-physicalConnectionId", p.client.Physical)
	set("ce-sessionId", p.client.Session)
	set("x-ms-client-request-id", p.request)
	for k, v := range p.extra {
		h[k] = v
	}
	return h
}

// origin is the host that handlers are told that events come from.
func (d *Dispatcher) origin() string {
	if d.c.Origin != "" {
		return d.c.Origin
	}
	return origin
}

// statusError is an answer that is no success.
type statusError struct {
	status  int
	content string
	body    []byte
}

func (e *statusError) Error() string { return "it answered " + strconv.Itoa(e.status) }

// again reports whether another try may succeed.
func again(err error) bool {
	s, ok := errors.AsType[*statusError](err)
	return !ok || s.status == http.StatusRequestTimeout || s.status >= 500
}

// response is a successful answer.
type response struct {
	status int
	header http.Header
	body   []byte
}

// deliver sends an event, several times if it must.
func (d *Dispatcher) deliver(ctx context.Context, p *post) (*response, int, error) {
	p.request = requestID()
	for try := 0; ; try++ {
		r, err := d.once(ctx, p)
		if err == nil {
			d.counts.sent.Add(1)
			return r, try + 1, nil
		}
		if ctx.Err() != nil || !again(err) || try == len(d.c.Pauses) {
			return nil, try + 1, err
		}
		d.counts.retried.Add(1)
		select {
		case <-ctx.Done():
			return nil, try + 1, ctx.Err()
		case <-time.After(d.c.Pauses[try]):
		}
	}
}

// once sends an event one time.
func (d *Dispatcher) once(ctx context.Context, p *post) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.Timeout)
	defer cancel()
	tunnelled := strings.HasPrefix(p.url, "tunnel:")
	target := p.url
	if u, err := url.Parse(p.url); err == nil {
		target = p.client.Hub + " " + u.Scheme + "://" + u.Host
	}
	s, _ := d.targets.LoadOrStore(target, make(chan struct{}, d.c.Calls))
	slots := s.(chan struct{})
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("too many calls are open: %w", ctx.Err())
	}
	defer func() { <-slots }()
	if !p.trusted && !tunnelled {
		if err := d.check(ctx, p.url); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return nil, err
	}
	req.Header = d.header(p)
	d.counts.open.Add(1)
	defer d.counts.open.Add(-1)
	var res *http.Response
	switch {
	case !tunnelled:
		jar := d.jars.of(p.client)
		for _, c := range jar.Cookies(req.URL) {
			req.AddCookie(c)
		}
		if res, err = d.http.Do(req); err == nil && res.StatusCode/100 == 2 {
			jar.SetCookies(req.URL, res.Cookies())
		}
	case d.tunnel == nil:
		return nil, errors.New("there are no server connections")
	default:
		res, err = d.tunnel.Do(ctx, p.client.Hub, p.client.Connection, req)
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode/100 != 2:
		return nil, &statusError{res.StatusCode, res.Header.Get("Content-Type"), body[:min(len(body), 64<<10)]}
	case len(body) > maxAnswer:
		return nil, &statusError{status: http.StatusBadGateway, content: "text/plain", body: []byte("its answer is too long")}
	}
	return &response{res.StatusCode, res.Header, body}, nil
}

// jars keep the cookies of answers for each connection, for load balancers that stick to one server.
type jars struct {
	mu  sync.Mutex
	all map[string]http.CookieJar
}

// of is the jar of a connection, which forget drops.
func (j *jars) of(c Client) http.CookieJar {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := c.Hub + "\x00" + c.Connection
	if jar := j.all[key]; jar != nil {
		return jar
	}
	return &lazyJar{jars: j, key: key}
}

func (j *jars) forget(c Client) {
	j.mu.Lock()
	delete(j.all, c.Hub+"\x00"+c.Connection)
	j.mu.Unlock()
}

// lazyJar becomes a jar with its first cookie.
type lazyJar struct {
	jars *jars
	key  string
}

func (*lazyJar) Cookies(*url.URL) []*http.Cookie { return nil }

func (l *lazyJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	if len(cookies) == 0 {
		return
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return
	}
	jar.SetCookies(u, cookies)
	l.jars.mu.Lock()
	defer l.jars.mu.Unlock()
	if l.jars.all == nil {
		l.jars.all = map[string]http.CookieJar{}
	}
	l.jars.all[l.key] = jar
}

// How long what was found out about a handler holds.
const (
	checkTimeout = 10 * time.Second
	checkFresh   = time.Minute
	checkMost    = time.Minute // between tries that fail
)

// checks are the abuse-protection handshakes, by URL.
type checks struct {
	mu  sync.Mutex
	all map[string]*check
}

type check struct {
	mu       sync.Mutex // held during a handshake
	at       time.Time  // of the last
	err      error
	valid    bool // one has succeeded, and none failed since
	failures int
	fresher  bool // one is under way in the background
}

// check makes sure that a handler wants events from us (HTTP 1.1 Web Hooks for Event Delivery, 4). It asks again now and then: in the background
// when it did want them.
func (d *Dispatcher) check(ctx context.Context, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	key := u.Scheme + "://" + u.Host + u.Path
	d.checked.mu.Lock()
	if d.checked.all == nil {
		d.checked.all = map[string]*check{}
	}
	c := d.checked.all[key]
	if c == nil {
		if len(d.checked.all) > 10_000 {
			clear(d.checked.all)
		}
		c = &check{}
		d.checked.all[key] = c
	}
	d.checked.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case c.valid && now.Sub(c.at) < checkFresh:
		return nil
	case c.valid:
		if !c.fresher {
			c.fresher = true
			d.running.Go(func() {
				err := d.handshake(d.ctx, target)
				c.mu.Lock()
				defer c.mu.Unlock()
				c.note(err)
				c.fresher = false
			})
		}
		return nil
	case c.failures > 0 && now.Sub(c.at) < min(time.Second<<min(c.failures-1, 6), checkMost):
		return c.err
	}
	c.note(d.handshake(ctx, target))
	return c.err
}

func (c *check) note(err error) {
	c.at, c.err, c.valid = time.Now(), err, err == nil
	if err == nil {
		c.failures = 0
	} else {
		c.failures++
	}
}

// handshake asks a handler whether it wants events from us.
func (d *Dispatcher) handshake(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for _, method := range []string{http.MethodOptions, http.MethodGet} {
		req, err := http.NewRequestWithContext(ctx, method, target, nil)
		if err != nil {
			return err
		}
		req.Header["WebHook-Request-Origin"] = []string{d.origin()}
		req.Header["ce-awpsversion"] = []string{"1.0"}
		res, err := d.http.Do(req)
		if err != nil {
			return fmt.Errorf("abuse protection: %w", err)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
		res.Body.Close()
		if res.StatusCode == http.StatusNotFound && method == http.MethodOptions {
			continue
		}
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("abuse protection: it answered %d to %s", res.StatusCode, method)
		}
		if !d.welcome(res.Header.Values("WebHook-Allowed-Origin")) {
			return fmt.Errorf("abuse protection: WebHook-Allowed-Origin is %q, neither * nor %s", res.Header.Values("WebHook-Allowed-Origin"), d.origin())
		}
		return nil
	}
	return errors.New("abuse protection: it answered 404")
}

// welcome reports whether an allowed origin is us.
func (d *Dispatcher) welcome(allowed []string) bool {
	host := d.origin()
	return slices.ContainsFunc(allowed, func(line string) bool {
		return slices.ContainsFunc(strings.Split(line, ","), func(o string) bool {
			o = strings.TrimSpace(o)
			name, _, _ := strings.Cut(o, ":")
			return o == "*" || strings.EqualFold(o, host) || strings.EqualFold(name, host)
		})
	})
}
