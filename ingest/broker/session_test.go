package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/devices/catalog"
)

func kept(c *paho.Connect) {
	expiry := uint32(1000)
	c.CleanStart = false
	c.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
}

func (c *client5) mustSubscribe(t *testing.T, filter string) {
	t.Helper()
	if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
}

func (c *client5) mustPublish(t *testing.T, topic, payload string, retain bool) {
	t.Helper()
	if _, err := c.Publish(t.Context(), &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload), Retain: retain}); err != nil {
		t.Fatal(err)
	}
}

func TestWrongPassword(t *testing.T) {
	s := start(t, nil)
	wrong := func(pk *packets.Packet) { pk.Connect.Password = []byte("wrong") }
	f := func(version byte, code byte) {
		t.Helper()
		if ack := s.raw(version).sign("press-7", wrong); ack.FixedHeader.Type != packets.Connack || ack.ReasonCode != code {
			t.Errorf("version %d: %+v", version, ack)
		}
	}
	f(5, packets.ErrBadUsernameOrPassword.Code)
	f(4, 4)
	s.raw(5).sign("nobody", nil)
	if got := s.intake.kinds(); !slices.Equal(got, []string{"press-7 auth", "press-7 auth", " auth"}) {
		t.Errorf("recorded %q", got)
	}
	if n := s.Stats().AuthFailures; n != 3 {
		t.Errorf("%d failures", n)
	}
}

func TestThrottle(t *testing.T) {
	s := start(t, func(c *Config) { c.AuthFailures = 2 })
	for range 2 {
		s.raw(5).sign("nobody", nil)
	}
	if ack := s.raw(5).sign("press-7", nil); ack.ReasonCode != packets.ErrConnectionRateExceeded.Code {
		t.Errorf("reason %#x", ack.ReasonCode)
	}
	if ack := s.raw(4).sign("press-7", nil); ack.ReasonCode != packets.Err3ServerUnavailable.Code {
		t.Errorf("return code %#x", ack.ReasonCode)
	}
}

func TestSubscribeElsewhere(t *testing.T) {
	s := start(t, nil)
	f := func(version byte, filter string, code byte) {
		t.Helper()
		r := s.raw(version)
		r.sign("press-7", nil)
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: filter, Qos: 1}}})
		if ack := r.next(); !slices.Equal(ack.ReasonCodes, []byte{code}) {
			t.Errorf("%s: %x", filter, ack.ReasonCodes)
		}
	}
	for _, filter := range []string{"#", "devices/#", "devices/+/telemetry", "devices/press-70/#", "$SYS/#", "$share/x/devices/+/telemetry", "$SHARE/x/#", "devices/press-7"} {
		f(5, filter, packets.ErrNotAuthorized.Code)
		f(4, filter, packets.ErrUnspecifiedError.Code)
	}
	f(5, "devices/press-7/#", 1)
	f(5, "devices/press-7/+/x", 1)
	f(5, "$share/x/devices/press-7/#", 1)
}

func TestForeignWill(t *testing.T) {
	s := start(t, nil)
	_, err := s.connect5("press-7", "a", func(c *paho.Connect) {
		c.WillMessage = &paho.WillMessage{Topic: "devices/press-8/telemetry", Payload: []byte("1")}
	})
	if err == nil {
		t.Error("taken")
	}
}

func TestWill(t *testing.T) {
	s := start(t, nil)
	watcher := s.must5("press-7", "watcher", nil)
	watcher.mustSubscribe(t, "devices/press-7/#")
	dying := func(id string, delay uint32) *client5 {
		expiry := uint32(100)
		return s.must5("press-7", id, func(c *paho.Connect) {
			c.WillMessage = &paho.WillMessage{Topic: "devices/press-7/telemetry/online", Payload: []byte(id), QoS: 1}
			c.WillProperties = &paho.WillProperties{WillDelayInterval: &delay}
			c.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
		})
	}
	_ = dying("now", 0).conn.Close()
	_ = dying("later", 1).conn.Close()
	if err := dying("never", 0).Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"devices/press-7/telemetry/online now", "devices/press-7/telemetry/online later"}
	eventually(t, "wills", func() bool { return len(watcher.received()) >= len(want) })
	if got := watcher.received(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	eventually(t, "wills as measurements", func() bool {
		return slices.Equal(s.intake.got(), []string{"press-7 online now", "press-7 online later"})
	})
}

