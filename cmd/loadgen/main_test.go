package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"millrace/fanout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// load runs the command line against a fake for a moment, and returns what it found.
func (s *fake) load(t *testing.T, wantCode int, more ...string) (r report, said string) {
	t.Helper()
	args := append([]string{"--server", s.http.URL, "--mqtt", s.mqtt.Addr().String(), "--token", token, "--devices", "4", "--groups", "2",
		"--metrics", "3", "--viewers", "4", "--rate", "50", "--duration", "300ms", "--warmup", "50ms", "--drain", "20s", "--lossless", "--json"}, more...)
	var out, progress bytes.Buffer
	if code := start(t.Context(), args, &out, &progress); code != wantCode {
		t.Fatalf("exit code %d, want %d:\n%s", code, wantCode, progress.String())
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
	}
	return r, progress.String()
}

// An honest server is found to lose nothing, however devices publish.
func TestHonestServer(t *testing.T) {
	f := func(args ...string) report {
		t.Helper()
		s := newFake(t)
		r, _ := s.load(t, 0, args...)
		if r.Messages == 0 || r.Expected != 2*3*r.Messages || r.Missing+r.Surplus+r.Gaps > 0 || r.Measured == 0 || r.P99 < r.P50 || r.P50 == 0 {
			t.Errorf("%q: %+v", args, r)
		}
		if s.messages != int(r.Messages) {
			t.Errorf("%q: %d messages sent, %d arrived", args, r.Messages, s.messages)
		}
		return r
	}
	f()
	if r := f("--qos", "1"); r.Acknowledged != r.Messages {
		t.Errorf("%d of %d acknowledged", r.Acknowledged, r.Messages)
	}
	if r := f("--protocol", "http"); r.Acknowledged != r.Messages || r.ServerBytes != 25_000_000 {
		t.Errorf("%+v", r)
	}
	if r := f("--spikes", "20ms"); r.Spikes == 0 || r.SpikesMissing > 0 {
		t.Errorf("%+v", r)
	}
	if r := f("--drop", "100"); r.Resumes == 0 || r.Resets > 0 {
		t.Errorf("%+v", r)
	}
	f("--stalled", "1", "--stall", "100ms")
}

// Each way to cheat is noticed, and named.
func TestCheatingServer(t *testing.T) {
	f := func(what string, cheat func(n int, f *fanout.Frame) bool, noticed func(r report) bool, args ...string) {
		t.Helper()
		s := newFake(t)
		s.cheat = cheat
		r, said := s.load(t, 1, append(args, "--drain", "1s")...)
		if !noticed(r) || !strings.Contains(said, "missing or there twice") {
			t.Errorf("a server that %s: %+v, %s", what, r, said)
		}
	}
	f("leaves out a sample in secret", func(n int, f *fanout.Frame) bool {
		if n == 7 {
			f.Points = f.Points[:len(f.Points)-1]
		}
		return true
	}, func(r report) bool { return r.Missing == 2 && r.Surplus == 0 && r.Gaps == 0 }) // two viewers a group
	f("leaves out all samples of every fifth frame", func(n int, f *fanout.Frame) bool {
		if n%5 == 0 {
			f.Points = nil
		}
		return true
	}, func(r report) bool { return r.Missing == 2*3*(r.Messages/5) && r.Surplus == 0 && r.Gaps == 0 })
	f("does not send every fifth frame", func(n int, f *fanout.Frame) bool { return n%5 > 0 },
		func(r report) bool { return r.Missing == 2*3*(r.Messages/5) && r.Gaps > 0 })
	f("counts a sample twice", func(n int, f *fanout.Frame) bool {
		if n == 7 {
			f.Points[0].Count = 2
		}
		return true
	}, func(r report) bool { return r.Surplus == 2 && r.Missing == 0 })
	f("makes up for one lost by counting another twice", func(n int, f *fanout.Frame) bool {
		if n == 7 {
			f.Points[0].Count++
		}
		return n != 9
	}, func(r report) bool { return r.Gaps > 0 })
	f("flattens spikes", func(_ int, f *fanout.Frame) bool {
		for i := range f.Points {
			p := &f.Points[i]
			p.Last = min(p.Last, 100)
			p.Min, p.Max = p.Last, p.Last
		}
		return true
	}, func(r report) bool { return r.Missing == 0 && r.Spikes > 0 && r.SpikesMissing == r.Spikes }, "--spikes", "20ms")
}

