package spine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// guardEvery is how often a reader looks whether the stream is still the same.
const guardEvery = 2 * time.Second

// Reader delivers the stream from a position on, forever, in order, each message once. Several may run.
type Reader struct {
	s     *Spine
	names Resolver
	sinks []Sink
	next  uint64 // sequence wanted; only Run's
	seen  atomic.Uint64

	created time.Time // of the stream that next counts in; only begin writes it

	decoder  decoder
	target   uint64 // last sequence when Run began
	catchUp  sync.Once
	caughtUp chan struct{}

	seek atomic.Pointer[seek] // where to go on, asked for and not yet done

	mu      sync.Mutex              // guards what follows
	stop    context.CancelCauseFunc // ends read; nil while there is none
	waits   []waiter
	waiting atomic.Int32 // len(waits), for deliver
}

// seek is another place to read from.
type seek struct {
	seq   uint64
	ready func()
}

// waiter is one who waits for a sequence.
type waiter struct {
	seq  uint64
	done chan struct{}
}

// Reader returns a reader that starts at sequence from (or the first there is, if later). A position beyond the end of the
// stream means that the stream is another one (its files were removed), and so does another time at which it was made: then,
// also while it runs, it is read from its start, with a warning, and counted.
func (s *Spine) Reader(from uint64, names Resolver, to ...Sink) *Reader {
	return &Reader{s: s, names: names, sinks: to, next: max(from, 1), created: s.made, caughtUp: make(chan struct{})}
}

// CaughtUp is closed when the reader has delivered what was in the stream when Run began.
func (r *Reader) CaughtUp() <-chan struct{} { return r.caughtUp }

// Delivered is the last sequence that the sinks have seen; 0 before the first.
func (r *Reader) Delivered() uint64 { return r.seen.Load() }

// Wait returns when the sinks have seen seq, or with ctx's error.
func (r *Reader) Wait(ctx context.Context, seq uint64) error {
	if r.seen.Load() >= seq {
		return nil
	}
	w := waiter{seq, make(chan struct{})}
	r.mu.Lock()
	r.waits = append(r.waits, w)
	r.waiting.Store(int32(len(r.waits)))
	r.mu.Unlock()
	defer r.answer(func(other waiter) bool { return other == w })
	if r.seen.Load() >= seq { // after waiting was raised, so that deliver has seen either
		return nil
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer ends some waits.
func (r *Reader) answer(which func(waiter) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = slices.DeleteFunc(r.waits, func(w waiter) bool {
		if which(w) {
			close(w.done)
			return true
		}
		return false
	})
	r.waiting.Store(int32(len(r.waits)))
}

// Seek has Run deliver from seq on, back or forth in the same stream. Run calls ready before the first message from there; until then messages of
// before may still be delivered. It does not block.
func (r *Reader) Seek(seq uint64, ready func()) {
	r.seek.Store(&seek{seq, ready})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		r.stop(errSeek)
	}
}

// goTo does what Seek asked for.
func (r *Reader) goTo() {
	if to := r.seek.Swap(nil); to != nil {
		r.next = max(to.seq, 1)
		r.seen.Store(r.next - 1)
		to.ready()
	}
}

// Run delivers until ctx ends, and waits for NATS however long it is away. It calls the sinks on its own goroutine.
func (r *Reader) Run(ctx context.Context) error {
	started := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		r.goTo()
		err := r.begin(ctx, !started)
		if err == nil {
			started = true
			before := r.next
			err = r.read(ctx)
			if r.next > before {
				pause = 50 * time.Millisecond
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errSeek) {
			continue
		}
		r.s.log.Warn("reader of the spine starts again", "at", r.next, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// begin compares the position with the stream.
func (r *Reader) begin(ctx context.Context, first bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	state, created, err := r.s.look(ctx)
	if err != nil {
		return err
	}
	if r.next > state.LastSeq+1 || !created.Equal(r.created) {
		r.s.log.Warn("the spine is not the one that the position is of: reading it from its start", "position", r.next, "last", state.LastSeq, "made", created)
		r.next, r.created = max(state.FirstSeq, 1), created
		r.seen.Store(0)
		r.s.last.Store(state.LastSeq)
		r.s.replaced.Add(1)
	}
	if first {
		r.target = state.LastSeq
	}
	if r.next > r.target || state.Msgs == 0 {
		r.catchUp.Do(func() { close(r.caughtUp) })
	}
	return nil
}

// guard ends read when the stream is no longer the one that read began with. The client library would not notice: its consumer,
// made anew, waits until the new stream has come to the position.
func (r *Reader) guard(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		seen := r.seen.Load() // before the look, so that it can't be ahead of it
		look, cancel := context.WithTimeout(ctx, publishTimeout)
		state, created, err := r.s.look(look)
		cancel()
		if err == nil && (!created.Equal(r.created) || state.LastSeq < seen) {
			stop(errReplaced)
			return
		}
	}
}

var (
	errReplaced = errors.New("the stream is another one")
	errSeek     = errors.New("to be read from elsewhere")
)

// read delivers from r.next on until something fails. The consumer is an ordered one: the client library keeps count
// of deliveries and starts anew where one is missing. It is told to try that once, because its own pauses can't be ended.
func (r *Reader) read(ctx context.Context) error {
	open, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cons, err := r.s.js.OrderedConsumer(open, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.next,
		InactiveThreshold: time.Minute, MaxResetAttempts: 1,
	})
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	// Each message is at most hardMessage; so much may wait here.
	it, err := cons.Messages(jetstream.PullMaxBytes(2*maxPayload), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(2*time.Second))
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	defer it.Stop()
	ctx, stop := context.WithCancelCause(ctx)
	var guard sync.WaitGroup
	guard.Go(func() { r.guard(ctx, stop) })
	defer guard.Wait()
	defer stop(nil)
	r.setStop(stop)
	defer r.setStop(nil)
	for {
		if r.seek.Load() != nil {
			return errSeek
		}
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		r.deliver(meta.Sequence.Stream, msg.Data())
	}
}

func (r *Reader) setStop(stop context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = stop
}

func (r *Reader) deliver(seq uint64, data []byte) {
	if seq < r.next {
		return
	}
	if missing := seq - r.next; missing > 0 {
		r.s.lost.Add(missing)
		r.s.log.Warn("messages of the spine were gone before they were read", "first", r.next, "messages", missing)
	}
	samples, err := r.decoder.decode(data, r.names)
	if err != nil { // nothing mends it, and what follows can be read
		r.s.lost.Add(1)
		r.s.log.Error("message of the spine left out", "seq", seq, "err", err)
		samples = nil
	}
	for _, sink := range r.sinks {
		sink.Deliver(seq, samples)
	}
	r.next = seq + 1
	r.seen.Store(seq)
	if r.waiting.Load() > 0 {
		r.answer(func(w waiter) bool { return w.seq <= seq })
	}
	r.s.noteLast(seq)
	r.s.delivered.Add(uint64(len(samples)))
	r.s.unknown.Add(uint64(r.decoder.unknown))
	if seq >= r.target {
		r.catchUp.Do(func() { close(r.caughtUp) })
	}
}
