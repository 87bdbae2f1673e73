package chunk

import (
	"cmp"
	"slices"

	"millrace/devices"
)

// Walk calls each with stretches of the parts' samples, from on and before to, in the order of their times. Where parts have samples of the same time, that of
// the later part is right and the others are left out.
func Walk(parts []*Columns, each func(part, from, to int)) {
	apart := true
	end, any := int64(0), false
	for _, p := range parts {
		if p.Len() == 0 {
			continue
		}
		apart = apart && (!any || end < p.Times[0])
		end, any = p.Times[p.Len()-1], true
	}
	if apart {
		for k, p := range parts {
			if p.Len() > 0 {
				each(k, 0, p.Len())
			}
		}
		return
	}
	type place struct {
		t        int64
		part, at int
	}
	var places []place
	for k, p := range parts {
		for i, t := range p.Times {
			places = append(places, place{t, k, i})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.t, b.t), a.part-b.part) })
	for i, p := range places {
		if i+1 == len(places) || places[i+1].t != p.t {
			each(p.part, p.at, p.at+1)
		}
	}
}

// Merge appends to dst, which must end before they begin or be empty, the samples of all parts in the order of their times. For the same time
// that of the later part is right, the others are left out. All must be of one kind; strings are shared, the rest is copied.
func Merge(dst *Columns, parts ...*Columns) {
	Walk(parts, func(part, from, to int) { dst.append(parts[part], from, to) })
}

// append adds the samples from i on and before j of c.
func (dst *Columns) append(c *Columns, i, j int) {
	was := dst.Len()
	dst.Times = append(dst.Times, c.Times[i:j]...)
	dst.Values = append(dst.Values, c.Values[i:j]...)
	if len(c.Lons) > 0 {
		dst.Lons = append(dst.Lons, c.Lons[i:j]...)
	}
	if len(c.Texts) > 0 {
		dst.Texts = append(dst.Texts, c.Texts[i:j]...)
	}
	switch {
	case len(c.Quality) > 0:
		for len(dst.Quality) < was {
			dst.Quality = append(dst.Quality, devices.Good)
		}
		dst.Quality = append(dst.Quality, c.Quality[i:j]...)
	case len(dst.Quality) > 0:
		for range j - i {
			dst.Quality = append(dst.Quality, devices.Good)
		}
	}
}
