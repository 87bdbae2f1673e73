package history

import (
	"sync"
	"testing"
	"time"

	"millrace/devices"
)

func TestWeekOf(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		at, err := time.Parse(time.RFC3339, in)
		if err != nil {
			t.Fatal(err)
		}
		if got := partitionName(weekOf(at)); got != "history_chunk_"+want {
			t.Errorf("%s is in %s", in, got)
		}
	}
	f("2026-11-23T00:00:00Z", "20261123")
	f("2026-11-22T23:59:59Z", "20261116")
	f("2026-11-29T23:59:59.999Z", "20261123")
	f("2026-11-23T00:30:00+01:00", "20261116")
	f("1970-01-01T00:00:00Z", "19691229")
	f("1960-02-29T12:00:00Z", "19600229")
}

// Each sample is found, and those of a week for which there can be one lie in its partition.
func TestPartitions(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	now := time.Now()
	partition := func(at time.Time) (name string) {
		t.Helper()
		if err := f.pool.QueryRow(t.Context(), "select tableoid::regclass::text from history_chunk where start = $1", at.UnixMilli()).Scan(&name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	lies := func(at time.Time, want string) {
		t.Helper()
		f.send(w, number(id, at.UnixMilli(), 1))
		f.flush(w)
		f.exec("update history_chunk set fresh = false where fresh") // as compaction does
		if got := partition(at); got != want {
			t.Errorf("a sample of %v lies in %s, not in %s", at, got, want)
		}
	}
	if n := f.count("select count(*) from pg_inherits where inhparent = 'history_packed'::regclass"); n != 4 {
		t.Errorf("%d partitions from the start, not the default, this week's and two more", n)
	}
	lies(now, partitionName(weekOf(now)))
	old := now.Add(-100 * 24 * time.Hour)
	lies(old, partitionName(weekOf(old)))
	lies(now.Add(-401*24*time.Hour), "history_chunk_other")
	lies(time.UnixMilli(-5), "history_chunk_other")
	// Dropped by retention: what comes first is in the default partition, while we believe that there is one, and moves.
	lies(old.Add(time.Second), partitionName(weekOf(old)))
	f.exec("drop table " + partitionName(weekOf(old)))
	lies(old.Add(2*time.Second), "history_chunk_other")
	f.weeks.asked = time.Time{}
	lies(old.Add(3*time.Second), partitionName(weekOf(old)))
	if got := partition(old.Add(2 * time.Second)); got != partitionName(weekOf(old)) {
		t.Errorf("what was there before lies in %s", got)
	}
	if n := f.count("select count(*) from history_chunk"); n != 5 {
		t.Errorf("%d chunks", n)
	}
	// A new partition has what the others have.
	if n := f.count(`select count(*) from pg_index where indrelid = $1::regclass`, partitionName(weekOf(old))); n != 1 {
		t.Errorf("%d indexes", n)
	}
	if n := f.count(`select count(*) from pg_attribute where attrelid = $1::regclass and attname = 'data' and attstorage = 'e' and attnotnull`, partitionName(weekOf(old))); n != 1 {
		t.Error("data is not stored as the parent says")
	}
	// Nobody waits for who holds the default partition for long; the writer goes on without.
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), "select from history_chunk_other"); err != nil {
		t.Fatal(err)
	}
	elsewhere := now.Add(-200 * 24 * time.Hour)
	lies(elsewhere, "history_chunk_other")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	lies(elsewhere.Add(time.Second), "history_chunk_other") // for a minute
	f.weeks.failed = time.Time{}
	lies(elsewhere.Add(2*time.Second), partitionName(weekOf(elsewhere)))
}

// Several nodes that make the same partitions at once don't get into each other's way.
func TestPartitionsAtOnce(t *testing.T) {
	f := newFixture(t, Config{})
	var all sync.WaitGroup
	for range 4 {
		s := New(f.pool, f.catalog, Config{}, quiet)
		all.Go(func() {
			for i := range 5 {
				if err := s.EnsurePartitions(t.Context(), time.Now().Add(time.Duration(-i)*week)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
