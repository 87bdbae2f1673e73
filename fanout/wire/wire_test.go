package wire

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace/devices"
	"millrace/fanout"
)

var update = flag.Bool("update", false, "rewrite the golden frames")

const at = 1795456789012

func point(index uint32, k devices.Kind, t int64, last float64) fanout.Point {
	return fanout.Point{Member: fanout.Member{Index: index, Series: &devices.Series{Device: "press-7", Metric: fmt.Sprint("m", index), Kind: k}},
		Kind: k, T: t, First: last, Last: last, Min: last, Max: last, Sum: last}
}

func band(p fanout.Point, lowest, highest float64, count uint32) fanout.Point {
	p.Min, p.Max, p.Count = lowest, highest, count
	return p
}

func quality(p fanout.Point, q devices.Quality) fanout.Point {
	p.Quality = q
	return p
}

func text(p fanout.Point, s string) fanout.Point {
	p.Text, p.Count = s, 1
	return p
}

func lon(p fanout.Point, v float64) fanout.Point {
	p.Lon, p.Count = v, 1
	return p
}

func samples(p fanout.Point, s ...fanout.TimedValue) fanout.Point {
	p.Samples, p.Count = s, uint32(len(s))
	return p
}

// goldens are frames that show each flag and width.
func goldens() map[string]*fanout.Frame {
	frame := func(d fanout.Detail, points ...fanout.Point) *fanout.Frame {
		return &fanout.Frame{Group: "plant1/line2", Epoch: "k3x9", From: 1041, Seq: 1044, At: at, Detail: d, Points: points}
	}
	f := map[string]*fanout.Frame{
		"envelope": frame(fanout.Envelope,
			band(point(0, devices.Float, at-22, 21.5), 20.9, 88.2, 37),
			band(point(1, devices.Int, at-3, -4), -4, 1e6, 2),
			point(2, devices.Float, at, 0.1)),
		"empty-snapshot": frame(fanout.Envelope),
		"snapshot-last": frame(fanout.Last,
			point(0, devices.Float, at-254, 1.25), point(1, devices.Bool, at-255, 1), point(2, devices.Float, at-86_400_000, -0.5)),
		"index16-quality": frame(fanout.Envelope,
			quality(band(point(3, devices.Float, at-1, 5), 4, 6, 3), devices.Uncertain),
			quality(point(65535, devices.Float, at-100, 7), devices.Stale)),
		"index32-count32": frame(fanout.Envelope,
			band(point(65536, devices.Float, at-1, 5), -1e9, 1e9, 70_000), band(point(4_000_000_000, devices.Float, at-2, 5), 5, 5, 1)),
		"age16-count16": frame(fanout.Envelope,
			band(point(1, devices.Float, at-300, 5), 4.1, 6.3, 300), band(point(2, devices.Float, at-65534, 5), 5, 5, 1),
			band(point(3, devices.Float, at-65535, 5), 5, 5, 65535), band(point(4, devices.Float, at+1500, 5), 5, 5, 1),
			band(point(5, devices.Float, at-1000, 5), 5, 5, 1), band(point(6, devices.Float, at-1001, 5), 5, 5, 1),
			band(point(7, devices.Float, at-1002, 5), 5, 5, 1), band(point(8, devices.Float, at-1003, 5), 5, 5, 1)),
		"kinds": frame(fanout.Envelope,
			band(point(0, devices.Float, at-1, 2.5), 2, 3, 2), text(point(2, devices.String, at-2, 0), "läuft <gut> \"ja\"\n"),
			lon(point(3, devices.Location, at-3, 48.137), 11.575), text(point(4, devices.String, at-4, 0), ""),
			band(point(5, devices.Bool, at-5, 1), 1, 1, 4)),
		"full": frame(fanout.Full,
			samples(band(point(0, devices.Float, at-1, 3), 1, 3, 3), fanout.TimedValue{T: at - 9, V: 1}, fanout.TimedValue{T: at - 5, V: 2}, fanout.TimedValue{T: at - 1, V: 3}),
			text(point(1, devices.String, at-2, 0), "run"),
			samples(point(2, devices.Bool, at-3, 1), fanout.TimedValue{T: at - 3, V: 1})),
		"truncated":   frame(fanout.Full, band(point(0, devices.Float, at-1, 3), 1, 3, 20_000)),
		"late-sample": frame(fanout.Envelope, band(point(0, devices.Float, at-1, 50), 10, 10, 1)),
	}
	for name, f := range f {
		f.Snapshot = strings.Contains(name, "snapshot")
		if f.Snapshot {
			f.From = f.Seq
		}
	}
	f["truncated"].Truncated = true
	return f
}

