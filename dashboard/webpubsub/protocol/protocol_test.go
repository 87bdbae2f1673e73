package protocol

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"millrace/dashboard/socket"
	"millrace/fanout/hub"
)

func codec(t testing.TB, name string) Codec {
	t.Helper()
	c, ok := For(strings.ToUpper(name))
	if !ok || c.Name() != name || c.Reliable() != strings.Contains(name, "reliable") {
		t.Fatalf("%s: %v", name, c)
	}
	return c
}

// refused checks what an error of Decode says.
func refused(t testing.TB, err error, want socket.Code) {
	t.Helper()
	e, ok := errors.AsType[*socket.CloseError](err)
	if !ok || want != 0 && e.Code != want || e.Code != socket.InvalidPayload && e.Code != socket.UnsupportedData {
		t.Fatalf("error %v, want a close with %d", err, want)
	}
	if e.Reason == "" || len(e.Reason) > 123 || !utf8.ValidString(e.Reason) {
		t.Fatalf("reason %q", e.Reason)
	}
}

func TestNames(t *testing.T) {
	slots := map[int]bool{Simple.Slot(): true}
	for _, name := range []string{JSON, ReliableJSON, Protobuf, ReliableProtobuf} {
		s := codec(t, name).Slot()
		if slots[s] || s >= hub.Slots {
			t.Errorf("%s has slot %d", name, s)
		}
		slots[s] = true
	}
	if _, ok := For("mqtt"); ok {
		t.Error("mqtt is none of ours")
	}
	f := func(s string, want bool) {
		t.Helper()
		if ValidGroup(s) != want {
			t.Errorf("group %.20q", s)
		}
	}
	f("", false)
	f(" \t", false)
	f("a/b#ä", true)
	f(strings.Repeat("ä", 1024), true)
	f(strings.Repeat("a", 1025), false)
	f("a\xff", false)
	f = func(s string, want bool) {
		t.Helper()
		if ValidEvent(s) != want {
			t.Errorf("event %.20q", s)
		}
	}
	f("order.placed", true)
	f("A_b-9", true)
	f("", false)
	f("9a", false)
	f("a b", false)
	f("a\n", false)
	f("a"+strings.Repeat("b", 127), true)
	f("a"+strings.Repeat("b", 128), false)
	m := func(k, v string, want bool) {
		t.Helper()
		if err := ValidMetadata(map[string]string{k: v}); (err == nil) != want {
			t.Errorf("metadata %.20q: %.20q: %v", k, v, err)
		}
	}
	m("Trace-Id", "abc", true)
	m("a b", "", false)
	m("", "", false)
	m("ä", "", false)
	m("k", "ä", false)
	m("k", "a\r\nb", false)
	m(strings.Repeat("k", 256), strings.Repeat("v", 1024), true)
	m(strings.Repeat("k", 257), "", false)
	m("k", strings.Repeat("v", 1025), false)
	many := map[string]string{}
	for k := range strings.SplitSeq("abcdefghi", "") {
		many[k] = strings.Repeat("v", 1000)
	}
	if ValidMetadata(many) == nil {
		t.Error("9 KB of metadata were taken")
	}
}

func text8(s string) hub.Data { return hub.Data{Kind: hub.Text, Bytes: []byte(s)} }

