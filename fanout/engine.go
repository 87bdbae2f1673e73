package fanout

import (
	"crypto/rand"
	"sync"
	"time"

	"millrace/devices"
)

// Config of an engine. Zero fields mean the defaults.
type Config struct {
	Epoch       string        // names this life of the engine; viewers resume only within it. Default: 8 random characters
	Ring        time.Duration // how long ticks are kept for cursors (30 s)
	RingBytes   int           // size of all rings together (64 MiB); a point of one number takes 24 bytes, others 64
	FullSamples int           // samples a tick and a frame keep for detail "full" (10,000)
}

func (c Config) withDefaults() Config {
	if c.Epoch == "" {
		c.Epoch = rand.Text()[:8]
	}
	if c.Ring <= 0 {
		c.Ring = 30 * time.Second
	}
	if c.RingBytes <= 0 {
		c.RingBytes = 64 << 20
	}
	if c.FullSamples <= 0 {
		c.FullSamples = 10_000
	}
	return c
}

// Engine conflates. See the package comment for what runs under which lock.
type Engine struct {
	config Config
	count  counters
	pool   pools
	kick   chan struct{} // tells Run that a listening group got its first change
	folder chan struct{} // tells the folding goroutine of Run that folds wait

	mu       sync.Mutex // before interest.mu, before in
	base     time.Time  // what monotonic times count from: the first time that was seen
	seen     int64      // the newest time, monotonic
	seq      uint64     // the last tick's number, of whichever group
	moves    uint64     // changes of which series is in which groups
	groups   map[devices.GroupPath]*group
	cells    map[string]*cell // by cellKey
	cold     []cold           // by SeriesID
	byDevice map[devices.ID][]devices.SeriesID
	active   []*group // those that evaluate at wakeAt
	subs     int
	stored   int     // bytes in all rings
	trimAt   int64   // when rings are next looked through for old ticks; 0: they are empty
	folds    []*fold // not yet worked off by the folding goroutine
	wheel    wheel

	in      sync.Mutex // what producers need: held for the length of a batch, or to swap open ticks
	series  []hot      // by SeriesID
	text    []textLon  // by SeriesID, grown when a series is a string or location
	dirty   []*cell    // those that listening groups must hear of
	recheck []devices.SeriesID
	signal  bool // kick Run when in is released
	intake  intake
}

// intake counts under Engine.in.
type intake struct{ samples, unknown, late uint64 }

// hot is what Offer needs of a series: one cache line.
type hot struct {
	cell    *cell // nil: not set
	gen     uint32
	open    uint32 // its point in cell.open, if gen is the cell's
	at      int64  // time of the last value, Unix ms
	recv    int64  // when a sample last came, Unix ms
	value   float64
	due     int64   // when its freshness is next looked at, Unix ms; 0: never
	gap     float32 // expected interval in ms: set, or smoothed; 0: not known
	dev     float32 // smoothed deviation of gap
	slot    uint32
	kind    devices.Kind
	quality devices.Quality // of the last value
	flags   uint8
}

// Flags of hot.
const (
	hasValue   = 1 << iota
	isStale    // no sample for too long
	fixedGap   // the interval is set, not learned
	isRestored // has only what Restore gave it
)

// cold is what the engine knows of a series beside its value.
type cold struct {
	series *devices.Series // nil: not set
	groups []*group        // with those above, sorted by path
	since  []uint64        // Engine.moves when it came into each of them
}

// textLon holds what strings and locations have beside a number.
type textLon struct {
	text string
	lon  float64
}

// New returns an engine without series and groups. Nothing is cut until Run runs.
func New(c Config) *Engine {
	c = c.withDefaults()
	return &Engine{
		config:   c,
		kick:     make(chan struct{}, 1),
		folder:   make(chan struct{}, 1),
		seq:      1,
		groups:   map[devices.GroupPath]*group{},
		cells:    map[string]*cell{},
		byDevice: map[devices.ID][]devices.SeriesID{},
	}
}

// Offer takes a batch in arrival order; the slice may be reused after it returns. It never blocks on a viewer. Samples of
// series that were not set (SetSeries) are counted and dropped.
func (e *Engine) Offer(batch []devices.Sample) {
	e.in.Lock()
	for i := range batch {
		sm := &batch[i]
		if uint(sm.Series) >= uint(len(e.series)) || e.series[sm.Series].cell == nil {
			e.intake.unknown++
			continue
		}
		e.offer(&e.series[sm.Series], sm)
	}
	e.intake.samples += uint64(len(batch))
	e.unlockIn()
}

