package spine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"millrace/devices"
)

// The format of a message, version 1. A message stands alone: it names every series it holds, so that any process at any
// later time can read it. There is no checksum; the file store of NATS has one per message.
//
//	message = version (1 byte, 1), count (4 bytes, little endian), count records
//	record  = flags (1 byte), series, [At], [Recv], value
//	flags   = bits 0-2 kind, bits 3-4 quality, bit 5 At as in the record before, bit 6 Recv likewise, bit 7 series is new
//	series  = bit 7 clear: uvarint number of a series already named in this message, from 0 in order of naming
//	          bit 7 set: uvarint number of its device from 0 likewise; the next unused number names a new device and is
//	          followed by text; then text, the metric
//	At      = varint difference to the record before (the first: to 0), Unix milliseconds; Recv the same
//	value   = float: 8 bytes; int: varint; bool: 1 byte; string: text; location: 8 bytes latitude, 8 bytes longitude
//	text    = uvarint length, bytes
const (
	version    = 1
	headerSize = 5

	kindMask   = 0x07
	qualityBit = 3
	sameAt     = 0x20
	sameRecv   = 0x40
	newSeries  = 0x80
)

// maxRecord bounds a record's size without its texts: flags, two numbers, two times, two floats, three lengths.
const maxRecord = 1 + 2*binary.MaxVarintLen32 + 2*binary.MaxVarintLen64 + 16 + 3*binary.MaxVarintLen32

// An encoder builds one message. The zero value is ready after reset.
type encoder struct {
	buf      []byte
	count    uint32
	at, recv int64
	gen      uint32 // of this message; slots of other generations are free
	slots    []slot // by SeriesID
	series   uint32 // named so far
	devices  map[devices.ID]uint32
}

type slot struct{ gen, index uint32 }

func (e *encoder) reset() {
	e.buf = append(e.buf[:0], version, 0, 0, 0, 0)
	e.count, e.series, e.at, e.recv = 0, 0, 0, 0
	if e.gen++; e.gen == 0 { // once in four billion messages
		clear(e.slots)
		e.gen = 1
	}
	if e.devices == nil {
		e.devices = make(map[devices.ID]uint32)
	}
	clear(e.devices)
}

// finish returns the message; it is the encoder's until the next reset.
func (e *encoder) finish() []byte {
	binary.LittleEndian.PutUint32(e.buf[1:], e.count)
	return e.buf
}

// append adds the samples and returns how many had a series that nobody knows: they are left out.
func (e *encoder) append(samples []devices.Sample, names Names) (unknown int) {
	b := e.buf
	for i := range samples {
		s := &samples[i]
		flags := byte(s.Kind)&kindMask | byte(s.Quality)<<qualityBit
		if s.At == e.at {
			flags |= sameAt
		}
		if s.Recv == e.recv {
			flags |= sameRecv
		}
		if n := int(s.Series); n >= len(e.slots) {
			e.slots = append(e.slots, make([]slot, n+1-len(e.slots)+n/2)...)
		}
		if sl := &e.slots[s.Series]; sl.gen == e.gen {
			b = append(b, flags)
			b = binary.AppendUvarint(b, uint64(sl.index))
		} else {
			device, metric := names.Name(s.Series)
			if device == "" {
				unknown++
				continue
			}
			*sl = slot{e.gen, e.series}
			e.series++
			b = append(b, flags|newSeries)
			d, known := e.devices[device]
			if !known {
				d = uint32(len(e.devices))
				e.devices[device] = d
			}
			b = binary.AppendUvarint(b, uint64(d))
			if !known {
				b = binary.AppendUvarint(b, uint64(len(device)))
				b = append(b, device...)
			}
			b = binary.AppendUvarint(b, uint64(len(metric)))
			b = append(b, metric...)
		}
		if flags&sameAt == 0 {
			b = binary.AppendVarint(b, s.At-e.at)
			e.at = s.At
		}
		if flags&sameRecv == 0 {
			b = binary.AppendVarint(b, s.Recv-e.recv)
			e.recv = s.Recv
		}
		switch s.Kind {
		case devices.Float:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.Value))
		case devices.Int:
			b = binary.AppendVarint(b, int64(s.Value))
		case devices.Bool:
			v := byte(0)
			if s.Value != 0 {
				v = 1
			}
			b = append(b, v)
		case devices.String:
			b = binary.AppendUvarint(b, uint64(len(s.Text)))
			b = append(b, s.Text...)
		case devices.Location:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.Value))
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.Lon))
		}
		e.count++
	}
	e.buf = b
	return unknown
}

