package socket

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/contrib/websocket"
)

// A Session is what a protocol does with a connection. Message runs on the goroutine that reads, Write on one that
// writes; each is called by one goroutine at a time, but both at once.
type Session interface {
	// Message takes a message of the client, which is not its own after it returns. An error ends the connection: a *CloseError
	// with its code, any other with InternalError.
	Message(text bool, p []byte) error

	// Write sends what is due with Conn.Send, which may block as long as the peer takes nothing, and returns how long it can be left
	// alone. It is called again after that time or after Wake, whatever is first. An error ends the connection as that of Message does.
	Write(now time.Time) (rest time.Duration, err error)

	// End is called last, when both goroutines have ended.
	End()
}

// A CloseError ends a connection with a code and a reason of at most 123 bytes.
type CloseError struct {
	Code   Code
	Reason string
}

func (e *CloseError) Error() string { return e.Reason }

// errEnded is what Send answers when the connection is closing.
var errEnded = errors.New("socket: connection has ended")

// A Conn is one WebSocket connection. Wake and Close may be called by anyone; Send belongs to the writing goroutine.
type Conn struct {
	server *Server
	ws     *websocket.Conn // reads only; all writes go around it, see Send
	net    net.Conn        // below fasthttp's wrapper, whose Close does nothing
	wake   chan bool       // cap 1: look again for what is due; true: for something new

	heard  atomic.Int64 // Unix seconds of the last byte read
	pinged int64        // Unix seconds of the last ping asked for; the keep-alive's own
	peer   bool         // the peer has sent its close frame; the reading goroutine's own
	said   Code         // with peer: its code, NoStatus without one
	text   string       // with peer: its reason
	broke  bool         // the peer broke the protocol; the reading goroutine's own
	alive  atomic.Int64 // seconds between pings if set by KeepAlive

	session Session
	writers sync.WaitGroup // the writing goroutine, while there is one
	timer   *time.Timer    // rouses it when the session's rest is over
	armed   atomic.Bool    // the timer runs
	due     time.Time      // with armed: when it fires; the writing goroutine's

	mu      sync.Mutex
	running bool // there is a writing goroutine
	over    bool // there will be none any more, or not yet
	ending  bool
	code    Code   // with ending: what to tell the peer; 0: nothing
	reason  string // with ending
	ping    bool   // a ping is due
	pong    bool   // a pong is due
	payload []byte // of that pong
}

// Wake makes the writing goroutine look again for what is due. It never blocks.
func (c *Conn) Wake() { c.rouse(true) }

// KeepAlive sets how long the connection may be quiet until it is sent a ping, in place of 30 s; it is dead after three times that,
// and at least a minute.
func (c *Conn) KeepAlive(d time.Duration) { c.alive.Store(int64(max(d, time.Second) / time.Second)) }

// pingAfter is in seconds.
func (c *Conn) pingAfter() int64 {
	if s := c.alive.Load(); s > 0 {
		return s
	}
	return int64(pingAfter / time.Second)
}

func (c *Conn) deadAfter() time.Duration {
	if s := c.alive.Load(); s > 0 {
		return max(3*time.Duration(s)*time.Second, time.Minute)
	}
	return deadAfter
}

// PeerClosed is the code and reason of the peer's close frame; NoStatus if it gave none, and false if there was no close frame. It is
// for Session.End.
func (c *Conn) PeerClosed() (code Code, reason string, ok bool) { return c.said, c.text, c.peer }

// rouse tells the writing goroutine, or starts it: a connection that has had nothing to say for a while has none, which saves its stack.
func (c *Conn) rouse(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
	case c.running:
		select {
		case c.wake <- busy: // under the lock, so that a goroutine about to end sees it
		default:
		}
	default:
		c.running = true
		c.writers.Add(1)
		go c.write(busy)
	}
}

// begin starts a session.
func (c *Conn) begin(s Session) {
	c.session = s
	c.mu.Lock()
	c.timer = time.AfterFunc(time.Hour, func() {
		c.armed.Store(false)
		c.rouse(false)
	})
	c.over = false
	c.mu.Unlock()
	c.Wake()
}

// Close tells the peer why, as far as it still listens, and ends the connection. Only the first call counts. It does not wait.
func (c *Conn) Close(code Code, reason string) {
	c.mu.Lock()
	first := !c.ending
	if first {
		c.ending, c.code, c.reason = true, code, reason
		// From here on writing has a deadline, also the write that is blocked on a peer that takes nothing.
		_ = c.net.SetWriteDeadline(time.Now().Add(closeWait))
	}
	c.mu.Unlock()
	if first {
		c.Wake()
	}
}

// hangup ends the connection without a word.
func (c *Conn) hangup() {
	c.Close(0, "")
	_ = c.net.Close()
}

// Send writes sealed messages (Seal), one or several in one piece, with one write(2). It goes past the WebSocket package, which
// would copy, or write header and payload apart, and whose answers to pings would put a deadline on a write that is
// blocked. Writes have no deadline: a peer that takes nothing holds this goroutine only, until the keep-alive finds it dead.
func (c *Conn) Send(messages []byte) error {
	n, err := c.net.Write(messages)
	c.server.bytes.Add(uint64(n))
	return err
}