// A result that says nothing is no success.
func TestNothingMeasured(t *testing.T) {
	s := newFake(t)
	if _, said := s.load(t, 1, "--rate", "0.001"); !strings.Contains(said, "nothing was published") {
		t.Error(said)
	}
	s = newFake(t)
	s.refuse = 503
	if _, said := s.load(t, 1, "--protocol", "http"); !strings.Contains(said, "503") {
		t.Error(said)
	}
	s = newFake(t)
	if _, said := s.load(t, 1, "--token", "wrong"); !strings.Contains(said, "who are you?") {
		t.Error(said)
	}
	s = newFake(t)
	if _, said := s.load(t, 1, "--max-p99", "1ns"); !strings.Contains(said, "freshness p99 is") {
		t.Error(said)
	}
	s.mqtt.Close()
	if _, said := s.load(t, 1); !strings.Contains(said, "refused") {
		t.Error(said)
	}
}

// Memory that goes on growing is told from memory that is only large.
func TestMemory(t *testing.T) {
	s := newFake(t)
	args := []string{"--settle", "100ms", "--max-growth", "5000"}
	if r, _ := s.load(t, 0, args...); r.ServerPeak != 25_000_000 || r.ServerCrept != 0 {
		t.Errorf("%+v", r)
	}
	s = newFake(t)
	s.leak = 1000 // asked every 10 ms for 200 ms
	if r, said := s.load(t, 1, args[0], args[1], args[2], "1000"); r.ServerCrept <= 1000 || !strings.Contains(said, "went on growing") {
		t.Errorf("%+v, %s", r, said)
	}
	s = newFake(t)
	s.memory = 0
	if _, said := s.load(t, 1, args...); !strings.Contains(said, "could not be measured") {
		t.Error(said)
	}
}

// What is there from an earlier run is used again, and taken away if that is asked for.
func TestAgainAndClean(t *testing.T) {
	s := newFake(t)
	s.load(t, 0)
	s.load(t, 0, "--clean")
	if s.deleted != 4+1 {
		t.Errorf("%d deleted, want four devices and the group above them", s.deleted)
	}
}

func TestCommandLine(t *testing.T) {
	f := func(wantCode int, want string, args ...string) {
		t.Helper()
		var out, progress bytes.Buffer
		if code := start(t.Context(), args, &out, &progress); code != wantCode || !strings.Contains(out.String()+progress.String(), want) {
			t.Errorf("%q: exit code %d, %s%s; want %d, %s", args, code, out.String(), progress.String(), wantCode, want)
		}
	}
	t.Setenv("MILLRACE_ADMIN_TOKEN", "") // to be put back
	os.Unsetenv("MILLRACE_ADMIN_TOKEN")
	f(0, "--lossless", "--help")
	f(2, "--token", "--devices", "1")
	f(2, "--nonsense", "--nonsense")
	t.Setenv("MILLRACE_ADMIN_TOKEN", token)
	f(2, "a device in each", "--devices", "3", "--groups", "4")
	f(2, "--metrics is", "--metrics", "100")
	f(2, "--rate", "--rate", "0")
	f(2, "--rate", "--rate", "NaN")
	f(2, "more be stalled", "--viewers", "1", "--stalled", "2")
	f(2, "--viewers", "--viewers", "-1")
	f(2, "--fps", "--fps", "-1")
	f(2, "--duration", "--duration", "0s")
	f(2, "--duration", "--duration", "soon")
	f(2, "--protocol", "--protocol", "smoke")
	f(2, "--qos", "--qos", "2")
	f(2, "--max-p99", "--max-p99", "1s", "--duration", "2s", "--warmup", "3s")
	f(2, "--max-growth", "--max-growth", "1")
	f(2, "--lossless", "--lossless", "--viewers", "0")
	f(1, "server address", "--server", "ftp://x")
}
