package history

import (
	"cmp"
	"slices"

	"millrace/devices"
)

// A run is chunks that follow each other or overlap and become few, or a single one that is to be where it stays.
type run struct {
	chunks []header // by start, then flush
	kind   devices.Kind
	hourly bool // what comes of it is cut at the hours
	move   bool // it stays as it is, but not where it is
	fresh  bool // what comes of it is going to be merged again
}

// A plan says what becomes of the chunks of a unit.
type plan struct {
	runs  []run
	kept  []header // of the hours, as they are
	hours []int32  // whose rollups are to be made anew; sorted
	mark  bool     // the day is slow and not over: to be looked at again then
}

func (p plan) samples() int {
	n := 0
	for _, r := range p.runs {
		for i := range r.chunks {
			n += int(r.chunks[i].N)
		}
	}
	return n
}

// planUnit decides. A slow day that is over becomes one chunk. Other days are compacted hour by hour, and if a chunk of the whole day
// is there from when it was slow, all of the day is cut into hours.
func planUnit(u *unit) (p plan) {
	samples, spans := 0, false
	for i := range u.there {
		h := &u.there[i]
		samples += int(h.N)
		spans = spans || floorDiv(h.Start, hourMs) != floorDiv(h.end(), hourMs)
	}
	slow := samples <= maxDay
	p = plan{mark: slow && samples > 0 && !u.final}
	defer p.settle()
	if slow && u.final || spans {
		for h := range int32(24) {
			p.hours = append(p.hours, int32(u.day*24)+h)
		}
		p.split(u.there, !slow)
		return p
	}
	p.hours = slices.Clone(u.hours)
	if !p.mark { // of a day that seemed slow when they were compacted
		for i := range u.there {
			if h := int32(floorDiv(u.there[i].Start, hourMs)); u.there[i].Fresh {
				p.hours = append(p.hours, h)
			}
		}
		slices.Sort(p.hours)
		p.hours = slices.Compact(p.hours)
	}
	starts := func(h header, t int64) int { return cmp.Compare(h.Start, t) }
	for _, hour := range p.hours {
		from, _ := slices.BinarySearchFunc(u.there, int64(hour)*hourMs, starts)
		to, _ := slices.BinarySearchFunc(u.there, (int64(hour)+1)*hourMs, starts)
		p.split(u.there[from:to], false)
	}
	return p
}

// abandon is the plan that leaves all chunks as they are.
func (p plan) abandon() plan {
	for _, r := range p.runs {
		p.kept = append(p.kept, r.chunks...)
	}
	p.runs = nil
	return p
}

// settle says where what comes of it goes: what is not going to be merged again when the day is over goes where it stays.
func (p *plan) settle() {
	for i := range p.runs {
		p.runs[i].fresh = p.mark
	}
	if p.mark {
		return
	}
	stays := p.kept[:0]
	for _, h := range p.kept {
		if h.Fresh {
			p.runs = append(p.runs, run{chunks: []header{h}, kind: h.Kind, move: true})
		} else {
			stays = append(stays, h)
		}
	}
	p.kept = stays
}

// split sorts chunks, by start, into runs and those that stay. Chunks that overlap go together. What is large already, what can't
// be merged because the series has changed its kind, and what would take too much memory stays, and parts the run before it
// from the one after it. With hourly, chunks may cross hours, and what crosses must be cut.
func (p *plan) split(chunks []header, hourly bool) {
	var r run
	flush := func() {
		if len(r.chunks) > 1 || hourly && len(r.chunks) == 1 && crosses(&r.chunks[0]) {
			p.runs = append(p.runs, r)
		} else {
			p.kept = append(p.kept, r.chunks...)
		}
		r = run{hourly: hourly}
	}
	flush()
	for len(chunks) > 0 {
		n := overlapping(chunks)
		c := chunks[:n]
		chunks = chunks[n:]
		kind, ok := commonKind(c)
		total := 0
		for i := range c {
			total += int(c[i].N)
		}
		switch {
		case !ok, n > 1 && total > maxOverlap, n == 1 && total >= fullChunk && !(hourly && crosses(&c[0])):
			flush()
			p.kept = append(p.kept, c...)
			continue
		}
		if len(r.chunks) > 0 {
			both, ok := mergedKind(r.kind, kind)
			if !ok {
				flush()
			} else {
				kind = both
			}
		}
		r.kind, r.chunks = kind, append(r.chunks, c...)
	}
	flush()
}

func crosses(h *header) bool { return floorDiv(h.Start, hourMs) != floorDiv(h.end(), hourMs) }

// overlapping counts the chunks from the first on that overlap each other, directly or through others.
func overlapping(chunks []header) int {
	n, end := 1, chunks[0].end()
	for n < len(chunks) && chunks[n].Start <= end {
		end = max(end, chunks[n].end())
		n++
	}
	return n
}

func commonKind(chunks []header) (k devices.Kind, ok bool) {
	k, ok = chunks[0].Kind, true
	for i := range chunks {
		if k, ok = mergedKind(k, chunks[i].Kind); !ok {
			return k, false
		}
	}
	return k, true
}

// mergedKind is the kind of a chunk with samples of both: a series that was whole numbers once may be floats now.
func mergedKind(a, b devices.Kind) (devices.Kind, bool) {
	if a == b {
		return a, true
	}
	return devices.Float, a.Numeric() && b.Numeric()
}
