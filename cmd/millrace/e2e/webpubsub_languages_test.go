package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// C#: a key id of its own, nbf and iat, kinds of data with a capital, noEcho always; it throws on frames that it does not know.
func sdkCSharp(t *testing.T, p *pubsub) {
	header := `{"alg":"HS256","kid":"1537612849","typ":"JWT"}`
	now := time.Now().Unix()
	s := p.dial("access_token="+token(header, claims{"sub": "alice", "role": []string{"webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"}, "nbf": now, "iat": now, "exp": now + 3600,
		"aud": p.http + "/client/hubs/" + p.hub}), reliableProtocol)
	connected := s.frame()
	for _, key := range []string{"connectionId", "reconnectionToken", "userId"} {
		if text, _ := connected[key].(string); text == "" {
			t.Errorf("connected has no %s: %v", key, connected)
		}
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
		s.ws.CloseNow()
		eventually(t, 3*time.Second, "the connection has ended, before its window has", func() bool {
			status, _, _ := p.rest("HEAD", p.path("/connections/"+s.id), "", "")
			return status == 404
		})
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

// Behind a reverse proxy the audience names the endpoint that developers know, and Host another.
func sdkProxied(t *testing.T, p *pubsub) {
	for _, endpoint := range []string{"https://pubsub.example", "https://PubSub.example:443"} {
		u := p.http + p.path("/users/x")
		aud := endpoint + p.path("/users/x")
		if status, _, _ := p.restAs(token(plainHeader, claims{"aud": aud, "exp": unix(time.Minute)}), "HEAD", u, "", ""); status != 404 {
			t.Errorf("%s: %d, want 404", aud, status)
		}
		grant := token(plainHeader, claims{"aud": endpoint + "/client/hubs/" + p.hub, "exp": unix(time.Minute)})
		if _, status, err := p.try("access_token="+grant, jsonProtocol); err != nil {
			t.Errorf("handshake for %s: %d %v", endpoint, status, err)
		}
	}
}
