package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	compactEvery = time.Minute // when all that was to be compacted is
	retainEvery  = time.Hour
	retryAfter   = 10 * time.Second // when the database is away
)

// upkeep is what Maintain remembers.
type upkeep struct {
	retained atomic.Uint64 // fingerprint of the last retention that deleted all it should

	mu    sync.Mutex // guards stats
	stats MaintainStats
}

// MaintainStats are counts since the start, and how it stands.
type MaintainStats struct {
	Hours         uint64        // hours of series compacted
	Read, Written uint64        // chunks merged, and what they became
	Samples       uint64        // in them
	Expired       uint64        // chunks that retention deleted one by one
	Dropped       uint64        // partitions that it dropped
	Purged        uint64        // chunks of deleted series
	Failed        uint64        // rounds that ended with an error
	Took          time.Duration // all work together
	Busy          bool          // there was more to compact than one batch when last looked
	Down          bool          // the last round ended with an error
	Last          time.Time     // end of the last round without an error
}

// MaintainStats is how it stands.
func (s *Store) MaintainStats() MaintainStats {
	s.upkeep.mu.Lock()
	defer s.upkeep.mu.Unlock()
	return s.upkeep.stats
}

func (s *Store) count(f func(*MaintainStats)) {
	s.upkeep.mu.Lock()
	defer s.upkeep.mu.Unlock()
	f(&s.upkeep.stats)
}

// Maintain compacts, deletes what is too old or whose series is gone, and makes partitions ahead, until ctx ends. Each transaction is short,
// and it pauses after each for as long as that took. Several nodes may run it on one database.
func (s *Store) Maintain(ctx context.Context) error {
	var retain time.Time // when it is due
	down := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		began := time.Now()
		err := s.round(ctx, began, !began.Before(retain))
		took := time.Since(began)
		next := compactEvery
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if !began.Before(retain) {
				retain = began.Add(retainEvery)
			}
			if down {
				s.log.Info("history is maintained again")
			}
			down = false
			s.count(func(st *MaintainStats) { st.Down, st.Last = false, time.Now() })
		default:
			if !down || !errors.Is(err, devices.ErrUnavailable) {
				s.log.Warn("history was not maintained; it is tried again", "err", err)
			}
			down, next = true, retryAfter
			s.count(func(st *MaintainStats) { st.Failed, st.Down = st.Failed+1, true })
		}
		s.count(func(st *MaintainStats) { st.Took += took })
		timer.Reset(next)
	}
}

// round does all there is to do once.
func (s *Store) round(ctx context.Context, now time.Time, retain bool) error {
	var failed []error
	if retain {
		failed = append(failed, s.EnsurePartitions(ctx))
	}
	chunks, err := s.purge(ctx)
	s.count(func(st *MaintainStats) { st.Purged += uint64(chunks) })
	if err != nil {
		failed = append(failed, fmt.Errorf("purge: %w", pgerr.Domain(err)))
	}
	var old retained
	if retain {
		if old, err = s.retain(ctx, now); err != nil {
			failed = append(failed, fmt.Errorf("retention: %w", pgerr.Domain(err)))
		}
		s.count(func(st *MaintainStats) {
			st.Expired, st.Dropped = st.Expired+uint64(old.chunks), st.Dropped+uint64(old.partitions)
		})
	}
	sum, err := s.compact(ctx, now)
	failed = append(failed, err, s.refreshSpace(ctx))
	if sum.read > 0 || chunks > 0 || old.chunks > 0 || old.partitions > 0 {
		s.log.Info("maintained history", "hours", sum.hours, "chunks", sum.read, "became", sum.written, "samples", sum.samples,
			"expired", old.chunks, "dropped", old.partitions, "purged", chunks, "took", time.Since(now).Round(time.Millisecond))
	}
	return errors.Join(failed...)
}

// Compact compacts all hours that ended some minutes before now.
func (s *Store) Compact(ctx context.Context, now time.Time) error {
	_, err := s.compact(ctx, now)
	return err
}

func (s *Store) compact(ctx context.Context, now time.Time) (sum compactStats, err error) {
	defer func() { s.count(func(st *MaintainStats) { st.Busy = false }) }()
	for at := firstHour; ; {
		began := time.Now()
		last, more, done, err := s.compactBatch(ctx, now, at)
		sum.add(done)
		s.count(func(st *MaintainStats) {
			st.Hours, st.Read = st.Hours+uint64(done.hours), st.Read+uint64(done.read)
			st.Written, st.Samples, st.Busy = st.Written+uint64(done.written), st.Samples+uint64(done.samples), more
		})
		if err != nil || !more {
			return sum, err
		}
		at = last
		if err := pause(ctx, time.Since(began)); err != nil {
			return sum, err
		}
	}
}
