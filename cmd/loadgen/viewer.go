package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"millrace/devices"
)

// viewer watches one group and counts what it is shown.
type viewer struct {
	o       options
	site    *site
	group   int
	stalls  bool
	begin   <-chan struct{}
	measure bool // after begin

	subscribed      atomic.Bool
	failed          atomic.Pointer[error]
	seen            atomic.Uint64 // samples, by the counts of frames
	frames, bytes   atomic.Uint64
	resumes, resets uint64
	gaps            uint64 // frames that do not follow the one before
	fresh           histogram
	series          map[uint32]string // index to device/metric
	spikes          map[string]uint32 // highest seen by series
	epoch           string
	seq             uint64
	rnd             *rand.Rand
}

func newViewer(o options, s *site, i int, stalls bool, begin <-chan struct{}) *viewer {
	return &viewer{o: o, site: s, group: i % len(s.groups), stalls: stalls, begin: begin, series: map[uint32]string{}, spikes: map[string]uint32{},
		rnd: rand.New(rand.NewPCG(uint64(i), 5))}
}

// run connects, and connects again when cut off, until ctx ends.
func (v *viewer) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := v.connect(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if !v.subscribed.Load() {
			v.failed.Store(&err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (v *viewer) connect(ctx context.Context) error {
	ws, err := dialSocket(ctx, v.site.client.Live(), v.o.Token, "millrace.v1")
	if err != nil {
		return err
	}
	defer ws.Close()
	defer context.AfterFunc(ctx, func() { ws.Close() })()
	ask := map[string]any{"type": "subscribe", "id": 1, "group": v.site.groups[v.group]}
	if v.o.FPS > 0 {
		ask["pace"] = v.o.FPS
	}
	if v.epoch != "" {
		ask["from"] = map[string]any{"epoch": v.epoch, "seq": v.seq}
		v.resumes++
	}
	b, _ := json.Marshal(ask)
	if err := ws.write(opText, b); err != nil {
		return err
	}
	var cut <-chan time.Time
	if v.o.Drop > 0 {
		timer := time.NewTimer(time.Duration(v.rnd.ExpFloat64() * float64(v.o.Viewers) / v.o.Drop * float64(time.Second)))
		defer timer.Stop()
		cut = timer.C
	}
	begin := v.begin
	if v.measure {
		begin = nil
	}
	var f frame
	for {
		op, message, err := ws.read()
		if err != nil {
			return err
		}
		v.bytes.Add(uint64(len(message)))
		if op == opText {
			if err := v.control(message); err != nil {
				return err
			}
			continue
		}
		select {
		case <-cut:
			return nil // the frame just read is not taken, so that it must come again
		case <-begin:
			begin, v.measure = nil, true
			if v.stalls {
				select {
				case <-time.After(v.o.Stall):
				case <-ctx.Done():
				}
			}
		default:
		}
		if err := parseFrame(message, &f); err != nil {
			return err
		}
		v.take(&f)
		credit := strconv.AppendUint([]byte(`{"type":"credit","id":1,"seq":`), f.seq, 10)
		if err := ws.write(opText, append(credit, '}')); err != nil {
			return err
		}
	}
}

func (v *viewer) take(f *frame) {
	v.frames.Add(1)
	if !f.snapshot && v.seq != f.from {
		v.gaps++
	}
	v.seq = f.seq
	if f.snapshot {
		if v.subscribed.Load() && v.seen.Load() > 0 {
			v.resets++
		}
		v.subscribed.Store(true)
		return
	}
	v.seen.Add(f.samples())
	if v.measure && !v.stalls && f.ageWidth > 0 {
		now := float64(time.Now().UnixMicro()) / 1000
		for i := 0; i < f.n; i += 1 + f.n/16 {
			if at, ok := f.measured(i); ok {
				v.fresh.add(now - at)
			} else {
				v.fresh.add(overflow)
			}
		}
	}
	if v.o.Spikes > 0 {
		for i := range f.n {
			if m := f.max(i); m > spikeBase-0.5 {
				name := v.series[f.series(i)]
				v.spikes[name] = max(v.spikes[name], uint32(m+0.5)-spikeBase)
			}
		}
	}
}

// control takes a control message.
func (v *viewer) control(message []byte) error {
	type member struct {
		Index          uint32
		Device, Metric string
	}
	var m struct {
		Type, Code, Message, Reason string
		Epoch                       string
		Seq                         uint64
		Series, Added               []member
	}
	if strings.HasPrefix(string(message[:min(len(message), 16)]), `{"type":"time"`) {
		return nil
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return err
	}
	switch m.Type {
	case "subscribed":
		if v.epoch != m.Epoch {
			v.epoch = m.Epoch
		}
		clear(v.series)
		if len(m.Series) == 0 {
			v.subscribed.Store(true) // an empty group: there may be no snapshot to come
			v.seq = m.Seq
		}
		fallthrough
	case "series":
		for _, s := range append(m.Series, m.Added...) {
			v.series[s.Index] = s.Device + "/" + s.Metric
		}
	case "error", "closed":
		return &devices.FieldError{Field: "subscription", Reason: m.Code + m.Reason + " " + m.Message}
	}
	return nil
}

// histogram of milliseconds: steps of 1 up to 2000, then one for the rest. Negative ones (clocks) count as 0.
type histogram struct {
	bins  [2001]uint32
	total uint64
}

const overflow = 1e9

func (h *histogram) add(ms float64) {
	h.bins[int(min(max(ms, 0), 2000))]++
	h.total++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.bins {
		h.bins[i] += n
	}
	h.total += o.total
}

// quantile returns the upper end of the bin in which the q-th part lies: at least that part took no longer. 0 if nothing was measured.
func (h *histogram) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	left := min(uint64(q*float64(h.total)), h.total-1)
	for i, n := range h.bins {
		if left < uint64(n) {
			return float64(i + 1)
		}
		left -= uint64(n)
	}
	return 0
}
