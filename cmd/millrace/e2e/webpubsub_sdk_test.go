package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
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
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, &pubsub{server: s, t: t, hub: "sdk" + c.name}) })
	}
}

// Frames as all SDKs read them: keys, their order, and nothing that was not asked for.
func sdkCommon(t *testing.T, p *pubsub) {
	a, connected := p.open("alice", jsonProtocol)
	if connected["userId"] != "alice" || len(connected) != 4 {
		t.Errorf("connected is %v", connected)
	}
	b, _ := p.open("bob", jsonProtocol)
	b.send(`{"type":"joinGroup","group":"room","ackId":1}`)
	b.reads(`{"type":"ack","ackId":1,"success":true}`)
	a.send(`{"type":"sendToGroup","group":"room","ackId":1,"dataType":"text","data":"hi"}`, `{"type":"sendToGroup","group":"room","ackId":1,"dataType":"text","data":"hi"}`)
	a.reads(`{"type":"ack","ackId":1,"success":true}`)
	dup := a.frame()
	fault, _ := dup["error"].(map[string]any)
	if dup["success"] != false || fault["name"] != "Duplicate" || fault["message"] != "Message with ack-id: 1 has been processed" {
		t.Errorf("a repeated ackId is answered %v", dup)
	}
	b.reads(`{"type":"message","from":"group","group":"room","fromUserId":"alice","dataType":"text","data":"hi"}`)
	// Members that are unknown or null, in any order; JSON is not written anew.
	a.send(`{"data":{"b": 1.0,"a":[1e2]} ,"x":{"y":[1]},"dataType":null,"ackId":null,"group":"room","noEcho":null,"type":"sendToGroup"}`)
	b.reads(`{"type":"message","from":"group","group":"room","fromUserId":"alice","dataType":"json","data":{"b": 1.0,"a":[1e2]}}`)
	a.send(`{"type":"ping"}`)
	a.reads(`{"type":"pong"}`)
	a.send(`{"type":"sequenceAck","sequenceId":7}`, `{"type":"ping"}`) // tolerated
	a.reads(`{"type":"pong"}`)
	p.wants(202, "", "POST", p.path("/:send"), "application/json", `{"hello":"world"}`)
	for _, s := range []*socket{a, b} {
		s.reads(`{"type":"message","from":"server","dataType":"json","data":{"hello":"world"}}`)
	}
	p.wants(202, "", "POST", p.path("/groups/room/:send"), "text/plain; charset=utf-8", "hé")
	b.reads(`{"type":"message","from":"group","group":"room","dataType":"text","data":"hé"}`)
	p.wants(204, "", "DELETE", p.path("/connections/"+b.id+"?reason=so%20long"), "", "")
	b.reads(`{"type":"system","event":"disconnected","message":"Application server closed the connection. Reason: so long"}`)
	if code := b.closes(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	// A failed request leaves its ackId free.
	c := p.dial("access_token="+token(plainHeader, claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(time.Hour)}), jsonProtocol)
	f := c.frame()
	c.id = f["connectionId"].(string)
	c.send(`{"type":"joinGroup","group":"room","ackId":5}`)
	c.reads(`{"type":"ack","ackId":5,"success":false,"error":{"name":"Forbidden","message":"The client does not have permission to join group 'room'."}}`)
	p.wants(200, "", "PUT", p.path("/permissions/joinLeaveGroup/connections/"+c.id+"?targetName=room"), "", "")
	c.send(`{"type":"joinGroup","group":"room","ackId":5}`)
	c.reads(`{"type":"ack","ackId":5,"success":true}`)
	c.send(`{"type":"sendToGroup","group":"room","ackId":6,"data":1}`)
	c.reads(`{"type":"ack","ackId":6,"success":false,"error":{"name":"Forbidden","message":"The client does not have permission to send to group 'room'."}}`)
}

