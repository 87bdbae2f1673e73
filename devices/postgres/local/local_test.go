package local

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MILLRACE_TEST_LOCAL"); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

// child is the test binary started once more: a parent of a Postgres, to be killed.
func child(dir string) {
	s, err := Start(context.Background(), Config{Dir: dir})
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.Itoa(s.PID()) + "\n")
	select {}
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reachableDir is a directory that other users can get to, unlike t.TempDir.
func reachableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "millrace-local-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var got string
	if err := conn.QueryRow(ctx, sql).Scan(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

// keep makes a table to be found again.
func keep(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "create table kept as select 'yes' as v"); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestKeepsDataAndSettings(t *testing.T) {
	dir := filepath.Join(reachableDir(t), "data")
	s := start(t, Config{Dir: dir, Settings: map[string]string{"work_mem": "5MB"}})
	for setting, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "work_mem": "5MB", "data_checksums": "on"} {
		if got := query(t, s.URL(), "select current_setting('"+setting+"')"); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	if got := query(t, s.URL(), "select current_setting('server_version')"); !strings.HasPrefix(got, s.Version()) {
		t.Errorf("Version = %s, the server says %s", s.Version(), got)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/status")
	if err != nil || os.Geteuid() == 0 && strings.Contains(string(status), "\nUid:\t0\t") {
		t.Errorf("runs as root: %v", err)
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second start: %v", err)
	}
	keep(t, s.URL())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, Config{Dir: dir})
	if got := query(t, s.URL(), "select v from kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}

func TestInRootsOwnHome(t *testing.T) {
	home := reachableDir(t)
	if err := os.Chmod(home, 0o700); err != nil { // of whoever runs the test
		t.Fatal(err)
	}
	s := start(t, Config{Dir: filepath.Join(home, "x", "data", "postgres")})
	if got := query(t, s.URL(), "select 'yes'"); got != "yes" {
		t.Error(got)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/status")
	if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000000") {
		t.Errorf("has capabilities: %v\n%s", err, status)
	}
}

func TestLongPathGetsAShortSocket(t *testing.T) {
	dir := filepath.Join(reachableDir(t), strings.Repeat("long", 30))
	s := start(t, Config{Dir: dir})
	if len(s.socket) > 60 || query(t, s.URL(), "select 'yes'") != "yes" {
		t.Errorf("socket in %s", s.socket)
	}
	info, err := os.Stat(s.socket)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("socket directory: %v, %v", info, err)
	}
	short := s.socket
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(short); err == nil {
		t.Errorf("%s is left behind", short)
	}
}

func TestComesBackAfterAKill(t *testing.T) {
	s := start(t, Config{Dir: reachableDir(t)})
	keep(t, s.URL())
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer stop()
	for range 2 {
		before := s.PID()
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another postmaster", func() bool { return s.PID() != before })
		if got := query(t, s.URL(), "select v from kept"); got != "yes" {
			t.Errorf("kept %q", got)
		}
	}
}

// The pause before a start grows while the server dies young, and is short again once one has run for a while.
func TestPauses(t *testing.T) {
	killed := exec.Command("/bin/sh", "-c", "kill -9 $$").Run()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var launched []time.Time
		var failure error // of the next starts
		launch := func(context.Context) (*process, error) {
			mu.Lock()
			defer mu.Unlock()
			launched = append(launched, time.Now())
			if failure != nil {
				return nil, failure
			}
			return &process{pid: len(launched), done: make(chan struct{})}, nil
		}
		fail := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			failure = err
		}
		starts := func() []time.Time {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return launched
		}
		startsIn := func(d time.Duration) int {
			n := len(starts())
			time.Sleep(d)
			return len(starts()) - n
		}
		s := &Server{log: slog.New(slog.DiscardHandler), current: &process{done: make(chan struct{})}}
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { s.watch(ctx, launch) })
		// dies returns how long after the death of a server that ran for so long there was another.
		dies := func(after time.Duration) time.Duration {
			time.Sleep(after)
			n, at := len(starts()), time.Now()
			s.mu.Lock()
			p := s.current
			s.mu.Unlock()
			p.err = errors.New("killed")
			close(p.done)
			for len(starts()) == n {
				time.Sleep(time.Millisecond)
			}
			return starts()[n].Sub(at)
		}
		f := func(up, want time.Duration) {
			t.Helper()
			if got := dies(up); got != want {
				t.Errorf("a server that ran for %v was started again after %v, want %v", up, got, want)
			}
		}
		f(time.Hour, 100*time.Millisecond)
		f(time.Second, 200*time.Millisecond)
		f(time.Second, 400*time.Millisecond)
		f(time.Second, 800*time.Millisecond)
		f(time.Second, time.Second)
		f(9*time.Second, time.Second)
		f(steady, 100*time.Millisecond)
		f(time.Second, 200*time.Millisecond)

		// One that does not start is tried less and less often, and watched as before when it does.
		fail(errors.New("no space left on device"))
		f(steady, 100*time.Millisecond)
		if got := startsIn(time.Hour); got < 350 || got > 370 {
			t.Errorf("%d starts in an hour", got)
		}
		fail(killed)
		startsIn(maxBackoff)
		if got := startsIn(time.Minute); got < 59 || got > 61 {
			t.Errorf("%d starts in a minute in which each was killed", got)
		}
		fail(nil)
		startsIn(maxBackoff)
		f(steady, 100*time.Millisecond)
		stop()
		watching.Wait()
	})
}

