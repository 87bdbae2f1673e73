package mqtt

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type inventory struct{}

func (inventory) LoadDevices(context.Context, []devices.ID) ([]catalog.DeviceRecord, error) {
	return []catalog.DeviceRecord{
		{Device: devices.Device{ID: "press-7", State: devices.Active}},
		{Device: devices.Device{ID: "press-8", State: devices.Disabled}},
	}, nil
}

func (inventory) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	return nil, nil, nil
}

func (inventory) LoadAccess(context.Context) (catalog.Access, error) { return catalog.Access{}, nil }

// intake takes everything; while full, nothing can be stored. A payload "bad" is refused.
type intake struct {
	mu      sync.Mutex
	full    bool
	refused int // for want of room
	taken   []string
	rejects []ingest.Reject
}

func (f *intake) Handle(m *ingest.Message, done func(error)) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if done == nil {
		done = func(error) {}
	}
	if string(m.Payload) == "bad" {
		r := &ingest.Reject{Device: m.Device.ID(), Kind: "json", Err: devices.ErrInvalid}
		f.rejects = append(f.rejects, *r)
		done(r)
		return 0
	}
	if f.full {
		f.refused++
		go done(devices.ErrFull)
		return 1
	}
	f.taken = append(f.taken, m.Metric+" "+string(m.Payload))
	go done(nil)
	return 1
}

func (f *intake) Record(r *ingest.Reject) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejects = append(f.rejects, *r)
}

func (f *intake) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.taken)
}

// mosquitto is a foreign broker.
type mosquitto struct {
	addr string
	stop func()
}

func startMosquitto(t *testing.T, addr string) *mosquitto {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("mosquitto is not installed; scripts/tools.sh installs it")
	}
	if addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		_ = l.Close()
	}
	host, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	passwords := filepath.Join(filepath.Dir(conf), "passwords")
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", passwords, "millrace", "secret").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v %s", err, out)
	}
	user := "root"
	if os.Getuid() != 0 {
		user = os.Getenv("USER")
	}
	text := fmt.Sprintf("listener %s %s\nallow_anonymous false\npassword_file %s\nmax_queued_messages 100000\nuser %s\n", port, host, passwords, user)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf, "-v")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := make(chan struct{})
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), " running") {
				close(running)
			}
		}
	}()
	m := &mosquitto{addr: addr, stop: sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait() // killed
	})}
	t.Cleanup(m.stop)
	select {
	case <-running:
	case <-drained:
		t.Fatal("mosquitto ended")
	case <-time.After(10 * time.Second):
		t.Fatal("mosquitto does not start")
	}
	return m
}

func (m *mosquitto) publish(t *testing.T, topic, version string, qos int, lines ...string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(m.addr)
	cmd := exec.Command("mosquitto_pub", "-h", host, "-p", port, "-u", "millrace", "-P", "secret", "-V", version, "-q", fmt.Sprint(qos), "-t", topic, "-l")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v %s", err, out)
	}
}

type subscriber struct {
	*Subscriber
	stop func()
}

func startSubscriber(t *testing.T, m *mosquitto, clientID string, in Intake) *subscriber {
	t.Helper()
	cat := catalog.New(catalog.Config{}, inventory{})
	if err := cat.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{URL: "mqtt://millrace:secret@" + m.addr, ClientID: clientID, ReceiveMaximum: 20}, cat, in, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "connection", s.Connected)
	return &subscriber{s, stop}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func numbers(from, to int) (lines []string) {
	for i := from; i < to; i++ {
		lines = append(lines, fmt.Sprint(i))
	}
	return lines
}

// missing returns which of the numbers below n were not taken.
func (f *intake) missing(n int) (missing []int) {
	taken := make(map[string]bool)
	for _, line := range f.got() {
		taken[line[strings.IndexByte(line, ' ')+1:]] = true
	}
	for i := range n {
		if !taken[fmt.Sprint(i)] {
			missing = append(missing, i)
		}
	}
	return missing
}

