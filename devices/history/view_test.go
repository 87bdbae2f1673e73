package history

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"millrace/devices"
	"millrace/devices/history/chunk"
)

// What Go packs, SQL unpacks to the bit.
func TestSQLDecodesChunks(t *testing.T) {
	f := newFixture(t, Config{})
	float := rapid.Float64().Filter(devices.Finite)
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.SampledFrom([]devices.Kind{devices.Float, devices.Int, devices.Bool, devices.String, devices.Location}).Draw(t, "kind")
		n := rapid.IntRange(1, 60).Draw(t, "n")
		c := chunk.Columns{}
		at := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "start")
		decimals := math.Pow(10, float64(rapid.IntRange(0, 15).Draw(t, "decimals")))
		shape := rapid.IntRange(0, 4).Draw(t, "shape")
		value := func(i int) float64 {
			switch shape {
			case 0:
				return float.Draw(t, "any")
			case 1:
				return math.Round(rapid.Float64Range(-1e4, 1e4).Draw(t, "v")*decimals) / decimals
			case 2:
				return float64(i / 9)
			case 3:
				return rapid.SampledFrom([]float64{0, math.Copysign(0, -1), math.SmallestNonzeroFloat64, math.MaxFloat64, 1 << 53, 1. / 3, 2.2250738585072014e-308}).Draw(t, "odd")
			}
			return rapid.Float64Range(0, 100).Draw(t, "noise")
		}
		for i := range n {
			c.Times = append(c.Times, at)
			at += rapid.OneOf(rapid.Just[int64](100), rapid.Int64Range(1, 1<<40)).Draw(t, "step")
			v := 0.0
			if k == devices.String {
				c.Texts = append(c.Texts, rapid.SampledFrom([]string{"on", "off", "gestört", ""}).Draw(t, "text"))
			} else {
				v = value(i)
			}
			c.Values = append(c.Values, v)
			if k == devices.Location {
				c.Lons = append(c.Lons, value(i+1))
			}
		}
		if rapid.Bool().Draw(t, "qualities") {
			for range n {
				c.Quality = append(c.Quality, devices.Quality(rapid.IntRange(0, 3).Draw(t, "quality")))
			}
		}
		data := chunk.Append(nil, k, &c)
		rows, _ := f.pool.Query(f.Context(), `select * from history_decode($1, $2, $3, $4)`, data, int16(k), c.Times[0], n)
		var got chunk.Columns
		var when int64
		var v, lon *float64
		var text *string
		var q int16
		if _, err := pgx.ForEachRow(rows, []any{&when, &v, &lon, &text, &q}, func() error {
			got.Times = append(got.Times, when)
			if v != nil {
				got.Values = append(got.Values, *v)
			}
			if lon != nil {
				got.Lons = append(got.Lons, *lon)
			}
			if text != nil {
				got.Texts = append(got.Texts, *text)
			}
			got.Quality = append(got.Quality, devices.Quality(q))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if k == devices.String {
			c.Values = nil
		}
		if len(c.Quality) == 0 {
			c.Quality = make([]devices.Quality, n)
		}
		bits := func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }
		if !slices.Equal(got.Times, c.Times) || !slices.EqualFunc(got.Values, c.Values, bits) || !slices.EqualFunc(got.Lons, c.Lons, bits) ||
			!slices.Equal(got.Texts, c.Texts) || !slices.Equal(got.Quality, c.Quality) {
			t.Fatalf("got %v\nwant %v", got, c)
		}
	})
}

// The view and the function give each sample once, the last received, and what Grafana's PostgreSQL source asks gives the right rows.
func TestViewOfSamples(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	temp, state := f.series("a", "temp", devices.Float), f.series("a", "state", devices.String)
	start := time.Now().Add(-3*time.Hour).UnixMilli() / hourMs * hourMs
	m := model{}
	send := func(samples ...devices.Sample) {
		m.take(samples...)
		f.send(w, samples...)
		f.flush(w)
	}
	for part := range 3 { // the third comes late over the first two and replaces some of them
		var batch []devices.Sample
		for i := range 300 {
			at := start + int64(part*300+i)*1000
			if part == 2 {
				at = start + int64(i)*1500
			}
			batch = append(batch, devices.Sample{Series: temp, At: at, Value: float64(part*1000 + i)})
		}
		send(batch...)
	}
	send(devices.Sample{Series: state, Kind: devices.String, At: start + 5, Text: "running", Quality: devices.Uncertain})
	check := func() {
		t.Helper()
		want := m.between(temp, start, start+hourMs)
		if n := f.count(`select count(*) from samples where device = 'a' and metric = 'temp'`); n != len(want) {
			t.Errorf("the view has %d samples, want %d", n, len(want))
		}
		rows, _ := f.pool.Query(t.Context(), `select time, value from samples('a', 'temp', $1, $2)`, time.UnixMilli(start+100_000), time.UnixMilli(start+400_000))
		type one struct {
			Time  time.Time
			Value float64
		}
		got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[one])
		if err != nil {
			t.Fatal(err)
		}
		want = m.between(temp, start+100_000, start+400_000)
		if len(got) != len(want) {
			t.Fatalf("the function gives %d samples, want %d", len(got), len(want))
		}
		for i, s := range want {
			if got[i].Time.UnixMilli() != s.At || got[i].Value != s.Value {
				t.Fatalf("sample %d is %v, want %v", i, got[i], s)
			}
		}
		// As Grafana writes $__timeGroup(time, '1m') and $__timeFilter(time).
		sql := `select floor(extract(epoch from time) / 60) * 60 as "time", min(value), max(value), count(*) from samples
			where device = 'a' and metric = 'temp' and time between $1 and $2 group by 1 order by 1`
		if pgxRows, err := f.pool.Query(t.Context(), sql, time.UnixMilli(start), time.UnixMilli(start+hourMs-1)); err != nil {
			t.Fatal(err)
		} else {
			type bucket struct {
				T, Min, Max float64
				N           int64
			}
			got, err := pgx.CollectRows(pgxRows, pgx.RowToStructByPos[bucket])
			if err != nil {
				t.Fatal(err)
			}
			buckets := m.buckets(temp, devices.HistoryQuery{From: start, To: start + hourMs, Buckets: 60})
			if len(got) != len(buckets) {
				t.Fatalf("%d minutes, want %d", len(got), len(buckets))
			}
			for i, b := range buckets {
				if g := got[i]; int64(g.T)*1000 != b.T || g.Min != b.Min || g.Max != b.Max || g.N != b.Count {
					t.Errorf("minute %d is %v, want %+v", i, g, b)
				}
			}
		}
	}
	check()
	if err := f.Compact(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	check()
	var got string
	if err := f.pool.QueryRow(t.Context(), `select format('%s %s %s %s %s %s', metric, extract(epoch from time)::numeric * 1000 - $1, value, text, kind, quality) from samples where device = 'a' and metric = 'state'`, start).Scan(&got); err != nil ||
		got != fmt.Sprintf("state %d.000000  running string uncertain", 5) {
		t.Errorf("got %q, %v", got, err)
	}
}
