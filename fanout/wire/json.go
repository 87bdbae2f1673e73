package wire

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"

	"millrace/devices"
	"millrace/fanout"
)

// JSON is the encoder of JSON frames (docs/frames.md).
type JSON struct{}

const jsonStart = `{"type":"frame","id":`

// AppendFrame appends the frame as subscription id's message.
func (JSON) AppendFrame(dst []byte, f *fanout.Frame, id uint32) []byte {
	dst = append(dst, jsonStart...)
	dst = strconv.AppendUint(dst, uint64(id), 10)
	dst = append(dst, `,"epoch":`...)
	dst = AppendString(dst, f.Epoch)
	dst = append(dst, `,"from":`...)
	dst = strconv.AppendUint(dst, f.From, 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, f.Seq, 10)
	dst = append(dst, `,"snapshot":`...)
	dst = strconv.AppendBool(dst, f.Snapshot)
	dst = append(dst, `,"at":`...)
	dst = strconv.AppendInt(dst, f.At, 10)
	if f.Truncated {
		dst = append(dst, `,"truncated":true`...)
	}
	dst = append(dst, `,"points":[`...)
	for i := range f.Points {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendPoint(dst, f, &f.Points[i])
	}
	return append(dst, "]}"...)
}

func appendPoint(dst []byte, f *fanout.Frame, p *fanout.Point) []byte {
	dst = append(dst, `{"device":`...)
	dst = AppendString(dst, string(p.Device))
	dst = append(dst, `,"metric":`...)
	dst = AppendString(dst, p.Metric)
	dst = append(dst, `,"t":`...)
	dst = strconv.AppendInt(dst, p.T, 10)
	dst = append(dst, `,"last":`...)
	switch p.Kind {
	case devices.Bool:
		dst = strconv.AppendBool(dst, p.Last != 0)
	case devices.String:
		dst = AppendString(dst, p.Text)
	case devices.Location:
		dst = append(dst, `{"lat":`...)
		dst = AppendFloat(dst, p.Last)
		dst = append(dst, `,"lon":`...)
		dst = AppendFloat(dst, p.Lon)
		dst = append(dst, '}')
	default:
		dst = AppendFloat(dst, p.Last)
	}
	if f.Detail != fanout.Last {
		if p.Kind.Numeric() {
			dst = append(dst, `,"min":`...)
			dst = AppendFloat(dst, p.Min)
			dst = append(dst, `,"max":`...)
			dst = AppendFloat(dst, p.Max)
		}
		dst = append(dst, `,"count":`...)
		dst = strconv.AppendUint(dst, uint64(p.Count), 10)
	}
	dst = append(dst, `,"quality":"`...)
	dst = append(dst, p.Quality.String()...)
	dst = append(dst, '"')
	if f.Detail == fanout.Full && !f.Truncated && !f.Snapshot {
		dst = append(dst, `,"samples":[`...)
		for i, s := range p.Samples {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '[')
			dst = strconv.AppendInt(dst, s.T, 10)
			dst = append(dst, ',')
			dst = AppendFloat(dst, s.V)
			dst = append(dst, ']')
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// AppendRenumbered appends packet, a frame, with another subscription's number.
func (JSON) AppendRenumbered(dst, packet []byte, id uint32) []byte {
	dst = append(dst, jsonStart...)
	dst = strconv.AppendUint(dst, uint64(id), 10)
	rest := packet[len(jsonStart):]
	return append(dst, rest[bytes.IndexByte(rest, ','):]...)
}

// AppendFloat appends a number as encoding/json does: shortest digits that read back the same, exponents for the very
// small and large. What JSON has no number for (NaN, infinities) becomes null.
func AppendFloat(dst []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, v, format, -1, 64)
	if format == 'e' {
		// e-09 to e-9
		if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
	}
	return dst
}

const hex = "0123456789abcdef"

// AppendString appends a quoted string. Bytes that are no UTF-8 become U+FFFD; U+2028 and U+2029 are escaped, so that the
// result is also valid in JavaScript of before 2019, and so are < > & as encoding/json does it.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, `\n`...)
			case '\r':
				dst = append(dst, `\r`...)
			case '\t':
				dst = append(dst, `\t`...)
			case '\b':
				dst = append(dst, `\b`...)
			case '\f':
				dst = append(dst, `\f`...)
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\u202`...)
			dst = append(dst, hex[r&15])
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
