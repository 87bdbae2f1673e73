package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"millrace/ingest/spine"
	"millrace/ingest/spine/natstest"
)

// metric reads one number of /metrics.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	_, text := s.callAs(adminToken, "GET", "/metrics", nil)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	s.t.Fatalf("there is no metric %s", name)
	return 0
}

// A NATS server of somebody's in place of the embedded one: nothing acknowledged is lost over kills of Millrace and a NATS that
// goes away and comes back, which needs no hand.
func TestExternalNATS(t *testing.T) {
	dir := t.TempDir()
	ns := natstest.Start(t, dir, natsserver.RANDOM_PORT)
	t.Cleanup(func() { natstest.Stop(ns) })
	url := ns.ClientURL()
	_, at, err := net.SplitHostPort(ns.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "--nats-url", url)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("press-7", "plant1")
	v := watch(t, s, adminToken, "plant1", nil)
	if status, body := s.callAs(token, "POST", "/api/v1/devices/press-7/telemetry", `{"temp":21.5}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	v.sees(t, "press-7/temp", 21.5)
	if out, err := mosquittoPub(t, s, "5", "press-7", token, "devices/press-7/telemetry/rpm", "880"); err != nil {
		t.Fatalf("mosquitto_pub: %v %s", err, out)
	}
	v.sees(t, "press-7/rpm", 880.0)

	// Killed at full speed.
	acked := &acknowledged{values: map[string]map[float64]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	h, m := s.device("http-0", "plant1"), s.device("mqtt-0", "plant1")
	publishers.Go(func() { publishHTTP(ctx, s, "http-0", h, acked) })
	publishers.Go(func() { publishMQTT(ctx, s, "mqtt-0", m, acked) })
	for range rounds(2) {
		before := acked.total()
		eventually(t, 30*time.Second, "devices are acknowledged", func() bool { return acked.total() > before+50 })
		s.kill()
		s.run()
	}
	v = watch(t, s, adminToken, "plant1", nil)
	v.sees(t, "press-7/temp", 21.5)
	v.sees(t, "press-7/rpm", 880.0)

	// NATS goes away under load. Who can't be acknowledged in ten seconds is told to come again.
	natstest.Stop(ns)
	var refusals sync.WaitGroup
	refusals.Go(func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", s.http+"/api/v1/devices/press-7/telemetry", strings.NewReader(`{"temp":1}`))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("without NATS: %v", err)
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !bytes.Contains(body, []byte("urn:millrace:problem:unavailable")) {
			t.Errorf("without NATS: %d %v %s", res.StatusCode, res.Header, body)
		}
	})
	refusals.Go(func() {
		if out, _ := mosquittoPub(t, s, "5", "press-7", token, "devices/press-7/telemetry", `{"temp":2}`, "-d"); !strings.Contains(out, "151") && !strings.Contains(strings.ToLower(out), "quota") {
			t.Errorf("without NATS MQTT 5 gets no 0x97: %s", out)
		}
	})
	refusals.Wait()
	if status, body := s.callAs(adminToken, "GET", "/readyz", nil); status != http.StatusServiceUnavailable || !bytes.Contains(body, []byte("spine")) {
		t.Errorf("without NATS /readyz says %d %s", status, body)
	}
	if v.value("press-7/rpm") != 880.0 {
		t.Error("what was known is no longer shown")
	}
	// A measurement that waits is stored when NATS comes back.
	waiting := make(chan int, 1)
	go func() {
		status, _ := s.callAs(token, "POST", "/api/v1/devices/press-7/telemetry", `{"temp":23.5}`)
		waiting <- status
	}()
	select {
	case status := <-waiting:
		t.Errorf("answered %d while NATS was away", status)
	case <-time.After(time.Second): // it waits
	}
	ns = natstest.Start(t, dir, port)
	if status := <-waiting; status != 200 {
		t.Errorf("answered %d when NATS came back", status)
	}
	v.sees(t, "press-7/temp", 23.5)
	before := acked.total()
	eventually(t, 30*time.Second, "devices are acknowledged again", func() bool { return acked.total() > before+50 })
	s.waitReady()
	stop()
	publishers.Wait()
	s.kill()
	found := readStream(t, spine.Config{NATSURL: url, MaxBytes: 2 << 30, Shards: 1})
	if missing := found.missing(acked); missing > 0 || acked.total() == 0 {
		t.Errorf("%d of %d acknowledged samples are missing", missing, acked.total())
	}
	t.Logf("%d samples acknowledged, all found", acked.total())

	// Another NATS under the same address, empty: what is known stays, and what comes is read from its first message on.
	natstest.Stop(ns)
	ns = natstest.Start(t, t.TempDir(), port)
	s.run()
	v = watch(t, s, adminToken, "plant1", nil)
	v.sees(t, "press-7/rpm", 880.0)
	if status, body := s.callAs(token, "POST", "/api/v1/devices/press-7/telemetry", `{"temp":24.5}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	v.sees(t, "press-7/temp", 24.5)
	if n := s.metric("millrace_spine_replaced_total"); n != 1 {
		t.Errorf("counted %v times that the stream was another one", n)
	}
}

// failsToStart runs the server with arguments that can't work, and returns what it said.
func failsToStart(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"serve", "--data-dir", dir, "--http-addr", "127.0.0.1:0", "--mqtt-addr", "127.0.0.1:0"}, args...)...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil || err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
	return lastLine(string(out))
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestUnreachableNATS(t *testing.T) {
	addr := freePort(t)
	said := failsToStart(t, "--nats-url", fmt.Sprintf("nats://someone:secret@%s", addr))
	if !strings.Contains(said, "spine") || !strings.Contains(said, addr) || strings.Contains(said, "secret") {
		t.Errorf("said: %s", said)
	}
}
