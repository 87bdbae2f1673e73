package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const adminToken = "mrt_e2eAdminToken0000000000000000000"

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "millrace")
	build := exec.Command("go", "build", "-o", binary, "millrace/cmd/millrace")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the program:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A server is the program as a child process.
type server struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	http string // http://127.0.0.1:port
	mqtt string // 127.0.0.1:port
	done chan struct{}

	mqtts  string       // 127.0.0.1:port, with a certificate
	client *http.Client // nil: without TLS

	mu  sync.Mutex
	log bytes.Buffer
}

// start runs the program on a fresh data directory and waits until it is ready. The test's end stops it.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), args: args}
	s.begin()
	return s
}

// begin is start for a server that has been prepared.
func (s *server) begin() {
	t := s.t
	t.Helper()
	os.Chmod(s.dir, 0o755)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.logText())
		}
	})
	s.run()
}

// run starts the program on the server's data directory; after the first time on the same ports.
func (s *server) run() {
	s.t.Helper()
	httpAddr, mqttAddr := "127.0.0.1:0", "127.0.0.1:0"
	if s.http != "" {
		httpAddr, mqttAddr = s.http[strings.Index(s.http, "://")+3:], s.mqtt
	}
	s.cmd = exec.Command(binary, append([]string{"serve", "--data-dir", s.dir, "--http-addr", httpAddr, "--mqtt-addr", mqttAddr,
		"--admin-token", adminToken, "--log-format", "json"}, s.args...)...)
	s.cmd.Env = append(os.Environ(), "MILLRACE_ADMIN_EMAIL=admin@example.com", "MILLRACE_ADMIN_PASSWORD=correct horse battery")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stdout = io.Discard
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan struct{})
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		var once sync.Once
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			s.mu.Lock()
			s.log.Write(lines.Bytes())
			s.log.WriteByte('\n')
			s.mu.Unlock()
			var l struct{ Msg, HTTP, MQTT, MQTTS string }
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "ready" {
				once.Do(func() {
					if s.http == "" { // after a restart they are the same, and others read them
						scheme := "http://"
						if s.client != nil {
							scheme = "https://"
						}
						s.http, s.mqtt, s.mqtts = scheme+l.HTTP, l.MQTT, l.MQTTS
					}
					close(ready)
				})
			}
		}
		s.cmd.Wait()
	}()
	select {
	case <-ready:
	case <-s.done:
		s.t.Fatalf("the server ended before it listened:\n%s", s.logText())
	case <-time.After(60 * time.Second):
		s.t.Fatalf("the server does not listen:\n%s", s.logText())
	}
	s.waitReady()
}

func (s *server) httpClient() *http.Client {
	if s.client != nil {
		return s.client
	}
	return http.DefaultClient
}

func (s *server) waitReady() {
	s.t.Helper()
	eventually(s.t, 60*time.Second, "the server is ready", func() bool {
		res, err := s.httpClient().Get(s.http + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// kill ends the program at once, as a power cut would, and waits until its children have noticed; nothing happens if it has ended.
func (s *server) kill() {
	children := s.children()
	s.cmd.Process.Kill()
	<-s.done
	for end := time.Now().Add(15 * time.Second); !ended(children) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

// ended reports whether none of the processes is running.
func ended(pids []int) bool {
	for _, pid := range pids {
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(data), ") Z ") {
			return false
		}
	}
	return true
}

// interrupt asks the program to end and waits until it has.
func (s *server) interrupt() {
	s.t.Helper()
	s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		s.t.Fatal("the server does not end after an interrupt")
	}
}

func (s *server) logText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// callAs does a request with a token and returns status and body.
func (s *server) callAs(token, method, path string, body any) (int, []byte) {
	s.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, s.http+path, in)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := s.httpClient().Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, data
}

// must does a request with the admin token that has to succeed, and decodes the JSON answer into out, if given.
func (s *server) must(method, path string, body, out any) {
	s.t.Helper()
	status, data := s.callAs(adminToken, method, path, body)
	if status >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, data)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			s.t.Fatal(err)
		}
	}
}

// device makes a device in a group and returns its token.
func (s *server) device(id, group string) string {
	s.t.Helper()
	var made struct{ Token string }
	s.must("POST", "/api/v1/devices", map[string]any{"id": id, "groups": []string{group}}, &made)
	return made.Token
}

// children returns the processes started by the program, and theirs.
func (s *server) children() []int {
	var all []int
	var walk func(pid int)
	walk = func(pid int) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, file := range tasks {
			data, _ := os.ReadFile(file)
			for field := range strings.FieldsSeq(string(data)) {
				var child int
				fmt.Sscan(field, &child)
				all = append(all, child)
				walk(child)
			}
		}
	}
	walk(s.cmd.Process.Pid)
	return all
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}