// Generated clients throw on any other success than the one they know, and existence takes 200 or 404.
func sdkStatus(t *testing.T, p *pubsub) {
	a, _ := p.open("alice", jsonProtocol)
	id := a.id
	f := func(status int, code, method, path string) {
		t.Helper()
		p.wants(status, code, method, p.path(path), "", "")
	}
	body := func(status int, code, path, kind, content string) string {
		t.Helper()
		return p.wants(status, code, "POST", p.path(path), kind, content)
	}
	for _, path := range []string{"/:send", "/groups/g/:send", "/users/alice/:send", "/users/nobody/:send", "/connections/" + id + "/:send", "/connections/nobody/:send"} {
		body(202, "", path, "application/json", "{}")
		body(202, "", path+"?messageTtlSeconds=300", "text/plain", "x")
		body(202, "", path, "application/octet-stream", "\x00")
		body(400, "Error.BadRequest", path+"?messageTtlSeconds=301", "text/plain", "x")
		body(400, "Error.BadRequest", path, "application/json", "{")
		if status, _, _ := p.rest("POST", p.path(path), "application/x-protobuf", "x"); status != 415 {
			t.Errorf("protobuf to %s: %d, want 415", path, status)
		}
	}
	body(200, "", "/:addToGroups", "application/json", `{"groups":["g"],"filter":"userId eq 'alice'"}`)
	f(200, "", "HEAD", "/groups/g")
	body(200, "", "/:removeFromGroups", "application/json", `{"groups":["g"],"filter":null}`)
	f(404, "Warning.Group.NotExisted", "HEAD", "/groups/g")
	body(400, "Error.BadRequest", "/:addToGroups", "application/json", `{"groups":[]}`)
	body(400, "Error.BadRequest", "/:addToGroups", "application/json", `{"groups":["g"],"filter":"x y"}`)
	f(200, "", "PUT", "/groups/g/connections/"+id)
	f(204, "", "DELETE", "/groups/g/connections/"+id)
	f(204, "", "DELETE", "/groups/g/connections/nobody")
	f(404, "Error.Connection.NotExisted", "PUT", "/groups/g/connections/nobody")
	f(200, "", "PUT", "/users/alice/groups/g")
	f(404, "Warning.User.NotExisted", "PUT", "/users/nobody/groups/g")
	f(204, "", "DELETE", "/users/alice/groups/g")
	f(204, "", "DELETE", "/users/alice/groups")
	f(204, "", "DELETE", "/users/nobody/groups")
	f(204, "", "DELETE", "/connections/"+id+"/groups")
	f(204, "", "DELETE", "/connections/nobody/groups")
	f(200, "", "HEAD", "/connections/"+id)
	f(404, "Warning.Connection.NotExisted", "HEAD", "/connections/nobody")
	f(200, "", "HEAD", "/users/alice")
	f(404, "Warning.User.NotExisted", "HEAD", "/users/Alice")
	for _, permission := range []string{"sendToGroup", "JoinLeaveGroup"} {
		path := "/permissions/" + permission + "/connections/"
		f(204, "", "DELETE", path+id+"?targetName=g")
		f(404, "Info.Connection.NotExisted", "HEAD", path+id+"?targetName=g")
		f(200, "", "PUT", path+id+"?targetName=g")
		f(200, "", "HEAD", path+id+"?targetName=g")
		f(404, "Info.Connection.NotExisted", "PUT", path+"nobody?targetName=g")
		f(404, "Info.Connection.NotExisted", "HEAD", path+"nobody?targetName=g")
		f(204, "", "DELETE", path+"nobody?targetName=g")
	}
	var issued struct{ Token string }
	if err := json.Unmarshal([]byte(body(200, "", "/:generateToken?userId=x&role=a&role=b&minutesToExpire=2", "", "")), &issued); err != nil || strings.Count(issued.Token, ".") != 2 {
		t.Errorf("generateToken: %v %q", err, issued.Token)
	}
	for _, version := range []string{"2021-10-01", "2022-11-01", "2023-07-01", "2024-01-01", "2024-12-01"} {
		p.wants(200, "", "HEAD", "/api/hubs/"+p.hub+"/users/alice?api-version="+version, "", "")
	}
	p.wants(200, "", "HEAD", "/api/hubs/"+p.hub+"/users/alice", "", "")
	p.wants(400, "Error.BadRequest", "HEAD", "/api/hubs/"+p.hub+"/users/alice?api-version=2019-01-01", "", "")
	p.wants(400, "Error.BadRequest", "HEAD", "/api/hubs/"+p.hub+"/users/alice?api-version=2024-12-01&api-version=2024-12-01", "", "")
	var notFound map[string]any
	data := p.wants(404, "Error.Connection.NotExisted", "PUT", p.path("/groups/g/connections/conn1"), "", "")
	if err := json.Unmarshal([]byte(data), &notFound); err != nil || notFound["code"] != "Error.Connection.NotExisted" || notFound["message"] != "Connection `conn1` is not found." || notFound["target"] != "Connection" {
		t.Errorf("the body is %s", data)
	}
	if got := body(400, "Error.BadRequest", "/:send?filter=userId%20lt%201", "text/plain", "x"); !strings.Contains(got, "Invalid syntax for 'userId lt 1': Type 'string', expect 'int'. (Parameter 'filter')") {
		t.Errorf("an invalid filter: %s", got)
	}
	for _, path := range []string{"/users/alice/:closeConnections?reason=x", "/groups/g/:closeConnections?excluded=a&excluded=b", "/:closeConnections?excluded=" + id} {
		f(204, "", "POST", path)
	}
	f(204, "", "DELETE", "/connections/nobody")
}