// description is what a golden frame's .json says: what a decoder must read in the .bin beside it.
type description struct {
	ID        uint32             `json:"id"`
	From      uint64             `json:"from"`
	Seq       uint64             `json:"seq"`
	At        int64              `json:"at"`
	Snapshot  bool               `json:"snapshot"`
	Envelope  bool               `json:"envelope"`
	Full      bool               `json:"full"`
	Truncated bool               `json:"truncated"`
	Points    []pointDescription `json:"points"`
}

type pointDescription struct {
	Index   uint32       `json:"index"`
	T       int64        `json:"t"`
	Last    float64      `json:"last"`
	Min     float64      `json:"min"`
	Max     float64      `json:"max"`
	Count   uint32       `json:"count"`
	Quality string       `json:"quality"`
	Lon     float64      `json:"lon"`
	Text    *string      `json:"text"` // null: no string
	Samples [][2]float64 `json:"samples"`
}

func describe(f *Frame) description {
	d := description{f.ID, f.From, f.Seq, f.At, f.Snapshot, f.Envelope, f.Full, f.Truncated, []pointDescription{}}
	for _, p := range f.Points {
		q := pointDescription{p.Index, p.T, p.Last, p.Min, p.Max, p.Count, p.Quality.String(), p.Lon, nil, [][2]float64{}}
		if p.HasText {
			q.Text = &p.Text
		}
		for _, s := range p.Samples {
			q.Samples = append(q.Samples, [2]float64{float64(s.T), s.V})
		}
		d.Points = append(d.Points, q)
	}
	return d
}

func TestGolden(t *testing.T) {
	var flags uint16
	for name, f := range goldens() {
		bin, decoded := filepath.Join("testdata", name+".bin"), filepath.Join("testdata", name+".json")
		data := Binary{}.AppendFrame(nil, f, 7)
		flags |= le.Uint16(data[2:])
		got, err := DecodeFrame(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, f, got)
		text, err := json.MarshalIndent(describe(got), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, '\n')
		if *update {
			write(t, bin, data)
			write(t, decoded, text)
			continue
		}
		if want, err := os.ReadFile(bin); err != nil || string(want) != string(data) {
			t.Errorf("%s: encodes otherwise than %s (%v); after a change that is meant, run with -update", name, bin, err)
		}
		if want, err := os.ReadFile(decoded); err != nil || string(want) != string(text) {
			t.Errorf("%s: decodes otherwise than %s (%v)", name, decoded, err)
		}
	}
	if want := uint16(0x007f | 3<<indexShift | 3<<countShift | 1<<ageShift); flags != want {
		t.Errorf("golden frames show flags %#x, want %#x", flags, want)
	}
}

func write(t *testing.T, path string, data []byte) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// same checks that a decoded frame says what was encoded; bands may be a little wider, never narrower.
func same(t interface {
	Helper()
	Errorf(string, ...any)
}, f *fanout.Frame, got *Frame) {
	t.Helper()
	if got.From != f.From || got.Seq != f.Seq || got.At != f.At || got.Snapshot != f.Snapshot || got.Truncated != f.Truncated ||
		got.Envelope != (f.Detail != fanout.Last) || len(got.Points) != len(f.Points) {
		t.Errorf("header %+v of %+v", got, f)
		return
	}
	for i, p := range f.Points {
		g := got.Points[i]
		want := Point{Index: p.Index, T: p.T, Last: p.Last, Min: p.Last, Max: p.Last, Quality: p.Quality}
		if got.Envelope {
			want.Count = p.Count
		}
		if got.Envelope && p.Kind.Numeric() {
			want.Min, want.Max = g.Min, g.Max
			slack := func(d float64) float64 { return 2e-7*math.Abs(d) + 1e-15*math.Abs(p.Last) + 1e-44 }
			if g.Min > p.Min || g.Max < p.Max || p.Min-g.Min > slack(p.Last-p.Min) || g.Max-p.Max > slack(p.Max-p.Last) {
				t.Errorf("point %d: band [%v, %v] decodes to [%v, %v]", i, p.Min, p.Max, g.Min, g.Max)
			}
		}
		switch p.Kind {
		case devices.String:
			want.Last, want.Min, want.Max, want.Text, want.HasText = 0, 0, 0, p.Text, true
		case devices.Location:
			want.Lon = p.Lon
		}
		for _, s := range p.Samples {
			want.Samples = append(want.Samples, Sample(s))
		}
		if len(g.Samples) == 0 {
			g.Samples = nil
		}
		if !reflect.DeepEqual(g, want) {
			t.Errorf("point %d decodes to %+v, want %+v", i, g, want)
		}
	}
}

