package webpubsub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/webpubsub/access"
	"millrace/dashboard/webpubsub/event"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/devices/hubs"
)

// testKey is the primary key of test servers.
const testKey = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH"

// settings are those of a test server.
type settings struct {
	mu  sync.Mutex
	all map[string]hubs.Settings
}

func (s *settings) Hub(name string) hubs.Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.all[strings.ToLower(name)]; ok {
		return h
	}
	return hubs.Default(name)
}

func (s *settings) set(h hubs.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.KeepAlive == 0 {
		h.KeepAlive = 20 * time.Second
	}
	s.all[h.Hub] = h
}

func (s *settings) Keys() hubs.Keys {
	return hubs.Keys{Primary: testKey, Secondary: "the other key, which is as long as a key must be"}
}

// letters keeps dead letters.
type letters struct {
	mu  sync.Mutex
	all []hubs.Letter
}

func (l *letters) AddLetter(_ context.Context, d hubs.Letter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
	return nil
}

func (l *letters) list() []hubs.Letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]hubs.Letter(nil), l.all...)
}

// server is an endpoint on a port of its own.
type server struct {
	t        testing.TB
	e        *Endpoint
	settings *settings
	letters  *letters
	base     string
}

func serve(t testing.TB, c Config) *server {
	t.Helper()
	s := &server{t: t, settings: &settings{all: map[string]hubs.Settings{}}, letters: &letters{}}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if c.Handlers.Pauses == nil {
		c.Handlers.Pauses = []time.Duration{20 * time.Millisecond, 20 * time.Millisecond}
		c.Handlers.Attempts, c.Handlers.Keep = 3, 500*time.Millisecond
	}
	if c.Handlers.Timeout == 0 {
		c.Handlers.Timeout = 2 * time.Second
	}
	d := event.New(c.Handlers, s.settings, s.letters, nil, nil, log)
	s.e = New(c, Deps{Settings: s.settings, Events: d}, log)
	app := fiber.New(fiber.Config{DisableStartupMessage: true, Immutable: true, UnescapePath: true, CaseSensitive: true, ReadBufferSize: 16 << 10, BodyLimit: maxMessage})
	s.e.Register(app)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = app.Listener(l) })
	parts.Go(func() { _ = s.e.Run(ctx) })
	parts.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() {
		last, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		_ = s.e.Shutdown(last)
		_ = app.ShutdownWithContext(last)
		cancel()
		parts.Wait()
	})
	return s
}

// all are the roles that may everything with groups.
var all = []string{"webpubsub.sendToGroup", "webpubsub.joinLeaveGroup"}

// token signs a user in.
func (s *server) token(hubName, user string, roles ...string) string {
	t, err := access.Sign(testKey, access.Grant{Endpoint: s.base, Path: "/client/hubs/" + hubName, User: user, Roles: roles, Life: time.Hour}, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

// client is a WebSocket client that keeps what it got.
type client struct {
	t  testing.TB
	ws *websocket.Conn
}

func (s *server) dial(hubName, query, subprotocol string) (*client, *http.Response, error) {
	o := &websocket.DialOptions{}
	if subprotocol != "" {
		o.Subprotocols = []string{subprotocol}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(s.base, "http")+"/client/hubs/"+hubName+"?"+query, o)
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(8 << 20)
	return &client{s.t, ws}, res, nil
}

// connect opens a JSON client and reads its first frame.
func (s *server) connect(hubName, user, subprotocol string, roles ...string) (*client, map[string]any) {
	s.t.Helper()
	c, _, err := s.dial(hubName, "access_token="+s.token(hubName, user, roles...), subprotocol)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.ws.CloseNow() })
	first := c.read()
	if first["event"] != "connected" {
		s.t.Fatalf("first frame is %v", first)
	}
	return c, first
}

