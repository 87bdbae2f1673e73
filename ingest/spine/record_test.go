package spine

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"testing"

	"millrace/devices"
)

var update = flag.Bool("update", false, "rewrite the golden message")

var kinds = []devices.Sample{
	{Series: 1, At: 1795456789012, Recv: 1795456789015, Value: 21.5},
	{Series: 11, At: 1795456789012, Recv: 1795456789015, Kind: devices.Int, Value: -9007199254740992},
	{Series: 2, At: 1795456789000, Recv: 1795456789015, Kind: devices.Bool, Value: 1, Quality: devices.Uncertain},
	{Series: 2, At: 1795456789020, Recv: 1795456789021, Kind: devices.Bool, Quality: devices.Bad},
	{Series: 12, At: 0, Recv: 1795456789021, Kind: devices.String, Text: "läuft"},
	{Series: 12, At: 253402300799999, Recv: 1795456789021, Kind: devices.String},
	{Series: 3, At: 1795456789022, Recv: 1795456789022, Kind: devices.Location, Value: 48.137, Lon: -11.575},
	{Series: 11, At: 1795456789022, Recv: 1795456789022, Value: 0.1}, // an Int that became a Float
}

func encode(samples []devices.Sample) []byte {
	var e encoder
	e.reset()
	e.append(samples, book{})
	return e.finish()
}

func TestRecordsComeBack(t *testing.T) {
	var e encoder
	var d decoder
	for range 3 { // the tables are reused
		e.reset()
		if n := bound(kinds, book{}); n < len(encode(kinds))-headerSize {
			t.Fatalf("bound %d is less than %d", n, len(encode(kinds)))
		}
		e.append(kinds[:3], book{})
		e.append(kinds[3:], book{})
		got, err := d.decode(e.finish(), book{})
		if err != nil || !reflect.DeepEqual(got, kinds) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, kinds)
		}
	}
}

// TestGolden holds the format: what an older program stored must stay readable.
func TestGolden(t *testing.T) {
	const file = "testdata/message.v1.hex"
	got := []byte(hex.EncodeToString(encode(kinds)) + "\n")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("encodes to\n%s, the golden message is\n%s", got, want)
	}
	raw, err := hex.DecodeString(string(bytes.TrimSpace(want)))
	if err != nil {
		t.Fatal(err)
	}
	var d decoder
	if back, err := d.decode(raw, book{}); err != nil || !reflect.DeepEqual(back, kinds) {
		t.Errorf("%v: %+v", err, back)
	}
}

func TestUnknownIsLeftOut(t *testing.T) {
	var e encoder
	e.reset()
	if n := e.append([]devices.Sample{{Series: 5000, At: 1}, {Series: 1, At: 2, Recv: 3, Value: 4}}, book{}); n != 1 || e.count != 1 {
		t.Errorf("%d unknown, %d encoded", n, e.count)
	}
	var d decoder
	got, err := d.decode(e.finish(), book{})
	if err != nil || len(got) != 1 || got[0] != (devices.Sample{Series: 1, At: 2, Recv: 3, Value: 4}) {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = d.decode(encode(kinds), nobody{})
	if err != nil || len(got) != 0 || d.unknown != len(kinds) {
		t.Errorf("%+v, %d unknown, %v", got, d.unknown, err)
	}
	if _, err := d.decode([]byte{2, 0, 0, 0, 0}, book{}); err == nil {
		t.Error("a later version is read")
	}
}

type nobody struct{}

func (nobody) Resolve([]byte, []byte, devices.Kind) (devices.SeriesID, bool) { return 0, false }

// busy is 1,000 numbers of 100 series.
func busy() []devices.Sample {
	var all []devices.Sample
	for i := range 1000 {
		s := sample(devices.SeriesID(i%100+1), float64(i))
		s.Value = float64(i) / 7
		all = append(all, s)
	}
	return all
}

func TestRecordsAllocateNothing(t *testing.T) {
	var e encoder
	var d decoder
	all := busy()
	if n := testing.AllocsPerRun(50, func() {
		e.reset()
		e.append(all, book{})
		e.finish()
	}); n != 0 {
		t.Errorf("encode: %v allocations", n)
	}
	message := e.finish()
	if n := testing.AllocsPerRun(50, func() {
		if _, err := d.decode(message, book{}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("decode: %v allocations", n)
	}
}

// anyName takes every name.
type anyName map[string]devices.SeriesID

func (a anyName) Resolve(device, metric []byte, _ devices.Kind) (devices.SeriesID, bool) {
	name := string(device) + "/" + string(metric)
	if _, ok := a[name]; !ok {
		a[name] = devices.SeriesID(len(a) + 1)
	}
	return a[name], true
}

func (a anyName) Name(id devices.SeriesID) (devices.ID, string) {
	for name, n := range a {
		if n == id {
			device, metric, _ := bytes.Cut([]byte(name), []byte("/"))
			return devices.ID(device), string(metric)
		}
	}
	return "", ""
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(kinds))
	f.Add(encode(busy()[:20]))
	f.Add(encode(nil))
	f.Add([]byte{1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var d decoder
		names := anyName{}
		got, err := d.decode(data, names)
		if err != nil {
			return
		}
		for name := range names { // names with a slash of their own, or empty ones, don't survive our Name
			if bytes.Count([]byte(name), []byte("/")) != 1 || name[0] == '/' {
				return
			}
		}
		for _, s := range got {
			if s.Kind == devices.Int && (s.Value > 1<<53 || s.Value < -1<<53) {
				return // exact numbers only are ever written
			}
		}
		want := append([]devices.Sample(nil), got...)
		var e encoder
		e.reset()
		e.append(want, names)
		again, err := d.decode(e.finish(), names)
		if err != nil || len(again) != len(want) {
			t.Fatalf("%v: %d of %d come back", err, len(again), len(want))
		}
		for i := range want {
			if again[i] != want[i] {
				t.Fatalf("%+v comes back as %+v", want[i], again[i])
			}
		}
	})
}

func BenchmarkRecordEncode(b *testing.B) {
	var e encoder
	all := busy()
	b.ReportAllocs()
	for b.Loop() {
		e.reset()
		e.append(all, book{})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(all)), "ns/sample")
	b.ReportMetric(float64(len(e.finish()))/float64(len(all)), "B/sample")
}

func BenchmarkRecordDecode(b *testing.B) {
	var d decoder
	all := busy()
	message := encode(all)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.decode(message, book{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(all)), "ns/sample")
}