func anyFrame(t *rapid.T) *fanout.Frame {
	f := &fanout.Frame{Epoch: "e", From: rapid.Uint64().Draw(t, "from"), Seq: rapid.Uint64().Draw(t, "seq"), At: at,
		Detail: fanout.Detail(rapid.IntRange(0, 2).Draw(t, "detail")), Snapshot: rapid.Bool().Draw(t, "snapshot")}
	index := uint32(0)
	for range rapid.IntRange(0, 30).Draw(t, "n") {
		index += rapid.SampledFrom([]uint32{0, 0, 0, 1, 300, 70_000}).Draw(t, "gap")
		p := point(index, devices.Kind(rapid.IntRange(0, 4).Draw(t, "kind")),
			at-rapid.SampledFrom([]int64{0, 1, 254, 255, 256, 65534, 65535, 1 << 40, -1, -70_000}).Draw(t, "age"), rapid.Float64Range(-1e30, 1e30).Draw(t, "last"))
		if p.Kind.Numeric() {
			p.Min, p.Max = p.Last-rapid.Float64Range(-10, 1e30).Draw(t, "below"), p.Last+rapid.Float64Range(-10, 1e30).Draw(t, "above")
			p.Count = rapid.SampledFrom([]uint32{0, 1, 255, 256, 65536, math.MaxUint32}).Draw(t, "count")
		}
		if p.Kind == devices.String {
			p.Text = rapid.String().Draw(t, "text")
		}
		if p.Kind == devices.Location {
			p.Lon = rapid.Float64Range(-180, 180).Draw(t, "lon")
		}
		p.Quality = devices.Quality(rapid.IntRange(0, 3).Draw(t, "quality"))
		if f.Detail == fanout.Full && !f.Snapshot && p.Kind <= devices.Bool {
			for range rapid.IntRange(0, 3).Draw(t, "samples") {
				p.Samples = append(p.Samples, fanout.TimedValue{T: at, V: rapid.Float64Range(-1, 1).Draw(t, "v")})
			}
		}
		f.Points = append(f.Points, p)
		index++
	}
	return f
}

func TestBinaryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFrame(t)
		data := Binary{}.AppendFrame(nil, f, 9)
		if len(data) != cap(data) && cap(data) > len(data)+len(data)/2+64 {
			t.Errorf("%d bytes in %d", len(data), cap(data))
		}
		got, err := DecodeFrame(data)
		if err != nil {
			t.Fatal(err)
		}
		same(t, f, got)
		for i := range data { // a frame cut short is refused, wherever
			if _, err := DecodeFrame(data[:i]); err == nil {
				t.Fatalf("%d of %d bytes decode", i, len(data))
			}
		}
	})
}

func TestRenumbered(t *testing.T) {
	for name, f := range goldens() {
		for _, enc := range []interface {
			fanout.Encoder
			fanout.Renumberer
		}{Binary{}, JSON{}} {
			one := enc.AppendFrame(nil, f, 1)
			for _, id := range []uint32{0, 1, 12345, math.MaxUint32} {
				if got, want := enc.AppendRenumbered(nil, one, id), enc.AppendFrame(nil, f, id); string(got) != string(want) {
					t.Errorf("%s for %d: %q, want %q", name, id, got, want)
				}
			}
		}
	}
}

func TestPacketShared(t *testing.T) {
	f := goldens()["kinds"]
	a, b := f.Packet(Binary{}, 1), f.Packet(Binary{}, 1)
	if &a[0] != &b[0] {
		t.Error("the same packet was encoded twice")
	}
	for id := range uint32(50) {
		if got := f.Packet(JSON{}, id); string(got) != string(JSON{}.AppendFrame(nil, f, id)) {
			t.Errorf("packet for %d: %s", id, got)
		}
	}
}

