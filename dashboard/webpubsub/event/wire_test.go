package event

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

type got struct {
	method, path, body string
	header             http.Header
}

// recorder keeps what came, and answers 200.
func recorder(t *testing.T) (string, chan got) {
	all := make(chan got, 100)
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		all <- got{r.Method, r.URL.RequestURI(), string(b), r.Header.Clone()}
		w.Header().Set("WebHook-Allowed-Origin", "*")
	}), all
}

func TestHeaders(t *testing.T) {
	url, all := recorder(t)
	s := one(url + "/hook/{HUB}?e={event}&code=secret")
	s["chat"].Handlers[0].Trusted = false
	d, _ := serve(t, Config{Origin: "hub.example:8080"}, s, nil)
	state := "e30="
	c := Client{Hub: "chat", Connection: "The quick brown fox jumps over the lazy dog", User: "Zoë\n", Subprotocol: "json.webpubsub.azure.v1", State: &state, ID: 7}

	same := func(g got, body, ct, typ, event string, more http.Header) {
		t.Helper()
		if g.method != "POST" || g.path != "/hook/chat?e="+event+"&code=secret" || g.body != body {
			t.Errorf("%s %s %s", g.method, g.path, g.body)
		}
		if at, err := time.Parse(time.RFC3339, g.header.Get("ce-time")); err != nil || time.Since(at) > time.Minute || !strings.HasSuffix(g.header.Get("ce-time"), "Z") {
			t.Error(g.header.Get("ce-time"))
		}
		if id := g.header.Get("x-ms-client-request-id"); len(id) != 36 || id[14] != '4' {
			t.Error(id)
		}
		for _, n := range []string{"ce-time", "x-ms-client-request-id", "Accept-Encoding", "Content-Length", "User-Agent"} {
			g.header.Del(n)
		}
		want := http.Header{}
		for n, v := range map[string]string{
			"WebHook-Request-Origin": "hub.example", "Content-Type": ct, "ce-specversion": "1.0", "ce-awpsversion": "1.0", "ce-type": typ,
			"ce-source": "/hubs/chat/client/" + c.Connection, "ce-id": "7", "ce-connectionId": c.Connection, "ce-hub": "chat",
			"ce-eventName": event, "ce-userId": "Zoë%0A", "ce-subprotocol": "json.webpubsub.azure.v1", "ce-connectionState": "e30=",
			// the first is a well-known vector; the second was made with Python's hmac
			"ce-signature": "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8," +
				"sha256=90bfc30529474c772027554dfd43e41da5387a35e3d886dfbbf017c9e57cb7d9",
		} {
			want.Set(n, v)
		}
		maps.Copy(want, more)
		if !reflect.DeepEqual(g.header, want) {
			t.Errorf("headers\n%v\nwant\n%v", g.header, want)
		}
	}

	if _, err := d.User(t.Context(), c, "echo", hub.Data{Kind: hub.Text, Bytes: []byte("hi")}, map[string]string{"trace-id": "1", "bad name": "2"}); err != nil {
		t.Fatal(err)
	}
	g := <-all // the handshake comes first
	if g.method != "OPTIONS" || g.path != "/hook/chat?e=validate&code=secret" || g.header.Get("WebHook-Request-Origin") != "hub.example" ||
		g.header.Get("ce-awpsversion") != "1.0" {
		t.Errorf("%+v", g)
	}
	same(<-all, "hi", "text/plain; charset=utf-8", "azure.webpubsub.user.echo", "echo", http.Header{"X-Webpubsub-Metadata-Trace-Id": {"1"}})
	user := func(k hub.Kind, ct string) {
		t.Helper()
		if _, err := d.User(t.Context(), c, "echo", hub.Data{Kind: k, Bytes: []byte("1")}, nil); err != nil {
			t.Fatal(err)
		}
		same(<-all, "1", ct, "azure.webpubsub.user.echo", "echo", nil)
	}
	user(hub.JSON, "application/json")
	user(hub.Binary, "application/octet-stream")
	user(hub.Protobuf, "application/x-protobuf")

	js := "application/json; charset=utf-8"
	if _, err := d.Connect(t.Context(), &ConnectRequest{
		Client: c, Claims: map[string][]string{"sub": {"a&b"}}, Query: map[string][]string{"tag": {"a", "b"}, "Access_Token": {"x"}},
		Headers: map[string][]string{"authorization": {"x"}, "X": {"1"}}, Subprotocols: []string{"a"},
		Certificates: []Certificate{{"AB", "PEM"}},
	}); err != nil {
		t.Fatal(err)
	}
	same(<-all, `{"claims":{"sub":["a&b"]},"query":{"tag":["a","b"]},"headers":{"X":["1"]},"subprotocols":["a"],"clientCertificates":[{"thumbprint":"AB","content":"PEM"}]}`,
		js, "azure.webpubsub.sys.connect", "connect", nil)
	d.Connected(c)
	same(<-all, `{}`, js, "azure.webpubsub.sys.connected", "connected", nil)
	d.Joined(c, "a<b")
	same(<-all, `{"group":"a<b"}`, js, "azure.webpubsub.gp.joined", "joined", nil)
	d.Left(c, "g")
	same(<-all, `{"group":"g"}`, js, "azure.webpubsub.gp.left", "left", nil)
	why := "bye"
	d.Disconnected(c, &why, nil)
	same(<-all, `{"reason":"bye"}`, js, "azure.webpubsub.sys.disconnected", "disconnected", nil)
	d.Disconnected(c, nil, &MQTTDisconnect{InitiatedByClient: true, DisconnectPacket: &MQTTPacket{}})
	same(<-all, `{"reason":null,"mqtt":{"initiatedByClient":true,"disconnectPacket":{"code":0,"userProperties":[]}}}`, js,
		"azure.webpubsub.sys.disconnected", "disconnected", nil)

	// MQTT
	m := Client{Hub: "chat", Connection: "dev", Subprotocol: "mqtt", Physical: "p1", Session: "s1", ID: 0}
	if _, err := d.Connect(t.Context(), &ConnectRequest{Client: m, MQTT: &MQTTConnect{ProtocolVersion: 5, CleanStart: true, Password: []byte("pw")}}); err != nil {
		t.Fatal(err)
	}
	g = <-all
	if !strings.HasSuffix(g.body, `"mqtt":{"protocolVersion":5,"cleanStart":true,"username":null,"password":"cHc=","userProperties":[]}}`) {
		t.Error(g.body)
	}
	if h := g.header; h.Get("ce-source") != "/hubs/chat/client/dev/p1" || h.Get("ce-physicalConnectionId") != "p1" || h.Get("ce-sessionId") != "s1" ||
		h.Get("ce-id") != "0" || h.Get("ce-subprotocol") != "mqtt" || h["Ce-Userid"] != nil || h["Ce-Connectionstate"] != nil {
		t.Error(h)
	}
	if _, err := d.Request(t.Context(), &UserRequest{Client: m, Name: "e", ContentType: "image/png", Header: http.Header{"mqtt-a": {"1", "2"}}}); err != nil {
		t.Fatal(err)
	}
	if g = <-all; g.header.Get("Content-Type") != "image/png" || len(g.header.Values("mqtt-a")) != 2 {
		t.Error(g.header)
	}
	empty := ""
	m.State = &empty
	if _, err := d.User(t.Context(), m, "e", hub.Data{}, nil); err != nil {
		t.Fatal(err)
	}
	if g = <-all; len(g.header["Ce-Connectionstate"]) != 1 {
		t.Error(g.header)
	}
}

