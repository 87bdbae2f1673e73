package wire

import (
	"encoding/binary"
	"math"
	"slices"

	"millrace/devices"
	"millrace/fanout"
)

// Version and kind of a binary message, its first two bytes.
const (
	Version   = 1
	KindFrame = 1
)

// Flags of a binary frame.
const (
	flagSnapshot  = 0x0001
	flagEnvelope  = 0x0002
	flagQuality   = 0x0004
	flagLon       = 0x0008
	flagTexts     = 0x0010
	flagFull      = 0x0020
	flagTruncated = 0x0040

	indexShift, countShift, ageShift = 8, 10, 12 // two bits each

	knownFlags = 0x007f | 3<<indexShift | 3<<countShift | 1<<ageShift
)

// Widths of the index column.
const (
	indexNone = iota // 0, 1, 2 …
	index16
	index32
)

const headerSize = 48

// Binary is the encoder of binary frames (docs/frames.md).
type Binary struct{}

var le = binary.LittleEndian

// AppendFrame appends the frame as subscription id's message. Positions of columns are relative to the start of the message,
// so they are aligned in memory when dst is empty.
func (Binary) AppendFrame(dst []byte, f *fanout.Frame, id uint32) []byte {
	var p plan
	p.of(f)
	start := len(dst)
	dst = slices.Grow(dst, p.size)
	dst = append(dst, Version, KindFrame)
	dst = le.AppendUint16(dst, p.flags)
	dst = le.AppendUint32(dst, id)
	dst = le.AppendUint64(dst, f.From)
	dst = le.AppendUint64(dst, f.Seq)
	dst = appendFloat(dst, float64(f.At))
	dst = le.AppendUint32(dst, uint32(len(f.Points)))
	dst = le.AppendUint32(dst, uint32(p.late))
	dst = le.AppendUint32(dst, uint32(p.texts))
	dst = le.AppendUint32(dst, uint32(p.full))

	for i := range f.Points {
		dst = appendFloat(dst, last(&f.Points[i]))
	}
	if p.flags&flagLon != 0 {
		for i := range f.Points {
			dst = appendFloat(dst, f.Points[i].Lon)
		}
	}
	for i := range f.Points {
		if age := f.At - f.Points[i].T; age < 0 || age >= p.ageEscape {
			dst = appendFloat(dst, float64(f.Points[i].T))
		}
	}
	if p.flags&flagEnvelope != 0 {
		for i := range f.Points {
			pt := &f.Points[i]
			dst = le.AppendUint32(dst, math.Float32bits(below(pt)))
		}
		for i := range f.Points {
			pt := &f.Points[i]
			dst = le.AppendUint32(dst, math.Float32bits(above(pt)))
		}
	}
	// Four bytes, then two, then one, so that each column starts aligned.
	for width := 4; width > 0; width /= 2 {
		if p.indexWidth == width {
			for i := range f.Points {
				dst = appendUint(dst, f.Points[i].Index, width)
			}
		}
		if p.ageWidth == width {
			for i := range f.Points {
				age := f.At - f.Points[i].T
				if age < 0 || age >= p.ageEscape {
					age = p.ageEscape
				}
				dst = appendUint(dst, uint32(age), width)
			}
		}
		if p.countWidth == width {
			for i := range f.Points {
				dst = appendUint(dst, f.Points[i].Count, width)
			}
		}
	}
	if p.flags&flagQuality != 0 {
		for i := range f.Points {
			dst = append(dst, byte(f.Points[i].Quality))
		}
	}
	for i := range f.Points {
		if pt := &f.Points[i]; pt.Kind == devices.String {
			dst = le.AppendUint32(dst, uint32(i))
			dst = le.AppendUint32(dst, uint32(len(pt.Text)))
			dst = append(dst, pt.Text...)
		}
	}
	if p.full > 0 {
		dst = appendPad(dst, start)
		for i := range f.Points {
			dst = le.AppendUint32(dst, uint32(len(f.Points[i].Samples)))
		}
		dst = appendPad(dst, start)
		for i := range f.Points {
			for _, s := range f.Points[i].Samples {
				dst = appendFloat(dst, float64(s.T))
			}
		}
		for i := range f.Points {
			for _, s := range f.Points[i].Samples {
				dst = appendFloat(dst, s.V)
			}
		}
	}
	return dst
}

