package chunk

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"millrace/devices"
)

// A chunk's data: the version, flags, and then as streams the times' differences, the qualities if the flag says so, and the values: one column of
// floats, two of a location, and of strings the dictionary (their number, then length and bytes of each) and a stream of its indexes.
const (
	version = 1

	withQuality = 1 // flag
)

// scratch is what packing and unpacking need on the side.
type scratch struct {
	ints  []int64
	index map[string]int64
	texts []string
}

var scratches = sync.Pool{New: func() any { return &scratch{index: map[string]int64{}} }}

func (s *scratch) integers(n int) []int64 {
	s.ints = slices.Grow(s.ints[:0], n)[:n]
	return s.ints
}

// give returns the scratch without the strings of others.
func (s *scratch) give() {
	clear(s.index)
	clear(s.texts)
	s.texts = s.texts[:0]
	scratches.Put(s)
}

// Append appends the data of a chunk of c, which must hold one sample at least and no more than MaxSamples. Its first time is not in the data, but in
// the row. It allocates nothing but what dst lacks.
func Append(dst []byte, k devices.Kind, c *Columns) []byte {
	s := scratches.Get().(*scratch)
	defer s.give()
	n := c.Len()
	flags := byte(0)
	if !good(c.Quality) {
		flags |= withQuality
	}
	dst = append(dst, version, flags)
	if n > 1 {
		ints := s.integers(n - 1)
		for i := range ints {
			ints[i] = c.Times[i+1] - c.Times[i]
		}
		dst = appendIntegers(dst, ints, look(ints))
	}
	if flags&withQuality != 0 {
		ints := s.integers(n)
		for i, q := range c.Quality {
			ints[i] = int64(q)
		}
		dst = appendIntegers(dst, ints, look(ints))
	}
	switch k {
	case devices.String:
		return appendTexts(dst, c.Texts, s)
	case devices.Location:
		return appendFloats(appendFloats(dst, c.Values, s), c.Lons, s)
	default:
		return appendFloats(dst, c.Values, s)
	}
}

func good(qualities []devices.Quality) bool {
	return !slices.ContainsFunc(qualities, func(q devices.Quality) bool { return q != devices.Good })
}

func appendTexts(dst []byte, texts []string, s *scratch) []byte {
	ints := s.integers(len(texts))
	for i, t := range texts {
		at, ok := s.index[t]
		if !ok {
			at = int64(len(s.texts))
			s.index[t] = at
			s.texts = append(s.texts, t)
		}
		ints[i] = at
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.texts)))
	for _, t := range s.texts {
		dst = append(binary.AppendUvarint(dst, uint64(len(t))), t...)
	}
	return appendIntegers(dst, ints, look(ints))
}

// Decode appends to c the n samples of a chunk whose row says that it begins at start. What is no chunk of this kind and number gives an error that wraps ErrCorrupt,
// and leaves c as it was. It copies what it needs of data.
func Decode(data []byte, k devices.Kind, start int64, n int, c *Columns) error {
	if n < 1 || n > MaxSamples {
		return fmt.Errorf("%w: %d samples", ErrCorrupt, n)
	}
	s := scratches.Get().(*scratch)
	defer s.give()
	was := c.Len()
	err := decode(&reader{data}, k, start, n, c, s)
	if err != nil {
		c.cut(was)
	}
	return err
}

// cut shortens the columns to n samples.
func (c *Columns) cut(n int) {
	c.Times, c.Values = c.Times[:min(n, len(c.Times))], c.Values[:min(n, len(c.Values))]
	c.Lons, c.Texts = c.Lons[:min(n, len(c.Lons))], c.Texts[:min(n, len(c.Texts))]
	c.Quality = c.Quality[:min(n, len(c.Quality))]
}

func decode(r *reader, k devices.Kind, start int64, n int, c *Columns, s *scratch) error {
	head, err := r.take(2)
	if err != nil {
		return err
	}
	if head[0] != version || head[1]&^withQuality != 0 {
		return fmt.Errorf("%w: version %d, flags %d", ErrCorrupt, head[0], head[1])
	}
	steps := s.integers(n - 1)
	if err := r.integers(steps); err != nil {
		return err
	}
	was := c.Len()
	c.Times = append(c.Times, start)
	for _, step := range steps {
		t := start + step
		if t <= start {
			return fmt.Errorf("%w: times don't rise", ErrCorrupt)
		}
		start = t
		c.Times = append(c.Times, t)
	}
	if head[1]&withQuality != 0 {
		ints := s.integers(n)
		if err := r.integers(ints); err != nil {
			return err
		}
		for len(c.Quality) < was {
			c.Quality = append(c.Quality, devices.Good)
		}
		for _, q := range ints {
			if q < 0 || q > int64(devices.Stale) {
				return fmt.Errorf("%w: quality %d", ErrCorrupt, q)
			}
			c.Quality = append(c.Quality, devices.Quality(q))
		}
	} else if len(c.Quality) > 0 {
		c.Quality = append(c.Quality, make([]devices.Quality, n)...)
	}
	c.Values = slices.Grow(c.Values, n)[:was+n]
	switch values := c.Values[was:]; k {
	case devices.String:
		clear(values)
		if err := r.texts(n, c, s); err != nil {
			return err
		}
	case devices.Location:
		if err := r.floats(values, s); err != nil {
			return err
		}
		at := len(c.Lons)
		c.Lons = slices.Grow(c.Lons, n)[:at+n]
		if err := r.floats(c.Lons[at:], s); err != nil {
			return err
		}
	default:
		if err := r.floats(values, s); err != nil {
			return err
		}
	}
	if len(r.data) > 0 {
		return fmt.Errorf("%w: %d bytes follow it", ErrCorrupt, len(r.data))
	}
	return nil
}

func (r *reader) texts(n int, c *Columns, s *scratch) error {
	count, err := r.uvarint()
	if err != nil {
		return err
	}
	for ; count > 0; count-- {
		length, err := r.uvarint()
		if err != nil {
			return err
		}
		if length > uint64(len(r.data)) {
			return fmt.Errorf("%w: it ends early", ErrCorrupt)
		}
		b, _ := r.take(int(length))
		s.texts = append(s.texts, string(b))
	}
	ints := s.integers(n)
	if err := r.integers(ints); err != nil {
		return err
	}
	for _, i := range ints {
		if i < 0 || i >= int64(len(s.texts)) {
			return fmt.Errorf("%w: text %d of %d", ErrCorrupt, i, len(s.texts))
		}
		c.Texts = append(c.Texts, s.texts[i])
	}
	return nil
}

// Summarize tells what a chunk's row says of c, which must not be empty.
func Summarize(_ devices.Kind, c *Columns) Summary {
	n := c.Len()
	s := Summary{Start: c.Times[0], Span: c.Times[n-1] - c.Times[0], N: n, First: c.Values[0], Last: c.Values[n-1], Min: c.Values[0], Max: c.Values[0]}
	for _, v := range c.Values {
		s.Min, s.Max = min(s.Min, v), max(s.Max, v)
		s.Sum += v
	}
	for _, q := range c.Quality {
		s.Quality = max(s.Quality, q)
	}
	return s
}
