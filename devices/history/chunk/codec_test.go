package chunk

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"millrace/devices"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// same reports whether two columns hold the same to the bit.
func same(t testing.TB, got, want *Columns) {
	t.Helper()
	bits := func(values []float64) []uint64 {
		out := make([]uint64, len(values))
		for i, v := range values {
			out[i] = math.Float64bits(v)
		}
		return out
	}
	if !slices.Equal(got.Times, want.Times) {
		t.Fatalf("times are %v, want %v", got.Times, want.Times)
	}
	if !slices.Equal(bits(got.Values), bits(want.Values)) {
		t.Fatalf("values are %v, want %v", got.Values, want.Values)
	}
	if !slices.Equal(bits(got.Lons), bits(want.Lons)) || !slices.Equal(got.Texts, want.Texts) {
		t.Fatalf("got %v %v, want %v %v", got.Lons, got.Texts, want.Lons, want.Texts)
	}
	for i := range want.Times {
		var a, b devices.Quality
		if len(got.Quality) > 0 {
			a = got.Quality[i]
		}
		if len(want.Quality) > 0 {
			b = want.Quality[i]
		}
		if a != b {
			t.Fatalf("quality %d is %v, want %v", i, a, b)
		}
	}
}

// columns draws samples of a kind that may look like anything.
func columns(t *rapid.T, k devices.Kind) *Columns {
	n := rapid.IntRange(1, 200).Draw(t, "n")
	value := rapid.Custom(func(t *rapid.T) float64 { return rapid.Float64().Filter(devices.Finite).Draw(t, "v") })
	values := func(label string) []float64 {
		out := make([]float64, n)
		decimals := math.Pow(10, float64(rapid.IntRange(0, 15).Draw(t, label+" decimals")))
		shape := rapid.SampledFrom([]string{"any", "decimals", "walk", "steps", "zeros", "counter", "float32"}).Draw(t, label)
		v := rapid.Float64Range(-1e6, 1e6).Draw(t, label+" start")
		for i := range out {
			switch shape {
			case "any":
				out[i] = value.Draw(t, "any")
			case "decimals":
				out[i] = math.Round(rapid.Float64Range(-1e4, 1e4).Draw(t, "v")*decimals) / decimals
			case "walk":
				v += rapid.Float64Range(-1, 1).Draw(t, "step")
				out[i] = v
			case "steps":
				if rapid.IntRange(0, 9).Draw(t, "step") == 0 {
					v = math.Round(v + 10)
				}
				out[i] = v
			case "zeros":
				out[i] = rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1, math.SmallestNonzeroFloat64, math.MaxFloat64, -math.MaxFloat64, exact, exact - 1, -exact}).Draw(t, "v")
			case "counter":
				v = math.Floor(v) + 7
				out[i] = v
			case "float32":
				out[i] = float64(rapid.Float32().Filter(func(f float32) bool { return devices.Finite(float64(f)) }).Draw(t, "v"))
			}
		}
		return out
	}
	c := &Columns{}
	at := rapid.Int64Range(-1<<60, 1<<60).Draw(t, "start")
	regular := rapid.Bool().Draw(t, "regular")
	for range n {
		c.Times = append(c.Times, at)
		if regular {
			at += 100
		} else {
			at += rapid.OneOf(rapid.Int64Range(1, 50), rapid.Int64Range(1, 1<<40)).Draw(t, "step")
		}
	}
	switch k {
	case devices.String:
		c.Values = make([]float64, n)
		for range n {
			c.Texts = append(c.Texts, rapid.OneOf(rapid.SampledFrom([]string{"", "on", "off"}), rapid.String()).Draw(t, "text"))
		}
	case devices.Location:
		c.Values, c.Lons = values("lat"), values("lon")
	default:
		c.Values = values("values")
	}
	if rapid.Bool().Draw(t, "qualities") {
		for range n {
			c.Quality = append(c.Quality, devices.Quality(rapid.IntRange(0, 3).Draw(t, "quality")))
		}
	}
	return c
}

var kinds = []devices.Kind{devices.Float, devices.Int, devices.Bool, devices.String, devices.Location}

// What is packed comes back to the bit, after what is in the columns already.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.SampledFrom(kinds).Draw(t, "kind")
		want := columns(t, k)
		data := Append(nil, k, want)
		if most := 40 + 31*want.Len(); k != devices.String && len(data) > most {
			t.Fatalf("%d bytes for %d samples", len(data), want.Len())
		}
		got := &Columns{}
		if err := Decode(data, k, want.Times[0], want.Len(), got); err != nil {
			t.Fatal(err)
		}
		equal(t, got, want)
		if err := Decode(data, k, want.Times[0], want.Len(), got); err != nil { // behind itself
			t.Fatal(err)
		}
		twice := &Columns{}
		twice.append(want, 0, want.Len())
		twice.append(want, 0, want.Len())
		equal(t, got, twice)
	})
}