// AppendRenumbered appends packet, a frame, with another subscription's number.
func (Binary) AppendRenumbered(dst, packet []byte, id uint32) []byte {
	start := len(dst)
	dst = append(dst, packet...)
	le.PutUint32(dst[start+4:], id)
	return dst
}

// plan is which columns a frame needs and how wide.
type plan struct {
	flags                            uint16
	indexWidth, countWidth, ageWidth int // bytes; 0: no column
	ageEscape                        int64
	late, texts, full, size          int
}

func (p *plan) of(f *fanout.Frame) {
	n := len(f.Points)
	var maxIndex, maxCount uint32
	contiguous := true
	late8, late16, samples := 0, 0, 0
	for i := range f.Points {
		pt := &f.Points[i]
		contiguous = contiguous && pt.Index == uint32(i)
		maxIndex, maxCount = max(maxIndex, pt.Index), max(maxCount, pt.Count)
		age := f.At - pt.T
		if age < 0 || age >= math.MaxUint8 {
			late8++
		}
		if age < 0 || age >= math.MaxUint16 {
			late16++
		}
		if pt.Quality != devices.Good {
			p.flags |= flagQuality
		}
		switch pt.Kind {
		case devices.Location:
			p.flags |= flagLon
		case devices.String:
			p.flags |= flagTexts
			p.texts += 8 + len(pt.Text)
		}
		samples += len(pt.Samples)
	}
	if f.Snapshot {
		p.flags |= flagSnapshot
	}
	if f.Truncated {
		p.flags |= flagTruncated
	}
	switch {
	case contiguous:
	case maxIndex <= math.MaxUint16:
		p.indexWidth = 2
		p.flags |= index16 << indexShift
	default:
		p.indexWidth = 4
		p.flags |= index32 << indexShift
	}
	p.ageWidth, p.ageEscape, p.late = 1, math.MaxUint8, late8
	if 2*n+8*late16 < n+8*late8 {
		p.ageWidth, p.ageEscape, p.late = 2, math.MaxUint16, late16
		p.flags |= 1 << ageShift
	}
	p.size = headerSize + n*(8+p.indexWidth+p.ageWidth) + 8*p.late + p.texts
	if f.Detail != fanout.Last {
		p.flags |= flagEnvelope
		switch {
		case maxCount <= math.MaxUint8:
			p.countWidth = 1
		case maxCount <= math.MaxUint16:
			p.countWidth = 2
			p.flags |= 1 << countShift
		default:
			p.countWidth = 4
			p.flags |= 2 << countShift
		}
		p.size += n * (8 + p.countWidth)
	}
	if p.flags&flagLon != 0 {
		p.size += 8 * n
	}
	if p.flags&flagQuality != 0 {
		p.size += n
	}
	if f.Detail == fanout.Full && !f.Truncated && !f.Snapshot {
		p.flags |= flagFull
		p.full = pad(4*n) + 16*samples
		p.size = pad(p.size) + p.full
	}
}

// last is the value column: the number, 0 or 1 of a boolean, 0 of a string, the latitude of a location.
func last(p *fanout.Point) float64 {
	if p.Kind == devices.String {
		return 0
	}
	return p.Last
}

// below returns last - min, rounded up so that the band covers min.
func below(p *fanout.Point) float32 {
	if !p.Kind.Numeric() {
		return 0
	}
	return outward(p.Last-p.Min, func(d float64) bool { return p.Last-d <= p.Min })
}

// above returns max - last, rounded up so that the band covers max.
func above(p *fanout.Point) float32 {
	if !p.Kind.Numeric() {
		return 0
	}
	return outward(p.Max-p.Last, func(d float64) bool { return p.Last+d >= p.Max })
}

func outward(d float64, covers func(float64) bool) float32 {
	f := float32(d)
	for !covers(float64(f)) {
		f = math.Nextafter32(f, float32(math.Inf(1)))
	}
	return f
}

func pad(n int) int { return (n + 7) &^ 7 }

// appendPad appends zeros up to a multiple of eight from start.
func appendPad(dst []byte, start int) []byte {
	for (len(dst)-start)%8 != 0 {
		dst = append(dst, 0)
	}
	return dst
}

func appendFloat(dst []byte, v float64) []byte { return le.AppendUint64(dst, math.Float64bits(v)) }

func appendUint(dst []byte, v uint32, width int) []byte {
	switch width {
	case 1:
		return append(dst, byte(v))
	case 2:
		return le.AppendUint16(dst, uint16(v))
	}
	return le.AppendUint32(dst, v)
}
