package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/eclipse/paho.golang/paho"
	"github.com/mochi-mqtt/server/v2/packets"
)

func TestMeasurementsReachThePipeline(t *testing.T) {
	s := start(t, nil)
	c := s.must5("press-7", "a", nil)
	for qos := range byte(3) {
		for _, topic := range []string{"devices/press-7/telemetry", "devices/press-7/telemetry/temp"} {
			if _, err := c.Publish(t.Context(), &paho.Publish{Topic: topic, QoS: qos, Payload: fmt.Append(nil, qos)}); err != nil {
				t.Fatalf("QoS %d on %s: %v", qos, topic, err)
			}
		}
	}
	want := []string{"press-7  0", "press-7 temp 0", "press-7  1", "press-7 temp 1", "press-7  2", "press-7 temp 2"}
	eventually(t, "messages", func() bool { return len(s.intake.got()) == len(want) })
	if got := s.intake.got(); !slices.Equal(got, want) {
		t.Errorf("pipeline got %q, want %q", got, want)
	}
	if in := s.Stats().In; in != 6 {
		t.Errorf("Stats().In = %d", in)
	}
}

func TestAcknowledgedWhenStored(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			s := start(t, nil)
			s.intake.hold = true
			r := s.raw(version)
			r.sign("press-7", nil)
			const topic = "devices/press-7/telemetry/temp"
			r.send(publishPacket(topic, "1", 1, 11), publishPacket(topic, "2", 2, 12), publishPacket(topic, "3", 1, 13), publishPacket("devices/press-7/other", "4", 1, 14))
			eventually(t, "all to be read, though none is acknowledged", func() bool { return s.intake.held() == 3 })
			s.intake.settle(2, nil)
			s.intake.settle(1, nil)
			if n := r.r.Buffered(); n > 0 {
				t.Fatal("acknowledged out of order")
			}
			s.intake.settle(0, nil)
			r.want(packets.Puback, 11, 0)
			r.want(packets.Pubrec, 12, 0)
			r.want(packets.Puback, 13, 0)
			r.want(packets.Puback, 14, 0)
			r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel}, PacketID: 12})
			r.want(packets.Pubcomp, 12, 0)
		})
	}
}

func TestExactlyOncePerIdentifier(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			s := start(t, nil)
			s.intake.hold = true
			r := s.raw(version)
			r.sign("press-7", nil)
			m := publishPacket("devices/press-7/telemetry", "1", 2, 5)
			again := m
			again.FixedHeader.Dup = true
			r.send(m, again)
			eventually(t, "the message", func() bool { return s.intake.held() == 1 })
			s.intake.settle(0, nil)
			r.want(packets.Pubrec, 5, 0)
			r.want(packets.Pubrec, 5, 0)

			// The connection breaks before PUBREL: the session remembers.
			_ = r.c.Close()
			r = s.raw(version)
			if ack := r.sign("press-7", nil); !ack.SessionPresent {
				t.Fatal("no session")
			}
			r.send(again)
			r.want(packets.Pubrec, 5, 0)
			release := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel}, PacketID: 5}
			r.send(release)
			r.want(packets.Pubcomp, 5, 0)
			if got := s.intake.got(); len(got) != 1 {
				t.Fatalf("taken: %q", got)
			}

			r.send(release)
			unknown := byte(0)
			if version == 5 {
				unknown = packets.ErrPacketIdentifierNotFound.Code
			}
			r.want(packets.Pubcomp, 5, unknown)
			r.send(m) // the identifier is free: a new message
			eventually(t, "the second message", func() bool { return s.intake.held() == 2 })
			s.intake.settle(1, nil)
			r.want(packets.Pubrec, 5, 0)
		})
	}
}

func TestRefusedMessages(t *testing.T) {
	s := start(t, nil)
	s.intake.slowdown = 3
	five, four := s.raw(5), s.raw(4)
	five.sign("press-7", nil)
	four.sign("press-8", nil)
	const topic7, topic8 = "devices/press-7/telemetry", "devices/press-8/telemetry"
	id := uint16(0)
	f := func(topic, payload string, code byte) {
		t.Helper()
		for qos := byte(1); qos <= 2; qos++ {
			id++
			five.send(publishPacket(topic, payload, qos, id))
			kind := packets.Puback
			if qos == 2 {
				kind = packets.Pubrec
			}
			pk := five.want(kind, id, code)
			if pk.Properties.ReasonString == "" {
				t.Errorf("no reason for %s on %s", payload, topic)
			}
		}
	}
	f(topic7, "bad", packets.ErrPayloadFormatInvalid.Code)
	f(topic7, "full", packets.ErrQuotaExceeded.Code)
	f(topic8, "1", packets.ErrNotAuthorized.Code)
	f("devices/press-70/telemetry", "1", packets.ErrNotAuthorized.Code)
	f("$SYS/broker/uptime", "1", packets.ErrNotAuthorized.Code)
	five.send(publishPacket(topic7, "rate", 1, 99))
	five.want(packets.Puback, 99, packets.ErrQuotaExceeded.Code)

	// Before MQTT 5 it is acknowledged: sending it again is of no use.
	four.send(publishPacket(topic8, "bad", 1, 1), publishPacket(topic7, "1", 2, 2))
	four.want(packets.Puback, 1, 0)
	four.want(packets.Pubrec, 2, 0)
	four.send(publishPacket(topic8, "rate", 1, 3)) // read when its rate allows
	four.want(packets.Puback, 3, 0)
	four.send(publishPacket(topic7, "1", 0, 0), publishPacket(topic8, "full", 1, 4), publishPacket(topic8, "after", 1, 5))
	if pk := four.next(); pk.FixedHeader.Type != 0 { // so that the device sends it again
		t.Fatalf("after a message that could not be stored: packet type %d", pk.FixedHeader.Type)
	}
	if got := s.intake.got(); slices.Contains(got, "press-7  1") {
		t.Errorf("taken: %q", got)
	}
	if n := s.Stats().Foreign; n != 8 {
		t.Errorf("%d foreign topics", n)
	}
}

