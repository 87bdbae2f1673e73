package history

import (
	"encoding/binary"
	"io"
	"math"

	"millrace/devices/history/chunk"
)

// copyChunks is fed with the rows of copier.
const copyChunks = `copy history_chunk (start, flush, first, last, min, max, sum, series, span, n, kind, quality, data) from stdin binary`

const copyBuffer = 32 << 10 // bytes made at a time

// copier is rows of history_chunk in PostgreSQL's binary format of COPY, made as they are read.
type copier struct {
	flush int64
	parts []part // still to come
	ended bool
	buf   []byte
	at    int // what of buf was read

	row chunk.Columns // of the part under way

	samples, bytes uint64 // made since begin
}

// begin starts anew with these parts.
func (r *copier) begin(flush int64, parts []part) {
	*r = copier{flush: flush, parts: parts, buf: append(r.buf[:0], "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)}
}

// end lets go of the samples.
func (r *copier) end() { r.parts, r.row = nil, chunk.Columns{} }

func (r *copier) Read(p []byte) (int, error) {
	if r.at == len(r.buf) {
		if r.ended {
			return 0, io.EOF
		}
		r.buf, r.at = r.buf[:0], 0
	}
	for !r.ended && len(r.buf) < copyBuffer {
		if len(r.parts) == 0 {
			r.buf = append(r.buf, 0xff, 0xff)
			r.ended = true
			break
		}
		r.make(&r.parts[0])
		r.parts = r.parts[1:]
	}
	n := copy(p, r.buf[r.at:])
	r.at += n
	return n, nil
}

// make appends a row: the number of columns, and each with its length before it.
func (r *copier) make(p *part) {
	r.row = p.columns()
	s := chunk.Summarize(p.kind, &r.row)
	b := append(r.buf, 0, 13)
	for _, v := range [...]uint64{uint64(s.Start), uint64(r.flush), math.Float64bits(s.First), math.Float64bits(s.Last), math.Float64bits(s.Min),
		math.Float64bits(s.Max), math.Float64bits(s.Sum)} {
		b = binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), v)
	}
	for _, v := range [...]int32{p.disk, int32(s.Span), int32(s.N)} {
		b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), uint32(v))
	}
	for _, v := range [...]uint16{uint16(p.kind), uint16(s.Quality)} {
		b = binary.BigEndian.AppendUint16(append(b, 0, 0, 0, 2), v)
	}
	b = append(b, 0, 0, 0, 0)
	before := len(b)
	b = chunk.Append(b, p.kind, &r.row)
	n := len(b) - before
	binary.BigEndian.PutUint32(b[before-4:], uint32(n))
	r.buf = b
	r.samples += uint64(s.N)
	r.bytes += uint64(n)
}
