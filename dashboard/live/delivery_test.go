package live_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/dashboard/live"
	"millrace/fanout/wire"
)

func TestManualCredit(t *testing.T) {
	p := newPlace(t, 1)
	c := p.dial("all")
	c.send(`{"type":"subscribe","id":1,"group":"hall"}`)
	c.next("subscribed")
	binary := func() *wire.Frame {
		t.Helper()
		for {
			kind, data, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			if kind == websocket.MessageBinary {
				f, err := wire.DecodeFrame(data)
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
		}
	}
	snap := binary()
	// Without credit nothing but the time comes, however much happens.
	for v := range 50 {
		p.offer("d1", float64(v))
	}
	p.offer("d1", 1000)
	p.offer("d1", 3)
	for range 2 {
		if kind, data, err := c.read(); err != nil || kind != websocket.MessageText {
			t.Fatalf("without credit: %v %q %v", kind, data, err)
		}
	}
	c.send(`{"type":"credit","id":1,"seq":%d}`, snap.Seq)
	f := binary()
	if f.From != snap.Seq || f.Points[0].Count != 52 || f.Points[0].Max < 1000 || f.Points[0].Last != 3 {
		t.Errorf("after credit: %+v", f)
	}
}

func TestPace(t *testing.T) {
	p := newPlace(t, 1)
	fast, slow := p.dial("all"), p.dial("all")
	fast.send(`{"type":"subscribe","id":1,"group":"hall","format":"json"}`)
	slow.send(`{"type":"subscribe","id":1,"group":"hall","format":"json","pace":4}`)
	fast.next("frame")
	slow.next("frame")
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	var feeder sync.WaitGroup
	feeder.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				p.offer("d1", -1)
				return
			case <-tick.C:
				p.offer("d1", 1)
			}
		}
	})
	count := func(c *client) (frames int, samples uint32) {
		for {
			f := c.next("frame")
			frames++
			samples += f.Points[0].Count
			if f.Points[0].Last == -1 {
				return frames, samples
			}
		}
	}
	fastFrames, fastSamples := count(fast)
	slowFrames, slowSamples := count(slow)
	feeder.Wait()
	if slowFrames > 9 || slowFrames < 3 || fastFrames < 3*slowFrames || fastSamples != slowSamples {
		t.Errorf("fast: %d frames, %d samples; slow: %d frames, %d samples", fastFrames, fastSamples, slowFrames, slowSamples)
	}
}

// TestStalledViewer has a viewer that reads nothing for a while among others, with its window closed long before the end.
func TestStalledViewer(t *testing.T) {
	const series, others = 200, 10
	p := newPlace(t, series)
	for i := range series {
		p.offer(fmt.Sprintf("d%d", i+1), 0)
	}
	dialer := &net.Dialer{Control: smallReceiveBuffer}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/live?access_token=all", &websocket.DialOptions{
		Subprotocols: []string{live.Subprotocol}, HTTPClient: clientOver(dialer),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(64 << 20)
	stalled := &client{t, ws}
	stalled.send(`{"type":"subscribe","id":1,"group":"hall","format":"json"}`)
	stalled.next("frame")

	watchers := make([]*client, others)
	for i := range watchers {
		watchers[i] = p.dial("all")
		watchers[i].send(`{"type":"subscribe","id":1,"group":"hall","format":"json","series":["d1/*"]}`)
		watchers[i].next("frame")
	}
	rounds := 150
	if s := os.Getenv("MILLRACE_STALL_SECONDS"); s != "" {
		n, _ := strconv.Atoi(s)
		rounds = max(n, 1) * 50
	}
	var slowest time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for round := 1; round <= rounds; round++ {
		<-tick.C
		for i := range series {
			p.offer(fmt.Sprintf("d%d", i+1), float64(round))
		}
		start := time.Now()
		for _, w := range watchers {
			for w.next("frame").Points[0].Last != float64(round) {
			}
		}
		slowest = max(slowest, time.Since(start))
	}
	if slowest > time.Second {
		t.Errorf("another viewer waited %v", slowest)
	}
	before := p.live.Stats()
	// It wakes: nothing was missed, all counts are there, and it is current after what was on the way.
	counts, frames := make(map[string]uint32), 0
	for {
		f := stalled.next("frame")
		frames++
		for _, pt := range f.Points {
			counts[pt.Device] += pt.Count
		}
		if f.Points[0].Last == float64(rounds) {
			break
		}
	}
	if counts["d1"] != uint32(rounds) || counts["d200"] != uint32(rounds) {
		t.Errorf("counts %d and %d, want %d", counts["d1"], counts["d200"], rounds)
	}
	if frames >= rounds/2 {
		t.Errorf("%d frames waited for a viewer that read nothing for %d", frames, rounds)
	}
	t.Logf("slowest of the others %v; the stalled one was current after %d of %d frames; %d frames in all", slowest, frames, rounds, before.Frames)
}

