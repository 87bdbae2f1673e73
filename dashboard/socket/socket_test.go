package socket

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gofiber/fiber/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

func TestSeal(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100000} {
		payload := bytes.Repeat([]byte{7}, n)
		for _, before := range [][]byte{nil, []byte("message before")} {
			start := len(before)
			dst := Seal(append(Begin(bytes.Clone(before)), payload...), start, n%2 == 0)
			if !bytes.Equal(dst[:start], before) || !bytes.Equal(Payload(dst[start:]), payload) {
				t.Errorf("%d bytes after %d: not what was sealed", n, start)
			}
			if want := map[bool]byte{true: opText, false: opBinary}[n%2 == 0]; dst[start] != want {
				t.Errorf("%d bytes: opcode %x", n, dst[start])
			}
		}
	}
}

func TestCodesSayWhetherToComeBack(t *testing.T) {
	for code, back := range map[Code]bool{Normal: false, GoingAway: true, ServiceRestart: true, TryAgainLater: true, InternalError: true,
		MessageTooBig: false, TooManyMessages: false, Expired: false, Revoked: false, 4200: true} {
		if code.ComesBack() != back {
			t.Errorf("%d: %v", code, !back)
		}
	}
}

// echo sends back what it gets; "panic" and "boom" do as they say.
type echo struct {
	conn *Conn
	mu   sync.Mutex
	out  []byte
	end  chan struct{}
}

func (e *echo) Message(text bool, p []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if string(p) == "panic" {
		panic("as asked")
	}
	start := len(e.out)
	e.out = Seal(append(Begin(e.out), p...), start, text)
	e.conn.Wake()
	return nil
}

func (e *echo) Write(time.Time) (time.Duration, error) {
	e.mu.Lock()
	out := e.out
	e.out = nil
	e.mu.Unlock()
	if bytes.Contains(out, []byte("boom")) {
		panic("in writing")
	}
	return time.Hour, e.conn.Send(out)
}

func (e *echo) End() { close(e.end) }

func serve(t *testing.T, max int) (s *Server, url string, ended chan struct{}) {
	t.Helper()
	s = New(Config{Subprotocols: []string{"test"}, MaxMessage: 1000, MaxConns: max}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	app := fiber.New(fiber.Config{DisableStartupMessage: true, ReduceMemoryUsage: true})
	ended = make(chan struct{})
	app.Get("/", func(c *fiber.Ctx) error {
		return s.Upgrade(c, func(conn *Conn) Session { return &echo{conn: conn, end: ended} })
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- app.Listener(l) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background(), GoingAway, ""); err != nil {
			t.Error(err)
		}
		if err := app.ShutdownWithTimeout(5 * time.Second); err != nil {
			t.Error(err)
		}
		<-served
	})
	return s, "ws://" + l.Addr().String(), ended
}

func dial(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"test"}, HTTPClient: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

func TestEcho(t *testing.T) {
	s, url, ended := serve(t, 1)
	ws := dial(t, url)
	for _, n := range []int{0, 1, 200, 999} {
		want := bytes.Repeat([]byte("x"), n)
		if err := ws.Write(t.Context(), websocket.MessageText, want); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(t.Context()); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: %q %v", n, got, err)
		}
	}
	go func() { _, _, _ = ws.Read(t.Context()) }() // for the pong
	if err := ws.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if _, resp, err := websocket.Dial(t.Context(), url, nil); err == nil || resp.StatusCode != http.StatusInternalServerError {
		// Without the dashboard's error handler, devices.ErrUnavailable is a plain 500.
		t.Errorf("a connection too many: %v %v", resp, err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("closing: %v", err)
	}
	<-ended
	if st := s.Stats(); st.Opened != 1 || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
}

func TestPanicsEndOneConnection(t *testing.T) {
	for _, message := range []string{"panic", "boom"} {
		_, url, ended := serve(t, 0)
		ws := dial(t, url)
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusInternalError {
			t.Errorf("%s: %v", message, err)
		}
		<-ended
	}
}

