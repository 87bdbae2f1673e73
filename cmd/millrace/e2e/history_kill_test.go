package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/local"
)

// The load of the tests of history: machines with ten metrics at 100 Hz, which send ten times a second.
const (
	machineMetrics = 10
	machineRows    = 10 // a message
	machineStep    = 10 // milliseconds between rows
	machineEvery   = machineRows * machineStep * time.Millisecond
)

// A machine publishes rows of which each sample can be told from any other by its time, and its value is known. It sends each message
// once, whatever becomes of it.
type machine struct {
	id, token string
	began     int64 // time of row 0, Unix milliseconds

	mu    sync.Mutex
	acked []bool // by message; those sent are as many

	longest atomic.Int64 // time from sending to an answer, of those that were answered
}

// value is what a metric is in a row: something between 20 and 30 with two decimals.
func (m *machine) value(row int64, metric int) float64 {
	x := (uint64(row)*16 + uint64(metric)) * 0x9e3779b97f4a7c15
	return float64(2000+(x^x>>32)%1000) / 100
}

// message makes the n-th one.
func (m *machine) message(b []byte, n int) []byte {
	b = append(b, '[')
	for i := range int64(machineRows) {
		row := int64(n)*machineRows + i
		b = fmt.Appendf(b, `{"ts":%d,"values":{`, m.began+row*machineStep)
		for metric := range machineMetrics {
			b = fmt.Appendf(b, `"m%d":%v,`, metric, m.value(row, metric))
		}
		b = append(b[:len(b)-1], "}},"...)
	}
	return append(b[:len(b)-1], ']')
}

// run publishes on schedule until ctx ends, each message by send, which tells whether it was acknowledged. What was held up follows at once.
func (m *machine) run(ctx context.Context, send func([]byte) bool) {
	var body []byte
	for n := 0; ; n++ {
		due := time.UnixMilli(m.began).Add(time.Duration(n+1) * machineEvery)
		if pause(ctx, time.Until(due)); ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		m.acked = append(m.acked, false)
		m.mu.Unlock()
		body = m.message(body[:0], n)
		began := time.Now()
		ok := send(body)
		if took := int64(time.Since(began)); ok && took > m.longest.Load() {
			m.longest.Store(took)
		}
		m.mu.Lock()
		m.acked[n] = ok
		m.mu.Unlock()
	}
}

// overHTTP publishes with a connection of its own.
func (m *machine) overHTTP(ctx context.Context, s *server) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	m.run(ctx, func(body []byte) bool {
		req, _ := http.NewRequest("POST", s.http+"/api/v1/devices/"+m.id+"/telemetry", bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+m.token)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			pause(ctx, 20*time.Millisecond)
			return false
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode == 200
	})
}

// overMQTT publishes at QoS 1, and connects again when it must.
func (m *machine) overMQTT(ctx context.Context, s *server) {
	var client *paho.Client
	var session context.Context // of the connection
	var over context.CancelFunc
	hangUp := func() {
		if client != nil {
			over()
			<-client.Done()
			client = nil
		}
	}
	defer hangUp()
	m.run(ctx, func(body []byte) bool {
		if client == nil {
			conn, err := net.DialTimeout("tcp", s.mqtt, time.Second)
			if err != nil {
				pause(ctx, 20*time.Millisecond)
				return false
			}
			session, over = context.WithCancel(context.Background())
			context.AfterFunc(session, func() { conn.Close() })
			hear := over
			client = paho.NewClient(paho.ClientConfig{Conn: conn, OnClientError: func(error) { hear() }, OnServerDisconnect: func(*paho.Disconnect) { hear() }})
			if _, err := client.Connect(session, &paho.Connect{ClientID: m.id, CleanStart: true, KeepAlive: 10, UsernameFlag: true, PasswordFlag: true,
				Username: m.id, Password: []byte(m.token)}); err != nil {
				hangUp()
				return false
			}
		}
		limit, cancel := context.WithTimeout(session, 5*time.Second)
		defer cancel()
		res, err := client.Publish(limit, &paho.Publish{Topic: "devices/" + m.id + "/telemetry", QoS: 1, Payload: bytes.Clone(body)})
		if err != nil {
			hangUp()
		}
		return err == nil && res.ReasonCode < 0x80
	})
}

