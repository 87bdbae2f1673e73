package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"millrace/devices"
	"millrace/devices/history/chunk"
)

// merge makes new chunks of a plan's runs. Data is read piece by piece, so that memory holds about batchSamples and the new chunks.
func (b *compaction) merge(ctx context.Context, u *unit, p plan) ([]compacted, error) {
	var made []compacted
	for _, r := range p.runs {
		if r.move {
			data, err := b.data(ctx, r.chunks)
			if err != nil {
				return nil, err
			}
			h := r.chunks[0]
			d, err := dataOf(&h, data)
			if err != nil {
				return nil, err
			}
			h.Fresh = false
			made = append(made, compacted{h, d})
			continue
		}
		m := merger{series: u.series, run: r}
		for i := range r.chunks {
			m.flush = max(m.flush, r.chunks[i].Flush)
		}
		for rest := r.chunks; len(rest) > 0; {
			n, samples := 0, 0
			for n < len(rest) && (n == 0 || samples < batchSamples) { // what overlaps is read at once
				k := overlapping(rest[n:])
				for _, h := range rest[n : n+k] {
					samples += int(h.N)
				}
				n += k
			}
			data, err := b.data(ctx, rest[:n])
			if err != nil {
				return nil, err
			}
			for piece := rest[:n]; len(piece) > 0; {
				k := overlapping(piece)
				if err := m.add(piece[:k], data); err != nil {
					return nil, err
				}
				piece = piece[k:]
			}
			rest = rest[n:]
		}
		m.emit(true)
		made = append(made, m.made...)
	}
	return made, nil
}

// place is where a chunk is.
type place struct {
	rel int64
	tid pgtype.TID
}

// data reads the data of chunks.
func (b *compaction) data(ctx context.Context, chunks []header) (map[place][]byte, error) {
	data := make(map[place][]byte, len(chunks))
	for rel, tids := range byPartition(chunks) {
		name, err := b.partition(ctx, rel)
		if err != nil {
			return nil, err
		}
		rows, _ := b.tx.Query(ctx, `select ctid, data from `+name+` where ctid = any(@tids::tid[])`, pgx.StrictNamedArgs{"tids": tids})
		at := place{rel: rel}
		var d []byte
		if _, err := pgx.ForEachRow(rows, []any{&at.tid, &d}, func() error {
			data[at] = d
			d = nil
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// A merger makes the chunks of one run.
type merger struct {
	run
	series  int32
	flush   int64
	waiting chunk.Columns // later than all that was emitted
	parts   []chunk.Columns
	made    []compacted
}

// add takes chunks that overlap each other, or a single one; all are later than those before.
func (m *merger) add(chunks []header, data map[place][]byte) error {
	if len(chunks) == 1 {
		if err := decode(&chunks[0], data, &m.waiting); err != nil {
			return err
		}
	} else {
		chunks = slices.Clone(chunks)
		slices.SortStableFunc(chunks, func(a, b header) int { return cmp.Compare(a.Flush, b.Flush) })
		for len(m.parts) < len(chunks) {
			m.parts = append(m.parts, chunk.Columns{})
		}
		parts := make([]*chunk.Columns, len(chunks))
		for i := range chunks {
			parts[i] = &m.parts[i]
			parts[i].Reset()
			if err := decode(&chunks[i], data, parts[i]); err != nil {
				return err
			}
		}
		chunk.Merge(&m.waiting, parts...)
	}
	m.emit(false)
	return nil
}

func dataOf(h *header, data map[place][]byte) ([]byte, error) {
	d, ok := data[place{h.Rel, h.TID}]
	if !ok {
		return nil, fmt.Errorf("series %d: the chunk at %d was gone", h.Series, h.Start)
	}
	return d, nil
}

func decode(h *header, data map[place][]byte, into *chunk.Columns) error {
	d, err := dataOf(h, data)
	if err != nil {
		return err
	}
	if err := chunk.Decode(d, h.Kind, h.Start, int(h.N), into); err != nil {
		return fmt.Errorf("series %d: the chunk at %d: %w", h.Series, h.Start, err)
	}
	return nil
}

// emit makes chunks of what waits: at the end of all, before as long as enough is left for two more.
func (m *merger) emit(end bool) {
	c, i := &m.waiting, 0
	for i < c.Len() {
		j := c.Len() // of the same hour
		closed := end
		if m.hourly {
			hourEnd := (floorDiv(c.Times[i], hourMs) + 1) * hourMs
			k, _ := slices.BinarySearch(c.Times[i:], hourEnd)
			closed = end || i+k < j
			j = i + k
		}
		n := j - i
		switch {
		case n > 2*maxCompacted:
			n = maxCompacted
		case !closed:
			m.drop(i)
			return
		case n > maxCompacted:
			n = (n + 1) / 2
		}
		m.write(slice(c, i, i+n))
		i += n
	}
	m.drop(i)
}

// drop forgets the first n of what waits.
func (m *merger) drop(n int) {
	if n == 0 {
		return
	}
	c := &m.waiting
	c.Times = slices.Delete(c.Times, 0, n)
	c.Values = slices.Delete(c.Values, 0, n)
	if len(c.Lons) > 0 {
		c.Lons = slices.Delete(c.Lons, 0, n)
	}
	if len(c.Texts) > 0 {
		c.Texts = slices.Delete(c.Texts, 0, n)
	}
	if len(c.Quality) > 0 {
		c.Quality = slices.Delete(c.Quality, 0, n)
	}
}

// slice is a part of columns, in the same memory.
func slice(c *chunk.Columns, i, j int) *chunk.Columns {
	s := &chunk.Columns{Times: c.Times[i:j], Values: c.Values[i:j]}
	if len(c.Lons) > 0 {
		s.Lons = c.Lons[i:j]
	}
	if len(c.Texts) > 0 {
		s.Texts = c.Texts[i:j]
	}
	if len(c.Quality) > 0 && slices.ContainsFunc(c.Quality[i:j], func(q devices.Quality) bool { return q != devices.Good }) {
		s.Quality = c.Quality[i:j]
	}
	return s
}

func (m *merger) write(c *chunk.Columns) {
	s := chunk.Summarize(m.kind, c)
	m.made = append(m.made, compacted{data: chunk.Append(nil, m.kind, c), header: header{Series: m.series, Flush: m.flush, Kind: m.kind, Fresh: m.fresh,
		Start: s.Start, Span: int32(s.Span), N: int32(s.N), Quality: s.Quality, First: s.First, Last: s.Last, Min: s.Min, Max: s.Max, Sum: s.Sum}})
}
