package spine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

// Run delivers until ctx ends, and waits for NATS however long it is away. It calls the sinks on its own goroutine.
func (r *Reader) Run(ctx context.Context) error {
	started := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
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

var errReplaced = errors.New("the stream is another one")

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
	for {
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
	r.s.noteLast(seq)
	r.s.delivered.Add(uint64(len(samples)))
	r.s.unknown.Add(uint64(r.decoder.unknown))
	if seq >= r.target {
		r.catchUp.Do(func() { close(r.caughtUp) })
	}
}