func TestDecodeJSON(t *testing.T) {
	c := codec(t, JSON)
	f := func(in string, want Request) {
		t.Helper()
		for _, isText := range []bool{true, false} {
			p := []byte(in)
			got := Request{Group: "what was before"}
			if err := c.Decode(isText, p, &got); err != nil {
				t.Errorf("%s: %v", in, err)
				return
			}
			clear(p) // nothing of it is kept
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\ngot  %+v\nwant %+v", in, got, want)
			}
		}
	}
	js := func(s string) hub.Data { return hub.Data{Kind: hub.JSON, Bytes: []byte(s)} }
	f(`{"type":"joinGroup","group":"room-1","ackId":1}`, Request{Type: JoinGroup, Group: "room-1", AckID: 1, HasAck: true})
	f(`{"type":"JOINGROUP","group":"g","ackId":0}`, Request{Type: JoinGroup, Group: "g", HasAck: true})
	f(`{"ackId":18446744073709551615,"group":"g","type":"joinGroup","other":[1]}`, Request{Type: JoinGroup, Group: "g", AckID: 1<<64 - 1, HasAck: true})
	f(`{"type":"joinGroup","group":"g","ackId":null}`, Request{Type: JoinGroup, Group: "g"})
	f(`{"type":"leaveGroup","group":"room-1","ackId":2}`, Request{Type: LeaveGroup, Group: "room-1", AckID: 2, HasAck: true})
	f(`{"type":"sendToGroup","group":"room-1","ackId":3,"noEcho":true,"dataType":"text","data":"hi"}`,
		Request{Type: SendToGroup, Group: "room-1", AckID: 3, HasAck: true, NoEcho: true, Data: text8("hi"), HasData: true})
	f(`{"type":"sendToGroup","group":"room-1","data":{"x":1}}`, Request{Type: SendToGroup, Group: "room-1", Data: js(`{"x":1}`), HasData: true})
	f(`{"type":"sendToGroup","group":"g","dataType":"Json","data":  {"b": 1.0 , "a":"\u00e4<"} }`, Request{Type: SendToGroup, Group: "g", Data: js(`{"b": 1.0 , "a":"\u00e4<"}`), HasData: true})
	f(`{"type":"sendToGroup","group":"g","dataType":null,"data":0,"noEcho":null,"metadata":null}`, Request{Type: SendToGroup, Group: "g", Data: js(`0`), HasData: true})
	f(`{"type":"sendToGroup","group":"room-1","dataType":"binary","data":"AAEC"}`, Request{Type: SendToGroup, Group: "room-1", Data: hub.Data{Kind: hub.Binary, Bytes: []byte{0, 1, 2}}, HasData: true})
	f(`{"type":"sendToGroup","group":"g","dataType":"Protobuf","data":"CgFh"}`, Request{Type: SendToGroup, Group: "g", Data: hub.Data{Kind: hub.Protobuf, Bytes: []byte{10, 1, 'a'}}, HasData: true})
	f(`{"type":"sendToGroup","group":"g","dataType":"text","data":"","ttlSeconds":300}`, Request{Type: SendToGroup, Group: "g", Data: text8(""), HasData: true, TTL: 300 * time.Second})
	f(`{"type":"sendToGroup","group":"g","metadata":{"a":"1","A":"2"}}`, Request{Type: SendToGroup, Group: "g", Data: text8(""), HasData: true, Metadata: map[string]string{"a": "1", "A": "2"}})
	f(`{"type":"event","event":"order.placed","ackId":4,"dataType":"json","data":{"id":7}}`, Request{Type: Event, Event: "order.placed", AckID: 4, HasAck: true, Data: js(`{"id":7}`), HasData: true})
	f(`{"type":"ping"}`, Request{Type: Ping})
	f(`{"type":"sequenceAck","sequenceId":42}`, Request{Type: SequenceAck, Sequence: 42})
	f(`{"type":"sequenceAck","sequenceId":18446744073709551615}`, Request{Type: SequenceAck, Sequence: 1<<64 - 1})
	f(`{"type":"invoke","invocationId":"1","target":"event","event":"sum","dataType":"json","data":[1,2]}`, Request{Type: Invoke, InvocationID: "1", Event: "sum", Data: js(`[1,2]`), HasData: true})
	f(`{"type":"cancelInvocation","invocationId":"1"}`, Request{Type: CancelInvocation, InvocationID: "1"})
	f(`{"type":"sendToGroup","group":"room-1","noEcho":false,"stream":{"streamId":"s1","idleTimeoutMs":60000}}`, Request{Type: SendToGroup, Group: "room-1", Stream: &StreamStart{ID: "s1", Idle: time.Minute}})
	f(`{"type":"streamData","streamId":"s1","streamSequenceId":1,"dataType":"text","data":"part one"}`, Request{Type: StreamData, StreamID: "s1", StreamSeq: 1, HasStreamSeq: true, Data: text8("part one"), HasData: true})
	f(`{"type":"streamData","streamId":"s1"}`, Request{Type: StreamData, StreamID: "s1"})
	f(`{"type":"streamEnd","streamId":"s1","error":{"message":"gave up","userErrorCode":"E7"}}`, Request{Type: StreamEnd, StreamID: "s1", EndError: &hub.StreamError{Message: "gave up", UserCode: "E7"}})
	f(`{"type":"streamEnd","streamId":"s1"}`, Request{Type: StreamEnd, StreamID: "s1"})
	f(`{"type":"setGroupState","group":"room-1","ackId":5,"state":{"typing":"yes"}}`, Request{Type: SetGroupState, Group: "room-1", AckID: 5, HasAck: true, State: map[string]string{"typing": "yes"}})
	f(`{"type":"setGroupState","group":"g","state":null}`, Request{Type: SetGroupState, Group: "g"})
	f(`{"type":"subscribeGroupState","group":"room-1","ackId":6}`, Request{Type: SubscribeGroupState, Group: "room-1", AckID: 6, HasAck: true})
	f(`{"type":"unsubscribeGroupState","group":"room-1","ackId":7}`, Request{Type: UnsubscribeGroupState, Group: "room-1", AckID: 7, HasAck: true})
}

