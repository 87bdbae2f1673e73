package history

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/devices"
)

// device puts one into groups.
func (tb *table) device(id devices.ID, groups ...devices.GroupPath) {
	tb.t.Helper()
	tb.exec(`insert into device (id, label, type, attributes, state, expected_interval_ms) values ($1, '', '', '{}', 'active', 0)`, id)
	for _, g := range groups {
		tb.exec(`insert into member (device, path) values ($1, $2)`, id, g)
	}
}

func (tb *table) group(path devices.GroupPath, days *int) {
	tb.t.Helper()
	tb.exec(`insert into device_group (path, label, retention_days) values ($1, '', $2)`, path, days)
}

func (tb *table) exec(sql string, args ...any) {
	tb.t.Helper()
	_, err := tb.s.pool.Exec(context.Background(), sql, args...)
	tb.must(err)
}

func (tb *table) count(sql string, args ...any) (n int) {
	tb.t.Helper()
	tb.must(tb.s.pool.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

// forget takes out of what is wanted what is before a time.
func (tb *table) forget(series int32, before time.Time) {
	for at := range tb.want[series] {
		if at < before.UnixMilli() {
			delete(tb.want[series], at)
		}
	}
}

func TestRetention(t *testing.T) {
	tb := newTable(t)
	ctx := t.Context()
	now := time.Date(2026, 11, 20, 15, 0, 0, 0, time.UTC)
	tb.s.c.Retention = 30 * 24 * time.Hour
	tb.group("plant1", new(10))
	tb.group("plant1/line1", nil)
	tb.group("plant1/line2", new(3))
	tb.group("plant2", new(0))
	want := map[devices.ID]int{}
	device := func(id devices.ID, keeps int, groups ...devices.GroupPath) int32 {
		tb.device(id, groups...)
		want[id] = keeps
		return tb.series(id, "m")
	}
	all := []int32{
		device("loose", 30), device("a", 10, "plant1/line1"), device("b", 3, "plant1/line2"), device("c", 10, "plant1/line2", "plant1"),
		device("d", 0, "plant1/line2", "plant2"), tb.series("unknown", "m"),
	}
	ids := []devices.ID{"loose", "a", "b", "c", "d", "unknown"}
	want["unknown"] = 30
	for d := 0; d < 60; d += 5 {
		start := now.Truncate(24*time.Hour).AddDate(0, 0, -d)
		tb.must(tb.s.EnsurePartitions(ctx, start))
		for _, id := range all {
			tb.put(id, ramp(start.Add(-time.Hour), time.Second, 300)...)
			tb.put(id, ramp(start, time.Second, 1024)...)
			tb.put(id, ramp(start.Add(20*time.Minute), time.Second, 10)...)
		}
	}
	tb.put(all[1], ramp(now.AddDate(-9, 0, 0), time.Second, 1)...) // in the default partition
	tb.compact(now)
	for _, id := range all {
		tb.check(id)
	}

	lost, err := tb.s.lost(ctx, now, func(r *devices.Retention, _ map[devices.ID][]devices.GroupPath) { r.Groups["plant2"] = 3 })
	// Of d 55, 50 … 5 days ago with the hour before; today's hour before, too, is younger than three days.
	if err != nil || lost.Samples != 11*1334 || lost.Bytes < 22*rowBytes || lost.Oldest != now.Truncate(24*time.Hour).AddDate(0, 0, -55).Add(-time.Hour).UnixMilli() {
		t.Errorf("lost %+v, %v", lost, err)
	}
	if lost, err = tb.s.LostByRetention(ctx, "plant1", new(11)); err != nil || lost.Samples != 0 {
		t.Errorf("lost by a longer one: %+v, %v", lost, err)
	}

	tables := tb.count(`select count(*) from pg_inherits where inhparent = 'history_packed'::regclass`)
	tb.must(tb.s.Retain(ctx, now))
	for i, id := range all {
		if keeps := want[ids[i]]; keeps != devices.Forever {
			tb.forget(id, now.Truncate(24*time.Hour).AddDate(0, 0, -keeps))
		}
		tb.check(id)
	}
	if n := tb.count(`select count(*) from pg_inherits where inhparent = 'history_packed'::regclass`); n != tables {
		t.Errorf("a partition was dropped although some device's samples stay for ever")
	}

	tb.exec(`update device_group set retention_days = 20 where path = 'plant2'`)
	tb.must(tb.s.Retain(ctx, now))
	for i, id := range all {
		if ids[i] == "d" {
			tb.forget(id, now.Truncate(24*time.Hour).AddDate(0, 0, -20))
		}
		tb.check(id)
	}
	// 30 days ago was a Wednesday: what ended on the Monday before is gone.
	rows, err := tb.s.partitions(ctx)
	tb.must(err)
	if slices.ContainsFunc(rows, func(p partition) bool { return !p.other && p.hi <= cutoff(now, 30) }) {
		t.Errorf("partitions left: %v", rows)
	}
	tb.put(all[0], ramp(now.AddDate(0, 0, -50), time.Second, 10)...) // late: stays until the next day
	tb.must(tb.s.EnsurePartitions(ctx, now.AddDate(0, 0, -50)))
	tb.must(tb.s.Retain(ctx, now))
	tb.check(all[0])
	tb.must(tb.s.Retain(ctx, now.AddDate(0, 0, 1)))
	tb.forget(all[0], now.Truncate(24*time.Hour).AddDate(0, 0, -29))
	tb.check(all[0])
}

// After retention, and with late samples after it, queries find what it left, in rollups, rows and samples alike.
func TestQueriesAfterRetention(t *testing.T) {
	f := newFixture(t, Config{Retention: 5 * 24 * time.Hour})
	serial := 0
	rapid.Check(t, func(t *rapid.T) {
		serial++
		w, seq := f.newWriter()
		f.seq = seq
		now := time.Now()
		m := model{}
		var ids []devices.SeriesID
		for i := range 2 {
			ids = append(ids, f.series("a", fmt.Sprintf("r%d.%d", serial, i), devices.Float))
		}
		first := now.Truncate(24*time.Hour).AddDate(0, 0, -8).UnixMilli()
		retain := func() {
			if err := f.Retain(context.Background(), now); err != nil {
				t.Fatalf("retain: %v", err)
			}
			for _, of := range m {
				for at := range of {
					if at < cutoff(now, 5) {
						delete(of, at)
					}
				}
			}
		}
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			var batch []devices.Sample
			for range rapid.IntRange(1, 8).Draw(t, "parts") {
				id := rapid.SampledFrom(ids).Draw(t, "of")
				at := first + rapid.Int64Range(0, 6*24).Draw(t, "hour")*hourMs + rapid.Int64Range(0, hourMs).Draw(t, "within")
				every := rapid.SampledFrom([]int64{1000, 5000, 600_000}).Draw(t, "every")
				for i := range rapid.IntRange(1, 700).Draw(t, "n") {
					batch = append(batch, number(id, at+int64(i)*every, float64(i%100)))
				}
			}
			m.take(batch...)
			f.send(w, batch...)
			f.flush(w)
			if rapid.Bool().Draw(t, "compact") {
				if err := f.Compact(context.Background(), now); err != nil {
					t.Fatalf("compact: %v", err)
				}
			}
			if rapid.Bool().Draw(t, "retain") {
				f.upkeep.retained.Store(0) // late samples wait for the next day otherwise
				retain()
			}
			for range 3 {
				q := devices.HistoryQuery{Series: ids, Buckets: rapid.SampledFrom([]int{1, 5, 60, 1000}).Draw(t, "buckets")}
				q.From = first + rapid.Int64Range(-dayMs, 9*dayMs).Draw(t, "from")
				q.To = q.From + rapid.SampledFrom([]int64{hourMs, dayMs, 3 * dayMs, 12 * dayMs}).Draw(t, "length")
				m.check(t, f.Store, q)
			}
		}
		w.Halt()
	})
}

func TestPurge(t *testing.T) {
	tb := newTable(t)
	ctx := t.Context()
	gone, stays := tb.series("gone", "m"), tb.series("stays", "m")
	for _, id := range []int32{gone, stays} {
		for h := range 50 {
			for i := range 60 {
				tb.put(id, ramp(day.Add(time.Duration(h)*time.Hour+time.Duration(i)*time.Minute), time.Second, 30)...)
			}
		}
	}
	tb.compact(day.Add(10 * time.Hour))
	tb.exec(`update history_generation set n = n + 1`)
	tb.exec(`delete from history_series where id = $1`, gone)
	tb.exec(`insert into history_doomed values ($1)`, gone)
	tb.compact(day.Add(20 * time.Hour)) // leaves them alone
	anew := tb.series("gone", "m")
	tb.must(tb.s.Purge(ctx))
	clear(tb.want[gone])
	for _, id := range []int32{gone, stays, anew} {
		tb.check(id)
	}
	if n := tb.count(`select count(*) from history_doomed`) + tb.count(`select count(*) from history_dirty where series = $1`, gone); n != 0 {
		t.Errorf("%d rows left of what is gone", n)
	}
}

func TestSpace(t *testing.T) {
	tb := newTable(t)
	ctx := t.Context()
	a, b := tb.series("a", "m"), tb.series("b", "m")
	tb.put(a, ramp(day, time.Second, 1000)...)
	tb.put(b, ramp(day.Add(time.Hour), time.Second, 10)...)
	sp, err := tb.s.Space(ctx)
	tb.must(err)
	if got := sp.Of("a"); got.Samples != 1000 || got.Bytes <= rowBytes || got.Oldest != day.UnixMilli() {
		t.Errorf("a takes %+v", got)
	}
	if got := sp.Of("a", "b", "c"); got != sp.Total || got.Samples != 1010 || sp.Disk < got.Bytes {
		t.Errorf("all take %+v of %d, in sum %+v", sp.Total, sp.Disk, got)
	}
	tb.put(b, ramp(day.Add(2*time.Hour), time.Second, 10)...)
	if again, err := tb.s.Space(ctx); err != nil || again != sp {
		t.Errorf("measured again at once: %v", err)
	}
	soon(t, "the database tells that a table has changed", func() bool {
		sp, err := tb.s.MeasureSpace(ctx)
		tb.must(err)
		return sp.Total.Samples == 1020
	})
}