func TestTooLarge(t *testing.T) {
	s := start(t, nil)
	big := publishPacket("devices/press-7/telemetry", string(make([]byte, 10000)), 1, 1)
	five := s.raw(5)
	if ack := five.sign("press-7", nil); ack.Properties.MaximumPacketSize != 1000+packetOverhead {
		t.Errorf("announced %d", ack.Properties.MaximumPacketSize)
	}
	five.send(big)
	five.want(packets.Disconnect, 0, packets.ErrPacketTooLarge.Code)
	four := s.raw(4)
	four.sign("press-7", nil)
	four.send(big)
	four.want(0, 0, 0)
	eventually(t, "rejects", func() bool { return slices.Equal(s.intake.kinds(), []string{"press-7 too_large", "press-7 too_large"}) })
}

func TestMalformed(t *testing.T) {
	s := start(t, nil)
	r := s.raw(5)
	r.sign("press-7", nil)
	if _, err := r.c.Write([]byte{packets.Publish << 4, 3, 0, 200, 'x'}); err != nil { // a topic longer than the packet
		t.Fatal(err)
	}
	r.want(packets.Disconnect, 0, packets.ErrMalformedPacket.Code)
}

func TestReceiveMaximum(t *testing.T) {
	s := start(t, func(c *Config) { c.ReceiveMaximum = 4 })
	s.intake.hold = true
	five, four := s.raw(5), s.raw(4)
	if ack := five.sign("press-7", nil); ack.Properties.ReceiveMaximum != 4 {
		t.Errorf("announced %d", ack.Properties.ReceiveMaximum)
	}
	four.sign("press-8", nil)
	for id := uint16(1); id <= 5; id++ {
		five.send(publishPacket("devices/press-7/telemetry", "1", 1, id))
	}
	eventually(t, "four messages", func() bool { return s.intake.held() == 4 })
	for i := range 4 {
		s.intake.settle(i, nil)
		five.want(packets.Puback, uint16(i+1), 0)
	}
	five.want(packets.Disconnect, 0, packets.ErrReceiveMaximum.Code)
	// An older client knows no maximum. It is not read from until there is room.
	for id := uint16(1); id <= 6; id++ {
		four.send(publishPacket("devices/press-8/telemetry", "1", 1, id))
	}
	eventually(t, "four more", func() bool { return s.intake.held() == 8 })
	for i := range 6 {
		eventually(t, "the next", func() bool { return s.intake.held() > 4+i })
		s.intake.settle(4+i, nil)
		four.want(packets.Puback, uint16(i+1), 0)
	}
}

func TestTopicAlias(t *testing.T) {
	s := start(t, nil)
	r := s.raw(5)
	r.sign("press-7", nil)
	alias := func(topic string, number, id uint16) packets.Packet {
		pk := publishPacket(topic, "1", 1, id)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = number, true
		return pk
	}
	r.send(alias("devices/press-7/telemetry/temp", 1, 1), alias("", 1, 2), alias("devices/press-8/telemetry", 2, 3), alias("", 2, 4))
	r.want(packets.Puback, 1, 0)
	r.want(packets.Puback, 2, 0)
	r.want(packets.Puback, 3, packets.ErrNotAuthorized.Code)
	r.want(packets.Puback, 4, packets.ErrNotAuthorized.Code)
	if got := s.intake.got(); !slices.Equal(got, []string{"press-7 temp 1", "press-7 temp 1"}) {
		t.Errorf("taken: %q", got)
	}
}

// A QoS 2 message counts once towards Receive Maximum, whether it waits for its PUBREC, for its PUBREL, or comes again.
func TestReceiveMaximumCountsOnce(t *testing.T) {
	s := start(t, func(c *Config) { c.ReceiveMaximum = 4 })
	s.intake.hold = true
	r := s.raw(5)
	r.sign("press-7", nil)
	m := func(id uint16) packets.Packet { return publishPacket("devices/press-7/telemetry", "1", 2, id) }
	r.send(m(1), m(2), m(3))
	eventually(t, "three messages", func() bool { return s.intake.held() == 3 })
	s.intake.settle(1, nil) // stored, but not yet in turn
	s.intake.settle(2, nil)
	r.send(m(4))
	eventually(t, "the fourth", func() bool { return s.intake.held() == 4 })
	s.intake.settle(0, nil)
	s.intake.settle(3, nil)
	for id := range uint16(4) {
		r.want(packets.Pubrec, id+1, 0)
	}
	_ = r.c.Close()
	r = s.raw(5)
	r.sign("press-7", nil)
	for id := range uint16(4) {
		again := m(id + 1)
		again.FixedHeader.Dup = true
		r.send(again)
		r.want(packets.Pubrec, id+1, 0)
	}
	r.send(m(5))
	r.want(packets.Disconnect, 0, packets.ErrReceiveMaximum.Code)
}