func TestConnectAnswers(t *testing.T) {
	var status int
	var body string
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("ce-connectionState", "a")
		w.Header().Add("ce-connectionState", "b")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	d, _ := serve(t, Config{Pauses: []time.Duration{time.Millisecond}}, one(url), nil)
	ask := func(st int, b string) (*ConnectAnswer, error) {
		status, body = st, b
		return d.Connect(t.Context(), &ConnectRequest{Client: client("c", 0), Subprotocols: []string{"X.v1", "y"}})
	}
	ok := func(st int, b, want string) {
		t.Helper()
		a, err := ask(st, b)
		if err != nil {
			t.Errorf("%s: %v", b, err)
			return
		}
		if a.State == nil || *a.State != "b" || !a.Handled {
			t.Errorf("%+v", a)
		}
		a.State, a.Handled = nil, false
		j, _ := json.Marshal(a)
		var full, part map[string]any
		_ = json.Unmarshal(j, &full)
		_ = json.Unmarshal([]byte(want), &part)
		for k, v := range full {
			if w, ok := part[k]; ok && !reflect.DeepEqual(v, w) || !ok && v != nil && v != false && v != "" {
				t.Errorf("%s: %s, want %s", b, j, want)
			}
		}
	}
	no := func(st int, b string, want int) {
		t.Helper()
		_, err := ask(st, b)
		r, is := errors.AsType[*Refused](err)
		if !is || r.Status != want {
			t.Errorf("%d %s: %v", st, b, err)
		}
		if want != 500 && (string(r.Body) != b || r.ContentType == "") {
			t.Errorf("%s %s", r.Body, r.ContentType)
		}
		if want == 500 && r.Body != nil {
			t.Errorf("%s", r.Body)
		}
	}
	ok(204, "", `{}`)
	ok(200, "", `{}`)
	ok(200, " null\n", `{}`)
	ok(202, "{}", `{}`)
	ok(200, "\xef\xbb\xbf{}", `{}`)
	ok(200, `{"userId":null,"groups":null,"roles":null,"subprotocol":null,"socketio":{"a":1}}`, `{}`)
	ok(200, `{"userId":"","groups":[],"roles":[]}`, `{"User":"","Roles":[]}`)
	ok(200, `{"userId":"a","groups":["g"],"roles":["r"],"subprotocol":"x.V1"}`, `{"User":"a","Groups":["g"],"Roles":["r"],"Subprotocol":"X.v1"}`)
	ok(200, `{"mqtt":{"userProperties":[{"name":"n","value":"v"}]}}`, `{"UserProperties":[{"name":"n","value":"v"}]}`)
	no(200, `OK`, 500)
	no(200, `{"userId":1}`, 500)
	no(200, `{"groups":[" "]}`, 500)
	no(200, `{"groups":[null]}`, 500)
	no(200, `{"roles":[null]}`, 500)
	no(200, `{"subprotocol":"z"}`, 500)
	no(401, `go away`, 401)
	no(429, `{"mqtt":{"code":151,"reason":"busy"}}`, 429)
	no(302, ``, 500)
	no(500, `oops`, 500)
	no(408, `oops`, 500)
	no(200, strings.Repeat(" ", maxAnswer+1), 500)
	_, err := ask(403, `{"mqtt":{"code":138,"reason":"banned"}}`)
	if r, _ := errors.AsType[*Refused](err); r == nil || r.MQTT == nil || r.MQTT.Code != 138 || r.MQTT.Reason != "banned" {
		t.Error(err)
	}
	if a, err := d.Connect(t.Context(), &ConnectRequest{Client: Client{Hub: "other"}}); err != nil || a.Handled {
		t.Error(a, err)
	}
}

