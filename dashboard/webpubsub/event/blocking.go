package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	"millrace/fanout/hub"
)

const contentJSON = "application/json; charset=utf-8"

// contentOf is the content type of data, by kind.
var contentOf = map[hub.Kind]string{hub.Text: "text/plain; charset=utf-8", hub.JSON: "application/json", hub.Binary: "application/octet-stream", hub.Protobuf: "application/x-protobuf"}

// Connect asks the handler whether a client may connect; without one it may. A *Refused says that it may not.
func (d *Dispatcher) Connect(ctx context.Context, r *ConnectRequest) (*ConnectAnswer, error) {
	h, ok := d.handlerOf(r.Hub, true, "connect")
	if !ok {
		return &ConnectAnswer{}, nil
	}
	for _, m := range []*map[string][]string{&r.Claims, &r.Query, &r.Headers} {
		if *m == nil {
			*m = map[string][]string{}
		}
	}
	if r.Subprotocols == nil {
		r.Subprotocols = []string{}
	}
	if r.Certificates == nil {
		r.Certificates = []Certificate{}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	res, _, err := d.deliver(ctx, &post{client: r.Client, kind: "azure.webpubsub.sys.connect", name: "connect", url: resolve(h.URL, r.Hub, "connect"), trusted: h.Trusted,
		content: contentJSON, body: body})
	if err != nil {
		d.failed(r.Client, "connect", h.URL, err)
		if s, ok := errors.AsType[*statusError](err); ok && s.status/100 == 4 && s.status != http.StatusRequestTimeout {
			return nil, &Refused{s.status, s.body, s.content}
		}
		return nil, &Refused{Status: http.StatusInternalServerError}
	}
	a := &ConnectAnswer{Handled: true, State: stateOf(res.header)}
	if body := bytes.TrimSpace(res.body); len(body) > 0 && !bytes.Equal(body, []byte("null")) {
		var answer struct {
			UserID      *string     `json:"userId"`
			Groups      []string    `json:"groups"`
			Roles       *[]*string  `json:"roles"`
			Subprotocol *string     `json:"subprotocol"`
			MQTT        *MQTTAnswer `json:"mqtt"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			d.failed(r.Client, "connect", h.URL, err)
			return nil, &Refused{Status: http.StatusInternalServerError}
		}
		a.User, a.Groups, a.MQTT = answer.UserID, answer.Groups, answer.MQTT
		if answer.Subprotocol != nil {
			a.Subprotocol = *answer.Subprotocol
		}
		for _, g := range a.Groups {
			if strings.TrimSpace(g) == "" || len(g) > 4096 {
				d.failed(r.Client, "connect", h.URL, errors.New("it named a group that can't be"))
				return nil, &Refused{Status: http.StatusInternalServerError}
			}
		}
		if answer.Roles != nil {
			roles := []string{}
			for _, role := range *answer.Roles {
				if role == nil {
					d.failed(r.Client, "connect", h.URL, errors.New("it named a role that is null"))
					return nil, &Refused{Status: http.StatusInternalServerError}
				}
				roles = append(roles, *role)
			}
			a.Roles = &roles
		}
	}
	return a, nil
}

// failed logs what a handler did wrong, which clients are not told.
func (d *Dispatcher) failed(c Client, name, url string, err error) {
	d.counts.failed.Add(1)
	d.log.Warn("an event handler failed", "hub", c.Hub, "event", name, "connection", c.Connection, "url", withoutQuery(url), "err", err)
}

// withoutQuery hides the secret that a URL may have.
func withoutQuery(u string) string {
	path, _, _ := strings.Cut(u, "?")
	return path
}

func stateOf(h http.Header) *string {
	v := h.Values("ce-connectionState")
	if len(v) == 0 {
		return nil
	}
	return &v[len(v)-1]
}

const metadataPrefix = "X-Webpubsub-Metadata-"

// User hands a user event to its handler and waits for the answer, and to listeners. ErrNoHandler: nobody takes it. With a listener and no
// handler the answer is nil.
func (d *Dispatcher) User(ctx context.Context, c Client, name string, data hub.Data, metadata map[string]string) (*Answer, error) {
	p := &post{client: c, kind: "azure.webpubsub.user." + name, name: name, content: contentOf[data.Kind], body: data.Bytes, extra: http.Header{}}
	for k, v := range metadata {
		p.extra["x-webpubsub-metadata-"+strings.ToLower(k)] = []string{v}
	}
	heard := d.listeners(p, false)
	h, ok := d.handlerOf(c.Hub, false, name)
	if !ok {
		if heard {
			return nil, nil
		}
		return nil, ErrNoHandler
	}
	p.url, p.trusted = resolve(h.URL, c.Hub, name), h.Trusted
	res, _, err := d.deliver(ctx, p)
	if err != nil {
		if ctx.Err() == nil {
			d.failed(c, name, h.URL, err)
		}
		if s, ok := errors.AsType[*statusError](err); ok {
			return &Answer{Status: s.status}, errFailed
		}
		return nil, errFailed
	}
	a := &Answer{State: stateOf(res.header), Status: res.status, Header: res.header}
	for k, v := range res.header {
		if name, ok := strings.CutPrefix(k, metadataPrefix); ok && len(v) > 0 {
			if a.Metadata == nil {
				a.Metadata = map[string]string{}
			}
			a.Metadata[strings.ToLower(name)] = v[len(v)-1]
		}
	}
	if len(res.body) == 0 {
		return a, nil
	}
	kind, ok := kindOf(res.header.Get("Content-Type"))
	if !ok || kind == hub.JSON && !json.Valid(res.body) {
		d.failed(c, name, h.URL, errors.New("its answer has a content type that can't be, or is not of it"))
		return nil, errFailed
	}
	a.Data = &hub.Data{Kind: kind, Bytes: res.body}
	return a, nil
}

// kindOf is what a content type says of an answer.
func kindOf(content string) (hub.Kind, bool) {
	if content == "" {
		return hub.Binary, true
	}
	media, _, err := mime.ParseMediaType(content)
	if err != nil {
		return 0, false
	}
	for kind, c := range contentOf {
		if name, _, _ := strings.Cut(c, ";"); name == media {
			return kind, true
		}
	}
	return 0, false
}