func (c *client) read() map[string]any {
	c.t.Helper()
	m, err := c.tryRead()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *client) tryRead() (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, b, err := c.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(b, &m)
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := c.ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// want reads a frame and compares it, as JSON.
func (c *client) want(frame string) {
	c.t.Helper()
	got := c.read()
	var want map[string]any
	if err := json.Unmarshal([]byte(frame), &want); err != nil {
		c.t.Fatal(err)
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		c.t.Fatalf("got  %s\nwant %s", g, w)
	}
}

// closed reads until the connection is closed, and returns the code.
func (c *client) closed() websocket.StatusCode {
	c.t.Helper()
	for {
		if _, err := c.tryRead(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// rest sends a request to the REST API.
func (s *server) rest(method, path, contentType, body string) *http.Response {
	s.t.Helper()
	target := s.base + path
	token, err := access.SignREST(testKey, target, time.Minute, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res
}

func TestGroupsAndAcks(t *testing.T) {
	s := serve(t, Config{})
	a, first := s.connect("Chat", "alice", protocol.JSON, all...)
	if first["userId"] != "alice" || first["connectionId"] == "" || first["reconnectionToken"] != nil {
		t.Fatalf("connected with %v", first)
	}
	b, _ := s.connect("chat", "", protocol.JSON, "webpubsub.joinLeaveGroup.g")
	for _, c := range []*client{a, b} {
		c.send(`{"type":"joinGroup","group":"g","ackId":0}`)
		c.want(`{"type":"ack","ackId":0,"success":true}`)
	}
	a.send(`{"type":"sendToGroup","group":"g","ackId":1,"noEcho":true,"dataType":"Text","data":"hi"}`)
	a.want(`{"type":"ack","ackId":1,"success":true}`)
	b.want(`{"type":"message","from":"group","group":"g","fromUserId":"alice","dataType":"text","data":"hi"}`)
	a.send(`{"type":"sendToGroup","group":"g","ackId":1,"data":{"x": 1.50}}`)
	a.want(`{"type":"ack","ackId":1,"success":false,"error":{"name":"Duplicate","message":"Message with ack-id: 1 has been processed"}}`)
	b.send(`{"type":"sendToGroup","group":"g","ackId":7,"data":1}`)
	b.want(`{"type":"ack","ackId":7,"success":false,"error":{"name":"Forbidden","message":"The client does not have permission to send to group 'g'."}}`)
	b.send(`{"type":"joinGroup","group":"h","ackId":8}`)
	b.want(`{"type":"ack","ackId":8,"success":false,"error":{"name":"Forbidden","message":"The client does not have permission to join group 'h'."}}`)
	b.send(`{"type":"ping"}`)
	b.want(`{"type":"pong"}`)
	a.send(`{"type":"event","event":"nobody","ackId":9,"data":1}`)
	a.want(`{"type":"ack","ackId":9,"success":false,"error":{"name":"InternalServerError","message":"Internal server error"}}`)
	a.send(`{"type":"leaveGroup","group":"g","ackId":10}`)
	a.want(`{"type":"ack","ackId":10,"success":true}`)
	if res := s.rest("POST", "/api/hubs/chat/groups/g/:send?api-version=2024-12-01", "application/json", `{"a": [1, 2]}`); res.StatusCode != 202 {
		t.Fatal(res.Status)
	}
	b.want(`{"type":"message","from":"group","group":"g","dataType":"json","data":{"a":[1,2]}}`)
	if res := s.rest("POST", "/api/hubs/chat/:send", "application/octet-stream", "\x00\x01\x02"); res.StatusCode != 202 {
		t.Fatal(res.Status)
	}
	b.want(`{"type":"message","from":"server","dataType":"binary","data":"AAEC"}`)
}

// TestSimpleClients get payloads as they were published.
func TestSimpleClients(t *testing.T) {
	s := serve(t, Config{})
	c, res, err := s.dial("chat", "access_token="+s.token("chat", "bob", all...)+"&webpubsub_mode=SendToGroup&group=g", "")
	if err != nil || res.Header.Get("Sec-WebSocket-Protocol") != "" {
		t.Fatal(err, res)
	}
	defer c.ws.CloseNow()
	j, _ := s.connect("chat", "", protocol.JSON, all...)
	j.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	j.want(`{"type":"ack","ackId":1,"success":true}`)
	c.send("plain")
	j.want(`{"type":"message","from":"group","group":"g","fromUserId":"bob","dataType":"text","data":"plain"}`)
	const raw = `{ "z":1.0,  "a": [ ] }`
	s.rest("POST", "/api/hubs/chat/users/bob/:send", "application/json; charset=utf-8", raw)
	kind, b, err := c.ws.Read(t.Context())
	if err != nil || kind != websocket.MessageText || string(b) != raw {
		t.Errorf("got %q, %v", b, err)
	}
	s.rest("POST", "/api/hubs/chat/users/bob/:send", "application/octet-stream", "\x00\xff")
	if kind, b, err = c.ws.Read(t.Context()); err != nil || kind != websocket.MessageBinary || string(b) != "\x00\xff" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, res, err := s.dial("chat", "access_token="+s.token("chat", "")+"&webpubsub_mode=nonsense", ""); err == nil || res.StatusCode != 400 {
		t.Error("a mode that does not exist was taken")
	}
	e, _, err := s.dial("chat", "access_token="+s.token("chat", ""), "")
	if err != nil {
		t.Fatal(err)
	}
	e.send("for nobody")
	if code := e.closed(); code != 1011 {
		t.Errorf("a simple client's event that nobody takes ends with %d", code)
	}
	f, _, err := s.dial("chat", "access_token="+s.token("chat", "")+"&webpubsub_mode=sendToGroup&group=g", "")
	if err != nil {
		t.Fatal(err)
	}
	f.send("no right")
	if code := f.closed(); code != 1008 {
		t.Errorf("without the right it ends with %d", code)
	}
}

// TestRevocation is effective before the answer of the request.
func TestRevocation(t *testing.T) {
	s := serve(t, Config{})
	c, first := s.connect("chat", "alice", protocol.JSON, all...)
	id := url.PathEscape(first["connectionId"].(string))
	for i := range 50 {
		group := fmt.Sprintf("room/%d", i)
		path := "/api/hubs/chat/permissions/sendToGroup/connections/" + id + "?targetName=" + url.QueryEscape(group)
		if res := s.rest("DELETE", path, "", ""); res.StatusCode != 204 {
			t.Fatal(res.Status)
		}
		c.send(`{"type":"sendToGroup","group":"%s","ackId":%d,"data":1}`, group, 2*i)
		if got := c.read(); got["success"] != false {
			t.Fatalf("sent after the right was revoked: %v", got)
		}
		if res := s.rest("HEAD", path, "", ""); res.StatusCode != 404 {
			t.Fatal(res.Status)
		}
		if res := s.rest("PUT", path, "", ""); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		c.send(`{"type":"sendToGroup","group":"%s","ackId":%d,"data":1}`, group, 2*i+1)
		if got := c.read(); got["success"] != true {
			t.Fatalf("not sent after the right was granted: %v", got)
		}
	}
	if res := s.rest("DELETE", "/api/hubs/chat/connections/"+id+"?reason="+strings.Repeat("long", 100), "", ""); res.StatusCode != 204 {
		t.Fatal(res.Status)
	}
	if res := s.rest("HEAD", "/api/hubs/chat/connections/"+id, "", ""); res.StatusCode != 404 {
		t.Error("a closed connection still exists")
	}
	c.want(`{"type":"system","event":"disconnected","message":"Application server closed the connection. Reason: ` + strings.Repeat("long", 100) + `"}`)
	if code := c.closed(); code != 1000 {
		t.Errorf("closed with %d", code)
	}
}

// TestREST looks at status, code and shape of what goes wrong, and at paging.
func TestREST(t *testing.T) {
	s := serve(t, Config{})
	c, first := s.connect("h", "u/1", protocol.JSON, all...)
	id := first["connectionId"].(string)
	for _, r := range []struct {
		method, path, contentType, body string
		status                          int
		code                            string
	}{
		{"HEAD", "/api/health", "", "", 200, ""},
		{"HEAD", "/api/hubs/h/connections/" + id, "", "", 200, ""},
		{"HEAD", "/api/hubs/h/connections/none", "", "", 404, "Warning.Connection.NotExisted"},
		{"HEAD", "/api/hubs/h/users/u%2F1", "", "", 200, ""},
		{"HEAD", "/api/hubs/h/users/u", "", "", 404, "Warning.User.NotExisted"},
		{"HEAD", "/api/hubs/h/groups/g", "", "", 404, "Warning.Group.NotExisted"},
		{"PUT", "/api/hubs/h/groups/g/connections/none", "", "", 404, "Error.Connection.NotExisted"},
		{"PUT", "/api/hubs/h/groups/g%2F1/connections/" + id, "", "", 200, ""},
		{"HEAD", "/api/hubs/H/groups/g%2F1?api-version=2021-10-01", "", "", 200, ""},
		{"DELETE", "/api/hubs/h/groups/g%2F1/connections/" + id, "", "", 204, ""},
		{"PUT", "/api/hubs/h/users/u%2F1/groups/g", "", "", 200, ""},
		{"PUT", "/api/hubs/h/users/nobody/groups/g", "", "", 404, "Warning.User.NotExisted"},
		{"DELETE", "/api/hubs/h/users/u%2F1/groups", "", "", 204, ""},
		{"DELETE", "/api/hubs/h/users/u%2F1/groups/g", "", "", 204, ""},
		{"DELETE", "/api/hubs/h/connections/none/groups", "", "", 204, ""},
		{"DELETE", "/api/hubs/h/connections/none", "", "", 204, ""},
		{"POST", "/api/hubs/h/connections/none/:send", "text/plain", "x", 202, ""},
		{"POST", "/api/hubs/h/:send?api-version=2020-01-01", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:send?api-version=2021-10-01&api-version=2021-10-01", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:send", "text/html", "x", 415, "Error.UnsupportedMediaType"},
		{"POST", "/api/hubs/h/:send", "application/json", "{", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:send?messageTtlSeconds=301", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:send?filter=ab%20eq%201", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/1h/:send", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/groups/%20/:send", "text/plain", "x", 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:addToGroups", "application/json", `{"groups":["g"],"filter":"userId eq 'u/1'"}`, 200, ""},
		{"POST", "/api/hubs/h/:addToGroups", "application/json", `{"groups":[]}`, 400, "Error.BadRequest"},
		{"POST", "/api/hubs/h/:addToGroups", "text/plain", `{"groups":["g"]}`, 415, "Error.UnsupportedMediaType"},
		{"POST", "/api/hubs/h/:removeFromGroups", "application/json", `{"groups":["g"],"filter":" "}`, 400, "Error.BadRequest"},
		{"HEAD", "/api/hubs/h/groups/g", "", "", 200, ""},
		{"POST", "/api/hubs/h/:removeFromGroups", "application/json", `{"groups":["g"],"filter":null}`, 200, ""},
		{"PUT", "/api/hubs/h/permissions/2/connections/" + id + "?targetName=g", "", "", 200, ""},
		{"PUT", "/api/hubs/h/permissions/fly/connections/" + id + "?targetName=g", "", "", 400, "Error.BadRequest"},
		{"PUT", "/api/hubs/h/permissions/SENDTOGROUP/connections/none?targetName=g", "", "", 404, "Info.Connection.NotExisted"},
		{"DELETE", "/api/hubs/h/permissions/sendToGroup/connections/none?targetName=g", "", "", 204, ""},
		{"POST", "/api/hubs/h/:generateToken?userId=x&role=a&role=b&minutesToExpire=5", "", "", 200, ""},
		{"POST", "/api/hubs/h/:generateToken?minutesToExpire=0", "", "", 400, "Error.BadRequest"},
		{"GET", "/api/hubs/h/groups/g/connections?maxpagesize=201", "", "", 400, "Error.BadRequest"},
		{"GET", "/api/hubs/h/groups/g/connections?continuationToken=x", "", "", 400, "Error.BadRequest"},
		{"GET", "/api/hubs/h/groups/none/connections", "", "", 200, ""},
		{"GET", "/api/hubs/h/nonsense", "", "", 404, "Error.NotFound"},
		{"POST", "/api/hubs/h/users/u%2F1/:closeConnections?excluded=" + id, "", "", 204, ""},
		{"POST", "/api/hubs/h/groups/g/:closeConnections", "", "", 204, ""},
	} {
		res := s.rest(r.method, r.path, r.contentType, r.body)
		if res.StatusCode != r.status || res.Header.Get("x-ms-error-code") != r.code {
			b, _ := io.ReadAll(res.Body)
			t.Errorf("%s %s: %d %q %s, want %d %q", r.method, r.path, res.StatusCode, res.Header.Get("x-ms-error-code"), b, r.status, r.code)
		}
		if r.status >= 400 && r.status != 415 && r.method != "HEAD" {
			var e map[string]any
			if err := json.NewDecoder(res.Body).Decode(&e); err != nil || e["code"] != r.code || e["message"] == "" {
				t.Errorf("%s %s: body %v, %v", r.method, r.path, e, err)
			}
		}
	}
	c.send(`{"type":"ping"}`)
	for c.read()["type"] != "pong" {
	}
	for _, bad := range []string{"", "x", s.token("h", "")} {
		req, _ := http.NewRequest("POST", s.base+"/api/hubs/h/:closeConnections", nil)
		req.Header.Set("Authorization", "Bearer "+bad)
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != 401 {
			t.Errorf("%q got %v, %v", bad, res.Status, err)
		}
		res.Body.Close()
	}
	for range 5 {
		s.connect("p", "", protocol.JSON)
	}
	s.rest("POST", "/api/hubs/p/:addToGroups", "application/json", `{"groups":["g"]}`)
	for query, pages := range map[string][]int{"maxpagesize=2": {2, 2, 1}, "": {5}, "maxpagesize=2&top=3": {2, 1}, "top=3": {3}, "maxpagesize=5": {5}} {
		path := "/api/hubs/p/groups/g/connections?api-version=2024-12-01&" + query
		var got []int
		seen := map[string]bool{}
		for path != "" {
			var page struct {
				Value    []struct{ ConnectionID string }
				NextLink string
			}
			if err := json.NewDecoder(s.rest("GET", path, "", "").Body).Decode(&page); err != nil {
				t.Fatal(err)
			}
			got = append(got, len(page.Value))
			for _, v := range page.Value {
				seen[v.ConnectionID] = true
			}
			path = strings.TrimPrefix(page.NextLink, s.base)
		}
		want := 0
		for _, n := range pages {
			want += n
		}
		if fmt.Sprint(got) != fmt.Sprint(pages) || len(seen) != want {
			t.Errorf("%s: pages of %v, %d different", query, got, len(seen))
		}
	}
}

// handler is an event handler that answers as it is told.
func handler(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *httptest.Server {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", "*")
			return
		}
		answer(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

// TestHandlers that work, hang, fail and are gone: who is concerned sees it, others don't.
func TestHandlers(t *testing.T) {
	s := serve(t, Config{Handlers: event.Config{Timeout: 300 * time.Millisecond}})
	release := make(chan struct{})
	defer close(release)
	good := handler(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("ce-type") {
		case "azure.webpubsub.sys.connect":
			var c event.ConnectRequest
			_ = json.NewDecoder(r.Body).Decode(&c)
			if c.Query["deny"] != nil {
				http.Error(w, "not you", http.StatusForbidden)
				return
			}
			w.Header().Set("ce-connectionState", "c3RhdGU=")
			fmt.Fprint(w, `{"userId":"named","groups":["g"],"roles":["webpubsub.sendToGroup"]}`)
		case "azure.webpubsub.user.echo":
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			w.Header().Set("X-WebPubSub-Metadata-State", r.Header.Get("ce-connectionState"))
			_, _ = io.Copy(w, r.Body)
		}
	})
	hangs := handler(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	fails := handler(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, h := range map[string]*httptest.Server{"good": good, "hangs": hangs, "fails": fails, "gone": gone} {
		handlers := []hubs.Handler{{URL: h.URL + "/{event}?code=1", UserEvents: "echo, other", SystemEvents: []string{"disconnected"}}}
		if name == "good" {
			handlers[0].SystemEvents = []string{"connect"}
		}
		s.settings.set(hubs.Settings{Hub: name, Handlers: handlers})
	}
	type result struct {
		hub string
		ack map[string]any
	}
	results := make(chan result, 4)
	for _, name := range []string{"hangs", "fails", "gone"} {
		c, _ := s.connect(name, "u", protocol.JSON)
		c.send(`{"type":"event","event":"echo","ackId":5,"data":"x"}`)
		go func() {
			ack, err := c.tryRead()
			if err != nil {
				ack = map[string]any{"error": err.Error()}
			}
			results <- result{name, ack}
			_ = c.ws.Close(1000, "bye")
		}()
	}
	c, first := s.connect("good", "token's", protocol.JSON)
	if first["userId"] != "named" {
		t.Errorf("connected as %v", first)
	}
	start := time.Now()
	c.send(`{"type":"event","event":"echo","ackId":1,"dataType":"text","data":"hello"}`)
	c.want(`{"type":"message","from":"server","dataType":"text","data":"hello","metadata":{"state":"c3RhdGU="}}`)
	c.want(`{"type":"ack","ackId":1,"success":true}`)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a good handler took %v beside others", d)
	}
	c.send(`{"type":"invoke","invocationId":"i1","target":"event","event":"echo","data":[1]}`)
	c.want(`{"type":"invokeResponse","invocationId":"i1","success":true,"dataType":"json","data":[1]}`)
	c.send(`{"type":"sendToGroup","group":"g","ackId":2,"data":true}`)
	for range 2 { // the answer's groups and roles are in force
		if m := c.read(); m["type"] == "ack" && m["success"] != true {
			t.Errorf("got %v", m)
		}
	}
	if _, res, err := s.dial("good", "deny=1&access_token="+s.token("good", ""), protocol.JSON); err == nil || res.StatusCode != 403 {
		t.Errorf("a refused client got %v", res)
	} else if b, _ := io.ReadAll(res.Body); !strings.HasPrefix(string(b), "not you") {
		t.Errorf("a refused client got %q", b)
	}
	for range 3 {
		r := <-results
		if r.ack["success"] != false || r.ack["error"].(map[string]any)["name"] != "InternalServerError" {
			t.Errorf("%s: %v", r.hub, r.ack)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(s.letters.list()) < 3 {
		if time.Now().After(deadline) {
			t.Fatalf("dead letters are %+v", s.letters.list())
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, l := range s.letters.list() {
		if l.Event != "disconnected" || l.Hub == "good" || l.Attempts == 0 || !strings.Contains(string(l.Body), "bye") {
			t.Errorf("dead letter %+v", l)
		}
	}
	s.settings.set(hubs.Settings{Hub: "noconnect", Handlers: []hubs.Handler{{URL: fails.URL, SystemEvents: []string{"connect"}}}})
	if _, res, err := s.dial("noconnect", "access_token="+s.token("noconnect", ""), protocol.JSON); err == nil || res.StatusCode != 500 {
		t.Errorf("with a connect handler that fails: %v", res)
	}
}

// TestAnonymous come only where they may.
func TestAnonymous(t *testing.T) {
	s := serve(t, Config{})
	if _, res, err := s.dial("chat", "", protocol.JSON); err == nil || res.StatusCode != 401 {
		t.Errorf("got %v", res)
	}
	s.settings.set(hubs.Settings{Hub: "chat", Anonymous: true})
	c, _, err := s.dial("chat", "", protocol.JSON)
	if err != nil {
		t.Fatal(err)
	}
	if first := c.read(); first["userId"] != nil || first["event"] != "connected" {
		t.Errorf("got %v", first)
	}
	_ = c.ws.CloseNow()
	if _, res, err := s.dial("chat", "access_token=nonsense", protocol.JSON); err == nil || res.StatusCode != 401 {
		t.Errorf("a bad token is no missing one: %v", res)
	}
	c, _, err = s.dial("chat", "awps_connection_id=x&awps_reconnection_token=y", protocol.ReliableJSON)
	if err != nil {
		t.Fatal(err)
	}
	if code := c.closed(); code != 1008 {
		t.Errorf("recovery in vain ends with %d", code)
	}
}
