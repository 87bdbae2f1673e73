// Package hubs keeps the settings of Web PubSub: access keys, and for each hub who handles its events, who hears of them and who may
// come without a token. Registry has them in memory for the hot paths; a Store keeps them.
package hubs

import "time"

// Settings of a hub. A hub needs none: it is there as soon as somebody connects, and then has those of Default.
type Settings struct {
	Hub       string        `json:"hub"`                 // in lower case
	Anonymous bool          `json:"anonymous,omitempty"` // clients without a token are let in, unless the connect handler refuses
	KeepAlive time.Duration `json:"keepAlive,omitempty"` // between pings, 1 to 120 s
	Handlers  []Handler     `json:"handlers,omitempty"`  // the first that matches an event gets it
	Listeners []Listener    `json:"listeners,omitempty"` // every one that matches gets a copy
	Telemetry []Mapping     `json:"telemetry,omitempty"` // events and messages that are measurements
	Changed   time.Time     `json:"changed,omitzero"`
}

// A Handler answers events of clients: an HTTP webhook, or a server behind the tunnel.
type Handler struct {
	URL          string   `json:"url"`                    // http, https or tunnel; {hub} and {event} are replaced
	UserEvents   string   `json:"userEvents,omitempty"`   // "*", or names and patterns with commas between
	SystemEvents []string `json:"systemEvents,omitempty"` // of connect, connected, disconnected, joined, left
	Trusted      bool     `json:"trusted,omitempty"`      // sent to without the abuse-protection handshake
}

// A Listener gets copies of events, and can't answer. One of Subject and URL is set.
type Listener struct {
	Subject      string   `json:"subject,omitempty"` // NATS, kept by JetStream; {hub} and {event} are replaced
	URL          string   `json:"url,omitempty"`     // http or https; {hub} and {event} are replaced
	UserEvents   string   `json:"userEvents,omitempty"`
	SystemEvents []string `json:"systemEvents,omitempty"` // of connected, disconnected, joined, left
}

// A Mapping makes measurements of what clients send: of a user event, or of messages to a group.
type Mapping struct {
	Event  string `json:"event,omitempty"`  // name or pattern of user events
	Group  string `json:"group,omitempty"`  // or: name or pattern of groups
	Device string `json:"device,omitempty"` // {userId}, {connectionId}, {group} and {event} are replaced
}

// Default are the settings of a hub that has none of its own.
func Default(hub string) Settings { return Settings{Hub: hub, KeepAlive: 20 * time.Second} }

// Keys are the two access keys: either signs, so that one can be replaced while the other is in use.
type Keys struct {
	Primary   string `json:"primary"`
	Secondary string `json:"secondary"`
}
