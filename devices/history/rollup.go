package history

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
)

// rollupFrom is the number of samples that an hour must exceed to be rolled up.
const rollupFrom = 240

const deleteRollups = `delete from history_hour h using unnest(@series::int[], @hours::int[]) as u (series, hour) where h.series = u.series and h.hour = u.hour`

var rollupColumns = []string{"first", "last", "min", "max", "sum", "series", "hour", "n", "quality"}

// A rollup is a row of history_hour.
type rollup struct {
	series, hour, n            int32
	first, last, min, max, sum float64
	quality                    devices.Quality
}

// rollupChanges gathers what becomes of rollups in a batch.
type rollupChanges struct {
	old  []dirtyHour
	made []rollup
}

// add makes the rollups of a unit's hours anew, of the chunks, by start, that these have now. Compacted chunks overlap no others, so
// headers say all. An hour where they do overlap (the kind of the series has changed), or that one which crosses hours touches, has no rollup.
func (r *rollupChanges) add(u *unit, hours []int32, chunks []*header) {
	for _, h := range hours {
		r.old = append(r.old, dirtyHour{u.series, h})
	}
	covered := int64(math.MinInt64) // the last hour of one that crosses
	for _, hour := range hours {
		n := 0
		for n < len(chunks) && floorDiv(chunks[n].Start, hourMs) == int64(hour) {
			if crosses(chunks[n]) {
				covered = max(covered, floorDiv(chunks[n].end(), hourMs))
			}
			n++
		}
		if sum, ok := rollUp(chunks[:n]); ok && int64(hour) > covered {
			sum.series, sum.hour = u.series, hour
			r.made = append(r.made, sum)
		}
		chunks = chunks[n:]
	}
}

// rollUp adds up the chunks of an hour, by start; ok is false when it is to have no rollup.
func rollUp(chunks []*header) (r rollup, ok bool) {
	for i, h := range chunks {
		if !h.Kind.Numeric() && h.Kind != devices.Bool {
			return r, false
		}
		if i == 0 {
			r.first, r.min, r.max = h.First, h.Min, h.Max
		} else if _, ok := mergedKind(h.Kind, chunks[0].Kind); !ok || h.Start <= chunks[i-1].end() {
			return r, false
		}
		r.last, r.min, r.max, r.sum = h.Last, min(r.min, h.Min), max(r.max, h.Max), r.sum+h.Sum
		r.n, r.quality = r.n+h.N, max(r.quality, h.Quality)
	}
	return r, r.n > rollupFrom
}

func (r *rollupChanges) write(ctx context.Context, tx pgx.Tx) error {
	series, hours := hourColumns(r.old)
	if _, err := tx.Exec(ctx, deleteRollups, pgx.StrictNamedArgs{"series": series, "hours": hours}); err != nil {
		return err
	}
	if len(r.made) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"history_hour"}, rollupColumns, pgx.CopyFromSlice(len(r.made), func(i int) ([]any, error) {
		m := &r.made[i]
		return []any{m.first, m.last, m.min, m.max, m.sum, m.series, m.hour, m.n, int16(m.quality)}, nil
	}))
	return err
}
