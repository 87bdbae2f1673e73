package live_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/dashboard/live"
	"millrace/devices"
)

// viewers is what the test binary does as a process of its own, so that what its viewers cost is not counted: open connections that
// read and forget, say so, and stay until standard input ends. "tcp" ones are plain connections, others subscribe to a group.
func viewers(spec string) {
	parts := strings.Fields(spec) // kind, address, how many
	n, _ := strconv.Atoi(parts[2])
	for range n {
		if parts[0] == "tcp" {
			c, err := net.Dial("tcp", parts[1])
			if err != nil {
				panic(err)
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
			continue
		}
		ctx := context.Background()
		ws, _, err := websocket.Dial(ctx, "ws://"+parts[1]+"/live", &websocket.DialOptions{
			Subprotocols: []string{live.Subprotocol}, CompressionMode: websocket.CompressionDisabled,
			// What a browser sends along.
			HTTPHeader: http.Header{"Authorization": {"Bearer all"}, "User-Agent": {strings.Repeat("Mozilla ", 14)}, "Accept-Language": {"en-GB,en;q=0.9"}, "Cookie": {strings.Repeat("c=0123456789; ", 10)}},
		})
		if err != nil {
			panic(err)
		}
		ws.SetReadLimit(64 << 20)
		if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","id":1,"group":"hall","credit":"auto"}`)); err != nil {
			panic(err)
		}
		for {
			kind, _, err := ws.Read(ctx)
			if err != nil {
				panic(err)
			}
			if kind == websocket.MessageBinary {
				break // the snapshot
			}
		}
		go func() {
			for {
				_, r, err := ws.Reader(ctx)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r)
			}
		}()
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// watch starts viewers and returns when they are connected.
func watch(b *testing.B, kind, addr string, n int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("MILLRACE_BENCH_VIEWERS=%s %s %d", kind, addr, n))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		b.Fatalf("%q %v", line, err)
	}
}

func cpu() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkDeliver compares what a frame costs per viewer, from the samples offered to the bytes in the socket, with one write(2) of the
// same bytes to as many plain connections at the same pace. Budget: 1.2.
func BenchmarkDeliver(b *testing.B) {
	const viewers, series, every = 200, 100, 20 * time.Millisecond
	p := newPlace(b, series)
	batch := make([]devices.Sample, series)
	offer := func(round int) {
		at := time.Now().UnixMilli() // real: series whose receive time lags would be found stale, which makes frames of its own
		for i := range batch {
			batch[i] = devices.Sample{Series: devices.SeriesID(i + 1), At: at, Recv: at, Value: float64(round % 1000)}
		}
		p.engine.Offer(batch)
	}
	offer(0)
	watch(b, "live", p.addr, viewers)

	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	conns := make([]net.Conn, 0, viewers)
	var accept sync.WaitGroup
	accept.Go(func() {
		for range viewers {
			c, err := sink.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	watch(b, "tcp", sink.Addr().String(), viewers)
	accept.Wait()
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()

	tick := time.NewTicker(every)
	defer tick.Stop()
	round := 0
	for range 20 {
		<-tick.C
		round++
		offer(round)
	}
	before := p.live.Stats()
	var delivering, writing time.Duration
	payload := make([]byte, 1)
	for b.Loop() {
		// The two take turns, so that whatever else the machine does falls on both.
		start := cpu()
		for range 5 {
			<-tick.C
			round++
			offer(round)
		}
		<-tick.C
		delivering += cpu() - start
		if now := p.live.Stats(); len(payload) == 1 && now.Frames > before.Frames {
			payload = make([]byte, (now.Bytes-before.Bytes)/(now.Frames-before.Frames))
		}
		start = cpu()
		for range 5 {
			<-tick.C
			for _, c := range conns {
				if _, err := c.Write(payload); err != nil {
					b.Fatal(err)
				}
			}
		}
		<-tick.C
		writing += cpu() - start
	}
	frames := float64(p.live.Stats().Frames - before.Frames)
	writes := float64(b.N * 5 * viewers)
	if frames < writes*0.9 {
		b.Logf("only %.0f of %.0f frames were sent one by one", frames, writes)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(delivering)/frames, "cpu-ns/frame")
	b.ReportMetric(float64(writing)/writes, "cpu-ns/write")
	b.ReportMetric(float64(len(payload)), "B/frame")
	b.ReportMetric(float64(delivering)/frames/(float64(writing)/writes), "ratio")
}

func resident(b *testing.B) int {
	b.Helper()
	<-time.After(3 * time.Second) // what lingers has ended
	for range 3 {
		runtime.GC() // stacks shrink by half at a time
	}
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, rss int
	if _, err := fmt.Sscan(string(data), &size, &rss); err != nil {
		b.Fatal(err)
	}
	return rss * os.Getpagesize()
}

// BenchmarkIdleViewer measures the memory of a connected and subscribed viewer of a quiet group. Budget: 11 KB.
func BenchmarkIdleViewer(b *testing.B) {
	const viewers = 1000
	var last float64
	for b.Loop() {
		p := newPlace(b, 100)
		watch(b, "live", p.addr, viewers) // what is needed once is there after these
		before := resident(b)
		watch(b, "live", p.addr, viewers)
		last = float64(resident(b)-before) / viewers
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(last, "B/conn")
}