// Recovery: always 101, then either the rest of what is due, or 1008.
func sdkRecovery(t *testing.T, p *pubsub) {
	a, connected := p.open("alice", reliableProtocol)
	back, _ := connected["reconnectionToken"].(string)
	if back == "" {
		t.Fatalf("connected has no reconnectionToken: %v", connected)
	}
	a.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	a.reads(`{"type":"ack","ackId":1,"success":true}`)
	for i := range 5 {
		p.wants(202, "", "POST", p.path("/groups/g/:send"), "application/json", fmt.Sprint(i))
	}
	for i := range 5 {
		m := a.frame()
		if m["sequenceId"] != float64(i+1) || m["data"] != float64(i) {
			t.Fatalf("message %d is %v", i, m)
		}
	}
	a.send(`{"type":"sequenceAck","sequenceId":2}`, `{"type":"ping"}`)
	a.reads(`{"type":"pong"}`)
	a.ws.CloseNow() // as Python does, and a network
	for i := 5; i < 8; i++ {
		p.wants(202, "", "POST", p.path("/users/alice/:send"), "application/json", fmt.Sprint(i))
	}
	p.wants(200, "", "HEAD", p.path("/connections/"+a.id), "", "")
	query := func(id, token string) string {
		return url.Values{"awps_connection_id": {id}, "awps_reconnection_token": {token}}.Encode()
	}
	// Attempts that can't be, which leave the connection as it is.
	for _, q := range []string{query(a.id, back+"x"), query(a.id, ""), query("nobody", back)} {
		if code := p.dial(q, reliableProtocol).closes(); code != websocket.StatusPolicyViolation {
			t.Errorf("a bad attempt is closed with %d, want 1008", code)
		}
	}
	// The access token has expired meanwhile.
	expired := token(plainHeader, claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(-time.Hour), "sub": "alice"})
	resumed := func(query string) *socket {
		t.Helper()
		r := p.dial(query, reliableProtocol)
		f := r.frame()
		if f["event"] != "connected" || f["connectionId"] != a.id || f["reconnectionToken"] == "" || f["reconnectionToken"] == nil {
			t.Fatalf("after a recovery the first frame is %v", f)
		}
		return r
	}
	r := resumed("access_token=" + expired + "&" + query(a.id, back))
	for i := 2; i < 8; i++ { // what was not acknowledged, then what came meanwhile
		m := r.frame()
		if m["sequenceId"] != float64(i+1) || m["data"] != float64(i) {
			t.Fatalf("replayed message %d is %v", i, m)
		}
	}
	r.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	if f := r.frame(); f["success"] != false || !strings.Contains(fmt.Sprint(f["error"]), "Duplicate") {
		t.Errorf("an ackId of before is answered %v", f)
	}
	r.send(`{"type":"joinGroup","group":"g","ackId":2}`) // Java joins again after each open
	r.reads(`{"type":"ack","ackId":2,"success":true}`)
	// The newest transport wins, and everything is acknowledged by the largest number there is.
	r2 := resumed(query(a.id, back))
	r2.send(`{"type":"sequenceAck","sequenceId":18446744073709551615}`, `{"type":"ping"}`)
	for f := r2.frame(); f["type"] != "pong"; f = r2.frame() {
		if f["type"] != "message" {
			t.Fatalf("unasked: %v", f)
		}
	}
	p.wants(202, "", "POST", p.path("/groups/g/:send"), "application/json", "8")
	if m := r2.frame(); m["sequenceId"] != 9.0 {
		t.Errorf("then comes %v", m)
	}
	// Java comes back with a fresh token.
	r2.ws.CloseNow()
	r3 := resumed("access_token=" + p.grant("alice") + "&" + query(a.id, back))
	if m := r3.frame(); m["sequenceId"] != 9.0 {
		t.Errorf("replayed is %v", m)
	}
	// Closed by the service, it can't be recovered: 101, then 1008.
	p.wants(204, "", "DELETE", p.path("/connections/"+a.id), "", "")
	if code := r3.closes(); code != websocket.StatusNormalClosure {
		t.Errorf("closed with %d", code)
	}
	if code := p.dial(query(a.id, back), reliableProtocol).closes(); code != websocket.StatusPolicyViolation {
		t.Errorf("a connection that was closed is answered %d, want 1008", code)
	}
	// A client's own normal close ends it at once; a plain one ends when its socket is torn.
	b, _ := p.open("bob", reliableProtocol)
	b.ws.Close(websocket.StatusNormalClosure, "bye")
	c, _ := p.open("carol", jsonProtocol)
	c.ws.CloseNow()
	for _, id := range []string{b.id, c.id} {
		eventually(t, 10*time.Second, "the connection has ended", func() bool {
			status, _, _ := p.rest("HEAD", p.path("/connections/"+id), "", "")
			return status == 404
		})
	}
	// Nobody comes back: over after the window.
	d, _ := p.open("dave", reliableProtocol)
	d.ws.CloseNow()
	eventually(t, 20*time.Second, "the window is over", func() bool {
		status, _, _ := p.rest("HEAD", p.path("/connections/"+d.id), "", "")
		return status == 404
	})
}

