package history

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/history/chunk"
)

// Long chunks of whatever way to pack them come back to the bit, also those that are stored out of line.
func TestSQLDecodesLongChunks(t *testing.T) {
	f := newFixture(t, Config{})
	r := rand.New(rand.NewPCG(3, 4))
	walk := 0
	conn, err := f.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "create table stored (kind smallint, start bigint, n int, data bytea); alter table stored alter data set storage external"); err != nil {
		t.Fatal(err)
	}
	try := func(name string, n int, step, value func(i int) float64) {
		t.Helper()
		c := chunk.Columns{}
		at := int64(1_760_000_400_000)
		for i := range n {
			c.Times, c.Values = append(c.Times, at), append(c.Values, value(i))
			at += int64(step(i))
		}
		data := chunk.Append(nil, devices.Float, &c)
		if _, err := conn.Exec(t.Context(), "truncate stored"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "insert into stored values (0, $1, $2, $3)", c.Times[0], n, data); err != nil {
			t.Fatal(err)
		}
		rows, _ := conn.Query(t.Context(), "select d.at, d.value from stored s, history_decode(s.data, s.kind, s.start, s.n) d")
		var got chunk.Columns
		var when int64
		var v float64
		if _, err := pgx.ForEachRow(rows, []any{&when, &v}, func() error {
			got.Times, got.Values = append(got.Times, when), append(got.Values, v)
			return nil
		}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(got.Times, c.Times) || !slices.EqualFunc(got.Values, c.Values, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }) {
			t.Errorf("%s: %d samples in %d bytes come back as others", name, n, len(data))
		}
	}
	regular := func(int) float64 { return 100 }
	jitter := func(int) float64 { return float64(91 + r.IntN(19)) }
	gaps := func(i int) float64 { return []float64{20, 20, 20, 20, 3_600_000}[i/900%5] }
	try("noise", 4096, regular, func(int) float64 { return r.NormFloat64() * 1e3 })
	try("all bits", 4096, jitter, func(int) float64 { return math.Float64frombits(r.Uint64() &^ (1 << 62)) })
	try("walk", 4096, jitter, func(int) float64 { walk += r.IntN(9) - 4; return float64(walk) / 100 })
	try("wide walk", 4096, gaps, func(int) float64 { walk += r.IntN(90000) - 45000; return float64(walk) / 1000 })
	try("wider walk", 600, gaps, func(int) float64 { walk += r.IntN(9e9) - 4.5e9; return float64(walk) })
	try("outliers", 600, gaps, func(i int) float64 { return float64(i%60/59) * 1e9 })
	try("states", 4096, regular, func(i int) float64 { return float64(i / 700 % 3) })
	try("acceleration", 4096, func(i int) float64 { return float64(i + 1) }, func(i int) float64 { return float64(i*i) / 10 })
	try("numbers below the least normal one", 600, regular, func(i int) float64 { return float64(i) * math.SmallestNonzeroFloat64 })
}

// Samples of many chunks that overlap each other and of others that touch them are there once each; the function reads only chunks of its range, by the index.
func TestSamplesWhereChunksOverlap(t *testing.T) {
	f := newFixture(t, Config{})
	f.exec("insert into history_series (device, metric) values ('d', 'm'), ('d', 'other')")
	r := rand.New(rand.NewPCG(5, 6))
	const began = 1_760_000_400_000
	want := map[int64]float64{}
	for flush := range 60 {
		c := chunk.Columns{}
		at := int64(began + r.IntN(600)*1000)
		for range 1 + r.IntN(20) {
			v := float64(flush) + float64(at%7)/10
			c.Times, c.Values = append(c.Times, at), append(c.Values, v)
			want[at] = v
			at += int64(1+r.IntN(2)) * 1000
		}
		s := chunk.Summarize(devices.Float, &c)
		f.exec(`insert into history_chunk (start, flush, first, last, min, max, sum, series, span, n, kind, quality, fresh, data)
			values ($1, $2, 0, 0, 0, 0, 0, (select id from history_series where metric = 'm'), $3, $4, 0, 0, $5, $6)`,
			s.Start, flush, s.Span, s.N, flush%3 > 0, chunk.Append(nil, devices.Float, &c))
	}
	check := func(from, to int64, sql string, args ...any) {
		t.Helper()
		rows, _ := f.pool.Query(t.Context(), sql, args...)
		n, last := 0, int64(math.MinInt64)
		var at time.Time
		var v float64
		if _, err := pgx.ForEachRow(rows, []any{&at, &v}, func() error {
			ms := at.UnixMilli()
			if x, ok := want[ms]; !ok || x != v || ms <= last || ms < from || ms >= to {
				t.Errorf("%d is %v after %d, want %v", ms, v, last, want[ms])
			}
			n, last = n+1, ms
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for ms := range want {
			if ms >= from && ms < to {
				n--
			}
		}
		if n != 0 {
			t.Errorf("%d samples too many or too few", n)
		}
	}
	check(math.MinInt64, math.MaxInt64, "select time, value from samples where device = 'd' and metric = 'm' order by time")
	for range 20 {
		from := int64(began + r.IntN(600_000))
		to := from + int64(r.IntN(300_000))
		check(from, to, "select time, value from samples('d', 'm', $1, $2)", time.UnixMilli(from), time.UnixMilli(to))
	}
	check(math.MinInt64, math.MaxInt64, "select time, value from samples('d', 'm', '-infinity', 'infinity')")
	conn, err := f.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	explain := func(sql, condition string) {
		t.Helper()
		rows, _ := conn.Query(t.Context(), "explain (costs off) "+sql)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Index Cond: ("+condition) {
			t.Errorf("%s does not find chunks by index:\n%s", sql, plan)
		}
	}
	if _, err := conn.Exec(t.Context(), "set enable_seqscan = off; set enable_bitmapscan = off"); err != nil { // they are fine for tables as small as these
		t.Fatal(err)
	}
	explain("select * from samples('d', 'm', now() - interval '1 hour', now())", "(series = $")
	explain("select * from samples where device = 'd' and metric = 'm'", "series = s")
}
