package broker

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices/catalog"
	"millrace/ingest"
)

// conn is one device's connection, as the net.Conn that mochi gets: its state travels with mochi's client. mochi's Close only
// ends reading; the real close comes in goodbye, after the last acknowledgement and the DISCONNECT packet.
type conn struct {
	net.Conn
	b     *Broker
	ended chan struct{} // closed when the connection is acknowledged and out of mochi's hands; only the good-bye may be left

	stopped chan struct{} // closed when it is to end

	// Set while the device signs in, by its read goroutine, before others can see the conn in Broker.live.
	client     *mqtt.Client
	device     *catalog.Device
	credential string
	id         string // mochi's client identifier: device/identifier
	prefix     string // devices/{device}/
	version    byte   // 3, 4 or 5
	emptyWill  bool   // mochi was shown one that is not
	session    *session
	will       string // entry in the store; "" without

	// Of the packet being read, and what goes with it; the read goroutine's.
	publish publish
	request uint16 // packet identifier of the SUBSCRIBE or UNSUBSCRIBE that mochi is to answer
	message ingest.Message
	slow    bool             // the message was refused for its rate
	left    bool             // mochi has done what is to be done for a session whose connection ended
	delayed []packets.Packet // sent when the quota allowed; mochi forgets them
	backlog []packets.Packet // of the session, beyond the client's Receive Maximum

	// Of reading, also the read goroutine's.
	recv  int64   // Unix ms, when the socket was read last
	full  int     // reads in a row that took all mochi asked for: the device sends faster than it is read
	ahead *[]byte // read from the socket, not yet by mochi; nil between
	taken int     // of ahead

	acks acks

	writing sync.Mutex
	over    bool        // under writing: nothing is written any more
	told    atomic.Bool // a DISCONNECT has been written

	mu       sync.Mutex
	closed   bool
	code     packets.Code // why, when the broker ended it
	deadline time.Time    // of the next read from the socket
	changed  bool         // deadline is not yet the socket's
}

// publish is what the hook keeps of a PUBLISH that it shows to mochi as QoS 0.
type publish struct {
	packet  uint16
	qos     byte
	foreign bool
}

func newConn(b *Broker, nc net.Conn) *conn {
	c := &conn{Conn: nc, b: b, ended: make(chan struct{}), stopped: make(chan struct{})}
	c.acks.init(c)
	return c
}

// stop ends the connection for a reason; MQTT 5 clients are told. It does not wait.
func (c *conn) stop(code packets.Code) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code == (packets.Code{}) {
		c.code = code
	}
	c.closeLocked()
}

func (c *conn) closeLocked() {
	if !c.closed {
		c.closed = true
		close(c.stopped)
	}
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; a dead connection needs no waking
	c.acks.giveUp()
}

// Close ends reading. mochi calls it.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
	return nil
}

// Read is called by mochi when it has taken in all packets of which it has all bytes.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	closed := c.closed
	if c.changed && !closed && c.ahead == nil {
		c.changed = false
		_ = c.Conn.SetReadDeadline(c.deadline) // an error shows in Read, too
	}
	c.mu.Unlock()
	if c.ahead != nil {
		if closed {
			c.dropAhead()
			return 0, net.ErrClosed
		}
		return c.fromAhead(p), nil
	}
	into := p
	if c.full >= aheadAfter {
		if c.ahead = c.b.aheads.get(); c.ahead != nil {
			into = *c.ahead
		}
	}
	n, err := c.Conn.Read(into)
	c.recv = time.Now().UnixMilli()
	if c.full++; n < len(p) {
		c.full = 0
	}
	if c.ahead != nil {
		if *c.ahead, c.taken = (*c.ahead)[:n], 0; n > 0 {
			return c.fromAhead(p), nil // an error comes again with the next read
		}
		c.dropAhead()
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			return n, net.ErrClosed
		}
	}
	return n, err
}

// fromAhead gives mochi what was read ahead.
func (c *conn) fromAhead(p []byte) int {
	n := copy(p, (*c.ahead)[c.taken:])
	if c.taken += n; c.taken == len(*c.ahead) {
		c.dropAhead()
	}
	return n
}

// dropAhead gives the buffer back, with what may be left in it.
func (c *conn) dropAhead() {
	if c.ahead != nil {
		c.b.aheads.put(c.ahead)
		c.ahead = nil
	}
}

// aheads lends larger buffers to connections that send much: one read(2) then takes in hundreds of messages instead of the twenty
// that fit mochi's buffer. There are few of them, as a connection holds its one while it waits for more; who gets none reads
// without.
type aheads struct {
	lent atomic.Int32
	pool sync.Pool // *[]byte
}

const (
	aheadBytes = 32 << 10
	aheadMost  = 256 // 8 MB in all
	aheadAfter = 4   // full reads, so that one large message is not yet much
)

func (a *aheads) get() *[]byte {
	if a.lent.Add(1) > aheadMost {
		a.lent.Add(-1)
		return nil
	}
	if buf, ok := a.pool.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, aheadBytes)
	return &buf
}

func (a *aheads) put(buf *[]byte) {
	*buf = (*buf)[:cap(*buf)]
	a.lent.Add(-1)
	a.pool.Put(buf)
}

// SetDeadline is called by mochi before each packet, for the keep-alive. It holds from the next read of the socket on: most packets
// are read together with others, and setting it costs as much as a small read. Writing has a deadline of its own.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.changed = t, true
	return nil
}

// Write sends whole packets. mochi and the acknowledgements share the connection by it. A connection whose peer does not
// read is given up.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.over {
		return 0, net.ErrClosed
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.b.conf.WriteTimeout)) // an error shows in Write, too
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

// acknowledge is called when mochi has let the connection go. It waits for what is on its way to the disk.
func (c *conn) acknowledge() {
	if !c.acks.drain(drainTimeout) {
		c.b.log.Warn("connection closed before its messages were stored", "device", c.name())
	}
}

// goodbye tells an MQTT 5 client why its connection ends, and closes it.
func (c *conn) goodbye(err error) {
	code := c.reason(err)
	if code == packets.ErrPacketTooLarge {
		_ = c.reject("", "too_large", "the packet is larger than the broker takes", nil)
	}
	if nc, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
		_ = nc.NetConn().SetWriteDeadline(time.Now().Add(time.Second)) // ends a write under way
	} else {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	}
	c.writing.Lock()
	c.over = true
	if c.version == 5 && c.session != nil && code.Code >= packets.ErrUnspecifiedError.Code && c.told.CompareAndSwap(false, true) {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Conn.Write([]byte{packets.Disconnect << 4, 2, code.Code, 0}) // the connection ends either way
	}
	c.writing.Unlock()
	if c.told.Load() {
		c.linger()
	}
	_ = c.Conn.Close() // nothing is left to be lost
}

// linger lets the peer read the last packet: closing with unread input resets a TCP connection, and what was sent is lost.
func (c *conn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, c.Conn, 1<<20) // until the peer closes, or long enough
}

// reason is why the connection ended, as a reason code of DISCONNECT (MQTT 5.0, 3.14.2.1); below 0x80: the device left.
func (c *conn) reason(err error) packets.Code {
	c.mu.Lock()
	stopped := c.code
	c.mu.Unlock()
	if stopped != (packets.Code{}) {
		return stopped
	}
	if code, ok := errors.AsType[packets.Code](err); ok {
		return code
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return packets.ErrKeepAliveTimeout
	}
	return packets.CodeDisconnect
}

func (c *conn) name() string {
	if c.device == nil {
		return ""
	}
	return string(c.device.ID())
}