// Audiences as SDKs write them, and those that must not do.
func sdkAudience(t *testing.T, p *pubsub) {
	path := "/api/hubs/" + p.hub + "/users/x?api-version=2024-12-01"
	u := p.http + path
	bare, host := strings.Split(u, "?")[0], p.http[len("http://"):]
	f := func(want int, c claims) {
		t.Helper()
		if got, _, _ := p.restAs(token(plainHeader, c), "HEAD", u, "", ""); got != want {
			t.Errorf("%v: %d, want %d", c, got, want)
		}
	}
	exp := unix(time.Minute)
	for _, aud := range []any{u, bare, bare + "/", "HTTP://" + strings.ToUpper(host) + "/api/hubs/" + strings.ToUpper(p.hub) + "/USERS/x", "https://" + bare[7:], "ws://" + bare[7:], []string{bare}, []string{"http://other", u}} {
		f(404, claims{"aud": aud, "exp": exp})
	}
	for _, aud := range []any{"", bare + "Suffix", "http://other.example/api/hubs/" + p.hub + "/users/x", p.http + "/client/hubs/" + p.hub, bare[:len(bare)-1] + "y", []string{}, nil, 7} {
		f(401, claims{"aud": aud, "exp": exp})
	}
	f(404, claims{"aud": u, "exp": unix(-time.Minute)})
	f(404, claims{"aud": u, "exp": exp, "nbf": unix(time.Minute), "iat": unix(time.Hour)})
	f(401, claims{"aud": u, "exp": unix(-10 * time.Minute)})
	f(401, claims{"aud": u, "exp": exp, "nbf": unix(10 * time.Minute)})
	f(401, claims{"aud": u})
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"aud":%q,"exp":%d}`, u, exp)) + "."
	for _, bad := range []string{"", "x", none, token(plainHeader, claims{"aud": u, "exp": exp}) + "x"} {
		if got, _, body := p.restAs(bad, "HEAD", u, "", ""); got != 401 || body != "" {
			t.Errorf("token %q: %d %s", bad, got, body)
		}
	}

	client := p.http + "/client/hubs/" + p.hub
	dial := func(want int, query string, options ...func(*websocket.DialOptions)) {
		t.Helper()
		if _, got, _ := p.try(query, jsonProtocol, options...); got != want {
			t.Errorf("handshake with %.40s…: %d, want %d", query, got, want)
		}
	}
	grant := func(aud any) string { return token(plainHeader, claims{"aud": aud, "exp": exp}) }
	for _, aud := range []any{client, strings.ToUpper(client), []string{client}} {
		dial(101, "access_token="+grant(aud))
	}
	dial(101, "ACCESS_TOKEN="+grant(client))
	header := func(bearer string) func(*websocket.DialOptions) {
		return func(o *websocket.DialOptions) { o.HTTPHeader = http.Header{"Authorization": {"Bearer " + bearer}} }
	}
	dial(101, "", header(grant(client)))
	dial(401, "access_token=x", header(grant(client))) // the query wins
	dial(401, "")
	for _, aud := range []any{client + "x", p.http + "/client/hubs/other", p.http + "/clients/mqtt/hubs/" + p.hub, u} {
		dial(401, "access_token="+grant(aud))
	}
	dial(400, "access_token="+token(plainHeader, claims{"aud": client, "exp": exp, "webpubsub.group": " "}))
	dial(101, "access_token="+token(plainHeader, claims{"aud": client, "exp": exp, "webpubsub.group": "one", "role": "webpubsub.sendToGroup"}))
}

// C#: a key id of its own, nbf and iat, kinds of data with a capital, noEcho always; it throws on frames that it does not know.
func sdkCSharp(t *testing.T, p *pubsub) {
	header := `{"alg":"HS256","kid":"1537612849","typ":"JWT"}`
	now := time.Now().Unix()
	s := p.dial("access_token="+token(header, claims{"sub": "alice", "role": []string{"webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"}, "nbf": now, "iat": now, "exp": now + 3600,
		"aud": p.http + "/client/hubs/" + p.hub}), reliableProtocol)
	for _, key := range []string{"connectionId", "reconnectionToken", "userId"} {
		if f := s.frame(); f[key] == nil {
			t.Fatalf("connected has no %s: %v", key, f)
		} else {
			s.id = f["connectionId"].(string)
		}
		break
	}
	s.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	s.reads(`{"type":"ack","ackId":1,"success":true}`)
	for i, c := range []struct{ kind, data, want string }{
		{"Text", `"hi"`, `"dataType":"text","data":"hi"`}, {"Json", `{"a":1}`, `"dataType":"json","data":{"a":1}`}, {"Binary", `"AAEC"`, `"dataType":"binary","data":"AAEC"`},
		{"Protobuf", `"CgNhL2ISAggB"`, `"dataType":"protobuf","data":"CgNhL2ISAggB"`},
	} {
		s.send(fmt.Sprintf(`{"type":"sendToGroup","group":"g","ackId":%d,"noEcho":false,"dataType":"%s","data":%s}`, i+2, c.kind, c.data))
		ack, message := "", ""
		for range 2 {
			if f := s.text(); strings.Contains(f, `"ack"`) {
				ack = f
			} else {
				message = f
			}
		}
		if ack != fmt.Sprintf(`{"type":"ack","ackId":%d,"success":true}`, i+2) || !strings.Contains(message, c.want) || !strings.Contains(message, fmt.Sprintf(`"sequenceId":%d`, i+1)) {
			t.Errorf("%s: %s and %s", c.kind, ack, message)
		}
	}
	s.send(`{"type":"event","event":"none","ackId":9,"dataType":"Text","data":"x"}`) // nobody takes it
	f := s.frame()
	fault, _ := f["error"].(map[string]any)
	if f["success"] != false || fault["name"] != "InternalServerError" || fault["message"] == "" {
		t.Errorf("an event without a handler: %v", f)
	}
	u := p.http + p.path("/groups/g%2Fh/:send?filter=userId%20eq%20%27alice%27&excluded=a")
	if status, _, body := p.restAs(token(header, claims{"nbf": now, "iat": now, "exp": now + 300, "aud": u}), "POST", u, "application/json", "{}"); status != 202 {
		t.Errorf("%d %s", status, body)
	}
}

// Java: counts from 0, reads null as a word, has the audience as a string and nothing beside exp.
func sdkJava(t *testing.T, p *pubsub) {
	s := p.dial("access_token="+token(`{"alg":"HS256"}`, claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(time.Hour), "role": strings.Split(joinAndSend, ",")}), reliableProtocol)
	connected := s.text()
	if strings.Contains(connected, "null") || strings.Contains(connected, "userId") {
		t.Errorf("connected of nobody: %s", connected)
	}
	s.send(`{"type":"joinGroup","group":"g","ackId":0}`)
	s.reads(`{"type":"ack","ackId":0,"success":true}`)
	s.send(`{"type":"joinGroup","group":"g","ackId":0}`)
	if f := s.frame(); f["success"] != false || f["ackId"] != 0.0 {
		t.Errorf("a repeated 0: %v", f)
	}
	s.send(`{"type":"sendToGroup","group":"g","dataType":"json","data":{},"noEcho":false}`)
	m := s.text()
	if strings.Contains(m, "fromUserId") || strings.Contains(m, "null") {
		t.Errorf("a message of nobody: %s", m)
	}
	for _, key := range []string{"dataType", "from", "type"} {
		if !strings.Contains(m, `"`+key+`":"`) {
			t.Errorf("%s is missing: %s", key, m)
		}
	}
	u := p.http + p.path("/:send?messageTtlSeconds=5")
	if status, _, body := p.restAs(token(`{"alg":"HS256"}`, claims{"aud": u, "exp": unix(time.Hour)}), "POST", u, "application/json; charset=UTF-8", `"x"`); status != 202 {
		t.Errorf("%d %s", status, body)
	}
	// It acknowledges every 5 s only: a thousand messages meanwhile are no reason to close.
	for range 20 {
		for i := range 50 {
			s.send(fmt.Sprintf(`{"type":"sendToGroup","group":"g","dataType":"json","data":%d}`, i))
		}
		for range 50 {
			s.frame()
		}
	}
	s.send(`{"type":"ping"}`)
	for f := s.frame(); f["type"] != "pong"; f = s.frame() {
	}
}

