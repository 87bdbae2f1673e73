package spine

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"millrace/devices"
	"millrace/ingest/spine/natstest"
)

// fill stores n samples with values from first on.
func fill(t *testing.T, s *Spine, first, n int) {
	t.Helper()
	for i := range n {
		if err := s.Append(t.Context(), []devices.Sample{sample(1, float64(first+i))}); err != nil {
			t.Fatal(err)
		}
	}
}

// A life is the same over restarts, and another once the stream was made anew.
func TestLife(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, stop := open(t, c)
		fill(t, s, 1, 3)
		life := s.Life()
		stop()
		s, stop = open(t, c)
		if s.Life() != life {
			t.Errorf("after a restart %q, before it %q", s.Life(), life)
		}
		if err := s.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		stop()
		if s, _ = open(t, c); s.Life() == life {
			t.Error("a new stream has the life of the old one")
		}
	})
}

// The stream is replaced under a running reader, and by one that is longer than the position at which it stood: the reader begins
// at its start. Until the stream is there again producers are told so, and nothing needs a restart.
func TestStreamReplacedWhileReading(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, _ := open(t, c)
		fill(t, s, 1, 3)
		var got log
		r, _ := read(t, s, 0, &got)
		wait(t, r.CaughtUp(), "caught up")
		if err := s.js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the stream is made anew and takes samples", func() bool {
			return s.Append(t.Context(), []devices.Sample{sample(1, 10)}) == nil
		})
		fill(t, s, 11, 9) // on to sequence 10, beyond the 3 of before
		eventually(t, "all of the new stream is read", func() bool { return got.len() >= 13 })
		for i, x := range got.samples[3:] {
			if x.Value != float64(10+i) {
				t.Fatalf("sample %d of the new stream is %v", i, x.Value)
			}
		}
		st := s.Stats()
		if st.Replaced != 1 || st.Lost != 0 || r.Delivered() != st.Last {
			t.Errorf("%+v, delivered %d", st, r.Delivered())
		}
	})
}

// The same with a server that comes back with an empty store under its address.
func TestServerComesBackEmpty(t *testing.T) {
	ns := natstest.Start(t, t.TempDir(), -1)
	port, err := strconv.Atoi(ns.Addr().String()[strings.LastIndex(ns.Addr().String(), ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, Config{NATSURL: ns.ClientURL()})
	fill(t, s, 1, 20)
	var got log
	r, _ := read(t, s, 0, &got)
	wait(t, r.CaughtUp(), "caught up")
	natstest.Stop(ns)
	ns = natstest.Start(t, t.TempDir(), port)
	t.Cleanup(func() { natstest.Stop(ns) })
	eventually(t, "samples are taken again", func() bool {
		return s.Append(t.Context(), []devices.Sample{sample(1, 100)}) == nil
	})
	eventually(t, "and read", func() bool { return got.len() > 20 && got.samples[20].Value == 100 })
	if s.Stats().Replaced != 1 {
		t.Errorf("counted %d times", s.Stats().Replaced)
	}
}

// A reader that is made after the stream was replaced under the same address: its position is beyond the end.
func TestPositionBeyondTheEnd(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, _ := open(t, c)
		fill(t, s, 1, 2)
		var got log
		r, _ := read(t, s, 5000, &got)
		wait(t, r.CaughtUp(), "caught up")
		if got.len() != 2 || s.Stats().Replaced != 1 || r.Delivered() != 2 {
			t.Fatalf("%d samples, %+v", got.len(), s.Stats())
		}
		fill(t, s, 3, 1)
		eventually(t, "what comes later", func() bool { return got.len() == 3 })
	})
}

// What is said of an address holds no password, also of several addresses.
func TestAddressesWithoutPasswords(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := Redacted(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	f("nats://127.0.0.1:4222", "nats://127.0.0.1:4222")
	f("nats://u:secret@a:4222,tls://v:secret@b:4222", "nats://a:4222,tls://b:4222")
	f("nats://u:sec ret@a:4222", "(an address that can't be read)")
	_, err := Open(t.Context(), Config{NATSURL: "nats://u:secret@127.0.0.1:1"}, book{}, quiet)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
		t.Errorf("nothing listens there: %v", err)
	}
}

// Whoever waits for a sequence goes on when the sinks have seen it, and not before.
func TestWait(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, _ := open(t, c)
		fill(t, s, 1, 3)
		var got log
		r, _ := read(t, s, 0, &got)
		if err := r.Wait(t.Context(), 3); err != nil || got.len() < 3 {
			t.Fatalf("%v, %d samples", err, got.len())
		}
		done := make(chan error)
		for range 3 {
			go func() { done <- r.Wait(t.Context(), 4) }()
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- r.Wait(ctx, 1000) }()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Fatalf("%v", err)
		}
		fill(t, s, 4, 1)
		for range 3 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A reader goes back, and forth, when it is told to.
func TestSeek(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, _ := open(t, c)
		fill(t, s, 1, 10)
		var got log
		r, _ := read(t, s, 0, &got)
		wait(t, r.CaughtUp(), "caught up")
		from := make(chan int, 1)
		r.Seek(4, func() { from <- got.len() })
		n := <-from
		eventually(t, "read again", func() bool { return got.len() == n+7 })
		if got.samples[n].Value != 4 {
			t.Errorf("it went to %v", got.samples[n].Value)
		}
		fill(t, s, 11, 1)
		if err := r.Wait(t.Context(), 11); err != nil || s.Stats().Lost != 0 {
			t.Errorf("%v, %+v", err, s.Stats())
		}
	})
}
