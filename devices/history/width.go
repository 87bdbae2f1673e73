package history

import "millrace/devices"

const (
	secondMs = 1000
	minuteMs = 60 * secondMs
)

// widths are how wide buckets may be, in milliseconds; beyond the last they double.
var widths = [...]int64{
	1, 2, 5, 10, 20, 50, 100, 200, 500,
	1 * secondMs, 2 * secondMs, 5 * secondMs, 10 * secondMs, 15 * secondMs, 20 * secondMs, 30 * secondMs,
	1 * minuteMs, 2 * minuteMs, 5 * minuteMs, 10 * minuteMs, 15 * minuteMs, 20 * minuteMs, 30 * minuteMs,
	1 * hourMs, 2 * hourMs, 3 * hourMs, 4 * hourMs, 6 * hourMs, 8 * hourMs, 12 * hourMs,
	1 * dayMs, 2 * dayMs, 7 * dayMs, 14 * dayMs, 28 * dayMs,
}

// BucketWidth is the smallest width, in milliseconds, with which the times from q.From on and before q.To lie in no more than q.Buckets buckets that begin at multiples of
// it; more than one bucket is needed where such a multiple lies between the two at any width (around 1970), however few are asked for. 0 if samples are asked for.
func BucketWidth(q devices.HistoryQuery) int64 {
	if q.Buckets <= 0 || q.To <= q.From {
		return 0
	}
	touched := func(w int64) int64 { return floorDiv(q.To-1, w) - floorDiv(q.From, w) + 1 }
	for _, w := range widths {
		if touched(w) <= int64(q.Buckets) {
			return w
		}
	}
	w := widths[len(widths)-1]
	for touched(w) > int64(q.Buckets) && w < 1<<60 {
		w *= 2
	}
	return w
}

// Width is BucketWidth.
func (*Store) Width(q devices.HistoryQuery) int64 { return BucketWidth(q) }
