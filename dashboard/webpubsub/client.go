package webpubsub

import (
	"context"
	"errors"
	"sync"
	"time"

	"millrace/dashboard/socket"
	"millrace/dashboard/webpubsub/event"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/dashboard/webpubsub/telemetry"
	"millrace/fanout/hub"
)

// nobody is the session of a connection that is closed at once.
type nobody struct{}

func (nobody) Message(bool, []byte) error             { return nil }
func (nobody) Write(time.Time) (time.Duration, error) { return time.Hour, nil }
func (nobody) End()                                   {}

// A session is a WebSocket of a client: a transport of its connection, which may have another later.
type session struct {
	e     *Endpoint
	conn  *socket.Conn
	codec protocol.Codec // nil: a simple client
	mode  mode
	hc    *hub.Conn
	work  *work
}

// open begins a connection.
func (e *Endpoint) open(conn *socket.Conn, n *newcomer) socket.Session {
	s := &session{e: e, conn: conn, codec: n.codec, mode: n.mode}
	conn.KeepAlive(n.keep)
	ctx, cancel := context.WithCancel(context.Background())
	s.work = &work{ctx: ctx, cancel: cancel, slots: make(chan struct{}, maxEvents), jar: n.jar, invocations: map[string]context.CancelFunc{}}
	spec := hub.Spec{ID: n.id, User: n.user, Protocol: n.echo, Encoder: protocol.Simple, Groups: n.group, Roles: n.roles, Value: s.work, State: n.state, May: n.may}
	if n.codec != nil {
		spec.Encoder, spec.Reliable, spec.Protocol = n.codec, n.codec.Reliable(), n.codec.Name()
		spec.First = n.codec.Connected(nil, n.user, n.id, e.token(n.codec, n.hub, n.id))
	}
	hc, err := e.hubs.Hub(n.hub).Connect(spec, s)
	if err != nil {
		cancel()
		conn.Close(socket.TryAgainLater, "Too many connections.")
		return nobody{}
	}
	s.hc = hc
	return s
}

// token is what a reliable client shows to come back.
func (e *Endpoint) token(codec protocol.Codec, name, id string) string {
	if !codec.Reliable() {
		return ""
	}
	return e.recovery.Issue(name, id)
}

// resume gives a connection a new socket; nil when it has ended meanwhile.
func (e *Endpoint) resume(conn *socket.Conn, hc *hub.Conn) socket.Session {
	codec, ok := protocol.For(hc.Protocol())
	w, own := hc.Value().(*work)
	if !ok || !own {
		return nil
	}
	s := &session{e: e, conn: conn, codec: codec, hc: hc, work: w}
	name := hc.Hub().Name()
	conn.KeepAlive(e.settings.Hub(name).KeepAlive)
	if err := hc.Resume(s, codec.Connected(nil, hc.User(), hc.ID(), e.token(codec, name, hc.ID()))); err != nil {
		return nil
	}
	return s
}

// Wake implements hub.Transport.
func (s *session) Wake() { s.conn.Wake() }

// Abort implements hub.Transport.
func (s *session) Abort(code int, reason string) { s.conn.Close(socket.Code(code), reason) }

// writeAtOnce is about how many bytes leave in one write.
const writeAtOnce = 64 << 10

// frames are buffers for writing; idle connections have none.
var frames = sync.Pool{New: func() any { b := make([]byte, 0, writeAtOnce+4096); return &b }}

// Write sends what waits.
func (s *session) Write(time.Time) (time.Duration, error) {
	buf := frames.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= 4*writeAtOnce {
			frames.Put(buf)
		}
	}()
	for {
		b, err := s.hc.Take(s, (*buf)[:0], writeAtOnce)
		*buf = b
		if len(b) > 0 {
			if err := s.conn.Send(b); err != nil {
				return 0, err
			}
		}
		if err != nil {
			return 0, s.goodbye(err)
		}
		if len(b) == 0 {
			return time.Hour, nil
		}
	}
}

// goodbye makes a close frame of why a connection has ended.
func (s *session) goodbye(err error) error {
	closed, ok := errors.AsType[*hub.Closed](err)
	if !ok {
		return err
	}
	if !closed.Server {
		return &socket.CloseError{Code: socket.Code(closed.Code), Reason: closed.Reason}
	}
	if s.codec != nil {
		if err := s.conn.Send(s.codec.Disconnected(nil, serverClosed(closed.Reason))); err != nil {
			return err
		}
	}
	return &socket.CloseError{Code: socket.Normal}
}

// serverClosed is what clients are told when the server closes their connection.
func serverClosed(reason string) string {
	if reason == "" {
		return "Application server closed the connection."
	}
	return "Application server closed the connection. Reason: " + reason
}

// End says that the socket is gone. A client that said good-bye has ended; others may come back if they are reliable.
func (s *session) End() {
	code, text, said := s.conn.PeerClosed()
	if s.conn.Broken() {
		s.hc.CloseBy(s, int(socket.ProtocolError), "The client broke the protocol.")
		return
	}
	if said && code == socket.Normal {
		s.hc.CloseBy(s, hub.NormalClosure, text)
		return
	}
	if !said {
		text = "The connection was lost."
	}
	s.hc.Detach(s, text)
}

// fail ends the connection for good, because of what the client did.
func (s *session) fail(err error) error {
	if e, ok := errors.AsType[*socket.CloseError](err); ok {
		s.hc.CloseBy(s, int(e.Code), e.Reason)
	} else {
		s.hc.CloseBy(s, int(socket.InternalError), "Internal server error")
	}
	return err
}

