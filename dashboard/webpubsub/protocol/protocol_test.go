package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"millrace/dashboard/socket"
	"millrace/fanout/hub"
)

func codec(t testing.TB, name string) Codec {
	t.Helper()
	c, ok := For(strings.ToUpper(name))
	if !ok {
		t.Fatal("no codec ", name)
	}
	return c
}

func data(kind hub.Kind, s string) hub.Data { return hub.Data{Kind: kind, Bytes: []byte(s)} }

func TestDecodeJSON(t *testing.T) {
	c := codec(t, JSON)
	for frame, want := range map[string]Request{
		`{"type":"joinGroup","group":"room-1","ackId":0}`:                                                             {Type: JoinGroup, Group: "room-1", HasAck: true},
		`{"ackId":null,"group":"room-1","extra":[1],"type":"LEAVEGROUP"}`:                                             {Type: LeaveGroup, Group: "room-1"},
		`{"type":"sendToGroup","group":"g","ackId":18446744073709551615,"noEcho":true,"dataType":"Text","data":"hi"}`: {Type: SendToGroup, Group: "g", AckID: 1<<64 - 1, HasAck: true, NoEcho: true, Data: data(hub.Text, "hi"), HasData: true},
		`{"type":"sendToGroup","group":"g","data":{"x": 1.0}}`:                                                        {Type: SendToGroup, Group: "g", Data: data(hub.JSON, `{"x": 1.0}`), HasData: true},
		`{"type":"sendToGroup","group":"g","dataType":"binary","data":"AAEC"}`:                                        {Type: SendToGroup, Group: "g", Data: data(hub.Binary, "\x00\x01\x02"), HasData: true},
		`{"type":"sendToGroup","group":"g","dataType":"Protobuf","data":"AAEC","ttlSeconds":5,"metadata":{"a":"b"}}`:  {Type: SendToGroup, Group: "g", Data: data(hub.Protobuf, "\x00\x01\x02"), HasData: true, TTL: 5 * time.Second, Metadata: map[string]string{"a": "b"}},
		`{"type":"sendToGroup","group":"g","metadata":{"a":"b"}}`:                                                     {Type: SendToGroup, Group: "g", Data: data(hub.Text, ""), HasData: true, Metadata: map[string]string{"a": "b"}},
		`{"type":"event","event":"order.placed","ackId":4,"dataType":"json","data":"x"}`:                              {Type: Event, Event: "order.placed", AckID: 4, HasAck: true, Data: data(hub.JSON, `"x"`), HasData: true},
		`{"type":"ping"}`:                        {Type: Ping},
		`{"type":"sequenceAck","sequenceId":42}`: {Type: SequenceAck, Sequence: 42},
		`{"type":"invoke","invocationId":"1","target":"event","event":"sum","data":[1]}`:            {Type: Invoke, InvocationID: "1", Event: "sum", Data: data(hub.JSON, "[1]"), HasData: true},
		`{"type":"cancelInvocation","invocationId":"1"}`:                                            {Type: CancelInvocation, InvocationID: "1"},
		`{"type":"sendToGroup","group":"g","stream":{"streamId":"s1","idleTimeoutMs":60000}}`:       {Type: SendToGroup, Group: "g", Stream: &StreamStart{"s1", time.Minute}},
		`{"type":"streamData","streamId":"s1","streamSequenceId":1,"dataType":"text","data":"one"}`: {Type: StreamData, StreamID: "s1", StreamSeq: 1, HasStreamSeq: true, Data: data(hub.Text, "one"), HasData: true},
		`{"type":"streamData","streamId":"s1"}`:                                                     {Type: StreamData, StreamID: "s1"},
		`{"type":"streamEnd","streamId":"s1","error":{"message":"gave up","userErrorCode":"E7"}}`:   {Type: StreamEnd, StreamID: "s1", EndError: &hub.StreamError{Message: "gave up", UserCode: "E7"}},
		`{"type":"setGroupState","group":"g","ackId":5,"state":{"typing":"yes"}}`:                   {Type: SetGroupState, Group: "g", AckID: 5, HasAck: true, State: map[string]string{"typing": "yes"}},
		`{"type":"subscribeGroupState","group":"g","ackId":6}`:                                      {Type: SubscribeGroupState, Group: "g", AckID: 6, HasAck: true},
		`{"type":"unsubscribeGroupState","group":"g"}`:                                              {Type: UnsubscribeGroupState, Group: "g"},
	} {
		var r Request
		if err := c.Decode(true, []byte(frame), &r); err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", frame, r, err, want)
		}
	}
}

// encoded is the payload of a message to a connection.
func encoded(c hub.Encoder, m *hub.Message, seq uint64) string {
	return string(socket.Payload(c.Append(nil, c.Encode(m), seq)))
}

