package broker

import (
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// breach finds what mochi lets pass and the standard calls a protocol error.
func breach(pk *packets.Packet) bool {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return strings.ContainsAny(pk.Properties.ResponseTopic, "+#") // MQTT 5.0, 3.3.2.3.5
	case packets.Subscribe:
		ids := pk.Properties.SubscriptionIdentifier
		if len(ids) > 1 || len(ids) == 1 && ids[0] == 0 { // 3.8.2.1.2
			return true
		}
		for _, sub := range pk.Filters { // 3.8.3.1
			if sub.RetainHandling > 2 || sub.NoLocal && mqtt.IsSharedFilter(sub.Filter) {
				return true
			}
		}
	case packets.Connack, packets.Suback, packets.Unsuback, packets.Pingresp:
		return true // only we send these
	case packets.Auth:
		return true // nobody has signed in by a method of authentication (4.12)
	}
	return false
}

// wellFormed reports whether wildcards stand for whole levels (MQTT 5.0, 4.7.1), a shared filter has a name and a filter (4.8.2), and
// there are not too many levels.
func wellFormed(filter string) bool {
	if strings.Count(filter, "/") >= topicLevels {
		return false
	}
	if len(filter) > 7 && strings.EqualFold(filter[:7], "$share/") {
		name, inner, _ := strings.Cut(filter[7:], "/")
		if name == "" || inner == "" {
			return false
		}
		filter = inner
	}
	for level := range strings.SplitSeq(filter, "/") {
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return false
		}
	}
	return true
}

// adapt makes a CONNECT acceptable to mochi that is in order: a will may be empty, and retained, to clear a topic (MQTT 5.0,
// 3.1.3.3), and a password too (3.1.3.6).
func (c *conn) adapt(pk *packets.Packet) {
	c.version = pk.ProtocolVersion // mochi answers some CONNECTs before OnConnect
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		c.emptyWill = true
		pk.Connect.WillPayload = []byte{0} // OnConnect takes it out
	}
	if len(pk.Connect.Password) == 0 {
		pk.Connect.PasswordFlag = false
	}
}

// extended refuses what a CONNECT asks for beyond user name and password: there is no other method of authentication (MQTT 5.0,
// 4.12). Values that the standard doesn't have are a protocol error.
func extended(pk *packets.Packet) packets.Code {
	p := &pk.Properties
	switch {
	case p.AuthenticationMethod != "":
		return packets.ErrBadAuthenticationMethod
	case len(p.AuthenticationData) > 0, p.RequestProblemInfo > 1, p.RequestResponseInfo > 1:
		return packets.ErrProtocolViolation
	}
	return packets.CodeSuccess
}

const (
	malformed = ""   // filters that mochi refuses
	tooMany   = "#/" // likewise; OnSubscribed says why
)

// screen replaces filters that are not to be subscribed to.
func (c *conn) screen(cl *mqtt.Client, filters packets.Subscriptions) {
	room := subscriptions - cl.State.Subscriptions.Len()
	for i, sub := range filters {
		if !wellFormed(sub.Filter) {
			filters[i].Filter = malformed
			continue
		}
		if _, there := cl.State.Subscriptions.Get(sub.Filter); there {
			continue
		}
		if room--; room < 0 {
			filters[i].Filter = tooMany
		}
	}
}
