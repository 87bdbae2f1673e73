package main

import (
	"encoding/binary"
	"errors"
	"math"
)

// A frame's columns as offsets into the message (docs/protocol.md), so that what is asked for is read in place.
type frame struct {
	b                                []byte
	from, seq                        uint64
	at                               float64
	snapshot                         bool
	n                                int
	last, above, index, count, age   int // offsets; 0: no such column
	indexWidth, countWidth, ageWidth int
}

var errFrame = errors.New("malformed frame")

func parseFrame(b []byte, f *frame) error {
	if len(b) < 48 || b[0] != 1 || b[1] != 1 {
		return errFrame
	}
	le := binary.LittleEndian
	flags := le.Uint16(b[2:])
	n, late := int(le.Uint32(b[32:])), int(le.Uint32(b[36:]))
	*f = frame{b: b, from: le.Uint64(b[8:]), seq: le.Uint64(b[16:]), at: math.Float64frombits(le.Uint64(b[24:])), n: n, snapshot: flags&1 != 0}
	f.indexWidth, f.countWidth, f.ageWidth = [4]int{0, 2, 4, 0}[flags>>8&3], [4]int{1, 2, 4, 0}[flags>>10&3], 1+int(flags>>12&1)
	if flags&2 == 0 {
		f.countWidth = 0
	}
	at := 48
	column := func(width int) int {
		was := at
		at += n * width
		return was
	}
	f.last = column(8)
	if flags&8 != 0 {
		column(8)
	}
	at += 8 * late
	if flags&2 != 0 {
		column(4)
		f.above = column(4)
	}
	for _, width := range []int{4, 2, 1} {
		if f.indexWidth == width {
			f.index = column(width)
		}
		if f.ageWidth == width {
			f.age = column(width)
		}
		if f.countWidth == width {
			f.count = column(width)
		}
	}
	if at > len(b) {
		return errFrame
	}
	return nil
}

func (f *frame) number(at, width, i int) uint32 {
	switch width {
	case 1:
		return uint32(f.b[at+i])
	case 2:
		return uint32(binary.LittleEndian.Uint16(f.b[at+2*i:]))
	}
	return binary.LittleEndian.Uint32(f.b[at+4*i:])
}

// samples is the sum of the counts.
func (f *frame) samples() (sum uint64) {
	switch f.countWidth {
	case 1:
		for _, c := range f.b[f.count : f.count+f.n] {
			sum += uint64(c)
		}
	case 2, 4:
		for i := range f.n {
			sum += uint64(f.number(f.count, f.countWidth, i))
		}
	}
	return sum
}

// measured returns when the last sample of point i was measured, in Unix milliseconds; ok is false when its age does not fit into the column.
func (f *frame) measured(i int) (ms float64, ok bool) {
	age := f.number(f.age, f.ageWidth, i)
	return f.at - float64(age), age != 1<<(8*f.ageWidth)-1
}

// max returns the largest value of point i.
func (f *frame) max(i int) float64 {
	v := math.Float64frombits(binary.LittleEndian.Uint64(f.b[f.last+8*i:]))
	if f.above > 0 {
		v += float64(math.Float32frombits(binary.LittleEndian.Uint32(f.b[f.above+4*i:])))
	}
	return v
}

// series returns the index of point i.
func (f *frame) series(i int) uint32 {
	if f.indexWidth == 0 {
		return uint32(i)
	}
	return f.number(f.index, f.indexWidth, i)
}
