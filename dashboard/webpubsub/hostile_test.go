package webpubsub

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"millrace/dashboard/webpubsub/access"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/fanout/hub"
)

// TestReliableClients drops every client many times at random while messages come to its group: each gets all, once and in order. MILLRACE_CLIENTS=500 is
// the whole of it.
func TestReliableClients(t *testing.T) {
	clients, drops := 40, 20
	if n, err := strconv.Atoi(os.Getenv("MILLRACE_CLIENTS")); err == nil {
		clients = n
	}
	const rate, groups = 200, 5
	length := time.Duration(drops) * 300 * time.Millisecond
	s := serve(t, Config{})
	h := s.e.Hubs().Hub("chat")
	var ready, done sync.WaitGroup
	stop := make(chan struct{})
	var sent [groups]atomic.Int64
	var recovered atomic.Int64
	for i := range clients {
		ready.Add(1)
		done.Go(func() {
			group := i % groups
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			query := "access_token=" + s.token("chat", fmt.Sprint("u", i), all...)
			var largest, got uint64
			ackAt, dropped, joined := time.Now(), 0, false
			var id, token string
			for {
				c, _, err := s.dial("chat", query, protocol.ReliableJSON)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				hold := func() time.Time {
					return time.Now().Add(time.Duration(rng.Int64N(int64(length) * 3 / 2 / int64(drops))))
				}
				next := hold()
				for {
					if got == 0 { // they have not begun
						next = time.Now().Add(time.Minute)
					}
					ctx, cancel := context.WithDeadline(context.Background(), next)
					if dropped == drops {
						cancel()
						ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
					}
					_, b, err := c.ws.Read(ctx)
					cancel()
					if err != nil {
						break // dropped in the middle of whatever came
					}
					var m struct {
						Type, Event, ConnectionID, ReconnectionToken string
						SequenceID                                   uint64
						Data                                         uint64
						Success                                      bool
					}
					if err := json.Unmarshal(b, &m); err != nil {
						t.Errorf("client %d: %s: %v", i, b, err)
						return
					}
					switch {
					case m.Event == "connected":
						if id != "" && m.ConnectionID != id {
							t.Errorf("client %d came back as another", i)
							return
						}
						id, token = m.ConnectionID, m.ReconnectionToken
						if !joined {
							c.send(`{"type":"joinGroup","group":"g%d","ackId":1}`, group)
						}
					case m.Type == "ack" && m.Success:
						joined = true
						ready.Done()
					case m.Type == "message" && m.SequenceID > largest:
						if m.SequenceID != largest+1 || m.Data != got+1 {
							t.Errorf("client %d: message %d with data %d after %d with %d", i, m.SequenceID, m.Data, largest, got)
							return
						}
						if got == 0 {
							next = hold()
						}
						largest, got = m.SequenceID, m.Data
					}
					if time.Since(ackAt) > 200*time.Millisecond {
						ackAt = time.Now()
						_ = c.ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"sequenceAck","sequenceId":%d}`, largest))
					}
					select {
					case <-stop:
						if got == uint64(sent[group].Load()) && dropped == drops {
							_ = c.ws.CloseNow()
							return
						}
					default:
					}
				}
				_ = c.ws.CloseNow()
				select {
				case <-stop:
					if got == uint64(sent[group].Load()) && dropped == drops {
						return
					}
				default:
				}
				if !joined {
					continue
				}
				if dropped == drops {
					t.Errorf("client %d got %d of %d", i, got, sent[group].Load())
					return
				}
				dropped++
				recovered.Add(1)
				query = "awps_connection_id=" + id + "&awps_reconnection_token=" + url.QueryEscape(token)
			}
		})
	}
	ready.Wait()
	tick := time.NewTicker(time.Second / rate)
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		for g := range groups {
			n := sent[g].Add(1)
			h.SendGroup(&hub.Message{Group: fmt.Sprint("g", g), Data: hub.Data{Kind: hub.JSON, Bytes: fmt.Append(nil, n)}}, nil, nil)
		}
	}
	close(stop)
	for g := range groups { // the last one, so that all who wait see that it is over
		n := sent[g].Add(1)
		h.SendGroup(&hub.Message{Group: fmt.Sprint("g", g), Data: hub.Data{Kind: hub.JSON, Bytes: fmt.Append(nil, n)}}, nil, nil)
	}
	done.Wait()
	t.Logf("%d clients, %d recoveries, %d messages to each", clients, recovered.Load(), sent[0].Load())
	if n := recovered.Load(); n != int64(clients*drops) {
		t.Errorf("%d recoveries", n)
	}
}

// TestMalformed frames end their connection with the code that says why, and harm nobody else.
func TestMalformed(t *testing.T) {
	s := serve(t, Config{})
	witness, _ := s.connect("chat", "w", protocol.JSON, all...)
	witness.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	witness.want(`{"type":"ack","ackId":1,"success":true}`)
	for _, c := range []struct {
		frame string
		code  websocket.StatusCode
	}{
		{`{`, 1007}, {`[]`, 1007}, {`{"type":"fly"}`, 1007}, {`{}`, 1007}, {``, 1007},
		{`{"type":"joinGroup"}`, 1007}, {`{"type":"joinGroup","group":" "}`, 1007}, {`{"type":"joinGroup","group":"` + strings.Repeat("x", 1025) + `"}`, 1007},
		{`{"type":"joinGroup","group":"g","ackId":-1}`, 1007}, {`{"type":"joinGroup","group":"g","ackId":1.5}`, 1007}, {`{"type":"joinGroup","group":7}`, 1007},
		{`{"type":"sendToGroup","group":"g"}`, 1007}, {`{"type":"sendToGroup","group":"g","data":null}`, 1007},
		{`{"type":"sendToGroup","group":"g","dataType":"binary","data":"!"}`, 1007}, {`{"type":"sendToGroup","group":"g","dataType":"nonsense","data":"x"}`, 1007},
		{`{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":301}`, 1007}, {`{"type":"sendToGroup","group":"g","data":1,"metadata":{"a b":"x"}}`, 1007},
		{`{"type":"event","event":"1x","data":1}`, 1007}, {`{"type":"sequenceAck"}`, 1007}, {`{"type":"invoke","event":"x","data":1}`, 1007},
		{strings.Repeat(`[`, 1<<19), 1007}, {`{"type":"ping","x":"` + strings.Repeat("x", 1<<20) + `"}`, 1009},
	} {
		bad, _ := s.connect("chat", "bad", protocol.ReliableJSON, all...)
		_ = bad.ws.Write(t.Context(), websocket.MessageText, []byte(c.frame))
		if code := bad.closed(); code != c.code {
			t.Errorf("%.60s: closed with %d, want %d", c.frame, code, c.code)
		}
	}
	bad, _ := s.connect("chat", "bad", protocol.JSON)
	_ = bad.ws.Write(t.Context(), websocket.MessageBinary, []byte{0xff, 0xfe})
	if code := bad.closed(); code != 1003 {
		t.Errorf("a binary frame: closed with %d", code)
	}
	p, _, err := s.dial("chat", "access_token="+s.token("chat", ""), protocol.Protobuf)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = p.ws.Read(t.Context())
	_ = p.ws.Write(t.Context(), websocket.MessageBinary, []byte{0x32, 0x08, 0x0a})
	if _, _, err := p.ws.Read(t.Context()); websocket.CloseStatus(err) != 1007 {
		t.Errorf("protobuf cut short: %v", err)
	}
	if n, _, _ := s.e.Hubs().Hub("chat").Size(); n > 1 {
		waitFor(t, "the hostile to be gone", func() bool { n, _, _ := s.e.Hubs().Hub("chat").Size(); return n == 1 })
	}
	s.rest("POST", "/api/hubs/chat/groups/g/:send", "text/plain", "still there")
	witness.want(`{"type":"message","from":"group","group":"g","dataType":"text","data":"still there"}`)
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// TestFloods of messages, groups and slow readers: the rest go on, and what is kept is bounded.
func TestFloods(t *testing.T) {
	s := serve(t, Config{Hub: hub.Config{QueueMessages: 1000, QueueBytes: 1 << 20, Groups: 100}})
	good, _ := s.connect("chat", "good", protocol.JSON, all...)
	good.send(`{"type":"joinGroup","group":"g","ackId":1}`)
	good.want(`{"type":"ack","ackId":1,"success":true}`)

	// A client that never reads.
	raw, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(raw, "GET /client/hubs/chat?access_token=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		s.token("chat", "slow"), strings.TrimPrefix(s.base, "http://"), base64.StdEncoding.EncodeToString(make([]byte, 16)), protocol.JSON)
	if line, err := bufio.NewReader(raw).ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Fatal(line, err)
	}
	h := s.e.Hubs().Hub("chat")
	waitFor(t, "the slow one", func() bool { return h.UserExists("slow") })
	if !h.AddUser("slow", "g") {
		t.Fatal("not added")
	}

	// One that publishes as fast as it can, and one that joins thousands of groups.
	flood, _ := s.connect("chat", "flood", protocol.JSON, all...)
	greedy, _ := s.connect("chat", "greedy", protocol.JSON, all...)
	text := strings.Repeat("x", 8000)
	const floods = 3000
	var wg sync.WaitGroup
	ahead := make(chan struct{}, 100) // as fast as the good one reads
	wg.Go(func() {
		for i := range floods {
			ahead <- struct{}{}
			if err := flood.ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"sendToGroup","group":"g","dataType":"text","data":"%d %s"}`, i, text)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	refused := 0
	wg.Go(func() {
		for i := range 3000 {
			greedy.send(`{"type":"joinGroup","group":"many-%d","ackId":%d}`, i, i)
			if m, err := greedy.tryRead(); err != nil {
				t.Error(err)
				return
			} else if m["success"] == false {
				refused++
			}
		}
	})
	for i := range floods {
		m := good.read()
		if got, _, _ := strings.Cut(m["data"].(string), " "); got != fmt.Sprint(i) {
			t.Fatalf("got %s in place of %d", got, i)
		}
		<-ahead
	}
	wg.Wait()
	if refused != 2900 {
		t.Errorf("%d of 3,000 groups refused", refused)
	}
	waitFor(t, "the slow one to be cut", func() bool { return !h.UserExists("slow") })
	if s.e.Stats().Slow != 1 {
		t.Errorf("stats are %+v", s.e.Stats())
	}
}

// TestBadTokens are refused, each with 401.
func TestBadTokens(t *testing.T) {
	s := serve(t, Config{})
	now := time.Now()
	claims := func(change func(jwt.MapClaims)) jwt.MapClaims {
		c := jwt.MapClaims{"aud": s.base + "/client/hubs/chat", "exp": now.Add(time.Hour).Unix()}
		change(c)
		return c
	}
	sign := func(key string, c jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	set := func(name string, v any) string { return sign(testKey, claims(func(c jwt.MapClaims) { c[name] = v })) }
	good := sign(testKey, claims(func(jwt.MapClaims) {}))
	none, _ := jwt.NewWithClaims(jwt.SigningMethodNone, claims(func(jwt.MapClaims) {})).SignedString(jwt.UnsafeAllowNoneSignatureType)
	hs512, _ := jwt.NewWithClaims(jwt.SigningMethodHS512, claims(func(jwt.MapClaims) {})).SignedString([]byte(testKey))
	parts := strings.Split(good, ".")
	rest, _ := access.SignREST(testKey, s.base+"/api/hubs/chat/:send", time.Hour, now)
	for name, token := range map[string]string{
		"empty": "", "nonsense": "nonsense", "dots": "..", "no signature": parts[0] + "." + parts[1] + ".", "cut": good[:len(good)-2], "other payload": parts[0] + "." + strings.Split(rest, ".")[1] + "." + parts[2],
		"alg none": none, "HS512": hs512, "another key": sign("x"+testKey, claims(func(jwt.MapClaims) {})), "empty key": sign("", claims(func(jwt.MapClaims) {})),
		"expired": set("exp", now.Add(-6*time.Minute).Unix()), "no exp": sign(testKey, claims(func(c jwt.MapClaims) { delete(c, "exp") })), "exp a text": set("exp", "tomorrow"), "exp null": set("exp", nil),
		"not yet": set("nbf", now.Add(6*time.Minute).Unix()), "another hub": set("aud", s.base+"/client/hubs/other"), "a longer hub": set("aud", s.base+"/client/hubs/chatter"),
		"below": set("aud", s.base+"/client/hubs/chat/x"), "another host": set("aud", "http://example.com/client/hubs/chat"), "no aud": sign(testKey, claims(func(c jwt.MapClaims) { delete(c, "aud") })),
		"aud a number": set("aud", 7), "aud nested": set("aud", []any{[]any{s.base + "/client/hubs/chat"}}), "aud without scheme": set("aud", strings.TrimPrefix(s.base, "http://")+"/client/hubs/chat"),
		"for REST": rest, "for MQTT": set("aud", s.base+"/clients/mqtt/hubs/chat"), "huge": set("x", strings.Repeat("x", 9000)) + strings.Repeat("x", 3000),
	} {
		if c, res, err := s.dial("chat", "access_token="+url.QueryEscape(token), protocol.JSON); err == nil || res == nil || res.StatusCode != 401 {
			t.Errorf("%s: %v", name, res)
			if err == nil {
				_ = c.ws.CloseNow()
			}
		}
	}
	for name, token := range map[string]string{
		"as it is": good, "array": set("aud", []string{"http://elsewhere/", s.base + "/client/hubs/chat"}), "capitals": set("aud", strings.ToUpper(s.base+"/client/hubs/chat")),
		"slash": set("aud", s.base+"/client/hubs/chat/"), "skew": set("exp", now.Add(-4*time.Minute).Unix()), "secondary": sign(s.settings.Keys().Secondary, claims(func(jwt.MapClaims) {})),
		"escaped": set("aud", s.base+"/client/hubs/%63hat"),
	} {
		c, res, err := s.dial("CHAT", "Access_Token="+url.QueryEscape(token), protocol.JSON)
		if err != nil {
			t.Errorf("%s: %v %v", name, err, res)
			continue
		}
		_ = c.ws.CloseNow()
	}
}
