package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/dashboard/socket"
	"millrace/fanout/hub"
)

// jsonCodec is json.webpubsub.azure.v1, and json.reliable.webpubsub.azure.v1.
type jsonCodec struct{ reliable bool }

func (j jsonCodec) Name() string {
	if j.reliable {
		return ReliableJSON
	}
	return JSON
}

func (j jsonCodec) Reliable() bool { return j.reliable }

func (j jsonCodec) Slot() int {
	if j.reliable {
		return slotReliableJSON
	}
	return slotJSON
}

// frame is what clients send.
type frame struct {
	Type             string          `json:"type"`
	Group            *string         `json:"group"`
	Event            *string         `json:"event"`
	Target           *string         `json:"target"`
	InvocationID     *string         `json:"invocationId"`
	AckID            *uint64         `json:"ackId"`
	DataType         *string         `json:"dataType"`
	Data             json.RawMessage `json:"data"`
	NoEcho           *bool           `json:"noEcho"`
	TTLSeconds       *uint32         `json:"ttlSeconds"`
	Metadata         texts           `json:"metadata"`
	SequenceID       *uint64         `json:"sequenceId"`
	Stream           *streamStart    `json:"stream"`
	StreamID         *string         `json:"streamId"`
	StreamSequenceID *uint64         `json:"streamSequenceId"`
	Error            *streamEnd      `json:"error"`
	State            texts           `json:"state"`
}

// texts is an object of strings, each key once.
type texts map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *texts) UnmarshalJSON(p []byte) error {
	if string(p) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(p))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return malformed("metadata and state are objects.")
	}
	*m = texts{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		v, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := k.(string) // as all keys
		text, ok := v.(string)
		if !ok {
			return malformed("The value of %.40q is no string.", key)
		}
		if _, twice := (*m)[key]; twice {
			return malformed("The key %.40q is there twice.", key)
		}
		(*m)[key] = text
	}
	return nil
}

type streamStart struct {
	StreamID      *string `json:"streamId"`
	IdleTimeoutMs *uint32 `json:"idleTimeoutMs"`
}

type streamEnd struct {
	Message       *string `json:"message"`
	UserErrorCode *string `json:"userErrorCode"`
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Decode reads a frame; binary ones that are UTF-8 are taken too.
func (j jsonCodec) Decode(text bool, p []byte, r *Request) error {
	switch {
	case utf8.Valid(p):
	case text:
		return malformed("Invalid JSON: it is not UTF-8.")
	default:
		return &socket.CloseError{Code: socket.UnsupportedData, Reason: "Frames of this subprotocol are text."}
	}
	var f frame
	if err := json.Unmarshal(p, &f); err != nil {
		if e, ok := errors.AsType[*socket.CloseError](err); ok {
			return e
		}
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
			return malformed("Invalid value of property: %s.", e.Field)
		}
		return malformed("Invalid JSON.")
	}
	*r = Request{Type: types[strings.ToLower(f.Type)], Group: value(f.Group), Event: value(f.Event), InvocationID: value(f.InvocationID),
		AckID: value(f.AckID), HasAck: f.AckID != nil, NoEcho: value(f.NoEcho), TTL: time.Duration(value(f.TTLSeconds)) * time.Second,
		Sequence: value(f.SequenceID), StreamID: value(f.StreamID), StreamSeq: value(f.StreamSequenceID), HasStreamSeq: f.StreamSequenceID != nil, Metadata: f.Metadata, State: f.State}
	switch {
	case r.Type == 0:
		return malformed("Unknown type: %.60q.", f.Type)
	case r.Type == SequenceAck && f.SequenceID == nil:
		return malformed("Missing property: sequenceId.")
	case r.Type == Invoke && !strings.EqualFold(value(f.Target), "event"):
		return malformed("target must be event.")
	}
	if f.Stream != nil {
		if f.Stream.IdleTimeoutMs != nil && *f.Stream.IdleTimeoutMs == 0 {
			return malformed("idleTimeoutMs must be positive.")
		}
		r.Stream = &StreamStart{ID: value(f.Stream.StreamID), Idle: time.Duration(value(f.Stream.IdleTimeoutMs)) * time.Millisecond}
	}
	if f.Error != nil {
		r.EndError = &hub.StreamError{Message: value(f.Error.Message), UserCode: value(f.Error.UserErrorCode)}
	}
	if err := r.data(&f); err != nil {
		return err
	}
	return r.check()
}

