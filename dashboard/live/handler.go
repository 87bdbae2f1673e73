// Package live speaks the live protocol (docs/protocol.md): WebSocket sessions at /live, and the same frames as
// server-sent events. It takes subscriptions of the engine, sends what they have due as the client's credit allows, and
// ends them when the right to see them ends.
package live

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/socket"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/fanout"
	"millrace/fanout/wire"
)

// Subprotocol is the name of the protocol in the WebSocket handshake.
const Subprotocol = "millrace.v1"

// sessionCheck is how often a browser's session is looked up while its connection is open.
const sessionCheck = 30 * time.Second

// Config of live delivery.
type Config struct {
	MaxConnections int `default:"20000" help:"WebSocket viewers at a time; more are refused with 503."`
}

// Engine is what live delivery asks of fanout.
type Engine interface {
	Subscribe(o fanout.Options) (*fanout.Subscription, fanout.Start, error)
}

// Rights tell who may what now, and when that changes. catalog.Catalog is one.
type Rights interface {
	Principal(kind devices.PrincipalKind, id string) *devices.Principal
	Groups() []devices.Group
	Watch(f func(catalog.Event)) (cancel func())
}

// Handler serves viewers. Run must run while it does.
type Handler struct {
	engine Engine
	rights Rights
	auth   *auth.Auth
	log    *slog.Logger
	socket *socket.Server

	binary, json, events fanout.Encoder

	frames, frameBytes, snapshots, refused, revoked atomic.Uint64

	mu      sync.Mutex
	viewers map[*viewer]struct{}
	stopped bool
	streams sync.WaitGroup // server-sent events
}

// New returns a Handler.
func New(c Config, e Engine, r Rights, a *auth.Auth, log *slog.Logger) *Handler {
	return &Handler{
		engine: e, rights: r, auth: a, log: log,
		socket:  socket.New(socket.Config{Subprotocols: []string{Subprotocol}, MaxMessage: maxMessage, MaxConns: c.MaxConnections}, log),
		binary:  packet{wire.Binary{}, false},
		json:    packet{wire.JSON{}, true},
		events:  wire.JSON{},
		viewers: map[*viewer]struct{}{},
	}
}

// Register adds the routes. Those of the stream go before others below /api/v1/groups.
func (h *Handler) Register(r fiber.Router) {
	r.Get("/live", h.live)
	r.Get("/api/v1/groups/+/stream", h.stream)
}

// live upgrades a connection. With the session cookie only our own pages may: a WebSocket is not bound by the same-origin
// policy, and browsers send the cookie along (RFC 6455, 10.2).
func (h *Handler) live(c *fiber.Ctx) error {
	who := auth.Caller(c)
	if who.Principal == nil {
		return devices.ErrUnauthorized
	}
	if _, cookie := auth.Session(c); cookie && !h.auth.OwnOrigin(c) {
		return devices.ErrForbidden
	}
	v := h.viewer(c, who.Principal)
	return h.socket.Upgrade(c, func(conn *socket.Conn) socket.Session {
		v.wake = conn.Wake
		h.add(v)
		return &session{h: h, conn: conn, viewer: v}
	})
}

// A viewer is what the handler knows of an open connection, so as to end it when rights end.
type viewer struct {
	kind    devices.PrincipalKind
	id      string
	expires time.Time // zero: never
	session func(context.Context) error
	wake    func()

	recheck atomic.Bool // rights have changed: look again before sending more
	ended   atomic.Bool // the session has ended
	leave   atomic.Bool // the server stops; server-sent events only
}

func (h *Handler) viewer(c *fiber.Ctx, p *devices.Principal) *viewer {
	v := &viewer{kind: p.Kind, id: p.ID, expires: p.Expires, session: h.auth.Recheck(c)}
	if s, ok := auth.Session(c); ok && (v.expires.IsZero() || s.Expires.Before(v.expires)) {
		v.expires = s.Expires
	}
	return v
}

// principal is who that is now; nil when the connection must end.
func (h *Handler) principal(v *viewer, now time.Time) *devices.Principal {
	if v.ended.Load() || !v.expires.IsZero() && !now.Before(v.expires) {
		return nil
	}
	if v.kind == devices.SystemPrincipal {
		return devices.System
	}
	p := h.rights.Principal(v.kind, v.id)
	if p != nil && !p.Expires.IsZero() && !now.Before(p.Expires) {
		return nil
	}
	return p
}

// sees says whether p may still see a group: "" or the reason why not.
func (h *Handler) sees(p *devices.Principal, group devices.GroupPath) string {
	if p.Can(devices.Viewer, group) {
		return ""
	}
	if !slices.ContainsFunc(h.rights.Groups(), func(g devices.Group) bool { return g.Path == group }) {
		return reasonGone // its bindings went with it
	}
	return reasonForbidden
}

