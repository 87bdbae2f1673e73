package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history"
)

const rowTable = `create table sample_row (series int not null, time timestamptz not null, value float8 not null)`

// month fills history and a table of rows with the same samples, and asks both the same questions.
func (b *bench) month(ctx context.Context, days, series int) error {
	began := time.Now()
	ids := make([]devices.SeriesID, series)
	last := make([]float64, series)
	for i := range ids {
		var err error
		if ids[i], err = b.series(fmt.Sprintf("m%d", i), devices.Float); err != nil {
			return err
		}
		last[i] = 20 + float64(i)
	}
	// Of a table without log and with its index made at the end, which only helps it.
	if err := b.exec(ctx, `alter system set max_wal_size = '16GB'`, `select pg_reload_conf()`, rowTable, `alter table sample_row set unlogged`); err != nil {
		return err
	}
	end := time.Now().Add(-2*time.Hour).UnixMilli() / 3_600_000 * 3_600_000
	start := end - int64(days)*86_400_000
	r := rand.New(rand.NewPCG(1, 2))
	batch := make([]devices.Sample, 0, series*3600)
	for hour := start; hour < end; hour += 3_600_000 {
		batch = batch[:0]
		for t := hour; t < hour+3_600_000; t += 1000 {
			for i := range ids {
				last[i] = smooth(0, last[i], r)
				batch = append(batch, devices.Sample{Series: ids[i], At: t, Value: last[i]})
			}
		}
		if err := b.deliver(ctx, batch); err != nil {
			return err
		}
		if _, err := b.pool.CopyFrom(ctx, pgx.Identifier{"sample_row"}, []string{"series", "time", "value"}, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
			return []any{int32(batch[i].Series), time.UnixMilli(batch[i].At), batch[i].Value}, nil
		})); err != nil {
			return err
		}
		if n := (hour - start) / 3_600_000; n%24 == 23 {
			fmt.Fprintf(os.Stderr, "day %d of %d, %.0f s\n", n/24+1, days, since(began))
			if err := b.store.Compact(ctx, time.Now()); err != nil {
				return err
			}
		}
	}
	if err := b.store.Compact(ctx, time.Now()); err != nil {
		return err
	}
	if err := b.exec(ctx, `set maintenance_work_mem = '2GB'; create index on sample_row (series, time)`, `vacuum analyze`, `checkpoint`); err != nil {
		return err
	}
	rows, err := b.number(ctx, `select reltuples from pg_class where relname = 'sample_row'`)
	if err != nil {
		return err
	}
	size, err := b.number(ctx, `select pg_total_relation_size('sample_row') / 1e9`)
	if err != nil {
		return err
	}
	chunks, err := b.number(ctx, `select sum(pg_total_relation_size(relid)) / 1e9 from pg_partition_tree('history_chunk') where isleaf`)
	if err != nil {
		return err
	}
	fmt.Printf("%.0f million samples; rows %.2f GB, chunks %.3f GB; made in %.0f s\n\n", rows/1e6, size, chunks, since(began))
	fmt.Println("| question | | history, ms | rows, ms | rows/history |")
	fmt.Println("|---|---|---|---|---|")
	questions := []struct {
		name string
		q    func(n int) devices.HistoryQuery
	}{
		{fmt.Sprintf("%d days of one series", days), func(n int) devices.HistoryQuery {
			return devices.HistoryQuery{Series: ids[n%series : n%series+1], From: start, To: end, Buckets: 1000}
		}},
		{"a day of 20 series", func(n int) devices.HistoryQuery {
			from := start + int64(n%days)*86_400_000
			at := (n * 20) % max(1, series-19)
			return devices.HistoryQuery{Series: ids[at:min(at+20, series)], From: from + 1_234_567, To: from + 1_234_567 + 86_400_000, Buckets: 1000}
		}},
	}
	for k, question := range questions {
		for _, cold := range []bool{true, false} {
			var ours, theirs []float64
			for n := range 5 {
				q := question.q(3 + 7*n + k)
				if cold {
					if err := b.chill(ctx); err != nil {
						return err
					}
				}
				t, want, err := b.ask(ctx, q, !cold)
				if err != nil {
					return err
				}
				ours = append(ours, t)
				if cold {
					if err := b.chill(ctx); err != nil {
						return err
					}
				}
				t, got, err := b.askRows(ctx, q, !cold)
				if err != nil {
					return err
				}
				theirs = append(theirs, t)
				if got != want {
					return fmt.Errorf("%s: the answers differ: %+v of chunks, %+v of rows", question.name, want, got)
				}
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			name := "warm"
			if cold {
				name = "cold"
			}
			fmt.Printf("| %s | %s | %.1f | %.1f | %.0f |\n", question.name, name, ours[2], theirs[2], theirs[2]/ours[2])
		}
	}
	return nil
}

// chill starts the server anew with nothing of its files in memory.
func (b *bench) chill(ctx context.Context) error {
	b.shut()
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) // not everywhere allowed: then the system's cache stays warm for both
	if err := b.open(ctx); err != nil {
		return err
	}
	b.record(ctx)
	return b.pool.Ping(ctx)
}

// An answer is what both must agree on.
type answer struct {
	buckets, samples int64
	min, max         float64
}

func (a *answer) add(n int64, low, high float64) {
	if a.buckets == 0 {
		a.min, a.max = math.Inf(1), math.Inf(-1)
	}
	a.buckets++
	a.samples += n
	a.min, a.max = min(a.min, low), max(a.max, high)
}

// ask asks history; warm asks twice and counts the second time.
func (b *bench) ask(ctx context.Context, q devices.HistoryQuery, warm bool) (ms float64, a answer, err error) {
	began := time.Now()
	err = b.store.Buckets(ctx, q, func(_ devices.SeriesID, buckets []devices.Bucket) error {
		for i := range buckets {
			a.add(buckets[i].Count, buckets[i].Min, buckets[i].Max)
		}
		return nil
	})
	ms = since(began) * 1000
	if warm && err == nil {
		return b.ask(ctx, q, false)
	}
	return ms, a, err
}

func (b *bench) askRows(ctx context.Context, q devices.HistoryQuery, warm bool) (ms float64, a answer, err error) {
	ids := make([]int32, len(q.Series))
	for i, id := range q.Series {
		ids[i] = int32(id)
	}
	began := time.Now()
	rows, _ := b.pool.Query(ctx, `select series, floor(extract(epoch from time)::float8 * 1000 / $1) as bucket, min(value), max(value), count(*) from sample_row
		where series = any($2) and time >= $3 and time < $4 group by 1, 2 order by 1, 2`, float64(history.BucketWidth(q)), ids, time.UnixMilli(q.From), time.UnixMilli(q.To))
	var series int32
	var bucket, low, high float64
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&series, &bucket, &low, &high, &n}, func() error {
		a.add(n, low, high)
		return nil
	})
	ms = since(began) * 1000
	if warm && err == nil {
		return b.askRows(ctx, q, false)
	}
	return ms, a, err
}