func TestDecodeJSONRefuses(t *testing.T) {
	c := codec(t, ReliableJSON)
	f := func(in string) {
		t.Helper()
		var r Request
		refused(t, c.Decode(true, []byte(in), &r), socket.InvalidPayload)
	}
	f(``)
	f(`null`)
	f(`[]`)
	f(`{`)
	f(`{"type":"ping"} {}`)
	f("{\"type\":\"ping\",\"x\":\"\xff\"}")
	f(`{}`)
	f(`{"type":7}`)
	f(`{"type":"` + strings.Repeat(`\u0001\ud83d\ude00`, 100) + `"}`)
	f(`{"type":"joinGroup"}`)
	f(`{"type":"joinGroup","group":" "}`)
	f(`{"type":"joinGroup","group":"` + strings.Repeat("a", 1025) + `"}`)
	f(`{"type":"joinGroup","group":"g","ackId":-1}`)
	f(`{"type":"joinGroup","group":"g","ackId":1.5}`)
	f(`{"type":"joinGroup","group":"g","ackId":"1"}`)
	f(`{"type":"joinGroup","group":"g","ackId":18446744073709551616}`)
	f(`{"type":"sendToGroup","group":"g"}`)
	f(`{"type":"sendToGroup","group":"g","data":null}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"dataType":"xml"}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"dataType":"text"}`)
	f(`{"type":"sendToGroup","group":"g","data":"A","dataType":"binary"}`)
	f(`{"type":"sendToGroup","group":"g","data":"_-__","dataType":"binary"}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":301}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":-1}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"noEcho":"yes"}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"metadata":{"a":1}}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"metadata":{"a":null}}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"metadata":{"a":"1","a":"2"}}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"metadata":{"ä":"1"}}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"metadata":[]}`)
	f(`{"type":"sendToGroup","group":"g","data":1,"stream":{"streamId":"s"}}`)
	f(`{"type":"sendToGroup","group":"g","stream":{"streamId":"s","idleTimeoutMs":0}}`)
	f(`{"type":"event","event":"1","data":1}`)
	f(`{"type":"event","event":"a"}`)
	f(`{"type":"sequenceAck"}`)
	f(`{"type":"invoke","invocationId":"1","event":"a"}`)
	f(`{"type":"invoke","target":"event","event":"a"}`)
	f(`{"type":"invoke","target":"group","event":"a","invocationId":"1"}`)
	f(`{"type":"cancelInvocation"}`)
	f(`{"type":"streamData","streamId":"s","streamSequenceId":1}`)
	f(`{"type":"streamData","streamId":"s","data":1}`)
	f(`{"type":"setGroupState","group":"g","state":{"a":1}}`)
	var r Request
	refused(t, c.Decode(false, []byte{0xff, 0}, &r), socket.UnsupportedData)
}

