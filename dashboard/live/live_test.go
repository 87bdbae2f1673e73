package live_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"millrace/dashboard"
	"millrace/dashboard/auth"
	"millrace/dashboard/live"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/fanout"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv("MILLRACE_BENCH_VIEWERS"); spec != "" {
		viewers(spec)
		return
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

// A place is a whole dashboard with an engine, over an inventory that the test changes as it likes.
type place struct {
	t       testing.TB
	engine  *fanout.Engine
	catalog *catalog.Catalog
	live    *live.Handler
	app     *dashboard.App
	addr    string
	stop    func()

	mu     sync.Mutex
	access catalog.Access
	groups []devices.Group
	series map[string]devices.SeriesID
	at     int64
	signed map[string]devices.Session // by secret
}

func (p *place) LoadDevices(context.Context, []devices.ID) ([]catalog.DeviceRecord, error) {
	return nil, nil
}

func (p *place) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]devices.Group(nil), p.groups...), nil, nil
}

func (p *place) LoadAccess(context.Context) (catalog.Access, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return catalog.Access{
		Users: append([]devices.User(nil), p.access.Users...), Tokens: append([]devices.APIToken(nil), p.access.Tokens...),
		Bindings: append([]devices.Binding(nil), p.access.Bindings...),
	}, nil
}

// Session and the others make place an auth.Sessions.
func (p *place) Session(_ context.Context, secret string) (devices.Session, *devices.Principal, error) {
	p.mu.Lock()
	s, ok := p.signed[secret]
	p.mu.Unlock()
	if who := p.catalog.Principal(devices.UserPrincipal, s.User); ok && who != nil {
		return s, who, nil
	}
	return devices.Session{}, nil, devices.ErrUnauthorized
}

func (p *place) SignIn(context.Context, string, string, string, string) (string, devices.Session, error) {
	return "", devices.Session{}, devices.ErrUnauthorized
}

func (p *place) SignOut(_ context.Context, secret string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.signed, secret)
	return nil
}

// newPlace has the group hall with the devices' series m of d1 … dn, and a token "all" that may view it.
func newPlace(t testing.TB, n int) *place {
	p := &place{t: t, series: map[string]devices.SeriesID{}, at: time.Now().UnixMilli(), signed: map[string]devices.Session{}}
	p.engine = fanout.New(fanout.Config{})
	p.group("hall")
	for i := 1; i <= n; i++ {
		p.add(fmt.Sprintf("d%d", i), "hall")
	}
	p.token("all", "hall", nil)
	p.catalog = catalog.New(catalog.Config{SeriesPerDevice: 1000}, p)
	if err := p.catalog.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	a := auth.New(auth.Config{}, p, p.catalog)
	p.live = live.New(live.Config{}, p.engine, p.catalog, a, log)
	p.app = dashboard.New(dashboard.Config{}, dashboard.Deps{Auth: a, Live: p.live}, log)
	addr, err := p.app.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = addr.String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.engine.Run(ctx) })
	wg.Go(func() {
		if err := p.app.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); wg.Wait(); http.DefaultClient.CloseIdleConnections() })
	t.Cleanup(p.stop)
	return p
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "%s: %s", w.t.Name(), b)
	return len(b), nil
}

func (p *place) group(path devices.GroupPath) {
	g := devices.Group{Path: path, Tick: devices.MinTick}
	p.engine.SetGroup(g)
	p.mu.Lock()
	p.groups = append(p.groups, g)
	p.mu.Unlock()
}

func (p *place) add(device string, groups ...devices.GroupPath) {
	id := devices.SeriesID(len(p.series) + 1)
	p.series[device] = id
	p.engine.SetSeries(devices.Series{ID: id, Device: devices.ID(device), Metric: "m", Unit: "kN"}, groups)
}

func (p *place) token(secret string, group devices.GroupPath, expires *time.Time) {
	sum := sha256.Sum256([]byte(secret))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.access.Tokens = append(p.access.Tokens, devices.APIToken{ID: "t-" + secret, Name: secret, Hash: sum[:], Expires: expires})
	p.access.Bindings = append(p.access.Bindings, devices.Binding{ID: "b-" + secret, Token: "t-" + secret, Group: group, Role: devices.Viewer})
}

