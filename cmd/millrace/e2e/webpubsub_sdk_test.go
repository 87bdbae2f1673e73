package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const (
	jsonProtocol     = "json.webpubsub.azure.v1"
	reliableProtocol = "json.reliable.webpubsub.azure.v1"
	joinAndSend      = "webpubsub.joinLeaveGroup,webpubsub.sendToGroup"
)

type claims map[string]any

// A pubsub speaks to one hub of a server with bytes such as Azure's SDKs send; tokens are made by hand.
type pubsub struct {
	*server
	t   *testing.T
	hub string
}

// token signs claims under a header of its own, as each SDK writes one.
func token(header string, c claims) string {
	body, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(body)
	mac := hmac.New(sha256.New, []byte(accessKey))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

const plainHeader = `{"alg":"HS256","typ":"JWT"}`

func unix(d time.Duration) int64 { return time.Now().Add(d).Unix() }

// grant is a client token such as most SDKs make, for a user with every role of groups.
func (p *pubsub) grant(user string) string {
	c := claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(time.Hour), "role": strings.Split(joinAndSend, ",")}
	if user != "" {
		c["sub"] = user
	}
	return token(plainHeader, c)
}

// rest does a request whose token has the whole URL as audience, and returns status, error code and body.
func (p *pubsub) rest(method, path, kind, body string) (int, string, string) {
	p.t.Helper()
	u := p.http + path
	return p.restAs(token(plainHeader, claims{"aud": u, "exp": unix(time.Minute)}), method, u, kind, body)
}

func (p *pubsub) restAs(bearer, method, u, kind, body string) (int, string, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("X-Ms-Error-Code"), string(data)
}

// wants demands a status of a request.
func (p *pubsub) wants(status int, code, method, path, kind, body string) string {
	p.t.Helper()
	got, gotCode, data := p.rest(method, path, kind, body)
	if got != status || gotCode != code {
		p.t.Errorf("%s %s: %d %q %s, want %d %q", method, path, got, gotCode, data, status, code)
	}
	return data
}

// A socket is a client's WebSocket.
type socket struct {
	t  *testing.T
	ws *websocket.Conn
	id string // of the connection, from the connected frame
}

// dial opens a WebSocket with a query after /client/hubs/{hub}?, and fails the test unless it opens.
func (p *pubsub) dial(query, protocol string, options ...func(*websocket.DialOptions)) *socket {
	p.t.Helper()
	s, status, err := p.try(query, protocol, options...)
	if err != nil {
		p.t.Fatalf("handshake: %d %v", status, err)
	}
	return s
}

func (p *pubsub) try(query, protocol string, options ...func(*websocket.DialOptions)) (*socket, int, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	o := &websocket.DialOptions{}
	if protocol != "" {
		o.Subprotocols = []string{protocol}
	}
	for _, f := range options {
		f(o)
	}
	ws, res, err := websocket.Dial(ctx, strings.Replace(p.http, "http", "ws", 1)+"/client/hubs/"+url.PathEscape(p.hub)+"?"+query, o)
	if err != nil {
		status := 0
		if res != nil {
			status = res.StatusCode
		}
		return nil, status, err
	}
	p.t.Cleanup(func() { ws.CloseNow() })
	if protocol != "" && ws.Subprotocol() != protocol {
		p.t.Errorf("the subprotocol is %q, want %q as the client spells it", ws.Subprotocol(), protocol)
	}
	return &socket{t: p.t, ws: ws}, http.StatusSwitchingProtocols, nil
}

// open dials with a token and reads the connected frame.
func (p *pubsub) open(user, protocol string) (*socket, map[string]any) {
	p.t.Helper()
	s := p.dial("access_token="+p.grant(user), protocol)
	f := s.frame()
	if f["type"] != "system" || f["event"] != "connected" {
		p.t.Fatalf("the first frame is %v", f)
	}
	s.id, _ = f["connectionId"].(string)
	if s.id == "" {
		p.t.Fatalf("connected has no connectionId: %v", f)
	}
	return s, f
}

func (s *socket) send(frames ...string) {
	s.t.Helper()
	for _, f := range frames {
		if err := s.ws.Write(s.t.Context(), websocket.MessageText, []byte(f)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *socket) text() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	kind, data, err := s.ws.Read(ctx)
	if err != nil {
		s.t.Fatalf("no frame: %v", err)
	}
	if kind != websocket.MessageText {
		s.t.Fatalf("a binary frame %x", data)
	}
	return string(data)
}

func (s *socket) frame() map[string]any {
	s.t.Helper()
	var f map[string]any
	text := s.text()
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	return f
}

// reads demands the next frames, byte for byte.
func (s *socket) reads(want ...string) {
	s.t.Helper()
	for _, w := range want {
		if got := s.text(); got != w {
			s.t.Fatalf("frame\n%s, want\n%s", got, w)
		}
	}
}

// closes reads on until the server closes, and returns its code.
func (s *socket) closes() websocket.StatusCode {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, _, err := s.ws.Read(ctx); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func (p *pubsub) path(rest string) string {
	sep := "?"
	if strings.Contains(rest, "?") {
		sep = "&"
	}
	return "/api/hubs/" + p.hub + rest + sep + "api-version=2024-12-01"
}

// What C#, Java, Python and Go send and demand where npm's packages do otherwise.
func TestAzureSDKs(t *testing.T) {
	s := startWebPubSub(t)
	for _, c := range []struct {
		name string
		f    func(*testing.T, *pubsub)
	}{
		{"common", sdkCommon}, {"status", sdkStatus}, {"recovery", sdkRecovery}, {"audience", sdkAudience}, {"csharp", sdkCSharp}, {"java", sdkJava},
		{"python", sdkPython}, {"go", sdkGo}, {"simple", sdkSimple}, {"malformed", sdkMalformed}, {"paging", sdkPaging},
		{"proxied", sdkProxied}, {"protobuf", sdkProtobuf}, {"chat", sdkChat},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, &pubsub{server: s, t: t, hub: "sdk" + c.name}) })
	}
}
