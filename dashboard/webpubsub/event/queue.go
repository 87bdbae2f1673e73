package event

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// A queue sends notices of many connections: those of one in order, each again until it is taken, refused or too old, and to each target
// so many at a time. What may wait is bounded by hub, so that one whose handlers hang takes no room of others.
type queue struct {
	d      *Dispatcher
	send   func(ctx context.Context, n *notice) (retry bool, err error)
	target func(n *notice) string // within its hub
	giveUp func(n *notice, reason string)
	keep   time.Duration
	wake   chan struct{}

	mu      sync.Mutex
	lanes   map[string]*lane
	targets map[string]*target // with lanes that are ready, or workers
	late    lateLanes          // those whose first is to be tried again
	shares  map[string]*share  // by hub
	last    bool               // nothing is tried twice any more
	ended   bool               // nothing is taken any more
}

// A lane has what waits for one connection. It is ready (in a target), late, or with a worker.
type lane struct {
	key   string
	items []*notice
	fails int
	due   time.Time
}

type target struct {
	ready   []*lane
	workers int
}

type share struct{ n, bytes int }

func (q *queue) init() {
	q.wake = make(chan struct{}, 1)
	q.lanes, q.targets, q.shares = map[string]*lane{}, map[string]*target{}, map[string]*share{}
}

// put queues; false: there is no room.
func (q *queue) put(key string, n *notice) bool {
	c := &q.d.config
	q.mu.Lock()
	defer q.mu.Unlock()
	hub := n.e.client.Hub
	s := q.shares[hub]
	if s == nil {
		s = &share{}
	}
	size := n.e.size()
	if q.ended || s.n >= c.QueueEvents || s.n > 0 && s.bytes+size > c.QueueBytes {
		return false
	}
	q.shares[hub] = s
	s.n++
	s.bytes += size
	l := q.lanes[key]
	if l != nil {
		l.items = append(l.items, n)
		return true
	}
	l = &lane{key: key, items: []*notice{n}}
	q.lanes[key] = l
	q.ready(l)
	return true
}

// ready puts a lane behind the others of its target.
func (q *queue) ready(l *lane) {
	n := l.items[0]
	key := n.e.client.Hub + "\x00" + q.target(n)
	t := q.targets[key]
	if t == nil {
		t = &target{}
		q.targets[key] = t
	}
	t.ready = append(t.ready, l)
	if t.workers < q.d.config.Calls {
		q.nudge()
	}
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx ends, and then what is left once.
func (q *queue) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	sending, stop := context.WithCancel(context.WithoutCancel(ctx)) // what is under way goes on for a while
	defer stop()
	var deadline *time.Timer
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ended := ctx.Done()
	for {
		q.mu.Lock()
		now := q.d.now()
		for len(q.late) > 0 && (q.last || !q.late[0].due.After(now)) {
			q.ready(heap.Pop(&q.late).(*lane))
		}
		for key, t := range q.targets {
			for t.workers < q.d.config.Calls && len(t.ready) > 0 {
				l := t.ready[0]
				t.ready = t.ready[1:]
				t.workers++
				wg.Go(func() { q.work(sending, key, t, l) })
			}
		}
		if q.last && len(q.lanes) == 0 {
			q.ended = true
			q.mu.Unlock()
			break
		}
		if len(q.late) > 0 {
			timer.Reset(q.late[0].due.Sub(now))
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ended:
			ended = nil
			q.mu.Lock()
			q.last = true
			q.mu.Unlock()
			deadline = time.AfterFunc(q.d.config.ShutdownTime, stop)
		}
	}
	if deadline != nil {
		deadline.Stop()
	}
}

// work sends the first of a lane, then that of the next lane that is ready for the same target, and ends when there is none.
func (q *queue) work(ctx context.Context, key string, t *target, l *lane) {
	for l != nil {
		q.mu.Lock()
		n := l.items[0]
		q.mu.Unlock()
		n.attempts++
		retry, err := q.send(ctx, n)
		q.done(ctx, l, n, retry, err)

		q.mu.Lock()
		l = nil
		if len(t.ready) > 0 {
			l = t.ready[0]
			t.ready = t.ready[1:]
		} else if t.workers--; t.workers == 0 && q.targets[key] == t {
			delete(q.targets, key)
		}
		q.mu.Unlock()
	}
}

// done decides what becomes of a lane after an attempt.
func (q *queue) done(ctx context.Context, l *lane, n *notice, retry bool, err error) {
	var gone []*notice
	reason := ""
	q.mu.Lock()
	switch {
	case err == nil:
		l.fails = 0
		q.drop(l, 1)
	case q.last && (retry || ctx.Err() != nil):
		gone = l.items
		q.drop(l, len(l.items))
		reason = "the server stopped; " + err.Error()
	case retry && q.d.now().Sub(n.e.at) < q.keep:
		l.due = q.d.now().Add(backOff(l.fails))
		l.fails++
		heap.Push(&q.late, l)
		q.nudge()
		q.mu.Unlock()
		return
	default:
		gone = l.items[:1:1]
		q.drop(l, 1)
		reason = err.Error()
	}
	q.mu.Unlock()
	for _, n := range gone {
		q.giveUp(n, reason) // before the lane goes on, for the order of letters
	}
	q.mu.Lock()
	if len(l.items) > 0 {
		q.ready(l)
	} else {
		delete(q.lanes, l.key)
		q.nudge()
	}
	q.mu.Unlock()
}

// drop takes the first k of a lane away.
func (q *queue) drop(l *lane, k int) {
	for _, n := range l.items[:k] {
		hub := n.e.client.Hub
		s := q.shares[hub]
		s.n--
		s.bytes -= n.e.size()
		if s.n == 0 {
			delete(q.shares, hub)
		}
	}
	l.items = l.items[k:]
}

func (q *queue) waiting() (n, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.shares {
		n += s.n
		bytes += s.bytes
	}
	return n, bytes
}

// lateLanes is a heap: the first that is due is first.
type lateLanes []*lane

func (h lateLanes) Len() int           { return len(h) }
func (h lateLanes) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h lateLanes) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lateLanes) Push(x any)        { *h = append(*h, x.(*lane)) }
func (h *lateLanes) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
