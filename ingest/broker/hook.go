package broker

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/ingest"
)

// hook is what mochi calls.
type hook struct {
	mqtt.HookBase
	b *Broker
}

var provided = [...]byte{
	mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished, mqtt.OnDisconnect,
	mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnSubscribed, mqtt.OnUnsubscribed, mqtt.OnPublish, mqtt.OnRetainMessage,
	mqtt.OnQosPublish, mqtt.OnQosComplete, mqtt.OnQosDropped, mqtt.OnWillSent, mqtt.OnClientExpired, mqtt.OnRetainedExpired,
}

var provides = func() (t [256]bool) {
	for _, p := range provided {
		t[p] = true
	}
	return t
}()

// ID names the hook.
func (h *hook) ID() string { return "millrace" }

// Provides tells mochi which of the methods below are there.
func (h *hook) Provides(b byte) bool { return provides[b] }

// of returns our side of a client; nil for one that is away, and for the inline client.
func of(cl *mqtt.Client) *conn {
	c, _ := cl.Net.Conn.(*conn)
	return c
}

// OnPacketRead sees each packet before mochi does. It takes QoS and packet identifier out of a PUBLISH, and answers PUBREL. It also
// takes the identifier out of SUBSCRIBE and UNSUBSCRIBE, for OnPacketEncode to put it into the answer: mochi would refuse one that is
// under way towards the client, but the directions are independent (MQTT 5.0, 2.2.1), and a client that comes back to a queue begins
// at 1 as we do.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := of(cl)
	if len(c.delayed) > 0 {
		for _, pk := range c.delayed {
			cl.State.Inflight.Set(pk) // mochi forgets these when it sends them
			atomic.AddInt64(&h.b.server.Info.Inflight, 1)
		}
		c.delayed = c.delayed[:0]
	}
	if breach(&pk) {
		c.stop(packets.ErrProtocolViolation)
		return pk, packets.ErrRejectPacket
	}
	switch pk.FixedHeader.Type {
	case packets.Connect:
		if c.client == nil { // a second one is an error
			c.adapt(&pk)
		}
	case packets.Publish:
		c.publish = publish{qos: pk.FixedHeader.Qos, packet: pk.PacketID}
		if pk.FixedHeader.Qos > 0 && pk.PacketID == 0 || pk.FixedHeader.Qos == 0 && pk.FixedHeader.Dup {
			return pk, nil // mochi refuses it
		}
		if pk.TopicName != "" && !h.b.open && !strings.HasPrefix(pk.TopicName, c.prefix) && !strings.ContainsAny(pk.TopicName, "+#") {
			c.publish.foreign = true
			c.message.Topic = pk.TopicName
			pk.TopicName = "-" // so that mochi passes it on to OnPublish, whatever it is
		}
		pk.FixedHeader.Qos, pk.FixedHeader.Dup, pk.PacketID = 0, false, 0
	case packets.Pubrel:
		pubcomp := []byte{packets.Pubcomp << 4, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)}
		if !c.session.release(pk.PacketID) && c.version == 5 {
			pubcomp = append(pubcomp, packets.ErrPacketIdentifierNotFound.Code)
			pubcomp[1] = 3
		}
		_, _ = c.Write(pubcomp)              // a failed write ends the connection
		pk.FixedHeader.Type = packets.Puback // of packet 0, which is never under way: mochi does nothing
		pk.PacketID = 0
	case packets.Subscribe, packets.Unsubscribe:
		if pk.PacketID != 0 { // mochi refuses it otherwise
			c.request, pk.PacketID, pk.FixedHeader.Qos = pk.PacketID, 0, 0 // a 0 that mochi takes for valid
		}
		if pk.FixedHeader.Type == packets.Subscribe {
			c.screen(cl, pk.Filters)
		}
	}
	return pk, nil
}

