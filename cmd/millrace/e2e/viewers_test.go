package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A revoked right ends the data on an open connection within a second, and others don't notice.
func TestRevocationActsOnOpenConnections(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	s.device("d1", "plant1")
	var made struct{ ID, Token string }
	s.must("POST", "/api/v1/tokens", map[string]any{"name": "screen", "role": "viewer", "group": "plant1"}, &made)
	watched, other := watch(t, s, made.Token, "plant1", nil), watch(t, s, adminToken, "plant1", nil)
	publish := func(v float64) {
		s.must("POST", "/api/v1/telemetry", fmt.Sprintf(`[{"device":"d1","temp":%v}]`, v), nil)
	}
	publish(1.5)
	watched.sees(t, "d1/temp", 1.5)
	s.must("DELETE", "/api/v1/tokens/"+made.ID, nil, nil)
	time.Sleep(time.Second) // the promise is "within a second"
	publish(2.5)
	other.sees(t, "d1/temp", 2.5)
	if got := watched.value("d1/temp"); got != 1.5 {
		t.Errorf("a second after its token was revoked a viewer was sent %v", got)
	}
	if status, _ := s.callAs(made.Token, "GET", "/api/v1/groups", nil); status != 401 {
		t.Errorf("a revoked token is answered %d, want 401", status)
	}
}

// One viewer that reads nothing among many: the others are served as before, the server's memory stays flat, and the
// stalled one is current one frame after it wakes. MILLRACE_ROUNDS makes it long.
func TestStalledViewer(t *testing.T) {
	s := start(t)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("d1", "plant1")
	var body strings.Builder
	for i := range 200 {
		fmt.Fprintf(&body, `,"m%d":%%[1]d`, i)
	}
	payload := "{" + body.String()[1:] + "}"

	long := rounds(0) > 0
	viewers, stall := 40, 8*time.Second
	if long {
		viewers, stall = 200, 60*time.Second
	}
	var all []*viewer
	for range viewers {
		all = append(all, watch(t, s, adminToken, "plant1", map[string]any{"pace": 10}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var publisher sync.WaitGroup
	n := 0
	publisher.Go(func() {
		for ctx.Err() == nil {
			n++
			req, _ := http.NewRequestWithContext(ctx, "POST", s.http+"/api/v1/devices/d1/telemetry", strings.NewReader(fmt.Sprintf(payload, n)))
			req.Header.Set("Authorization", "Bearer "+token)
			if res, err := http.DefaultClient.Do(req); err == nil {
				res.Body.Close()
			}
			pause(ctx, 20*time.Millisecond)
		}
	})
	p99 := func(from int) int64 {
		var ages []int64
		for _, v := range all {
			v.mu.Lock()
			ages = append(ages, v.at[min(from, len(v.at)):]...)
			v.mu.Unlock()
		}
		slices.Sort(ages)
		return ages[len(ages)*99/100]
	}
	eventually(t, 20*time.Second, "all viewers have frames", func() bool { return len(frames(all[0])) > 20 })
	pause(ctx, stall/2)
	before, memory := p99(5), rss(t, s)
	mark := len(frames(all[0]))

	// Subscribes and then never reads.
	ws, _, err := websocket.Dial(ctx, strings.Replace(s.http, "http", "ws", 1)+"/live", &websocket.DialOptions{
		Subprotocols: []string{"millrace.v1"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + adminToken}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(16 << 20)
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","id":1,"group":"plant1","format":"json"}`)); err != nil {
		t.Fatal(err)
	}
	pause(ctx, stall)
	during := p99(mark)
	if grown := rss(t, s) - memory; grown > 64<<20 {
		t.Errorf("the server grew by %d MiB while one viewer stalled", grown>>20)
	}
	cancel()
	publisher.Wait()
	woken := &viewer{ws: ws, last: map[string]point{}, count: map[string]uint64{}, max: map[string]float64{}}
	go woken.read(t.Context())
	eventually(t, 10*time.Second, "the stalled viewer is current", func() bool {
		v, ok := woken.value("d1/m0").(float64)
		return ok && int(v) >= n-1
	})
	if long && during > 3*before+100 { // the short form shares the machine with all other tests
		t.Errorf("freshness p99 of the others went from %d ms to %d ms", before, during)
	}
	t.Logf("%d viewers, p99 %d ms before, %d ms during the stall of one; %d values published", viewers, before, during, n)
}

func frames(v *viewer) []int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at
}

// rss is the server's resident memory in bytes, its children not counted.
func rss(t *testing.T, s *server) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(s.cmd.Process.Pid) + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	fmt.Sscan(string(data), &size, &resident)
	return resident * int64(os.Getpagesize())
}
