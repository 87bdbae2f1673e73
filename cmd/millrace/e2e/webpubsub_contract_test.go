package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

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
