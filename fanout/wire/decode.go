package wire

import (
	"fmt"
	"math"

	"millrace/devices"
)

// Frame is what a binary frame says. Names, kinds and units of the series are in the messages before it.
type Frame struct {
	ID                                  uint32
	From, Seq                           uint64
	At                                  int64 // Unix ms
	Snapshot, Envelope, Full, Truncated bool
	Points                              []Point
}

// Point is one series in a frame. Min, Max and Count are there if the frame has Envelope; Min and Max are rounded outward to the
// precision of the band. Lon, Text and Samples are set for the kinds that have them.
type Point struct {
	Index          uint32
	T              int64
	Last, Min, Max float64
	Count          uint32
	Quality        devices.Quality
	Lon            float64
	Text           string
	HasText        bool // the value is Text
	Samples        []Sample
}

// Sample is one sample of detail full.
type Sample struct {
	T int64
	V float64
}

// reader takes columns off the front of a message.
type reader struct {
	data []byte // all
	at   int
	err  error
}

func (r *reader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.data)-r.at) {
		r.err = fmt.Errorf("frame ends at byte %d, within a column of %d bytes from %d on: %w", len(r.data), n, r.at, devices.ErrInvalid)
	}
	if r.err != nil {
		return nil
	}
	b := r.data[r.at:][:n]
	r.at += int(n)
	return b
}

// uints returns how to read the i-th of n numbers of the width.
func (r *reader) uints(n uint32, width int) func(i int) uint32 {
	b := r.take(uint64(n) * uint64(width))
	switch width {
	case 1:
		return func(i int) uint32 { return uint32(b[i]) }
	case 2:
		return func(i int) uint32 { return uint32(le.Uint16(b[2*i:])) }
	}
	return func(i int) uint32 { return le.Uint32(b[4*i:]) }
}

func (r *reader) floats(n uint64) func(i int) float64 {
	b := r.take(8 * n)
	return func(i int) float64 { return math.Float64frombits(le.Uint64(b[8*i:])) }
}

func (r *reader) pad() { r.take(uint64(pad(r.at) - r.at)) }

