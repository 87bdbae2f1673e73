package e2e

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/encoding/protowire"
)

// A protoField is one of a protobuf message: a number, or bytes.
type protoField struct {
	number protowire.Number
	value  uint64
	bytes  []byte
}

// fields reads a message of numbers and bytes only.
func fields(t *testing.T, m []byte) []protoField {
	t.Helper()
	var all []protoField
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			t.Fatalf("a bad tag in %x", m)
		}
		m = m[n:]
		f := protoField{number: number}
		switch kind {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(m)
		default:
			t.Fatalf("field %d has type %d", number, kind)
		}
		if n < 0 {
			t.Fatalf("field %d is cut", number)
		}
		m = m[n:]
		all = append(all, f)
	}
	return all
}

// sole returns the single field of a message, which must have this number.
func sole(t *testing.T, m []byte, number protowire.Number) []byte {
	t.Helper()
	all := fields(t, m)
	if len(all) != 1 || all[0].number != number {
		t.Fatalf("message %x has %v, want field %d", m, all, number)
	}
	return all[0].bytes
}

// pb makes a field that holds bytes, or a text, or a message.
func pb[T []byte | string](number protowire.Number, value T) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), []byte(value))
}

func pbInt(number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), value)
}

// C# speaks protobuf as well; its class throws on anything but acks, data and system.
func sdkProtobuf(t *testing.T, p *pubsub) {
	s := p.dial("access_token="+p.grant("alice"), "protobuf.webpubsub.azure.v1")
	read := func() []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		kind, data, err := s.ws.Read(ctx)
		if err != nil || kind != websocket.MessageBinary {
			t.Fatalf("%v %v", kind, err)
		}
		return data
	}
	write := func(parts ...[]byte) {
		t.Helper()
		if err := s.ws.Write(t.Context(), websocket.MessageBinary, bytes.Join(parts, nil)); err != nil {
			t.Fatal(err)
		}
	}
	connected := fields(t, sole(t, sole(t, read(), 3), 1))
	if len(connected) != 2 || connected[0].number != 1 || string(connected[1].bytes) != "alice" {
		t.Errorf("connected has %v", connected)
	}
	write([]byte{0x32, 0x08, 0x0a, 0x04, 'r', 'o', 'o', 'm', 0x10, 0x00}) // join "room", ackId 0
	ack := func(id uint64) {
		t.Helper()
		f := map[protowire.Number]protoField{}
		for _, x := range fields(t, sole(t, read(), 1)) {
			f[x.number] = x
		}
		if f[1].value != id || f[2].value != 1 || f[3].bytes != nil {
			t.Errorf("ack of %d is %v", id, f)
		}
	}
	ack(0)
	other, _ := p.open("bob", jsonProtocol)
	other.send(`{"type":"joinGroup","group":"room","ackId":1}`)
	other.reads(`{"type":"ack","ackId":1,"success":true}`)
	anyValue := slices.Concat(pb(1, "a/b"), pb(2, []byte{8, 1}))
	for i, c := range []struct {
		data []byte
		want string
	}{
		{pb(1, "hé"), `"dataType":"text","data":"hé"`}, {pb(2, []byte{0, 1, 2}), `"dataType":"binary","data":"AAEC"`},
		{pb(3, anyValue), `"dataType":"protobuf","data":"CgNhL2ISAggB"`}, {pb(4, `{"a": 1}`), `"dataType":"json","data":{"a": 1}`},
	} {
		id := uint64(i + 1)
		write(pb(1, slices.Concat(pb(1, "room"), pbInt(2, id), pb(3, c.data), pbInt(4, 1))))
		ack(id)
		other.reads(`{"type":"message","from":"group","group":"room","fromUserId":"alice",` + c.want + `}`)
		write(pb(1, slices.Concat(pb(1, "room"), pb(3, c.data)))) // with echo, without ack
		f := map[protowire.Number]protoField{}
		for _, x := range fields(t, sole(t, read(), 2)) {
			f[x.number] = x
		}
		if string(f[1].bytes) != "group" || string(f[2].bytes) != "room" || !bytes.Equal(f[3].bytes, c.data) {
			t.Errorf("the message is %v", f)
		}
		other.frame()
	}
	other.send(`{"type":"sendToGroup","group":"room","noEcho":true,"data":[1, 2]}`)
	if f := fields(t, sole(t, read(), 2)); !bytes.Equal(f[2].bytes, pb(4, `[1, 2]`)) {
		t.Errorf("JSON comes as %v", f)
	}
	write(pb(9, "")) // ping
	if pong := sole(t, read(), 4); len(pong) != 0 {
		t.Errorf("pong is %x", pong)
	}
	p.wants(204, "", "POST", p.path("/users/alice/:closeConnections?reason=x"), "", "")
	if text := sole(t, sole(t, sole(t, read(), 3), 2), 2); string(text) != "Application server closed the connection. Reason: x" {
		t.Errorf("disconnected says %q", text)
	}
	for _, bad := range []struct {
		kind  websocket.MessageType
		frame string
		want  websocket.StatusCode
	}{{websocket.MessageText, "{}", websocket.StatusUnsupportedData}, {websocket.MessageBinary, "", websocket.StatusInvalidFramePayloadData}, {websocket.MessageBinary, "\xff", websocket.StatusInvalidFramePayloadData}} {
		b := p.dial("access_token="+p.grant("bad"), "protobuf.reliable.webpubsub.azure.v1")
		if err := b.ws.Write(t.Context(), bad.kind, []byte(bad.frame)); err != nil {
			t.Fatal(err)
		}
		if got := b.closes(); got != bad.want {
			t.Errorf("%q: closed with %d, want %d", bad.frame, got, bad.want)
		}
	}
}