// unlockIn releases in and wakes Run if something happened that it waits for.
func (e *Engine) unlockIn() {
	signal := e.signal
	e.signal = false
	e.in.Unlock()
	if signal {
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
}

// offer merges a sample into its series' last value and open point.
func (e *Engine) offer(s *hot, sm *devices.Sample) {
	late := sm.At < s.at && s.flags&hasValue != 0
	if late {
		e.intake.late++
	} else {
		s.at, s.value, s.kind, s.quality = sm.At, sm.Value, sm.Kind, sm.Quality
		if sm.Kind >= devices.String {
			e.setText(sm)
		}
	}
	e.heard(s, sm)

	c := s.cell
	if sm.Recv >= c.rateEnd {
		c.nextSecond(sm.Recv)
	}
	c.rate[c.second]++
	if sm.Recv > c.lastRecv {
		c.lastRecv = sm.Recv
	}
	if len(c.groups) == 0 {
		return // in no group: nobody can watch it
	}
	p := e.openPoint(s, sm.Series)
	if p.count == 0 {
		p.first, p.worst = sm.Value, sm.Quality
	} else if sm.Quality > p.worst {
		p.worst = sm.Quality
	}
	p.count++
	p.stale = false
	if sm.Kind.Numeric() {
		p.sum += sm.Value
		if sm.Value < p.min {
			p.min = sm.Value
		}
		if sm.Value > p.max {
			p.max = sm.Value
		}
	}
	if !late {
		p.t, p.last, p.kind = sm.At, sm.Value, sm.Kind
		if sm.Kind >= devices.String {
			c.setAux(p, e.text[sm.Series])
		}
	}
	if c.full > 0 && sm.Kind <= devices.Bool {
		c.record(s.slot, sm.At, sm.Value, e.config.FullSamples)
	}
}

// openPoint returns the point of a series in its cell's open tick, a new one with the present state if there is none yet.
func (e *Engine) openPoint(s *hot, id devices.SeriesID) *point {
	c := s.cell
	if s.gen == c.gen {
		return &c.open[s.open]
	}
	if len(c.open) == 0 && c.listeners > 0 {
		e.dirty = append(e.dirty, c)
		e.signal = true
	}
	s.gen, s.open = c.gen, uint32(len(c.open))
	c.open = append(c.open, point{slot: s.slot, kind: s.kind, worst: s.quality, stale: s.flags&isStale != 0,
		t: s.at, first: s.value, last: s.value, min: inf, max: -inf})
	p := &c.open[s.open]
	if s.kind >= devices.String {
		c.setAux(p, e.text[id])
	}
	return p
}

// announce puts the present state of a series into the open tick as a change without a sample.
func (e *Engine) announce(s *hot, id devices.SeriesID) {
	if s.flags&hasValue == 0 || len(s.cell.groups) == 0 {
		return
	}
	p := e.openPoint(s, id)
	p.stale = s.flags&isStale != 0
	if p.count == 0 {
		p.worst = s.quality
	}
}

func (e *Engine) setText(sm *devices.Sample) {
	if n := int(sm.Series) + 1; n > len(e.text) {
		e.text = append(e.text, make([]textLon, max(n, len(e.series))-len(e.text))...)
	}
	e.text[sm.Series] = textLon{sm.Text, sm.Lon}
}

// Restore sets the last value of series as they were before a restart: state, not news; older than what is there is ignored.
// Until its first sample such a series counts as stale 30 s after it was last heard, unless its interval is set.
func (e *Engine) Restore(batch []devices.Sample) {
	e.in.Lock()
	defer e.unlockIn()
	for i := range batch {
		sm := &batch[i]
		if uint(sm.Series) >= uint(len(e.series)) || e.series[sm.Series].cell == nil {
			e.intake.unknown++
			continue
		}
		s := &e.series[sm.Series]
		if s.flags&hasValue != 0 && sm.At <= s.at {
			continue
		}
		if s.flags&hasValue == 0 {
			s.flags |= isRestored
		}
		s.flags |= hasValue
		s.at, s.value, s.kind, s.quality = sm.At, sm.Value, sm.Kind, min(sm.Quality, devices.Bad)
		s.recv = max(s.recv, sm.Recv)
		if sm.Kind >= devices.String {
			e.setText(sm)
		}
		e.watchFreshness(s, sm.Series)
		e.announce(s, sm.Series)
		if c := s.cell; len(c.groups) > 0 { // the open point may be older than this
			p := &c.open[s.open]
			p.t, p.last, p.kind = s.at, s.value, s.kind
			if s.kind >= devices.String {
				c.setAux(p, e.text[sm.Series])
			}
		}
	}
}

// LastPoint is the present value of a series with its freshness: Quality is Stale when it is.
type LastPoint struct {
	devices.Sample
	OK       bool          // it has a value
	Interval time.Duration // expected: set or learned; 0: not known yet
}

// LastValues returns the present values of series, in the order asked.
func (e *Engine) LastValues(ids []devices.SeriesID) []LastPoint {
	points := make([]LastPoint, len(ids))
	e.in.Lock()
	defer e.in.Unlock()
	for i, id := range ids {
		p := &points[i]
		p.Series = id
		if uint(id) >= uint(len(e.series)) || e.series[id].cell == nil {
			continue
		}
		s := &e.series[id]
		p.Interval = s.interval()
		if s.flags&hasValue == 0 {
			continue
		}
		p.OK, p.Kind, p.Quality = true, s.kind, s.shown()
		p.At, p.Recv, p.Value = s.at, s.recv, s.value
		if s.kind >= devices.String {
			p.Text, p.Lon = e.text[id].text, e.text[id].lon
		}
	}
	return points
}

// shown is the quality that viewers see.
func (s *hot) shown() devices.Quality {
	if s.flags&isStale != 0 {
		return devices.Stale
	}
	return s.quality
}
