package hub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// text writes messages as "group:data", reliable ones with their number before.
type text struct{}

func (text) Slot() int { return 0 }
func (text) Encode(m *Message) []byte {
	b := fmt.Appendf(nil, "%s:%s", m.Group, m.Data.Bytes)
	if m.Stream != nil {
		b = fmt.Appendf(nil, "stream %s %d %t %v", m.Stream.ID, m.Stream.Seq, m.Stream.End, m.Stream.Error)
	}
	if m.States != nil {
		b = fmt.Appendf(nil, "states %t", m.States.Snapshot)
		for _, s := range m.States.Items {
			b = fmt.Appendf(b, " %s=%v", s.Connection, s.State)
		}
	}
	return b
}
func (text) Append(dst, shared []byte, seq uint64) []byte {
	if seq > 0 {
		dst = fmt.Appendf(dst, "%d ", seq)
	}
	return append(append(dst, shared...), '\n')
}
func (text) StreamClosed(dst []byte, id string, err *StreamError) []byte {
	return fmt.Appendf(dst, "closed %s %s\n", id, err.Name)
}

// wire is a transport that counts.
type wire struct {
	mu      sync.Mutex
	wakes   int
	aborted bool
}

func (w *wire) Wake()             { w.mu.Lock(); w.wakes++; w.mu.Unlock() }
func (w *wire) Abort(int, string) { w.mu.Lock(); w.aborted = true; w.mu.Unlock() }

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// fixture is a hub with a clock of its own.
type fixture struct {
	t     *testing.T
	s     *Service
	h     *Hub
	clock *clock
	told  told
}

// told is an observer that writes down.
type told struct{ lines []string }

func (o *told) Connected(c *Conn)            { o.lines = append(o.lines, "connected "+c.ID()) }
func (o *told) Joined(c *Conn, group string) { o.lines = append(o.lines, "joined "+c.ID()+" "+group) }
func (o *told) Left(c *Conn, group string)   { o.lines = append(o.lines, "left "+c.ID()+" "+group) }
func (o *told) Ended(c *Conn, reason string) {
	o.lines = append(o.lines, "ended "+c.ID()+" "+reason)
}

func setUp(t *testing.T, c Config) *fixture {
	f := &fixture{t: t, clock: &clock{time.Unix(1_760_000_000, 0)}}
	f.s = New(c, &f.told, f.clock.now)
	f.h = f.s.Hub("Chat")
	return f
}

func (f *fixture) connect(spec Spec) (*Conn, *wire) {
	f.t.Helper()
	w := &wire{}
	if spec.Encoder == nil {
		spec.Encoder = text{}
	}
	c, err := f.h.Connect(spec, w)
	if err != nil {
		f.t.Fatal(err)
	}
	return c, w
}

