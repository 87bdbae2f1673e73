package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// ErrNoHandler: neither a handler nor a listener takes the event.
var ErrNoHandler = errors.New("no event handler takes this event")

type connectBody struct {
	Claims       map[string][]string `json:"claims"`
	Query        map[string][]string `json:"query"`
	Headers      map[string][]string `json:"headers"`
	Subprotocols []string            `json:"subprotocols"`
	Certificates []Certificate       `json:"clientCertificates"`
	MQTT         *MQTTConnect        `json:"mqtt,omitempty"`
}

// Connect asks the handler of connect, and waits for its answer. The error is a *Refused when the client must not connect, or that of
// ctx. Without a handler the answer is empty: the caller decides by the token.
func (d *Dispatcher) Connect(ctx context.Context, r *ConnectRequest) (*ConnectAnswer, error) {
	h, ok := d.system(r.Hub, connect)
	if !ok {
		return &ConnectAnswer{}, nil
	}
	b := connectBody{
		Claims: without(r.Claims, ""), Query: without(r.Query, "access_token"), Headers: without(r.Headers, "Authorization"),
		Subprotocols: r.Subprotocols, Certificates: r.Certificates, MQTT: r.MQTT,
	}
	if b.Subprotocols == nil {
		b.Subprotocols = []string{}
	}
	if b.Certificates == nil {
		b.Certificates = []Certificate{}
	}
	if b.MQTT != nil && b.MQTT.UserProperties == nil {
		m := *b.MQTT
		m.UserProperties = []Property{}
		b.MQTT = &m
	}
	body, err := marshal(b)
	if err != nil {
		return nil, &Refused{Status: http.StatusInternalServerError, Err: err}
	}
	reply, err := d.call(ctx, h, d.envelope(r.Client, sysPrefix, connect, jsonType, body))
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &Refused{Status: http.StatusInternalServerError, Err: err}
	}
	if !reply.ok() {
		no := &Refused{Status: http.StatusInternalServerError, Header: reply.header, MQTT: mqttRefusal(reply.body), Err: fmt.Errorf("answered %d", reply.status)}
		if reply.status/100 == 4 && reply.status != http.StatusRequestTimeout {
			no.Status, no.Body, no.ContentType = reply.status, reply.body, reply.header.Get("Content-Type")
		}
		return nil, no
	}
	a, err := parseConnect(reply, r.Subprotocols)
	if err != nil {
		d.failed.Add(1)
		d.complain("event handler", r.Hub, h.URL, err)
		return nil, &Refused{Status: http.StatusInternalServerError, Header: reply.header, Err: err}
	}
	return a, nil
}

