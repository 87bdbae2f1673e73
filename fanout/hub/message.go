package hub

import (
	"sync/atomic"
	"time"
)

// A Kind says how the bytes of Data are meant.
type Kind uint8

// Kinds of data.
const (
	Text     Kind = 1 + iota // UTF-8
	JSON                     // the text of one JSON value, as it was published
	Binary                   // anything
	Protobuf                 // a serialised google.protobuf.Any
)

// Data is what a message carries. Nobody changes Bytes once it has been given to a hub.
type Data struct {
	Kind  Kind
	Bytes []byte
}

// A Message is what clients receive: data, or the states of a group's members. It is shared by all receivers and not changed once it has
// been sent, but for its encodings.
type Message struct {
	Group    string // published to; "": sent by the server to all, a user or a connection
	User     string // of the client that published; "": it has none, or the server sent it
	Data     Data
	Metadata map[string]string
	Stream   *Fragment     // part of a stream
	States   *States       // in place of data
	TTL      time.Duration // how long it is kept for a connection that can't take it; 0: as long as there is room
	QoS      byte          // of an MQTT publisher; others 0

	kept    time.Time // until when, if TTL is set
	control []byte    // in place of all else: a frame of the protocol's own
	encoded [Slots]atomic.Pointer[[]byte]
}

// A Fragment is the place of a message in a stream.
type Fragment struct {
	ID    string
	Seq   uint64
	End   bool
	Error *StreamError // with End, when the stream did not end well
}

// A StreamError is why a stream ended.
type StreamError struct {
	Name, Message, UserCode string
}

// States are the states of a group's members: all of them, or those that changed.
type States struct {
	Snapshot bool
	Items    []State
}

// A State is what a connection has told of itself to a group.
type State struct {
	Connection, User string
	State            map[string]string // nil: cleared
	Updated          int64             // Unix milliseconds; rises with each change of a connection
}

// Slots is how many encodings a message can keep.
const Slots = 6

// An Encoder turns messages into what one protocol's connections are sent. A message is encoded once for all of them.
type Encoder interface {
	// Slot is where a message keeps this encoding: below Slots, and no other encoder's.
	Slot() int

	// Encode returns what all connections share. Nil: this protocol has no such message, and nothing is sent.
	Encode(m *Message) []byte

	// Append appends what one connection is sent, made of what is shared and, on reliable connections, the number of the
	// message; seq is 0 on others.
	Append(dst, shared []byte, seq uint64) []byte
}

// shared is the encoding of m, made at first need. Two may make it at once; then one is used.
func (m *Message) shared(e Encoder) []byte {
	slot := &m.encoded[e.Slot()]
	if p := slot.Load(); p != nil {
		return *p
	}
	b := e.Encode(m)
	slot.CompareAndSwap(nil, &b)
	return *slot.Load()
}

// size is what m is counted as when it waits.
func (m *Message) size() int { return len(m.Data.Bytes) + len(m.Group) + 64 }

// An Error is why a request of a client was refused, with the name that its protocol has for it.
type Error struct {
	Name    string // Forbidden, Duplicate, BadRequest, NotFound, InternalServerError
	Message string
}

func (e *Error) Error() string { return e.Message }