// sent is what a connection is sent of a message; seq is 0 on connections that are not reliable.
func sent(e hub.Encoder, m *hub.Message, seq uint64) []byte {
	return e.Append([]byte("before"), e.Encode(m), seq)[len("before"):]
}

func TestEncodeJSON(t *testing.T) {
	plain, reliable := codec(t, JSON), codec(t, ReliableJSON)
	f := func(m *hub.Message, want string) {
		t.Helper()
		if b := sent(plain, m, 0); b[0] != 0x81 || string(socket.Payload(b)) != want {
			t.Errorf("%x\ngot  %s\nwant %s", b[:4], socket.Payload(b), want)
		}
		if b := sent(reliable, m, 7); b[0] != 0x81 || string(socket.Payload(b)) != `{"sequenceId":7,`+want[1:] {
			t.Errorf("reliable: %s", socket.Payload(b))
		}
	}
	f(&hub.Message{Group: "room-1", User: "alice", Data: text8("hi")}, `{"type":"message","from":"group","group":"room-1","fromUserId":"alice","dataType":"text","data":"hi"}`)
	f(&hub.Message{Data: hub.Data{Kind: hub.JSON, Bytes: []byte(`{"hello": "world"}`)}}, `{"type":"message","from":"server","dataType":"json","data":{"hello": "world"}}`)
	f(&hub.Message{Group: "room-1", User: "alice", Data: hub.Data{Kind: hub.Binary, Bytes: []byte{0, 1, 2}}}, `{"type":"message","from":"group","group":"room-1","fromUserId":"alice","dataType":"binary","data":"AAEC"}`)
	f(&hub.Message{Group: "g", Data: hub.Data{Kind: hub.Protobuf, Bytes: []byte{10, 1, 'a'}}}, `{"type":"message","from":"group","group":"g","dataType":"protobuf","data":"CgFh"}`)
	f(&hub.Message{Group: `"\`, Data: text8("<ä>\n\xff"), Metadata: map[string]string{"b": "2", "a": "1"}},
		`{"type":"message","from":"group","group":"\"\\","dataType":"text","data":"<ä>\n\ufffd","metadata":{"a":"1","b":"2"}}`)
	f(&hub.Message{Data: hub.Data{Kind: hub.JSON, Bytes: []byte("\"\xff\"")}}, "{\"type\":\"message\",\"from\":\"server\",\"dataType\":\"json\",\"data\":\"\uFFFD\"}")
	f(&hub.Message{Group: "room-1", User: "alice", Data: text8("part one"), Stream: &hub.Fragment{ID: "s1", Seq: 1}},
		`{"type":"message","from":"group","group":"room-1","fromUserId":"alice","dataType":"text","data":"part one","stream":{"streamId":"s1","streamSequenceId":1}}`)
	f(&hub.Message{Group: "room-1", User: "alice", Data: text8(""), Stream: &hub.Fragment{ID: "s1", Seq: 2, End: true, Error: &hub.StreamError{Name: "UserError", Message: "gave up", UserCode: "E7"}}},
		`{"type":"message","from":"group","group":"room-1","fromUserId":"alice","dataType":"text","data":"","stream":{"streamId":"s1","streamSequenceId":2,"endOfStream":true,"error":{"name":"UserError","message":"gave up","userErrorCode":"E7"}}}`)
	f(&hub.Message{Group: "room-1", States: &hub.States{Snapshot: true, Items: []hub.State{{Connection: "abc123", User: "alice", State: map[string]string{"typing": "yes"}, Updated: 1760000000000}}}},
		`{"type":"groupStateSnapshot","group":"room-1","items":[{"connectionId":"abc123","userId":"alice","state":{"typing":"yes"},"updatedAt":1760000000000}]}`)
	f(&hub.Message{Group: "room-1", States: &hub.States{Items: []hub.State{{Connection: "abc123", User: "alice", Updated: 1760000000123}, {Connection: "d"}}}},
		`{"type":"groupStateUpdate","group":"room-1","items":[{"connectionId":"abc123","userId":"alice","updatedAt":1760000000123},{"connectionId":"d","updatedAt":0}]}`)
	long := strings.Repeat("x", 70000)
	f(&hub.Message{Data: text8(long)}, `{"type":"message","from":"server","dataType":"text","data":"`+long+`"}`)
}

func TestAnswersJSON(t *testing.T) {
	c := codec(t, JSON)
	f := func(b []byte, want string) {
		t.Helper()
		if b = b[1:]; b[0] != 0x81 || string(socket.Payload(b)) != want {
			t.Errorf("got  %s\nwant %s", socket.Payload(b), want)
		}
	}
	dst := []byte{'x'}
	f(c.Connected(dst, "alice", "abc123", ""), `{"type":"system","event":"connected","userId":"alice","connectionId":"abc123"}`)
	f(c.Connected(dst, "", "abc123", ""), `{"type":"system","event":"connected","connectionId":"abc123"}`)
	f(codec(t, ReliableJSON).Connected(dst, "alice", "abc123", "eyJ..."), `{"type":"system","event":"connected","userId":"alice","connectionId":"abc123","reconnectionToken":"eyJ..."}`)
	f(c.Disconnected(dst, "Application server closed the connection. Reason: maintenance"), `{"type":"system","event":"disconnected","message":"Application server closed the connection. Reason: maintenance"}`)
	f(c.Ack(dst, 1, nil), `{"type":"ack","ackId":1,"success":true}`)
	f(c.Ack(dst, 0, nil), `{"type":"ack","ackId":0,"success":true}`)
	f(c.Ack(dst, 2, &hub.Error{Name: "Forbidden", Message: "The client does not have permission to send to group 'room-1'."}),
		`{"type":"ack","ackId":2,"success":false,"error":{"name":"Forbidden","message":"The client does not have permission to send to group 'room-1'."}}`)
	f(c.Pong(dst), `{"type":"pong"}`)
	f(c.InvokeResponse(dst, "1", &hub.Data{Kind: hub.JSON, Bytes: []byte("3")}, nil), `{"type":"invokeResponse","invocationId":"1","success":true,"dataType":"json","data":3}`)
	f(c.InvokeResponse(dst, "1", nil, nil), `{"type":"invokeResponse","invocationId":"1","success":true}`)
	f(c.InvokeResponse(dst, "1", nil, &hub.Error{Name: "InternalServerError", Message: "Internal server error"}),
		`{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"InternalServerError","message":"Internal server error"}}`)
	f(c.StreamAck(dst, "s1", 1), `{"type":"streamAck","streamId":"s1","expectedSequenceId":1}`)
	f(c.StreamNack(dst, "s1", 3, "InvalidSequenceId", "expected 3"), `{"type":"streamNack","streamId":"s1","expectedSequenceId":3,"name":"InvalidSequenceId","message":"expected 3"}`)
	f(c.StreamClosed(dst, "s1", nil), `{"type":"streamClosed","streamId":"s1"}`)
	f(c.StreamClosed(dst, "s1", &hub.StreamError{Name: "IdleTimeout"}), `{"type":"streamClosed","streamId":"s1","error":{"name":"IdleTimeout"}}`)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func TestDecodeProtobuf(t *testing.T) {
	c := codec(t, Protobuf)
	f := func(p []byte, want Request) {
		t.Helper()
		got := Request{Group: "what was before"}
		if err := c.Decode(false, p, &got); err != nil {
			t.Errorf("%x: %v", p, err)
			return
		}
		clear(p)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	f(unhex("32 08 0A 04 72 6F 6F 6D 10 00"), Request{Type: JoinGroup, Group: "room", HasAck: true})
	f(unhex("32 06 0A 04 72 6F 6F 6D"), Request{Type: JoinGroup, Group: "room"})
	f(unhex("3A 05 0A 01 67 10 02"), Request{Type: LeaveGroup, Group: "g", AckID: 2, HasAck: true})
	f(unhex("42 02 08 2A"), Request{Type: SequenceAck, Sequence: 42})
	f(unhex("42 00"), Request{Type: SequenceAck})
	f(unhex("4A 00"), Request{Type: Ping})
	send := func(data []byte) []byte { return putMessage(putText(nil, 1, "g"), 3, data) }
	up := func(n int, body []byte) []byte { return putMessage(nil, [...]protowire.Number{1, 5, 13, 14}[n], body) }
	f(up(0, send(putText(nil, 1, ""))), Request{Type: SendToGroup, Group: "g", Data: text8(""), HasData: true})
	f(up(0, send(putMessage(nil, 2, []byte{0}))), Request{Type: SendToGroup, Group: "g", Data: hub.Data{Kind: hub.Binary, Bytes: []byte{0}}, HasData: true})
	f(up(0, send(putMessage(nil, 3, putText(nil, 1, "t/x")))), Request{Type: SendToGroup, Group: "g", Data: hub.Data{Kind: hub.Protobuf, Bytes: putText(nil, 1, "t/x")}, HasData: true})
	f(up(0, send(putText(nil, 4, `{"a": 1}`))), Request{Type: SendToGroup, Group: "g", Data: hub.Data{Kind: hub.JSON, Bytes: []byte(`{"a": 1}`)}, HasData: true})
	all := putNumber(putNumber(putNumber(send(putText(nil, 1, "hi")), 2, 1<<64-1), 4, 1), 5, 300)
	all = putMessage(all, 6, putText(putText(nil, 1, "k"), 2, "v"))
	all = putNumber(all, 99, 5) // of a later version
	f(up(0, all), Request{Type: SendToGroup, Group: "g", AckID: 1<<64 - 1, HasAck: true, NoEcho: true, TTL: 5 * time.Minute, Metadata: map[string]string{"k": "v"}, Data: text8("hi"), HasData: true})
	f(up(0, putMessage(putText(nil, 1, "g"), 7, putNumber(putText(nil, 1, "s1"), 2, 1000))), Request{Type: SendToGroup, Group: "g", Stream: &StreamStart{ID: "s1", Idle: time.Second}})
	f(up(1, putNumber(putMessage(putText(nil, 1, "e"), 2, putText(nil, 1, "x")), 3, 0)), Request{Type: Event, Event: "e", HasAck: true, Data: text8("x"), HasData: true})
	f(up(2, putMessage(putNumber(putText(nil, 1, "s1"), 2, 1), 3, putText(nil, 1, "x"))), Request{Type: StreamData, StreamID: "s1", StreamSeq: 1, HasStreamSeq: true, Data: text8("x"), HasData: true})
	f(up(2, putText(nil, 1, "s1")), Request{Type: StreamData, StreamID: "s1"})
	f(up(3, putText(nil, 1, "s1")), Request{Type: StreamEnd, StreamID: "s1"})
	f(up(3, putMessage(putText(nil, 1, "s1"), 2, putText(putText(nil, 1, "gave up"), 2, "E7"))), Request{Type: StreamEnd, StreamID: "s1", EndError: &hub.StreamError{Message: "gave up", UserCode: "E7"}})

	no := func(p []byte) {
		t.Helper()
		var r Request
		refused(t, c.Decode(false, p, &r), socket.InvalidPayload)
	}
	no(nil)
	no(unhex("FF"))
	no(unhex("32 09 0A 04 72 6F 6F 6D 10 00"))
	no(unhex("32 00"))                                           // no group
	no(unhex("32 03 0A 01 FF"))                                  // not UTF-8
	no(unhex("98 06 01"))                                        // a field of a later version only
	no(up(0, putText(nil, 1, "g")))                              // no data
	no(up(0, send(nil)))                                         // data of no kind
	no(up(0, send([]byte{0x80})))                                // truncated
	no(up(0, send(putText(nil, 4, `1},"from":"server","x":{`)))) // would break out of frames of JSON
	no(up(0, send(putText(nil, 4, " null"))))
	no(up(0, putNumber(send(putText(nil, 1, "")), 5, 301)))
	no(up(0, putMessage(send(putText(nil, 1, "")), 6, putText(putText(nil, 1, "k"), 2, "a\n"))))
	no(up(0, putMessage(putText(nil, 1, "g"), 7, putNumber(putText(nil, 1, "s"), 2, 0))))
	no(up(1, putMessage(putText(nil, 1, "9"), 2, putText(nil, 1, "x"))))
	no(up(1, putText(nil, 1, "e")))
	var r Request
	refused(t, c.Decode(true, unhex("4A 00"), &r), socket.UnsupportedData)
}

func TestEncodeProtobuf(t *testing.T) {
	plain, reliable := codec(t, Protobuf), codec(t, ReliableProtobuf)
	f := func(b []byte, want string) {
		t.Helper()
		if b[0] != 0x82 || !reflect.DeepEqual(socket.Payload(b), unhex(want)) {
			t.Errorf("got  %x\nwant %s", socket.Payload(b), want)
		}
	}
	group := &hub.Message{Group: "g", User: "alice", Data: text8("hi")}
	f(sent(plain, group, 0), "12 10 0A 05 67 72 6F 75 70 12 01 67 1A 04 0A 02 68 69")
	f(sent(reliable, group, 7), "12 12 0A 05 67 72 6F 75 70 12 01 67 1A 04 0A 02 68 69 20 07")
	f(sent(plain, &hub.Message{Data: hub.Data{Kind: hub.JSON, Bytes: []byte("3")}}, 0), "12 0D 0A 06 73 65 72 76 65 72 1A 03 22 01 33")
	f(sent(plain, &hub.Message{Data: hub.Data{Kind: hub.Binary}}, 0), "12 0C 0A 06 73 65 72 76 65 72 1A 02 12 00")
	f(sent(plain, &hub.Message{Data: hub.Data{Kind: hub.Protobuf, Bytes: []byte{10, 1, 'a'}}}, 0), "12 0F 0A 06 73 65 72 76 65 72 1A 05 1A 03 0A 01 61")
	f(sent(plain, &hub.Message{Data: hub.Data{Kind: hub.Protobuf, Bytes: []byte{0xff}}}, 0), "12 0D 0A 06 73 65 72 76 65 72 1A 03 12 01 FF")
	f(sent(plain, &hub.Message{Group: "g", Data: text8("x"), Metadata: map[string]string{"k": "v"}, Stream: &hub.Fragment{ID: "s", Seq: 2, End: true, Error: &hub.StreamError{Name: "N", Message: "m", UserCode: "u"}}}, 0),
		"12 2B 0A 05 67 72 6F 75 70 12 01 67 1A 03 0A 01 78 2A 06 0A 01 6B 12 01 76 32 12 0A 01 73 10 02 18 01 22 09 0A 01 4E 12 01 6D 1A 01 75")
	if plain.Encode(&hub.Message{Group: "g", States: &hub.States{}}) != nil || Simple.Encode(&hub.Message{Group: "g", States: &hub.States{}}) != nil {
		t.Error("group states have no form here")
	}
	f(plain.Pong(nil), "22 00")
	f(plain.Ack(nil, 1, nil), "0A 04 08 01 10 01")
	f(plain.Ack(nil, 2, &hub.Error{Name: "F", Message: "m"}), "0A 0A 08 02 1A 06 0A 01 46 12 01 6D")
	f(plain.Connected(nil, "alice", "abc", ""), "1A 0E 0A 0C 0A 03 61 62 63 12 05 61 6C 69 63 65")
	f(reliable.Connected(nil, "", "abc", "t"), "1A 0A 0A 08 0A 03 61 62 63 1A 01 74")
	f(plain.Disconnected(nil, "x"), "1A 05 12 03 12 01 78")
	f(plain.StreamAck(nil, "s1", 1), "32 06 0A 02 73 31 10 01")
	f(plain.StreamNack(nil, "s1", 3, "N", "m"), "3A 0C 0A 02 73 31 12 01 4E 1A 01 6D 20 03")
	f(plain.StreamClosed(nil, "s1", nil), "42 04 0A 02 73 31")
	f(plain.StreamClosed(nil, "s1", &hub.StreamError{Name: "N", Message: "m"}), "42 0C 0A 02 73 31 12 06 0A 01 4E 12 01 6D")
}

func TestSimple(t *testing.T) {
	f := func(d hub.Data, op byte, want string) {
		t.Helper()
		if b := sent(Simple, &hub.Message{Group: "g", Data: d}, 0); b[0] != op || string(socket.Payload(b)) != want {
			t.Errorf("%x %q", b[0], socket.Payload(b))
		}
	}
	f(text8("hi"), 0x81, "hi")
	f(text8("\xff"), 0x81, "\uFFFD")
	f(hub.Data{Kind: hub.JSON, Bytes: []byte(`{ "a" : 1.0 }`)}, 0x81, `{ "a" : 1.0 }`)
	f(hub.Data{Kind: hub.Binary, Bytes: []byte{0xff}}, 0x82, "\xff")
	f(hub.Data{Kind: hub.Protobuf, Bytes: []byte{10, 1, 'a'}}, 0x82, "\n\x01a")
}

// through sends what was read to clients of every protocol.
func through(t *testing.T, r *Request) {
	if !r.HasData {
		return
	}
	m := &hub.Message{Group: r.Group, Data: r.Data, Metadata: r.Metadata}
	for _, name := range []string{JSON, ReliableJSON} {
		c, _ := For(name)
		if b := socket.Payload(sent(c, m, 1)); !json.Valid(b) || !utf8.Valid(b) {
			t.Fatalf("%q", b)
		}
	}
	c, _ := For(ReliableProtobuf)
	if err := fields(socket.Payload(sent(c, m, 1)), func(protowire.Number, uint64, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	sent(Simple, m, 0)
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"type":"sendToGroup","group":"g","ackId":0,"noEcho":true,"dataType":"text","data":"hi","metadata":{"a":"b"}}`, `{"type":"event","event":"e","data":{"x":[1,null]}}`,
		`{"type":"streamData","streamId":"s","streamSequenceId":1,"dataType":"binary","data":"AAEC"}`, `{"type":"setGroupState","group":"g","state":{"a":"b"}}`, `{"type":"sequenceAck","sequenceId":42}`,
		`{"type":"sendToGroup","group":"g","stream":{"streamId":"s1","idleTimeoutMs":60000}}`} {
		f.Add(true, []byte(s))
	}
	f.Add(false, []byte{0xff})
	c := codec(f, JSON)
	f.Fuzz(func(t *testing.T, isText bool, p []byte) {
		var r Request
		if err := c.Decode(isText, p, &r); err != nil {
			refused(t, err, 0)
			return
		}
		through(t, &r)
	})
}