// TestResumes drops the connection at random and resumes with what was seen last: in the end nothing is missing and nothing came twice.
// MILLRACE_RESUMES sets how often.
func TestResumes(t *testing.T) {
	const series = 5
	drops := 60
	if s := os.Getenv("MILLRACE_RESUMES"); s != "" {
		drops, _ = strconv.Atoi(s)
	}
	p := newPlace(t, series)
	sent := make([]uint32, series)
	last := make([]float64, series)
	ctx, cancel := context.WithCancel(t.Context())
	var feeder sync.WaitGroup
	defer feeder.Wait()
	defer cancel()

	seen := map[string]float64{}
	counts := map[string]uint32{}
	var epoch string
	var seq uint64
	started, finished := false, make(chan struct{})
	for drop := 0; ; {
		c := p.dial("all")
		from := ""
		if epoch != "" {
			from = fmt.Sprintf(`,"from":{"epoch":%q,"seq":%d}`, epoch, seq)
		}
		c.send(`{"type":"subscribe","id":1,"group":"hall","format":"json","credit":%q%s}`, []string{"auto", "manual"}[drop%2], from)
		sub := c.next("subscribed")
		if epoch != "" && sub.Seq != seq {
			t.Fatalf("resumed at %d instead of %d", sub.Seq, seq)
		}
		epoch = sub.Epoch
		if !started {
			if f := c.next("frame"); !f.Snapshot {
				t.Fatalf("%+v", f)
			} else {
				seq = f.Seq
			}
			started = true
			feeder.Go(func() {
				defer close(finished)
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
						i := rand.IntN(series)
						sent[i]++
						last[i] = rand.Float64()
						p.offer(fmt.Sprintf("d%d", i+1), last[i])
					}
				}
			})
			c.send(`{"type":"credit","id":1,"seq":%d}`, seq)
		}
		for n := rand.IntN(6); n > 0 || drop >= drops; n-- {
			f := c.next("frame")
			if f.From != seq || f.Snapshot {
				t.Fatalf("after %d came (%d, %d], snapshot %v", seq, f.From, f.Seq, f.Snapshot)
			}
			seq = f.Seq
			for _, pt := range f.Points {
				seen[pt.Device] = pt.Last
				counts[pt.Device] += pt.Count
			}
			c.send(`{"type":"credit","id":1,"seq":%d}`, seq)
			if drop < drops {
				continue
			}
			cancel()
			<-finished
			all := true
			for i := range series {
				d := fmt.Sprintf("d%d", i+1)
				if counts[d] > sent[i] {
					t.Fatalf("%s: %d samples counted, %d were sent", d, counts[d], sent[i])
				}
				all = all && counts[d] == sent[i] && seen[d] == last[i]
			}
			if all {
				return
			}
		}
		drop++
		_ = c.ws.CloseNow()
	}
}

// With frames the time goes along; it is told as often as without.
func TestTimeWithFrames(t *testing.T) {
	p := newPlace(t, 2)
	c := p.dial("all")
	c.send(`{"type":"subscribe","id":1,"group":"hall","format":"json","credit":"auto"}`)
	c.next("frame")
	var told []int64
	for v := 1.0; len(told) < 4; v++ {
		p.offer("d1", v)
		for {
			m, err := c.try("")
			if err != nil {
				t.Fatal(err)
			}
			if m.Type == "time" {
				told = append(told, m.At)
				continue
			}
			if m.Type != "frame" || len(m.Points) != 1 || m.Points[0].Last != v {
				t.Fatalf("after %v came %+v", v, m)
			}
			break
		}
	}
	for i, at := range told[1:] {
		if after := at - told[i]; after < 600 || after > 1000 {
			t.Errorf("the time was told after %d ms", after)
		}
	}
}