// data reads data and dataType.
func (r *Request) data(f *frame) error {
	if len(f.Data) == 0 || string(f.Data) == "null" {
		return nil
	}
	kind := strings.ToLower(value(f.DataType))
	var s string
	if kind != "" && kind != "json" {
		if err := json.Unmarshal(f.Data, &s); err != nil {
			return malformed("data of type %.20s must be a string.", kind)
		}
	}
	switch kind {
	case "", "json":
		r.Data = hub.Data{Kind: hub.JSON, Bytes: bytes.Clone(f.Data)}
	case "text":
		r.Data = hub.Data{Kind: hub.Text, Bytes: []byte(s)}
	case "binary", "protobuf":
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return malformed("data is not base64.")
		}
		r.Data = hub.Data{Kind: hub.Binary, Bytes: b}
		if kind == "protobuf" {
			r.Data.Kind = hub.Protobuf
		}
	default:
		return malformed("Unknown dataType: %.20q.", kind)
	}
	r.HasData = true
	return nil
}

// appendString appends s as JSON. What is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x80 {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can be encoded
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// field appends a member of an object that has members already.
func field(dst []byte, name, value string) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return appendString(dst, value)
}

func number(dst []byte, name string, n uint64) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return strconv.AppendUint(dst, n, 10)
}

// appendData appends the members dataType and data.
func appendData(dst []byte, d hub.Data) []byte {
	dst = append(dst, `,"dataType":"`...)
	switch d.Kind {
	case hub.JSON:
		dst = append(dst, `json","data":`...)
		return append(dst, valid(d.Bytes)...)
	case hub.Text:
		dst = append(dst, `text","data":`...)
		return appendString(dst, string(d.Bytes))
	case hub.Protobuf:
		dst = append(dst, `protobuf","data":"`...)
	default:
		dst = append(dst, `binary","data":"`...)
	}
	dst = base64.StdEncoding.AppendEncode(dst, d.Bytes)
	return append(dst, '"')
}

// sortedMap appends a member that is an object of strings.
func sortedMap(dst []byte, name string, m map[string]string) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, `":{`...)
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, k)
		dst = append(dst, ':')
		dst = appendString(dst, m[k])
	}
	return append(dst, '}')
}

// Encode returns a whole WebSocket message, on reliable connections what comes in it after the number.
func (j jsonCodec) Encode(m *hub.Message) []byte {
	var dst []byte
	if !j.reliable {
		dst = append(socket.Begin(nil), '{')
	}
	if m.States != nil {
		dst = appendStates(dst, m)
	} else {
		dst = appendMessage(dst, m)
	}
	dst = append(dst, '}')
	if j.reliable {
		return dst
	}
	return socket.Seal(dst, 0, true)
}

func appendMessage(dst []byte, m *hub.Message) []byte {
	if m.Group != "" {
		dst = append(dst, `"type":"message","from":"group"`...)
		dst = field(dst, "group", m.Group)
		if m.User != "" {
			dst = field(dst, "fromUserId", m.User)
		}
	} else {
		dst = append(dst, `"type":"message","from":"server"`...)
	}
	dst = appendData(dst, m.Data)
	if len(m.Metadata) > 0 {
		dst = sortedMap(dst, "metadata", m.Metadata)
	}
	if s := m.Stream; s != nil {
		dst = append(dst, `,"stream":{"streamId":`...)
		dst = appendString(dst, s.ID)
		dst = number(dst, "streamSequenceId", s.Seq)
		if s.End {
			dst = append(dst, `,"endOfStream":true`...)
		}
		if s.Error != nil {
			dst = append(dst, `,"error":`...)
			dst = appendStreamError(dst, s.Error)
		}
		dst = append(dst, '}')
	}
	return dst
}

func appendStreamError(dst []byte, e *hub.StreamError) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, e.Name)
	if e.Message != "" {
		dst = field(dst, "message", e.Message)
	}
	if e.UserCode != "" {
		dst = field(dst, "userErrorCode", e.UserCode)
	}
	return append(dst, '}')
}

