package spine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/devices"
	"millrace/ingest/spine/natstest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MILLRACE_CRASH_DIR"); dir != "" {
		crashChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// book is Names and Resolver: series n is metric "m<n>" of device "d<n mod 10>".
type book struct{}

func (book) Name(id devices.SeriesID) (devices.ID, string) {
	if id == 0 || id > 1000 {
		return "", ""
	}
	return deviceNames[id%10], metricNames[id]
}

func (book) Resolve(device, metric []byte, _ devices.Kind) (devices.SeriesID, bool) {
	id, ok := metricIDs[string(metric)]
	return id, ok && deviceNames[id%10] == devices.ID(device)
}

var (
	deviceNames [10]devices.ID
	metricNames [1001]string
	metricIDs   = make(map[string]devices.SeriesID)
)

func init() {
	for i := range deviceNames {
		deviceNames[i] = devices.ID(fmt.Sprintf("d%d", i))
	}
	for i := range metricNames {
		metricNames[i] = fmt.Sprintf("m%d", i)
		metricIDs[metricNames[i]] = devices.SeriesID(i)
	}
}

// servers runs a test with the embedded server and with one that listens.
func servers(t *testing.T, test func(t *testing.T, c Config)) {
	t.Run("embedded", func(t *testing.T) { test(t, Config{Dir: t.TempDir(), Shards: 2}) })
	t.Run("external", func(t *testing.T) {
		ns := natstest.Start(t, t.TempDir(), -1)
		t.Cleanup(func() { natstest.Stop(ns) })
		test(t, Config{NATSURL: ns.ClientURL(), Shards: 2})
	})
}

// open returns a running spine and a function that stops it.
func open(t testing.TB, c Config) (*Spine, func()) {
	t.Helper()
	s, err := Open(t.Context(), c, book{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			run.Wait()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return s, stop
}

// log collects what a reader delivers.
type log struct {
	mu      sync.Mutex
	seqs    []uint64
	samples []devices.Sample
}

func (l *log) Deliver(seq uint64, samples []devices.Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seqs = append(l.seqs, seq)
	l.samples = append(l.samples, samples...)
}

func (l *log) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.samples)
}

// read runs a reader until the test ends or stop is called.
func read(t *testing.T, s *Spine, from uint64, sink Sink) (r *Reader, stop func()) {
	t.Helper()
	r = s.Reader(from, book{}, sink)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); run.Wait() }
	t.Cleanup(stop)
	return r, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("not within 20 s: %s", what)
	}
}

func sample(id devices.SeriesID, v float64) devices.Sample {
	return devices.Sample{Series: id, At: 1_795_456_789_000 + int64(v), Recv: 1_795_456_789_005 + int64(v), Value: v}
}

func TestWhatIsStoredIsReadInOrderOnce(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		s, stop := open(t, c)
		var live log
		_, stopLive := read(t, s, 0, &live)
		const producers, each = 8, 200
		var all sync.WaitGroup
		var failed atomic.Int64
		for p := range producers {
			all.Go(func() {
				var own sync.WaitGroup
				next := 0
				for n := range each {
					own.Add(1)
					s.Enqueue([]devices.Sample{sample(devices.SeriesID(p+1), float64(n)), sample(devices.SeriesID(p+11), float64(n))}, func(err error) {
						if err != nil || n != next { // one device, one shard: in order
							failed.Add(1)
						}
						next++
						own.Done()
					})
				}
				own.Wait()
			})
		}
		all.Wait()
		if n := failed.Load(); n > 0 {
			t.Fatalf("%d enqueued were refused or answered out of order", n)
		}
		check := func(got *log, what string) {
			t.Helper()
			eventually(t, what, func() bool { return got.len() >= 2*producers*each })
			got.mu.Lock()
			defer got.mu.Unlock()
			if len(got.samples) != 2*producers*each {
				t.Fatalf("%s: %d samples, want %d", what, len(got.samples), 2*producers*each)
			}
			next := make(map[devices.SeriesID]float64)
			for _, x := range got.samples {
				if x != sample(x.Series, next[x.Series]) {
					t.Fatalf("%s: got %+v, want value %v", what, x, next[x.Series])
				}
				next[x.Series]++
			}
			if !slices.IsSorted(got.seqs) || len(slices.Compact(slices.Clone(got.seqs))) != len(got.seqs) {
				t.Fatalf("%s: sequences don't rise: %v", what, got.seqs)
			}
		}
		check(&live, "live")
		stopLive()
		st := s.Stats()
		if st.Samples != 2*producers*each || st.Waiting != 0 || !st.Healthy || st.Publishes == 0 || st.Publishes >= producers*each {
			t.Errorf("stats %+v: want all samples in fewer publishes than messages", st)
		}
		stop()

		s, _ = open(t, c)
		var again log
		r, stopAgain := read(t, s, 0, &again)
		wait(t, r.CaughtUp(), "caught up after a restart")
		check(&again, "after a restart")
		stopAgain()

		var none log
		pos, err := s.Position(t.Context())
		if err != nil || pos.First != 1 || pos.Last != again.seqs[len(again.seqs)-1] {
			t.Fatalf("position %+v, %v", pos, err)
		}
		r, _ = read(t, s, pos.Last+1, &none)
		wait(t, r.CaughtUp(), "caught up with nothing to read")
		if err := s.Append(t.Context(), []devices.Sample{sample(5, 7)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new one, and only it", func() bool { return none.len() == 1 })
	})
}

