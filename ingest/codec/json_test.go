package codec

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/valyala/fastjson"

	"millrace/devices"
)

// names gives ids in order of first sight.
type names struct {
	ids  map[string]devices.SeriesID
	list []string
}

func (n *names) Series(metric []byte, _ devices.Kind) (devices.SeriesID, error) {
	if id, ok := n.ids[string(metric)]; ok {
		return id, nil
	}
	if !devices.ValidMetric(metric) {
		return 0, devices.Invalid("metric", "no metric")
	}
	if n.ids == nil {
		n.ids = make(map[string]devices.SeriesID)
	}
	n.list = append(n.list, string(metric))
	n.ids[string(metric)] = devices.SeriesID(len(n.list))
	return devices.SeriesID(len(n.list)), nil
}

const recv = 1_795_456_789_123

type point struct {
	name string
	kind devices.Kind
	at   int64
	v    float64
	lon  float64
	text string
}

func points(n *names, samples []devices.Sample) (out []point) {
	for _, s := range samples {
		out = append(out, point{n.list[s.Series-1], s.Kind, s.At, s.Value, s.Lon, s.Text})
	}
	return out
}

func TestAppend(t *testing.T) {
	var d Decoder
	f := func(in string, want ...point) {
		t.Helper()
		n := &names{}
		got, err := d.Append(nil, []byte(in), recv, n)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			return
		}
		if have := points(n, got); !reflect.DeepEqual(have, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", in, have, want)
		}
	}
	p := func(name string, kind devices.Kind, at int64, v float64) point {
		return point{name: name, kind: kind, at: at, v: v}
	}
	const F, I, B, S, L = devices.Float, devices.Int, devices.Bool, devices.String, devices.Location
	f(`{}`)
	f(` [ ] `)
	f(`{"temp":21.5}`, p("temp", F, recv, 21.5))
	f(`{"n":-7,"f":7.0,"e":1e3,"z":-0}`, p("n", I, recv, -7), p("f", F, recv, 7), p("e", F, recv, 1000), p("z", I, recv, 0))
	f(`{"max":9007199254740992,"more":9007199254740993}`, p("max", I, recv, 1<<53), p("more", F, recv, 1<<53))
	f(`{"on":true,"off":false,"none":null}`, p("on", B, recv, 1), p("off", B, recv, 0))
	f(`{"state":"run\u00e9\n"}`, point{"state", S, recv, 0, 0, "runé\n"})
	f(`{"a":{"b":{"c":1},"d":2},"e":3}`, p("a.b.c", I, recv, 1), p("a.d", I, recv, 2), p("e", I, recv, 3))
	f(`{"a":{"x":{"y":1},"\u0062":2},"\u0063":{"d":{"e":"\t"}}}`, p("a.x.y", I, recv, 1), p("a.b", I, recv, 2), point{"c.d.e", S, recv, 0, 0, "\t"})
	f(`{"pos":{"lat":48.1,"lon":11.6}}`, point{"pos", L, recv, 48.1, 11.6, ""})
	f(`{"pos":{ "longitude" : -11 , "latitude" : 48 }}`, point{"pos", L, recv, 48, -11, ""})
	f(`{"pos":{"lat":1,"lon":2,"alt":3}}`, p("pos.lat", I, recv, 1), p("pos.lon", I, recv, 2), p("pos.alt", I, recv, 3))
	f(`{"pos":{"lat":1,"latitude":2}}`, p("pos.lat", I, recv, 1), p("pos.latitude", I, recv, 2))
	f(`{"lat":1,"lon":2}`, p("lat", I, recv, 1), p("lon", I, recv, 2))
	f(`{"a":1,"a":2}`, p("a", I, recv, 1), p("a", I, recv, 2))
	// Times: before or after the metrics, in all four units, in both notations.
	f(`{"a":1,"ts":1795456789}`, p("a", I, 1795456789000, 1))
	f(`{"ts":1795456789.25,"a":1}`, p("a", I, 1795456789250, 1))
	f(`{"ts":1795456789.001,"a":1}`, p("a", I, 1795456789001, 1))
	f(`{"ts":1795456789012,"a":1}`, p("a", I, 1795456789012, 1))
	f(`{"ts":1795456789012345,"a":1}`, p("a", I, 1795456789012, 1))
	f(`{"ts":1795456789012345678,"a":1}`, p("a", I, 1795456789012, 1))
	f(`{"ts":"1795456789012","a":1}`, p("a", I, 1795456789012, 1))
	f(`{"ts":"2026-01-31T12:00:00.5Z","a":1}`, p("a", I, 1769860800500, 1))
	f(`{"ts":"2026-01-31T12:00:00+01:00","a":1}`, p("a", I, 1769857200000, 1))
	f(`{"ts":null,"a":1}`, p("a", I, recv, 1))
	// values
	f(`{"ts":1795456789012,"values":{"a":1,"ts":2}}`, p("a", I, 1795456789012, 1), p("ts", I, 1795456789012, 2))
	f(`{"values":{"a":{"b":1}},"ts":1795456789012}`, p("a.b", I, 1795456789012, 1))
	f(`{"values":{"a":1},"b":2}`, p("values.a", I, recv, 1), p("b", I, recv, 2))
	f(`{"b":2,"values":{"a":1}}`, p("b", I, recv, 2), p("values.a", I, recv, 1))
	f(`{"values":3}`, p("values", I, recv, 3))
	f(`[{"ts":1795456789,"a":1},{"a":2},{"ts":1795456790,"values":{"a":3}}]`,
		p("a", I, 1795456789000, 1), p("a", I, recv, 2), p("a", I, 1795456790000, 3))
}