// Python: endpoint in lower case, tokens of REST for a minute and with a name, header of the caller's.
func sdkPython(t *testing.T, p *pubsub) {
	p.hub = "SdkPython"
	port := p.http[strings.LastIndex(p.http, ":"):]
	host := func(o *websocket.DialOptions) { o.Host = "LocalHost" + port }
	_, status, err := p.try("access_token="+url.QueryEscape(token(`{"alg":"HS256","kid":"mine","typ":"JWT"}`, claims{"iat": unix(0), "exp": unix(time.Hour), "aud": "http://localhost" + port + "/client/hubs/SdkPython", "sub": "ünï"})),
		reliableProtocol, host)
	if err != nil {
		t.Errorf("handshake: %d %v", status, err)
	}
	u := p.http + p.path("/users/%C3%BCn%C3%AF")
	c := claims{"iat": unix(0), "exp": unix(time.Minute), "aud": u, "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name": "service"}
	if status, code, _ := p.restAs(token(plainHeader, c), "HEAD", u, "", ""); status != 200 {
		t.Errorf("HEAD of the user: %d %s", status, code)
	}
}

// Go: the hub escaped, only exp, parameters sorted and escaped before they are signed, an older version.
func sdkGo(t *testing.T, p *pubsub) {
	p.hub = "sdk[go]"
	s := p.dial("access_token="+url.QueryEscape(token(plainHeader, claims{"aud": p.http + "/client/hubs/" + url.PathEscape(p.hub), "exp": unix(time.Hour), "sub": "gopher"})), jsonProtocol)
	s.frame()
	q := url.Values{"excluded": {"b", "a"}, "filter": {"userId eq 'gopher' and 'a b' ne null"}, "api-version": {"2024-01-01"}, "messageTtlSeconds": {"3"}}
	u := p.http + "/api/hubs/" + url.PathEscape(p.hub) + "/:send?" + q.Encode()
	if status, _, body := p.restAs(token(plainHeader, claims{"aud": u, "exp": unix(time.Hour)}), "POST", u, "text/plain", "hi"); status != 202 {
		t.Fatalf("%d %s", status, body)
	}
	s.reads(`{"type":"message","from":"server","dataType":"text","data":"hi"}`)
}