func (p *place) refresh(topic catalog.Topic) {
	p.t.Helper()
	if err := p.catalog.Refresh(context.Background(), catalog.Change{Topic: topic}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) offer(device string, v float64) {
	p.mu.Lock()
	p.at++
	at := p.at
	p.mu.Unlock()
	p.engine.Offer([]devices.Sample{{Series: p.series[device], At: at, Recv: at, Value: v}})
}

// A client is a foreign WebSocket client.
type client struct {
	t  testing.TB
	ws *websocket.Conn
}

func (p *place) dial(secret string) *client {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/live", &websocket.DialOptions{
		Subprotocols: []string{live.Subprotocol}, HTTPHeader: http.Header{"Authorization": {"Bearer " + secret}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	if ws.Subprotocol() != live.Subprotocol {
		p.t.Fatalf("subprotocol %q", ws.Subprotocol())
	}
	ws.SetReadLimit(64 << 20)
	p.t.Cleanup(func() { _ = ws.CloseNow() })
	return &client{p.t, ws}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// A message is whatever the server sends as JSON.
type message struct {
	Type, Code, Message, Reason, Epoch string
	ID                                 *uint32
	From, Seq                          uint64
	Snapshot                           bool
	At                                 int64
	Series, Added                      []struct {
		Index                      uint32
		Device, Metric, Unit, Kind string
	}
	Points []struct {
		Device, Metric, Quality string
		T                       int64
		Last, Min, Max          float64
		Count                   uint32
	}
}

func (c *client) read() (websocket.MessageType, []byte, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	return c.ws.Read(ctx)
}

// next is the next message of this type; others are passed over.
func (c *client) next(kind string) message {
	c.t.Helper()
	for {
		m, err := c.try(kind)
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if m.Type == kind {
			return m
		}
		if m.Type == "error" || m.Type == "closed" {
			c.t.Fatalf("waiting for %s: %+v", kind, m)
		}
	}
}

func (c *client) try(string) (m message, err error) {
	_, data, err := c.read()
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

func TestSubscribe(t *testing.T) {
	p := newPlace(t, 2)
	p.offer("d1", 7)
	c := p.dial("all")
	c.send(`{"type":"subscribe","id":3,"group":"hall","format":"json"}`)
	sub := c.next("subscribed")
	if *sub.ID != 3 || len(sub.Series) != 2 || sub.Series[0].Unit != "kN" || sub.Series[0].Kind != "float" || sub.Epoch == "" {
		t.Fatalf("%+v", sub)
	}
	snap := c.next("frame")
	if !snap.Snapshot || len(snap.Points) != 1 || snap.Points[0].Last != 7 || snap.Points[0].Min != 7 || snap.Points[0].Count != 0 {
		t.Fatalf("snapshot %+v", snap)
	}
	p.offer("d2", 1)
	f := c.next("frame")
	if f.From != snap.Seq || f.Seq <= f.From || len(f.Points) != 1 || f.Points[0].Device != "d2" || f.Points[0].Count != 1 {
		t.Fatalf("frame %+v", f)
	}
	p.add("d3", "hall")
	p.offer("d3", 4)
	if m := c.next("series"); len(m.Added) != 1 || m.Added[0].Device != "d3" {
		t.Fatalf("series %+v", m)
	}
	if f = c.next("frame"); f.Points[0].Device != "d3" || f.Points[0].Count != 1 {
		t.Fatalf("frame %+v", f)
	}
	first := c.next("time")
	if second := c.next("time"); second.At-first.At > 1000 || first.At == 0 {
		t.Errorf("the time came after %d ms", second.At-first.At)
	}
	c.send(`{"type":"ping"}`)
	c.next("time")
	c.send(`{"type":"unsubscribe","id":3}`)
	c.send(`{"type":"subscribe","id":3,"group":"hall","format":"json","from":{"epoch":%q,"seq":%d}}`, sub.Epoch, snap.Seq)
	if m := c.next("subscribed"); m.Seq != snap.Seq {
		t.Fatalf("resumed at %d, want %d", m.Seq, snap.Seq)
	}
	if f = c.next("frame"); f.Snapshot || f.From != snap.Seq || len(f.Points) != 2 {
		t.Fatalf("resumed frame %+v", f)
	}
	if s := p.live.Stats(); s.Viewers != 1 || s.Frames < 4 || s.Snapshots != 1 || s.Bytes == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestRefusals(t *testing.T) {
	p := newPlace(t, 1)
	p.group("cellar")
	p.refresh(catalog.GroupsChanged)
	c := p.dial("all")
	check := func(message, code string) {
		t.Helper()
		c.send("%s", message)
		for {
			m, err := c.try("")
			if err != nil {
				t.Fatal(err)
			}
			if m.Type == "time" || m.Type == "frame" {
				continue
			}
			if m.Type != "error" || m.Code != code || m.Message == "" {
				t.Errorf("%s: %+v, want code %s", message, m, code)
			}
			return
		}
	}
	check(`{`, "invalid")
	check(`[]`, "invalid")
	check(`null`, "invalid")
	check(`{"type":"dance"}`, "invalid")
	check(`{"type":"subscribe","id":1}`, "invalid")
	check(`{"type":"subscribe","id":-1,"group":"hall"}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":""}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","seq":1}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","pace":-1}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","pace":"x"}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","detail":"most"}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","format":"xml"}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","credit":"no"}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","inFlight":3}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"hall","series":["x"]}`, "invalid")
	check(`{"type":"subscribe","id":1,"group":"nowhere"}`, "not-found")
	check(`{"type":"subscribe","id":1,"group":"cellar"}`, "not-found")
	check(`{"type":"unsubscribe","id":9}`, "not-found")
	check(`{"type":"command","id":1,"device":"d1","name":"go","payload":{}}`, "unsupported")
	c.send(`{"type":"credit","id":9,"seq":1}`) // no answer
	c.send(`{"type":"subscribe","id":1,"group":"hall","format":"json"}`)
	c.next("subscribed")
	check(`{"type":"subscribe","id":1,"group":"hall"}`, "exists")

	for name, test := range map[string]struct {
		kind websocket.MessageType
		data []byte
		code websocket.StatusCode
	}{
		"binary": {websocket.MessageBinary, []byte{1}, websocket.StatusUnsupportedData},
		"large":  {websocket.MessageText, make([]byte, 2<<20), websocket.StatusMessageTooBig},
	} {
		c := p.dial("all")
		_ = c.ws.Write(t.Context(), test.kind, test.data) // the server may close while we write
		if code := c.closeCode(); code != test.code {
			t.Errorf("%s: closed with %d, want %d", name, code, test.code)
		}
	}
	flood := p.dial("all")
	for range 1200 {
		if flood.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"ping"}`)) != nil {
			break
		}
	}
	if code := flood.closeCode(); code != 4000 {
		t.Errorf("a flood was closed with %d", code)
	}
}

// closeCode reads until the server closes.
func (c *client) closeCode() websocket.StatusCode {
	for {
		if _, _, err := c.read(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func TestHandshake(t *testing.T) {
	p := newPlace(t, 1)
	p.access.Users = []devices.User{{ID: "u", Email: "u@example.com"}}
	p.access.Bindings = append(p.access.Bindings, devices.Binding{ID: "bu", User: "u", Group: "hall", Role: devices.Viewer})
	p.signed["cookie"] = devices.Session{User: "u", CSRF: "x", Expires: time.Now().Add(time.Hour)}
	p.refresh(catalog.AccessChanged)
	check := func(status int, url string, protocols []string, header ...string) *websocket.Conn {
		t.Helper()
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		ws, resp, err := websocket.Dial(t.Context(), "ws://"+p.addr+url, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: h})
		if resp == nil || resp.StatusCode != status {
			t.Errorf("%s %v: %v %v, want %d", url, header, resp, err, status)
			return nil
		}
		if ws != nil {
			t.Cleanup(func() { _ = ws.CloseNow() })
		}
		return ws
	}
	v1 := []string{live.Subprotocol}
	check(401, "/live", v1)
	check(401, "/live", v1, "Authorization", "Bearer wrong")
	check(101, "/live?access_token=all", v1)
	check(101, "/live?access_token=all", nil)
	check(101, "/live?access_token=all", v1, "Origin", "https://elsewhere.example")
	check(400, "/live?access_token=all", []string{"mqtt"})
	check(403, "/live", v1, "Cookie", "millrace_session=cookie", "Origin", "https://elsewhere.example")
	ws := check(101, "/live", v1, "Cookie", "millrace_session=cookie", "Origin", "http://"+p.addr)

	get, err := http.Get("http://" + p.addr + "/live?access_token=all")
	if err != nil || get.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("plain GET: %v %v", get.Status, err)
	}
	get.Body.Close()

	out, _ := http.NewRequest("GET", "http://"+p.addr+"/live", nil)
	out.Header.Set("Cookie", "millrace_session=cookie")
	_ = p.SignOut(t.Context(), "cookie")
	// The user goes as well, so that it need not be waited for the next look at sessions.
	p.mu.Lock()
	p.access.Users = nil
	p.mu.Unlock()
	p.refresh(catalog.AccessChanged)
	if code := (&client{t, ws}).closeCode(); code != 4101 {
		t.Errorf("closed with %d", code)
	}
}

func TestRightsActAtOnce(t *testing.T) {
	p := newPlace(t, 1)
	p.group("hall/a")
	p.group("tmp")
	p.token("part", "hall/a", nil)
	p.token("tmp", "tmp", nil)
	soon := time.Now().Add(1500 * time.Millisecond)
	p.token("soon", "hall", &soon)
	p.refresh(catalog.GroupsChanged)
	p.refresh(catalog.AccessChanged)
	other, part, tmp, expiring := p.dial("all"), p.dial("part"), p.dial("tmp"), p.dial("soon")
	for c, group := range map[*client]string{other: "hall", part: "hall/a", tmp: "tmp", expiring: "hall"} {
		c.send(`{"type":"subscribe","id":1,"group":%q,"format":"json"}`, group)
		c.next("subscribed")
		c.next("frame")
	}
	// A binding is taken away: the subscription ends, the connection stays.
	p.mu.Lock()
	for i, b := range p.access.Bindings {
		if b.ID == "b-part" {
			p.access.Bindings = append(p.access.Bindings[:i:i], p.access.Bindings[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	start := time.Now()
	p.refresh(catalog.AccessChanged)
	closed := part.until("closed")
	if took := time.Since(start); closed.Reason != "forbidden" || took > time.Second {
		t.Errorf("%+v after %v", closed, took)
	}
	part.send(`{"type":"subscribe","id":2,"group":"hall/a"}`)
	if m := part.until("error"); m.Code != "not-found" {
		t.Errorf("%+v", m)
	}
	// A group is deleted.
	p.mu.Lock()
	p.groups = p.groups[:len(p.groups)-1]
	p.mu.Unlock()
	p.engine.RemoveGroup("tmp")
	p.refresh(catalog.GroupsChanged)
	if m := tmp.until("closed"); m.Reason != "gone" {
		t.Errorf("%+v", m)
	}
	// The token ends by itself.
	if code := expiring.closeCode(); code != 4100 || time.Since(soon) > time.Second {
		t.Errorf("closed with %d, %v after it expired", code, time.Since(soon))
	}
	// Others notice nothing.
	p.offer("d1", 9)
	if f := other.next("frame"); f.Points[0].Last != 9 {
		t.Errorf("%+v", f)
	}
	// The token is deleted: the connection ends.
	p.mu.Lock()
	p.access.Tokens = nil
	p.mu.Unlock()
	p.refresh(catalog.AccessChanged)
	if code := other.closeCode(); code != 4101 {
		t.Errorf("closed with %d", code)
	}
	if s := p.live.Stats(); s.Revoked < 1 {
		t.Errorf("stats %+v", s)
	}
}

// until is next that takes error and closed for what they are.
func (c *client) until(kind string) message {
	c.t.Helper()
	for {
		m, err := c.try(kind)
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if m.Type == kind {
			return m
		}
	}
}

func TestShutdownSaysComeBack(t *testing.T) {
	p := newPlace(t, 1)
	c := p.dial("all")
	c.send(`{"type":"subscribe","id":1,"group":"hall","format":"json"}`)
	c.next("subscribed")
	sse := p.stream(t, "hall", "")
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, sse.Body) }()
	stopped := make(chan struct{})
	go func() { defer close(stopped); p.stop() }()
	if code := c.closeCode(); code != websocket.StatusServiceRestart {
		t.Errorf("closed with %d", code)
	}
	<-ended
	<-stopped
}
