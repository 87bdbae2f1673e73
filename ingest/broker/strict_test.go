package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestProtocolErrors(t *testing.T) {
	s := start(t, nil)
	f := func(what string, packet []byte) {
		t.Helper()
		r := s.raw(5)
		r.sign("press-7", nil)
		if _, err := r.c.Write(packet); err != nil {
			t.Fatal(err)
		}
		if pk := r.next(); pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrProtocolViolation.Code {
			t.Errorf("%s: got packet type %d, reason %#x", what, pk.FixedHeader.Type, pk.ReasonCode)
		}
	}
	filter := func(properties string, filter string, options byte) []byte {
		body := append([]byte{0, 1, byte(len(properties))}, properties...)
		body = append(append(append(body, 0, byte(len(filter))), filter...), options)
		return append([]byte{packets.Subscribe<<4 | 2, byte(len(body))}, body...)
	}
	f("no local on a shared filter", filter("", "$share/a/devices/press-7/x", 4))
	f("retain handling 3", filter("", "devices/press-7/x", 0x30))
	f("subscription identifier 0", filter("\x0b\x00", "devices/press-7/x", 0))
	f("two subscription identifiers", filter("\x0b\x01\x0b\x02", "devices/press-7/x", 0))
	f("CONNACK", []byte{packets.Connack << 4, 3, 0, 0, 0})
	f("SUBACK", []byte{packets.Suback << 4, 4, 0, 1, 0, 0})
	f("UNSUBACK", []byte{packets.Unsuback << 4, 4, 0, 1, 0, 0})
	f("PINGRESP", []byte{packets.Pingresp << 4, 0})
	f("AUTH", []byte{packets.Auth << 4, 2, 0x18, 0})
	f("response topic with a wildcard", append([]byte{packets.Publish << 4, 27, 0, 17}, "devices/press-7/x\x07\x08\x00\x04a/+b"...))
}

func TestMalformedFilters(t *testing.T) {
	s := start(t, nil)
	filters := packets.Subscriptions{
		{Filter: "devices/press-7/a+"}, {Filter: "devices/press-7/a#"}, {Filter: "devices/press-7/#/a"}, {Filter: "$share//devices/press-7/a"},
		{Filter: "$share/a/"}, {Filter: "$share/a"}, {Filter: "$share/a/devices/press-7/+b"}, {Filter: ""}, {Filter: "devices/press-7/+/#"}, {Filter: "$share/a/devices/press-7/+"},
	}
	f := func(version, code byte) {
		t.Helper()
		r := s.raw(version)
		r.sign("press-7", nil)
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: filters})
		want := append(slices.Repeat([]byte{code}, len(filters)-2), 0, 0)
		if got := r.next().ReasonCodes; !slices.Equal(got, want) {
			t.Errorf("version %d: got %#x, want %#x", version, got, want)
		}
	}
	f(5, packets.ErrTopicFilterInvalid.Code)
	f(4, packets.ErrUnspecifiedError.Code)
}

func TestRefusedConnects(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxConnections = 1 })
	f := func(version, code byte, change func(*packets.Packet)) {
		t.Helper()
		if pk := s.raw(version).sign("press-7", change); pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != code {
			t.Errorf("got packet type %d, reason %#x, want %#x", pk.FixedHeader.Type, pk.ReasonCode, code)
		}
	}
	f(5, packets.ErrBadAuthenticationMethod.Code, func(pk *packets.Packet) { pk.Properties.AuthenticationMethod = "SCRAM-SHA-1" })
	f(5, packets.ErrProtocolViolation.Code, func(pk *packets.Packet) { pk.Properties.AuthenticationData = []byte("x") })
	f(5, packets.ErrBadUsernameOrPassword.Code, func(pk *packets.Packet) { pk.Connect.Password = nil })
	f(5, packets.ErrProtocolViolation.Code, func(pk *packets.Packet) { pk.Connect.WillRetain = true })
	f(2, packets.Err3UnsupportedProtocolVersion.Code, nil)
	f(4, 0, nil)
	eventually(t, "the connection to count", func() bool { return s.Stats().Connections["3.1.1"] == 1 })
	f(5, packets.ErrServerBusy.Code, nil)
	f(4, packets.Err3ServerUnavailable.Code, nil)
}