func take(t *testing.T, c *Conn, w *wire) string {
	t.Helper()
	b, err := c.Take(w, nil, 1<<20)
	if err != nil {
		return string(b) + err.Error()
	}
	return string(b)
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func say(group, s string) *Message {
	return &Message{Group: group, Data: Data{Kind: Text, Bytes: []byte(s)}}
}

func TestWhoGetsWhat(t *testing.T) {
	f := setUp(t, Config{})
	all := []string{"webpubsub.sendToGroup", "webpubsub.joinLeaveGroup"}
	a, wa := f.connect(Spec{ID: "a", User: "alice", Roles: all, Groups: []string{"g"}})
	b, wb := f.connect(Spec{ID: "b", User: "bob", Groups: []string{"g", "h"}})
	a2, wa2 := f.connect(Spec{ID: "a2", User: "alice"})
	if err := a.Publish(say("g", "1"), true); err != nil {
		t.Fatal(err)
	}
	if err := a.Publish(say("g", "2"), false); err != nil {
		t.Fatal(err)
	}
	if err := a.Publish(say("nobody", "x"), false); err != nil {
		t.Fatal(err)
	}
	f.h.SendUser("alice", say("", "3"), nil)
	f.h.SendAll(say("", "4"), []string{"b"}, nil)
	f.h.SendAll(say("", "5"), nil, func(c *Conn) bool { return c.In("h") })
	f.h.SendConn("a2", say("", "6"))
	if f.h.SendConn("none", say("", "7")) {
		t.Error("sent to a connection that is not there")
	}
	same(t, take(t, a, wa), "g:2\n:3\n:4\n")
	same(t, take(t, b, wb), "g:1\ng:2\n:5\n")
	same(t, take(t, a2, wa2), ":3\n:4\n:6\n")

	f.h.CloseConn("b", "enough")
	same(t, take(t, b, wb), "closed with 1000: enough")
	if f.h.GroupExists("h") || !f.h.GroupExists("g") || f.h.UserExists("bob") || !f.h.UserExists("alice") {
		t.Error("what is left after closing is wrong")
	}
	b.Detach(wb, "late")
	same(t, strings.Join(f.told.lines, "\n"), "connected a\njoined a g\nconnected b\njoined b g\njoined b h\nconnected a2\nended b enough")
	if n := f.h.Members("g", "", 10); len(n) != 1 || n[0] != a {
		t.Errorf("members are %v", n)
	}
}

func TestRightsActAtOnce(t *testing.T) {
	f := setUp(t, Config{})
	c, w := f.connect(Spec{ID: "a", Roles: []string{"webpubsub.sendToGroup", "webpubsub.joinLeaveGroup.g"}})
	refused := func(err error, name string) {
		t.Helper()
		if e, ok := errors.AsType[*Error](err); !ok || e.Name != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	if err := c.Join("g"); err != nil {
		t.Error(err)
	}
	refused(c.Join("h"), "Forbidden")
	if err := c.Revoke(SendToGroup, "g"); err != nil {
		t.Fatal(err)
	}
	refused(c.Publish(say("g", "no"), false), "Forbidden")
	if err := c.Publish(say("h", "yes"), false); err != nil {
		t.Error(err)
	}
	if err := c.Revoke(JoinLeaveGroup, "g"); err != nil {
		t.Fatal(err)
	}
	refused(c.Leave("g"), "Forbidden")
	f.h.SendGroup(say("g", "still a member"), nil, nil)
	same(t, take(t, c, w), "g:still a member\n")
	for i := range maxLiterals {
		if err := c.Grant(JoinLeaveGroup, fmt.Sprint("x", i)); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := c.Grant(JoinLeaveGroup, "one more"); !errors.Is(err, ErrRules) {
		t.Errorf("got %v", err)
	}
	if err := c.Grant(JoinLeaveGroup, ""); err != nil || !c.Allowed(JoinLeaveGroup, "one more") || !c.AllowedAll(JoinLeaveGroup) {
		t.Error("not granted for all")
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern  string
		yes, not []string
	}{
		{"chat-*", []string{"chat-", "chat-1"}, []string{"chat-1.x", "chat"}},
		{"clientA.*", []string{"clientA.x"}, []string{"clientA.x.y"}},
		{"clientA.**", []string{"clientA.x.y"}, []string{"clientB.x"}},
		{"a?c", []string{"abc", "aéc"}, []string{"ac", "a.c", "abbc"}},
		{"a.**.b", []string{"a..b", "a.x.y.b"}, []string{"ab"}},
		{`a\*.***b`, []string{"a*.ab"}, []string{"aa.ab"}},
		{"Room*", []string{"Room1"}, []string{"room1"}},
		{"**", []string{"", "a.b"}, nil},
		{`a\`, nil, []string{"a", `a\`}},
		{`a\b`, nil, []string{"ab"}},
		{"******", nil, []string{"a"}},
		{strings.Repeat("a", 1025), nil, []string{strings.Repeat("a", 1025)}},
	} {
		for _, s := range c.yes {
			if !MatchPattern(c.pattern, s) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.not {
			if MatchPattern(c.pattern, s) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

func TestRoles(t *testing.T) {
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf("webpubsub.sendToGroups.p%02d*", i))
	}
	for _, c := range []struct {
		roles    []string
		yes, not []string
	}{
		{nil, nil, []string{"a"}},
		{[]string{"webpubsub.sendToGroup"}, []string{"a"}, nil},
		{[]string{"webpubsub.sendToGroup.a.b"}, []string{"a.b"}, []string{"a", "A.b"}},
		{[]string{"webpubsub.sendToGroup.*"}, []string{"*"}, []string{"a"}},
		{[]string{"webpubsub.sendToGroups.r*"}, []string{"r1"}, []string{"s"}},
		{[]string{"webpubsub.sendToGroups"}, nil, []string{"s"}},
		{[]string{"webpubsub.sendToGroups.**"}, []string{"a.b"}, nil},
		{[]string{`webpubsub.sendToGroups.a\*`}, []string{"a*"}, []string{"ab"}},
		{[]string{`webpubsub.sendToGroups.a\`, "webpubsub.nonsense", "other", "webpubsub.sendToGroup."}, nil, []string{"a", "", `a\`}},
		{many, []string{"p00x", "p08x"}, []string{"p09x", "p11x"}},
	} {
		r := permissionsOf(c.roles)
		for _, s := range c.yes {
			if !r[SendToGroup].allowed(s) {
				t.Errorf("%v do not allow %q", c.roles, s)
			}
		}
		for _, s := range c.not {
			if r[SendToGroup].allowed(s) {
				t.Errorf("%v allow %q", c.roles, s)
			}
		}
		if r[JoinLeaveGroup].allowed("a") {
			t.Errorf("%v allow joining", c.roles)
		}
	}
}

// TestReliable drops a client at random while messages come: it gets each once, in order.
func TestReliable(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		f := setUp(t, Config{})
		c, w := f.connect(Spec{ID: "a", Reliable: true, Groups: []string{"g"}, First: []byte("hello\n")})
		var got []string
		largest, sent := uint64(0), 0
		client := func(b string) {
			for line := range strings.Lines(b) {
				var n uint64
				if _, err := fmt.Sscanf(line, "%d ", &n); err == nil && n > largest {
					if n != largest+1 {
						t.Fatalf("seed %d: %d after %d", seed, n, largest)
					}
					largest = n
					got = append(got, strings.TrimSpace(line))
				}
			}
		}
		for range 400 {
			switch rng.IntN(6) {
			case 0, 1:
				sent++
				f.h.SendGroup(say("g", fmt.Sprint(sent)), nil, nil)
			case 2:
				if c.Online() {
					b, err := c.Take(w, nil, 1+rng.IntN(60))
					if err != nil {
						t.Fatal(err)
					}
					client(string(b))
				}
			case 3:
				if c.Online() { // what was taken may be lost on the way
					if _, err := c.Take(w, nil, 1+rng.IntN(60)); err != nil {
						t.Fatal(err)
					}
					c.Detach(w, "lost")
				}
			case 4:
				old := w
				w = &wire{}
				online := c.Online()
				if err := c.Resume(w, []byte("again\n")); err != nil {
					t.Fatal(err)
				}
				if online != old.aborted {
					t.Fatal("the old transport must be aborted if there was one")
				}
				if _, err := c.Take(old, nil, 100); err == nil {
					t.Fatal("an old transport still takes")
				}
			case 5:
				c.Acked(largest)
			}
		}
		w = &wire{}
		if err := c.Resume(w, nil); err != nil {
			t.Fatal(err)
		}
		client(take(t, c, w))
		if len(got) != sent {
			t.Fatalf("seed %d: got %d of %d", seed, len(got), sent)
		}
		for i, line := range got {
			if want := fmt.Sprintf("%d g:%d", i+1, i+1); line != want {
				t.Fatalf("seed %d: got %q, want %q", seed, line, want)
			}
		}
		c.Acked(1 << 63)
		if due, unacked := c.Waiting(); due != 0 || unacked != 0 {
			t.Fatalf("%d due and %d unacked at the end", due, unacked)
		}
	}
}

func TestRecoveryEnds(t *testing.T) {
	f := setUp(t, Config{})
	c, w := f.connect(Spec{ID: "a", Reliable: true, Groups: []string{"g"}})
	c.Detach(w, "lost")
	f.clock.t = f.clock.t.Add(29 * time.Second)
	f.s.Expire(f.clock.t)
	if _, ok := f.h.Conn("a"); !ok {
		t.Fatal("ended too early")
	}
	if !f.h.GroupExists("g") {
		t.Error("a detached connection is no member")
	}
	f.clock.t = f.clock.t.Add(2 * time.Second)
	f.s.Expire(f.clock.t)
	if _, ok := f.h.Conn("a"); ok || f.h.GroupExists("g") {
		t.Error("still there after its time")
	}
	if err := c.Resume(&wire{}, nil); !errors.Is(err, ErrGone) {
		t.Errorf("resumed after its end: %v", err)
	}
	same(t, strings.Join(f.told.lines, "\n"), "connected a\njoined a g\nended a The connection recovery timeout expired.")
	if st := f.s.Stats(); st.Connections != 0 || st.Detached != 0 || st.Expired != 1 {
		t.Errorf("stats are %+v", st)
	}
}

func TestTTL(t *testing.T) {
	f := setUp(t, Config{})
	c, w := f.connect(Spec{ID: "a", Reliable: true})
	c.Detach(w, "lost")
	short, long := say("", "short"), say("", "long")
	short.TTL, long.TTL = time.Second, time.Minute
	c.Send(short)
	c.Send(long)
	f.clock.t = f.clock.t.Add(5 * time.Second)
	w = &wire{}
	if err := c.Resume(w, nil); err != nil {
		t.Fatal(err)
	}
	same(t, take(t, c, w), "2 :long\n")
}

func TestSlow(t *testing.T) {
	f := setUp(t, Config{QueueMessages: 5, UnackedBytes: 1000})
	slow, ws := f.connect(Spec{ID: "slow", Groups: []string{"g"}})
	good, wg := f.connect(Spec{ID: "good", Groups: []string{"g"}})
	lazy, wl := f.connect(Spec{ID: "lazy", Groups: []string{"g"}, Reliable: true})
	for i := range 10 {
		f.h.SendGroup(say("g", fmt.Sprint(i)), nil, nil)
		same(t, take(t, good, wg), fmt.Sprintf("g:%d\n", i))
	}
	if got := take(t, slow, ws); !strings.HasPrefix(got, "closed with 1008") {
		t.Errorf("slow got %q", got)
	}
	for range 3 {
		f.h.SendGroup(say("g", strings.Repeat("x", 400)), nil, nil)
		take(t, good, wg)
	}
	if got := take(t, lazy, wl); !strings.HasPrefix(got, "closed with 1008") {
		t.Errorf("lazy got %q", got)
	}
	if err := lazy.Resume(&wire{}, nil); !errors.Is(err, ErrGone) {
		t.Error("recovered after it was cut")
	}
	if n, _, _ := f.h.Size(); n != 1 || f.s.Stats().Slow != 2 {
		t.Errorf("%d left, stats %+v", n, f.s.Stats())
	}
}

func TestAckIDs(t *testing.T) {
	f := setUp(t, Config{})
	c, _ := f.connect(Spec{ID: "a"})
	if c.Seen(0) != nil {
		t.Error("0 is new")
	}
	c.Succeeded(0)
	if e := c.Seen(0); e == nil || e.Name != "Duplicate" || e.Message != "Message with ack-id: 0 has been processed" {
		t.Errorf("got %v", e)
	}
	for i := range uint64(keepAckIDs) {
		c.Succeeded(i + 1)
	}
	if c.Seen(0) != nil || c.Seen(1) == nil || c.Seen(keepAckIDs) == nil {
		t.Error("not the last thousand are remembered")
	}
}

func TestStreams(t *testing.T) {
	f := setUp(t, Config{})
	p, wp := f.connect(Spec{ID: "p", Roles: []string{"webpubsub.sendToGroup.g"}})
	c, wc := f.connect(Spec{ID: "c", Groups: []string{"g"}})
	if err := p.OpenStream("s", "h", false, nil, 0); err == nil || err.Name != "Forbidden" {
		t.Errorf("got %v", err)
	}
	if err := p.OpenStream("s", "g", false, nil, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := p.OpenStream("s", "g", false, nil, 0); err == nil || err.Name != "BadRequest" {
		t.Errorf("got %v", err)
	}
	for _, step := range []struct {
		seq, expected uint64
		ok            bool
	}{{1, 2, true}, {3, 2, false}, {1, 2, true}, {2, 3, true}} {
		if expected, ok, err := p.StreamData("s", step.seq, true, Data{Kind: Text, Bytes: []byte("x")}); err != nil || expected != step.expected || ok != step.ok {
			t.Errorf("%d: expected %d, %t, %v", step.seq, expected, ok, err)
		}
	}
	if err := p.EndStream("s", &StreamError{Name: "UserError"}); err != nil {
		t.Error(err)
	}
	if _, _, err := p.StreamData("s", 1, true, Data{}); err == nil || err.Name != "StreamNotFound" {
		t.Errorf("got %v", err)
	}
	same(t, take(t, c, wc), "stream s 1 false <nil>\nstream s 2 false <nil>\nstream s 3 true &{UserError  }\n")
	_ = p.OpenStream("idle", "g", false, nil, time.Minute)
	_ = p.OpenStream("gone", "g", false, nil, time.Hour)
	f.clock.t = f.clock.t.Add(time.Minute)
	f.s.Expire(f.clock.t)
	same(t, take(t, p, wp), "closed idle IdleTimeout\n")
	same(t, take(t, c, wc), "stream idle 1 true &{IdleTimeout The stream was idle for too long. }\n")
	p.Detach(wp, "lost")
	same(t, take(t, c, wc), "stream gone 1 true &{Cancelled The publisher is gone. }\n")
}

func TestGroupState(t *testing.T) {
	f := setUp(t, Config{})
	both := []string{"webpubsub.setGroupState", "webpubsub.getGroupState"}
	a, wa := f.connect(Spec{ID: "a", Roles: both, Groups: []string{"g"}})
	b, _ := f.connect(Spec{ID: "b", Roles: both[:1], Groups: []string{"g"}})
	out, _ := f.connect(Spec{ID: "c", Roles: both})
	if err := out.SetGroupState("g", map[string]string{"x": "y"}); err == nil || err.Error() != "Not a member of group." {
		t.Errorf("got %v", err)
	}
	if err := b.WatchGroupState("g", func() {}); err == nil || err.Error() != "Permission denied." {
		t.Errorf("got %v", err)
	}
	if err := b.SetGroupState("g", map[string]string{"k": strings.Repeat("x", 512)}); err == nil || err.(*Error).Name != "BadRequest" {
		t.Errorf("got %v", err)
	}
	_ = b.SetGroupState("g", map[string]string{"typing": "yes"})
	if err := a.WatchGroupState("g", func() { a.Control([]byte("ack\n")) }); err != nil {
		t.Fatal(err)
	}
	_ = a.SetGroupState("g", map[string]string{"typing": "no"})
	_ = b.SetGroupState("g", nil)
	_ = b.SetGroupState("g", map[string]string{"typing": "again"})
	b.Close(NormalClosure, "bye")
	same(t, take(t, a, wa), "ack\nstates true b=map[typing:yes]\nstates false a=map[typing:no]\nstates false b=map[]\nstates false b=map[typing:again]\nstates false b=map[]\n")
	a.UnwatchGroupState("g")
	_ = a.SetGroupState("g", nil)
	same(t, take(t, a, wa), "")
}

// TestOrder lets many publish to a group at once: all members get the same, in the same order.
func TestOrder(t *testing.T) {
	f := setUp(t, Config{})
	const members, publishers, each = 20, 4, 200
	conns, wires := make([]*Conn, members), make([]*wire, members)
	for i := range members {
		conns[i], wires[i] = f.connect(Spec{Groups: []string{"g"}})
	}
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				f.h.SendGroup(say("g", fmt.Sprintf("%d-%d", p, i)), nil, nil)
			}
		})
	}
	for i := range 100 { // others come and go meanwhile
		wg.Go(func() {
			c, w := f.h.Connect(Spec{Encoder: text{}, User: fmt.Sprint(i % 7)}, &wire{})
			f.h.AddToGroup(c.ID(), "g")
			c.Close(NormalClosure, "")
			_ = w
		})
	}
	wg.Wait()
	first := take(t, conns[0], wires[0])
	if n := strings.Count(first, "\n"); n != publishers*each {
		t.Fatalf("%d messages", n)
	}
	for i := range conns {
		if i > 0 && take(t, conns[i], wires[i]) != first {
			t.Fatalf("member %d got another order", i)
		}
	}
	for p := range publishers {
		last := -1
		for line := range strings.Lines(first) {
			var by, n int
			if _, err := fmt.Sscanf(line, "g:%d-%d", &by, &n); err == nil && by == p {
				if n != last+1 {
					t.Fatalf("publisher %d: %d after %d", p, n, last)
				}
				last = n
			}
		}
	}
}

func TestMembersByPage(t *testing.T) {
	f := setUp(t, Config{})
	var want []string
	for i := range 7 {
		c, _ := f.connect(Spec{ID: fmt.Sprint("c", i), Groups: []string{"g"}})
		want = append(want, c.ID())
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page := f.h.Members("g", after, 3)
		for _, c := range page {
			got = append(got, c.ID())
		}
		if len(page) < 3 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestFull(t *testing.T) {
	f := setUp(t, Config{Connections: 2, Groups: 2})
	c, _ := f.connect(Spec{ID: "a", Roles: []string{"webpubsub.joinLeaveGroup"}})
	if _, err := f.h.Connect(Spec{ID: "a"}, &wire{}); !errors.Is(err, ErrTaken) {
		t.Errorf("got %v", err)
	}
	f.connect(Spec{})
	if _, err := f.h.Connect(Spec{}, &wire{}); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	_ = c.Join("1")
	_ = c.Join("2")
	if err := c.Join("3"); err == nil {
		t.Error("joined a third of two groups")
	}
	if err := c.Join("2"); err != nil {
		t.Error("joining again is no fault: ", err)
	}
}

// sealed is like what WebSocket connections use: a shared frame that is appended.
type sealed struct{ text }

func (sealed) Encode(m *Message) []byte { return append([]byte{0x81, 126, 0, 200}, m.Data.Bytes...) }
func (sealed) Append(dst, shared []byte, seq uint64) []byte {
	if seq > 0 {
		dst = binary.BigEndian.AppendUint64(dst, seq)
	}
	return append(dst, shared...)
}

// BenchmarkDelivery is one message of 200 bytes to one of 1,000 members, and out of its queue in pieces of many.
func BenchmarkDelivery(b *testing.B) {
	for _, reliable := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "reliable"}[reliable], func(b *testing.B) {
			h := New(Config{}, nil, nil).Hub("h")
			const members, pieces = 1000, 20
			conns, wires := make([]*Conn, members), make([]*wire, members)
			for i := range conns {
				wires[i] = &wire{}
				conns[i], _ = h.Connect(Spec{Encoder: sealed{}, Groups: []string{"g"}, Reliable: reliable}, wires[i])
			}
			data := make([]byte, 200)
			buf := make([]byte, 0, 1<<16)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += members * pieces {
				for range pieces {
					h.SendGroup(&Message{Group: "g", Data: Data{Kind: Text, Bytes: data}}, nil, nil)
				}
				for i, c := range conns {
					buf, _ = c.Take(wires[i], buf[:0], 1<<16)
					c.Acked(1 << 62)
				}
			}
		})
	}
}
