// Package protocol reads and writes the frames of the Web PubSub subprotocols, JSON and protobuf, plain and reliable, and the bare
// payloads of simple clients. Frames are complete WebSocket messages, ready to be sent to any number of connections.
package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/dashboard/socket"
	"millrace/fanout/hub"
)

// Names of the subprotocols.
const (
	JSON             = "json.webpubsub.azure.v1"
	ReliableJSON     = "json.reliable.webpubsub.azure.v1"
	Protobuf         = "protobuf.webpubsub.azure.v1"
	ReliableProtobuf = "protobuf.reliable.webpubsub.azure.v1"
)

// A Type is what a client asks for.
type Type uint8

// Types of requests.
const (
	JoinGroup Type = 1 + iota
	LeaveGroup
	SendToGroup
	Event
	Ping
	SequenceAck
	Invoke
	CancelInvocation
	StreamData
	StreamEnd
	SetGroupState
	SubscribeGroupState
	UnsubscribeGroupState
)

var typeNames = [...]string{JoinGroup: "joinGroup", LeaveGroup: "leaveGroup", SendToGroup: "sendToGroup", Event: "event", Ping: "ping", SequenceAck: "sequenceAck",
	Invoke: "invoke", CancelInvocation: "cancelInvocation", StreamData: "streamData", StreamEnd: "streamEnd", SetGroupState: "setGroupState",
	SubscribeGroupState: "subscribeGroupState", UnsubscribeGroupState: "unsubscribeGroupState"}

// String is the name of the type in JSON.
func (t Type) String() string { return typeNames[t] }

// types by name in lower case.
var types = func() map[string]Type {
	all := map[string]Type{}
	for t, name := range typeNames {
		if name != "" {
			all[strings.ToLower(name)] = Type(t)
		}
	}
	return all
}()

// A Request is a frame of a client. What its type does not have is zero.
type Request struct {
	Type         Type
	Group        string
	Event        string
	InvocationID string
	AckID        uint64
	HasAck       bool // 0 is an AckID too
	Data         hub.Data
	HasData      bool
	NoEcho       bool
	TTL          time.Duration
	Metadata     map[string]string
	Sequence     uint64
	Stream       *StreamStart // with SendToGroup: it begins a stream
	StreamID     string
	StreamSeq    uint64
	HasStreamSeq bool // else the frame keeps the stream open only
	EndError     *hub.StreamError
	State        map[string]string // nil clears
}

// A StreamStart begins a stream.
type StreamStart struct {
	ID   string
	Idle time.Duration // 0: the default
}

// A Codec is one subprotocol.
type Codec interface {
	hub.Encoder
	Name() string
	Reliable() bool

	// Decode reads a frame. Its data is not p's. A *socket.CloseError says how the connection ends because of a frame that can't be.
	Decode(text bool, p []byte, r *Request) error

	Connected(dst []byte, user, connection, reconnectionToken string) []byte
	Disconnected(dst []byte, reason string) []byte
	Ack(dst []byte, id uint64, err *hub.Error) []byte // err nil: success
	Pong(dst []byte) []byte
	InvokeResponse(dst []byte, id string, d *hub.Data, err *hub.Error) []byte
	StreamAck(dst []byte, id string, expected uint64) []byte
	StreamNack(dst []byte, id string, expected uint64, name, message string) []byte
	StreamClosed(dst []byte, id string, err *hub.StreamError) []byte
}

// Places of encodings in a message.
const (
	slotJSON = iota
	slotReliableJSON
	slotProtobuf
	slotReliableProtobuf
	slotSimple
)

var codecs = map[string]Codec{
	JSON:             jsonCodec{false},
	ReliableJSON:     jsonCodec{true},
	Protobuf:         protobufCodec{false},
	ReliableProtobuf: protobufCodec{true},
}

// For finds the codec of a subprotocol, named in any case.
func For(name string) (Codec, bool) {
	c, ok := codecs[strings.ToLower(name)]
	return c, ok
}