func FuzzProtobuf(f *testing.F) {
	for _, s := range []string{"32080A04726F6F6D1000", "0A0A0A01671A050A0361626C", "0A0D0A01671A0822067B2261223A317D", "2A080A01651A030A0178", "6A0A0A02733110011A020A00", "720A0A027331120408011200"} {
		f.Add(unhex(s))
	}
	c := codec(f, Protobuf)
	f.Fuzz(func(t *testing.T, p []byte) {
		var r Request
		if err := c.Decode(false, p, &r); err != nil {
			refused(t, err, 0)
			return
		}
		through(t, &r)
	})
}

var sample = &hub.Message{Group: "plant1/line2", User: "alice", Data: hub.Data{Kind: hub.JSON, Bytes: []byte(`{"temperature":21.5,"at":1760000000000,"quality":"good","device":"press-17"}`)}}

func TestAppendAllocates(t *testing.T) {
	dst := make([]byte, 0, 4096)
	for _, name := range []string{JSON, ReliableJSON, Protobuf, ReliableProtobuf} {
		c := codec(t, name)
		shared := c.Encode(sample)
		if n := testing.AllocsPerRun(100, func() { c.Append(dst, shared, 123456) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{JSON, ReliableJSON, Protobuf, ReliableProtobuf} {
		c := codec(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Encode(sample)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	dst := make([]byte, 0, 4096)
	for _, name := range []string{JSON, ReliableJSON, Protobuf, ReliableProtobuf} {
		c := codec(b, name)
		shared := c.Encode(sample)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Append(dst, shared, 123456)
			}
		})
	}
}
