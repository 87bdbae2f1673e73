package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"millrace/dashboard/socket"
	"millrace/fanout/hub"
)

// protobufCodec is protobuf.webpubsub.azure.v1, and protobuf.reliable.webpubsub.azure.v1. Its few messages are read and written field by
// field, so that what is shared by all receivers is encoded once.
type protobufCodec struct{ reliable bool }

func (c protobufCodec) Name() string {
	if c.reliable {
		return ReliableProtobuf
	}
	return Protobuf
}

func (c protobufCodec) Reliable() bool { return c.reliable }

func (c protobufCodec) Slot() int {
	if c.reliable {
		return slotReliableProtobuf
	}
	return slotProtobuf
}

// fields calls f for each field of a message; v is the value of a varint, b that of bytes.
func fields(p []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(p) > 0 {
		n, kind, size := protowire.ConsumeTag(p)
		if size < 0 {
			return malformed("Invalid protobuf.")
		}
		p = p[size:]
		var v uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(p)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(p)
			if b == nil {
				b = []byte{}
			}
		default:
			size = protowire.ConsumeFieldValue(n, kind, p)
			n = 0 // nobody's
		}
		if size < 0 {
			return malformed("Invalid protobuf.")
		}
		p = p[size:]
		if err := f(n, v, b); err != nil {
			return err
		}
	}
	return nil
}

// text is a string field.
func text(dst *string, b []byte) error {
	if b == nil || !utf8.Valid(b) {
		return malformed("Invalid protobuf: a text is not UTF-8.")
	}
	*dst = string(b)
	return nil
}

// upstream are the types of requests by their field of UpstreamMessage.
var upstream = map[protowire.Number]Type{1: SendToGroup, 5: Event, 6: JoinGroup, 7: LeaveGroup, 8: SequenceAck, 9: Ping, 13: StreamData, 14: StreamEnd}

// Decode reads an UpstreamMessage.
func (c protobufCodec) Decode(isText bool, p []byte, r *Request) error {
	if isText {
		return &socket.CloseError{Code: socket.UnsupportedData, Reason: "Frames of this subprotocol are binary."}
	}
	*r = Request{}
	var body []byte
	if err := fields(p, func(n protowire.Number, _ uint64, b []byte) error {
		if t, ok := upstream[n]; ok && b != nil { // the last of a oneof counts
			r.Type, body = t, b
		}
		return nil
	}); err != nil {
		return err
	}
	var err error
	switch r.Type {
	case SendToGroup:
		err = fields(body, func(n protowire.Number, v uint64, b []byte) error {
			switch n {
			case 1:
				return text(&r.Group, b)
			case 2:
				r.AckID, r.HasAck = v, b == nil
			case 3:
				return r.messageData(b)
			case 4:
				r.NoEcho = v != 0
			case 5:
				r.TTL = time.Duration(min(v, math.MaxInt32)) * time.Second
			case 6:
				return r.metadatum(b)
			case 7:
				return r.streamStart(b)
			}
			return nil
		})
	case Event:
		err = fields(body, func(n protowire.Number, v uint64, b []byte) error {
			switch n {
			case 1:
				return text(&r.Event, b)
			case 2:
				return r.messageData(b)
			case 3:
				r.AckID, r.HasAck = v, b == nil
			case 4:
				return r.metadatum(b)
			case 5:
				return r.streamStart(b)
			}
			return nil
		})
	case JoinGroup, LeaveGroup:
		err = fields(body, func(n protowire.Number, v uint64, b []byte) error {
			switch n {
			case 1:
				return text(&r.Group, b)
			case 2:
				r.AckID, r.HasAck = v, b == nil
			}
			return nil
		})
	case SequenceAck:
		err = fields(body, func(n protowire.Number, v uint64, _ []byte) error {
			if n == 1 {
				r.Sequence = v
			}
			return nil
		})
	case Ping:
	case StreamData:
		err = fields(body, func(n protowire.Number, v uint64, b []byte) error {
			switch n {
			case 1:
				return text(&r.StreamID, b)
			case 2:
				r.StreamSeq, r.HasStreamSeq = v, b == nil
			case 3:
				return r.messageData(b)
			}
			return nil
		})
	case StreamEnd:
		err = fields(body, func(n protowire.Number, _ uint64, b []byte) error {
			switch n {
			case 1:
				return text(&r.StreamID, b)
			case 2:
				r.EndError = &hub.StreamError{}
				return fields(b, func(n protowire.Number, _ uint64, b []byte) error {
					switch n {
					case 1:
						return text(&r.EndError.Message, b)
					case 2:
						return text(&r.EndError.UserCode, b)
					}
					return nil
				})
			}
			return nil
		})
	default:
		return malformed("The message is empty.")
	}
	if err != nil {
		return err
	}
	return r.check()
}

