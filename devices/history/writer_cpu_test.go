package history

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/migrations/pgtest"
)

// backendCPU is the time that the connection's process of PostgreSQL has worked.
func backendCPU(b *testing.B, pool *pgxpool.Pool) time.Duration {
	b.Helper()
	var pid int
	if err := pool.QueryRow(context.Background(), "select pg_backend_pid()").Scan(&pid); err != nil {
		b.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid)) // nanoseconds on a processor, and two more numbers
	if err != nil {
		b.Fatal(err)
	}
	on, _, _ := strings.Cut(string(stat), " ")
	ns, err := strconv.ParseInt(on, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}

// What PostgreSQL works for a sample, recorded in chunks by the writer and as a row of a table with its index by COPY: 200 series of 10 Hz, as they
// are written every ten seconds.
func BenchmarkPostgresCPU(b *testing.B) {
	conf, err := pgxpool.ParseConfig(pgtest.URL(b))
	if err != nil {
		b.Fatal(err)
	}
	conf.MaxConns = 1 // whose time is taken
	pool, err := pgxpool.NewWithConfig(context.Background(), conf)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	f := fixtureOn(b, pool, Config{})
	w, _ := f.newWriter()
	f.exec("create table sample_row (series int not null, at bigint not null, value float8 not null, primary key (series, at))")
	const series, each = 200, 100
	var ids []devices.SeriesID
	for n := range series {
		ids = append(ids, f.series("a", fmt.Sprintf("m%d", n), devices.Float))
	}
	at := time.Now().UnixMilli() // an hour that goes on need not be noted each time
	batch := make([]devices.Sample, 0, series*each)
	var chunks, rows time.Duration
	samples := 0
	for b.Loop() {
		batch = batch[:0]
		for range each {
			for n, id := range ids {
				x := (uint64(at)*1000 + uint64(n)) * 0x9e3779b97f4a7c15
				batch = append(batch, devices.Sample{Series: id, At: at, Value: float64(2000+(x^x>>32)%100) / 100})
			}
			at += 100
		}
		began := backendCPU(b, pool)
		f.send(w, batch...)
		f.flush(w)
		between := backendCPU(b, pool)
		if _, err := pool.CopyFrom(context.Background(), pgx.Identifier{"sample_row"}, []string{"series", "at", "value"},
			pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
				return []any{int32(batch[i].Series), batch[i].At, batch[i].Value}, nil
			})); err != nil {
			b.Fatal(err)
		}
		chunks, rows, samples = chunks+between-began, rows+backendCPU(b, pool)-between, samples+len(batch)
	}
	b.ReportMetric(float64(chunks.Nanoseconds())/float64(samples), "ns-chunks/sample")
	b.ReportMetric(float64(rows.Nanoseconds())/float64(samples), "ns-rows/sample")
	b.ReportMetric(float64(chunks)/float64(rows), "ratio")
	b.ReportMetric(float64(f.count("select sum(pg_total_relation_size(relid)) from pg_partition_tree('history_chunk')"))/float64(samples), "B-chunks/sample")
	b.ReportMetric(float64(f.count("select pg_total_relation_size('sample_row')"))/float64(samples), "B-rows/sample")
}