func TestParentKilled(t *testing.T) {
	f := func(name string, stopFirst bool) {
		t.Helper()
		dir := reachableDir(t)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MILLRACE_TEST_LOCAL="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatalf("%s: %q, %v", name, line, err)
		}
		if stopFirst { // a postmaster that can't follow the signal at once
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(300*time.Millisecond, func() { syscall.Kill(pid, syscall.SIGCONT) })
		}
		cmd.Process.Kill()
		cmd.Wait()
		if !stopFirst {
			eventually(t, "the postmaster ends with its parent", func() bool {
				status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
				return err != nil || strings.Contains(string(status), ") Z ")
			})
		}
		s := start(t, Config{Dir: dir})
		if s.PID() == pid || query(t, s.URL(), "select 'yes'") != "yes" {
			t.Errorf("%s: no server of our own", name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	f("ends by itself", false)
	f("is stopped by the next start", true)
}

// What is left when everything was killed at once: a postmaster.pid, whose number may be another program's by now.
func TestStalePIDFile(t *testing.T) {
	dir := reachableDir(t)
	s := start(t, Config{Dir: dir})
	syscall.Kill(s.PID(), syscall.SIGKILL)
	<-s.current.done
	s.Close()
	name := filepath.Join(dir, "cluster", "postmaster.pid")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "\n")
	other := exec.Command("sleep", "60")
	other.SysProcAttr = s.identity.attributes() // PostgreSQL takes a process of its own user for a postmaster
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	if err := os.WriteFile(name, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, Config{Dir: dir})
	query(t, s.URL(), "select 'yes'")
}

func TestRefusals(t *testing.T) {
	dir := reachableDir(t)
	s := start(t, Config{Dir: dir})
	s.Close()
	if _, err := Start(t.Context(), Config{Dir: dir, Settings: map[string]string{"work_mem": "nonsense"}}); err == nil || !strings.Contains(err.Error(), `"work_mem"`) {
		t.Errorf("bad setting: %v; the error should hold the last lines of the log", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster", "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "pg_upgrade") {
		t.Errorf("other major version: %v", err)
	}
	if _, err := Start(t.Context(), Config{Dir: t.TempDir(), BinDir: "/nowhere"}); !errors.Is(err, ErrNoBinaries) {
		t.Errorf("no binaries: %v", err)
	}
	odd := reachableDir(t)
	if err := os.MkdirAll(filepath.Join(odd, "cluster", "photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: odd}); err == nil {
		t.Error("started in a directory that is no cluster")
	}
	if _, err := os.Stat(filepath.Join(odd, "cluster", "photos")); err != nil {
		t.Error("what lay in the directory is gone")
	}
}

func TestUnfinishedInitIsMadeAnew(t *testing.T) {
	dir := reachableDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "cluster.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	start(t, Config{Dir: dir})
}

func TestParseVersion(t *testing.T) {
	f := func(in, wantVersion string, wantMajor int) {
		t.Helper()
		if version, major := parseVersion(in); version != wantVersion || major != wantMajor {
			t.Errorf("parseVersion(%q) = %s, %d", in, version, major)
		}
	}
	f("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", "15.14", 15)
	f("postgres (PostgreSQL) 18\n", "18", 18)
	f("postgres (PostgreSQL) 17beta1\n", "17beta1", 17)
	f("nonsense", "", 0)
}
