package event

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

const (
	awpsVersion    = "1.0"
	metadataPrefix = "x-webpubsub-metadata-"
	stateHeader    = "ce-connectionState"
	jsonType       = "application/json; charset=utf-8"
)

// An envelope is an event as it is sent, to whom ever. It stays the same over attempts.
type envelope struct {
	client      Client
	kind        string // azure.webpubsub.sys.connect
	event       string
	contentType string
	body        []byte
	metadata    map[string]string
	header      http.Header // more
	at          time.Time
	request     string // GUID
}

func (d *Dispatcher) envelope(c Client, prefix, event, contentType string, body []byte) *envelope {
	return &envelope{client: c, kind: prefix + event, event: event, contentType: contentType, body: body, at: d.now().UTC(), request: guid()}
}

const (
	sysPrefix  = "azure.webpubsub.sys."
	userPrefix = "azure.webpubsub.user."
	gpPrefix   = "azure.webpubsub.gp."
)

func (e *envelope) source() string {
	s := "/hubs/" + e.client.Hub + "/client/" + e.client.Connection
	if e.client.Physical != "" {
		s += "/" + e.client.Physical
	}
	return s
}

func (e *envelope) time() string { return e.at.Format("2006-01-02T15:04:05Z") }
func (e *envelope) id() string   { return strconv.FormatUint(e.client.ID, 10) }

// size is what e is counted as when it waits.
func (e *envelope) size() int {
	n := len(e.body) + len(e.client.User) + len(e.client.Connection) + 512
	if e.client.State != nil {
		n += len(*e.client.State)
	}
	for k, v := range e.metadata {
		n += len(k) + len(v)
	}
	return n
}

// headers are those of CloudEvents, without signature.
func (e *envelope) headers(origin string) http.Header {
	c := &e.client
	h := http.Header{}
	set := func(name, value string) { h.Set(name, clean(value)) }
	for name, vs := range e.header {
		for _, v := range vs {
			if validName(name) {
				h.Add(name, clean(v))
			}
		}
	}
	set("WebHook-Request-Origin", origin)
	set("Content-Type", e.contentType)
	set("ce-specversion", "1.0")
	set("ce-awpsversion", awpsVersion)
	set("ce-type", e.kind)
	set("ce-source", e.source())
	set("ce-id", e.id())
	set("ce-time", e.time())
	set("ce-connectionId", c.Connection)
	set("ce-hub", c.Hub)
	set("ce-eventName", e.event)
	set("x-ms-client-request-id", e.request)
	some := func(name, value string) {
		if value != "" {
			set(name, value)
		}
	}
	some("ce-userId", c.User)
	some("ce-subprotocol", c.Subprotocol)
	some("ce-physicalConnectionId", c.Physical)
	some("ce-sessionId", c.Session)
	if c.State != nil {
		set(stateHeader, *c.State)
	}
	for k, v := range e.metadata {
		if validName(k) {
			set(metadataPrefix+k, v)
		}
	}
	return h
}

// newRequest makes the request to a handler.
func (e *envelope) newRequest(ctx context.Context, u *url.URL, origin string, keys hubs.Keys) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(e.body))
	if err != nil {
		return nil, err
	}
	r.Header = e.headers(origin)
	r.Header.Set("User-Agent", "Millrace")
	if s := Signature(e.client.Connection, keys); s != "" {
		r.Header.Set("ce-signature", s)
	}
	e.client.Cookies.write(r)
	return r, nil
}

// Signature is what receivers check: HMAC-SHA256 of the connection id with each key.
func Signature(connection string, keys hubs.Keys) string {
	var parts []string
	for _, k := range []string{keys.Primary, keys.Secondary} {
		if k == "" {
			continue
		}
		m := hmac.New(sha256.New, []byte(k))
		m.Write([]byte(connection))
		parts = append(parts, "sha256="+hex.EncodeToString(m.Sum(nil)))
	}
	return strings.Join(parts, ",")
}

func contentType(k hub.Kind) string {
	switch k {
	case hub.Text:
		return "text/plain; charset=utf-8"
	case hub.JSON:
		return "application/json"
	case hub.Protobuf:
		return "application/x-protobuf"
	}
	return "application/octet-stream"
}

// clean percent-encodes what may not stand in a header: a user id is anything. Other than that UTF-8 goes out as it is.
func clean(s string) string {
	bad := func(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }
	for i := range len(s) {
		if !bad(s[i]) {
			continue
		}
		var b strings.Builder
		for i := range len(s) {
			if bad(s[i]) {
				fmt.Fprintf(&b, "%%%02X", s[i])
			} else {
				b.WriteByte(s[i])
			}
		}
		return b.String()
	}
	return s
}

// validName reports whether s can name a header: a token of RFC 9110, 5.6.2.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return s != ""
}

// guid is a random UUID (RFC 9562, version 4).
func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