// Simple clients: what they send is published or an event, what they get is bare.
func sdkSimple(t *testing.T, p *pubsub) {
	member, _ := p.open("member", jsonProtocol)
	member.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	member.reads(`{"type":"ack","ackId":1,"success":true}`)
	for _, query := range []string{"webpubsub_mode=sendToGroup&group=g", "webpubsub_mode=SENDTOGROUP&group=other&group=g&noEcho=true"} {
		s := p.dial(query+"&access_token="+p.grant("bare"), "")
		s.send("hello")
		member.reads(`{"type":"message","from":"group","group":"g","fromUserId":"bare","dataType":"text","data":"hello"}`)
		if err := s.ws.Write(t.Context(), websocket.MessageBinary, []byte{0, 1, 2}); err != nil {
			t.Fatal(err)
		}
		member.reads(`{"type":"message","from":"group","group":"g","fromUserId":"bare","dataType":"binary","data":"AAEC"}`)
		s.ws.Close(websocket.StatusNormalClosure, "")
	}
	for _, query := range []string{"webpubsub_mode=sendToGroup", "webpubsub_mode=what", "webpubsub_mode=sendToGroup&group=%20"} {
		if _, status, _ := p.try(query+"&access_token="+p.grant("bare"), ""); status != 400 {
			t.Errorf("%s: %d, want 400", query, status)
		}
	}
	s := p.dial("webpubsub_mode=sendEvent&access_token="+p.grant("bare"), "")
	s.send("nobody takes it")
	if code := s.closes(); code != websocket.StatusInternalError {
		t.Errorf("an event without a handler: closed with %d, want 1011", code)
	}
	weak := token(plainHeader, claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(time.Hour)})
	s = p.dial("webpubsub_mode=sendToGroup&group=g&access_token="+weak, "")
	s.send("not allowed")
	if code := s.closes(); code != websocket.StatusPolicyViolation {
		t.Errorf("a publish without the right: closed with %d, want 1008", code)
	}
}

