package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"millrace/devices"
	"millrace/fanout"
)

// Limits of a connection, documented in docs/protocol.md.
const (
	maxMessage       = 1 << 20 // bytes of one control message
	maxSubscriptions = 64
	maxWaiting       = 256     // control messages read but not yet answered
	maxWaitingBytes  = 2 << 20 // of those
	messageRate      = 200     // control messages a second, on average …
	messageBurst     = 1000    // … and at once
	maxPace          = 1000.0  // frames a second
)

// A request is a control message of a client. Fields that its type does not have are refused.
type request struct {
	Type string `json:"type"`
	ID   uint32 `json:"id"`

	Group    devices.GroupPath `json:"group"`    // subscribe
	Series   []string          `json:"series"`   // subscribe
	Pace     float64           `json:"pace"`     // subscribe: frames a second at most; 0: the group's tick
	Detail   string            `json:"detail"`   // subscribe: last, envelope (default), full
	Format   string            `json:"format"`   // subscribe: binary (default), json
	Credit   string            `json:"credit"`   // subscribe: auto (default for json), manual (default for binary)
	InFlight int               `json:"inFlight"` // subscribe: frames sent ahead of what was painted, 1 (default) or 2
	From     *fanout.Position  `json:"from"`     // subscribe: resume after

	Seq uint64 `json:"seq"` // credit

	Device  string          `json:"device"` // command
	Name    string          `json:"name"`
	Payload json.RawMessage `json:"payload"`
}

// fields are those each type of request may have beside "type"; true: it must have it.
var fields = map[string]map[string]bool{
	"subscribe":   {"id": true, "group": true, "series": false, "pace": false, "detail": false, "format": false, "credit": false, "inFlight": false, "from": false},
	"credit":      {"id": true, "seq": true},
	"unsubscribe": {"id": true},
	"command":     {"id": true, "device": false, "name": false, "payload": false},
	"ping":        {"id": false},
}

// parseRequest decodes a control message. With an error the request still has the id, as far as it could be read.
func parseRequest(p []byte) (request, error) {
	var r request
	var present map[string]json.RawMessage
	if err := json.Unmarshal(p, &present); err != nil || present == nil {
		if err == nil {
			err = errors.New("it is null")
		}
		return r, fmt.Errorf("a message is a JSON object: %v: %w", err, devices.ErrInvalid)
	}
	_ = json.Unmarshal(present["id"], &r.ID)
	_ = json.Unmarshal(present["type"], &r.Type)
	known, ok := fields[r.Type]
	if !ok {
		return r, devices.Invalid("type", "must be subscribe, credit, unsubscribe, command or ping")
	}
	for name := range present {
		if _, ok := known[name]; !ok && name != "type" {
			return r, devices.Invalid(name, "%s has no such field", r.Type)
		}
	}
	for name, must := range known {
		if raw, ok := present[name]; must && (!ok || string(raw) == "null") {
			return r, devices.Invalid(name, "is missing")
		}
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return r, devices.Invalid(e.Field, "a %s is not taken here", e.Value)
		}
		return r, fmt.Errorf("%v: %w", err, devices.ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return r, fmt.Errorf("one JSON object a message: %w", devices.ErrInvalid)
	}
	return r, nil
}

// format and credit of a subscription.
type delivery struct {
	json bool // else binary
	auto bool // a frame counts as painted once it is written
}

