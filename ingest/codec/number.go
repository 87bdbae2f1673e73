package codec

import (
	"math"
	"strconv"
	"time"
	"unsafe"
)

const maxExact = 1 << 53 // the largest number up to which every whole one is a float64

var powers = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// number reads the number at p[i:] (RFC 8259, 6). whole: it has neither point nor exponent and is at most 2^53 large.
// fault is what is wrong with it, or "".
func number(p []byte, i int) (v float64, whole bool, end int, fault string) {
	from := i
	negative := i < len(p) && p[i] == '-'
	if negative {
		i++
	}
	var mantissa uint64
	digits := 0 // in mantissa, without zeros in front
	first := i
	for ; i < len(p) && p[i]-'0' < 10; i++ {
		mantissa = mantissa*10 + uint64(p[i]-'0')
		if mantissa > 0 {
			digits++
		}
	}
	if i == first {
		return 0, false, i, "a number without digits"
	}
	if p[first] == '0' && i > first+1 {
		return 0, false, i, "a number with a zero in front"
	}
	whole = true
	exponent := 0
	if i < len(p) && p[i] == '.' {
		whole = false
		i++
		point := i
		for ; i < len(p) && p[i]-'0' < 10; i++ {
			mantissa = mantissa*10 + uint64(p[i]-'0')
			if mantissa > 0 {
				digits++
			}
		}
		if i == point {
			return 0, false, i, "a number that ends in its point"
		}
		exponent = point - i
	}
	if i < len(p) && p[i]|0x20 == 'e' {
		whole = false
		i++
		minus := false
		if i < len(p) && (p[i] == '+' || p[i] == '-') {
			minus = p[i] == '-'
			i++
		}
		e, start := 0, i
		for ; i < len(p) && p[i]-'0' < 10; i++ {
			e = min(e*10+int(p[i]-'0'), 1<<20)
		}
		if i == start {
			return 0, false, i, "a number that ends in its exponent"
		}
		if minus {
			e = -e
		}
		exponent += e
	}
	switch {
	case digits <= 19 && mantissa <= maxExact && exponent >= -22 && exponent <= 22:
		// Both factors are exact, so the result is rounded once and right (Clinger 1990).
		v = float64(mantissa)
		if exponent < 0 {
			v /= powers[-exponent]
		} else {
			v *= powers[exponent]
		}
		if negative && (v != 0 || !whole) {
			v = -v
		}
	default:
		whole = false
		// The string lives as long as the call: ParseFloat copies it into its error.
		v, _ = strconv.ParseFloat(unsafe.String(&p[from], i-from), 64)
		if math.IsInf(v, 0) {
			return 0, false, i, "a number too large for a float64"
		}
	}
	return v, whole, i, ""
}

func (d *Decoder) number() (v float64, whole, ok bool) {
	v, whole, end, fault := number(d.p, d.i)
	if fault != "" {
		if d.i+1 < len(d.p) && d.p[d.i] == '-' && d.p[d.i+1]|0x20 == 'i' {
			fault = "NaN and infinities are no JSON: leave the metric out, or send null"
		}
		d.fail(KindValue, d.i, fault)
		return 0, false, false
	}
	d.i = end
	return v, whole, true
}

// The largest time taken: the end of the year 9999 in Unix milliseconds.
const maxTime = 253402300799999

// time reads a time: RFC 3339 in quotes, or Unix seconds, milliseconds, microseconds or nanoseconds, told apart by size
// (also in quotes). null leaves at as it is.
func (d *Decoder) time(at *int64) bool {
	from := d.i
	switch c := d.peek(); {
	case c == 'n' && d.word("null"):
		return true
	case c == '-' || c >= '0' && c <= '9':
		ms, end, fault := unix(d.p, d.i)
		if fault != "" {
			return d.fail(KindTime, from, fault)
		}
		d.i, *at = end, ms
		return true
	case c == '"':
		b, _, ok := d.text()
		if !ok {
			return false
		}
		if ms, end, fault := unix(b, 0); fault == "" && end == len(b) {
			*at = ms
			return true
		}
		if len(b) == 0 || len(b) > 64 {
			return d.fail(KindTime, from, "ts is no time: use RFC 3339 or a Unix time")
		}
		t, err := time.Parse(time.RFC3339, unsafe.String(&b[0], len(b)))
		if err != nil {
			return d.fail(KindTime, from, "ts is no time: use RFC 3339, as in 2026-01-31T12:00:00.5Z, or a Unix time")
		}
		if t.Unix() < 0 || t.UnixMilli() > maxTime {
			return d.fail(KindTime, from, "ts is before 1970 or after 9999")
		}
		*at = t.UnixMilli()
		return true
	}
	return d.unexpected("a time")
}

// unix reads a Unix time. Below 1e11 it is seconds (up to the year 5138), below 1e14 milliseconds, below 1e17 microseconds.
func unix(p []byte, i int) (ms int64, end int, fault string) {
	v, _, end, fault := number(p, i)
	if fault != "" {
		return 0, end, fault
	}
	if v < 0 {
		return 0, end, "ts is before 1970"
	}
	scale := 1e3
	switch {
	case v >= 1e17:
		scale = 1e-6
	case v >= 1e14:
		scale = 1e-3
	case v >= 1e11:
		scale = 1
	}
	// What a float64 loses of 19 digits of nanoseconds is far below a millisecond; whole numbers of them are cut, not rounded.
	if scale < 1 {
		v = math.Floor(v / math.Round(1/scale))
	} else {
		v = math.Floor(v*scale + 1e-3) // 0.001 of a millisecond against 1.001 s becoming 1000.9999 ms
	}
	if v > maxTime {
		return 0, end, "ts is after 9999"
	}
	return int64(v), end, ""
}