// What is no frame closes the connection with a code that says why, and for good.
func sdkMalformed(t *testing.T, p *pubsub) {
	f := func(want websocket.StatusCode, kind websocket.MessageType, frame string) {
		t.Helper()
		s, _ := p.open("m", reliableProtocol)
		if err := s.ws.Write(t.Context(), kind, []byte(frame)); err != nil {
			t.Fatal(err)
		}
		if got := s.closes(); got != want {
			t.Errorf("%.60s: closed with %d, want %d", frame, got, want)
		}
		if status, _, _ := p.rest("HEAD", p.path("/connections/"+s.id), "", ""); status != 404 {
			t.Errorf("%.60s: the connection is still there: %d", frame, status)
		}
	}
	for _, frame := range []string{`{`, `{}`, `[]`, `7`, `null`, ``, `{"type":"what"}`, `{"type":7}`, `{"type":"joinGroup"}`, `{"type":"joinGroup","group":" "}`, `{"type":"joinGroup","group":"` + strings.Repeat("x", 1025) + `"}`,
		`{"type":"sendToGroup","group":"g"}`, `{"type":"sendToGroup","group":"g","dataType":"binary","data":"%"}`, `{"type":"sendToGroup","group":"g","dataType":"text","data":7}`,
		`{"type":"sendToGroup","group":"g","dataType":"what","data":""}`, `{"type":"sendToGroup","group":"g","data":null}`, `{"type":"sendToGroup","group":"g","ackId":-1,"data":1}`,
		`{"type":"sendToGroup","group":"g","ttlSeconds":301,"data":1}`, `{"type":"event","event":"7x","data":1}`, `{"type":"event","event":"","data":1}`, `{"type":"sequenceAck"}`, `{"type":"ping"} x`} {
		f(websocket.StatusInvalidFramePayloadData, websocket.MessageText, frame)
	}
	f(websocket.StatusMessageTooBig, websocket.MessageText, `{"type":"sendToGroup","group":"g","dataType":"text","data":"`+strings.Repeat("x", 1<<20)+`"}`)
}