// a plant is machines that publish 20,000 samples a second, half of them over MQTT.
type plant struct {
	machines []*machine
	stop     func() // and wait
}

func startPlant(t *testing.T, s *server) *plant {
	t.Helper()
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	p := &plant{}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	p.stop = func() { cancel(); running.Wait() }
	t.Cleanup(p.stop)
	for i := range 20 {
		m := &machine{id: "machine-" + itoa(i)}
		m.token = s.device(m.id, "plant1")
		p.machines = append(p.machines, m)
	}
	for i, m := range p.machines {
		m.began = time.Now().UnixMilli()
		if i%2 == 0 {
			running.Go(func() { m.overHTTP(ctx, s) })
		} else {
			running.Go(func() { m.overMQTT(ctx, s) })
		}
	}
	return p
}

// acked is how many samples were acknowledged up to now.
func (p *plant) acked() (n int) {
	for _, m := range p.machines {
		m.mu.Lock()
		for _, ok := range m.acked {
			if ok {
				n += machineRows * machineMetrics
			}
		}
		m.mu.Unlock()
	}
	return n
}

// longest is the longest that a machine waited for an acknowledgement since the last call.
func (p *plant) longest() (d time.Duration) {
	for _, m := range p.machines {
		d = max(d, time.Duration(m.longest.Swap(0)))
	}
	return d
}

