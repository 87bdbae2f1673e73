package fanout

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"millrace/devices"
)

// A second of samples, one a millisecond, to a viewer that paints at once.
func TestRunTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{})
		e.SetGroup(devices.Group{Path: "plant"})
		e.SetSeries(devices.Series{ID: 1, Device: "d", Metric: "m"}, []devices.GroupPath{"plant/line"})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		woken := make(chan struct{}, 1)
		s, start, err := e.Subscribe(Options{Group: "plant", Wake: func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}})
		if err != nil || start.Seq != 0 || len(start.Series) != 1 {
			t.Fatal(start, err)
		}
		var frames, count, seq = 0, uint32(0), uint64(0)
		var at []time.Time
		read := func() {
			for {
				u, ok := s.Next(time.Now())
				if !ok {
					return
				}
				f := u.Frame
				if frames > 0 && f.From != seq {
					t.Errorf("frame from %d after %d", f.From, seq)
				}
				seq = f.Seq
				for _, p := range f.Points {
					count += p.Count
				}
				frames++
				at = append(at, time.Now())
				s.Painted(f.Seq)
			}
		}
		read()
		synctest.Wait()
		go func() {
			for range woken {
				read()
			}
		}()
		for i := range 1000 {
			now := time.Now().UnixMilli()
			e.Offer([]devices.Sample{{Series: 1, At: now, Recv: now, Value: float64(i)}})
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		stop()
		<-done
		synctest.Wait()
		close(woken)
		if count != 1000 {
			t.Errorf("%d samples in frames, want 1000", count)
		}
		if frames < 21 || frames > 23 { // the snapshot, one at once, each 50 ms, and what Run leaves
			t.Errorf("%d frames: %v", frames, at)
		}
		if !at[1].Equal(at[0]) {
			t.Errorf("the first change waited %v", at[1].Sub(at[0]))
		}
	})
}