func TestTakeOver(t *testing.T) {
	s := start(t, nil)
	other := s.must5("press-8", "same", kept)
	first := s.must5("press-7", "same", kept)
	first.mustSubscribe(t, "devices/press-7/x")
	second := s.must5("press-7", "same", kept)
	if !second.connack.SessionPresent {
		t.Error("no session")
	}
	<-first.closed
	if r := first.reason(); r != int(packets.ErrSessionTakenOver.Code) {
		t.Errorf("reason %#x", r)
	}
	second.mustPublish(t, "devices/press-7/x", "1", false)
	eventually(t, "the message", func() bool { return len(second.received()) == 1 })
	other.mustPublish(t, "devices/press-8/x", "still here", false) // the same identifier of another device is another client
}

func TestRevoked(t *testing.T) {
	s := start(t, nil)
	f := func(id devices.ID, change func(*catalog.DeviceRecord)) {
		t.Helper()
		c := s.must5(string(id), "a", kept)
		four := s.raw(4)
		four.sign(string(id), nil)
		stays := s.must5("press-70", string(id), nil)
		s.change(id, change)
		<-c.closed
		if r := c.reason(); r != int(packets.ErrNotAuthorized.Code) {
			t.Errorf("reason %#x", r)
		}
		four.want(0, 0, 0)
		if _, err := s.connect5(string(id), "a", nil); err == nil {
			t.Error("let in again")
		}
		stays.mustPublish(t, "devices/press-70/telemetry", "1", false)
	}
	f("press-7", func(r *catalog.DeviceRecord) { r.State = devices.Disabled })
	f("press-8", func(r *catalog.DeviceRecord) { r.Credentials = nil })
}

func TestDeletedDeviceIsForgotten(t *testing.T) {
	s := start(t, nil)
	c := s.must5("press-7", "a", kept)
	c.mustSubscribe(t, "devices/press-7/x")
	c.mustPublish(t, "devices/press-7/config", "old", true)
	s.store.mu.Lock()
	delete(s.store.records, "press-7")
	s.store.mu.Unlock()
	if err := s.cat.Refresh(t.Context(), catalog.Change{Topic: catalog.DevicesChanged, Devices: []devices.ID{"press-7"}}); err != nil {
		t.Fatal(err)
	}
	<-c.closed
	eventually(t, "session and retained message to go", func() bool {
		st := s.Stats()
		return st.Sessions == 0 && s.server.Topics.Retained.Len() == len(s.server.Topics.Messages("$SYS/#"))
	})
}