// OnPublish takes every message of a device; what it hands on to subscribers at QoS 0 goes by mochi, the rest by forward. What
// mochi is not to hand on is marked, as CodeSuccessIgnore would do, but answering with an error makes several more of it on mochi's
// side, each an allocation.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	b := h.b
	pk.Created = b.order.Add(1)
	if cl.Net.Inline {
		pk.Origin = pk.Connect.ClientIdentifier
		return pk, nil
	}
	c := of(cl)
	if pk.TopicName == "" { // an alias that was never given a topic (MQTT 5.0, 3.3.2.3.4)
		c.stop(packets.ErrTopicAliasInvalid)
		pk.Ignore = true
		return pk, nil
	}
	p := c.publish
	if p.foreign || !b.open && !strings.HasPrefix(pk.TopicName, c.prefix) { // the latter by a topic alias
		topic := pk.TopicName
		if p.foreign {
			topic = c.message.Topic
		}
		b.foreign.Add(1)
		err := c.reject(topic, "topic", "a device may publish only below "+c.prefix, devices.ErrForbidden)
		return h.refuse(c, p, pk, err)
	}
	if strings.Count(pk.TopicName, "/") >= topicLevels {
		err := c.reject(pk.TopicName, "topic", "the topic has too many levels", devices.ErrInvalid)
		return h.refuse(c, p, pk, err)
	}
	metric, telemetry := telemetryTopic(pk.TopicName, c.prefix)
	telemetry = telemetry && !b.open
	if pk.FixedHeader.Retain && b.tooManyRetained(c, &pk) {
		pk.FixedHeader.Retain = false
		err := c.reject(pk.TopicName, "retained", "too many retained messages", devices.ErrTooLarge)
		if !telemetry {
			return h.refuse(c, p, pk, err)
		}
	}
	if pk.FixedHeader.Retain && telemetry && len(pk.Payload) == 0 { // clears the retained message; no measurement
		telemetry = false
	}
	wanted := pk.FixedHeader.Retain || b.subscribed.Load()
	if p.qos == 0 {
		pk.Ignore = telemetry && b.telemetry(c, &pk, metric, nil) == 0 || !wanted
		return pk, nil
	}
	k := &ack{packet: p.packet, qos: p.qos}
	if wanted {
		out := pk
		out.FixedHeader.Qos = p.qos
		out.PacketID = 1 // mochi wants one; subscribers get their own
		out.Properties.TopicAlias, out.Properties.TopicAliasFlag = 0, false
		out.Connect.ClientIdentifier = cl.ID // OnPublish makes it the origin
		k.forward = &out
	}
	h.store(c, k, &pk, metric, telemetry)
	pk.Ignore = true
	return pk, nil
}

// store takes a message of QoS 1 or 2, and has it acknowledged in its turn.
func (h *hook) store(c *conn, k *ack, pk *packets.Packet, metric string, telemetry bool) {
	if !c.acks.join(k, k.qos == 2 && c.session.has(k.packet)) {
		c.exceeded()
		return
	}
	done := func(err error) { c.acks.settle(k, err) }
	if k.qos == 2 {
		s, packet, settle := c.session, k.packet, done
		r, isNew := s.receive(packet, func(err error) {
			c.acks.unforward(k) // the first one is handed on
			settle(err)
		})
		if !isNew {
			return
		}
		done = func(err error) {
			c.acks.uncount(k)
			s.settle(packet, r, err)
			settle(err)
		}
	}
	if !telemetry {
		done(nil)
		return
	}
	h.b.telemetry(c, pk, metric, done)
}

// refuse answers a message that goes nowhere, and returns it as mochi is to see it.
func (h *hook) refuse(c *conn, p publish, pk packets.Packet, err error) (packets.Packet, error) {
	pk.Ignore = true
	if p.qos == 0 {
		return pk, nil
	}
	k := &ack{packet: p.packet, qos: p.qos}
	if !c.acks.join(k, false) {
		c.exceeded()
		return pk, nil
	}
	c.acks.settle(k, err)
	return pk, nil
}

func (c *conn) exceeded() {
	c.stop(packets.ErrReceiveMaximum) // MQTT 5.0, 3.3.4
}

// telemetry hands a message to the pipeline. A device before MQTT 5 can't be told that it is too fast: it is not read from until
// its rate allows, for at most ten seconds.
func (b *Broker) telemetry(c *conn, pk *packets.Packet, metric string, done func(error)) (samples int) {
	m := &c.message
	*m = ingest.Message{
		Protocol: ingest.MQTT, Device: c.device, Metric: metric, Topic: pk.TopicName, Payload: pk.Payload,
		Recv: c.recv, Wait: done != nil,
	}
	if done == nil || c.version == 5 {
		return b.intake.Handle(m, done)
	}
	for pauses := 0; ; pauses++ {
		c.slow = false
		n := b.intake.Handle(m, func(err error) {
			if _, refused := errors.AsType[*ingest.Reject](err); refused && errors.Is(err, devices.ErrRate) && pauses < 50 { // before Handle returns
				c.slow = true
				return
			}
			done(err)
		})
		if !c.slow {
			return n
		}
		if !c.pause(200 * time.Millisecond) {
			done(devices.ErrRate)
			return 0
		}
		m.Recv = time.Now().UnixMilli() // its rate is counted by it
	}
}

// forward hands an acknowledged message to its subscribers.
func (b *Broker) forward(pk *packets.Packet) {
	if err := b.server.InjectPacket(b.inline, *pk); err != nil {
		b.log.Debug("message not handed on", "topic", pk.TopicName, "err", err)
	}
}

