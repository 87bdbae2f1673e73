// Package event hands what Web PubSub clients do to event handlers and listeners: HTTP requests in the binary mode of CloudEvents 1.0.
// Connect and user events wait for the handler's answer. Notifications (connected, disconnected, joined, left) wait in order for
// each connection, are tried again, and become dead letters when no try succeeds.
package event

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// Config of a Dispatcher; what is left at zero gets its default.
type Config struct {
	Timeout      time.Duration   `default:"100s" help:"How long an event handler may take for one try."`
	Pauses       []time.Duration `default:"1s,3s,5s" help:"Pauses before an event handler is tried again, after 408, 5xx or a failed connection."`
	Calls        int             `default:"256" help:"Calls to one event handler at a time; further events wait."`
	Queue        int             `default:"100000" help:"Notifications that may wait for event handlers; what comes above is listed as dead."`
	Origin       string          `default:"localhost" placeholder:"HOST" help:"Name of this server that event handlers are told, in WebHook-Request-Origin."`
	Certificates bool            `default:"true" negatable:"" help:"Check the certificates of event handlers."`
}

func (c *Config) defaults() {
	if c.Timeout == 0 {
		c.Timeout = 100 * time.Second
	}
	if c.Pauses == nil {
		c.Pauses = []time.Duration{time.Second, 3 * time.Second, 5 * time.Second}
	}
	if c.Calls == 0 {
		c.Calls = 256
	}
	if c.Queue == 0 {
		c.Queue = 100_000
	}
}

// Source has the settings of hubs.
type Source interface {
	Hub(name string) hubs.Settings
	Keys() hubs.Keys
}

// Letters keeps notifications that no handler took.
type Letters interface {
	AddLetter(ctx context.Context, l hubs.Letter) error
}

// Publish puts a message on a NATS subject, and returns when it is kept.
type Publish func(ctx context.Context, subject string, header map[string][]string, body []byte) error

// A Tunnel carries requests to servers that are connected to us.
type Tunnel interface {
	Do(ctx context.Context, hub, connection string, req *http.Request) (*http.Response, error)
}

// A Client is who an event is about.
type Client struct {
	Hub, Connection, User, Subprotocol string
	State                              *string // nil: none
	ID                                 uint64  // ce-id
	Physical, Session                  string  // of MQTT clients
}

// A Certificate is one that a client showed.
type Certificate struct {
	Thumbprint string `json:"thumbprint"` // SHA-1, hexadecimal
	Content    string `json:"content"`    // PEM
}

// CertificateOf makes it.
func CertificateOf(c *x509.Certificate) Certificate {
	sum := sha1.Sum(c.Raw)
	return Certificate{strings.ToUpper(hex.EncodeToString(sum[:])), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))}
}

// Property is a user property of MQTT 5.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MQTTConnect is what a connect handler is told of an MQTT client.
type MQTTConnect struct {
	ProtocolVersion int        `json:"protocolVersion"`
	CleanStart      bool       `json:"cleanStart"`
	Username        *string    `json:"username"`
	Password        []byte     `json:"password"`
	UserProperties  []Property `json:"userProperties"`
}

// MQTTAnswer is what a connect handler tells an MQTT client.
type MQTTAnswer struct {
	Code           int        `json:"code"` // of CONNACK, when it refuses
	Reason         string     `json:"reason"`
	UserProperties []Property `json:"userProperties"`
}

// A ConnectRequest asks whether a client may connect.
type ConnectRequest struct {
	Client       `json:"-"`
	Claims       map[string][]string `json:"claims"`
	Query        map[string][]string `json:"query"`
	Headers      map[string][]string `json:"headers"`
	Subprotocols []string            `json:"subprotocols"`
	Certificates []Certificate       `json:"clientCertificates"`
	MQTT         *MQTTConnect        `json:"mqtt,omitempty"`
}

// A ConnectAnswer lets a client in.
type ConnectAnswer struct {
	Handled     bool      // a handler answered
	User        *string   // nil: the token's
	Groups      []string  // none: the token's
	Roles       *[]string // nil: the token's
	Subprotocol string
	State       *string
	MQTT        *MQTTAnswer
}

// Refused says that a client may not connect.
type Refused struct {
	Status      int
	Body        []byte
	ContentType string
}

func (r *Refused) Error() string { return "the connect handler refused: " + http.StatusText(r.Status) }

// An Answer is what a handler says to a user event. All may be nil.
type Answer struct {
	Data     *hub.Data
	Metadata map[string]string
	State    *string
	Status   int
	Header   http.Header
}

// ErrNoHandler is answered to a user event that no handler or listener takes.
var ErrNoHandler = errors.New("event: nobody takes the event")

// errFailed is answered when a handler failed; what went wrong is in the log.
var errFailed = errors.New("event: the handler failed")

// A Dispatcher hands events to handlers and listeners. Run sends notifications.
type Dispatcher struct {
	c       Config
	source  Source
	letters Letters
	publish Publish // nil: no NATS
	tunnel  Tunnel  // nil: none
	log     *slog.Logger
	http    *http.Client
	targets sync.Map // host and scheme → chan struct{}: slots for calls
	checked checks
	counts  counters
	jars    jars

	mu      sync.Mutex
	queues  map[string]*queue // of connections that have something waiting
	waiting int
	stopped bool
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

type counters struct {
	sent, failed, retried, dead, listened, unlistened atomic.Uint64
	open                                              atomic.Int64
}

// Stats are counters since start, but Open and Waiting.
type Stats struct {
	Sent      uint64 // events that a handler took
	Failed    uint64 // blocking events whose handler failed
	Retried   uint64 // tries after the first
	Dead      uint64 // notifications that no try brought to their handler
	Listened  uint64 // copies that listeners got
	Unlistend uint64 // copies that they did not get
	Open      int    // calls under way
	Waiting   int    // notifications
}

// New returns a dispatcher. Publish and tunnel may be nil.
func New(c Config, s Source, letters Letters, publish Publish, tunnel Tunnel, log *slog.Logger) *Dispatcher {
	c.defaults()
	d := &Dispatcher{c: c, source: s, letters: letters, publish: publish, tunnel: tunnel, log: log, http: newHTTP(c), queues: map[string]*queue{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Stats is safe to call at any time.
func (d *Dispatcher) Stats() Stats {
	d.mu.Lock()
	waiting := d.waiting
	d.mu.Unlock()
	n := &d.counts
	return Stats{Sent: n.sent.Load(), Failed: n.failed.Load(), Retried: n.retried.Load(), Dead: n.dead.Load(), Listened: n.listened.Load(), Unlistend: n.unlistened.Load(),
		Open: int(n.open.Load()), Waiting: waiting}
}

// handlerOf finds the first handler that takes an event.
func (d *Dispatcher) handlerOf(hubName string, system bool, name string) (hubs.Handler, bool) {
	for _, h := range d.source.Hub(hubName).Handlers {
		if takes(h.UserEvents, h.SystemEvents, system, name) {
			return h, true
		}
	}
	return hubs.Handler{}, false
}

// takes reports whether an event is one of those that are listed.
func takes(user string, systems []string, system bool, name string) bool {
	if system {
		for _, s := range systems {
			if strings.EqualFold(s, name) {
				return true
			}
		}
		return false
	}
	for p := range strings.SplitSeq(user, ",") {
		if p = strings.TrimSpace(p); p == "*" || p != "" && hub.MatchPattern(strings.ToLower(p), strings.ToLower(name)) {
			return true
		}
	}
	return false
}
