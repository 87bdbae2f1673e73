package codec

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"millrace/devices"
)

// AppendScalar is Append for the payload of one metric, named by the topic: a number, true or false, a text in quotes or bare, or an
// object of lat and lon. White space around it is passed over. A bare number may be written as devices print it: with a plus
// sign, zeros in front, without digits before or after the point. null gives no sample.
func (d *Decoder) AppendScalar(dst []devices.Sample, payload []byte, recv int64, metric string, r Resolver) ([]devices.Sample, error) {
	d.start(dst, bytes.TrimSpace(payload), recv, r)
	d.name = append(d.name[:0], metric...)
	d.scalar(d.name)
	if d.err != nil && len(payload) > 0 { // positions count from the payload's first byte
		d.err.Offset += len(payload) - len(bytes.TrimLeft(payload, " \t\r\n\v\f"))
	}
	return d.finish(dst)
}

func (d *Decoder) scalar(name []byte) {
	p := d.p
	s := devices.Sample{At: d.recv, Recv: d.recv}
	switch {
	case len(p) == 0:
		d.failValue(name, 0, "the payload is empty")
		return
	case p[0] == '"' || string(p) == "true" || string(p) == "false" || string(p) == "null":
		if d.value(name, 0) {
			d.end()
		}
		return
	case p[0] == '[':
		d.failValue(name, 0, "an array is no value of one metric")
		return
	case p[0] == '{':
		var ok bool
		if s.Value, s.Lon, ok = d.location(); !ok || d.i != len(p) {
			d.failValue(name, 0, "an object is no value of one metric, but for {\"lat\":…,\"lon\":…}: publish objects to the topic telemetry itself")
			return
		}
		d.i = 0
		if d.value(name, 0) {
			d.end()
		}
		return
	}
	if v, whole, end, fault := number(p, 0); fault == "" && end == len(p) {
		if s.Value = v; whole {
			s.Kind = devices.Int
		}
		d.add(name, 0, &s)
		return
	}
	if v, whole, ok := loose(p); ok {
		if !devices.Finite(v) {
			d.failValue(name, 0, "NaN, infinities and what is too large for a float64 are no values: publish nothing, or null")
			return
		}
		if s.Value = v; whole {
			s.Kind = devices.Int
		}
		d.add(name, 0, &s)
		return
	}
	if len(p) > devices.MaxText {
		d.failValue(name, 0, "a text longer than 1024 bytes")
		return
	}
	if !utf8.Valid(p) || bytes.ContainsFunc(p, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' }) {
		d.failValue(name, 0, "neither a number nor text in UTF-8")
		return
	}
	s.Kind, s.Text = devices.String, d.intern(p)
	d.add(name, 0, &s)
}

// loose reads a decimal number as printf and friends write it, and the names of what is none.
func loose(p []byte) (v float64, whole, ok bool) {
	if len(p) > 64 {
		return 0, false, false
	}
	bare := bytes.TrimLeft(p, "+-")
	if len(p)-len(bare) > 1 {
		return 0, false, false
	}
	if bytes.EqualFold(bare, []byte("nan")) || bytes.EqualFold(bare, []byte("inf")) || bytes.EqualFold(bare, []byte("infinity")) {
		return math.NaN(), false, true
	}
	whole = true
	for _, c := range bare {
		if c-'0' >= 10 {
			if whole = false; c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-' {
				return 0, false, false
			}
		}
	}
	v, err := strconv.ParseFloat(unsafe.String(&p[0], len(p)), 64)
	if err != nil && !math.IsInf(v, 0) {
		return 0, false, false
	}
	return v, whole && math.Abs(v) <= maxExact, true
}