func TestFullThenReleased(t *testing.T) {
	servers(t, func(t *testing.T, c Config) {
		c.MaxBytes = 300 << 10
		s, stop := open(t, c)
		text := strings.Repeat("x", devices.MaxText)
		fill := func() (stored int) {
			t.Helper()
			for {
				x := sample(7, float64(stored))
				x.Kind, x.Value, x.Text = devices.String, 0, text
				batch := slices.Repeat([]devices.Sample{x}, 20)
				err := s.Append(t.Context(), batch)
				if errors.Is(err, devices.ErrFull) {
					return stored
				}
				if err != nil {
					t.Fatal(err)
				}
				stored += len(batch)
			}
		}
		if n := fill(); n < 200 {
			t.Fatalf("full after %d", n)
		}
		if st := s.Stats(); st.Healthy || st.Refused != 20 {
			t.Errorf("stats %+v: want unhealthy, 20 refused", st)
		}
		// Nobody was ever registered: nothing goes, and it stays full.
		if err := s.trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p, err := s.Position(t.Context()); err != nil || p.First != 1 {
			t.Fatalf("position %+v, %v", p, err)
		}
		p, _ := s.Position(t.Context())
		// Two consumers: the slower one decides, also after a restart.
		s.Release("fast", p.Last)
		s.Release("slow", 2)
		stop()
		s, _ = open(t, c)
		eventually(t, "what both released is purged", func() bool {
			p, err := s.Position(t.Context())
			return err == nil && p.First == 3
		})
		s.Release("slow", p.Last)
		eventually(t, "room again", func() bool { return s.Append(t.Context(), []devices.Sample{sample(7, 1)}) == nil })
		if !s.Stats().Healthy {
			t.Error("not healthy after recovery")
		}
		eventually(t, "down to the replay window, which stays", func() bool {
			s.Release("slow", p.Last)
			st := s.Stats()
			return st.StreamBytes < 160<<10 && st.StreamBytes > 60<<10
		})
		// A reader from before the purge gets what is left, and the gap is counted.
		var got log
		r, _ := read(t, s, 1, &got)
		wait(t, r.CaughtUp(), "caught up over the gap")
		if now := s.Stats(); now.Lost != got.seqs[0]-1 || now.Lost == 0 {
			t.Errorf("lost %d, first read %d", now.Lost, got.seqs[0])
		}
	})
}

func TestDirectoryIsLocked(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	_, stop := open(t, c)
	if _, err := Open(t.Context(), c, book{}, quiet); err == nil || !strings.Contains(err.Error(), "another process uses this directory") {
		t.Fatalf("second spine: %v", err)
	}
	stop()
	open(t, c)
}

func TestExternalServerRestarts(t *testing.T) {
	dir := t.TempDir()
	ns := natstest.Start(t, dir, -1)
	port := ns.Addr().String()[strings.LastIndex(ns.Addr().String(), ":")+1:]
	s, _ := open(t, Config{NATSURL: ns.ClientURL()})
	var got log
	read(t, s, 0, &got)
	stored := 0
	for range 3 {
		for range 20 {
			if err := s.Append(t.Context(), []devices.Sample{sample(1, float64(stored))}); err != nil {
				t.Fatal(err)
			}
			stored++
		}
		natstest.Stop(ns)
		// While it is away, producers wait; then what they sent is stored once.
		answer := make(chan error, 1)
		s.Enqueue([]devices.Sample{sample(1, float64(stored))}, func(err error) { answer <- err })
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		ns = natstest.Start(t, dir, n)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		stored++
	}
	eventually(t, "all samples read", func() bool { return got.len() >= stored })
	for i, x := range got.samples {
		if x.Value != float64(i) {
			t.Fatalf("sample %d is %v", i, x.Value)
		}
	}
	natstest.Stop(ns)
}

