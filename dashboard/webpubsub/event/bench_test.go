package event

import (
	"io"
	"net/http"
	"testing"

	"millrace/fanout/hub"
)

// A round trip of 2 KB to a handler on this machine, over HTTP/1.1.
func BenchmarkUser(b *testing.B) {
	s := newEcho(b)
	d := New(Config{}, one(s), nil, nil, nil, quiet())
	defer d.client.CloseIdleConnections()
	data := hub.Data{Kind: hub.Binary, Bytes: make([]byte, 2048)}
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if a, err := d.User(b.Context(), client("c", 1), "echo", data, nil); err != nil {
				b.Error(err)
			} else if a.Data == nil || len(a.Data.Bytes) != 2048 {
				b.Errorf("%d bytes", len(a.Data.Bytes))
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func newEcho(b *testing.B) string {
	return server(b, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		p, _ := io.ReadAll(r.Body)
		_, _ = w.Write(p)
	})
}