// DecodeFrame decodes a binary frame; ErrInvalid says where it is wrong. Nothing of data is kept. What it allocates is bounded by
// a small multiple of len(data).
func DecodeFrame(data []byte) (*Frame, error) {
	if len(data) < headerSize {
		return nil, fmt.Errorf("frame of %d bytes is shorter than its header: %w", len(data), devices.ErrInvalid)
	}
	if data[0] != Version || data[1] != KindFrame {
		return nil, fmt.Errorf("message of version %d and kind %d is no frame: %w", data[0], data[1], devices.ErrInvalid)
	}
	flags := le.Uint16(data[2:])
	if flags&^knownFlags != 0 {
		return nil, fmt.Errorf("frame has unknown flags %#x: %w", flags&^knownFlags, devices.ErrInvalid)
	}
	at := math.Float64frombits(le.Uint64(data[24:]))
	f := &Frame{ID: le.Uint32(data[4:]), From: le.Uint64(data[8:]), Seq: le.Uint64(data[16:]),
		Snapshot: flags&flagSnapshot != 0, Envelope: flags&flagEnvelope != 0, Full: flags&flagFull != 0, Truncated: flags&flagTruncated != 0}
	var ok bool
	if f.At, ok = millis(at); !ok {
		return nil, fmt.Errorf("frame was cut at no time: %w", devices.ErrInvalid)
	}
	n, m := le.Uint32(data[32:]), le.Uint32(data[36:])
	textBytes, fullBytes := le.Uint32(data[40:]), le.Uint32(data[44:])

	r := &reader{data: data, at: headerSize}
	var lon func(int) float64
	var lower, upper, index, age, count func(int) uint32
	last := r.floats(uint64(n))
	if flags&flagLon != 0 {
		lon = r.floats(uint64(n))
	}
	late := r.floats(uint64(m))
	if f.Envelope {
		lower, upper = r.uints(n, 4), r.uints(n, 4)
	}
	indexWidth := [...]int{0, 2, 4, -1}[flags>>indexShift&3]
	countWidth := [...]int{1, 2, 4, -1}[flags>>countShift&3]
	ageWidth := 1 + int(flags>>ageShift&1)
	if indexWidth < 0 || countWidth < 0 {
		return nil, fmt.Errorf("frame has flags %#x with an unknown width: %w", flags, devices.ErrInvalid)
	}
	for width := 4; width > 0; width /= 2 {
		if indexWidth == width {
			index = r.uints(n, width)
		}
		if ageWidth == width {
			age = r.uints(n, width)
		}
		if f.Envelope && countWidth == width {
			count = r.uints(n, width)
		}
	}
	var quality func(int) uint32
	if flags&flagQuality != 0 {
		quality = r.uints(n, 1)
	}
	texts := r.take(uint64(textBytes))
	var full []byte
	if f.Full {
		r.pad()
		full = r.take(uint64(fullBytes))
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.at != len(data) || !f.Full && fullBytes != 0 || flags&flagTexts == 0 && textBytes != 0 {
		return nil, fmt.Errorf("frame has %d bytes that belong to nothing: %w", len(data)-r.at, devices.ErrInvalid)
	}

	f.Points = make([]Point, n)
	used, escape := 0, uint32(1)<<(8*ageWidth)-1
	for i := range f.Points {
		p := &f.Points[i]
		p.Index, p.Last, p.Min, p.Max = uint32(i), last(i), last(i), last(i)
		if index != nil {
			p.Index = index(i)
			if i > 0 && p.Index <= f.Points[i-1].Index {
				return nil, fmt.Errorf("index %d comes after %d: %w", p.Index, f.Points[i-1].Index, devices.ErrInvalid)
			}
		}
		if lon != nil {
			p.Lon = lon(i)
		}
		if f.Envelope {
			p.Min -= float64(math.Float32frombits(lower(i)))
			p.Max += float64(math.Float32frombits(upper(i)))
			p.Count = count(i)
		}
		if a := age(i); a < escape {
			p.T = f.At - int64(a)
		} else {
			if used == int(m) {
				return nil, fmt.Errorf("frame has fewer than the needed late times: %w", devices.ErrInvalid)
			}
			if p.T, ok = millis(late(used)); !ok {
				return nil, fmt.Errorf("point %d has no time: %w", i, devices.ErrInvalid)
			}
			used++
		}
		if quality != nil {
			q := quality(i)
			if q > uint32(devices.Stale) {
				return nil, fmt.Errorf("point %d has quality %d: %w", i, q, devices.ErrInvalid)
			}
			p.Quality = devices.Quality(q)
		}
	}
	if used != int(m) {
		return nil, fmt.Errorf("frame has %d late times of which %d are needed: %w", m, used, devices.ErrInvalid)
	}
	if err := f.decodeTexts(texts); err != nil {
		return nil, err
	}
	if f.Full {
		return f, f.decodeFull(full)
	}
	return f, nil
}

// millis turns a time on the wire into whole milliseconds; ok is false for what is none.
func millis(t float64) (int64, bool) {
	if !(math.Abs(t) <= 1<<53) {
		return 0, false
	}
	return int64(t), true
}

func (f *Frame) decodeTexts(b []byte) error {
	r := &reader{data: b}
	for next := uint32(0); r.at < len(b); {
		head := r.take(8)
		if r.err != nil {
			return r.err
		}
		i := le.Uint32(head)
		text := r.take(uint64(le.Uint32(head[4:])))
		if r.err != nil {
			return r.err
		}
		if i < next || uint64(i) >= uint64(len(f.Points)) {
			return fmt.Errorf("text is for point %d: %w", i, devices.ErrInvalid)
		}
		next = i + 1
		f.Points[i].Text, f.Points[i].HasText = string(text), true
	}
	return nil
}

func (f *Frame) decodeFull(b []byte) error {
	r := &reader{data: b}
	sizes := r.uints(uint32(len(f.Points)), 4)
	r.pad()
	if r.err != nil {
		return r.err
	}
	total := uint64(0)
	for i := range f.Points {
		total += uint64(sizes(i))
	}
	if total > uint64(len(b))/16 {
		return fmt.Errorf("frame announces %d samples: %w", total, devices.ErrInvalid)
	}
	times, values := r.floats(total), r.floats(total)
	if r.err != nil {
		return r.err
	}
	if r.at != len(b) {
		return fmt.Errorf("frame has %d bytes after its samples: %w", len(b)-r.at, devices.ErrInvalid)
	}
	all := make([]Sample, total)
	for i := range all {
		t, ok := millis(times(i))
		if !ok {
			return fmt.Errorf("sample %d has no time: %w", i, devices.ErrInvalid)
		}
		all[i] = Sample{t, values(i)}
	}
	for i := range f.Points {
		n := sizes(i)
		f.Points[i].Samples, all = all[:n:n], all[n:]
	}
	return nil
}