func TestJSON(t *testing.T) {
	is := func(f *fanout.Frame, want string) {
		t.Helper()
		if got := string(JSON{}.AppendFrame(nil, f, 1)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	g := goldens()
	f := g["envelope"]
	f.Points = f.Points[:1]
	f.Points[0].Metric = "temp"
	is(f, `{"type":"frame","id":1,"epoch":"k3x9","from":1041,"seq":1044,"snapshot":false,"at":1795456789012,"points":[{"device":"press-7","metric":"temp","t":1795456788990,"last":21.5,"min":20.9,"max":88.2,"count":37,"quality":"good"}]}`)
	is(g["empty-snapshot"], `{"type":"frame","id":1,"epoch":"k3x9","from":1044,"seq":1044,"snapshot":true,"at":1795456789012,"points":[]}`)
	is(g["truncated"], `{"type":"frame","id":1,"epoch":"k3x9","from":1041,"seq":1044,"snapshot":false,"at":1795456789012,"truncated":true,"points":[{"device":"press-7","metric":"m0","t":1795456789011,"last":3,"min":1,"max":3,"count":20000,"quality":"good"}]}`)
	f = g["kinds"]
	f.Points = f.Points[1:]
	is(f, `{"type":"frame","id":1,"epoch":"k3x9","from":1041,"seq":1044,"snapshot":false,"at":1795456789012,"points":[`+
		`{"device":"press-7","metric":"m2","t":1795456789010,"last":"läuft \u003cgut\u003e \"ja\"\n","count":1,"quality":"good"},`+
		`{"device":"press-7","metric":"m3","t":1795456789009,"last":{"lat":48.137,"lon":11.575},"count":1,"quality":"good"},`+
		`{"device":"press-7","metric":"m4","t":1795456789008,"last":"","count":1,"quality":"good"},`+
		`{"device":"press-7","metric":"m5","t":1795456789007,"last":true,"count":4,"quality":"good"}]}`)
	f = g["snapshot-last"]
	f.Points = f.Points[2:]
	f.Points[0].Quality = devices.Stale
	is(f, `{"type":"frame","id":1,"epoch":"k3x9","from":1044,"seq":1044,"snapshot":true,"at":1795456789012,"points":[{"device":"press-7","metric":"m2","t":1795370389012,"last":-0.5,"quality":"stale"}]}`)
	f = g["full"]
	f.Points = f.Points[2:]
	is(f, `{"type":"frame","id":1,"epoch":"k3x9","from":1041,"seq":1044,"snapshot":false,"at":1795456789012,"points":[{"device":"press-7","metric":"m2","t":1795456789009,"last":true,"count":1,"quality":"good","samples":[[1795456789009,1]]}]}`)
}

func TestJSONAsTheStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := math.Float64frombits(rapid.Uint64().Draw(t, "bits"))
		if devices.Finite(v) {
			if want, _ := json.Marshal(v); string(AppendFloat(nil, v)) != string(want) {
				t.Errorf("%s, want %s", AppendFloat(nil, v), want)
			}
		}
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		if want, _ := json.Marshal(s); string(AppendString(nil, s)) != string(want) {
			t.Errorf("%s, want %s", AppendString(nil, s), want)
		}
	})
}

// Bytes for each changed series: 1,000 series at 200 Hz, ten samples each in a tick of 50 ms, all changed.
func TestBytesPerSeries(t *testing.T) {
	f := busyTick(1000)
	data := Binary{}.AppendFrame(nil, f, 1)
	per := float64(len(data)) / float64(len(f.Points))
	t.Logf("%.2f bytes a series", per)
	if per > 20 {
		t.Errorf("%.2f bytes a changed series, budget 20", per)
	}
}

func busyTick(n int) *fanout.Frame {
	r := rand.New(rand.NewPCG(1, 2))
	f := &fanout.Frame{Epoch: "k3x9", From: 1041, Seq: 1042, At: at}
	for i := range n {
		v := 20 + r.Float64()
		f.Points = append(f.Points, band(point(uint32(i), devices.Float, at-int64(r.IntN(60)), v), v-r.Float64(), v+r.Float64(), 10))
	}
	return f
}

func FuzzDecodeFrame(f *testing.F) {
	for _, g := range goldens() {
		f.Add(Binary{}.AppendFrame(nil, g, 1))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeFrame(data)
		if err != nil {
			return
		}
		if len(got.Points)*8 > len(data) {
			t.Fatalf("%d points in %d bytes", len(got.Points), len(data))
		}
	})
}

func BenchmarkEncodeBinary(b *testing.B) { benchmarkEncode(b, Binary{}) }
func BenchmarkEncodeJSON(b *testing.B)   { benchmarkEncode(b, JSON{}) }

func benchmarkEncode(b *testing.B, enc fanout.Encoder) {
	const n = 1000
	f := busyTick(n)
	dst := enc.AppendFrame(nil, f, 1)
	b.ReportAllocs()
	for b.Loop() {
		dst = enc.AppendFrame(dst[:0], f, 1)
	}
	b.ReportMetric(float64(len(dst))/n, "bytes/series")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/series")
}

func BenchmarkDecode(b *testing.B) {
	data := Binary{}.AppendFrame(nil, busyTick(1000), 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeFrame(data); err != nil {
			b.Fatal(err)
		}
	}
}
