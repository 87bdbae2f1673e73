package fanout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/devices"
)

// No spike is lost: 1,000 series at 200 Hz with one-sample spikes at random; viewers at 1, 5 and 20 frames a second, and
// one that stalls for 20 s and comes back. Each must be shown every spike as long as it can be told apart, that is, as a maximum
// of the frame that covers it, and the counts must add up.
func TestNoSpikeLost(t *testing.T) {
	const (
		series  = 1000
		seconds = 26
		rounds  = seconds * 200
	)
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{Ring: 5 * time.Second, RingBytes: 5 << 20}) // so that the stalled viewer is folded
		e.SetGroup(devices.Group{Path: "plant"})
		for i := range series {
			e.SetSeries(devices.Series{ID: devices.SeriesID(i + 1), Device: devices.ID(fmt.Sprint("d", i/10)), Metric: fmt.Sprint("m", i%10)},
				[]devices.GroupPath{devices.GroupPath(fmt.Sprintf("plant/line%d", i%7))})
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()

		spikes := make([]int, series)    // how many each series had; spikes are numbered by their height
		spikeAt := make([][]int, series) // round of each
		viewers := []*spikeViewer{
			{name: "1 Hz", pace: time.Second}, {name: "5 Hz", pace: 200 * time.Millisecond},
			{name: "20 Hz", pace: 50 * time.Millisecond}, {name: "stalled", pace: 50 * time.Millisecond, stallFrom: 3 * time.Second, stallTo: 23 * time.Second},
		}
		for _, v := range viewers {
			v.start(t, e)
		}
		synctest.Wait()
		r := rand.New(rand.NewPCG(7, 7))
		batch := make([]devices.Sample, series)
		for round := range rounds {
			now := time.Now().UnixMilli()
			for i := range batch {
				batch[i] = devices.Sample{Series: devices.SeriesID(i + 1), At: now, Recv: now, Value: r.Float64()}
				if r.IntN(4000) == 0 {
					spikes[i]++
					spikeAt[i] = append(spikeAt[i], round)
					batch[i].Value = float64(1000 + spikes[i])
				}
			}
			e.Offer(batch)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		stop()
		<-done
		synctest.Wait()
		total := 0
		for _, v := range viewers {
			close(v.woken)
			for i := range series {
				if v.counts[i] != rounds {
					t.Fatalf("%s: series %d has %d samples, want %d", v.name, i, v.counts[i], rounds)
				}
				// Of spikes within one frame the highest, which is the last of them, must be shown.
				got := v.maxima[i]
				for n, k := 0, 0; n < spikes[i]; k++ {
					if k == len(got) {
						t.Fatalf("%s: series %d lost spikes from %d of %d on", v.name, i, n+1, spikes[i])
					}
					n = got[k] - 1000
				}
				if v.pace == 50*time.Millisecond && v.stallFrom == 0 {
					for n := range spikeAt[i] {
						if n+1 < len(spikeAt[i]) && spikeAt[i][n+1]-spikeAt[i][n] < 12 {
							continue
						}
						if !contains(got, 1001+n) {
							t.Fatalf("%s: spike %d of series %d is not shown", v.name, n+1, i)
						}
					}
				}
				total += len(got)
			}
			t.Logf("%s: %d frames", v.name, v.frames)
		}
		if total == 0 || e.Stats().Folds == 0 {
			t.Errorf("%d spikes, stats %+v", total, e.Stats())
		}
		if st := e.Stats(); st.RingBytes > 5<<20 {
			t.Errorf("rings hold %d bytes", st.RingBytes)
		}
	})
}

func contains(list []int, x int) bool {
	return slices.Contains(list, x)
}

type spikeViewer struct {
	name               string
	pace               time.Duration
	stallFrom, stallTo time.Duration
	woken              chan struct{}
	counts             [1000]int
	maxima             [1000][]int
	frames             int
}

func (v *spikeViewer) start(t *testing.T, e *Engine) {
	v.woken = make(chan struct{}, 1)
	s, _, err := e.Subscribe(Options{Group: "plant", Pace: v.pace, Wake: func() {
		select {
		case v.woken <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	last := begun
	go func() {
		for {
			for u, ok := s.Next(time.Now()); ok; u, ok = s.Next(time.Now()) {
				f := u.Frame
				if f == nil {
					continue
				}
				if gap := time.Since(last); v.frames > 1 && v.stallTo == 0 && gap < v.pace && time.Since(begun) < 25*time.Second {
					t.Errorf("%s: %v between frames", v.name, gap)
				}
				last = time.Now()
				v.frames++
				for i := range f.Points {
					p := &f.Points[i]
					k := p.Series.ID - 1
					v.counts[k] += int(p.Count)
					if p.Max > 1000 {
						v.maxima[k] = append(v.maxima[k], int(p.Max))
					}
				}
				if at := time.Since(begun); at >= v.stallFrom && at < v.stallTo {
					time.Sleep(v.stallTo - at)
				}
				s.Painted(f.Seq)
			}
			if _, ok := <-v.woken; !ok {
				return
			}
		}
	}()
}