func TestFaults(t *testing.T) {
	d := Decoder{MaxSamples: 3}
	f := func(in, kind string, offset int, part string) {
		t.Helper()
		kept := []devices.Sample{{Series: 9}}
		got, err := d.Append(kept, []byte(in), recv, &names{})
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q: no fault", in)
			return
		}
		if e.Kind != kind || e.Offset != offset || !strings.Contains(e.Error(), part) || len(got) != 1 {
			t.Errorf("%q: %s at %d, %d kept: %v", in, e.Kind, e.Offset, len(got), e)
		}
	}
	f(``, KindJSON, 0, "ends where an object")
	f(`garbage`, KindJSON, 0, "g where an object")
	f("\x00\xff", KindJSON, 0, "no text")
	f(`{"a":1`, KindJSON, 6, "ends where , or }")
	f(`{"a":1}}`, KindJSON, 7, "the end")
	f(`{"a" 1}`, KindJSON, 5, "colon")
	f(`{a:1}`, KindJSON, 1, "name in quotes")
	f(`{"a":1,}`, KindJSON, 7, "name in quotes")
	f(`{"a":tru}`, KindJSON, 5, "a value")
	f(`{"a":"x}`, KindJSON, 5, "without its end")
	f("{\"a\":\"\xff\"}", KindJSON, 6, "UTF-8")
	f(`{"a":"\ud800"}`, KindJSON, 6, "escape")
	f(`{"a":"\x"}`, KindJSON, 6, "escape")
	f(`{"a":[1,2]}`, KindValue, 5, `metric "a": an array`)
	f(`{"a":NaN}`, KindValue, 5, "NaN")
	f(`{"a":-Infinity}`, KindValue, 5, "NaN")
	f(`{"a":1e999}`, KindValue, 5, "too large")
	f(`{"a":01}`, KindValue, 5, "zero in front")
	f(`{"a":1.}`, KindValue, 5, "point")
	f(`{"a":-}`, KindValue, 5, "digits")
	f(`{"pos":{"lat":91,"lon":0}}`, KindValue, 7, "90 degrees")
	f(`{"a":"`+strings.Repeat("x", 1025)+`"}`, KindValue, 5, "1024")
	f(`{"a/b":1}`, KindMetricName, 7, "no metric")
	f(`{"":1}`, KindMetricName, 4, "no metric")
	f(`{"":{"a":1}}`, KindMetricName, 4, "empty name")
	f(`{"a":1,"ts":"yesterday"}`, KindTime, 12, "RFC 3339")
	f(`{"a":1,"ts":-5}`, KindTime, 12, "1970")
	f(`{"a":1,"ts":true}`, KindJSON, 12, "a time")
	f(`{"a":1,"b":1,"c":1,"d":1}`, KindTooMany, 23, "more samples")
	f(`[{"a":1},{"a":2},{"a":x}]`, KindJSON, 22, "element 2, byte 22")
	f(`[{"a":1},3]`, KindJSON, 9, "element 1, byte 9: 3 where an object")
	f(strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40), KindJSON, 80, "too deep")
	if _, err := d.Append(nil, []byte(`{"a":1,"b":1,"c":1,"d":1}`), recv, &names{}); !errors.Is(err, devices.ErrTooLarge) {
		t.Errorf("too many samples: %v", err)
	}
}