// without copies m without a name, in any case.
func without(m map[string][]string, name string) map[string][]string {
	out := make(map[string][]string, len(m))
	for k, v := range m {
		if name != "" && strings.EqualFold(k, name) {
			continue
		}
		if v == nil {
			v = []string{}
		}
		out[k] = v
	}
	return out
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// parseConnect reads what a handler answered, whatever its content type says.
func parseConnect(r *reply, offered []string) (*ConnectAnswer, error) {
	a := &ConnectAnswer{Handled: true, State: state(r.header)}
	body := bytes.TrimSpace(bytes.TrimPrefix(r.body, []byte("\xef\xbb\xbf")))
	if len(body) == 0 || r.status == http.StatusNoContent {
		return a, nil
	}
	var in *struct {
		UserID      *string    `json:"userId"`
		Groups      []*string  `json:"groups"`
		Roles       *[]*string `json:"roles"`
		Subprotocol *string    `json:"subprotocol"`
		MQTT        *struct {
			UserProperties []Property `json:"userProperties"`
		} `json:"mqtt"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("answer to connect: %w", err)
	}
	if in == nil {
		return a, nil
	}
	a.User = in.UserID
	for _, g := range in.Groups {
		if g == nil || strings.TrimSpace(*g) == "" || utf8.RuneCountInString(*g) > 1024 {
			return nil, errors.New("answer to connect: a group has no name, or one longer than 1024 characters")
		}
		a.Groups = append(a.Groups, *g)
	}
	if in.Roles != nil {
		roles := []string{}
		for _, r := range *in.Roles {
			if r == nil {
				return nil, errors.New("answer to connect: a role is null")
			}
			roles = append(roles, *r)
		}
		a.Roles = &roles
	}
	if in.Subprotocol != nil && *in.Subprotocol != "" {
		for _, o := range offered {
			if o == *in.Subprotocol || a.Subprotocol == "" && strings.EqualFold(o, *in.Subprotocol) {
				a.Subprotocol = o
			}
		}
		if a.Subprotocol == "" {
			return nil, fmt.Errorf("answer to connect: the client has not offered subprotocol %q", *in.Subprotocol)
		}
	}
	if in.MQTT != nil {
		a.UserProperties = in.MQTT.UserProperties
	}
	return a, nil
}

func mqttRefusal(body []byte) *MQTTRefusal {
	var in struct {
		MQTT *MQTTRefusal `json:"mqtt"`
	}
	if json.Unmarshal(body, &in) != nil {
		return nil
	}
	return in.MQTT
}

// state is the last of the headers that set it.
func state(h http.Header) *string {
	if v := h.Values(stateHeader); len(v) > 0 {
		return &v[len(v)-1]
	}
	return nil
}

// User sends an event of a client, and waits for the handler's answer. The error is ErrNoHandler, a *Refused, or that of ctx.
// A connection's events are sent in order, one after the other, by the caller.
func (d *Dispatcher) User(ctx context.Context, c Client, name string, data hub.Data, metadata map[string]string) (*Answer, error) {
	return d.Request(ctx, &UserRequest{Client: c, Name: name, Data: data, Metadata: metadata})
}

// Request is User, with what MQTT has more.
func (d *Dispatcher) Request(ctx context.Context, r *UserRequest) (*Answer, error) {
	ct := r.ContentType
	if ct == "" {
		ct = contentType(r.Data.Kind)
	}
	e := d.envelope(r.Client, userPrefix, r.Name, ct, r.Data.Bytes)
	e.metadata, e.header = r.Metadata, r.Header
	s := d.source.Hub(r.Hub)
	heard := d.copy(e, s.Listeners, func(l hubs.Listener) bool { return Matches(l.UserEvents, r.Name) })
	for _, h := range s.Handlers {
		if !Matches(h.UserEvents, r.Name) {
			continue
		}
		reply, err := d.call(ctx, h, e)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return nil, &Refused{Status: http.StatusInternalServerError, Err: err}
		}
		if !reply.ok() {
			return nil, &Refused{
				Status: reply.status, Body: reply.body, ContentType: reply.header.Get("Content-Type"), Header: reply.header,
				Err: fmt.Errorf("answered %d", reply.status),
			}
		}
		a, err := parseAnswer(reply, r.Physical != "")
		if err != nil {
			d.failed.Add(1)
			d.complain("event handler", r.Hub, h.URL, err)
			return nil, &Refused{Status: http.StatusInternalServerError, Header: reply.header, Err: err}
		}
		return a, nil
	}
	if heard {
		return &Answer{}, nil
	}
	return nil, ErrNoHandler
}

// parseAnswer reads the answer to a user's event. MQTT clients may get any content type.
func parseAnswer(r *reply, any bool) (*Answer, error) {
	a := &Answer{Status: r.status, Header: r.header, State: state(r.header), ContentType: r.header.Get("Content-Type")}
	for name, v := range r.header {
		if k, ok := strings.CutPrefix(strings.ToLower(name), metadataPrefix); ok && k != "" && len(v) > 0 {
			if a.Metadata == nil {
				a.Metadata = map[string]string{}
			}
			a.Metadata[k] = v[len(v)-1]
		}
	}
	if len(r.body) == 0 {
		return a, nil
	}
	t := a.ContentType
	if t != "" {
		m, _, err := mime.ParseMediaType(t)
		if err != nil && m == "" {
			if !any {
				return nil, fmt.Errorf("answer: content type %q", t)
			}
		}
		t = m
	}
	a.Data = &hub.Data{Kind: hub.Binary, Bytes: r.body}
	switch t {
	case "", "application/octet-stream":
	case "application/json":
		a.Data.Bytes = bytes.TrimPrefix(r.body, []byte("\xef\xbb\xbf"))
		if !json.Valid(a.Data.Bytes) {
			return nil, errors.New("answer: it is not JSON")
		}
		a.Data.Kind = hub.JSON
	case "text/plain":
		if !utf8.Valid(r.body) {
			return nil, errors.New("answer: it is not UTF-8")
		}
		a.Data.Kind = hub.Text
	case "application/x-protobuf":
		a.Data.Kind = hub.Protobuf
	default:
		if !any {
			return nil, fmt.Errorf("answer: content type %q", a.ContentType)
		}
	}
	return a, nil
}
