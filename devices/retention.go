package devices

// Forever is the number of days of what is never deleted.
const Forever = 0

// MaxRetention is the longest retention in days that is not for ever.
const MaxRetention = 36500

// Retention says how long the samples of a device stay.
type Retention struct {
	Site   int               // days; Forever
	Groups map[GroupPath]int // days of the groups that have their own; Forever
}

// Days of a device in these groups: the longest of them, where a group without its own takes that of the group above it, and at
// the top the site's. Longest is Forever.
func (r Retention) Days(in []GroupPath) int {
	if len(in) == 0 {
		return r.Site
	}
	days := -1
	for _, p := range in {
		d := r.Of(p)
		if d == Forever {
			return Forever
		}
		days = max(days, d)
	}
	return days
}

// Of is the retention of a group in days.
func (r Retention) Of(p GroupPath) int {
	for ; p != Site; p = p.Parent() {
		if d, own := r.Groups[p]; own {
			return d
		}
	}
	return r.Site
}

// A HistorySize is what is recorded of some series.
type HistorySize struct {
	Samples int64 // those that were sent more than once count once only when they are compacted
	Bytes   int64 // about, on disk
	Oldest  int64 // Unix milliseconds; 0: nothing is recorded
}

// Add adds another.
func (s *HistorySize) Add(o HistorySize) {
	s.Samples, s.Bytes = s.Samples+o.Samples, s.Bytes+o.Bytes
	if o.Oldest != 0 && (s.Oldest == 0 || o.Oldest < s.Oldest) {
		s.Oldest = o.Oldest
	}
}
