// Package socket is the WebSocket side of the protocols above it: upgrade, reading, writing of messages that were framed
// once for many connections, keep-alive, close codes, and closing all at shutdown. It is the one place that touches
// contrib/websocket; what is above sees Session and Conn only, so that connections can later be handled otherwise.
//
// A connection has a goroutine that reads (the upgrade's own), and one that writes while there is something to write and a little
// longer. A write that blocks holds nobody else.
package socket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"millrace/devices"
)

// How connections are kept alive. A peer is dead when nothing was heard of it for deadAfter: no message, no pong, and no
// acknowledgement by its TCP. A peer that only reads nothing is alive.
const (
	pingAfter  = 30 * time.Second
	deadAfter  = 150 * time.Second
	sweepEvery = 10 * time.Second
	linger     = 2 * time.Second // of a writing goroutine after something new
	timerSlack = 500 * time.Millisecond
	closeWait  = 2 * time.Second // for the peer to take our close frame and to answer it
	keepBuffer = 16 << 10        // larger read buffers are not kept for the next message of anybody
	sendBuffer = 128 << 10       // of the kernel, so that a stalled viewer finds little that is old when it wakes
)

// Config of a Server.
type Config struct {
	Subprotocols []string // accepted ones; a client that names none at all gets the first
	MaxMessage   int64    // of the client, in bytes
	MaxConns     int      // connections at a time; more are refused with 503. 0: no limit

	Sweep time.Duration // between looks for who needs a ping or is dead; 0: 10 s
}

// A Server upgrades requests and looks after their connections. Run must run for keep-alive to work.
type Server struct {
	c       Config
	log     *slog.Logger
	upgrade fiber.Handler
	bytes   atomic.Uint64
	opened  atomic.Uint64
	died    atomic.Uint64

	mu      sync.Mutex
	conns   map[*Conn]struct{}
	stopped bool
	empty   chan struct{} // closed when stopped and no connection is left
}

// New returns a Server.
func New(c Config, log *slog.Logger) *Server {
	s := &Server{c: c, log: log, conns: map[*Conn]struct{}{}, empty: make(chan struct{})}
	s.upgrade = websocket.New(s.accept, websocket.Config{
		ReadBufferSize:  256,
		WriteBufferSize: 256,
		WriteBufferPool: &sync.Pool{},
		RecoverHandler:  func(*websocket.Conn) { s.recovered(recover()) },
	})
	return s
}

// opener is the user value that carries a connection's session over the upgrade.
const opener = "millrace.socket"

// Upgrade answers the handshake and then runs the session that open returns, on goroutines of its own. A request that is no
// WebSocket handshake gets 426. Whether its origin may connect is decided before, by the caller.
func (s *Server) Upgrade(c *fiber.Ctx, open func(*Conn) Session) error {
	if !websocket.IsWebSocketUpgrade(c) || c.Get("Sec-Websocket-Version") != "13" {
		c.Set(fiber.HeaderUpgrade, "websocket")
		c.Set(fiber.HeaderConnection, "Upgrade")
		c.Set("Sec-WebSocket-Version", "13") // RFC 6455, 4.4
		return fiber.NewError(http.StatusUpgradeRequired, "this address speaks WebSocket (RFC 6455, version 13) only")
	}
	if c.Get("Sec-Websocket-Key") == "" {
		return devices.Invalid("Sec-WebSocket-Key", "is missing")
	}
	offered := Offered(c)
	i := slices.IndexFunc(s.c.Subprotocols, func(p string) bool { return slices.Contains(offered, p) })
	if i < 0 && len(offered) > 0 {
		return devices.Invalid("Sec-WebSocket-Protocol", "offer %s", strings.Join(s.c.Subprotocols, " or "))
	}
	subprotocol := ""
	if i >= 0 {
		subprotocol = s.c.Subprotocols[i]
	}
	return s.UpgradeAs(c, subprotocol, open)
}

// IsUpgrade reports whether a request is a WebSocket handshake.
func IsUpgrade(c *fiber.Ctx) bool {
	return websocket.IsWebSocketUpgrade(c) && c.Get("Sec-Websocket-Version") == "13" && c.Get("Sec-Websocket-Key") != ""
}

// Offered are the subprotocols that a handshake offers, in its order and spelling.
func Offered(c *fiber.Ctx) []string {
	var all []string
	for p := range strings.SplitSeq(c.Get("Sec-Websocket-Protocol"), ",") {
		if p = strings.TrimSpace(p); p != "" {
			all = append(all, p)
		}
	}
	return all
}

