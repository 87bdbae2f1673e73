// Package chunk packs samples of one series into few bytes and back. It is pure: no network, database, log or clock.
package chunk

import (
	"errors"

	"millrace/devices"
)

// MaxSamples is the most samples that a chunk holds.
const MaxSamples = 1 << 16

// ErrCorrupt is wrapped by Decode's errors.
var ErrCorrupt = errors.New("corrupt chunk")

// Columns are samples of one series as parallel slices. The same length, or empty where that is said.
type Columns struct {
	Times   []int64           // Unix milliseconds, rising strictly
	Values  []float64         // Float, Int, Bool (0, 1); latitude of a Location; 0 of a String
	Lons    []float64         // longitude of a Location, else empty
	Texts   []string          // of a String, else empty
	Quality []devices.Quality // empty: all good
}

// Len is the number of samples.
func (c *Columns) Len() int { return len(c.Times) }

// Reset empties the columns and keeps their room.
func (c *Columns) Reset() {
	c.Times, c.Values, c.Lons, c.Texts, c.Quality = c.Times[:0], c.Values[:0], c.Lons[:0], c.Texts[:0], c.Quality[:0]
}

// A Summary is what a chunk's row tells beside its data.
type Summary struct {
	Start                      int64 // Unix milliseconds of the first sample
	Span                       int64 // milliseconds from the first sample to the last
	N                          int
	First, Last, Min, Max, Sum float64         // of Values
	Quality                    devices.Quality // the worst
}
