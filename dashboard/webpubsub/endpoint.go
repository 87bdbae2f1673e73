// Package webpubsub speaks the client and REST protocols of Azure Web PubSub: applications written for that service run on
// Millrace when they are given its connection string. What a hub does is fanout/hub's business; this package is the
// handshake, the sessions of WebSocket clients, and the REST data plane.
//
//	protocol   frames of the subprotocols
//	access     connection strings and tokens
//	filter     OData filters
//	event      webhooks and listeners
package webpubsub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/socket"
	"millrace/dashboard/webpubsub/access"
	"millrace/dashboard/webpubsub/event"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/dashboard/webpubsub/telemetry"
	"millrace/devices"
	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

// Config of the endpoint.
type Config struct {
	Hub       hub.Config    `embed:""`
	Endpoints []string      `name:"endpoint" placeholder:"URL" help:"Further addresses of this server, as https://pubsub.example, that tokens may be made for: behind a proxy that changes Host."`
	Handlers  event.Config  `embed:"" prefix:"handler-"`
	Handshake time.Duration `default:"2m" help:"How long a connect handler may take in all."`
}

// Settings are those of hubs, and the keys.
type Settings interface {
	Hub(name string) hubs.Settings
	Keys() hubs.Keys
}

// Events hands events of clients to handlers and listeners; event.Dispatcher is one.
type Events interface {
	Connect(ctx context.Context, r *event.ConnectRequest) (*event.ConnectAnswer, error)
	User(ctx context.Context, c event.Client, name string, data hub.Data, metadata map[string]string) (*event.Answer, error)
	Connected(c event.Client)
	Disconnected(c event.Client, reason *string, mqtt any) // mqtt: *event.MQTTDisconnect, or nil
	Joined(c event.Client, group string)
	Left(c event.Client, group string)
	Wants(hub, name string) bool // a system event
	Takes(hub, name string) bool // a user event
}

// Feeds bring telemetry to hubs; telemetry.Bridge is one.
type Feeds interface {
	Joined(c *hub.Conn, group string) // does not block
	Left()                            // does not block
	Run(ctx context.Context, h *hub.Hub) error
}

// Deps are what an endpoint needs. All but the first two may be nil.
type Deps struct {
	Settings Settings
	Events   Events
	Feeds    Feeds
	Who      func(c *fiber.Ctx) *devices.Principal                          // who signed in as a user or with a token of Millrace
	Now      func(p *devices.Principal) *devices.Principal                  // what is known of them now; nil: nothing any more
	Measure  func(ctx context.Context, device string, payload []byte) error // takes a measurement, and returns when it is stored
}

// An Endpoint is the way into hubs. Register its routes, then Run.
type Endpoint struct {
	c        Config
	hubs     *hub.Service
	settings Settings
	events   Events
	d        Deps
	rights   chan struct{} // cap 1: rights of users have changed
	tokens   *access.Verifier
	recovery *access.Recovery
	sockets  *socket.Server
	log      *slog.Logger
	tracer   tracer
	counts   counters
}

// maxMessage is the largest message of a client, and the largest body of a request, in bytes.
const maxMessage = 1 << 20

// New returns an endpoint.
func New(c Config, d Deps, log *slog.Logger) *Endpoint {
	settings := d.Settings
	e := &Endpoint{c: c, d: d, settings: settings, events: d.Events, log: log, recovery: &access.Recovery{}, rights: make(chan struct{}, 1)}
	if e.c.Handshake == 0 {
		e.c.Handshake = 2 * time.Minute
	}
	e.hubs = hub.New(c.Hub, observer{e}, nil)
	e.tokens = &access.Verifier{Endpoints: c.Endpoints, Keys: func() (string, string) {
		k := settings.Keys()
		return k.Primary, k.Secondary
	}}
	e.sockets = socket.New(socket.Config{MaxMessage: maxMessage, Sweep: time.Second}, log)
	return e
}

// Hubs is what is going on.
func (e *Endpoint) Hubs() *hub.Service { return e.hubs }

// Sockets counts connections.
func (e *Endpoint) Sockets() socket.Stats { return e.sockets.Stats() }

// Register adds the routes.
func (e *Endpoint) Register(r fiber.Router) {
	r.Get("/client", e.client)
	r.Get("/client/hubs/:hub", e.client)
	r.All("/api/health", e.health)
	r.All("/api/hubs/*", e.rest)
}

// Run looks after connections until ctx ends.
func (e *Endpoint) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { _ = e.hubs.Run(ctx) })
	parts.Go(func() { e.follow(ctx) })
	if e.d.Feeds != nil {
		parts.Go(func() { _ = e.d.Feeds.Run(ctx, e.hubs.Hub(telemetry.Hub)) })
	}
	return e.sockets.Run(ctx)
}

