package history

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/migrations/pgtest"
)

// Samples for hours that are being compacted come in all the time, compaction is broken off at random, and two nodes do it:
// nothing is lost, nothing is double, and the later sample for a time is right.
func TestCompactionBesideWriters(t *testing.T) {
	f := newFixture(t, Config{})
	tb := &table{t: t, s: f.Store, want: map[int32]map[int64]devices.Sample{}}
	w, _ := f.newWriter()
	var ids []devices.SeriesID
	want := make(map[devices.SeriesID]map[int64]devices.Sample)
	for i := range 6 {
		id := f.series(devices.ID([]string{"a", "b"}[i%2]), fmt.Sprint("m", i), devices.Float)
		ids = append(ids, id)
		want[id] = make(map[int64]devices.Sample)
	}
	base := time.Now().Truncate(24 * time.Hour).Add(-72 * time.Hour).UnixMilli()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var nodes sync.WaitGroup
	for n := range 2 {
		other := New(f.pool, f.catalog, Config{}, quiet)
		nodes.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 1))
			for at := firstHour; ctx.Err() == nil; {
				call, cancel := ctx, context.CancelFunc(func() {})
				if random.IntN(3) == 0 { // killed
					call, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(8000))*time.Microsecond)
				}
				last, more, _, err := other.compactBatch(call, time.Now(), at)
				if err != nil && call.Err() == nil {
					t.Errorf("compact: %v", err)
				}
				cancel()
				if at = last; !more {
					at = firstHour
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(7, 7))
	var batch []devices.Sample
	for flush := range 150 {
		batch = batch[:0]
		for range 30 {
			id := ids[random.IntN(len(ids))]
			step := int64(1000)
			if random.IntN(4) == 0 {
				step = 1
			}
			at := base + random.Int64N(30)*hourMs + random.Int64N(3000)*1000
			for range random.IntN(60) {
				s := number(id, at, float64(flush))
				batch = append(batch, s)
				want[id][at] = devices.Sample{At: at, Value: s.Value}
				at += step
			}
		}
		f.send(w, batch...)
		f.flush(w)
	}
	stop()
	nodes.Wait()
	disk, err := f.DiskIDs(t.Context(), ids)
	tb.must(err)
	check := func() {
		t.Helper()
		for i, id := range ids {
			tb.want[disk[i]] = want[id]
			tb.check(disk[i])
		}
	}
	check()
	soon(t, "all is compacted", func() bool { // what was broken off may hold its locks for a moment
		tb.must(f.Compact(t.Context(), time.Now()))
		return tb.dirty() == 0
	})
	check()
	for _, id := range disk {
		tb.tidy(id)
	}
	if st := f.MaintainStats(); tb.dirty() != 0 || st.Read == 0 {
		t.Errorf("%d hours left; %+v", tb.dirty(), st)
	}
}

// A deletion waits for a compaction that is under way, so that nothing merged comes after it.
func TestDeletionBesideCompaction(t *testing.T) {
	f := newFixture(t, Config{})
	tb := &table{t: t, s: f.Store, want: map[int32]map[int64]devices.Sample{}}
	w, _ := f.newWriter()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var nodes sync.WaitGroup
	nodes.Go(func() {
		for ctx.Err() == nil {
			if err := f.Compact(ctx, time.Now()); err != nil && ctx.Err() == nil {
				t.Errorf("compact: %v", err)
			}
			if err := f.Purge(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("purge: %v", err)
			}
		}
	})
	base := time.Now().Truncate(24 * time.Hour).Add(-72 * time.Hour)
	for i := range 20 {
		id := devices.ID(fmt.Sprint("n", i%3)) // made anew under the same name
		f.device(id)
		a := f.series(id, "m", devices.Float)
		for h := range 5 {
			var batch []devices.Sample
			for _, s := range ramp(base.Add(time.Duration(h)*20*time.Minute), time.Second, 700) {
				batch = append(batch, number(a, s.At, float64(i)))
			}
			f.send(w, batch...)
			f.flush(w)
		}
		if got := f.samples(string(id), "m"); len(got) != 700+4*700 {
			t.Fatalf("%d samples of the device made anew", len(got))
		}
		tb.must(f.inventory.DeleteDevice(t.Context(), devices.Actor{}, id, func(devices.Device) error { return nil }))
		tb.must(f.catalog.Load(t.Context()))
	}
	stop()
	nodes.Wait()
	left := func() (n int) { // what was broken off may hold its locks for a moment
		tb.must(f.Purge(t.Context()))
		tb.must(f.Compact(t.Context(), time.Now()))
		return tb.count(`select (select count(*) from history_chunk) + (select count(*) from history_hour) + (select count(*) from history_dirty) + (select count(*) from history_doomed)`)
	}
	soon(t, "nothing is left of devices that are gone", func() bool { return left() == 0 })
}

func TestMaintain(t *testing.T) {
	tb := newTable(t)
	id := tb.series("d", "m")
	start := time.Now().Truncate(24 * time.Hour).Add(-48 * time.Hour)
	for i := range 20 {
		tb.put(id, ramp(start.Add(time.Duration(i)*time.Minute), time.Second, 60)...)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := tb.s.Maintain(ctx); err != nil {
			t.Errorf("maintain: %v", err)
		}
	})
	soon(t, "compacted", func() bool { return !tb.s.MaintainStats().Last.IsZero() })
	stop()
	running.Wait()
	if st := tb.s.MaintainStats(); st.Hours != 1 || st.Read != 20 || st.Written != 1 || st.Samples != 1200 || st.Failed != 0 {
		t.Errorf("%+v", st)
	}
	tb.check(id)
	if n := tb.count(`select count(*) from pg_inherits where inhparent = 'history_packed'::regclass`); n < 4 {
		t.Errorf("%d partitions", n)
	}

	// The database away: it says so once and goes on.
	pool, err := pgxpool.New(t.Context(), pgtest.URL(t))
	tb.must(err)
	pool.Close()
	away := New(pool, nil, Config{}, slog.New(slog.DiscardHandler))
	ctx, stop = context.WithCancel(t.Context())
	running.Go(func() { away.Maintain(ctx) })
	soon(t, "failed", func() bool { return away.MaintainStats().Failed > 0 })
	stop()
	running.Wait()
}
