package history

import (
	"math"
	"testing"
	"time"

	"millrace/devices"
)

// A day of one series of 1 Hz, compacted, in buckets narrower than its chunks: nothing but data answers it.
func BenchmarkBuckets(b *testing.B) {
	f := newFixture(b, Config{})
	id := f.series("a", "temp", devices.Float)
	w, _ := f.newWriter()
	start := time.Now().Add(-30*time.Hour).UnixMilli() / hourMs * hourMs
	v, seed := 20.0, uint64(1)
	for h := range int64(24) {
		var batch []devices.Sample
		for i := range int64(3600) {
			seed = seed*6364136223846793005 + 1442695040888963407
			v = math.Round(v*100+float64(int(seed>>60))-7.5) / 100
			batch = append(batch, devices.Sample{Series: id, At: start + h*hourMs + i*1000, Value: v})
		}
		f.send(w, batch...)
		f.flush(w)
	}
	if err := f.Compact(b.Context(), time.Now()); err != nil {
		b.Fatal(err)
	}
	q := devices.HistoryQuery{Series: []devices.SeriesID{id}, From: start, To: start + 24*hourMs, Buckets: 1000}
	for b.Loop() {
		n := int64(0)
		if err := f.Buckets(b.Context(), q, func(_ devices.SeriesID, buckets []devices.Bucket) error {
			for i := range buckets {
				n += buckets[i].Count
			}
			return nil
		}); err != nil || n != 86_400 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/86_400, "ns/sample")
}
