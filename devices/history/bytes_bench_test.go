package history

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
)

// What a sample takes on disk with indexes and TOAST: 500 series of 10 Hz that wander by some hundredths, in fresh chunks of 60, compacted to
// chunks of 600, and as rows of a table with its index.
func BenchmarkBytes(b *testing.B) {
	f := newFixture(b, Config{})
	w, _ := f.newWriter()
	const series, each, flush = 500, 600, 60
	r := rand.New(rand.NewPCG(1, 2))
	var ids []devices.SeriesID
	last := make([]float64, series)
	for n := range series {
		ids = append(ids, f.series("a", fmt.Sprintf("m%d", n), devices.Float))
		last[n] = 2000
	}
	f.exec("create table sample_row (series int not null, time timestamptz not null, value float8 not null)")
	f.exec("create index on sample_row (series, time)")
	began := time.Now().Add(-3*time.Hour).UnixMilli() / hourMs * hourMs
	size := func(partitions string) float64 {
		return float64(f.count("select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree($1::text::regclass) where isleaf and pg_relation_size(relid) > 0", partitions)) / (series * each)
	}
	var fresh, packed, rows float64
	for b.Loop() {
		f.exec("truncate history_chunk, history_dirty, history_hour, sample_row")
		for from := 0; from < each; from += flush {
			var batch []devices.Sample
			for i := from; i < from+flush; i++ {
				for n, id := range ids {
					last[n] = math.Round(last[n] + r.NormFloat64()*3)
					batch = append(batch, devices.Sample{Series: id, At: began + int64(i)*100, Value: last[n] / 100})
				}
			}
			f.send(w, batch...)
			f.flush(w)
			if _, err := f.pool.CopyFrom(context.Background(), pgx.Identifier{"sample_row"}, []string{"series", "time", "value"}, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
				return []any{int32(batch[i].Series), time.UnixMilli(batch[i].At), batch[i].Value}, nil
			})); err != nil {
				b.Fatal(err)
			}
		}
		fresh = size("history_fresh")
		rows = float64(f.count("select pg_total_relation_size('sample_row')")) / (series * each)
		if err := f.Compact(context.Background(), time.Now().Add(48*time.Hour)); err != nil { // a day with so few is packed when it is over
			b.Fatal(err)
		}
		if n := f.count("select count(*) from history_chunk where n = $1 and not fresh", each); n != series {
			b.Fatalf("%d chunks of %d samples", n, each)
		}
		packed = size("history_packed")
	}
	b.ReportMetric(fresh, "B-fresh/sample")
	b.ReportMetric(packed, "B-compacted/sample")
	b.ReportMetric(rows, "B-row/sample")
	b.ReportMetric(packed/rows, "ratio")
}
