package history

import (
	"slices"

	"millrace/devices"
	"millrace/devices/history/chunk"
)

// What a fresh chunk holds at most.
const (
	hour         = 3_600_000 // milliseconds: no chunk goes over the end of one
	chunkSamples = 1024
)

// textUnit is how many bytes of text count as a sample of what may wait.
const textUnit = 16

// A Run is samples of one kind in time order, as they would be read from a chunk.
type Run struct {
	Kind devices.Kind
	chunk.Columns
}

// gathered is what came of one series since the last flush, as columns in the order of arrival. A number takes 16 bytes, before
// what append keeps in reserve.
type gathered struct {
	id       devices.SeriesID
	kind     devices.Kind
	unsorted bool // times don't rise strictly
	chunk.Columns
	kinds []devices.Kind // by sample, once there are several that no common one can hold; then Lons and Texts are empty or of full length
}

// units is what a sample counts of what may wait.
func units(s *devices.Sample) int { return 1 + len(s.Text)/textUnit }

// plain makes zero of the negative zero that a device's rounding of something tiny gives: it is the same number, and no whole number of
// hundredths, so that it would make a chunk of such as large as one of noise.
func plain(v float64) float64 {
	if v == 0 {
		return 0
	}
	return v
}

// add takes a sample.
func (g *gathered) add(s *devices.Sample) {
	n := len(g.Times)
	if n == 0 {
		g.kind = s.Kind
	} else {
		if s.At <= g.Times[n-1] {
			g.unsorted = true
		}
		if (s.Kind != g.kind || g.kinds != nil) && !g.join(s.Kind, n) {
			g.kinds = append(g.kinds, s.Kind)
		}
	}
	g.Times = append(g.Times, s.At)
	g.Values = append(g.Values, plain(s.Value))
	if s.Quality != devices.Good || len(g.Quality) > 0 {
		g.Quality = append(pad(g.Quality, n), s.Quality)
	}
	if s.Kind == devices.Location || len(g.Lons) > 0 {
		g.Lons = append(pad(g.Lons, n), plain(s.Lon))
	}
	if s.Kind == devices.String || len(g.Texts) > 0 {
		g.Texts = append(pad(g.Texts, n), s.Text)
	}
}

// join makes room for another kind after n samples. It reports whether one kind holds all, as Float does for Int.
func (g *gathered) join(k devices.Kind, n int) bool {
	if g.kinds == nil && g.kind.Numeric() && k.Numeric() {
		g.kind = devices.Float
		return true
	}
	if g.kinds == nil {
		g.kinds = slices.Repeat([]devices.Kind{g.kind}, n)
	}
	return false
}

// pad fills a column up to n with zeros.
func pad[T any](column []T, n int) []T {
	if short := n - len(column); short > 0 {
		column = append(column, make([]T, short)...)
	}
	return column
}

// reset empties g and keeps its room, unless it has much more than it needed this time.
func (g *gathered) reset() {
	if n := len(g.Times); cap(g.Times) > 4*n+64 {
		*g = gathered{id: g.id}
		return
	}
	clear(g.Texts) // which others may not keep alive
	g.Columns.Reset()
	g.kinds, g.unsorted = nil, false
}

// sorted returns g with times that rise strictly: for each time the sample received last. It is g itself if nothing is to be done.
func (g *gathered) sorted() *gathered {
	if !g.unsorted {
		return g
	}
	order := make([]int32, len(g.Times))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch s, t := g.Times[a], g.Times[b]; {
		case s < t:
			return -1
		case s > t:
			return 1
		}
		return 0
	})
	last := 0 // of what is kept
	for i := 1; i < len(order); i++ {
		if g.Times[order[i]] != g.Times[order[last]] {
			last++
		}
		order[last] = order[i]
	}
	order = order[:last+1]
	return &gathered{id: g.id, kind: g.kind, kinds: pick(g.kinds, order), Columns: chunk.Columns{Times: pick(g.Times, order), Values: pick(g.Values, order),
		Lons: pick(g.Lons, order), Texts: pick(g.Texts, order), Quality: pick(g.Quality, order)}}
}

func pick[T any](column []T, places []int32) []T {
	if len(column) == 0 {
		return nil
	}
	out := make([]T, len(places))
	for i, p := range places {
		out[i] = column[p]
	}
	return out
}

// runs calls each with the ends of every run of one kind in samples from to to. Numbers that follow each other are all Float if one of them
// is, or if the series is known to be.
func (g *gathered) runs(from, to int, known devices.Kind, each func(from, to int, k devices.Kind)) {
	widen := func(k devices.Kind) devices.Kind {
		if k == devices.Int && known == devices.Float {
			return devices.Float
		}
		return k
	}
	if g.kinds == nil {
		if from < to {
			each(from, to, widen(g.kind))
		}
		return
	}
	for from < to {
		k, end := g.kinds[from], from+1
		for ; end < to && (g.kinds[end] == k || g.kinds[end].Numeric() && k.Numeric()); end++ {
			if g.kinds[end] == devices.Float {
				k = devices.Float
			}
		}
		each(from, end, widen(k))
		from = end
	}
}

// chunks calls each for every chunk that is to be made of g, which is sorted.
func (g *gathered) chunks(known devices.Kind, each func(from, to int, k devices.Kind)) {
	g.runs(0, len(g.Times), known, func(from, to int, k devices.Kind) {
		for from < to {
			end, full := from+1, min(to, from+chunkSamples)
			if next := (hourOf(g.Times[from]) + 1) * hour; g.Times[full-1] < next {
				end = full
			} else {
				for end < full && g.Times[end] < next {
					end++
				}
			}
			each(from, end, k)
			from = end
		}
	})
}

// view returns some of the samples as columns that share g's memory.
func (g *gathered) view(from, to int, k devices.Kind) chunk.Columns {
	c := chunk.Columns{Times: g.Times[from:to], Values: g.Values[from:to]}
	if k == devices.Location {
		c.Lons = g.Lons[from:to]
	}
	if k == devices.String {
		c.Texts = g.Texts[from:to]
	}
	if len(g.Quality) > 0 {
		if q := g.Quality[from:to]; slices.ContainsFunc(q, func(q devices.Quality) bool { return q != devices.Good }) {
			c.Quality = q
		}
	}
	return c
}

// addAll appends all of another's samples that lie from from on and before to, which were received later than g's.
func (g *gathered) addAll(other *gathered, from, to int64) {
	s := devices.Sample{Series: g.id}
	for i, at := range other.Times {
		if at < from || at >= to {
			continue
		}
		s.At, s.Value, s.Kind = at, other.Values[i], other.kind
		s.Quality, s.Lon, s.Text = devices.Good, 0, ""
		if other.kinds != nil {
			s.Kind = other.kinds[i]
		}
		if len(other.Quality) > 0 {
			s.Quality = other.Quality[i]
		}
		if len(other.Lons) > 0 {
			s.Lon = other.Lons[i]
		}
		if len(other.Texts) > 0 {
			s.Text = other.Texts[i]
		}
		g.add(&s)
	}
}

// hourOf returns the hours from 1970 to t, Unix milliseconds.
func hourOf(t int64) int64 {
	h := t / hour
	if t%hour < 0 {
		h--
	}
	return h
}
