package chunk

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// A stream of integers is one byte, mode | order<<3, and then what the mode says. Of order 1 are the differences of neighbours,
// of order 2 the differences of these; the first value (and the first difference) stand before as zigzag varints. Streams of no
// values have no bytes. Writers choose what is smallest.
const (
	constant = 0 // a zigzag varint that all are
	varints  = 1 // a zigzag varint each
	packed   = 2 // the least as zigzag varint, a byte of width w, then how far each is above it, in w bits
	runs     = 3 // the number of runs as uvarint, then for each its value as zigzag varint and its length as uvarint

	orders = 3
)

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func uvarintLen(u uint64) int { return (bits.Len64(u|1) + 6) / 7 }

// shape is what a writer must know of a stream to choose a mode.
type shape struct {
	n        int
	min, max int64
	varints  int // bytes
	runs     int
	runBytes int
	prev     int64
	length   uint64 // of the run that is open
}

func (s *shape) add(v int64) {
	s.varints += uvarintLen(zigzag(v))
	if s.n == 0 {
		s.min, s.max = v, v
	} else {
		s.min, s.max = min(s.min, v), max(s.max, v)
		if v == s.prev {
			s.n++
			s.length++
			return
		}
		s.close()
	}
	s.n++
	s.prev, s.length = v, 1
}

// close counts the open run.
func (s *shape) close() {
	s.runs++
	s.runBytes += uvarintLen(zigzag(s.prev)) + uvarintLen(s.length)
}

func (s *shape) width() int { return bits.Len64(uint64(s.max) - uint64(s.min)) }

// best is the smallest mode and its size in bytes; the shape must be closed.
func (s *shape) best() (mode byte, size int) {
	if s.runs <= 1 {
		return constant, uvarintLen(zigzag(s.min))
	}
	mode, size = varints, s.varints
	if p := uvarintLen(zigzag(s.min)) + 1 + (s.n*s.width()+7)/8; p < size {
		mode, size = packed, p
	}
	if r := uvarintLen(uint64(s.runs)) + s.runBytes; r < size {
		mode, size = runs, r
	}
	return mode, size
}

// plan is how a stream of integers is to be written.
type plan struct {
	order, mode byte
	size        int // bytes
	shape       shape
}

// look chooses the smallest way to write values, of which there must be one at least.
func look(values []int64) plan {
	var s [orders]shape
	var prev, step int64
	for i, v := range values {
		s[0].add(v)
		if i > 0 {
			d := v - prev
			s[1].add(d)
			if i > 1 {
				s[2].add(d - step)
			}
			step = d
		}
		prev = v
	}
	var p plan
	head := 1
	for order := range s {
		if s[order].n == 0 {
			break
		}
		s[order].close()
		mode, size := s[order].best()
		if size += head; order == 0 || size < p.size {
			p = plan{order: byte(order), mode: mode, size: size, shape: s[order]}
		}
		switch {
		case order == 0:
			head += uvarintLen(zigzag(values[0]))
		case len(values) > 1:
			head += uvarintLen(zigzag(values[1] - values[0]))
		}
	}
	return p
}

// appendIntegers writes values, which it overwrites, as p says.
func appendIntegers(dst []byte, values []int64, p plan) []byte {
	dst = append(dst, p.mode|p.order<<3)
	for range p.order {
		dst = binary.AppendUvarint(dst, zigzag(values[0]))
		for i := 0; i+1 < len(values); i++ {
			values[i] = values[i+1] - values[i]
		}
		values = values[:len(values)-1]
	}
	switch p.mode {
	case constant:
		dst = binary.AppendUvarint(dst, zigzag(values[0]))
	case varints:
		for _, v := range values {
			dst = binary.AppendUvarint(dst, zigzag(v))
		}
	case packed:
		least, w := p.shape.min, p.shape.width()
		dst = append(binary.AppendUvarint(dst, zigzag(least)), byte(w))
		var b bitWriter
		for _, v := range values {
			dst = b.add(dst, uint64(v)-uint64(least), w)
		}
		dst = b.end(dst)
	case runs:
		dst = binary.AppendUvarint(dst, uint64(p.shape.runs))
		for i := 0; i < len(values); {
			j := i + 1
			for j < len(values) && values[j] == values[i] {
				j++
			}
			dst = binary.AppendUvarint(binary.AppendUvarint(dst, zigzag(values[i])), uint64(j-i))
			i = j
		}
	}
	return dst
}

// reader takes a chunk's data from the front.
type reader struct{ data []byte }