// bound is at least the bytes that append will add for the samples.
func bound(samples []devices.Sample, names Names) int {
	n := 0
	var last devices.SeriesID
	for i := range samples {
		n += maxRecord + len(samples[i].Text)
		if id := samples[i].Series; id != last {
			device, metric := names.Name(id)
			n += len(device) + len(metric)
			last = id
		}
	}
	return n
}

// errFormat is what a message that this program cannot read answers.
var errFormat = errors.New("message of the spine is malformed")

// A decoder reads messages. Its tables are kept from message to message, so that after warm-up only texts are allocated.
type decoder struct {
	devices [][]byte // names, in the message's own bytes
	series  []known
	samples []devices.Sample
	unknown int // samples of series that the resolver doesn't know, left out
}

type known struct {
	id             devices.SeriesID
	kind           devices.Kind
	ok             bool
	device, metric []byte
}

// decode returns the samples of a message; they are the decoder's until the next call, and no part of them points into data.
func (d *decoder) decode(data []byte, names Resolver) ([]devices.Sample, error) {
	d.devices, d.series, d.samples, d.unknown = d.devices[:0], d.series[:0], d.samples[:0], 0
	if len(data) < headerSize {
		return nil, errFormat
	}
	if data[0] != version {
		return nil, fmt.Errorf("%w: version %d, this program reads %d", errFormat, data[0], version)
	}
	r := cursor{data: data, pos: headerSize}
	count := int(binary.LittleEndian.Uint32(data[1:]))
	var at, recv int64
	for range count {
		flags := r.byte()
		s := devices.Sample{Kind: devices.Kind(flags & kindMask), Quality: devices.Quality(flags >> qualityBit & 3)}
		if s.Kind > devices.Location {
			return nil, errFormat
		}
		n := r.uvarint()
		if flags&newSeries != 0 {
			if n == uint64(len(d.devices)) {
				d.devices = append(d.devices, r.text(128))
			}
			if n >= uint64(len(d.devices)) {
				return nil, errFormat
			}
			k := known{device: d.devices[n], metric: r.text(devices.MaxMetricName), kind: s.Kind}
			if r.bad {
				return nil, errFormat
			}
			k.id, k.ok = names.Resolve(k.device, k.metric, k.kind)
			n = uint64(len(d.series))
			d.series = append(d.series, k)
		}
		if n >= uint64(len(d.series)) {
			return nil, errFormat
		}
		k := &d.series[n]
		if k.ok && k.kind != s.Kind { // so that the resolver learns that an Int widens to Float
			k.kind = s.Kind
			k.id, k.ok = names.Resolve(k.device, k.metric, k.kind)
		}
		if flags&sameAt == 0 {
			at += r.varint()
		}
		if flags&sameRecv == 0 {
			recv += r.varint()
		}
		s.Series, s.At, s.Recv = k.id, at, recv
		switch s.Kind {
		case devices.Float:
			s.Value = r.float()
		case devices.Int:
			s.Value = float64(r.varint())
		case devices.Bool:
			if r.byte() != 0 {
				s.Value = 1
			}
		case devices.String:
			if text := r.text(devices.MaxText); k.ok {
				s.Text = string(text)
			}
		case devices.Location:
			s.Value, s.Lon = r.float(), r.float()
		}
		if r.bad {
			return nil, errFormat
		}
		if !k.ok {
			d.unknown++
			continue
		}
		d.samples = append(d.samples, s)
	}
	if r.pos != len(data) {
		return nil, errFormat
	}
	return d.samples, nil
}

// A cursor reads a message; past its end it reads zeros and remembers that it was bad.
type cursor struct {
	data []byte
	pos  int
	bad  bool
}

func (r *cursor) byte() byte {
	if r.pos >= len(r.data) {
		r.bad = true
		return 0
	}
	b := r.data[r.pos]
	r.pos++
	return b
}

func (r *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(r.data[r.pos:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.pos += n
	return v
}

func (r *cursor) varint() int64 {
	v, n := binary.Varint(r.data[r.pos:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.pos += n
	return v
}

func (r *cursor) float() float64 {
	if len(r.data)-r.pos < 8 {
		r.bad = true
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(r.data[r.pos:]))
	r.pos += 8
	if !devices.Finite(v) {
		r.bad = true
	}
	return v
}

func (r *cursor) text(max int) []byte {
	n := r.uvarint()
	if n > uint64(max) || n > uint64(len(r.data)-r.pos) {
		r.bad = true
		return nil
	}
	b := r.data[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}