func TestUserAnswers(t *testing.T) {
	var ct, body string
	status := 200
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		if ct != "" {
			w.Header().Set("Content-Type", ct)
		}
		w.Header().Set("ce-connectionState", "")
		w.Header().Set("x-webpubsub-metadata-Trace", "1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	d, _ := serve(t, Config{Attempts: 1}, one(url), nil)
	f := func(c, b string, want hub.Kind) {
		t.Helper()
		ct, body = c, b
		a, err := d.User(t.Context(), client("c", 1), "e", hub.Data{Kind: hub.Text}, nil)
		if want == 99 {
			if _, ok := errors.AsType[*Refused](err); !ok {
				t.Errorf("%s: %v", c, err)
			}
			return
		}
		if err != nil || a.State == nil || *a.State != "" || a.Metadata["trace"] != "1" {
			t.Fatalf("%+v %v", a, err)
		}
		if want == 0 && a.Data != nil || want != 0 && (a.Data == nil || a.Data.Kind != want || string(a.Data.Bytes) != b) {
			t.Errorf("%s: %+v", c, a.Data)
		}
	}
	f("application/json; charset=utf-8", `{"a":1}`, hub.JSON)
	f("text/plain", "hé", hub.Text)
	f("TEXT/plain;charset=UTF-8", "x", hub.Text)
	f("application/octet-stream", "\xff", hub.Binary)
	f("", "x", hub.Binary)
	f("application/x-protobuf", "x", hub.Protobuf)
	f("application/octet-stream", "", 0)
	f("text/html", "", 0)
	f("text/html", "x", 99)
	f("application/json", "{", 99)
	f("text/plain", "\xff", 99)
	status = 404
	f("text/plain", "x", 99)
	status, ct, body = 200, "image/png", "x"
	m := client("c", 1)
	m.Physical = "p"
	if a, err := d.User(t.Context(), m, "e", hub.Data{}, nil); err != nil || a.Data.Kind != hub.Binary || a.ContentType != "image/png" {
		t.Error(a, err)
	}
	if _, err := d.User(t.Context(), Client{Hub: "other"}, "e", hub.Data{}, nil); err != ErrNoHandler {
		t.Error(err)
	}
}

func TestRedirectsAndCookies(t *testing.T) {
	var seen []string
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Cookie"))
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "/there", http.StatusTemporaryRedirect)
		default:
			http.SetCookie(w, &http.Cookie{Name: "node", Value: "7", Path: "/"})
			http.SetCookie(w, &http.Cookie{Name: "big", Value: strings.Repeat("x", 5000)})
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "1", Path: "/elsewhere"})
		}
	})
	s := one(url + "/{event}")
	d, _ := serve(t, Config{}, s, nil)
	c := client("c", 1)
	c.Cookies = &Cookies{}
	for _, e := range []string{"a", "b", "away"} {
		_, err := d.User(t.Context(), c, e, hub.Data{}, nil)
		if r, ok := errors.AsType[*Refused](err); ok != (e == "away") || ok && r.Status != 307 {
			t.Error(e, err)
		}
	}
	if _, err := d.User(t.Context(), client("d", 1), "c", hub.Data{}, nil); err != nil {
		t.Error(err)
	}
	if want := []string{"/a ", "/b node=7", "/away node=7", "/c "}; !reflect.DeepEqual(seen, want) {
		t.Errorf("%q", seen)
	}
}

