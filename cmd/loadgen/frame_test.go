package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"millrace/fanout/wire"
)

// Frames are read as the server's own decoder reads them.
func TestParseFrame(t *testing.T) {
	names, _ := filepath.Glob("../../fanout/wire/testdata/*.bin")
	if len(names) < 5 {
		t.Fatalf("golden frames: %q", names)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := wire.DecodeFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		var f frame
		if err := parseFrame(b, &f); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var samples uint64
		for i, p := range want.Points {
			if f.countWidth > 0 {
				samples += uint64(p.Count)
			}
			if got := f.series(i); got != p.Index {
				t.Errorf("%s: point %d has the index %d, want %d", name, i, got, p.Index)
			}
			if at, ok := f.measured(i); ok && int64(at) != p.T {
				t.Errorf("%s: point %d was measured at %v, want %d", name, i, at, p.T)
			}
			if got := f.max(i); f.above > 0 && math.Abs(got-p.Max) > 1e-6*math.Abs(p.Max) {
				t.Errorf("%s: point %d has the maximum %v, want %v", name, i, got, p.Max)
			}
		}
		if f.from != want.From || f.seq != want.Seq || f.n != len(want.Points) || f.snapshot != want.Snapshot || f.samples() != samples {
			t.Errorf("%s: %+v, %d samples; want %+v, %d samples", name, f, f.samples(), want, samples)
		}
		for n := range min(len(b), 48) {
			if parseFrame(b[:n], &f) == nil {
				t.Errorf("%s: its first %d bytes are taken for a frame", name, n)
			}
		}
	}
}

func TestQuantile(t *testing.T) {
	var h histogram
	f := func(q, want float64) {
		t.Helper()
		if got := h.quantile(q); got != want {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
	f(0.99, 0)
	for ms := range 100 {
		h.add(float64(ms) + 0.5)
	}
	f(0, 1)
	f(0.5, 51)
	f(0.99, 100)
	f(1, 100)
	h.add(-5) // clocks
	f(0, 1)
	var slow histogram
	for range 3 {
		slow.add(overflow)
	}
	h.merge(&slow)
	f(0.5, 52)
	f(0.99, 2001) // more than two seconds
	if h.total != 104 {
		t.Errorf("%d measured", h.total)
	}
}
