package codec

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"millrace/devices"
)

const (
	maxDepth   = 16   // objects within objects
	maxTexts   = 1024 // texts a decoder knows by heart
	maxInterns = 64   // bytes of one
)

// A Decoder reads payloads. It keeps buffers and the texts it met last from call to call, so that after warm-up nothing
// is allocated for payloads whose texts repeat. It is for one goroutine at a time; the zero value is ready.
//
// The payload of a device is an object of metrics, or an array of such objects, or (AppendLines) one such object a line:
//   - Nested objects give dotted names. An object of exactly lat and lon (or latitude and longitude), both numbers, is a Location.
//   - A member "ts" of the outer object is the time of all of its samples; without it, and with null, recv is.
//   - An outer object of exactly "values" (an object) and perhaps "ts" holds its metrics in "values".
//   - null is no value: the metric is skipped. Arrays are refused: there is no telling what their places mean.
//   - A whole number without point and exponent, up to 2^53, is an Int; every other number a Float.
//   - A name that comes twice gives two samples, in that order.
type Decoder struct {
	MaxSamples int // of one payload; 0: no limit

	p       []byte
	i       int
	dst     []devices.Sample
	base    int // len(dst) at the start
	recv    int64
	r       Resolver
	many    bool // elements have a member "device"
	lines   bool
	element int
	name    []byte // of the metric at hand, when it is not a part of the payload
	scratch []byte // a string without its escapes
	texts   map[string]string
	err     *Error
}

// Append appends the samples of one device's payload to dst. On a fault dst comes back as it was, with an *Error.
func (d *Decoder) Append(dst []devices.Sample, payload []byte, recv int64, r Resolver) ([]devices.Sample, error) {
	d.start(dst, payload, recv, r)
	d.space()
	if d.peek() == '[' {
		d.array(nil)
	} else {
		d.object()
	}
	d.end()
	return d.finish(dst)
}

// AppendLines is Append for one object a line (NDJSON). Empty lines are skipped.
func (d *Decoder) AppendLines(dst []devices.Sample, payload []byte, recv int64, r Resolver) ([]devices.Sample, error) {
	d.start(dst, payload, recv, r)
	d.eachLine(nil)
	return d.finish(dst)
}

// AppendMany is Append for a body of many devices: an array of objects with a member "device" each, one such object, or with
// lines set one a line. pick says who that is; its error is the fault of that element. The bytes are valid during the call only.
func (d *Decoder) AppendMany(dst []devices.Sample, payload []byte, recv int64, lines bool, pick func(device []byte) (Resolver, error)) ([]devices.Sample, error) {
	d.start(dst, payload, recv, nil)
	d.many = true
	if lines {
		d.eachLine(pick)
		return d.finish(dst)
	}
	d.space()
	if d.peek() == '[' {
		d.array(pick)
	} else if d.pick(pick) {
		d.object()
	}
	d.end()
	return d.finish(dst)
}

func (d *Decoder) start(dst []devices.Sample, payload []byte, recv int64, r Resolver) {
	d.p, d.i, d.dst, d.base, d.recv, d.r = payload, 0, dst, len(dst), recv, r
	d.many, d.lines, d.element, d.name, d.err = false, false, -1, d.name[:0], nil
}

// finish lets go of what was the caller's.
func (d *Decoder) finish(dst []devices.Sample) ([]devices.Sample, error) {
	got := d.dst
	d.p, d.dst, d.r = nil, nil, nil
	if d.err != nil {
		return dst, d.err
	}
	return got, nil
}

func (d *Decoder) fail(kind string, offset int, reason string) bool {
	if d.err == nil {
		d.err = &Error{Kind: kind, Offset: offset, Element: d.element, Lines: d.lines, Reason: reason, Err: devices.ErrInvalid}
	}
	return false
}