// The chat SDKs bring both roles of group state in every token, and invoke right after start.
func sdkChat(t *testing.T, p *pubsub) {
	chat := func(user string, roles ...string) *socket {
		t.Helper()
		s := p.dial("access_token="+token(plainHeader, claims{"aud": p.http + "/client/hubs/" + p.hub, "exp": unix(time.Hour), "sub": user, "webpubsub.group": "room", "role": roles}), reliableProtocol)
		s.id, _ = s.frame()["connectionId"].(string)
		return s
	}
	const get, set = "webpubsub.getGroupState", "webpubsub.setGroupState"
	a, b, weak := chat("alice", get, set), chat("bob", get, set), chat("weak")
	a.send(`{"type":"setGroupState","group":"room","ackId":1,"state":{"typing":"yes"}}`)
	a.reads(`{"type":"ack","ackId":1,"success":true}`)
	b.send(`{"type":"subscribeGroupState","group":"room","ackId":1}`)
	b.reads(`{"type":"ack","ackId":1,"success":true}`)
	// item reads a frame with one item, of alice.
	item := func(kind string) map[string]any {
		t.Helper()
		f := b.frame()
		items, _ := f["items"].([]any)
		if f["type"] != kind || f["group"] != "room" || len(items) != 1 {
			t.Fatalf("frame is %v, want a %s of one", f, kind)
		}
		i := items[0].(map[string]any)
		if i["connectionId"] != a.id || i["userId"] != "alice" {
			t.Errorf("item is %v", i)
		}
		if at, _ := i["updatedAt"].(float64); time.Since(time.UnixMilli(int64(at))).Abs() > time.Minute {
			t.Errorf("updatedAt is %v", i["updatedAt"])
		}
		return i
	}
	if i := item("groupStateSnapshot"); fmt.Sprint(i["state"]) != "map[typing:yes]" {
		t.Errorf("snapshot has %v", i)
	}
	a.send(`{"type":"setGroupState","group":"room","ackId":2,"state":{"x":"1","y":"2"}}`)
	a.reads(`{"type":"ack","ackId":2,"success":true}`)
	if i := item("groupStateUpdate"); fmt.Sprint(i["state"]) != "map[x:1 y:2]" {
		t.Errorf("update has %v", i)
	}
	a.send(`{"type":"setGroupState","group":"room","ackId":3,"state":{"x":"` + strings.Repeat("x", 512) + `"}}`)
	if f := a.frame(); f["success"] != false || !strings.Contains(fmt.Sprint(f["error"]), "BadRequest") {
		t.Errorf("too much state: %v", f)
	}
	a.send(`{"type":"setGroupState","group":"elsewhere","ackId":4,"state":{}}`)
	a.reads(`{"type":"ack","ackId":4,"success":false,"error":{"name":"Forbidden","message":"Not a member of group."}}`)
	weak.send(`{"type":"setGroupState","group":"room","ackId":1,"state":{}}`, `{"type":"subscribeGroupState","group":"room","ackId":2}`)
	for range 2 {
		if f := weak.frame(); f["success"] != false || !strings.Contains(fmt.Sprint(f["error"]), "Permission denied.") {
			t.Errorf("without the roles: %v", f)
		}
	}
	a.ws.Close(websocket.StatusNormalClosure, "")
	if i := item("groupStateUpdate"); i["state"] != nil {
		t.Errorf("of one that has gone: %v", i)
	}
	b.send(`{"type":"unsubscribeGroupState","group":"room","ackId":2}`)
	b.reads(`{"type":"ack","ackId":2,"success":true}`)
	b.send(`{"type":"setGroupState","group":"room","ackId":3,"state":{"a":"b"}}`)
	b.reads(`{"type":"ack","ackId":3,"success":true}`)
	b.send(`{"type":"invoke","invocationId":"1","target":"event","event":"chat.login","dataType":"text","data":""}`)
	f := b.frame()
	fault, _ := f["error"].(map[string]any)
	if f["type"] != "invokeResponse" || f["invocationId"] != "1" || f["success"] != false || fault["name"] == nil || fault["message"] == nil {
		t.Errorf("an invocation that nobody takes: %v", f)
	}
}