// telemetryTopic tells whether a topic carries measurements, and which metric it names; "" for a payload that names them.
// prefix is devices/{device}/, and the topic begins with it.
func telemetryTopic(topic, prefix string) (metric string, ok bool) {
	rest, ok := strings.CutPrefix(topic, prefix)
	if !ok {
		return "", false
	}
	if rest == "telemetry" {
		return "", true
	}
	return strings.CutPrefix(rest, "telemetry/")
}

func (b *Broker) tooManyRetained(c *conn, pk *packets.Packet) bool {
	if b.open || len(pk.Payload) == 0 {
		return false
	}
	if _, there := b.server.Topics.Retained.Get(pk.TopicName); there {
		return false
	}
	return len(b.server.Topics.Messages(c.prefix+"#")) >= b.conf.Retained
}

// OnACLCheck is asked for a filter at SUBSCRIBE and for a topic before each delivery. Publishing is checked in OnPublish.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	if write || cl.Net.Inline || h.b.open {
		return write || h.b.closed == "" || topic != h.b.closed
	}
	device, _, _ := strings.Cut(cl.ID, "/")
	rest, ok := strings.CutPrefix(sharedFilter(topic), "devices/")
	if !ok {
		return false
	}
	rest, ok = strings.CutPrefix(rest, device)
	return ok && strings.HasPrefix(rest, "/")
}

// sharedFilter returns the filter inside $share/{name}/{filter} (MQTT 5.0, 4.8.2), and others as they are. mochi takes the word
// in any case.
func sharedFilter(filter string) string {
	if len(filter) > 7 && strings.EqualFold(filter[:7], "$share/") {
		_, inner, _ := strings.Cut(filter[7:], "/")
		return inner
	}
	return filter
}

// OnSubscribed records refused filters and keeps the others.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	c := of(cl)
	if c == nil {
		return
	}
	for i, sub := range pk.Filters {
		if codes[i] < packets.ErrUnspecifiedError.Code {
			h.b.subscribed.Store(true)
			h.b.store.putSubscription(cl, sub)
		} else if sub.Filter == tooMany {
			if c.version == 5 {
				codes[i] = packets.ErrQuotaExceeded.Code // mochi answers with these
			}
			_ = c.reject("", "topic", "too many subscriptions of one session", devices.ErrTooLarge)
		} else if sub.Filter != malformed && !h.OnACLCheck(cl, sub.Filter, false) {
			h.b.foreign.Add(1)
			_ = c.reject(sub.Filter, "topic", "a device may subscribe only below "+c.prefix, devices.ErrForbidden)
		}
	}
}

// OnUnsubscribed forgets filters.
func (h *hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) {
	for _, sub := range pk.Filters {
		h.b.store.delete(bucketSubscriptions, cl.ID+"\x00"+sub.Filter)
	}
}

// OnPacketEncode corrects what mochi is about to send.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c := of(cl)
	if c == nil {
		return pk
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.Expiry < 0 { // was held back by the client's Receive Maximum, and mochi forgets it now
			pk.Expiry = 0
			c.delayed = append(c.delayed, pk)
		}
	case packets.Pubrel:
		pk.Created = h.b.order.Add(1)
		if _, there := cl.State.Inflight.Get(pk.PacketID); there {
			cl.State.Inflight.Set(pk) // PUBRELs are repeated in the order of the first ones (MQTT 5.0, 4.6)
			h.b.store.putInflight(cl, pk)
		}
		pk.Expiry = 0
	case packets.Suback, packets.Unsuback:
		pk.PacketID = c.request
	case packets.Connack:
		h.connack(c, &pk)
	case packets.Disconnect:
		if c.version < 5 || !c.told.CompareAndSwap(false, true) {
			pk.FixedHeader.Type = packets.Reserved // nothing is sent: there is no such packet before MQTT 5
		}
	}
	return pk
}

// connack announces our limits, and puts reasons into the words of MQTT 3.1.1 (3.2.2.3).
func (h *hook) connack(c *conn, pk *packets.Packet) {
	if c.version == 5 {
		if pk.ReasonCode < packets.ErrUnspecifiedError.Code {
			pk.Properties.MaximumPacketSize = h.b.server.Options.Capabilities.MaximumPacketSize
			pk.Properties.TopicAliasMaximum = topicAliases
		}
		return
	}
	switch code := pk.ReasonCode; {
	case c.version != 3 && c.version != 4:
		pk.ReasonCode = packets.Err3UnsupportedProtocolVersion.Code // MQTT 3.1.1, 3.1.2.2
	case code <= 5:
	case code == packets.ErrUnspecifiedError.Code:
		pk.ReasonCode = packets.Err3ClientIdentifierNotValid.Code // no identifier, but a session to keep
	default:
		pk.FixedHeader.Type = packets.Reserved // the connection is closed without an answer
	}
}

