package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"millrace/devices"
	"millrace/ingest/spine"
)

func itoa(n int) string { return strconv.Itoa(n) }

// rounds is how often the long tests do their thing: short in make test, MILLRACE_ROUNDS in make soak.
func rounds(short int) int {
	if n, err := strconv.Atoi(os.Getenv("MILLRACE_ROUNDS")); err == nil {
		return n
	}
	return short
}

// acknowledged collects the values a publisher was told are stored. Each publisher counts up, so a value names a sample.
type acknowledged struct {
	mu     sync.Mutex
	values map[string]map[float64]bool
}

func (a *acknowledged) add(key string, v float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[key] == nil {
		a.values[key] = map[float64]bool{}
	}
	a.values[key][v] = true
}

func (a *acknowledged) total() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.values {
		n += len(v)
	}
	return n
}

// publishHTTP posts rising values as fast as it gets answers, through restarts, until ctx ends.
func publishHTTP(ctx context.Context, s *server, device, token string, acked *acknowledged) {
	client := &http.Client{Timeout: 5 * time.Second}
	for v := 1.0; ctx.Err() == nil; v++ {
		req, _ := http.NewRequestWithContext(ctx, "POST", s.http+"/api/v1/devices/"+device+"/telemetry", bytes.NewReader(fmt.Appendf(nil, `{"n":%v}`, v)))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode == 200 {
			acked.add(device+"/n", v)
		}
	}
}

// publishMQTT does the same at QoS 1 with many messages in flight.
func publishMQTT(ctx context.Context, s *server, device, token string, acked *acknowledged) {
	var v float64
	var mu sync.Mutex
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", s.mqtt, time.Second)
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		session, over := context.WithCancel(ctx)
		client := paho.NewClient(paho.ClientConfig{Conn: conn, OnClientError: func(error) { over() }, OnServerDisconnect: func(*paho.Disconnect) { over() }})
		if _, err := client.Connect(session, &paho.Connect{ClientID: device, CleanStart: true, KeepAlive: 10, UsernameFlag: true, PasswordFlag: true,
			Username: device, Password: []byte(token)}); err == nil {
			var flights sync.WaitGroup
			for range 16 {
				flights.Go(func() {
					for session.Err() == nil {
						mu.Lock()
						v++
						mine := v
						mu.Unlock()
						res, err := client.Publish(session, &paho.Publish{Topic: "devices/" + device + "/telemetry/n", QoS: 1, Payload: fmt.Append(nil, mine)})
						if err == nil && res.ReasonCode < 0x80 {
							acked.add(device+"/n", mine)
						}
					}
				})
			}
			flights.Wait()
		}
		over()
		conn.Close()
		<-client.Done()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stored reads the whole spine of a stopped server.
type stored struct {
	names  []string
	ids    map[string]devices.SeriesID
	values map[string]map[float64]int
}

func (r *stored) Resolve(device, metric []byte, _ devices.Kind) (devices.SeriesID, bool) {
	key := string(device) + "/" + string(metric)
	id, ok := r.ids[key]
	if !ok {
		r.names = append(r.names, key)
		id = devices.SeriesID(len(r.names))
		r.ids[key] = id
		r.values[key] = map[float64]int{}
	}
	return id, true
}

func (r *stored) Deliver(_ uint64, samples []devices.Sample) {
	for _, x := range samples {
		r.values[r.names[x.Series-1]][x.Value]++
	}
}

func (r *stored) Name(id devices.SeriesID) (devices.ID, string) {
	device, metric, _ := strings.Cut(r.names[id-1], "/")
	return devices.ID(device), metric
}

func readSpine(t *testing.T, s *server) *stored {
	t.Helper()
	return readStream(t, spine.Config{Dir: filepath.Join(s.dir, "spine"), MaxBytes: 2 << 30, Shards: 1})
}

func readStream(t *testing.T, c spine.Config) *stored {
	t.Helper()
	r := &stored{ids: map[string]devices.SeriesID{}, values: map[string]map[float64]int{}}
	sp, err := spine.Open(t.Context(), c, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	ctx, cancel := context.WithCancel(t.Context())
	reader := sp.Reader(0, r, r)
	var running sync.WaitGroup
	running.Go(func() { reader.Run(ctx) })
	select {
	case <-reader.CaughtUp():
	case <-time.After(2 * time.Minute):
		t.Fatal("the spine can't be read to its end")
	}
	cancel()
	running.Wait()
	return r
}

func (r *stored) missing(acked *acknowledged) (n int) {
	for key, values := range acked.values {
		for v := range values {
			if r.values[key][v] == 0 {
				n++
			}
		}
	}
	return n
}

// Promise 1: whatever was acknowledged is in the spine, however often the server is killed while devices publish at full speed.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	acked := &acknowledged{values: map[string]map[float64]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	for i := range 2 {
		id := "http-" + itoa(i)
		token := s.device(id, "plant1")
		publishers.Go(func() { publishHTTP(ctx, s, id, token, acked) })
		id2 := "mqtt-" + itoa(i)
		token2 := s.device(id2, "plant1")
		publishers.Go(func() { publishMQTT(ctx, s, id2, token2, acked) })
	}
	kills := rounds(4)
	for range kills {
		before := acked.total()
		pause(ctx, time.Duration(300+rand.IntN(1200))*time.Millisecond)
		s.kill()
		s.run()
		eventually(t, 30*time.Second, "devices are acknowledged again", func() bool { return acked.total() > before })
	}
	stop()
	publishers.Wait()
	s.kill()
	found := readSpine(t, s)
	total := acked.total()
	if missing := found.missing(acked); missing > 0 || total == 0 {
		t.Errorf("%d of %d acknowledged samples are not in the spine after %d kills", missing, total, kills)
	}
	t.Logf("%d kills, %d samples acknowledged, all found", kills, total)
}

// Postgres killed at random does not even interrupt intake.
func TestKilledPostgresInterruptsNothing(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	acked := &acknowledged{values: map[string]map[float64]bool{}}
	token, token2 := s.device("http-0", "plant1"), s.device("mqtt-0", "plant1")
	ctx, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	publishers.Go(func() { publishHTTP(ctx, s, "http-0", token, acked) })
	publishers.Go(func() { publishMQTT(ctx, s, "mqtt-0", token2, acked) })
	kills := rounds(3)
	refused := 0
	for i := range kills {
		eventually(t, 30*time.Second, "Postgres runs", func() bool { return len(s.children()) > 0 })
		for _, pid := range s.children() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		// A metric never seen before gets through while it is away.
		if status, _ := s.callAs(token, "POST", "/api/v1/devices/http-0/telemetry", fmt.Sprintf(`{"new%d":1}`, i)); status != 200 {
			refused++
		}
		before := acked.total()
		eventually(t, 2*time.Second, "devices are acknowledged while Postgres is away", func() bool { return acked.total() > before+20 })
	}
	stop()
	publishers.Wait()
	if refused > 0 {
		t.Errorf("intake refused %d of %d while Postgres was down", refused, kills)
	}
	s.waitReady()
	s.kill()
	if missing := readSpine(t, s).missing(acked); missing > 0 {
		t.Errorf("%d of %d acknowledged samples are missing", missing, acked.total())
	}
	t.Logf("%d kills of Postgres, %d samples acknowledged, all found", kills, acked.total())
}

// The environment of a proxy must not lead loopback requests away.
func init() {
	http.DefaultTransport.(*http.Transport).Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
}
