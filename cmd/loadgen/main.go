// Command loadgen puts a load on a running server and measures what comes out: simulated devices that publish over MQTT or
// HTTP, and simulated viewers of the live protocol. It counts every sample that it sent and every sample that its viewers
// were shown, so it knows what was lost. It speaks MQTT and WebSocket by hand, to stay small beside the server it measures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// options are the command line.
type options struct {
	Server    string        `default:"http://localhost:8080" help:"The server's HTTP address."`
	MQTT      string        `default:"localhost:1883" help:"host:port of its MQTT broker."`
	Token     string        `required:"" env:"MILLRACE_ADMIN_TOKEN" help:"API token of a site admin, which makes the devices and groups and views them."`
	Protocol  string        `enum:"mqtt,http" default:"mqtt" help:"How devices publish: mqtt or http."`
	QoS       int           `name:"qos" enum:"0,1" default:"0" help:"Quality of service of MQTT messages: 0 or 1."`
	Devices   int           `default:"1000" help:"Devices, each with a connection of its own."`
	Groups    int           `default:"10" help:"Groups that the devices are spread over."`
	Metrics   int           `default:"5" help:"Metrics in a message."`
	Rate      float64       `default:"10" help:"Messages a second of each device."`
	Viewers   int           `default:"200" help:"Viewers, spread over the groups."`
	FPS       float64       `name:"fps" default:"10" help:"Frames a second that a viewer asks for; 0: as many as there are."`
	Duration  time.Duration `default:"30s" help:"How long devices publish."`
	Warmup    time.Duration `default:"3s" help:"How long before freshness is measured."`
	Drain     time.Duration `default:"10s" help:"How long viewers may take to be shown the last sample; what they then have not seen is missing."`
	Spikes    time.Duration `help:"Let each series have a spike of one sample about this often; every viewer must have been shown the last one, and it says which were not."`
	Stalled   int           `help:"Viewers of these that stop reading after the warm-up."`
	Stall     time.Duration `default:"20s" help:"How long they do; then they go on."`
	Drop      float64       `help:"Connections of viewers cut off a second, which then resume. Counts must still add up."`
	Pid       int           `help:"Process id of the server, to read its CPU and memory from /proc; else /metrics is asked."`
	Settle    time.Duration `default:"60s" help:"How long the memory of the server may rise until --max-growth looks at it."`
	Prefix    string        `default:"load" help:"Begins the names of the devices, and is the group above theirs."`
	Clean     bool          `help:"Delete the devices and groups at the end."`
	JSON      bool          `name:"json" help:"Print the result as JSON."`
	MaxP99    time.Duration `name:"max-p99" help:"Fail if freshness p99 is above this."`
	MaxGrowth uint64        `help:"Fail if the server's memory has its peak, in the second half of what follows --settle, more than so many bytes above that of the first."`
	Lossless  bool          `help:"Fail if a sample, or a spike, is missing, or if there was none to be missed."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(start(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// start runs the command line and returns the exit code: 1 when the run failed or its result is not what was asked for, 2 when the
// command line is wrong.
func start(ctx context.Context, args []string, out, progress io.Writer) int {
	var o options
	code := -1
	parser, err := kong.New(&o, kong.Name("loadgen"), kong.Description("Simulated devices and viewers against a running Millrace."),
		kong.Writers(out, progress), kong.Exit(func(status int) { code = status }))
	if err == nil {
		_, err = parser.Parse(args)
		if code >= 0 { // --help has been answered
			return code
		}
	}
	if err == nil {
		err = o.check()
	}
	if err != nil {
		fmt.Fprintln(progress, "loadgen:", err)
		return 2
	}
	if err := run(ctx, o, out, progress); err != nil {
		fmt.Fprintln(progress, "loadgen:", err)
		return 1
	}
	return 0
}

// check reports what kong can't know to be wrong.
func (o *options) check() error {
	var all []error
	f := func(wrong bool, what string) {
		if wrong {
			all = append(all, errors.New(what))
		}
	}
	f(o.Groups < 1 || o.Devices < o.Groups, "there must be at least one group, and a device in each")
	f(o.Metrics < 1 || o.Metrics > 99, "--metrics is between 1 and 99")
	f(!(o.Rate > 0 && o.Rate <= 1e6), "--rate must be above 0")
	f(o.Viewers < 0 || o.Stalled < 0 || o.Stalled > o.Viewers, "--viewers can't be negative, nor can more be stalled than there are")
	f(!(o.FPS >= 0) || !(o.Drop >= 0), "--fps and --drop can't be negative")
	f(o.Duration <= 0, "--duration must be above 0")
	f(o.Warmup < 0 || o.Drain < 0 || o.Stall < 0 || o.Spikes < 0, "times can't be negative")
	f(o.MaxP99 > 0 && (o.Warmup >= o.Duration || o.Viewers == o.Stalled), "--max-p99 needs a viewer that does not stall, and --warmup shorter than --duration")
	f(o.MaxGrowth > 0 && o.Settle >= o.Duration, "--max-growth needs --settle shorter than --duration")
	f(o.Lossless && o.Viewers == 0, "--lossless needs viewers")
	return errors.Join(all...)
}

func run(ctx context.Context, o options, out, progress io.Writer) error {
	fmt.Fprintf(progress, "making %d groups and %d devices …\n", o.Groups, o.Devices)
	s, err := prepare(ctx, o)
	if err != nil {
		return err
	}

	// Viewers come first: what a series has before its first viewer is state and counts for nothing.
	viewing, stopViewing := context.WithCancel(ctx)
	defer stopViewing()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stopViewing()
	begin := make(chan struct{}) // closed when freshness is measured
	viewers := make([]*viewer, o.Viewers)
	for i := range viewers {
		v := newViewer(o, s, i, i < o.Stalled, begin)
		viewers[i] = v
		watching.Go(func() { v.run(viewing) })
	}
	if err := eventually(ctx, 30*time.Second, func() bool {
		return count(viewers, func(v *viewer) bool { return v.subscribed.Load() }) == len(viewers)
	}); err != nil {
		return fmt.Errorf("only %d of %d viewers got their subscription: %w", count(viewers, func(v *viewer) bool { return v.subscribed.Load() }), len(viewers), firstError(viewers, err))
	}
	fmt.Fprintf(progress, "%d viewers are there; connecting %d devices …\n", o.Viewers, o.Devices)

	fleet, err := newFleet(o, s)
	if err != nil {
		return err
	}
	defer fleet.close()
	if err := fleet.connect(ctx); err != nil {
		return err
	}
	fmt.Fprintf(progress, "publishing %.0f messages/s of %d metrics for %v …\n", o.Rate*float64(o.Devices), o.Metrics, o.Duration)
	warm := time.AfterFunc(o.Warmup, func() { close(begin) })
	defer warm.Stop()
	before := s.usage(ctx, o.Pid)
	own := ownCPU()
	started := time.Now()
	publishing, stopPublishing := context.WithTimeout(ctx, o.Duration)
	defer stopPublishing()
	var mem memory
	watching.Go(func() { mem.watch(publishing, s, o) })
	if err := fleet.publish(publishing); err != nil {
		return err
	}
	lasted := time.Since(started)
	after := s.usage(ctx, o.Pid)
	own = ownCPU() - own

	// What is under way arrives; a stalled viewer may have some time to go.
	drain := o.Drain
	if o.Stalled > 0 {
		drain += o.Stall
	}
	complete := func() bool {
		return count(viewers, func(v *viewer) bool { return v.seen.Load() >= fleet.published(v.group) }) == len(viewers)
	}
	if err := eventually(ctx, drain, complete); err != nil && ctx.Err() != nil {
		return err
	}
	stopViewing()
	watching.Wait()
	r := evaluate(o, fleet, viewers, lasted, before, after, own)
	r.ServerPeak, r.ServerCrept = mem.peaks[1], int64(mem.peaks[1])-int64(mem.peaks[0])
	if o.JSON {
		err = json.NewEncoder(out).Encode(r)
	} else {
		r.print(out)
	}
	if o.Clean {
		cleaning, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		err = errors.Join(err, s.clean(cleaning, o))
	}
	return errors.Join(err, r.verdict(o))
}

// eventually waits until f is true, asking it twenty times a second.
func eventually(ctx context.Context, limit time.Duration, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func count(all []*viewer, f func(*viewer) bool) (n int) {
	for _, v := range all {
		if f(v) {
			n++
		}
	}
	return n
}

func firstError(all []*viewer, otherwise error) error {
	for _, v := range all {
		if err := v.failed.Load(); err != nil {
			return *err
		}
	}
	return otherwise
}

// counter is an atomic counter on a cache line of its own.
type counter struct {
	atomic.Uint64
	_ [56]byte
}