// unexpected says what stands where something else must.
func (d *Decoder) unexpected(want string) bool {
	if d.i >= len(d.p) {
		return d.fail(KindJSON, d.i, "the payload ends where "+want+" must be")
	}
	c, n := utf8.DecodeRune(d.p[d.i:])
	if c == utf8.RuneError && n <= 1 || c < ' ' {
		return d.fail(KindJSON, d.i, "a byte that is no text where "+want+" must be")
	}
	return d.fail(KindJSON, d.i, string(c)+" where "+want+" must be")
}

func (d *Decoder) space() {
	for d.i < len(d.p) {
		if c := d.p[d.i]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return
		}
		d.i++
	}
}

// peek is the byte at hand; 0 at the end.
func (d *Decoder) peek() byte {
	if d.i < len(d.p) {
		return d.p[d.i]
	}
	return 0
}

func (d *Decoder) end() {
	if d.err == nil {
		if d.space(); d.i < len(d.p) {
			d.unexpected("the end")
		}
	}
}

func (d *Decoder) eachLine(pick func([]byte) (Resolver, error)) {
	d.lines = true
	for d.element = 1; ; {
		for c := d.peek(); c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = d.peek() {
			if c == '\n' {
				d.element++
			}
			d.i++
		}
		if d.i == len(d.p) {
			return
		}
		whole := d.p
		if n := bytes.IndexByte(d.p[d.i:], '\n'); n >= 0 {
			d.p = d.p[:d.i+n] // an object that goes on in the next line is a fault of this one
		}
		if pick != nil && !d.pick(pick) || !d.object() {
			return
		}
		d.space()
		if d.i < len(d.p) {
			d.unexpected("the end of the line")
			return
		}
		d.p = whole
	}
}

func (d *Decoder) array(pick func([]byte) (Resolver, error)) {
	d.i++
	d.element = 0
	if d.space(); d.peek() == ']' {
		d.i++
		d.element = -1
		return
	}
	for {
		d.space()
		if pick != nil && !d.pick(pick) || !d.object() {
			return
		}
		switch d.space(); d.peek() {
		case ',':
			d.i++
			d.element++
		case ']':
			d.i++
			d.element = -1
			return
		default:
			d.unexpected(", or ]")
			return
		}
	}
}

// object reads an outer object and gives its samples their time.
func (d *Decoder) object() bool {
	if d.peek() != '{' {
		return d.unexpected("an object of metrics")
	}
	first, at := len(d.dst), d.recv
	if !d.members(0, 0, &at) {
		return false
	}
	if at != d.recv {
		for i := first; i < len(d.dst); i++ {
			d.dst[i].At = at
		}
	}
	return true
}

// members reads an object from its brace on. prefix is how much of d.name is the name of the object itself, 0 for none;
// at is where a "ts" goes, nil inside.
func (d *Decoder) members(depth, prefix int, at *int64) bool {
	if depth >= maxDepth {
		return d.fail(KindJSON, d.i, "objects are nested too deep")
	}
	d.i++
	if d.space(); d.peek() == '}' {
		d.i++
		return true
	}
	metrics := false // one has been read
	for {
		if d.space(); d.peek() != '"' {
			return d.unexpected("a name in quotes")
		}
		name, plain, ok := d.text()
		if !ok {
			return false
		}
		if d.space(); d.peek() != ':' {
			return d.unexpected("a colon")
		}
		d.i++
		d.space()
		switch {
		case at != nil && string(name) == "ts":
			if !d.time(at) {
				return false
			}
		case at != nil && d.many && string(name) == "device":
			if !d.skip() { // pick has read it
				return d.unexpected("a device")
			}
		case at != nil && !metrics && d.peek() == '{' && string(name) == "values" && d.envelope():
			if !d.members(depth+1, 0, nil) {
				return false
			}
		default:
			metrics = true
			if prefix > 0 || !plain {
				d.name = d.name[:prefix]
				if prefix > 0 {
					d.name = append(d.name, '.')
				}
				d.name = append(d.name, name...)
				name = d.name
			}
			if !d.value(name, depth) {
				return false
			}
		}
		switch d.space(); d.peek() {
		case ',':
			d.i++
		case '}':
			d.i++
			return true
		default:
			return d.unexpected(", or }")
		}
	}
}

