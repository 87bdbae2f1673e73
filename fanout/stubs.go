package fanout

import (
	"context"
	"time"

	"millrace/devices"
)

// Config of an engine. Zero fields mean the defaults.
type Config struct {
	Epoch       string        // names this life of the engine; viewers resume only within it. Default: 8 random characters
	Ring        time.Duration // how long ticks are kept for cursors (30 s)
	FullSamples int           // samples a tick keeps for detail "full" (10,000)
}

// Engine conflates.
type Engine struct{}

func New(c Config) *Engine { panic("stub") }

// Offer takes a batch in arrival order; the slice may be reused after it returns. It never blocks on a viewer. Samples of series that were not
// set (SetSeries) are counted and dropped.
func (e *Engine) Offer(batch []devices.Sample) { panic("stub") }

// Restore sets the last value of series as they were before a restart: state, not news; older than what is there is ignored.
func (e *Engine) Restore(batch []devices.Sample) { panic("stub") }

// Run cuts ticks and watches freshness until ctx ends.
func (e *Engine) Run(ctx context.Context) error { panic("stub") }

// SetSeries adds a series or changes its settings and groups (as given: the groups above follow).
func (e *Engine) SetSeries(s devices.Series, groups []devices.GroupPath) { panic("stub") }
func (e *Engine) RemoveSeries(id devices.SeriesID)                       { panic("stub") }

// SetGroup adds a group or changes its tick. RemoveGroup ends its subscriptions (their Err becomes ErrNotFound).
func (e *Engine) SetGroup(g devices.Group)        { panic("stub") }
func (e *Engine) RemoveGroup(p devices.GroupPath) { panic("stub") }

// Detail of frames.
type Detail uint8

const (
	Envelope Detail = iota // last, min, max, count
	Last
	Full // every sample of the window, bounded
)

// A Position is a place in the sequence of a group's ticks within one epoch.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Options of a subscription.
type Options struct {
	Group    devices.GroupPath
	Patterns []string      // "device/metric", each part may be "*"; nil: all. ErrInvalid when malformed, ErrTooLarge over 10,000
	Pace     time.Duration // least time between frames; 0: the group's tick
	Detail   Detail
	Credit   int       // frames sent but not yet acknowledged as painted: 1 or 2; 0 means 1
	From     *Position // resume after it if still possible, else the first frame is a snapshot
	// Wake is called when Next may have something. It must only signal (it runs inside the engine's tick): a non-blocking send, say.
	Wake func()
}

// Subscribe returns a subscription and what it starts with, under one lock: nothing is missed or comes twice.
func (e *Engine) Subscribe(o Options) (*Subscription, Start, error) { panic("stub") }

// Start is the answer to subscribe.
type Start struct {
	Position
	Series []Member // those there now; more come by Update.Added
}

// A Member is a series as a subscription's interest set numbers it. Index is never reused within the subscription.
type Member struct {
	Index           uint32
	*devices.Series // shared and immutable
}

// Subscription is one viewer's interest in one group from a cursor on. Its methods are for one goroutine at a time; Close may come from any.
type Subscription struct{}

// Next returns what to send now, in order: membership changes come before the first point that needs them. ok is false when nothing is due: wait for Wake.
// Next takes one credit for a frame.
func (s *Subscription) Next(now time.Time) (u Update, ok bool) { panic("stub") }

// Painted gives back the credit of all frames up to seq.
func (s *Subscription) Painted(seq uint64) { panic("stub") }

// Err says why a subscription ended by itself (its group was removed); nil while it lives.
func (s *Subscription) Err() error { panic("stub") }
func (s *Subscription) Close()     { panic("stub") }

// Update is one thing to send: either a membership change or a frame.
type Update struct {
	Added   []Member
	Removed []uint32 // indexes
	Frame   *Frame
}

// Frame is the merge of the ticks in (From, Seq], limited to an interest set. It is shared by all subscriptions with the same window, set and detail: read only.
type Frame struct {
	Group     devices.GroupPath
	Epoch     string
	From, Seq uint64
	Snapshot  bool
	At        int64 // when it was cut, Unix milliseconds
	Detail    Detail
	Truncated bool    // detail full was asked, but there were too many samples: the envelope only
	Points    []Point // by rising Index
}

// Packet returns the frame encoded by enc for the subscription number id, encoding it once for all who share it.
func (f *Frame) Packet(enc Encoder, id uint32) []byte { panic("stub") }

// Encoder turns a frame into bytes; fanout/wire has two. Comparable: it is part of a cache key.
type Encoder interface {
	AppendFrame(dst []byte, f *Frame, id uint32) []byte
}

// Point is what the window made of one series' samples. In a snapshot Min and Max equal Last and Count is 0; a point with Count 0 in a
// frame that is no snapshot tells a change of quality only (stale, or fresh again).
type Point struct {
	Member
	Kind                       devices.Kind
	Quality                    devices.Quality // worst in the window; Stale when gone stale
	T                          int64           // time of last, Unix milliseconds
	First, Last, Min, Max, Sum float64
	Lon                        float64
	Text                       string
	Count                      uint32
	Samples                    []TimedValue // detail full; nil otherwise
}

// TimedValue is one sample of a window.
type TimedValue struct {
	T int64
	V float64
}

// GroupStats is what the home page shows of a group.
type GroupStats struct {
	Series, Stale, Viewers int
	Rate                   float64 // samples a second, over about the last 5 s
	LastSample             int64   // receive time, Unix ms; 0: none
}

func (e *Engine) GroupStats(p devices.GroupPath) GroupStats { panic("stub") }

// DeviceStats returns how many of the device's series are there and stale.
func (e *Engine) LastValues(ids []devices.SeriesID) []LastPoint { panic("stub") }

// LastPoint is the present value of a series with its freshness.
type LastPoint struct {
	devices.Sample
	OK       bool          // it has a value
	Interval time.Duration // expected: set or learned; 0: not known yet
}

// Stats are counters since start, for the collector.
type Stats struct {
	Samples, UnknownSamples, LateSamples                                     uint64
	Ticks, FramesCut, FramesShared, Encodes, EncodesShared, Snapshots, Folds uint64
	Series, Groups, Subscriptions                                            int
}

func (e *Engine) Stats() Stats { panic("stub") }
