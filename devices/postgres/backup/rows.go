package backup

import (
	"encoding/binary"
	"errors"
)

var errRows = errors.New("its rows can't be read")

// rowCounter walks what COPY (format binary) gives: signature and header (11 + 4 bytes, then a length and so many more), then for each row the number of
// its fields (16 bits; -1 ends it) and for each field its length (32 bits; -1 is null) and value. PostgreSQL 17, COPY, "Binary Format".
type rowCounter struct {
	rows   int64
	state  int
	number [15]byte // being gathered
	have   int
	skip   int64 // bytes of a value
	fields int
}

const (
	atSignature = iota
	atExtension
	atRow
	atField
	atEnd
)

const signature = "PGCOPY\n\xff\r\n\x00"

var widths = [...]int{atSignature: 15, atExtension: 4, atRow: 2, atField: 4}

func (c *rowCounter) Write(p []byte) (int, error) {
	all := len(p)
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, int64(len(p)))
			p, c.skip = p[n:], c.skip-n
			continue
		}
		if c.state == atEnd {
			return 0, errRows
		}
		n := copy(c.number[c.have:widths[c.state]], p)
		p, c.have = p[n:], c.have+n
		if c.have < widths[c.state] {
			break
		}
		c.have = 0
		if err := c.step(); err != nil {
			return 0, err
		}
	}
	return all, nil
}

func (c *rowCounter) step() error {
	switch c.state {
	case atSignature:
		if string(c.number[:11]) != signature {
			return errRows
		}
		c.state = atExtension
	case atExtension:
		c.skip, c.state = int64(binary.BigEndian.Uint32(c.number[:])), atRow
	case atRow:
		switch n := int16(binary.BigEndian.Uint16(c.number[:])); {
		case n == -1:
			c.state = atEnd
		case n < 0:
			return errRows
		default:
			c.rows++
			if c.fields = int(n); n > 0 {
				c.state = atField
			}
		}
	case atField:
		if n := int32(binary.BigEndian.Uint32(c.number[:])); n > 0 {
			c.skip = int64(n)
		} else if n < -1 {
			return errRows
		}
		if c.fields--; c.fields == 0 {
			c.state = atRow
		}
	}
	return nil
}

// complete reports whether the end was seen and nothing is missing.
func (c *rowCounter) complete() bool { return c.state == atEnd && c.skip == 0 }