// A client that leaves ends the call that is made for it.
func TestCancelled(t *testing.T) {
	in, out := make(chan struct{}), make(chan struct{})
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		close(in)
		<-r.Context().Done()
		close(out)
	})
	d, _ := serve(t, Config{}, one(url), nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	go func() { <-in; cancel(gone) }()
	if _, err := d.User(ctx, client("c", 1), "e", hub.Data{}, nil); err != gone {
		t.Error(err)
	}
	<-out
	if n := d.Stats().Open; n != 0 {
		t.Error(n)
	}
}

func TestTry(t *testing.T) {
	origin := "*"
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.Header().Set("WebHook-Allowed-Origin", origin)
			return
		}
		p, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(p)
	})
	d, _ := serve(t, Config{}, source{}, nil)
	tr := d.Try(t.Context(), hubs.Handler{URL: url + "/{event}", UserEvents: "room.*, b"}, "Chat")
	if !tr.OK() || tr.Event != "room.x" || tr.Handshake.Status != 200 || tr.Delivery.Status != 200 || len(tr.Delivery.Body) == 0 ||
		tr.Delivery.RequestHeader.Get("ce-hub") != "chat" || tr.Delivery.Duration <= 0 {
		t.Errorf("%+v", tr)
	}
	origin = "elsewhere"
	if tr = d.Try(t.Context(), hubs.Handler{URL: url, SystemEvents: []string{"connected"}}, "chat"); tr.OK() || tr.Delivery != nil || tr.Handshake.Error == "" {
		t.Errorf("%+v", tr)
	}
	if tr = d.Try(t.Context(), hubs.Handler{URL: url, SystemEvents: []string{"connect"}, Trusted: true}, "chat"); !tr.OK() || tr.Handshake != nil {
		t.Errorf("%+v %+v", tr, tr.Delivery)
	}
	if tr = d.Try(t.Context(), hubs.Handler{URL: "http://127.0.0.1:1/", Trusted: true}, "chat"); tr.OK() || tr.Delivery.Error == "" {
		t.Errorf("%+v", tr)
	}
}

func TestMatches(t *testing.T) {
	f := func(list, event string, want bool) {
		t.Helper()
		if Matches(list, event) != want {
			t.Errorf("%q %q", list, event)
		}
	}
	f("*", "a.b", true)
	f("", "a", false)
	f("a, B ,c", "b", true)
	f("a,b", "ab", false)
	f("room.*", "Room.message", true)
	f("room.*", "room.a.b", false)
	f("room.**", "room.a.b", true)
	f("room.*", "room.", true)
	f("a?c", "abc", true)
	f("a?c", "a.c", false)
	f("a?c", "ac", false)
	f("a.**.b", "a..b", true)
	f("a.**.b", "ab", false)
	f(`a\*.***b`, "a*.ab", true)
	f(`a\*.***b`, "aa.ab", false)
	f(`a\`, "a", false)
	f(`a\b`, "ab", false)
	f(strings.Repeat("**a", 40)+"b", strings.Repeat("a", 128), false) // takes no time
}

func TestResolve(t *testing.T) {
	f := func(template, want string) {
		t.Helper()
		u, err := resolve(template, "a[b]", "x.y")
		if want == "" {
			if !errors.Is(err, errTemplate) {
				t.Error(u, err)
			}
		} else if err != nil || u.String() != want {
			t.Error(u, err)
		}
	}
	f("https://h/{Hub}/{EVENT}?e={event}&{x}", "https://h/a%5Bb%5D/x.y?e=x.y&{x}")
	f("tunnel:///p/{event}", "tunnel:///p/x.y")
	f("https://{hub}.h/", "")
	f("ftp://h/", "")
	f("/p", "")
	f("http:///p", "")
	f("http://h:port/", "")
}
