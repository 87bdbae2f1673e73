package broker

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// tap is the socket of a device that has sent more than anybody reads at once.
type tap struct {
	net.Conn
	rest  []byte
	reads int
}

func (t *tap) Read(p []byte) (int, error) {
	t.reads++
	if len(t.rest) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *tap) SetReadDeadline(time.Time) error { return nil }

func TestReadAhead(t *testing.T) {
	b := &Broker{}
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	socket := &tap{rest: sent}
	c := newConn(b, socket)
	var got bytes.Buffer
	calls := 0
	for got.Len() < len(sent) {
		p := make([]byte, 1+rand.IntN(2048))
		n, err := c.Read(p)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		calls++
		got.Write(p[:n])
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Error("other bytes were read than sent")
	}
	if most := len(sent)/aheadBytes + 10; socket.reads > most {
		t.Errorf("%d reads of the socket for %d of mochi's, want at most %d", socket.reads, calls, most)
	}
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the end: %d %v", n, err)
	}
	if lent := b.aheads.lent.Load(); lent != 0 || c.ahead != nil {
		t.Errorf("%d buffers are still lent", lent)
	}

	// The most are lent: it reads as it would without.
	socket.rest = sent
	b.aheads.lent.Store(aheadMost)
	socket.reads = 0
	if n, err := io.ReadFull(onlyReader{c}, make([]byte, len(sent))); n != len(sent) || err != nil {
		t.Fatal(n, err)
	}
	if c.ahead != nil || b.aheads.lent.Load() != aheadMost {
		t.Error("a buffer was lent beyond the most")
	}
	b.aheads.lent.Store(0)

	// What was read ahead of the end of a connection is not taken.
	socket.rest = sent
	for range aheadAfter + 1 {
		if _, err := c.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if c.ahead == nil {
		t.Fatal("nothing was read ahead")
	}
	c.stop(packets.ErrNotAuthorized)
	if n, err := c.Read(make([]byte, 100)); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("after stop: %d %v", n, err)
	}
	if lent := b.aheads.lent.Load(); lent != 0 {
		t.Errorf("%d buffers are still lent", lent)
	}
}

// onlyReader reads in the pieces that mochi's buffer asks for.
type onlyReader struct{ c *conn }

func (r onlyReader) Read(p []byte) (int, error) { return r.c.Read(p[:min(len(p), 2048)]) }

func TestFloodIsTakenInOrder(t *testing.T) {
	s := start(t, nil)
	r := s.raw(4)
	r.sign("press-7", nil)
	const messages = 5000
	var all bytes.Buffer
	for i := range messages {
		pk := publishPacket("devices/press-7/telemetry/n", strconv.Itoa(i), 0, 0)
		pk.ProtocolVersion = 4
		if err := pk.PublishEncode(&all); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.c.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all messages", func() bool { return len(s.intake.got()) == messages })
	for i, got := range s.intake.got() {
		if want := "press-7 n " + strconv.Itoa(i); got != want {
			t.Fatalf("message %d is %q", i, got)
		}
	}
	_ = r.c.Close()
	eventually(t, "the connection to end", func() bool { return s.Stats().Connections["3.1.1"] == 0 && s.aheads.lent.Load() == 0 })
}

// The keep-alive runs from the last packet, also when many came at once (MQTT 3.1.1, 3.1.2.10).
func TestKeepAlive(t *testing.T) {
	s := start(t, nil)
	r := s.raw(4)
	r.sign("press-7", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	began := time.Now()
	ping := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}
	const topic = "devices/press-7/telemetry/temp"
	r.send(publishPacket(topic, "1", 0, 0), publishPacket(topic, "2", 0, 0), ping)
	r.want(packets.Pingresp, 0, 0)
	_ = r.c.SetReadDeadline(began.Add(10 * time.Second))
	if _, err := r.r.ReadByte(); err != io.EOF {
		t.Fatalf("a silent connection: %v", err)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 5*time.Second {
		t.Errorf("it ended after %v, want 1 to 1.5 times its keep-alive of a second", took)
	}
}