// messageData reads a MessageData.
func (r *Request) messageData(b []byte) error {
	return fields(b, func(n protowire.Number, _ uint64, b []byte) error {
		if b == nil || n < 1 || n > 4 {
			return nil
		}
		r.HasData = true
		r.Data = hub.Data{Kind: [...]hub.Kind{1: hub.Text, 2: hub.Binary, 3: hub.Protobuf, 4: hub.JSON}[n], Bytes: bytes.Clone(b)}
		if (n == 1 || n == 4) && !utf8.Valid(b) {
			return malformed("Invalid protobuf: a text is not UTF-8.")
		}
		if n == 4 && (!json.Valid(b) || string(bytes.TrimSpace(b)) == "null") { // it becomes a part of frames of JSON
			return malformed("json_data is no JSON value, or null.")
		}
		return nil
	})
}

// metadatum reads an entry of a map of strings.
func (r *Request) metadatum(b []byte) error {
	var k, v string
	if err := fields(b, func(n protowire.Number, _ uint64, b []byte) error {
		switch n {
		case 1:
			return text(&k, b)
		case 2:
			return text(&v, b)
		}
		return nil
	}); err != nil {
		return err
	}
	if r.Metadata == nil {
		r.Metadata = map[string]string{}
	}
	r.Metadata[k] = v
	return nil
}

func (r *Request) streamStart(b []byte) error {
	r.Stream = &StreamStart{}
	return fields(b, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			return text(&r.Stream.ID, b)
		case 2:
			if v == 0 {
				return malformed("idle_timeout_ms must be positive.")
			}
			r.Stream.Idle = time.Duration(min(v, math.MaxUint32)) * time.Millisecond
		}
		return nil
	})
}

// Fields as they are written.
func putText(dst []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, n, protowire.BytesType), strings.ToValidUTF8(s, "\uFFFD"))
}

func putNumber(dst []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, n, protowire.VarintType), v)
}

func putMessage(dst []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, n, protowire.BytesType), m)
}

// Fields of DownstreamMessage.
const (
	fieldAck          = 1
	fieldData         = 2
	fieldSystem       = 3
	fieldPong         = 4
	fieldStreamAck    = 6
	fieldStreamNack   = 7
	fieldStreamClosed = 8
)

// downstream frames one message.
func downstream(dst []byte, n protowire.Number, m []byte) []byte {
	start := len(dst)
	return socket.Seal(putMessage(socket.Begin(dst), n, m), start, false)
}

// appendMessageData appends the field of a MessageData. What was published as an Any but is none is binary, so that it can be read.
func appendMessageData(dst []byte, d hub.Data) []byte {
	switch {
	case d.Kind == hub.Text:
		return putMessage(dst, 1, valid(d.Bytes))
	case d.Kind == hub.JSON:
		return putMessage(dst, 4, valid(d.Bytes))
	case d.Kind == hub.Protobuf && isAny(d.Bytes):
		return putMessage(dst, 3, d.Bytes)
	}
	return putMessage(dst, 2, d.Bytes)
}

// isAny reports whether b is a google.protobuf.Any.
func isAny(b []byte) bool {
	var url string
	return fields(b, func(n protowire.Number, _ uint64, b []byte) error {
		if n == 1 {
			return text(&url, b)
		}
		return nil
	}) == nil
}