// Shutdown tells clients to come back, and waits until they have gone or ctx ends.
func (e *Endpoint) Shutdown(ctx context.Context) error {
	return e.sockets.Shutdown(ctx, socket.ServiceRestart, "Service reload")
}

// refusal is why a handshake fails.
type refusal struct {
	status      int
	text        string
	contentType string
	body        []byte
}

func (r *refusal) Error() string { return r.text }

// send answers a handshake with it.
func (r *refusal) send(c *fiber.Ctx) error {
	if r.body != nil {
		c.Set(fiber.HeaderContentType, r.contentType)
		return c.Status(r.status).Send(r.body)
	}
	c.Set(fiber.HeaderContentType, fiber.MIMETextPlainCharsetUTF8)
	return c.Status(r.status).SendString(r.text)
}

func badRequest(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, text: fmt.Sprintf(format, args...)}
}

// queryOf is the query of a request with all values of each name.
func queryOf(c *fiber.Ctx) url.Values {
	q := url.Values{}
	c.Context().QueryArgs().VisitAll(func(k, v []byte) { q.Add(string(k), string(v)) })
	return q
}

// last is the last value of a parameter, whose name is matched in any case; it takes it out.
func takeQuery(q url.Values, name string) (value string, ok bool) {
	for k := range maps.Clone(q) {
		if strings.EqualFold(k, name) {
			value, ok = q[k][len(q[k])-1], true
			delete(q, k)
		}
	}
	return value, ok
}

// bearer is the token of an Authorization header.
func bearer(header string) (string, bool) {
	if len(header) < 7 || !strings.EqualFold(header[:7], "bearer ") {
		return "", false
	}
	return strings.TrimSpace(header[7:]), true
}

// client answers the handshake of a WebSocket client.
func (e *Endpoint) client(c *fiber.Ctx) error {
	query := queryOf(c)
	token, tokened := takeQuery(query, "access_token")
	if !tokened {
		token, tokened = bearer(c.Get(fiber.HeaderAuthorization))
	}
	name := c.Params("hub")
	if name == "" {
		name, _ = takeQuery(query, "hub")
	}
	if !hubs.ValidName(name) {
		return badRequest("The hub name is not valid: a letter first, then at most 127 letters, digits and _`,.[].").send(c)
	}
	if !socket.IsUpgrade(c) {
		return badRequest("This address speaks WebSocket (RFC 6455, version 13) only.").send(c)
	}
	if id := query.Get("awps_connection_id"); id != "" {
		return e.recover(c, name, id, query.Get("awps_reconnection_token"))
	}
	mode, err := simpleMode(query)
	if err != nil {
		return badRequest("%v", err).send(c)
	}
	path := "/client/hubs/" + name
	var claims *access.Claims
	user := e.user(c, name)
	switch {
	case user != nil:
		claims = &access.Claims{User: user.Name, HasUser: true}
	case tokened:
		if claims, err = e.tokens.Client(token, c.BaseURL(), path); err != nil {
			e.counts.refused.Add(1)
			e.log.Debug("Web PubSub client refused", "hub", name, "why", err)
			return (&refusal{status: http.StatusUnauthorized, text: "The access token is not valid: " + err.Error()}).send(c)
		}
	case e.settings.Hub(name).Anonymous:
		claims = &access.Claims{}
	default:
		e.counts.refused.Add(1)
		return (&refusal{status: http.StatusUnauthorized, text: "An access token is needed."}).send(c)
	}
	if i := slices.IndexFunc(claims.Groups, func(g string) bool { return !protocol.ValidGroup(g) }); i >= 0 {
		return badRequest(badGroup).send(c)
	}
	offered := socket.Offered(c)
	n, err := e.admit(c, name, claims, query, offered)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return r.send(c)
		}
		return err
	}
	n.mode = mode
	if user != nil {
		n.may = e.mayOf(user)
	}
	return e.sockets.UpgradeAs(c, n.echo, func(conn *socket.Conn) socket.Session { return e.open(conn, n) })
}

// A newcomer is a client whose handshake is answered.
type newcomer struct {
	hub   string
	id    string
	user  string
	roles []string
	group []string
	state *string
	echo  string         // subprotocol as the client spelled it
	codec protocol.Codec // nil: a simple client
	mode  mode
	keep  time.Duration
	jar   *event.Cookies
	may   func(hub.Permission, string) bool // nil: roles say
}