// An empty will that is retained clears a topic.
func TestEmptyWill(t *testing.T) {
	s := start(t, nil)
	c := s.must5("press-7", "pub", nil)
	for _, version := range []byte{4, 5} {
		const topic = "devices/press-7/telemetry/online"
		c.mustPublish(t, topic, "1", true)
		r := s.raw(version)
		if ack := r.sign("press-7", func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillRetain, pk.Connect.WillTopic = true, true, topic
		}); ack.FixedHeader.Type != packets.Connack || ack.ReasonCode != 0 {
			t.Fatalf("version %d: packet type %d, reason %#x", version, ack.FixedHeader.Type, ack.ReasonCode)
		}
		_ = r.c.Close()
		eventually(t, "the topic to be cleared", func() bool { return len(s.server.Topics.Messages(topic)) == 0 })
	}
	if got := s.intake.got(); !slices.Equal(got, []string{"press-7 online 1", "press-7 online 1"}) {
		t.Errorf("taken %q", got)
	}
	if r := s.intake.kinds(); len(r) > 0 {
		t.Errorf("rejects %q", r)
	}
}

func TestTopicLevels(t *testing.T) {
	s := start(t, nil)
	const prefix = "devices/press-7/"
	most, deep := prefix+strings.Repeat("/", topicLevels-3), prefix+strings.Repeat("/", topicLevels-2)
	for _, version := range []byte{4, 5} {
		r := s.raw(version)
		refused, invalid := byte(0), packets.ErrUnspecifiedError.Code
		if version == 5 {
			refused, invalid = packets.ErrTopicNameInvalid.Code, packets.ErrTopicFilterInvalid.Code
		}
		r.sign("press-7", func(pk *packets.Packet) { pk.Connect.Clean = true })
		r.send(publishPacket(most, "1", 1, 1), publishPacket(deep, "1", 1, 2), publishPacket(deep, "1", 2, 3))
		r.want(packets.Puback, 1, 0)
		r.want(packets.Puback, 2, refused)
		r.want(packets.Pubrec, 3, refused)
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: most}, {Filter: deep}}})
		if got := r.next().ReasonCodes; !slices.Equal(got, []byte{0, invalid}) {
			t.Errorf("version %d: SUBACK %#x", version, got)
		}
	}
	will := func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, deep, []byte("1")
	}
	if ack := s.raw(5).sign("press-7", will); ack.ReasonCode != packets.ErrTopicNameInvalid.Code {
		t.Errorf("will: CONNACK %#x", ack.ReasonCode)
	}
}

func TestTooManySubscriptions(t *testing.T) {
	s := start(t, nil)
	const packet = 20 // filters in one; a packet is at most some 5 KB
	for _, version := range []byte{4, 5} {
		r := s.raw(version)
		r.sign("press-7", func(pk *packets.Packet) { pk.Connect.ClientIdentifier = fmt.Sprint(version) })
		subscribe := func(from int) []byte {
			var filters packets.Subscriptions
			for i := range packet {
				filters = append(filters, packets.Subscription{Filter: fmt.Sprintf("devices/press-7/%d", from+i), Qos: 1})
			}
			r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: filters})
			return r.next().ReasonCodes
		}
		for i := 0; i < subscriptions; i += packet {
			if codes := subscribe(i); slices.ContainsFunc(codes, func(c byte) bool { return c != 1 }) {
				t.Fatalf("version %d, from %d: %#x", version, i, codes)
			}
		}
		code := packets.ErrUnspecifiedError.Code
		if version == 5 {
			code = packets.ErrQuotaExceeded.Code
		}
		half := slices.Concat(slices.Repeat([]byte{1}, packet/2), slices.Repeat([]byte{code}, packet/2))
		if codes := subscribe(subscriptions - packet/2); !slices.Equal(codes, half) { // those that are there may be renewed
			t.Errorf("version %d: %#x", version, codes)
		}
	}
}