// control writes the control frames that are due; errEnded after the close frame.
func (c *Conn) control() error {
	c.mu.Lock()
	if !c.ending && !c.ping && !c.pong {
		c.mu.Unlock()
		return nil
	}
	var buf []byte
	if c.pong {
		buf = appendControl(buf, opPong, c.payload)
	}
	if c.ping {
		buf = appendControl(buf, opPing, nil)
	}
	c.ping, c.pong, c.payload = false, false, nil
	ending := c.ending
	if ending && c.code != 0 {
		reason := c.reason[:min(len(c.reason), 123)]
		buf = appendControl(buf, opClose, append(binary.BigEndian.AppendUint16(nil, uint16(c.code)), reason...))
	}
	c.mu.Unlock()
	if len(buf) > 0 {
		if err := c.Send(buf); err != nil {
			return err
		}
	}
	if ending {
		return errEnded
	}
	return nil
}

// write is the writing goroutine. Busy says that it was woken for something new: then more is likely soon, and it lingers.
func (c *Conn) write(busy bool) {
	defer c.writers.Done()
	defer func() {
		if c.server.recovered(recover()) {
			c.Close(InternalError, "internal error")
			_ = c.control()
			c.finish()
		}
	}()
	var woken time.Time // for something new
	for {
		if err := c.control(); err != nil {
			if err != errEnded {
				c.hangup()
			}
			c.finish()
			return
		}
		now := time.Now()
		if busy {
			woken = now
		}
		rest, err := c.session.Write(now)
		if err != nil {
			c.fail(err)
			busy = false
			continue // to control, which sends the close frame
		}
		c.arm(now, rest)
		if now.Sub(woken) >= linger {
			if c.rest() {
				return
			}
			busy = true
			continue
		}
		busy = <-c.wake
	}
}

// arm sets the timer for when the rest is over, or lets it fire a little before: to set it after every message would cost more.
func (c *Conn) arm(now time.Time, rest time.Duration) {
	due := now.Add(rest)
	if early := due.Sub(c.due); c.armed.Load() && early >= 0 && early < timerSlack {
		return
	}
	c.due = due
	c.armed.Store(true)
	c.timer.Reset(rest)
}

// rest lets the goroutine end until the timer or Wake starts another; false when it was woken meanwhile.
func (c *Conn) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.wake:
		return false
	default:
	}
	c.running = false
	return true
}

// finish ends writing for good. The peer may take a moment to answer the close frame.
func (c *Conn) finish() {
	c.mu.Lock()
	c.over = true
	c.timer.Stop()
	c.mu.Unlock()
	_ = c.net.SetReadDeadline(time.Now().Add(closeWait))
}

// fail closes the connection for what a session answered.
func (c *Conn) fail(err error) {
	if e, ok := errors.AsType[*CloseError](err); ok {
		c.Close(e.Code, e.Reason)
	} else if _, ok := errors.AsType[net.Error](err); ok {
		c.hangup() // Send failed: the peer is gone
	} else {
		c.server.log.Error("a live session failed", "err", err)
		c.Close(InternalError, "internal error")
	}
}

// read is the reading goroutine. It returns when the connection has ended in its direction.
func (c *Conn) read() {
	defer func() {
		if c.server.recovered(recover()) {
			c.Close(InternalError, "internal error")
		}
	}()
	c.ws.SetReadLimit(c.server.c.MaxMessage)
	c.ws.SetPingHandler(func(payload string) error {
		c.heard.Store(time.Now().Unix())
		c.mu.Lock()
		c.pong, c.payload = true, []byte(payload) // only the last of several needs an answer (RFC 6455, 5.5.3)
		c.mu.Unlock()
		c.Wake()
		return nil
	})
	c.ws.SetPongHandler(func(string) error {
		c.heard.Store(time.Now().Unix())
		return nil
	})
	c.ws.SetCloseHandler(func(code int, text string) error {
		c.peer, c.said, c.text = true, Code(code), text
		if code == websocket.CloseNoStatusReceived {
			code = int(Normal)
		}
		c.Close(Code(code), "")
		return nil
	})
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			c.ended(err)
			return
		}
		if !c.message(kind == websocket.TextMessage, r) {
			return
		}
	}
}

// message reads a message and hands it to the session; false when reading is over.
func (c *Conn) message(text bool, r io.Reader) bool {
	buf := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= keepBuffer {
			buffers.Put(buf)
		}
	}()
	var err error
	if *buf, err = readAll((*buf)[:0], r); err != nil {
		c.ended(err)
		return false
	}
	c.heard.Store(time.Now().Unix())
	if err := c.session.Message(text, *buf); err != nil {
		c.fail(err)
		c.drain()
		return false
	}
	return true
}

// buffers hold messages while they are read; idle connections have none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// ended is called when reading has failed: the peer closed the connection, broke the protocol (which the WebSocket package has
// told it), or is gone. What one that broke the protocol still sends is read for a moment: else it would see a reset in place of the reason.
func (c *Conn) ended(err error) {
	c.mu.Lock()
	ending := c.ending
	c.mu.Unlock()
	if c.peer || ending {
		return
	}
	if _, lost := errors.AsType[net.Error](err); lost || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || websocket.IsUnexpectedCloseError(err) {
		c.hangup()
		return
	}
	c.broke = true
	c.Close(0, "")
	_ = c.net.SetReadDeadline(time.Now().Add(closeWait))
	_, _ = io.Copy(io.Discard, c.net)
}

// Broken reports whether the peer broke the WebSocket protocol, or sent a message that was too long. It is for Session.End.
func (c *Conn) Broken() bool { return c.broke }

// drain waits until the peer has answered the close frame or closeWait is over, so that closing with unread data does not reset the
// connection under the frame.
func (c *Conn) drain() {
	for {
		if _, _, err := c.ws.NextReader(); err != nil {
			return
		}
	}
}

// readAll is io.ReadAll into a buffer that is kept.
func readAll(buf []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, max(256, len(buf)))...)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}