// equal is same for rapid.
func equal(t *rapid.T, got, want *Columns) {
	if fmt.Sprint(normal(got)) != fmt.Sprint(normal(want)) {
		t.Fatalf("got %v, want %v", normal(got), normal(want))
	}
}

// normal tells values by their bits and writes good qualities out.
func normal(c *Columns) (out [5]any) {
	var values, lons []uint64
	for _, v := range c.Values {
		values = append(values, math.Float64bits(v))
	}
	for _, v := range c.Lons {
		lons = append(lons, math.Float64bits(v))
	}
	qualities := c.Quality
	if len(qualities) == 0 {
		qualities = make([]devices.Quality, c.Len())
	}
	return [5]any{c.Times, values, lons, fmt.Sprintf("%q", c.Texts), qualities}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden() {
		f.Add(Append(nil, g.kind, g.columns), byte(g.kind), g.columns.Len())
	}
	f.Fuzz(func(t *testing.T, data []byte, kind byte, n int) {
		k := kinds[int(kind)%len(kinds)]
		c := &Columns{}
		err := Decode(data, k, 1_700_000_000_000, n, c)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || c.Len()+len(c.Values)+len(c.Texts)+len(c.Lons) != 0 {
				t.Fatalf("%v, and %d samples", err, c.Len())
			}
			return
		}
		if c.Len() != n || len(c.Values) != n {
			t.Fatalf("%d samples, want %d", c.Len(), n)
		}
		if slices.ContainsFunc(append(slices.Clone(c.Values), c.Lons...), func(v float64) bool { return v != v }) {
			return // no sample is NaN
		}
		again := &Columns{}
		if err := Decode(Append(nil, k, c), k, c.Times[0], n, again); err != nil {
			t.Fatal(err)
		}
		same(t, again, c)
	})
}

type example struct {
	kind    devices.Kind
	columns *Columns
}

// golden are chunks whose bytes must not change: what is stored must stay readable.
func golden() map[string]example {
	r := rand.New(rand.NewPCG(1, 2))
	build := func(n int, step int64, value func(i int) float64) *Columns {
		c := &Columns{}
		for i := range n {
			c.Times = append(c.Times, 1_700_000_000_000+int64(i)*step)
			c.Values = append(c.Values, value(i))
		}
		return c
	}
	noise := build(60, 20, func(int) float64 { return r.Float64() * 100 })
	jitter := build(60, 100, func(i int) float64 { return math.Round(2000+300*math.Sin(float64(i)/20)) / 100 })
	for i := range jitter.Times {
		jitter.Times[i] += r.Int64N(9)
	}
	quality := build(60, 1000, func(i int) float64 { return float64(i % 2) })
	quality.Quality = make([]devices.Quality, 60)
	quality.Quality[7], quality.Quality[8] = devices.Bad, devices.Uncertain
	texts := build(60, 1000, func(int) float64 { return 0 })
	for i := range 60 {
		texts.Texts = append(texts.Texts, []string{"running", "stopped", "gestört"}[i/25])
	}
	places := build(60, 1000, func(i int) float64 { return 52.5 + float64(i)/1e5 })
	for i := range 60 {
		places.Lons = append(places.Lons, 13.4+float64(i*i)/1e6)
	}
	return map[string]example{
		"noise":    {devices.Float, noise},
		"smooth":   {devices.Float, build(60, 100, func(i int) float64 { return math.Round(2000+300*math.Sin(float64(i)/20)) / 100 })},
		"jitter":   {devices.Float, jitter},
		"constant": {devices.Float, build(60, 100, func(int) float64 { return 21.5 })},
		"counter":  {devices.Int, build(60, 1000, func(i int) float64 { return float64(1000 + 3*i) })},
		"odd":      {devices.Float, build(5, 7, func(i int) float64 { return []float64{math.Copysign(0, -1), 5e-324, 1e308, -1e-300, 1. / 3}[i] })},
		"one":      {devices.Float, build(1, 1, func(int) float64 { return 0.1 })},
		"bool":     {devices.Bool, build(60, 1000, func(i int) float64 { return float64(i / 30) })},
		"quality":  {devices.Int, quality},
		"texts":    {devices.String, texts},
		"places":   {devices.Location, places},
	}
}