// envelope reports whether after the "values" at hand nothing but "ts" (and "device") follows in its object.
func (d *Decoder) envelope() bool {
	from := d.i
	defer func() { d.i = from }()
	for first := true; ; first = false {
		if !d.skip() {
			return first // not well formed: that will be found
		}
		if d.space(); d.peek() != ',' {
			return true
		}
		d.i++
		if d.space(); d.peek() != '"' {
			return true
		}
		name := d.raw()
		if string(name) != "ts" && !(d.many && string(name) == "device") {
			return false
		}
		if d.space(); d.peek() != ':' {
			return true
		}
		d.i++
		d.space()
	}
}

// pick finds the "device" of the object at hand, which may stand anywhere in it, and asks who that is.
func (d *Decoder) pick(who func([]byte) (Resolver, error)) bool {
	if d.peek() != '{' {
		return d.unexpected("an object with device")
	}
	from := d.i
	d.i++
	for d.space(); d.peek() == '"'; d.space() {
		name := d.raw()
		if d.space(); d.peek() != ':' {
			break
		}
		d.i++
		d.space()
		if string(name) == "device" {
			at := d.i
			if d.peek() != '"' {
				return d.unexpected("the device's id in quotes")
			}
			id, _, ok := d.text()
			if !ok {
				return false
			}
			r, err := who(id)
			if err != nil {
				d.fail(KindDevice, at, err.Error())
				d.err.Err = err
				return false
			}
			d.r, d.i = r, from
			return true
		}
		if !d.skip() {
			break
		}
		if d.space(); d.peek() != ',' {
			break
		}
		d.i++
	}
	d.i = from
	return d.fail(KindJSON, from, `an object without "device"`)
}

// raw passes over the string at hand and returns what is between its quotes, escapes and all; the text is checked when it is read.
func (d *Decoder) raw() []byte {
	d.i++
	from := d.i
	for d.i < len(d.p) && d.p[d.i] != '"' {
		if d.p[d.i] == '\\' {
			d.i++
		}
		d.i++
	}
	to := min(d.i, len(d.p))
	d.i = min(d.i+1, len(d.p))
	return d.p[from:to]
}

// skip passes over one value without checking more than its brackets; false if there is none.
func (d *Decoder) skip() bool {
	for depth := 0; d.i < len(d.p); {
		switch c := d.p[d.i]; c {
		case '"':
			d.raw()
		case '{', '[':
			depth++
			d.i++
		case '}', ']':
			if depth--; depth < 0 {
				return false
			}
			d.i++
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return false
			}
			d.i++
			continue
		default:
			for d.i < len(d.p) && !bytes.ContainsRune(stops, rune(d.p[d.i])) {
				d.i++
			}
		}
		if depth == 0 {
			return true
		}
	}
	return false
}

var stops = []byte(",:{}[]\" \t\r\n")

// value reads a member's value as samples of the metric name, or of metrics below it.
func (d *Decoder) value(name []byte, depth int) bool {
	from := d.i
	s := devices.Sample{At: d.recv, Recv: d.recv}
	switch c := d.peek(); {
	case c == '-' || c >= '0' && c <= '9':
		v, whole, ok := d.number()
		if !ok {
			return false
		}
		s.Value = v
		if whole {
			s.Kind = devices.Int
		}
	case c == '"':
		text, _, ok := d.text()
		if !ok {
			return false
		}
		if len(text) > devices.MaxText {
			return d.failValue(name, from, "a text longer than 1024 bytes")
		}
		s.Kind, s.Text = devices.String, d.intern(text)
	case c == 't' && d.word("true"):
		s.Kind, s.Value = devices.Bool, 1
	case c == 'f' && d.word("false"):
		s.Kind = devices.Bool
	case c == 'n' && d.word("null"):
		return true
	case c == '{':
		lat, lon, ok := d.location()
		if !ok {
			if len(name) > devices.MaxMetricName {
				return d.failName(name, from, "a name longer than 128 bytes")
			}
			if len(d.name) == 0 || len(name) == 0 || &name[0] != &d.name[0] {
				d.name = append(d.name[:0], name...)
			}
			if len(name) == 0 {
				return d.failName(name, from, "an empty name")
			}
			return d.members(depth+1, len(name), nil)
		}
		if lat < -90 || lat > 90 || lon < -180 || lon > 180 {
			return d.failValue(name, from, "a location beyond 90 degrees of latitude or 180 of longitude")
		}
		s.Kind, s.Value, s.Lon = devices.Location, lat, lon
	case c == '[':
		return d.failValue(name, from, "an array is no value: send its parts as metrics of their own, or samples over time as an array of objects with ts")
	case c == 'N' || c == 'I' || c == 'i':
		return d.failValue(name, from, "NaN and infinities are no JSON: leave the metric out, or send null")
	default:
		return d.unexpected("a value")
	}
	return d.add(name, from, &s)
}