func TestKeepAlive(t *testing.T) {
	s, url, ended := serve(t, 0)
	ws := dial(t, url)
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() { _, _, _ = ws.Read(context.Background()) }() // answers pings
	only := func() *Conn {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			return c
		}
		t.Fatal("no connection")
		return nil
	}
	c := only()
	heard := func(ago time.Duration) func(net.Conn) (time.Duration, bool) {
		return func(net.Conn) (time.Duration, bool) { return ago, true }
	}
	// Quiet: it is asked, and answers.
	c.heard.Store(time.Now().Add(-pingAfter - time.Minute).Unix())
	was := c.heard.Load()
	s.sweep(time.Now(), heard(0))
	for deadline := time.Now().Add(5 * time.Second); c.heard.Load() == was; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("no pong")
		}
	}
	// Nothing read for long, but its TCP answers: a viewer that stalls is not cut off.
	c.heard.Store(time.Now().Add(-time.Hour).Unix())
	s.sweep(time.Now(), heard(time.Second))
	if s.Stats().Died != 0 {
		t.Fatal("a stalled peer was taken for dead")
	}
	if ago, ok := tcpHeard(c.net); !ok || ago > time.Minute {
		t.Errorf("the kernel says %v %v", ago, ok)
	}
	c.heard.Store(time.Now().Add(-time.Hour).Unix())
	s.sweep(time.Now(), heard(time.Hour))
	<-ended
	if s.Stats().Died != 1 {
		t.Error("a dead peer lives")
	}
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte("hello"), true)
	f.Add(bytes.Repeat([]byte{1}, 126), false)
	f.Fuzz(func(t *testing.T, p []byte, text bool) {
		m := Seal(append(Begin(nil), p...), 0, text)
		if !bytes.Equal(Payload(m), p) {
			t.Fatal("not what was sealed")
		}
		if len(p) > 125 && len(p) < 1<<16 && int(binary.BigEndian.Uint16(m[2:])) != len(p) {
			t.Fatal("length")
		}
	})
}

// sleeper rests as long as it is told, and says when it is asked.
type sleeper struct {
	rests chan time.Duration
	asked chan time.Time
}

func (s *sleeper) Message(bool, []byte) error { return nil }

func (s *sleeper) Write(now time.Time) (time.Duration, error) {
	s.asked <- now
	return <-s.rests, nil
}

func (s *sleeper) End() {}

// The timer is not set anew for each rest; yet no rest may last longer than it should, whatever came before it, and also when the
// writing goroutine has ended meanwhile.
func TestRestEnds(t *testing.T) {
	s := New(Config{Subprotocols: []string{"test"}, MaxMessage: 1000}, slog.New(slog.DiscardHandler))
	near, far := net.Pipe()
	defer far.Close()
	conn := &Conn{server: s, net: near, wake: make(chan bool, 1), over: true}
	session := &sleeper{make(chan time.Duration), make(chan time.Time)}
	conn.begin(session)
	asked := <-session.asked
	f := func(rest time.Duration, wake bool) {
		t.Helper()
		session.rests <- rest
		if wake {
			conn.Wake()
		}
		select {
		case now := <-session.asked:
			if took := now.Sub(asked); !wake && took > rest+500*time.Millisecond {
				t.Errorf("asked after %v, want %v", took, rest)
			}
			asked = now
		case <-time.After(10 * time.Second):
			t.Fatalf("not asked after a rest of %v", rest)
		}
	}
	f(time.Hour, true)
	f(time.Hour, true)
	f(20*time.Millisecond, false) // the timer must come forward
	f(time.Hour, true)
	for range 3 {
		f(700*time.Millisecond, true)
		f(30*time.Millisecond, false)
	}
	f(900*time.Millisecond, false)
	f(900*time.Millisecond, false)
	f(900*time.Millisecond, false) // by now the goroutine does not linger any more
	f(20*time.Millisecond, false)
	f(time.Hour, true)
	conn.hangup()
	session.rests <- time.Hour
	for {
		conn.mu.Lock()
		over := conn.over
		conn.mu.Unlock()
		if over {
			break
		}
		select {
		case <-session.asked:
			session.rests <- time.Hour
		case <-time.After(time.Millisecond):
		}
	}
	conn.writers.Wait()
}