func TestUnavailableWhenNATSIsAway(t *testing.T) {
	ns := natstest.Start(t, t.TempDir(), -1)
	s, stop := open(t, Config{NATSURL: ns.ClientURL()})
	natstest.Stop(ns)
	start := time.Now()
	if err := s.Append(t.Context(), []devices.Sample{sample(1, 1)}); !errors.Is(err, devices.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(start); took > publishTotal+2*time.Second {
		t.Errorf("answered after %v", took)
	}
	if s.Stats().Healthy {
		t.Error("healthy without NATS")
	}
	stop()
	if err := s.Append(t.Context(), []devices.Sample{sample(1, 1)}); !errors.Is(err, devices.ErrUnavailable) {
		t.Fatalf("after the end: %v", err)
	}
}

// TestBackpressure: with NATS slow (away), Enqueue takes about one message more and then blocks; nothing is lost when it is back.
func TestEnqueueBlocksWhenTooMuchWaits(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()}, book{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	var entered, done atomic.Int64
	batch := make([]devices.Sample, 1000)
	for i := range batch {
		batch[i] = sample(devices.SeriesID(i%90*10+1), float64(i))
	}
	var producer sync.WaitGroup
	const total = 200
	producer.Go(func() { // nobody publishes yet
		for range total {
			s.Enqueue(batch, func(err error) {
				if err == nil {
					done.Add(1)
				}
			})
			entered.Add(1)
		}
	})
	eventually(t, "a full message waits", func() bool {
		s.shards[0].mu.Lock()
		defer s.shards[0].mu.Unlock()
		return len(s.shards[0].open.buf) >= s.soft
	})
	if n := entered.Load(); n >= total || s.Stats().Waiting > 100_000 {
		t.Errorf("%d entered, %d wait", n, s.Stats().Waiting)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	eventually(t, "all stored", func() bool { return done.Load() == total })
	producer.Wait()
	cancel()
	run.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatNobodyWaitsForGathers(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()}, book{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	s.gather = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = s.Run(ctx) })
	value := 0.0
	enqueue := func() {
		value++
		s.Enqueue([]devices.Sample{sample(1, value)}, nil)
	}
	stored := func(messages uint64) {
		t.Helper()
		eventually(t, "samples on disk", func() bool { return s.Stats().Waiting == 0 })
		if n := s.Stats().Publishes; n != messages {
			t.Errorf("%d messages after %.0f samples, want %d", n, value, messages)
		}
	}
	enqueue()
	stored(1) // the first does not wait
	for range 100 {
		enqueue()
	}
	if waiting := s.Stats().Waiting; waiting != 100 {
		t.Errorf("%d samples wait, want 100", waiting)
	}
	value++
	if err := s.Append(t.Context(), []devices.Sample{sample(1, value)}); err != nil { // somebody waits
		t.Fatal(err)
	}
	stored(2)
	enqueue()
	var got log
	r := s.Reader(0, book{}, &got)
	reading, stop := context.WithCancel(context.Background())
	var reader sync.WaitGroup
	reader.Go(func() { _ = r.Run(reading) })
	for s.Stats().Publishes < 3 { // a message that has grown large does not wait either
		x := sample(1, value)
		x.Kind, x.Text = devices.String, strings.Repeat("x", devices.MaxText)
		s.Enqueue([]devices.Sample{x}, nil)
	}
	enqueue()
	cancel() // and the end
	run.Wait()
	if n := s.Stats(); n.Waiting != 0 || n.Refused != 0 {
		t.Errorf("at the end %d samples wait, %d were refused", n.Waiting, n.Refused)
	}
	eventually(t, "the last sample", func() bool { return uint64(got.len()) == s.Stats().Samples })
	stop()
	reader.Wait()
	got.mu.Lock()
	defer got.mu.Unlock()
	for i := range 102 {
		if v := got.samples[i].Value; v != float64(i+1) {
			t.Fatalf("sample %d is %v", i, v)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestTooLargeAtOnce(t *testing.T) {
	s, _ := open(t, Config{Dir: t.TempDir()})
	x := sample(1, 1)
	x.Kind, x.Text = devices.String, strings.Repeat("x", devices.MaxText)
	if err := s.Append(t.Context(), slices.Repeat([]devices.Sample{x}, 5000)); !errors.Is(err, devices.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if err := s.Append(t.Context(), nil); err != nil {
		t.Fatalf("nothing to store: %v", err)
	}
}

func TestManyDevicesAtOnce(t *testing.T) {
	s, _ := open(t, Config{Dir: t.TempDir(), Shards: 4})
	var batch []devices.Sample
	for i := range 100 {
		batch = append(batch, sample(devices.SeriesID(i+1), 1))
	}
	if err := s.Append(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var got log
	r, _ := read(t, s, 0, &got)
	wait(t, r.CaughtUp(), "caught up")
	if got.len() != 100 {
		t.Fatalf("%d samples", got.len())
	}
}

func BenchmarkSpineAppend(b *testing.B) {
	s, _ := open(b, Config{Dir: b.TempDir()})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		batch := make([]devices.Sample, 5)
		for i := range batch {
			batch[i] = sample(devices.SeriesID(i*10+1), 1)
		}
		for pb.Next() {
			if err := s.Append(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(5*b.N)/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(float64(s.Stats().Publishes)/b.Elapsed().Seconds(), "publishes/s")
}
