package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres/local"
	"millrace/ingest/spine/natstest"
)

// recordedValues reads all that is recorded of a series of floats or whole numbers, as it lies there.
func recordedValues(t *testing.T, address, device, metric string) (all []float64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var kind int16
	var start int64
	var n int
	var data []byte
	rows, _ := conn.Query(t.Context(), `select c.kind, c.start, c.n, c.data from history_chunk c join history_series s on s.id = c.series
		where s.device = $1 and s.metric = $2 order by c.start, c.flush`, device, metric)
	if _, err := pgx.ForEachRow(rows, []any{&kind, &start, &n, &data}, func() error {
		var c chunk.Columns
		err := chunk.Decode(data, devices.Kind(kind), start, n, &c)
		all = append(all, c.Values...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// What was accepted just before the server is stopped is recorded when it has ended. When PostgreSQL is away it ends as soon, and records it after
// the next start. A device that is deleted takes what is recorded along.
func TestHistoryStop(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	pg, address := startPostgres(t, dir)
	s := start(t, "--database-url", address, "--history-flush", "1s")
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	token := s.device("d1", "plant1")
	var want []float64
	publish := func() {
		t.Helper()
		for range 3 {
			want = append(want, float64(len(want)))
			if status, body := s.callAs(token, "POST", "/api/v1/devices/d1/telemetry",
				fmt.Sprintf(`{"ts":%d,"values":{"n":%v}}`, time.Now().UnixMilli()+int64(len(want)), len(want)-1)); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
		}
	}
	check := func(when string) {
		t.Helper()
		if got := recordedValues(t, address, "d1", "n"); !slices.Equal(got, want) {
			t.Errorf("%s %v is recorded, not %v", when, got, want)
		}
	}
	publish()
	s.interrupt()
	check("after it ended")
	s.run()
	publish()
	if err := pg.Close(); err != nil {
		t.Fatal(err)
	}
	publish()
	began := time.Now()
	s.interrupt()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v to end without PostgreSQL", took)
	}
	pg, err := local.Start(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close() })
	s.run()
	s.recorded(20 * time.Second)
	check("after the start that followed")
	s.must("DELETE", "/api/v1/devices/d1", nil, nil)
	s.must("POST", "/api/v1/devices", map[string]any{"id": "d1", "groups": []string{"plant1"}}, nil)
	s.must("POST", "/api/v1/telemetry", `[{"device":"d1","n":42}]`, nil)
	want = []float64{42}
	s.interrupt()
	check("after the device was made anew")
}

// Two servers on one stream and one database: each sample is recorded once, also when the one that records is killed.
func TestHistoryTwoServers(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	_, address := startPostgres(t, dir)
	ns := natstest.Start(t, t.TempDir(), -1)
	t.Cleanup(func() { natstest.Stop(ns) })
	args := []string{"--database-url", address, "--nats-url", ns.ClientURL(), "--history-flush", "300ms"}
	servers := []*server{start(t, args...), start(t, args...)}
	servers[0].must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	tokens := []string{servers[0].device("d0", "plant1"), servers[0].device("d1", "plant1")}
	sent := []int{0, 0}
	publish := func(i int) {
		t.Helper()
		eventually(t, 10*time.Second, "a server knows the device", func() bool {
			status, _ := servers[i].callAs(tokens[i], "POST", fmt.Sprintf("/api/v1/devices/d%d/telemetry", i),
				fmt.Sprintf(`{"ts":%d,"values":{"n":%d}}`, time.Now().UnixMilli(), sent[i]))
			return status == 200
		})
		sent[i]++
	}
	for n := range 300 {
		publish(n % 2)
		pause(t.Context(), 5*time.Millisecond)
	}
	servers[0].kill()
	for range 100 {
		publish(1)
		pause(t.Context(), 5*time.Millisecond)
	}
	servers[1].recorded(20 * time.Second)
	for i := range sent {
		got := recordedValues(t, address, fmt.Sprintf("d%d", i), "n")
		slices.Sort(got)
		for v := range sent[i] {
			if len(got) != sent[i] || got[v] != float64(v) {
				t.Fatalf("of %d samples of d%d %v are recorded", sent[i], i, got)
			}
		}
	}
}