// OnSessionEstablish is called before a connection takes over the session of its client. What waits for the client is put in
// order: mochi repeats it in the order of Created, of which it compares 16 bits.
func (h *hook) OnSessionEstablish(cl *mqtt.Client, pk packets.Packet) {
	old, ok := h.b.server.Clients.Get(cl.ID)
	if !ok || pk.Connect.Clean {
		return
	}
	c := of(cl)
	waiting := old.State.Inflight.GetAll(false)
	slices.SortStableFunc(waiting, func(x, y packets.Packet) int {
		switch {
		case x.Created < y.Created:
			return -1
		case x.Created > y.Created:
			return 1
		}
		return 0
	})
	first := h.b.reserve(len(waiting))
	most := len(waiting)
	if r := int(cl.Properties.Props.ReceiveMaximum); r > 0 && cl.Properties.ProtocolVersion == 5 {
		most = min(most, r)
	}
	for i, pk := range waiting {
		pk.Created = first + int64(i)
		pk.Expiry = max(pk.Expiry, 0)
		if i < most {
			old.State.Inflight.Set(pk)
		} else {
			old.State.Inflight.Delete(pk.PacketID)
			c.backlog = append(c.backlog, pk)
		}
	}
}

// reserve returns the first of n numbers whose low 16 bits rise.
func (b *Broker) reserve(n int) int64 {
	for {
		now := b.order.Load()
		first := now + 1
		if first&0xffff+int64(n) > 0xffff {
			first = (first | 0xffff) + 1
		}
		if b.order.CompareAndSwap(now, first+int64(n)) {
			return first
		}
	}
}

// OnSessionEstablished is called when the client knows that it is connected, and what was under way has been repeated.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c := of(cl)
	for range cl.State.Inflight.Len() {
		cl.State.Inflight.DecreaseSendQuota()
	}
	for _, pk := range c.backlog {
		pk.Expiry = -1 // to be sent when the quota allows
		cl.State.Inflight.Set(pk)
		h.b.store.putInflight(cl, pk)
	}
	c.backlog = nil
	cl.State.Inflight.ResetReceiveQuota(1<<16 - 1) // counted here instead
	h.b.store.putClient(cl, time.Time{})
	h.b.keepWill(c, cl)
}

// OnDisconnect is called when a connection has ended.
func (h *hook) OnDisconnect(cl *mqtt.Client, _ error, expire bool) {
	c := of(cl)
	if c == nil {
		return
	}
	c.left = true
	h.b.leaveWill(c, cl)
	for _, pk := range c.delayed {
		cl.State.Inflight.Set(pk)
	}
	c.delayed = nil
	switch {
	case cl.IsTakenOver():
	case expire:
		h.b.forget(cl.ID)
	default:
		h.b.store.putClient(cl, time.Now())
	}
}

// OnClientExpired is called before mochi drops a session whose time is over.
func (h *hook) OnClientExpired(cl *mqtt.Client) {
	if w := cl.Properties.Will; w.Flag == 1 { // its delay ends in the same second: mochi will find no client, and not call OnWillSent
		h.OnWillSent(cl, packets.Packet{FixedHeader: packets.FixedHeader{Retain: w.Retain}, TopicName: w.TopicName, Payload: w.Payload})
	}
	h.b.discard(cl)
}

// OnWillSent is called when a will has been published. A will on a telemetry topic is a measurement like others; nobody waits
// for it.
func (h *hook) OnWillSent(cl *mqtt.Client, pk packets.Packet) {
	if metric, ok := h.b.measurement(cl.ID, &pk); ok {
		if d := h.b.cat.Device(deviceOf(cl.ID)); d != nil {
			h.b.intake.Handle(&ingest.Message{
				Protocol: ingest.MQTT, Device: d, Metric: metric, Topic: pk.TopicName, Payload: pk.Payload, Recv: time.Now().UnixMilli(),
			}, nil)
		}
	}
	h.b.dropWill(of(cl), cl.ID)
}

// OnRetainMessage keeps a retained message.
func (h *hook) OnRetainMessage(_ *mqtt.Client, pk packets.Packet, _ int64) {
	if len(pk.Payload) == 0 {
		h.b.store.delete(bucketRetained, pk.TopicName)
		return
	}
	h.b.store.putRetained(pk)
}

// OnRetainedExpired forgets one.
func (h *hook) OnRetainedExpired(topic string) { h.b.store.delete(bucketRetained, topic) }

// OnQosPublish keeps a message that is under way to a client with a session.
func (h *hook) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	h.b.store.putInflight(cl, pk)
}

// OnQosComplete forgets it.
func (h *hook) OnQosComplete(cl *mqtt.Client, pk packets.Packet) { h.b.store.deleteInflight(cl, pk) }

// OnQosDropped forgets it.
func (h *hook) OnQosDropped(cl *mqtt.Client, pk packets.Packet) { h.b.store.deleteInflight(cl, pk) }
