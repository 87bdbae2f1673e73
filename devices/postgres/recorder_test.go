package postgres

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/local"
	"millrace/migrations"
	"millrace/migrations/pgtest"

	"github.com/jackc/pgx/v5/pgxpool"
)

// recorder returns one over a store with devices a and b, and what it released.
func recorder(t testing.TB, s *Store) (*Recorder, *catalog.Catalog, *[]uint64) {
	t.Helper()
	for _, id := range []devices.ID{"a", "b"} {
		if _, err := s.CreateDevice(context.Background(), admin, devices.Device{ID: id, State: devices.Active}, devices.Credential{}); err != nil {
			t.Fatal(err)
		}
	}
	c := catalog.New(catalog.Config{}, s)
	if err := c.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	released := new([]uint64)
	return NewRecorder(s, c, "life-1", func(seq uint64) { *released = append(*released, seq) }, slog.New(slog.DiscardHandler)), c, released
}

func series(t testing.TB, c *catalog.Catalog, d devices.ID, metric string, k devices.Kind) devices.SeriesID {
	t.Helper()
	id, err := c.Device(d).Series([]byte(metric), k)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func values(t *testing.T, s *Store, stream string, wantPosition uint64) map[string]devices.LastValue {
	t.Helper()
	position, found, err := s.LastValues(t.Context(), stream)
	if err != nil || position != wantPosition {
		t.Errorf("position %d of %s, want %d: %v", position, stream, wantPosition, err)
	}
	all := make(map[string]devices.LastValue)
	for _, v := range found {
		all[string(v.Device)+"/"+v.Metric] = v
	}
	return all
}

func TestRecorder(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	r, c, released := recorder(t, s)
	temp, name := series(t, c, "a", "temp", devices.Int), series(t, c, "b", "name", devices.String)
	write := func() {
		t.Helper()
		if err := r.Write(ctx); err != nil {
			t.Fatal(err)
		}
	}
	write() // nothing yet
	r.Deliver(1, []devices.Sample{{Series: temp, Kind: devices.Int, At: 1000, Recv: 1001, Value: 1}, {Series: temp, Kind: devices.Int, At: 3000, Recv: 3001, Value: 3}})
	r.Deliver(2, []devices.Sample{{Series: temp, Kind: devices.Int, At: 2000, Recv: 4001, Value: 2}, // late
		{Series: name, Kind: devices.String, At: 5, Recv: 6, Text: "x\x00y\xff", Quality: devices.Uncertain}})
	write()
	got := values(t, s, "life-1", 2)
	if v := got["a/temp"]; v.Value != 3 || v.At != 3000 || v.Kind != devices.Int || v.Series != 0 {
		t.Errorf("temp %+v", v)
	}
	if v := got["b/name"]; v.Text != "x\ufffdy\ufffd" || v.Quality != devices.Uncertain || v.Kind != devices.String {
		t.Errorf("name %+v", v)
	}
	if d, err := s.Device(ctx, "a"); err != nil || d.LastSeen == nil || d.LastSeen.UnixMilli() != 4001 {
		t.Errorf("last seen %v, %v", d.LastSeen, err)
	}
	r.Deliver(3, nil)
	write()
	values(t, s, "life-2", 0)
	if len(*released) != 2 || (*released)[0] != 2 || (*released)[1] != 3 {
		t.Errorf("released %v", *released)
	}
	// After a restart: series and kinds are back, an older sample does not undo a newer one.
	again := catalog.New(catalog.Config{}, s)
	if err := again.Load(ctx); err != nil {
		t.Fatal(err)
	}
	id := series(t, again, "a", "temp", devices.Float)
	r = NewRecorder(s, again, "life-2", func(uint64) {}, slog.New(slog.DiscardHandler))
	r.Deliver(1, []devices.Sample{{Series: id, At: 500, Recv: 9000, Value: 0.5}})
	write()
	if v := values(t, s, "life-2", 1)["a/temp"]; v.Value != 3 {
		t.Errorf("temp %+v", v)
	}
	if records, err := s.LoadDevices(ctx, []devices.ID{"a"}); err != nil || len(records[0].Series) != 1 || records[0].Series[0].Kind != devices.Float {
		t.Errorf("series %+v, %v; the kind widens", records, err)
	}
}

func TestRecorderLeavesOutWhatCannotBeStored(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	r, c, released := recorder(t, s)
	if _, err := s.pool.Exec(ctx, "alter table last_value add check (value <> 13)"); err != nil {
		t.Fatal(err)
	}
	var batch []devices.Sample
	for i := range 20 {
		batch = append(batch, devices.Sample{Series: series(t, c, "a", strings.Repeat("m", i+1), devices.Float), At: 1, Recv: 1, Value: float64(i)})
	}
	batch = append(batch, devices.Sample{Series: series(t, c, "b", "temp", devices.Float), At: 1, Recv: 1, Value: 1})
	r.Deliver(7, batch)
	// A device that was deleted, which the catalog does not know yet.
	if err := s.DeleteDevice(ctx, admin, "b", func(devices.Device) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(ctx); err != nil {
		t.Fatal(err)
	}
	if got := values(t, s, "life-1", 7); len(got) != 19 || len(*released) != 1 {
		t.Errorf("%d values, released %v", len(got), *released)
	}
}

func TestRecorderTakesSamplesWithoutAllocating(t *testing.T) {
	r := NewRecorder(nil, catalog.New(catalog.Config{}, nil), "", nil, nil)
	batch := make([]devices.Sample, 100)
	for i := range batch {
		batch[i] = devices.Sample{Series: devices.SeriesID(i%10 + 1), At: int64(i)}
	}
	if n := testing.AllocsPerRun(100, func() { r.Deliver(1, batch) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// SIGKILL of the private Postgres while the recorder runs: it comes back, and nothing is missing.
func TestRecorderOutlivesPostgres(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	server, err := local.Start(ctx, local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	pool, err := pgxpool.New(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	s := New(pool)
	r, c, _ := recorder(t, s)
	temp := series(t, c, "a", "temp", devices.Float)
	for i := range uint64(3) {
		before := server.PID()
		kill(t, before)
		r.Deliver(i+1, []devices.Sample{{Series: temp, At: int64(i), Recv: 1, Value: float64(i)}})
		// Until they notice, backends may even serve on without their postmaster; after that each connection of the pool fails once.
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := r.Write(ctx)
			if err == nil && server.PID() != before {
				if _, _, err = s.LastValues(ctx, "life-1"); err == nil {
					break
				}
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if v := values(t, s, "life-1", i+1)["a/temp"]; v.Value != float64(i) {
			t.Errorf("temp %+v", v)
		}
	}
}

func BenchmarkRecorderWrite(b *testing.B) {
	s := New(pgtest.New(b))
	r, c, _ := recorder(b, s)
	const n = 1000
	var batch []devices.Sample
	for i := range n {
		batch = append(batch, devices.Sample{Series: series(b, c, "a", "m"+string(rune('a'+i%26))+strings.Repeat("x", i/26), devices.Float), Recv: 1})
	}
	seq := uint64(0)
	for b.Loop() {
		seq++
		for i := range batch {
			batch[i].At, batch[i].Value = int64(seq), float64(seq)
		}
		r.Deliver(seq, batch)
		if err := r.Write(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/series")
}