// Pages follow nextLink as it is, signed as it is.
func sdkPaging(t *testing.T, p *pubsub) {
	var want []string
	for i := range 5 {
		s, _ := p.open(fmt.Sprint("user", i%2), jsonProtocol)
		want = append(want, s.id)
		p.wants(200, "", "PUT", p.path("/groups/a%2Fb/connections/"+s.id), "", "")
	}
	slices.Sort(want)
	type page struct {
		Value    []struct{ ConnectionID, UserID string }
		NextLink *string
	}
	var got []string
	sizes := []int{}
	for u := p.http + p.path("/groups/a%2Fb/connections?maxpagesize=2&top=5"); u != ""; {
		status, _, body := p.restAs(token(plainHeader, claims{"aud": u, "exp": unix(time.Minute)}), "GET", u, "", "")
		var pg page
		if err := json.Unmarshal([]byte(body), &pg); err != nil || status != 200 {
			t.Fatalf("%s: %d %v %s", u, status, err, body)
		}
		sizes = append(sizes, len(pg.Value))
		for _, v := range pg.Value {
			got = append(got, v.ConnectionID)
			if !strings.HasPrefix(v.UserID, "user") {
				t.Errorf("userId is %q", v.UserID)
			}
		}
		u = ""
		if pg.NextLink != nil {
			u = *pg.NextLink
			if !strings.HasPrefix(u, p.http+"/api/hubs/"+p.hub+"/groups/a%2Fb/connections?") || !strings.Contains(u, "api-version=2024-12-01") {
				t.Errorf("nextLink is %s", u)
			}
		}
	}
	if !slices.Equal(got, want) || !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Errorf("pages of %v: %v, want %v", sizes, got, want)
	}
	for _, q := range []string{"maxpagesize=0", "maxpagesize=201", "maxpagesize=", "top=0", "top=x", "top=1&top=2", "continuationToken=", "continuationToken=x", "continuationToken=" + strings.Repeat("x", 2049)} {
		p.wants(400, "Error.BadRequest", "GET", p.path("/groups/a%2Fb/connections?"+q), "", "")
	}
}
