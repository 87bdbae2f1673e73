package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// freePort returns a port of 127.0.0.1 that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An external Mosquitto in place of the embedded broker: the same samples arrive, and killing Millrace loses none that
// Mosquitto held for it meanwhile.
func TestExternalMosquitto(t *testing.T) {
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	mosquitto := exec.Command(path, "-c", config)
	mosquitto.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := mosquitto.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mosquitto.Process.Kill(); mosquitto.Wait() })
	var conn net.Conn
	eventually(t, 10*time.Second, "Mosquitto listens", func() bool {
		conn, err = net.Dial("tcp", addr)
		return err == nil
	})

	s := start(t, "--mqtt-broker-url", "mqtt://"+addr)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	s.device("d1", "plant1")
	v := watch(t, s, adminToken, "plant1", nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "d1", CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	acked := &acknowledged{values: map[string]map[float64]bool{}}
	n := 0.0
	publish := func() {
		n++
		if _, err := client.Publish(ctx, &paho.Publish{Topic: "devices/d1/telemetry", QoS: 1, Payload: fmt.Appendf(nil, `{"n":%v}`, n)}); err != nil {
			t.Fatal(err)
		}
		acked.add("d1/n", n)
	}
	eventually(t, 15*time.Second, "a sample arrives by way of Mosquitto", func() bool {
		publish()
		return v.value("d1/n") != nil
	})
	// What was published before the subscription stood is nobody's.
	acked.mu.Lock()
	clear(acked.values)
	acked.mu.Unlock()

	s.kill()
	away := 2 * time.Second
	if rounds(0) > 0 {
		away = 10 * time.Second
	}
	for end := time.Now().Add(away); time.Now().Before(end); {
		publish()
		pause(ctx, 2*time.Millisecond)
	}
	s.run()
	v = watch(t, s, adminToken, "plant1", nil)
	publish()
	v.sees(t, "d1/n", n)
	s.kill()
	if missing := readSpine(t, s).missing(acked); missing > 0 {
		t.Errorf("%d of %d samples that Mosquitto held are missing", missing, acked.total())
	}
	t.Logf("%d samples published while Millrace was gone for %v, all found", acked.total()-1, away)
}

// Devices and viewers in numbers, some of them stalled or cut off again and again, over the real line: every sample is counted by every
// viewer, and every spike is shown; and the server's memory levels out. MILLRACE_MINUTES makes it long.
func TestLoad(t *testing.T) {
	s := start(t)
	loadgen := filepath.Join(filepath.Dir(binary), "loadgen")
	if out, err := exec.Command("go", "build", "-o", loadgen, "millrace/cmd/loadgen").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	duration := 8 * time.Second
	if m, err := strconv.Atoi(os.Getenv("MILLRACE_MINUTES")); err == nil {
		duration = time.Duration(m) * time.Minute
	}
	out, err := exec.Command(loadgen, "--server", s.http, "--mqtt", s.mqtt, "--token", adminToken, "--pid", itoa(s.cmd.Process.Pid), "--devices", "100",
		"--groups", "4", "--viewers", "20", "--fps", "10", "--qos", "1", "--stalled", "2", "--stall", "4s", "--drop", "2", "--spikes", "1s", "--duration", duration.String(),
		"--lossless", "--settle", (duration / 4).String(), "--max-growth", itoa(32<<20)).CombinedOutput()
	if err != nil {
		t.Errorf("loadgen: %v", err)
	}
	t.Logf("%s", out)
}