// Message takes a message of the client.
func (s *session) Message(text bool, p []byte) error {
	s.e.counts.messages.Add(1)
	if s.codec == nil {
		return s.simple(text, p)
	}
	var r protocol.Request
	if err := s.codec.Decode(text, p, &r); err != nil {
		s.e.counts.malformed.Add(1)
		return s.fail(err)
	}
	if s.e.tracer.on() {
		s.e.tracer.request(s.hc, &r)
	}
	s.request(&r)
	return nil
}

// simple takes a message of a client without a subprotocol of ours.
func (s *session) simple(text bool, p []byte) error {
	data := hub.Data{Kind: hub.Binary, Bytes: append([]byte(nil), p...)}
	if text {
		data.Kind = hub.Text
	}
	if s.mode.group != "" {
		if err := s.hc.Publish(&hub.Message{Group: s.mode.group, Data: data}, s.mode.noEcho); err != nil {
			return s.fail(&socket.CloseError{Code: socket.PolicyViolation, Reason: err.Error()})
		}
		return nil
	}
	s.work.do(func(ctx context.Context) {
		if err := s.userEvent(ctx, "message", data, nil); err != nil && ctx.Err() == nil {
			s.hc.Close(int(socket.InternalError), "Internal server error")
		}
	})
	return nil
}

// clientOf is what handlers are told of a connection.
func clientOf(c *hub.Conn) event.Client {
	ec := event.Client{Hub: c.Hub().Name(), Connection: c.ID(), User: c.User(), Subprotocol: c.Protocol(), ID: c.NextEvent()}
	if state, ok := c.State(); ok {
		ec.State = &state
	}
	if w, ok := c.Value().(*work); ok {
		ec.Cookies = w.jar
	}
	return ec
}

// userEvent hands an event to whom it concerns, and sends the client the answer.
func (s *session) userEvent(ctx context.Context, name string, data hub.Data, metadata map[string]string) error {
	measured, err := s.e.measureEvent(ctx, s.hc, name, data)
	if err != nil {
		return err
	}
	if measured && !s.e.events.Takes(s.hc.Hub().Name(), name) {
		return nil
	}
	answer, err := s.e.ask(ctx, s.hc, name, data, metadata)
	if err != nil {
		return err
	}
	if answer != nil && answer.Data != nil {
		s.hc.Send(&hub.Message{Data: *answer.Data, Metadata: answer.Metadata})
	}
	return nil
}

// ask hands an event to handlers and listeners, and keeps the state that the answer sets.
func (e *Endpoint) ask(ctx context.Context, hc *hub.Conn, name string, data hub.Data, metadata map[string]string) (*event.Answer, error) {
	answer, err := e.events.User(ctx, clientOf(hc), name, data, metadata)
	if err != nil {
		e.counts.failedEvents.Add(1)
		return nil, err
	}
	if answer != nil && answer.State != nil {
		hc.SetState(*answer.State)
	}
	return answer, nil
}

// maxEvents is how many events of a connection may wait for their handler before reading stops.
const maxEvents = 64

// work is what a connection waits for: events, which are handled one at a time and in order. It belongs to the connection, not to its socket.
type work struct {
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	slots  chan struct{}
	jar    *event.Cookies // of its handlers

	mu          sync.Mutex
	queue       []func(context.Context)
	running     bool
	invocations map[string]context.CancelFunc // pending ones
}

// do runs f after what was given before. It blocks while too much waits.
func (w *work) do(f func(context.Context)) {
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, f)
	if !w.running {
		w.running = true
		go w.run()
	}
}

func (w *work) run() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 {
			w.queue, w.running = nil, false
			w.mu.Unlock()
			return
		}
		f := w.queue[0]
		w.queue = w.queue[1:]
		w.mu.Unlock()
		if w.ctx.Err() == nil {
			f(w.ctx)
		}
		<-w.slots
	}
}

// observer tells handlers what happens in hubs, and feeds whom to feed.
type observer struct{ e *Endpoint }

func (o observer) Connected(c *hub.Conn) {
	if o.e.events.Wants(c.Hub().Name(), "connected") {
		o.e.events.Connected(clientOf(c))
	}
	o.e.tracer.note(c, "connected", "")
}

func (o observer) Joined(c *hub.Conn, group string) {
	if o.e.events.Wants(c.Hub().Name(), "joined") {
		o.e.events.Joined(clientOf(c), group)
	}
	if o.feeds(c) {
		o.e.d.Feeds.Joined(c, group)
	}
	o.e.tracer.note(c, "joined", group)
}

func (o observer) Left(c *hub.Conn, group string) {
	if o.e.events.Wants(c.Hub().Name(), "left") {
		o.e.events.Left(clientOf(c), group)
	}
	if o.feeds(c) {
		o.e.d.Feeds.Left()
	}
	o.e.tracer.note(c, "left", group)
}

func (o observer) Ended(c *hub.Conn, reason string) {
	if w, ok := c.Value().(*work); ok {
		w.cancel()
	}
	o.e.events.Disconnected(clientOf(c), &reason, nil)
	if o.feeds(c) {
		o.e.d.Feeds.Left()
	}
	o.e.tracer.note(c, "disconnected", reason)
}

func (o observer) feeds(c *hub.Conn) bool {
	return o.e.d.Feeds != nil && c.Hub().Name() == telemetry.Hub
}