// subscribe asks the engine for what p may see.
func (h *Handler) subscribe(p *devices.Principal, o fanout.Options) (*fanout.Subscription, fanout.Start, error) {
	if !p.Can(devices.Viewer, o.Group) {
		return nil, fanout.Start{}, errNoGroup
	}
	sub, start, err := h.engine.Subscribe(o)
	if errors.Is(err, devices.ErrNotFound) {
		err = errNoGroup
	}
	return sub, start, err
}

func (h *Handler) add(v *viewer) {
	v.recheck.Store(true) // rights may have changed since the handshake
	h.mu.Lock()
	h.viewers[v] = struct{}{}
	h.mu.Unlock()
}

func (h *Handler) remove(v *viewer) {
	h.mu.Lock()
	delete(h.viewers, v)
	h.mu.Unlock()
}

// each calls f for every viewer there is now, without holding the lock.
func (h *Handler) each(f func(*viewer)) {
	h.mu.Lock()
	all := make([]*viewer, 0, len(h.viewers))
	for v := range h.viewers {
		all = append(all, v)
	}
	h.mu.Unlock()
	for _, v := range all {
		f(v)
	}
}

// Run watches rights, sessions and dead connections until ctx ends.
func (h *Handler) Run(ctx context.Context) error {
	cancel := h.rights.Watch(func(e catalog.Event) {
		if e.Access || e.Groups {
			h.each(func(v *viewer) { v.recheck.Store(true); v.wake() })
		}
	})
	defer cancel()
	signedOut := make(chan struct{}, 1)
	unwatch := h.auth.WatchSignOut(func() {
		select {
		case signedOut <- struct{}{}:
		default:
		}
	})
	defer unwatch()
	var sweeper sync.WaitGroup
	defer sweeper.Wait()
	sweeper.Go(func() { _ = h.socket.Run(ctx) })
	tick := time.NewTicker(sessionCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.checkSessions(ctx)
		case <-signedOut:
			h.checkSessions(ctx)
		}
	}
}

// checkSessions looks all browsers' sessions up again. A store that does not answer ends nobody.
func (h *Handler) checkSessions(ctx context.Context) {
	h.each(func(v *viewer) {
		if v.session == nil || v.ended.Load() || ctx.Err() != nil {
			return
		}
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if err := v.session(once); errors.Is(err, devices.ErrUnauthorized) || errors.Is(err, devices.ErrNotFound) {
			v.ended.Store(true)
			v.recheck.Store(true)
			v.wake()
		}
	})
}

// Shutdown tells all viewers to come back, to this server once it runs again or to another, and waits for their connections to end.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.each(func(v *viewer) { v.leave.Store(true); v.wake() })
	err := h.socket.Shutdown(ctx, socket.ServiceRestart, "the server restarts: come back in a moment")
	ended := make(chan struct{})
	go func() { h.streams.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	return err
}

// Stats are counters since start, but Viewers.
type Stats struct {
	Viewers   int    // WebSocket connections and event streams
	Frames    uint64 // sent
	Bytes     uint64 // of frames sent
	Snapshots uint64 // of those frames
	Refused   uint64 // control messages answered by an error
	Revoked   uint64 // subscriptions ended because a right ended
	Dead      uint64 // connections whose peer was gone
}

// Stats is safe to call at any time.
func (h *Handler) Stats() Stats {
	h.mu.Lock()
	n := len(h.viewers)
	h.mu.Unlock()
	return Stats{
		Viewers: n, Frames: h.frames.Load(), Bytes: h.frameBytes.Load(), Snapshots: h.snapshots.Load(),
		Refused: h.refused.Load(), Revoked: h.revoked.Load(), Dead: h.socket.Stats().Died,
	}
}

// packet makes an encoder's frames into WebSocket messages, so that the header, too, is made once for all who share one.
type packet struct {
	fanout.Encoder
	text bool
}

// AppendFrame implements fanout.Encoder.
func (p packet) AppendFrame(dst []byte, f *fanout.Frame, id uint32) []byte {
	start := len(dst)
	return socket.Seal(p.Encoder.AppendFrame(socket.Begin(dst), f, id), start, p.text)
}

// AppendRenumbered implements fanout.Renumberer: the message of another subscription number is copied, header aside.
func (p packet) AppendRenumbered(dst, message []byte, id uint32) []byte {
	start := len(dst)
	r := p.Encoder.(fanout.Renumberer) // both of wire's are
	return socket.Seal(r.AppendRenumbered(socket.Begin(dst), socket.Payload(message), id), start, p.text)
}

// errNoGroup is the answer for a group that is not there and for one that may not be seen: they can't be told apart.
var errNoGroup = &noGroup{}

type noGroup struct{}

func (*noGroup) Error() string { return "there is no such group, or none that you may see" }
func (*noGroup) Unwrap() error { return devices.ErrNotFound }

// unavailable is the answer of a server that stops.
var unavailable = fiber.NewError(http.StatusServiceUnavailable, "the server is stopping: come back in a moment")
