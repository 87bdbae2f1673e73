package spine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Release says that everything up to seq is stored elsewhere by the named consumer (the store's last values; later, history).
// What all consumers have released may be dropped when room is needed. A consumer is known from its first call on, also
// after a restart. It does not block: Run writes the positions down, at most a second later. The name is letters, digits, - and _.
func (s *Spine) Release(consumer string, seq uint64) {
	s.released.Lock()
	defer s.released.Unlock()
	if old, ok := s.released.at[consumer]; !ok || seq > old {
		s.released.at[consumer] = seq
	}
}

// keepUp writes released positions and makes room, now and then and when a publish found the stream full.
func (s *Spine) keepUp(ctx context.Context) {
	tick := time.NewTicker(upkeep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.room:
			// Producers that are refused come back at once; once in a tenth of upkeep is enough to look.
			select {
			case <-ctx.Done():
				return
			case <-time.After(upkeep / 10):
			}
		}
		s.writeReleased(ctx)
		if err := s.trim(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("spine upkeep", "err", err)
		}
	}
}

// writeReleased stores the positions that rose since the last time; what fails is tried again the next time.
func (s *Spine) writeReleased(ctx context.Context) {
	s.released.Lock()
	todo := maps.Clone(s.released.at)
	clear(s.released.at)
	s.released.Unlock()
	for consumer, seq := range todo {
		if err := s.writePosition(ctx, consumer, seq); err != nil {
			s.log.Warn("released position not written", "consumer", consumer, "err", err)
			s.Release(consumer, seq)
		}
	}
}

func (s *Spine) writePosition(ctx context.Context, consumer string, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, err := s.kv.PutString(ctx, consumer, strconv.FormatUint(seq, 10))
	return err
}

// trim purges the oldest messages once the stream is above half of its size, down to 40 % of it, but nothing that a known
// consumer has not released; with no consumer known, nothing. What stays is there for replay.
func (s *Spine) trim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, publishTotal)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // somebody deleted it, or the server came back empty
		s.log.Warn("the spine's stream is gone: making it anew", "stream", stream)
		return s.setUp(ctx)
	}
	if err != nil {
		return err
	}
	state := st.CachedInfo().State
	s.note(state)
	limit := uint64(s.maxBytes)
	if state.Bytes <= limit/2 || state.Msgs == 0 {
		return nil
	}
	free, ok, err := s.releasedByAll(ctx)
	if err != nil || !ok || free < state.FirstSeq {
		return err
	}
	// Messages differ in size, so this is a guess: the next round mends it.
	excess := float64(state.Bytes-limit*2/5) / float64(state.Bytes)
	upTo := min(free, state.FirstSeq+uint64(excess*float64(state.Msgs)))
	if err := st.Purge(ctx, jetstream.WithPurgeSequence(upTo+1)); err != nil { // keeps the sequence named
		return fmt.Errorf("purge up to %d: %w", upTo, err)
	}
	state, err = s.info(ctx)
	if err == nil {
		s.log.Debug("spine trimmed", "first", state.FirstSeq, "bytes", state.Bytes)
	}
	return err
}

// releasedByAll returns the lowest position of all known consumers; ok is false when there are none.
func (s *Spine) releasedByAll(ctx context.Context) (seq uint64, ok bool, err error) {
	keys, err := s.kv.Keys(ctx)
	if errors.Is(err, jetstream.ErrNoKeysFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	for _, key := range keys {
		e, err := s.kv.Get(ctx, key)
		if err != nil {
			return 0, false, err
		}
		n, err := strconv.ParseUint(string(e.Value()), 10, 64)
		if err != nil {
			return 0, false, fmt.Errorf("position of %s: %w", key, err)
		}
		if !ok || n < seq {
			seq, ok = n, true
		}
	}
	return seq, ok, nil
}
