package operator_test

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
)

// A past is what was offered, in the order of its times, and answers the pages' questions as GET /api/v1/history does.
type past struct {
	mu      sync.Mutex
	samples map[devices.SeriesID][]devices.Sample
	asked   int
	refuse  bool
}

func (p *past) add(all []devices.Sample) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range all {
		list := p.samples[v.Series]
		at, same := slices.BinarySearchFunc(list, v.At, func(s devices.Sample, t int64) int { return cmp.Compare(s.At, t) })
		if same {
			list[at] = v
			continue
		}
		p.samples[v.Series] = slices.Insert(list, at, v)
	}
}

func (p *past) fail(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// The widths of docs/protocol.md up to an hour are all that these tests need; then multiples of it.
func width(from, to int64, most int64) int64 {
	for _, w := range []int64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_200_000, 1_800_000, 3_600_000,
		7_200_000, 10_800_000, 14_400_000, 21_600_000, 28_800_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000} {
		if (to-1)/w-from/w+1 <= most {
			return w
		}
	}
	return 14 * 86_400_000
}

type column struct {
	Device string    `json:"device"`
	Metric string    `json:"metric"`
	T      []int64   `json:"t"`
	First  []float64 `json:"first"`
	Last   []float64 `json:"last"`
	Min    []float64 `json:"min"`
	Max    []float64 `json:"max"`
	Sum    []float64 `json:"sum"`
	Count  []int64   `json:"count"`
	Text   []string  `json:"text,omitempty"`
}

func (s *site) history(c *fiber.Ctx) error {
	s.past.mu.Lock()
	defer s.past.mu.Unlock()
	s.past.asked++
	if s.past.refuse {
		return devices.ErrUnavailable
	}
	from, _ := strconv.ParseInt(c.Query("from"), 10, 64)
	to, _ := strconv.ParseInt(c.Query("to"), 10, 64)
	most, _ := strconv.ParseInt(c.Query("buckets"), 10, 64)
	if c.Query("shape") != "columns" || from >= to || most < 1 || most > 5000 {
		return devices.Invalid("buckets", "this is not what the pages ask for: %s", c.Request().URI().QueryString())
	}
	w := width(from, to, most)
	series := []column{}
	for _, b := range c.Context().QueryArgs().PeekMulti("series") {
		device, metric, _ := strings.Cut(string(b), "/")
		d := s.catalog.Device(devices.ID(device))
		if d == nil || !auth.Caller(c).CanAny(devices.Viewer, d.Info().Groups) {
			return devices.ErrNotFound
		}
		var id devices.SeriesID
		for _, other := range d.AllSeries() {
			if v, _, _ := s.catalog.Series(other); v.Metric == metric {
				id = other
			}
		}
		o := column{Device: device, Metric: metric, T: []int64{}}
		list := s.past.samples[id]
		at, _ := slices.BinarySearchFunc(list, from, func(s devices.Sample, t int64) int { return cmp.Compare(s.At, t) })
		for _, v := range list[at:] {
			if v.At >= to {
				break
			}
			k := len(o.T) - 1
			if k < 0 || v.At-v.At%w != o.T[k] {
				k++
				o.T, o.First, o.Last, o.Min, o.Max = append(o.T, v.At-v.At%w), append(o.First, v.Value), append(o.Last, v.Value), append(o.Min, v.Value), append(o.Max, v.Value)
				o.Sum, o.Count = append(o.Sum, 0), append(o.Count, 0)
				if v.Kind == devices.String {
					o.Text = append(o.Text, "")
				}
			}
			o.Last[k], o.Min[k], o.Max[k] = v.Value, min(o.Min[k], v.Value), max(o.Max[k], v.Value)
			o.Sum[k] += v.Value
			o.Count[k]++
			if v.Kind == devices.String {
				o.Text[k] = v.Text
			}
		}
		series = append(series, o)
	}
	return c.JSON(fiber.Map{"from": from, "to": to, "width": w, "series": series})
}