func TestEncodeJSON(t *testing.T) {
	for _, c := range []struct {
		m    *hub.Message
		want string
	}{
		{&hub.Message{Group: "room-1", User: "alice", Data: data(hub.Text, "hi")}, `"type":"message","from":"group","group":"room-1","fromUserId":"alice","dataType":"text","data":"hi"}`},
		{&hub.Message{Data: data(hub.JSON, `{"hello": 1.0}`)}, `"type":"message","from":"server","dataType":"json","data":{"hello": 1.0}}`},
		{&hub.Message{Group: "g", Data: data(hub.Binary, "\x00\x01\x02"), Metadata: map[string]string{"b": "2", "a": "<"}}, `"type":"message","from":"group","group":"g","dataType":"binary","data":"AAEC","metadata":{"a":"<","b":"2"}}`},
		{&hub.Message{Group: "g", Data: data(hub.Protobuf, "\x00"), Stream: &hub.Fragment{ID: "s", Seq: 2, End: true, Error: &hub.StreamError{Name: "UserError", Message: "gave up", UserCode: "E7"}}},
			`"type":"message","from":"group","group":"g","dataType":"protobuf","data":"AA==","stream":{"streamId":"s","streamSequenceId":2,"endOfStream":true,"error":{"name":"UserError","message":"gave up","userErrorCode":"E7"}}}`},
		{&hub.Message{Group: "g", States: &hub.States{Snapshot: true, Items: []hub.State{{Connection: "c", User: "u", State: map[string]string{"x": "y"}, Updated: 7}}}}, `"type":"groupStateSnapshot","group":"g","items":[{"connectionId":"c","userId":"u","state":{"x":"y"},"updatedAt":7}]}`},
		{&hub.Message{Group: "g", States: &hub.States{Items: []hub.State{{Connection: "c", Updated: 8}}}}, `"type":"groupStateUpdate","group":"g","items":[{"connectionId":"c","updatedAt":8}]}`},
		{&hub.Message{Data: data(hub.Text, "quote \" é \u2028 \x01")}, `"type":"message","from":"server","dataType":"text","data":"quote \" é \u2028 \u0001"}`},
	} {
		if got := encoded(codec(t, JSON), c.m, 0); got != "{"+c.want {
			t.Errorf("got  %s\nwant {%s", got, c.want)
		}
		if got := encoded(codec(t, ReliableJSON), c.m, 12); got != `{"sequenceId":12,`+c.want || !json.Valid([]byte(got)) {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	j := codec(t, JSON)
	for got, want := range map[string]string{
		string(j.Connected(nil, "", "abc", "")):                                                        `{"type":"system","event":"connected","connectionId":"abc"}`,
		string(j.Connected(nil, "alice", "abc", "tok")):                                                `{"type":"system","event":"connected","userId":"alice","connectionId":"abc","reconnectionToken":"tok"}`,
		string(j.Disconnected(nil, "bye")):                                                             `{"type":"system","event":"disconnected","message":"bye"}`,
		string(j.Ack(nil, 0, nil)):                                                                     `{"type":"ack","ackId":0,"success":true}`,
		string(j.Ack(nil, 2, &hub.Error{Name: "Forbidden", Message: "no"})):                            `{"type":"ack","ackId":2,"success":false,"error":{"name":"Forbidden","message":"no"}}`,
		string(j.Pong(nil)):                                                                            `{"type":"pong"}`,
		string(j.InvokeResponse(nil, "1", &hub.Data{Kind: hub.JSON, Bytes: []byte("3")}, nil)):         `{"type":"invokeResponse","invocationId":"1","success":true,"dataType":"json","data":3}`,
		string(j.InvokeResponse(nil, "1", nil, &hub.Error{Name: "InternalServerError", Message: "x"})): `{"type":"invokeResponse","invocationId":"1","success":false,"error":{"name":"InternalServerError","message":"x"}}`,
		string(j.StreamAck(nil, "s1", 1)):                                                              `{"type":"streamAck","streamId":"s1","expectedSequenceId":1}`,
		string(j.StreamNack(nil, "s1", 3, "InvalidSequenceId", "expected 3")):                          `{"type":"streamNack","streamId":"s1","expectedSequenceId":3,"name":"InvalidSequenceId","message":"expected 3"}`,
		string(j.StreamClosed(nil, "s1", nil)):                                                         `{"type":"streamClosed","streamId":"s1"}`,
	} {
		if p := string(socket.Payload([]byte(got))); p != want {
			t.Errorf("got  %s\nwant %s", p, want)
		}
	}
}

func TestSimple(t *testing.T) {
	for _, k := range []hub.Kind{hub.Text, hub.JSON, hub.Binary, hub.Protobuf} {
		m := &hub.Message{Group: "g", Data: data(k, ` {"x" : 1}`)}
		b := Simple.Append(nil, Simple.Encode(m), 0)
		if string(socket.Payload(b)) != ` {"x" : 1}` || (b[0] == 0x81) != (k == hub.Text || k == hub.JSON) {
			t.Errorf("kind %d: %q", k, b)
		}
	}
	if Simple.Encode(&hub.Message{States: &hub.States{}}) != nil {
		t.Error("states are sent to simple clients")
	}
}

func TestProtobuf(t *testing.T) {
	c := codec(t, Protobuf)
	vector, _ := hex.DecodeString("32080a04726f6f6d1000")
	var r Request
	if err := c.Decode(false, vector, &r); err != nil || !reflect.DeepEqual(r, Request{Type: JoinGroup, Group: "room", HasAck: true}) {
		t.Errorf("got %+v, %v", r, err)
	}
	send := putText(nil, 1, "g")
	send = putNumber(send, 2, 1<<63)
	send = putMessage(send, 3, putText(nil, 4, `{"x":1}`))
	send = putNumber(send, 4, 1)
	send = putNumber(send, 5, 9)
	send = putMessage(send, 6, putText(putText(nil, 1, "k"), 2, "v"))
	want := Request{Type: SendToGroup, Group: "g", AckID: 1 << 63, HasAck: true, NoEcho: true, TTL: 9 * time.Second, Data: data(hub.JSON, `{"x":1}`), HasData: true, Metadata: map[string]string{"k": "v"}}
	if err := c.Decode(false, putMessage(nil, 1, send), &r); err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, c2 := range []struct {
		text  bool
		frame []byte
		code  socket.Code
	}{{true, vector, socket.UnsupportedData}, {false, nil, socket.InvalidPayload}, {false, vector[:5], socket.InvalidPayload}, {false, putMessage(nil, 6, nil), socket.InvalidPayload},
		{false, putMessage(nil, 1, putText(nil, 1, "g")), socket.InvalidPayload}, {false, putMessage(nil, 6, putText(nil, 1, "\xff")), socket.InvalidPayload}} {
		if e, ok := errors.AsType[*socket.CloseError](c.Decode(c2.text, c2.frame, &r)); !ok || e.Code != c2.code {
			t.Errorf("%x: %v", c2.frame, e)
		}
	}
	for _, name := range []string{Protobuf, ReliableProtobuf} {
		p := []byte(encoded(codec(t, name), &hub.Message{Group: "g", Data: data(hub.Binary, "\x00\x01")}, 300))
		n, kind, size := protowire.ConsumeTag(p)
		body, rest := protowire.ConsumeBytes(p[size:])
		if n != fieldData || kind != protowire.BytesType || size+rest != len(p) {
			t.Fatalf("%s: %x", name, p)
		}
		got := map[protowire.Number]any{}
		if err := fields(body, func(n protowire.Number, v uint64, b []byte) error {
			if got[n] = v; b != nil {
				got[n] = string(b)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := map[protowire.Number]any{1: "group", 2: "g", 3: "\x12\x02\x00\x01"}
		if name == ReliableProtobuf {
			want[4] = uint64(300)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"type":"joinGroup","group":"g","ackId":1}`, `{"type":"sendToGroup","group":"g","dataType":"binary","data":"AAEC","metadata":{"a":"b"}}`,
		`{"type":"streamData","streamId":"s","streamSequenceId":1,"data":1}`, `{"type":"sendToGroup","group":"g","data":" \ud800 "}`} {
		f.Add([]byte(s))
	}
	c := codec(f, JSON)
	f.Fuzz(func(t *testing.T, p []byte) {
		var r Request
		before := bytes.Clone(p)
		if err := c.Decode(true, p, &r); err != nil {
			if _, ok := errors.AsType[*socket.CloseError](err); !ok {
				t.Fatalf("%v is no close error", err)
			}
			return
		}
		if !bytes.Equal(p, before) {
			t.Fatal("the frame was changed")
		}
		if r.HasData && r.Type == SendToGroup { // what is taken can be sent
			m := &hub.Message{Group: r.Group, User: "u", Data: r.Data, Metadata: r.Metadata}
			if out := encoded(codec(t, ReliableJSON), m, 1); !json.Valid([]byte(out)) {
				t.Fatalf("%q became %q", p, out)
			}
			encoded(codec(t, ReliableProtobuf), m, 1)
		}
	})
}

func FuzzProtobuf(f *testing.F) {
	vector, _ := hex.DecodeString("32080a04726f6f6d1000")
	f.Add(vector)
	f.Add(putMessage(nil, 1, putMessage(putText(nil, 1, "g"), 3, putText(nil, 4, "1"))))
	f.Add(putMessage(nil, 13, putMessage(putNumber(putText(nil, 1, "s"), 2, 1), 3, putText(nil, 1, "x"))))
	c := codec(f, ReliableProtobuf)
	f.Fuzz(func(t *testing.T, p []byte) {
		var r Request
		if err := c.Decode(false, p, &r); err != nil {
			if _, ok := errors.AsType[*socket.CloseError](err); !ok {
				t.Fatalf("%v is no close error", err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	m := &hub.Message{Group: "group-1", User: "alice", Data: data(hub.Text, strings.Repeat("x", 200))}
	for _, name := range []string{JSON, ReliableJSON, Protobuf, ReliableProtobuf} {
		b.Run(name, func(b *testing.B) {
			c := codec(b, name)
			shared := c.Encode(m)
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = c.Append(dst[:0], shared, 123456)
			}
		})
	}
}
