package codec

import (
	"unicode/utf16"
	"unicode/utf8"
)

// text reads the string at hand. plain says that it is a part of the payload; otherwise it is in d.scratch until the next text.
// RFC 8259, 7; text that is no UTF-8, and halves of surrogate pairs, are refused.
func (d *Decoder) text() (b []byte, plain, ok bool) {
	p := d.p
	from := d.i + 1
	ascii := true
	for i := from; i < len(p); i++ {
		switch c := p[i]; {
		case c == '"':
			d.i = i + 1
			b = p[from:i]
			if !ascii && !utf8.Valid(b) {
				return nil, false, d.fail(KindJSON, from, "a text that is no UTF-8")
			}
			return b, true, true
		case c == '\\':
			return d.escaped(from, i)
		case c < ' ':
			return nil, false, d.fail(KindJSON, i, "a control character in a text")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false, d.fail(KindJSON, from-1, "a text without its end")
}

// escaped goes on with text at its first backslash.
func (d *Decoder) escaped(from, i int) (b []byte, plain, ok bool) {
	p := d.p
	out := append(d.scratch[:0], p[from:i]...)
	defer func() { d.scratch = out }()
	for i < len(p) {
		switch c := p[i]; {
		case c == '"':
			d.i = i + 1
			if !utf8.Valid(out) {
				return nil, false, d.fail(KindJSON, from, "a text that is no UTF-8")
			}
			return out, false, true
		case c < ' ':
			return nil, false, d.fail(KindJSON, i, "a control character in a text")
		case c != '\\':
			out = append(out, c)
			i++
		default:
			n := 2
			e := byte(0)
			if i+1 < len(p) {
				e = p[i+1]
			}
			switch e {
			case '"', '\\', '/':
				out = append(out, e)
			case 'b':
				out = append(out, '\b')
			case 'f':
				out = append(out, '\f')
			case 'n':
				out = append(out, '\n')
			case 'r':
				out = append(out, '\r')
			case 't':
				out = append(out, '\t')
			case 'u':
				r := hex4(p, i+2)
				n = 6
				if utf16.IsSurrogate(r) && i+7 < len(p) && p[i+6] == '\\' && p[i+7] == 'u' {
					r = utf16.DecodeRune(r, hex4(p, i+8))
					n = 12
				}
				if r < 0 || r == utf8.RuneError && n == 12 || utf16.IsSurrogate(r) {
					return nil, false, d.fail(KindJSON, i, "an escape that is no character")
				}
				out = utf8.AppendRune(out, r)
			default:
				return nil, false, d.fail(KindJSON, i, "an escape that JSON doesn't know")
			}
			i += n
		}
	}
	return nil, false, d.fail(KindJSON, from-1, "a text without its end")
}

// hex4 reads four hexadecimal digits; -1 if they are none.
func hex4(p []byte, i int) rune {
	if i+4 > len(p) {
		return -1
	}
	var r rune
	for _, c := range p[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
