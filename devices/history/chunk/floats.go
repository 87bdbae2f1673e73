package chunk

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// A column of floats is one byte and then: for 0 to 15, integers that divided by that power of ten are the values; for xored, the
// bits of the first value, two bytes lead and width, and the exclusive or of each value with the one before without the lead bits at
// the upper end and all below the width bits after them.
const (
	maxDecimals = 15
	xored       = 16

	exact = 1 << 53 // integers below are floats exactly
)

var tens = [maxDecimals + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// scaled is v times 10 to the d, if the division gives v back to the bit.
func scaled(v float64, d int) (int64, bool) {
	f := math.RoundToEven(v * tens[d])
	if !(f > -exact && f < exact) {
		return 0, false
	}
	i := int64(f)
	return i, float64(i)/tens[d] == v && (i != 0 || !math.Signbit(v))
}

// scale fills ints with values times the smallest power of ten that makes integers of all.
func scale(ints []int64, values []float64) (d int, ok bool) {
	for {
		top := d
		for i, v := range values {
			for {
				if n, ok := scaled(v, d); ok {
					ints[i] = n
					break
				}
				if d++; d > maxDecimals {
					return 0, false
				}
			}
			if d > top && i > 0 { // the ones before must be scaled anew
				break
			}
			top = d
		}
		if d == top {
			return d, true
		}
	}
}

func appendFloats(dst []byte, values []float64, s *scratch) []byte {
	ints := s.integers(len(values))
	size := math.MaxInt
	var p plan
	d, ok := scale(ints, values)
	if ok {
		p = look(ints)
		size = p.size
	}
	if size > 3*len(values) { // decimals of many digits: the bits may be fewer
		lead, width := xorWidth(values)
		if 10+((len(values)-1)*width+7)/8 < size {
			return appendXored(append(dst, xored), values, lead, width)
		}
	}
	return appendIntegers(append(dst, byte(d)), ints, p)
}

// xorWidth tells how many bits at the upper end are 0 in all exclusive ors of neighbours, and how many follow up to the lowest that is 1 in one.
func xorWidth(values []float64) (lead, width int) {
	var any uint64
	for i := 1; i < len(values); i++ {
		any |= math.Float64bits(values[i]) ^ math.Float64bits(values[i-1])
	}
	if any == 0 {
		return 64, 0
	}
	lead = bits.LeadingZeros64(any)
	return lead, 64 - lead - bits.TrailingZeros64(any)
}

func appendXored(dst []byte, values []float64, lead, width int) []byte {
	prev := math.Float64bits(values[0])
	dst = append(binary.LittleEndian.AppendUint64(dst, prev), byte(lead), byte(width))
	shift := 64 - lead - width
	var b bitWriter
	for _, v := range values[1:] {
		x := math.Float64bits(v)
		dst = b.add(dst, (x^prev)>>shift, width)
		prev = x
	}
	return b.end(dst)
}

// floats fills dst, which is not empty.
func (r *reader) floats(dst []float64, s *scratch) error {
	mode, err := r.byte()
	if err != nil {
		return err
	}
	switch {
	case mode <= maxDecimals:
		ints := s.integers(len(dst))
		if err := r.integers(ints); err != nil {
			return err
		}
		by := tens[mode]
		for i, n := range ints {
			dst[i] = float64(n) / by
		}
		return nil
	case mode != xored:
		return fmt.Errorf("%w: floats of mode %d", ErrCorrupt, mode)
	}
	head, err := r.take(10)
	if err != nil {
		return err
	}
	x, lead, width := binary.LittleEndian.Uint64(head), int(head[8]), int(head[9])
	if lead+width > 64 {
		return fmt.Errorf("%w: %d and %d bits", ErrCorrupt, lead, width)
	}
	data, err := r.take(((len(dst)-1)*width + 7) / 8)
	if err != nil {
		return err
	}
	shift := 64 - lead - width
	b := bitReader{data: data}
	dst[0] = math.Float64frombits(x)
	for i := range dst[1:] {
		x ^= b.next(width) << shift
		dst[i+1] = math.Float64frombits(x)
	}
	return nil
}