// options are what a subscribe request asks of the engine, checked.
func (r *request) options() (fanout.Options, delivery, error) {
	o := fanout.Options{Group: r.Group, Patterns: r.Series, From: r.From, Credit: r.InFlight}
	var d delivery
	switch r.Format {
	case "", "binary":
	case "json":
		d.json = true
	default:
		return o, d, devices.Invalid("format", "must be binary or json")
	}
	switch r.Credit {
	case "":
		d.auto = d.json
	case "auto":
		d.auto = true
	case "manual":
	default:
		return o, d, devices.Invalid("credit", "must be auto or manual")
	}
	switch r.Detail {
	case "", "envelope":
		o.Detail = fanout.Envelope
	case "last":
		o.Detail = fanout.Last
	case "full":
		o.Detail = fanout.Full
	default:
		return o, d, devices.Invalid("detail", "must be last, envelope or full")
	}
	if r.Pace < 0 || r.Pace > maxPace || math.IsNaN(r.Pace) || r.Pace > 0 && r.Pace < 1.0/3600 {
		return o, d, devices.Invalid("pace", "must be frames a second between 1/3600 and %g, or 0 for the group's tick", maxPace)
	}
	if r.Pace > 0 {
		o.Pace = time.Duration(float64(time.Second) / r.Pace)
	}
	if r.InFlight < 0 || r.InFlight > 2 {
		return o, d, devices.Invalid("inFlight", "must be 1 or 2")
	}
	if o.Group == devices.Site {
		return o, d, devices.Invalid("group", "is missing: a path such as plant1/line2")
	}
	return o, d, nil
}

// A member is a series in subscribed and series messages. Low and high bound its normal band.
type member struct {
	Index  uint32     `json:"index"`
	Device devices.ID `json:"device"`
	Metric string     `json:"metric"`
	Unit   string     `json:"unit"`
	Kind   string     `json:"kind"`
	Label  string     `json:"label,omitempty"`
	Low    *float64   `json:"low,omitempty"`
	High   *float64   `json:"high,omitempty"`
}

func members(ms []fanout.Member) []member {
	out := make([]member, len(ms))
	for i, m := range ms {
		out[i] = member{m.Index, m.Device, m.Metric, m.Unit, m.Kind.String(), m.Label, m.Low, m.High}
	}
	return out
}

// The messages of the server, but frames.
type (
	subscribedMessage struct {
		Type   string   `json:"type"`
		ID     uint32   `json:"id"`
		Epoch  string   `json:"epoch"`
		Seq    uint64   `json:"seq"`
		Series []member `json:"series"`
	}
	seriesMessage struct {
		Type    string   `json:"type"`
		ID      uint32   `json:"id"`
		Added   []member `json:"added"`
		Removed []uint32 `json:"removed"`
	}
	errorMessage struct {
		Type    string  `json:"type"`
		ID      *uint32 `json:"id,omitempty"`
		Code    string  `json:"code"`
		Message string  `json:"message"`
	}
	closedMessage struct {
		Type   string `json:"type"`
		ID     uint32 `json:"id"`
		Reason string `json:"reason"`
	}
)

// Codes of errors on a connection, documented in docs/protocol.md.
const (
	codeInvalid     = "invalid"     // the message can't be understood
	codeNotFound    = "not-found"   // no such group, or none that one may see; no such subscription
	codeExists      = "exists"      // the id is in use
	codeTooMany     = "too-many"    // subscriptions
	codeTooLarge    = "too-large"   // too many patterns
	codeUnsupported = "unsupported" // this server can't do that
	codeInternal    = "internal"
)

func errorCode(err error) string {
	switch {
	case errors.Is(err, devices.ErrInvalid):
		return codeInvalid
	case errors.Is(err, devices.ErrNotFound), errors.Is(err, devices.ErrForbidden):
		return codeNotFound
	case errors.Is(err, devices.ErrTooLarge):
		return codeTooLarge
	}
	return codeInternal
}

// Reasons why a subscription was closed by the server.
const (
	reasonForbidden = "forbidden" // the right to view the group has ended
	reasonGone      = "gone"      // the group was deleted
)

// appendJSON appends v, one of the messages above, which always encode.
func appendJSON(dst []byte, v any) []byte {
	b := bytes.NewBuffer(dst)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// parsePosition reads "epoch:seq", the event id of the stream.
func parsePosition(s string) (*fanout.Position, error) {
	epoch, seq, ok := strings.Cut(s, ":")
	var n uint64
	if ok {
		_, err := fmt.Sscanf(seq, "%d", &n)
		ok = err == nil && fmt.Sprint(n) == seq && epoch != ""
	}
	if !ok {
		return nil, devices.Invalid("from", "must be epoch:seq, as in the id of an event")
	}
	return &fanout.Position{Epoch: strings.Clone(epoch), Seq: n}, nil
}
