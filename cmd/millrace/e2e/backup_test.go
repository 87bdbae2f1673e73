package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/local"
)

// millrace runs a subcommand that has to end with the code, and returns what it said.
func millrace(t *testing.T, code int, args ...string) string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	_ = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("millrace %s ended with %v, not %d:\n%s", strings.Join(args, " "), cmd.ProcessState, code, said.Bytes())
	}
	return said.String()
}

// database is the address of the private PostgreSQL of a server that runs.
func (s *server) database() string {
	s.t.Helper()
	address, ok := local.Running(filepath.Join(s.dir, "postgres"))
	if !ok {
		s.t.Fatal("PostgreSQL does not run")
	}
	return address
}

// prefix checks that what is recorded of the plant is a cut: of each machine the messages up to some one, each sample once, all metrics
// alike. It returns their number by machine.
func (p *plant) prefix(t *testing.T, address string) map[string]int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	times := map[string]map[string][]int64{}
	var device, metric string
	var kind int16
	var start int64
	var n int
	var data []byte
	rows, _ := conn.Query(t.Context(), `select s.device, s.metric, c.kind, c.start, c.n, c.data from history_chunk c join history_series s on s.id = c.series
		where s.device like 'machine-%' and s.metric like 'm_'`)
	if _, err := pgx.ForEachRow(rows, []any{&device, &metric, &kind, &start, &n, &data}, func() error {
		var c chunk.Columns
		if times[device] == nil {
			times[device] = map[string][]int64{}
		}
		err := chunk.Decode(data, devices.Kind(kind), start, n, &c)
		times[device][metric] = append(times[device][metric], c.Times...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, m := range p.machines {
		of := times[m.id]
		if len(of) != machineMetrics {
			t.Errorf("%s has %d metrics", m.id, len(of))
			continue
		}
		for metric, all := range of {
			slices.Sort(all)
			for i, at := range all {
				if at != m.began+int64(i)*machineStep {
					t.Errorf("%s/%s: sample %d is of %d ms, not %d", m.id, metric, i, at-m.began, i*machineStep)
					break
				}
			}
			if len(all)%machineRows != 0 || len(all) != len(of["m0"]) {
				t.Errorf("%s/%s has %d samples, m0 %d", m.id, metric, len(all), len(of["m0"]))
			}
		}
		found[m.id] = len(of["m0"]) / machineRows
	}
	return found
}

// A backup under load is a consistent cut, and restores into a new data directory whose spine is another one. Restored under the spine that it
// was made beside, what came after it is recorded from there, once.
func TestBackup(t *testing.T) {
	s := start(t, "--history-flush", "300ms")
	p := startPlant(t, s)
	var user, token struct{ ID, Token string }
	s.must("POST", "/api/v1/users", map[string]any{"email": "ann@example.com", "name": "Ann", "password": "correct horse battery"}, &user)
	s.must("POST", "/api/v1/bindings", map[string]any{"user": user.ID, "group": "plant1", "role": "operator"}, nil)
	s.must("POST", "/api/v1/tokens", map[string]any{"name": "wall", "role": "viewer", "group": "plant1"}, &token)
	lists := func(s *server) (all []string) {
		for _, path := range []string{"/api/v1/users", "/api/v1/bindings", "/api/v1/groups"} {
			_, body := s.callAs(adminToken, "GET", path, nil)
			all = append(all, string(body))
		}
		var list struct{ Items []struct{ ID string } }
		s.must("GET", "/api/v1/devices?limit=500", nil, &list)
		return append(all, fmt.Sprint(list.Items))
	}
	pause(t.Context(), 2*time.Second)
	before := map[string]int{}
	for _, m := range p.machines {
		m.mu.Lock()
		before[m.id] = len(m.acked) - 1 // the last may be on its way
		m.mu.Unlock()
	}
	s.recorded(20 * time.Second)
	want := lists(s)
	file := filepath.Join(t.TempDir(), "site.tar.zst")
	t.Log(millrace(t, 0, "backup", "--data-dir", s.dir, file))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if said := millrace(t, 1, "restore", "--data-dir", s.dir, "--replace", "--yes", file); !strings.Contains(said, "in use by another millrace") {
		t.Errorf("under a server: %s", said)
	}
	millrace(t, 0, "restore", "--check", file)
	pause(t.Context(), time.Second)
	p.stop()
	s.recorded(20 * time.Second)
	s.interrupt()

	// Killed in the middle, it leaves an empty database.
	other := &server{t: t, dir: t.TempDir()}
	os.Chmod(other.dir, 0o755)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "restore", "--data-dir", other.dir, "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(content[:len(content)*9/10]); err != nil {
		t.Fatal(err)
	}
	for seen, b := "", make([]byte, 4096); !strings.Contains(seen, "history_series"); { // the tables before the chunks are in
		n, err := out.Read(b)
		if seen += string(b[:n]); err != nil {
			t.Fatalf("it ended: %s", seen)
		}
	}
	cmd.Process.Kill()
	io.Copy(io.Discard, out)
	cmd.Wait()
	eventually(t, 20*time.Second, "PostgreSQL has noticed", func() bool {
		_, running := local.Running(filepath.Join(other.dir, "postgres"))
		return !running
	})
	millrace(t, 0, "restore", "--data-dir", other.dir, file) // or it would say that the database is not empty
	if said := millrace(t, 1, "restore", "--data-dir", other.dir, file); !strings.Contains(said, "20 of device") {
		t.Errorf("into a site that is there: %s", said)
	}
	other.begin()
	if got := lists(other); !slices.Equal(got, want) {
		t.Errorf("restored:\n%s\nnot\n%s", got, want)
	}
	if status, _ := other.callAs(token.Token, "GET", "/api/v1/devices/machine-0", nil); status != 200 {
		t.Errorf("a token of before gets %d", status)
	}
	cut := p.prefix(t, other.database())
	for id, n := range before {
		if cut[id] < n {
			t.Errorf("%s: %d messages are in the backup, but %d were recorded before it", id, cut[id], n)
		}
	}
	if status, body := other.callAs(p.machines[0].token, "POST", "/api/v1/devices/machine-0/telemetry", `{"after":1}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	other.recorded(20 * time.Second)
	if got := recordedValues(t, other.database(), "machine-0", "after"); !slices.Equal(got, []float64{1}) {
		t.Errorf("of the new spine %v is recorded", got)
	}
	p.prefix(t, other.database())

	// The same spine.
	millrace(t, 1, "restore", "--data-dir", s.dir, "--replace", file) // nobody to ask
	millrace(t, 0, "restore", "--data-dir", s.dir, "--replace", "--yes", file)
	s.run()
	s.recorded(30 * time.Second)
	p.check(t, s.database())
}

// With a PostgreSQL of somebody's: a server that uses it keeps a restore out.
func TestBackupExternal(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	_, address := startPostgres(t, dir)
	s := start(t, "--database-url", address)
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	s.device("d1", "plant1")
	file := filepath.Join(t.TempDir(), "site.tar.zst")
	millrace(t, 0, "backup", "--database-url", address, file)
	s.must("DELETE", "/api/v1/devices/d1", nil, nil)
	s.device("d2", "plant1")
	if said := millrace(t, 1, "restore", "--database-url", address, "--replace", "--yes", file); !strings.Contains(said, "a server uses the database") {
		t.Errorf("under a server: %s", said)
	}
	s.interrupt()
	millrace(t, 0, "restore", "--database-url", address, "--replace", "--yes", file)
	s.run()
	s.must("GET", "/api/v1/devices/d1", nil, nil)
	if status, _ := s.callAs(adminToken, "GET", "/api/v1/devices/d2", nil); status != 404 {
		t.Errorf("what came after the backup is there: %d", status)
	}
}