func appendStates(dst []byte, m *hub.Message) []byte {
	kind := `"type":"groupStateUpdate"`
	if m.States.Snapshot {
		kind = `"type":"groupStateSnapshot"`
	}
	dst = append(dst, kind...)
	dst = field(dst, "group", m.Group)
	dst = append(dst, `,"items":[`...)
	for i, s := range m.States.Items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"connectionId":`...)
		dst = appendString(dst, s.Connection)
		if s.User != "" {
			dst = field(dst, "userId", s.User)
		}
		if s.State != nil {
			dst = sortedMap(dst, "state", s.State)
		}
		dst = append(dst, `,"updatedAt":`...)
		dst = strconv.AppendInt(dst, s.Updated, 10)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// sequence begins a message on reliable connections.
const sequence = `{"sequenceId":`

// Append implements hub.Encoder.
func (j jsonCodec) Append(dst, shared []byte, seq uint64) []byte {
	if !j.reliable {
		return append(dst, shared...)
	}
	start := len(dst)
	dst = socket.Begin(dst)
	dst = append(dst, sequence...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, ',')
	dst = append(dst, shared...)
	return socket.Seal(dst, start, true)
}

// control frames what write appends.
func control(dst []byte, write func([]byte) []byte) []byte {
	start := len(dst)
	return socket.Seal(write(socket.Begin(dst)), start, true)
}

// Connected implements Codec. What has no value is left out: some clients read null as a text.
func (j jsonCodec) Connected(dst []byte, user, connection, token string) []byte {
	return control(dst, func(b []byte) []byte {
		b = append(b, `{"type":"system","event":"connected"`...)
		if user != "" {
			b = field(b, "userId", user)
		}
		b = field(b, "connectionId", connection)
		if token != "" {
			b = field(b, "reconnectionToken", token)
		}
		return append(b, '}')
	})
}

// Disconnected implements Codec.
func (j jsonCodec) Disconnected(dst []byte, reason string) []byte {
	return control(dst, func(b []byte) []byte {
		return append(field(append(b, `{"type":"system","event":"disconnected"`...), "message", reason), '}')
	})
}

// Ack implements Codec.
func (j jsonCodec) Ack(dst []byte, id uint64, err *hub.Error) []byte {
	return control(dst, func(b []byte) []byte {
		b = number(append(b, `{"type":"ack"`...), "ackId", id)
		if err == nil {
			return append(b, `,"success":true}`...)
		}
		return append(appendError(append(b, `,"success":false`...), err), '}')
	})
}

func appendError(b []byte, err *hub.Error) []byte {
	b = append(b, `,"error":{"name":`...)
	b = appendString(b, err.Name)
	return append(field(b, "message", err.Message), '}')
}

// Pong implements Codec.
func (j jsonCodec) Pong(dst []byte) []byte {
	return control(dst, func(b []byte) []byte { return append(b, `{"type":"pong"}`...) })
}

// InvokeResponse implements Codec.
func (j jsonCodec) InvokeResponse(dst []byte, id string, d *hub.Data, err *hub.Error) []byte {
	return control(dst, func(b []byte) []byte {
		b = field(append(b, `{"type":"invokeResponse"`...), "invocationId", id)
		if err != nil {
			return append(appendError(append(b, `,"success":false`...), err), '}')
		}
		b = append(b, `,"success":true`...)
		if d != nil {
			b = appendData(b, *d)
		}
		return append(b, '}')
	})
}

// StreamAck implements Codec.
func (j jsonCodec) StreamAck(dst []byte, id string, expected uint64) []byte {
	return control(dst, func(b []byte) []byte {
		return append(number(field(append(b, `{"type":"streamAck"`...), "streamId", id), "expectedSequenceId", expected), '}')
	})
}

// StreamNack implements Codec.
func (j jsonCodec) StreamNack(dst []byte, id string, expected uint64, name, message string) []byte {
	return control(dst, func(b []byte) []byte {
		b = number(field(append(b, `{"type":"streamNack"`...), "streamId", id), "expectedSequenceId", expected)
		return append(field(field(b, "name", name), "message", message), '}')
	})
}

// StreamClosed implements Codec.
func (j jsonCodec) StreamClosed(dst []byte, id string, err *hub.StreamError) []byte {
	return control(dst, func(b []byte) []byte {
		b = field(append(b, `{"type":"streamClosed"`...), "streamId", id)
		if err != nil {
			b = appendStreamError(append(b, `,"error":`...), &hub.StreamError{Name: err.Name, Message: err.Message})
		}
		return append(b, '}')
	})
}