// admit asks the connect handler, and puts together what it, the token and the request say.
func (e *Endpoint) admit(c *fiber.Ctx, name string, claims *access.Claims, query url.Values, offered []string) (*newcomer, error) {
	settings := e.settings.Hub(name)
	n := &newcomer{hub: strings.ToLower(name), id: hub.NewID(), user: claims.User, roles: claims.Roles, group: claims.Groups, keep: settings.KeepAlive, jar: &event.Cookies{}}
	request := &event.ConnectRequest{
		Client:       event.Client{Hub: n.hub, Connection: n.id, User: claims.User, Cookies: n.jar},
		Claims:       claims.All,
		Query:        query,
		Headers:      headersOf(c),
		Subprotocols: offered,
		Certificates: certificatesOf(c),
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.UserContext()), e.c.Handshake)
	defer cancel()
	answer, err := e.events.Connect(ctx, request)
	if err != nil {
		e.counts.refused.Add(1)
		if r, ok := errors.AsType[*event.Refused](err); ok {
			return nil, &refusal{status: r.Status, text: http.StatusText(r.Status), contentType: r.ContentType, body: r.Body}
		}
		return nil, &refusal{status: http.StatusInternalServerError, text: "The connect handler failed."}
	}
	chosen := ""
	if answer != nil {
		if answer.User != nil {
			n.user = *answer.User
		}
		if len(answer.Groups) > 0 {
			n.group = answer.Groups
		}
		if answer.Roles != nil {
			n.roles = *answer.Roles
		}
		n.state = answer.State
		if chosen = answer.Subprotocol; chosen != "" && !slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, chosen) }) {
			return nil, &refusal{status: http.StatusInternalServerError, text: "The connect handler chose a subprotocol that the client did not offer."}
		}
	}
	for _, o := range offered {
		codec, known := protocol.For(o)
		if chosen == "" && known || chosen != "" && strings.EqualFold(o, chosen) {
			n.echo, n.codec = o, nil
			if known {
				n.codec = codec
			}
			break
		}
	}
	return n, nil
}

// headersOf is what a connect handler is told of the request.
func headersOf(c *fiber.Ctx) map[string][]string {
	all := map[string][]string{}
	c.Request().Header.VisitAll(func(k, v []byte) {
		if name := string(k); !strings.EqualFold(name, "Authorization") {
			all[name] = append(all[name], string(v))
		}
	})
	return all
}

// certificatesOf are those that the client showed.
func certificatesOf(c *fiber.Ctx) []event.Certificate {
	state := c.Context().TLSConnectionState()
	if state == nil {
		return nil
	}
	return certificates(state)
}

func certificates(state *tls.ConnectionState) []event.Certificate {
	var all []event.Certificate
	for _, cert := range state.PeerCertificates {
		all = append(all, event.CertificateOf(cert))
	}
	return all
}

// mode is what a simple client's frames are.
type mode struct {
	group  string // published to; "": events
	noEcho bool
}

// simpleMode reads it off the query.
func simpleMode(q url.Values) (m mode, err error) {
	name, _ := takeQuery(q, "webpubsub_mode")
	switch {
	case name == "":
		return m, nil
	case strings.EqualFold(name, "sendEvent"):
		if _, ok := takeQuery(q, "group"); ok {
			return m, errors.New("webpubsub_mode=sendEvent has no group")
		}
		return m, nil
	case !strings.EqualFold(name, "sendToGroup"):
		return m, fmt.Errorf("webpubsub_mode is %q; it can be sendEvent or sendToGroup", name)
	}
	m.group, _ = takeQuery(q, "group")
	if !protocol.ValidGroup(m.group) {
		return m, errors.New("the group must have between 1 and 1024 characters that are not all blank")
	}
	if echo, ok := takeQuery(q, "noEcho"); ok {
		m.noEcho = strings.EqualFold(echo, "true")
	}
	return m, nil
}

// recover answers a client that says it had a connection before. It is told no by a close code: clients would try again after an HTTP
// error, but begin anew after this one.
func (e *Endpoint) recover(c *fiber.Ctx, name, id, token string) error {
	conn, ok := e.hubs.Hub(name).Conn(id)
	ok = ok && conn.Reliable() && e.recovery.Check(token, strings.ToLower(name), id)
	echo := ""
	for _, o := range socket.Offered(c) {
		if _, known := protocol.For(o); ok && strings.EqualFold(o, conn.Protocol()) || !ok && known {
			echo = o
			break
		}
	}
	return e.sockets.UpgradeAs(c, echo, func(sc *socket.Conn) socket.Session {
		if ok {
			if s := e.resume(sc, conn); s != nil {
				return s
			}
		}
		e.counts.lost.Add(1)
		sc.Close(socket.PolicyViolation, "The connection could not be recovered.")
		return nobody{}
	})
}