// check compares what is recorded with what was published, sample by sample: each that was acknowledged is there once, each that was not
// at most once, and nothing else is.
func (p *plant) check(t *testing.T, address string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// Copies of each sample by machine, metric and row.
	found := map[string][]uint8{}
	machines := map[string]*machine{}
	for _, m := range p.machines {
		machines[m.id] = m
		for metric := range machineMetrics {
			found[m.id+"/m"+itoa(metric)] = make([]uint8, len(m.acked)*machineRows)
		}
	}
	var device, metric string
	var kind int16
	var start int64
	var n int
	var data []byte
	var chunks, samples, size, strange, wrong int
	var c chunk.Columns
	rows, _ := conn.Query(t.Context(), `select s.device, s.metric, c.kind, c.start, c.n, c.data from history_chunk c join history_series s on s.id = c.series`)
	if _, err := pgx.ForEachRow(rows, []any{&device, &metric, &kind, &start, &n, &data}, func() error {
		c.Reset()
		if err := chunk.Decode(data, devices.Kind(kind), start, n, &c); err != nil {
			return fmt.Errorf("%s/%s from %d: %w", device, metric, start, err)
		}
		chunks, samples, size = chunks+1, samples+len(c.Times), size+len(data)
		m, copies := machines[device], found[device+"/"+metric]
		number, _ := strconv.Atoi(strings.TrimPrefix(metric, "m"))
		for i, at := range c.Times {
			if m == nil || at < m.began || (at-m.began)%machineStep != 0 || (at-m.began)/machineStep >= int64(len(copies)) {
				strange++
				continue
			}
			row := (at - m.began) / machineStep
			copies[row]++
			if c.Values[i] != m.value(row, number) {
				wrong++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	missing, twice, acked, published := 0, 0, 0, 0
	for _, m := range p.machines {
		for metric := range machineMetrics {
			for row, copies := range found[m.id+"/m"+itoa(metric)] {
				published++
				ok := m.acked[row/machineRows]
				if ok {
					acked++
				}
				if ok && copies == 0 {
					missing++
				}
				if copies > 1 {
					twice++
				}
			}
		}
	}
	if missing+twice+strange+wrong > 0 || acked == 0 {
		t.Errorf("of %d acknowledged samples %d are missing, %d are there more than once, %d are of no such time, %d have another value", acked, missing, twice, strange, wrong)
	}
	t.Logf("%d samples published, %d acknowledged, %d recorded in %d chunks of %d bytes", published, acked, samples, chunks, size)
}

// historyStatus is what GET /api/v1/system says of it.
type historyStatus struct {
	Spine   struct{ Last, Read, Refused uint64 }
	History struct {
		Position, Behind uint64
		Pending          int
		Blocked, Away    bool
		ParkedChunks     int
	}
}

func (s *server) history() (st historyStatus) {
	s.t.Helper()
	s.must("GET", "/api/v1/system", nil, &st)
	return st
}

// recorded waits until all that the spine holds now is recorded, and returns how long that took.
func (s *server) recorded(limit time.Duration) time.Duration {
	s.t.Helper()
	began, last := time.Now(), s.history().Spine.Last
	eventually(s.t, limit, "history is complete", func() bool { return s.history().History.Position >= last })
	return time.Since(began)
}

// The server and PostgreSQL are killed in turn, at random, while 20,000 samples a second come in: each accepted sample is recorded once. MILLRACE_KILLS
// says how often.
func TestHistoryKills(t *testing.T) {
	kills := 4
	if n, err := strconv.Atoi(os.Getenv("MILLRACE_KILLS")); err == nil {
		kills = n
	}
	s := start(t, "--history-flush", "300ms")
	p := startPlant(t, s)
	began := time.Now()
	killed := map[string]int{}
	for i := range kills {
		before := p.acked()
		pause(t.Context(), time.Duration(300+rand.IntN(1500))*time.Millisecond)
		if i%2 == 0 {
			killed["server"]++
			s.kill()
			s.run()
		} else {
			killed["PostgreSQL"]++
			eventually(t, 30*time.Second, "PostgreSQL runs", func() bool { return len(s.children()) > 0 })
			for _, pid := range s.children() {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		eventually(t, 30*time.Second, "machines are acknowledged again", func() bool { return p.acked() > before })
	}
	pause(t.Context(), time.Second)
	p.stop()
	took := time.Since(began)
	s.waitReady()
	behind := s.recorded(time.Minute)
	if st := s.history(); st.History.ParkedChunks > 0 {
		t.Errorf("%+v", st)
	}
	s.interrupt()
	pg, err := local.Start(t.Context(), local.Config{Dir: filepath.Join(s.dir, "postgres")})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	t.Logf("killed %v, in %v; history was complete %v after the end", killed, took.Round(time.Second), behind.Round(time.Millisecond))
	p.check(t, pg.URL())
}

// PostgreSQL is away while 20,000 samples a second come in: intake and live pages go on as before, and history is complete within a minute of its return.
// MILLRACE_OUTAGE says how long it is away.
func TestHistoryOutage(t *testing.T) {
	away := 10 * time.Second
	if d, err := time.ParseDuration(os.Getenv("MILLRACE_OUTAGE")); err == nil {
		away = d
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	pg, address := startPostgres(t, dir)
	s := start(t, "--database-url", address, "--history-pending", "200000", "--history-flush", "3s")
	p := startPlant(t, s)
	v := watch(t, s, adminToken, "plant1", nil)
	pause(t.Context(), 3*time.Second)
	before := p.longest()
	if err := pg.Close(); err != nil {
		t.Fatal(err)
	}
	began, acked, frames := time.Now(), p.acked(), v.frames()
	var gap, last = time.Duration(0), time.Now() // between frames
	blocked, slowest, seen := false, time.Duration(0), frames
	for time.Since(began) < away {
		pause(t.Context(), 20*time.Millisecond)
		if now := v.frames(); now > seen {
			gap, last, seen = max(gap, time.Since(last)), time.Now(), now
		}
		slowest = max(slowest, p.longest())
		if !blocked && time.Since(began) > away*3/4 {
			blocked = s.history().History.Blocked
		}
	}
	during := p.acked() - acked
	if rate := float64(during) / time.Since(began).Seconds(); rate < 18_000 {
		t.Errorf("%.0f samples a second were acknowledged", rate)
	}
	if slowest > 2*time.Second || gap > 2*time.Second || seen == frames {
		t.Errorf("while PostgreSQL was away a machine waited %v, and a viewer %v with %d frames", slowest, gap, seen-frames)
	}
	pg, err := local.Start(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	back := time.Now()
	took := s.recorded(time.Minute)
	p.longest()
	t.Logf("away for %v: %d samples acknowledged, the longest wait for one %v (before %v), the longest between two frames %v; writer blocked: %v; complete %v after its return, while intake went on",
		time.Since(began).Round(time.Second), during, slowest.Round(time.Millisecond), before.Round(time.Millisecond), gap.Round(time.Millisecond), blocked, took.Round(time.Millisecond))
	if time.Since(back) > time.Minute {
		t.Errorf("it took %v", time.Since(back))
	}
	p.stop()
	s.recorded(time.Minute)
	s.interrupt()
	p.check(t, address)
}

// frames is how many have come.
func (v *viewer) frames() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.at)
}