// maxGroup is the longest name of a group in characters.
const maxGroup = 1024

// ValidGroup reports whether a group can have a name: 1 to 1,024 characters that are not all blank.
func ValidGroup(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxGroup
}

var eventName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// ValidEvent reports whether a user event can have a name.
func ValidEvent(s string) bool { return eventName.MatchString(s) }

var metadataKey = regexp.MustCompile("^[!#$%&'*+\\-.^_`|~0-9A-Za-z]{1,256}$")

// ValidMetadata reports what metadata can't have: they become HTTP headers.
func ValidMetadata(m map[string]string) error {
	total := 0
	for k, v := range m {
		total += len(k) + len(v)
		if !metadataKey.MatchString(k) {
			return fmt.Errorf("metadata: the key %.300q has a character that it can't, or more than 256", k)
		}
		if len(v) > 1024 {
			return fmt.Errorf("metadata: the value of %q has more than 1,024 bytes", k)
		}
		for i := range len(v) {
			if v[i] < 0x20 && v[i] != '\t' || v[i] >= 0x7f {
				return fmt.Errorf("metadata: the value of %q has a character that is not ASCII", k)
			}
		}
	}
	if total > 8<<10 {
		return errors.New("metadata: there are more than 8,192 bytes")
	}
	return nil
}

// maxReason is what fits into a close frame in bytes (RFC 6455, 5.5).
const maxReason = 123

func malformed(format string, args ...any) error {
	reason := fmt.Sprintf(format, args...)
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	return &socket.CloseError{Code: socket.InvalidPayload, Reason: reason}
}

// valid is b with U+FFFD in place of what is not UTF-8: a text frame or field that is none would end the connections of all who get it.
func valid(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}

// check reports what a request of any protocol can't be.
func (r *Request) check() error {
	switch r.Type {
	case JoinGroup, LeaveGroup, SendToGroup, SetGroupState, SubscribeGroupState, UnsubscribeGroupState:
		if !ValidGroup(r.Group) {
			return malformed("Invalid group name.")
		}
	case Event, Invoke:
		if !ValidEvent(r.Event) {
			return malformed("Invalid event name.")
		}
	}
	if r.TTL < 0 || r.TTL > 300*time.Second {
		return malformed("ttlSeconds must be between 0 and 300.")
	}
	if err := ValidMetadata(r.Metadata); err != nil {
		return malformed("%.100v", err)
	}
	switch r.Type {
	case SendToGroup, Event:
		switch {
		case r.Stream != nil && (r.HasData || r.Type == Event):
			return malformed("A stream begins without data.")
		case r.Stream == nil && !r.HasData && r.Metadata == nil:
			return malformed("Missing property: data.")
		case r.Stream == nil && !r.HasData:
			r.Data, r.HasData = hub.Data{Kind: hub.Text, Bytes: []byte{}}, true
		}
	case Invoke, CancelInvocation:
		if r.InvocationID == "" {
			return malformed("Missing property: invocationId.")
		}
		if r.Type == Invoke && !r.HasData {
			r.Data = hub.Data{Kind: hub.Text, Bytes: []byte{}}
		}
	case StreamData:
		if r.HasData != r.HasStreamSeq {
			return malformed("A part of a stream has a streamSequenceId and data, or neither.")
		}
	}
	return nil
}

// Simple encodes for clients without a subprotocol of ours: payloads as they are, and nothing but data.
var Simple hub.Encoder = simple{}

type simple struct{}

func (simple) Slot() int { return slotSimple }

func (simple) Encode(m *hub.Message) []byte {
	if m.States != nil {
		return nil
	}
	if m.Data.Kind == hub.Text || m.Data.Kind == hub.JSON {
		return socket.Seal(append(socket.Begin(nil), valid(m.Data.Bytes)...), 0, true)
	}
	return socket.Seal(append(socket.Begin(nil), m.Data.Bytes...), 0, false)
}

func (simple) Append(dst, shared []byte, _ uint64) []byte { return append(dst, shared...) }
