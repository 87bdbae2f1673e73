package pages

import (
	"fmt"
	"math"
	"strings"
	"time"

	"millrace/devices"
)

// A RetentionForm is the choice of how long samples stay, as typed.
type RetentionForm struct {
	Keep  string // "inherit", "forever", "days"
	Days  string
	Above string // what it means to inherit
}

// RetentionText says how long samples stay.
func RetentionText(days int) string {
	if days == devices.Forever {
		return "for ever"
	}
	return Count(days, "day")
}

// RetentionOf says how long samples of a group stay, and where that is said.
func RetentionOf(r devices.Retention, p devices.GroupPath) string {
	text := RetentionText(r.Of(p))
	for at := p; at != devices.Site; at = at.Parent() {
		if _, own := r.Groups[at]; own && at == p {
			return text
		} else if own {
			return text + ", from " + string(at)
		}
	}
	return text + ", the site's default"
}

// A Loss is what saving would delete, and what must come back with the form as a sign that this is wanted.
type Loss struct {
	Text, Value string
	Missed      bool // it did not come back
}

// Recorded is what is recorded of a device or group, and how long that stays. The zero value shows nothing.
type Recorded struct {
	Shown bool
	Size  devices.HistorySize
	Keeps string // "30 days, from plant1"
}

// RecordedText says how much is recorded: "about 1 200 000 samples (3.4 MiB) since 2026-01-31"; "" for nothing.
func RecordedText(s devices.HistorySize) string {
	if s.Samples == 0 {
		return ""
	}
	return fmt.Sprintf("%s recorded samples (%s) since %s", About(s.Samples), Bytes(uint64(s.Bytes)), Date(s.Oldest))
}

// About writes a count that need not be exact, in three digits when it is large.
func About(n int64) string {
	if n < 100_000 {
		return thousands(n)
	}
	step := int64(math.Pow10(int(math.Log10(float64(n))) - 2))
	return "about " + thousands((n+step/2)/step*step)
}

// Date is the day of a time in Unix milliseconds.
func Date(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02") }

// bytesAPoint writes how many bytes a sample takes.
func bytesAPoint(bytes, samples int64) string {
	if samples == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(bytes)/float64(samples))
}

// deletedText says what was deleted since the start, and what is left to be.
func deletedText(h HistoryStatus) string {
	var parts []string
	for _, p := range []struct {
		n    uint64
		text string
	}{{h.Dropped, "partitions too old"}, {h.Expired, "chunks too old"}, {h.Purged, "chunks of deleted series"}} {
		if p.n > 0 {
			parts = append(parts, thousands(p.n)+" "+p.text)
		}
	}
	if h.Doomed > 0 {
		parts = append(parts, thousands(h.Doomed)+" deleted series to be purged")
	}
	return strings.Join(parts, ", ")
}