// add appends a sample, which has all but its series.
func (d *Decoder) add(name []byte, from int, s *devices.Sample) bool {
	if d.MaxSamples > 0 && len(d.dst)-d.base >= d.MaxSamples {
		d.failValue(name, from, "more samples than one message may hold")
		d.err.Kind, d.err.Err = KindTooMany, devices.ErrTooLarge
		return false
	}
	id, err := d.r.Series(name, s.Kind)
	if err != nil {
		d.failName(name, from, err.Error())
		d.err.Err = err
		switch {
		case errors.Is(err, devices.ErrTooLarge):
			d.err.Kind = KindSeries
		case !errors.Is(err, devices.ErrInvalid):
			d.err.Kind = KindDevice
		}
		return false
	}
	s.Series = id
	d.dst = append(d.dst, *s)
	return true
}

func (d *Decoder) failValue(name []byte, offset int, reason string) bool {
	d.fail(KindValue, offset, reason)
	d.err.Metric = string(name[:min(len(name), devices.MaxMetricName)])
	return false
}

func (d *Decoder) failName(name []byte, offset int, reason string) bool {
	d.failValue(name, offset, reason)
	d.err.Kind = KindMetricName
	return false
}

// word passes over w if it is at hand.
func (d *Decoder) word(w string) bool {
	if len(d.p)-d.i < len(w) || string(d.p[d.i:d.i+len(w)]) != w {
		return false
	}
	d.i += len(w)
	return true
}

// location reads an object of exactly a latitude and a longitude; otherwise it reads nothing.
func (d *Decoder) location() (lat, lon float64, ok bool) {
	from := d.i
	defer func() {
		if !ok {
			d.i = from
		}
	}()
	d.i++
	var seen [2]bool
	for n := range 2 {
		if d.space(); d.peek() != '"' {
			return
		}
		var which int
		switch name := d.raw(); string(name) {
		case "lat", "latitude":
		case "lon", "longitude":
			which = 1
		default:
			return
		}
		if d.space(); d.peek() != ':' || seen[which] {
			return
		}
		seen[which] = true
		d.i++
		d.space()
		if c := d.peek(); c != '-' && (c < '0' || c > '9') {
			return
		}
		v, _, end, fault := number(d.p, d.i)
		if fault != "" {
			return
		}
		d.i = end
		if which == 0 {
			lat = v
		} else {
			lon = v
		}
		d.space()
		if c := d.peek(); n == 0 && c != ',' || n == 1 && c != '}' {
			return
		}
		d.i++
	}
	return lat, lon, true
}

// intern returns a string of the same bytes, without allocating where it has been seen lately.
func (d *Decoder) intern(b []byte) string {
	if s, ok := d.texts[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) <= maxInterns {
		if d.texts == nil {
			d.texts = make(map[string]string)
		}
		if len(d.texts) >= maxTexts {
			clear(d.texts)
		}
		d.texts[s] = s
	}
	return s
}

// Taken is how many samples have been read so far; for pick, to tell whose the next ones are.
func (d *Decoder) Taken() int { return len(d.dst) - d.base }