func TestLinesAndMany(t *testing.T) {
	var d Decoder
	n := &names{}
	got, err := d.AppendLines(nil, []byte("{\"a\":1}\r\n\n{\"a\":2}\n"), recv, n)
	if err != nil || len(got) != 2 || got[1].Value != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	_, err = d.AppendLines(nil, []byte("{\"a\":1}\n\n{\"a\":\n2}\n"), recv, n)
	if err == nil || !strings.Contains(err.Error(), "line 3, byte") {
		t.Fatalf("an object over two lines: %v", err)
	}
	_, err = d.AppendLines(nil, []byte("{\"a\":1} {\"a\":2}"), recv, n)
	if err == nil || !strings.Contains(err.Error(), "line 1, byte 8") {
		t.Fatalf("two objects on a line: %v", err)
	}

	of := map[string]*names{"d1": {}, "d2": {}}
	var order []string
	pick := func(id []byte) (Resolver, error) {
		order = append(order, string(id))
		if n, ok := of[string(id)]; ok {
			return n, nil
		}
		return nil, devices.ErrNotFound
	}
	for _, body := range []string{
		`[{"device":"d1","a":1},{"ts":1795456789,"values":{"b":2},"device":"d2"},{"nest":{"device":"x"},"c":3,"device":"d\u0031"}]`,
		`{"device":"d1","a":1}` + "\n" + `{"ts":1795456789,"device":"d2","values":{"b":2}}` + "\n" + `{"nest":{"device":"x"},"c":3,"device":"d1"}`,
	} {
		order = nil
		got, err = d.AppendMany(got[:0], []byte(body), recv, body[0] == '{', pick)
		if err != nil || len(got) != 4 || got[1].At != 1795456789000 || !reflect.DeepEqual(order, []string{"d1", "d2", "d1"}) {
			t.Fatalf("%s: %v, %v, %v", body, got, order, err)
		}
	}
	if !reflect.DeepEqual(of["d1"].list, []string{"a", "nest.device", "c"}) || !reflect.DeepEqual(of["d2"].list, []string{"b"}) {
		t.Fatalf("%v %v", of["d1"].list, of["d2"].list)
	}
	f := func(in, part string, is error) {
		t.Helper()
		got, err := d.AppendMany(nil, []byte(in), recv, false, pick)
		if len(got) != 0 || !errors.Is(err, is) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	f(`[{"device":"d1","a":1},{"device":"d3","a":1}]`, "element 1, byte 33: not found", devices.ErrNotFound)
	f(`[{"a":1}]`, `without "device"`, devices.ErrInvalid)
	f(`[{"device":7,"a":1}]`, "id in quotes", devices.ErrInvalid)
	f(`[1]`, "element 0", devices.ErrInvalid)
	f(`{"device":"d1","a":1} x`, "x where the end", devices.ErrInvalid)
}

func TestScalar(t *testing.T) {
	var d Decoder
	f := func(in string, kind devices.Kind, v float64, text string) {
		t.Helper()
		got, err := d.AppendScalar(nil, []byte(in), recv, "m", &names{})
		if err != nil || len(got) != 1 || got[0].Kind != kind || got[0].Value != v || got[0].Text != text || got[0].At != recv {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	f("21.5", devices.Float, 21.5, "")
	f(" 21 \n", devices.Int, 21, "")
	f("+5", devices.Int, 5, "")
	f(".5", devices.Float, 0.5, "")
	f("007", devices.Int, 7, "")
	f("1e3", devices.Float, 1000, "")
	f("true", devices.Bool, 1, "")
	f("false", devices.Bool, 0, "")
	f(`"a\tb"`, devices.String, 0, "a\tb")
	f(`"7"`, devices.String, 0, "7")
	f("on", devices.String, 0, "on")
	f("1.2.3", devices.String, 0, "1.2.3")
	f("2026-01-31", devices.String, 0, "2026-01-31")
	f("0x1F", devices.String, 0, "0x1F")
	if got, err := d.AppendScalar(nil, []byte(`{"lat":1,"lon":2}`), recv, "m", &names{}); err != nil || got[0].Kind != devices.Location || got[0].Lon != 2 {
		t.Errorf("location: %+v, %v", got, err)
	}
	if got, err := d.AppendScalar(nil, []byte("null"), recv, "m", &names{}); err != nil || len(got) != 0 {
		t.Errorf("null: %+v, %v", got, err)
	}
	for _, in := range []string{"", "  ", "nan", "NaN", "-inf", "1e999", "[1]", `{"a":1}`, `{"lat":1,"lon":2}x`, `"a`, "a\x00b", "\xff\xfe", strings.Repeat("x", 1025)} {
		if got, err := d.AppendScalar(nil, []byte(in), recv, "m", &names{}); !errors.Is(err, devices.ErrInvalid) || len(got) != 0 {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

const five = `{"ts":1795456789012,"temp":21.53,"pressure":1013.25,"rpm":1480,"running":true,"state":"producing"}`

func TestNothingIsAllocated(t *testing.T) {
	var d Decoder
	var dst []devices.Sample
	n := &names{}
	f := func(in string, decode func([]byte) ([]devices.Sample, error)) {
		t.Helper()
		body := []byte(in)
		if got := testing.AllocsPerRun(100, func() {
			var err error
			if dst, err = decode(body); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations", in, got)
		}
	}
	one := func(b []byte) ([]devices.Sample, error) { return d.Append(dst[:0], b, recv, n) }
	f(five, one)
	f(`{"ts":"2026-01-31T12:00:00.5Z","a":{"b":1.5,"c":{"lat":1.5,"lon":2}},"esc":"\u00e9"}`, one)
	f(`[{"a":1.234567890123456789e10},{"ts":1795456789,"values":{"a":1}}]`, one)
	f(`running`, func(b []byte) ([]devices.Sample, error) { return d.AppendScalar(dst[:0], b, recv, "m", n) })
	f(`+21.5`, func(b []byte) ([]devices.Sample, error) { return d.AppendScalar(dst[:0], b, recv, "m", n) })
}

func FuzzAppend(f *testing.F) {
	for _, s := range []string{five, `{}`, `[]`, `{"a":{"b":{"lat":1,"lon":2}}}`, `{"values":{"a":1},"ts":"2026-01-31T12:00:00Z"}`, `[{"a":"\ud83d\ude00"},{"b":-1.5e-7}]`,
		`{"device":"d","a":1}`, `{"a":[1]}`, `{"a":1e400}`, "21.5", `"x"`, "nan", `{"a":"\`, `{"values":{`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var d Decoder
		check := func(n *names, got []devices.Sample, err error) {
			if err != nil {
				if e, ok := errors.AsType[*Error](err); !ok || e.Offset < 0 || e.Offset > len(in) || len(got) != 0 {
					t.Fatalf("%q: %v", in, err)
				}
			}
			for _, s := range got {
				if !devices.Finite(s.Value) || !devices.Finite(s.Lon) || s.At < 0 || s.At > maxTime || len(s.Text) > devices.MaxText || int(s.Series) > len(n.list) || s.Series == 0 {
					t.Fatalf("%q: %+v", in, s)
				}
			}
		}
		n := &names{}
		got, err := d.Append(nil, in, recv, n)
		check(n, got, err)
		if err == nil && !json.Valid(in) {
			t.Fatalf("%q: taken, but it is no JSON", in)
		}
		lines, err := d.AppendLines(nil, in, recv, n)
		check(n, lines, err)
		many, err := d.AppendMany(nil, in, recv, false, func([]byte) (Resolver, error) { return n, nil })
		check(n, many, err)
		scalar, err := d.AppendScalar(nil, in, recv, "m", n)
		check(n, scalar, err)
	})
}

// FuzzAgree holds flat objects against encoding/json.
func FuzzAgree(f *testing.F) {
	f.Add("temp", "21.5")
	f.Add("a", "-0.1e-7")
	f.Add("é", `"x\u00e9\ud83d\ude00\n"`)
	f.Add("n", "9007199254740993")
	f.Add("b", "true")
	f.Add("z", "123456789012345678901234567890")
	f.Fuzz(func(t *testing.T, name, value string) {
		key, err := json.Marshal(name)
		if err != nil || !devices.ValidMetric(name) || name == "ts" {
			return
		}
		in := `{` + string(key) + `:` + value + `}`
		var want map[string]any
		if json.Unmarshal([]byte(in), &want) != nil || len(want) != 1 {
			return
		}
		var d Decoder
		n := &names{}
		got, err := d.Append(nil, []byte(in), recv, n)
		switch v := want[name].(type) {
		case float64: // 2^53+1 is the one whole number above 2^53 that becomes 2^53 as a float64
			if err != nil || len(got) != 1 || got[0].Value != v || (got[0].Kind == devices.Int) != (!strings.ContainsAny(value, ".eE") && math.Abs(v) <= maxExact && !strings.Contains(value, "9007199254740993")) {
				t.Fatalf("%s: %+v, %v", in, got, err)
			}
		case bool:
			if err != nil || len(got) != 1 || got[0].Kind != devices.Bool || (got[0].Value == 1) != v {
				t.Fatalf("%s: %+v, %v", in, got, err)
			}
		case string:
			// encoding/json mends what is no UTF-8 with U+FFFD; here it is refused.
			if err == nil && (len(got) != 1 || got[0].Text != v) || err != nil && len(v) <= devices.MaxText && !strings.ContainsRune(v, '\ufffd') {
				t.Fatalf("%s: %+v, %v", in, got, err)
			}
		case nil:
			if err != nil || len(got) != 0 {
				t.Fatalf("%s: %+v, %v", in, got, err)
			}
		}
	})
}

func BenchmarkDecodeJSON(b *testing.B) {
	var d Decoder
	var dst []devices.Sample
	n := &names{}
	body := []byte(five)
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = d.Append(dst[:0], body, recv, n)
	}
	if len(dst) != 5 {
		b.Fatal(len(dst))
	}
}

// BenchmarkFastjson is the library that was the other choice: parsing alone, and then the walk that makes samples.
func BenchmarkFastjson(b *testing.B) {
	body := []byte(five)
	b.Run("parse", func(b *testing.B) {
		var p fastjson.Parser
		b.ReportAllocs()
		for b.Loop() {
			_, _ = p.ParseBytes(body)
		}
	})
	b.Run("samples", func(b *testing.B) {
		var p fastjson.Parser
		var dst []devices.Sample
		n := &names{}
		b.ReportAllocs()
		for b.Loop() {
			v, _ := p.ParseBytes(body)
			o, _ := v.Object()
			dst = dst[:0]
			o.Visit(func(key []byte, v *fastjson.Value) {
				s := devices.Sample{Recv: recv}
				switch v.Type() {
				case fastjson.TypeNumber:
					s.Value, _ = v.Float64()
				case fastjson.TypeTrue:
					s.Kind, s.Value = devices.Bool, 1
				case fastjson.TypeString:
					t, _ := v.StringBytes()
					s.Kind, s.Text = devices.String, string(t)
				}
				s.Series, _ = n.Series(key, s.Kind)
				dst = append(dst, s)
			})
		}
	})
}