func (r *reader) byte() (byte, error) {
	if len(r.data) == 0 {
		return 0, fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b, nil
}

func (r *reader) uvarint() (uint64, error) {
	u, n := binary.Uvarint(r.data)
	if n <= 0 {
		return 0, fmt.Errorf("%w: a number is cut or too long", ErrCorrupt)
	}
	r.data = r.data[n:]
	return u, nil
}

func (r *reader) take(n int) ([]byte, error) {
	if n > len(r.data) {
		return nil, fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b, nil
}

// integers fills dst.
func (r *reader) integers(dst []int64) error {
	if len(dst) == 0 {
		return nil
	}
	head, err := r.byte()
	if err != nil {
		return err
	}
	mode, order := head&7, int(head>>3)
	if order >= orders || order >= len(dst) {
		return fmt.Errorf("%w: order %d of %d values", ErrCorrupt, order, len(dst))
	}
	for i := range order {
		u, err := r.uvarint()
		if err != nil {
			return err
		}
		dst[i] = unzigzag(u)
	}
	if err := r.mode(mode, dst[order:]); err != nil {
		return err
	}
	for ; order > 0; order-- { // dst[order-1] is the first of what dst[order:] are the differences of
		for i := order; i < len(dst); i++ {
			dst[i] += dst[i-1]
		}
	}
	return nil
}

func (r *reader) mode(mode byte, dst []int64) error {
	switch mode {
	case constant:
		u, err := r.uvarint()
		if err != nil {
			return err
		}
		v := unzigzag(u)
		for i := range dst {
			dst[i] = v
		}
	case varints:
		for i := range dst {
			u, err := r.uvarint()
			if err != nil {
				return err
			}
			dst[i] = unzigzag(u)
		}
	case packed:
		u, err := r.uvarint()
		if err != nil {
			return err
		}
		w, err := r.byte()
		if err != nil {
			return err
		}
		if w > 64 {
			return fmt.Errorf("%w: %d bits", ErrCorrupt, w)
		}
		data, err := r.take((len(dst)*int(w) + 7) / 8)
		if err != nil {
			return err
		}
		b, least := bitReader{data: data}, uint64(unzigzag(u))
		for i := range dst {
			dst[i] = int64(least + b.next(int(w)))
		}
	case runs:
		n, err := r.uvarint()
		if err != nil {
			return err
		}
		for ; n > 0; n-- {
			u, err := r.uvarint()
			if err != nil {
				return err
			}
			length, err := r.uvarint()
			if err != nil {
				return err
			}
			if length > uint64(len(dst)) {
				return fmt.Errorf("%w: a run is too long", ErrCorrupt)
			}
			v := unzigzag(u)
			for i := range dst[:length] {
				dst[i] = v
			}
			dst = dst[length:]
		}
		if len(dst) > 0 {
			return fmt.Errorf("%w: runs are missing", ErrCorrupt)
		}
	default:
		return fmt.Errorf("%w: mode %d", ErrCorrupt, mode)
	}
	return nil
}

// bitWriter packs numbers as PostgreSQL's get_bit counts bits: bit n is in byte n/8, from the least significant on.
type bitWriter struct {
	acc  uint64
	fill int
}

func (b *bitWriter) add(dst []byte, v uint64, w int) []byte {
	b.acc |= v << b.fill
	if b.fill += w; b.fill < 64 {
		return dst
	}
	dst = binary.LittleEndian.AppendUint64(dst, b.acc)
	b.fill -= 64
	b.acc = v >> (w - b.fill)
	return dst
}

func (b *bitWriter) end(dst []byte) []byte {
	for ; b.fill > 0; b.fill -= 8 {
		dst = append(dst, byte(b.acc))
		b.acc >>= 8
	}
	return dst
}

type bitReader struct {
	data []byte
	at   int // bit
}

// next returns the next w bits, which must be there.
func (b *bitReader) next(w int) (v uint64) {
	i, skip := b.at>>3, b.at&7
	b.at += w
	if i+9 <= len(b.data) {
		v = binary.LittleEndian.Uint64(b.data[i:])>>skip | uint64(b.data[i+8])<<1<<(63-skip)
	} else {
		for k, got := i, -skip; got < w && k < len(b.data); k, got = k+1, got+8 {
			if got < 0 {
				v = uint64(b.data[k]) >> -got
			} else {
				v |= uint64(b.data[k]) << got
			}
		}
	}
	if w < 64 {
		v &= 1<<w - 1
	}
	return v
}