func TestRestartKeepsSessions(t *testing.T) {
	dir := t.TempDir()
	inDir := func(c *Config) { c.Dir = dir }
	s := start(t, inDir)
	c := s.must5("press-7", "sub", kept)
	c.mustSubscribe(t, "devices/press-7/queue/#")
	_ = c.conn.Close()
	pub := s.must5("press-7", "pub", nil)
	pub.mustPublish(t, "devices/press-7/config", "on", true)
	pub.mustPublish(t, "devices/press-7/config2", "gone", true)
	pub.mustPublish(t, "devices/press-7/config2", "", true)
	var want []string
	for _, n := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"} {
		pub.mustPublish(t, "devices/press-7/queue/a", n, false)
		want = append(want, "devices/press-7/queue/a "+n)
	}
	half := s.raw(5) // a QoS 2 message without PUBREL
	half.sign("press-8", nil)
	m := publishPacket("devices/press-8/telemetry", "once", 2, 7)
	half.send(m)
	half.want(packets.Pubrec, 7, 0)

	s.stop()
	<-pub.closed
	if r := pub.reason(); r != int(packets.ErrServerShuttingDown.Code) {
		t.Errorf("reason %#x", r)
	}
	s.run(inDir)
	c = s.must5("press-7", "sub", kept)
	if !c.connack.SessionPresent {
		t.Fatal("no session")
	}
	eventually(t, "queued messages", func() bool { return len(c.received()) >= len(want) })
	if got := c.received(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.mustSubscribe(t, "devices/press-7/#")
	eventually(t, "the retained message", func() bool { return slices.Contains(c.received(), "retained devices/press-7/config on") })
	if slices.Contains(c.received(), "retained devices/press-7/config2 gone") {
		t.Error("a cleared message came back")
	}
	half = s.raw(5)
	half.sign("press-8", nil)
	m.FixedHeader.Dup = true
	half.send(m)
	half.want(packets.Pubrec, 7, 0)
	if got := s.intake.got(); !slices.Equal(got, []string{"press-8  once"}) {
		t.Errorf("taken %q", got)
	}
}

func TestQueueKeepsReceiveMaximum(t *testing.T) {
	s := start(t, nil)
	const filter = "devices/press-7/x"
	r := s.raw(5)
	limit := func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 2 }
	r.sign("press-7", limit)
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: filter, Qos: 1}}})
	r.next()
	_ = r.c.Close()
	pub := s.must5("press-7", "pub", nil)
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		pub.mustPublish(t, filter, n, false)
	}
	r = s.raw(5)
	r.sign("press-7", limit)
	var ids []uint16
	take := func(payload string) {
		t.Helper()
		pk := r.next()
		if pk.FixedHeader.Type != packets.Publish || string(pk.Payload) != payload {
			t.Fatalf("got type %d %q, want %q", pk.FixedHeader.Type, pk.Payload, payload)
		}
		ids = append(ids, pk.PacketID)
	}
	take("1")
	take("2")
	_ = r.c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := r.r.Peek(1); err == nil {
		t.Fatal("more than Receive Maximum")
	}
	for _, next := range []string{"3", "4", "5"} {
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: ids[0]})
		ids = ids[1:]
		take(next)
	}
}

// Packet identifiers of the two directions have nothing to do with each other (MQTT 5.0, 2.2.1): a SUBSCRIBE may have that of a
// message that is under way to the client.
func TestSubscribeBesideQueue(t *testing.T) {
	s := start(t, nil)
	const filter = "devices/press-7/x"
	filters := packets.Subscriptions{{Filter: filter, Qos: 1}}
	for _, version := range []byte{4, 5} {
		r := s.raw(version)
		fresh := func(pk *packets.Packet) { pk.Connect.Clean = true }
		if version < 5 {
			fresh = nil
		}
		r.sign("press-7", fresh)
		subscribe := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: filters}
		r.send(subscribe)
		r.want(packets.Suback, 1, 0)
		_ = r.c.Close()
		s.must5("press-7", "pub", nil).mustPublish(t, filter, "1", false)

		r = s.raw(version)
		if ack := r.sign("press-7", nil); !ack.SessionPresent {
			t.Fatal("no session")
		}
		id := r.next().PacketID
		subscribe.PacketID = id
		r.send(subscribe)
		if ack := r.want(packets.Suback, id, 0); !slices.Equal(ack.ReasonCodes, []byte{1}) {
			t.Errorf("version %d: SUBACK %#x", version, ack.ReasonCodes)
		}
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: id, Filters: filters})
		if ack := r.want(packets.Unsuback, id, 0); version == 5 && !slices.Equal(ack.ReasonCodes, []byte{0}) {
			t.Errorf("version %d: UNSUBACK %#x", version, ack.ReasonCodes)
		}
		if _, there := s.server.Topics.Subscribers(filter).Subscriptions["press-7/raw"]; there {
			t.Errorf("version %d: still subscribed", version)
		}
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id})
		_ = r.c.Close()
	}
}