// UpgradeAs is Upgrade for a caller that has looked at the handshake (IsUpgrade) and chosen the subprotocol; "": none.
func (s *Server) UpgradeAs(c *fiber.Ctx, subprotocol string, open func(*Conn) Session) error {
	if subprotocol != "" {
		c.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	s.mu.Lock()
	refused := s.stopped || s.c.MaxConns > 0 && len(s.conns) >= s.c.MaxConns
	s.mu.Unlock()
	if refused {
		return fmt.Errorf("no more connections are taken: %w", devices.ErrUnavailable)
	}
	// The package copies every header, cookie, query and user value into maps that live as long as the connection.
	request := c.Request()
	for _, name := range request.Header.PeekKeys() {
		switch n := string(name); {
		case strings.EqualFold(n, "Connection"), strings.EqualFold(n, "Upgrade"), strings.EqualFold(n, "Host"):
		case len(n) > 13 && strings.EqualFold(n[:13], "Sec-Websocket"):
		default:
			request.Header.Del(n)
		}
	}
	request.Header.DelAllCookies()
	c.Context().QueryArgs().Reset()
	c.Context().ResetUserValues()
	c.Locals(opener, &opening{open, c.Context()})
	err := s.upgrade(c)
	c.Context().RemoveUserValue(opener)
	return err
}

// An opening is a handshake on its way to its connection.
type opening struct {
	open    func(*Conn) Session
	request *fasthttp.RequestCtx
}

// forget lets go of the request and the response, which fasthttp keeps until the connection ends, with some ten kilobytes of
// buffers, and of the copies that the WebSocket package made. Nobody uses them after the response has been sent, and their zero values
// are ready for the next request.
func (o *opening) forget(ws *websocket.Conn) {
	reflect.ValueOf(&o.request.Request).Elem().SetZero()
	reflect.ValueOf(&o.request.Response).Elem().SetZero()
	*ws = websocket.Conn{Conn: ws.Conn}
}

// accept runs a connection; on the goroutine that fasthttp gives to the taken-over connection.
func (s *Server) accept(ws *websocket.Conn) {
	from, _ := ws.Locals(opener).(*opening)
	open := from.open
	from.forget(ws)
	from = nil
	raw := ws.NetConn()
	if u, ok := raw.(interface{ UnsafeConn() net.Conn }); ok {
		raw = u.UnsafeConn()
	}
	conn := &Conn{server: s, ws: ws, net: raw, wake: make(chan bool, 1), over: true}
	conn.heard.Store(time.Now().Unix())
	if tcp := tcpOf(raw); tcp != nil {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
	if !s.add(conn) {
		conn.Close(TryAgainLater, "the server stops")
		_ = conn.control()
		return
	}
	defer s.remove(conn)
	conn.begin(open(conn))
	defer conn.session.End()
	conn.read()
	conn.writers.Wait()
	_ = raw.Close()
}

func (s *Server) add(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.conns[c] = struct{}{}
	s.opened.Add(1)
	return true
}

func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.stopped && len(s.conns) == 0 {
		close(s.empty)
	}
}

// recovered logs a panic; true if there was one.
func (s *Server) recovered(p any) bool {
	if p == nil {
		return false
	}
	s.log.Error("panic in a live session", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
	return true
}

// Run keeps connections alive until ctx ends; it closes none then, see Shutdown.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(s.c.Sweep, sweepEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.sweep(now, tcpHeard)
		}
	}
}

// sweep asks for pings and hangs up on the dead. tcpHeard says how long ago the peer's TCP acknowledged anything.
func (s *Server) sweep(now time.Time, tcpHeard func(net.Conn) (ago time.Duration, ok bool)) {
	var quiet []*Conn
	s.mu.Lock()
	for c := range s.conns {
		if now.Unix()-c.heard.Load() >= c.pingAfter() {
			quiet = append(quiet, c)
		}
	}
	s.mu.Unlock()
	for _, c := range quiet {
		if dead := c.deadAfter(); now.Unix()-c.heard.Load() >= int64(dead/time.Second) {
			if ago, ok := tcpHeard(c.net); !ok || ago >= dead {
				s.died.Add(1)
				c.hangup()
				continue
			}
		}
		if now.Unix()-c.pinged < c.pingAfter() {
			continue
		}
		c.pinged = now.Unix()
		c.mu.Lock()
		c.ping = true
		c.mu.Unlock()
		c.Wake()
	}
}

// Shutdown takes no more connections, closes all with the code and waits until they have ended or ctx ends, when the rest is
// hung up on.
func (s *Server) Shutdown(ctx context.Context, code Code, reason string) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		if len(s.conns) == 0 {
			close(s.empty)
		}
	}
	all := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.Close(code, reason)
	}
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	for _, c := range all {
		c.hangup()
	}
	select {
	case <-s.empty:
		return nil
	case <-time.After(closeWait):
		return errors.New("socket: connections are still open")
	}
}

// Stats are counters since start, but Open.
type Stats struct {
	Open   int
	Opened uint64
	Died   uint64 // found dead by the keep-alive
	Bytes  uint64 // written
}

// Stats is safe to call at any time.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	return Stats{Open: open, Opened: s.opened.Load(), Died: s.died.Load(), Bytes: s.bytes.Load()}
}

// tcpOf is the TCP connection at the bottom of c, nil if there is none.
func tcpOf(c net.Conn) *net.TCPConn {
	for {
		switch t := c.(type) {
		case *net.TCPConn:
			return t
		case interface{ NetConn() net.Conn }: // tls.Conn
			c = t.NetConn()
		case interface{ UnsafeConn() net.Conn }:
			c = t.UnsafeConn()
		default:
			return nil
		}
	}
}
