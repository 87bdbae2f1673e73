package history

import (
	"fmt"
	"runtime"
	"testing"

	"millrace/devices"
)

// Messages as they come from the spine into the database: 1,000 series of 10 Hz and two decimals, flushed every 10 seconds.
func BenchmarkWriter(b *testing.B) {
	f := newFixture(b, Config{})
	w, _ := f.newWriter()
	const series, each = 1000, 100
	batches := make([][]devices.Sample, each)
	for n := range series {
		id := f.series("a", fmt.Sprintf("m%d", n), devices.Float)
		v := int64(n * 100)
		for i := range each {
			v += int64((i*7+n)%9 - 4)
			batches[i] = append(batches[i], devices.Sample{Series: id, At: noon + int64(i)*100, Value: float64(v) / 100})
		}
	}
	seq, rounds := uint64(0), int64(0)
	round := func() {
		for i := range batches {
			for j := range batches[i] {
				batches[i][j].At += each * 100
			}
			seq++
			w.Deliver(seq, batches[i])
		}
		f.flush(w)
		rounds++
	}
	round()
	before := w.Stats()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	rounds = 0
	for b.Loop() {
		round()
	}
	runtime.ReadMemStats(&m1)
	st := w.Stats()
	samples := float64(st.Samples - before.Samples)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/samples, "ns/sample")
	b.ReportMetric(float64((st.Took-before.Took).Nanoseconds())/samples, "ns-flush/sample")
	b.ReportMetric(float64(st.Bytes-before.Bytes)/samples, "B/sample")
	b.ReportMetric(float64(m1.Mallocs-m0.Mallocs)/samples, "allocs/sample")
}

func BenchmarkDeliver(b *testing.B) {
	w := &Writer{store: New(nil, nil, Config{Pending: 1 << 40}, quiet), kick: make(chan struct{}, 1)}
	batch := make([]devices.Sample, 1000)
	for i := range batch {
		batch[i] = devices.Sample{Series: devices.SeriesID(i + 1), Value: 1}
	}
	n := int64(0)
	for b.Loop() {
		n++
		for i := range batch {
			batch[i].At = n
		}
		w.Deliver(uint64(n), batch)
		if n%100 == 0 {
			taken, _ := w.take()
			w.done(taken, nil, 0)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/sample")
}