func TestGolden(t *testing.T) {
	for name, g := range golden() {
		file := filepath.Join("testdata", name+".chunk")
		data := Append(nil, g.kind, g.columns)
		if *update {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := &Columns{}
		if err := Decode(want, g.kind, g.columns.Times[0], g.columns.Len(), got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		same(t, got, g.columns)
		if !slices.Equal(data, want) {
			t.Errorf("%s is packed in %d bytes that differ from the %d of %s: if that is meant, run with -update", name, len(data), len(want), file)
		}
	}
}

func TestSizes(t *testing.T) {
	f := func(name string, most int) {
		t.Helper()
		g := golden()[name]
		if n := len(Append(nil, g.kind, g.columns)); n > most {
			t.Errorf("%s: %d bytes for %d samples, want %d at most", name, n, g.columns.Len(), most)
		}
	}
	f("noise", 60*8+16)
	f("smooth", 60)
	f("constant", 12)
	f("counter", 14)
	f("bool", 16)
	f("quality", 40)
	f("texts", 50)
}

func TestMergeKeepsTheLater(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		naive := map[int64]float64{}
		var parts []*Columns
		for i := range rapid.IntRange(0, 6).Draw(t, "parts") {
			times := rapid.SliceOfNDistinct(rapid.Int64Range(0, 60), 0, 20, rapid.ID[int64]).Draw(t, "times")
			slices.Sort(times)
			c := &Columns{}
			for _, at := range times {
				v := float64(i)*1000 + float64(at)
				c.Times, c.Values = append(c.Times, at), append(c.Values, v)
				naive[at] = v
			}
			if rapid.Bool().Draw(t, "bad") {
				for range times {
					c.Quality = append(c.Quality, devices.Bad)
				}
			}
			parts = append(parts, c)
		}
		var got Columns
		Merge(&got, parts...)
		if got.Len() != len(naive) || len(got.Values) != len(naive) || len(got.Quality) != 0 && len(got.Quality) != got.Len() {
			t.Fatalf("%d samples, want %d", got.Len(), len(naive))
		}
		for i, at := range got.Times {
			if naive[at] != got.Values[i] || i > 0 && got.Times[i-1] >= at {
				t.Fatalf("%v %v", got.Times, got.Values)
			}
			part := parts[int(got.Values[i])/1000]
			bad := len(part.Quality) > 0
			if bad != (len(got.Quality) > 0 && got.Quality[i] == devices.Bad) {
				t.Fatalf("quality of %d", at)
			}
		}
	})
}

func TestSummarize(t *testing.T) {
	c := &Columns{Times: []int64{10, 20, 50}, Values: []float64{3, -1, 2}, Quality: []devices.Quality{0, devices.Bad, devices.Uncertain}}
	want := Summary{Start: 10, Span: 40, N: 3, First: 3, Last: 2, Min: -1, Max: 3, Sum: 4, Quality: devices.Bad}
	if got := Summarize(devices.Float, c); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestAllocations(t *testing.T) {
	for name, g := range golden() {
		dst := make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(100, func() { dst = Append(dst[:0], g.kind, g.columns) }); n > 0 && !poolDrops {
			t.Errorf("%s: Append allocates %v times", name, n)
		}
		var c Columns
		data := slices.Clone(dst)
		if n := testing.AllocsPerRun(100, func() {
			c.Reset()
			if err := Decode(data, g.kind, g.columns.Times[0], g.columns.Len(), &c); err != nil {
				t.Fatal(err)
			}
		}); n > 0 && !poolDrops && g.kind != devices.String {
			t.Errorf("%s: Decode allocates %v times", name, n)
		}
	}
}

// BenchmarkChunk tells nanoseconds and bytes a sample of what plants send.
func BenchmarkChunk(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	walk := 2000.0
	shapes := []struct {
		name  string
		kind  devices.Kind
		value func(i int) float64
	}{
		{"smooth", devices.Float, func(i int) float64 { return math.Round(2000+300*math.Sin(float64(i)/20)) / 100 }},
		{"walk", devices.Float, func(int) float64 { walk += math.Round(r.NormFloat64() * 4); return walk / 100 }},
		{"noise", devices.Float, func(int) float64 { return r.Float64() * 100 }},
		{"counter", devices.Int, func(i int) float64 { return float64(1000 + 3*i) }},
		{"state", devices.Int, func(i int) float64 { return float64(i / 40 % 3) }},
	}
	for _, s := range shapes {
		for _, n := range []int{60, 600, 4096} {
			c := &Columns{}
			for i := range n {
				c.Times, c.Values = append(c.Times, 1_700_000_000_000+int64(i)*100), append(c.Values, s.value(i))
			}
			data := Append(nil, s.kind, c)
			b.Run(fmt.Sprintf("%s/%d/append", s.name, n), func(b *testing.B) {
				for b.Loop() {
					data = Append(data[:0], s.kind, c)
				}
				b.ReportMetric(float64(len(data))/float64(n), "B/sample")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
			})
			b.Run(fmt.Sprintf("%s/%d/decode", s.name, n), func(b *testing.B) {
				var got Columns
				for b.Loop() {
					got.Reset()
					if err := Decode(data, s.kind, c.Times[0], n, &got); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
			})
		}
	}
}