// Encode returns a whole WebSocket message, on reliable connections the DataMessage without its number. There are no group states.
func (c protobufCodec) Encode(m *hub.Message) []byte {
	if m.States != nil {
		return nil
	}
	b := []byte{}
	if m.Group != "" {
		b = putText(putText(b, 1, "group"), 2, m.Group)
	} else {
		b = putText(b, 1, "server")
	}
	b = putMessage(b, 3, appendMessageData(nil, m.Data))
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		b = putMessage(b, 5, putText(putText(nil, 1, k), 2, m.Metadata[k]))
	}
	if s := m.Stream; s != nil {
		info := putNumber(putText(nil, 1, s.ID), 2, s.Seq)
		if s.End {
			info = putNumber(info, 3, 1)
		}
		if s.Error != nil {
			e := putText(nil, 1, s.Error.Name)
			if s.Error.Message != "" {
				e = putText(e, 2, s.Error.Message)
			}
			if s.Error.UserCode != "" {
				e = putText(e, 3, s.Error.UserCode)
			}
			info = putMessage(info, 4, e)
		}
		b = putMessage(b, 6, info)
	}
	if c.reliable {
		return b
	}
	return downstream(nil, fieldData, b)
}

// Append implements hub.Encoder. The number comes after the shared part; the order of fields does not matter.
func (c protobufCodec) Append(dst, shared []byte, seq uint64) []byte {
	if !c.reliable {
		return append(dst, shared...)
	}
	var number [1 + binary.MaxVarintLen64]byte
	tail := putNumber(number[:0], 4, seq)
	start := len(dst)
	dst = protowire.AppendTag(socket.Begin(dst), fieldData, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(shared)+len(tail)))
	dst = append(dst, shared...)
	dst = append(dst, tail...)
	return socket.Seal(dst, start, false)
}

// Connected implements Codec.
func (c protobufCodec) Connected(dst []byte, user, connection, token string) []byte {
	m := putText(nil, 1, connection)
	if user != "" {
		m = putText(m, 2, user)
	}
	if token != "" {
		m = putText(m, 3, token)
	}
	return downstream(dst, fieldSystem, putMessage(nil, 1, m))
}

// Disconnected implements Codec.
func (c protobufCodec) Disconnected(dst []byte, reason string) []byte {
	return downstream(dst, fieldSystem, putMessage(nil, 2, putText(nil, 2, reason)))
}

// Ack implements Codec.
func (c protobufCodec) Ack(dst []byte, id uint64, err *hub.Error) []byte {
	m := putNumber(nil, 1, id)
	if err == nil {
		m = putNumber(m, 2, 1)
	} else {
		m = putMessage(m, 3, putText(putText(nil, 1, err.Name), 2, err.Message))
	}
	return downstream(dst, fieldAck, m)
}

// Pong implements Codec.
func (c protobufCodec) Pong(dst []byte) []byte { return downstream(dst, fieldPong, nil) }

// InvokeResponse implements Codec. The number of its field was never published, and neither were those of its request.
func (c protobufCodec) InvokeResponse(dst []byte, _ string, _ *hub.Data, _ *hub.Error) []byte {
	return dst
}

// StreamAck implements Codec.
func (c protobufCodec) StreamAck(dst []byte, id string, expected uint64) []byte {
	return downstream(dst, fieldStreamAck, putNumber(putText(nil, 1, id), 2, expected))
}

// StreamNack implements Codec.
func (c protobufCodec) StreamNack(dst []byte, id string, expected uint64, name, message string) []byte {
	return downstream(dst, fieldStreamNack, putNumber(putText(putText(putText(nil, 1, id), 2, name), 3, message), 4, expected))
}

// StreamClosed implements Codec.
func (c protobufCodec) StreamClosed(dst []byte, id string, err *hub.StreamError) []byte {
	m := putText(nil, 1, id)
	if err != nil {
		m = putMessage(m, 2, putText(putText(nil, 1, err.Name), 2, err.Message))
	}
	return downstream(dst, fieldStreamClosed, m)
}