func TestTakesFromSomebodysBroker(t *testing.T) {
	m, in := startMosquitto(t, ""), &intake{}
	s := startSubscriber(t, m, rand.Text(), in)
	m.publish(t, "devices/press-7/telemetry", "5", 1, `{"a":1}`, "bad")
	m.publish(t, "devices/press-7/telemetry/temp", "311", 2, "21.5")
	m.publish(t, "devices/press-7/telemetry/temp", "311", 0, "22")
	m.publish(t, "devices/nobody/telemetry", "5", 1, "1")
	m.publish(t, "devices/press-8/telemetry", "5", 1, "1")
	m.publish(t, "devices/press-7/telemetry/temp", "5", 1, "last")
	want := []string{` {"a":1}`, "temp 21.5", "temp 22", "temp last"}
	eventually(t, "messages", func() bool { return len(in.got()) == len(want) })
	if got := in.got(); !slices.Equal(got, want) {
		t.Errorf("taken %q, want %q", got, want)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.rejects) != 3 || in.rejects[1].Kind != "auth" || in.rejects[1].Device != "" || in.rejects[2].Device != "press-8" {
		t.Errorf("rejects: %+v", in.rejects)
	}
	if st := s.Stats(); st.Messages != 7 || st.Unknown != 2 || !st.Connected {
		t.Errorf("stats: %+v", st)
	}
}

func TestLosesNothingWhileAway(t *testing.T) {
	m, in := startMosquitto(t, ""), &intake{}
	s := startSubscriber(t, m, "away", in)
	m.publish(t, "devices/press-7/telemetry/n", "5", 1, numbers(0, 100)...)
	s.stop()
	m.publish(t, "devices/press-7/telemetry/n", "5", 1, numbers(100, 600)...)
	s = startSubscriber(t, m, "away", in)
	m.publish(t, "devices/press-7/telemetry/n", "5", 1, numbers(600, 700)...)
	eventually(t, "all messages", func() bool { return len(in.missing(700)) == 0 })
	if !s.Connected() {
		t.Error("not connected")
	}
}

func TestHoldsBackWhatCannotBeStored(t *testing.T) {
	m, in := startMosquitto(t, ""), &intake{full: true}
	s := startSubscriber(t, m, "full", in)
	m.publish(t, "devices/press-7/telemetry", "5", 1, numbers(0, 100)...)
	eventually(t, "Receive Maximum to be reached", func() bool { return s.Stats().Waiting == 20 })
	if n := s.Stats().Messages; n != 20 {
		t.Errorf("%d messages sent with Receive Maximum 20", n)
	}
	in.mu.Lock()
	in.full = false
	in.mu.Unlock()
	eventually(t, "all messages", func() bool { return len(in.missing(100)) == 0 })
}

func TestComesBack(t *testing.T) {
	m, in := startMosquitto(t, ""), &intake{}
	s := startSubscriber(t, m, "back", in)
	m.stop()
	eventually(t, "the loss to be noticed", func() bool { return !s.Connected() })
	m = startMosquitto(t, m.addr)
	eventually(t, "a new connection", s.Connected)
	m.publish(t, "devices/press-7/telemetry", "311", 1, "0")
	eventually(t, "the message", func() bool { return len(in.missing(1)) == 0 })
}

func TestValidate(t *testing.T) {
	f := func(c Config, ok bool) {
		t.Helper()
		c.defaults()
		if err := c.Validate(); (err == nil) != ok || !ok && !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	f(Config{URL: "mqtt://localhost"}, true)
	f(Config{URL: "mqtts://u:p@localhost:8883"}, true)
	f(Config{URL: "localhost:1883"}, false)
	f(Config{URL: "http://localhost"}, false)
	f(Config{URL: "mqtt://localhost", Share: "a/b"}, false)
}

func FuzzTopic(f *testing.F) {
	for _, topic := range []string{"devices/a/telemetry", "devices/a/telemetry/b", "devices//telemetry/", "devices/a", "", "devices/a/telemetry/b/c", "x/a/telemetry"} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		device, metric, ok := splitTopic(topic)
		if !ok {
			return
		}
		back := "devices/" + device + "/telemetry"
		if back != topic && back+"/"+metric != topic {
			t.Errorf("%q became %q, %q", topic, device, metric)
		}
		if strings.Contains(device, "/") {
			t.Errorf("device %q", device)
		}
	})
}
