package fanout

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"millrace/devices"
)

// A tick is what changed in a cell between two cuts. It does not change after it was made.
type tick struct {
	cell   *cell
	seq    uint64
	at     int64 // monotonic
	ones   []one // series with a single plain sample: nearly all, unless devices are faster than the ticks
	points []point
	aux    []textLon // of points
	raw    []raw
	rawAll bool // raw has every sample

	refs atomic.Int32 // the ring's and those of cuts under way; at 0 the points are used again
	pool *pools
}

// one is a point of a single number that came in time: 24 bytes of the 64.
type one struct {
	t     int64
	v     float64
	slot  uint32
	worst devices.Quality
	kind  devices.Kind
	stale bool
}

// one reports whether p says no more than one does, and returns it as such.
func (p *point) one() (one, bool) {
	v := p.last
	if p.count != 1 || p.aux > 0 || p.first != v || p.min != v || p.max != v || p.sum != v { // NaN is never one
		return one{}, false
	}
	return one{p.t, v, p.slot, p.worst, p.kind, p.stale}, true
}

func (o *one) point() point {
	return point{slot: o.slot, count: 1, worst: o.worst, kind: o.kind, stale: o.stale, t: o.t, first: o.v, last: o.v, min: o.v, max: o.v, sum: o.v}
}

// add is merge with what came after p as one.
func (p *point) add(o *one) {
	if p.count > 0 {
		p.worst = max(p.worst, o.worst)
	} else {
		p.worst, p.first = o.worst, o.v
	}
	if p.count < math.MaxUint32 {
		p.count++
	}
	p.t, p.last, p.kind, p.stale = o.t, o.v, o.kind, o.stale
	p.min, p.max = min(p.min, o.v), max(p.max, o.v)
	p.sum += o.v
}

// len is the number of points, one a series, in no order.
func (t *tick) len() int { return len(t.ones) + len(t.points) }

// point returns the i-th point, in room if it has to be made. It is not to be changed.
func (t *tick) point(i int, room *point) *point {
	if i < len(t.ones) {
		*room = t.ones[i].point()
		return room
	}
	return &t.points[i-len(t.ones)]
}

// pack copies the points of a closed tick into slices as large as they need to be.
func (t *tick) pack(open []point) {
	n := 0
	for i := range open {
		if _, ok := open[i].one(); ok {
			n++
		}
	}
	if n > 0 {
		t.ones = t.pool.ones.get(n)
	}
	if n < len(open) {
		t.points = t.pool.points.get(len(open) - n)
	}
	for i := range open {
		if o, ok := open[i].one(); ok {
			t.ones = append(t.ones, o)
		} else {
			t.points = append(t.points, open[i])
		}
	}
}

func (t *tick) release() {
	if t.refs.Add(-1) == 0 {
		t.pool.ones.put(t.ones)
		t.pool.points.put(t.points)
		t.ones, t.points = nil, nil
	}
}

func releaseAll(ticks []*tick) {
	for _, t := range ticks {
		t.release()
	}
}

// size of a tick in bytes, for the bound on all rings. Texts count for each tick they are in, though they are often shared.
func (t *tick) size() int {
	n := int(unsafe.Sizeof(*t)+unsafe.Sizeof(t)) + sizeOf(t.ones) + sizeOf(t.points) + sizeOf(t.raw) + sizeOf(t.aux)
	for i := range t.aux {
		n += len(t.aux[i].text)
	}
	return n
}

func sizeOf[T any](s []T) int { return cap(s) * int(unsafe.Sizeof(*new(T))) }

// pools keep the slices of ticks that are gone for those to come.
type pools struct {
	ones   pool[one]
	points pool[point]
}

// pool keeps slices for use again, by capacity: eight steps to a power of two, so that little of a slice stays empty. It holds
// at most maxPooled bytes.
type pool[T any] struct {
	mu   sync.Mutex
	free [poolClasses][][]T
	held int
}

const (
	maxPooled   = 4 << 20
	poolClasses = 21 * 8 // up to 8 << 20 entries
)

// poolClass returns the class of slices for n, and their capacity.
func poolClass(n int) (class, size int) {
	n = max(n, 8)
	shift := max(bits.Len(uint(n-1))-4, 0) // leaves four digits
	steps := (n + 1<<shift - 1) >> shift   // 8 to 16
	return shift*8 + steps - 8, steps << shift
}

func (p *pool[T]) get(n int) []T {
	class, size := poolClass(n)
	if class < poolClasses {
		p.mu.Lock()
		defer p.mu.Unlock()
		if k := len(p.free[class]); k > 0 {
			s := p.free[class][k-1]
			p.free[class][k-1] = nil
			p.free[class] = p.free[class][:k-1]
			p.held -= sizeOf(s)
			return s
		}
	}
	return make([]T, 0, size)
}

// put takes a slice that get gave, or nil.
func (p *pool[T]) put(s []T) {
	if cap(s) == 0 {
		return
	}
	class, size := poolClass(cap(s))
	if class >= poolClasses || size != cap(s) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := sizeOf(s); p.held+n <= maxPooled {
		p.free[class] = append(p.free[class], s[:0])
		p.held += n
	}
}
