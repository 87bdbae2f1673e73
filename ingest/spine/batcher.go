package spine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/devices"
)

// A shard gathers samples for one subject. Two batches go round: one gathers while the other is published.
type shard struct {
	subject string
	wake    chan struct{} // cap 1: open holds something
	hurry   chan struct{} // cap 1: open holds something that somebody waits for, or much

	mu       sync.Mutex
	room     sync.Cond // open was taken, or the shard ended
	open     *batch
	ended    bool
	numbered uint64 // messages, for their ids; only the publisher's
}

type batch struct {
	encoder
	dones   []func(error)
	waiting int // samples handed over
}

func newShard(subject string) *shard {
	sh := &shard{subject: subject, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), open: new(batch)}
	sh.room.L = &sh.mu
	sh.open.reset()
	return sh
}

// put adds samples that take at most size bytes to the open batch, waiting for room in it; false after the end.
func (sh *shard) put(samples []devices.Sample, size int, s *Spine, done func(error)) (unknown int, ok bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for !sh.ended && (len(sh.open.buf) >= s.soft || len(sh.open.buf)+size > s.hard) {
		sh.room.Wait()
	}
	if sh.ended {
		return 0, false
	}
	b := sh.open
	unknown = b.append(samples, s.names)
	b.waiting += len(samples)
	if done != nil {
		b.dones = append(b.dones, done)
	}
	signal(sh.wake)
	if done != nil || len(b.buf) >= s.soft/2 {
		signal(sh.hurry)
	}
	return unknown, true
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take swaps the open batch for an empty one; nil if there is nothing in it. With last set the shard also ends: what waits
// for room is refused, so that ending takes no longer than one publish.
func (sh *shard) take(spare *batch, last bool) *batch {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.ended = sh.ended || last
	defer sh.room.Broadcast()
	b := sh.open
	if b.count == 0 && len(b.dones) == 0 {
		return nil
	}
	sh.open = spare
	for _, c := range []chan struct{}{sh.wake, sh.hurry} { // were for this one
		select {
		case <-c:
		default:
		}
	}
	return b
}

// publishAll is a shard's publisher: one message at a time until ctx ends, then what waits. What nobody waits for is published at
// most once in every gather: a message costs much the same whatever it holds, above all its fsync.
func (s *Spine) publishAll(ctx context.Context, sh *shard) {
	spare := new(batch)
	spare.reset()
	var next time.Time // not before, unless somebody waits
	pause := time.NewTimer(0)
	defer pause.Stop()
	for last := false; ; {
		if !last {
			select {
			case <-sh.wake:
			case <-ctx.Done():
				last = true
			}
		}
		if d := time.Until(next); d > 0 && !last {
			pause.Reset(d)
			select {
			case <-sh.hurry:
			case <-pause.C:
			case <-ctx.Done():
				last = true
			}
		}
		b := sh.take(spare, last)
		if b == nil {
			if last {
				return
			}
			continue
		}
		next = time.Now().Add(s.gather)
		err := s.publish(ctx, sh, b)
		if err != nil {
			s.refused.Add(uint64(b.waiting))
		}
		s.waiting.Add(-int64(b.waiting))
		for i, done := range b.dones {
			done(err)
			b.dones[i] = nil
		}
		b.dones, b.waiting = b.dones[:0], 0
		if cap(b.buf) > 2*softMessage { // one giant is no reason to keep its room
			b.buf = nil
		}
		b.reset()
		spare = b
	}
}

// errCodeStoreFailed is JetStream's error when a stream does not take a message; the text says why.
const errCodeStoreFailed = 10077

// publish stores one message, however often it must be tried: its id lets NATS recognise what it has already. After an
// error it may still have been stored, which costs nothing: nobody was told so, and a sample that is sent again is a sample.
func (s *Spine) publish(ctx context.Context, sh *shard, b *batch) error {
	if b.count == 0 { // all unknown, or none: nothing to store
		return nil
	}
	data := b.finish()
	sh.numbered++
	msg := &nats.Msg{Subject: sh.subject, Data: data, Header: nats.Header{
		nats.MsgIdHdr: {s.name + "-" + sh.subject[len(subjectPrefix):] + "-" + strconv.FormatUint(sh.numbered, 10)}}}
	total := publishTotal
	if ctx.Err() != nil {
		total = publishTimeout // shutting down: one try
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), total)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, publishTimeout)
		ack, err := s.js.PublishMsg(try, msg)
		stop()
		if err == nil {
			s.publishes.Add(1)
			s.bytes.Add(uint64(len(data)))
			s.streamBytes.Add(uint64(len(data)))
			s.noteLast(ack.Sequence)
			s.unhealthy.Store(false)
			return nil
		}
		if !s.unhealthy.Swap(true) {
			s.log.Warn("spine does not take samples", "err", err)
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == errCodeStoreFailed && api.Description == "maximum bytes exceeded" {
			select {
			case s.room <- struct{}{}:
			default:
			}
			return fmt.Errorf("spine holds %d bytes: %w", s.maxBytes, devices.ErrFull)
		}
		select {
		case <-time.After(retryPause):
			continue
		case <-ctx.Done():
			return fmt.Errorf("spine: %w: %w", devices.ErrUnavailable, err)
		}
	}
}

// noteLast raises the last known sequence.
func (s *Spine) noteLast(seq uint64) {
	for {
		old := s.last.Load()
		if seq <= old || s.last.CompareAndSwap(old, seq) {
			return
		}
	}
}
