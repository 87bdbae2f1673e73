package ingest

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest/codec"
)

// Pipeline is safe for concurrent use.
type Pipeline struct {
	conf    Config
	cat     *catalog.Catalog
	spine   Spine
	workers sync.Pool // *worker
	buckets sync.Map  // *catalog.Device -> *bucket
	rejects rejects

	taken [3]struct{ messages, samples atomic.Uint64 } // by protocol
	ahead atomic.Uint64

	mu       sync.Mutex
	rejected map[string]uint64 // by Kind
}

// New returns a pipeline into the spine. Limits that are zero are the defaults, but for DeviceRate, where it means none.
func New(c Config, cat *catalog.Catalog, s Spine) *Pipeline {
	set := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	set(&c.MaxPayload, 256<<10)
	set(&c.MaxBody, 4<<20)
	set(&c.SamplesPerMessage, 10_000)
	p := &Pipeline{conf: c, cat: cat, spine: s, rejected: make(map[string]uint64)}
	p.workers.New = func() any {
		w := new(worker)
		w.pick = w.who // a method value is an allocation: once
		return w
	}
	return p
}

// Config returns the limits in force.
func (p *Pipeline) Config() Config { return p.conf }

// A worker holds what decoding one message needs.
type worker struct {
	decoder codec.Decoder
	samples []devices.Sample

	// Of a body of many devices:
	ask  func(devices.ID) (*catalog.Device, error)
	runs []run
	pick func([]byte) (codec.Resolver, error)
}

// A run is the samples of one device from a place on.
type run struct {
	device *catalog.Device
	from   int
}

// Message is one payload of one device.
type Message struct {
	Protocol Protocol
	Device   *catalog.Device
	Metric   string // the topic's last level when it names one metric (a scalar payload); "" for a JSON body
	Topic    string // for the list of rejects
	Payload  []byte // not kept after Handle returns
	Lines    bool   // the payload is NDJSON: one object a line
	Recv     int64  // Unix milliseconds
	Wait     bool   // done waits for the disk; else it is called as soon as the samples are taken
}

// Handle decodes all of the message, or refuses all of it. done is called once: nil, or a *Reject (bad input: sending it again is of no
// use), devices.ErrFull, ErrUnavailable, ErrRate. A reject is called at once, on the caller's goroutine, and so is the answer
// to a message without samples. done may be nil. n is the number of samples taken. Handle blocks while the spine is behind.
func (p *Pipeline) Handle(m *Message, done func(error)) (n int) {
	if len(m.Payload) > p.conf.MaxPayload {
		return p.refuse(done, reject(m.Device.ID(), m.Recv, m.Topic, m.Payload, "too_large", devices.ErrTooLarge,
			fmt.Sprintf("the payload has %d bytes; at most %d are taken", len(m.Payload), p.conf.MaxPayload)))
	}
	w := p.workers.Get().(*worker)
	defer p.workers.Put(w)
	w.decoder.MaxSamples = p.conf.SamplesPerMessage
	var err error
	switch {
	case m.Metric != "":
		w.samples, err = w.decoder.AppendScalar(w.samples[:0], m.Payload, m.Recv, m.Metric, m.Device)
	case m.Lines:
		w.samples, err = w.decoder.AppendLines(w.samples[:0], m.Payload, m.Recv, m.Device)
	default:
		w.samples, err = w.decoder.Append(w.samples[:0], m.Payload, m.Recv, m.Device)
	}
	if err != nil {
		return p.refuse(done, rejectOf(err, m.Device.ID(), m.Recv, m.Topic, m.Payload))
	}
	if !p.take(m.Device, len(w.samples), m.Recv) {
		return p.refuse(done, p.overRate(m.Device, m.Recv, m.Topic, m.Payload))
	}
	return p.hand(w, m.Protocol, m.Recv, m.Wait, done)
}

// Body is samples of many devices in one.
type Body struct {
	Protocol Protocol
	Topic    string // for the list of rejects: the URL path
	Payload  []byte // not kept after HandleMany returns
	Lines    bool   // NDJSON
	Recv     int64  // Unix milliseconds
	Wait     bool   // as in Message
	// Device returns the device of this id if the sender may write for it; its error refuses the body. It is asked once for
	// consecutive elements of one device.
	Device func(devices.ID) (*catalog.Device, error)
}

// HandleMany is Handle for a body of many devices: all of it is taken or nothing.
func (p *Pipeline) HandleMany(b *Body, done func(error)) (n int) {
	if len(b.Payload) > p.conf.MaxBody {
		return p.refuse(done, reject("", b.Recv, b.Topic, b.Payload, "too_large", devices.ErrTooLarge,
			fmt.Sprintf("the body has %d bytes; at most %d are taken", len(b.Payload), p.conf.MaxBody)))
	}
	w := p.workers.Get().(*worker)
	defer p.workers.Put(w)
	w.decoder.MaxSamples = 10 * p.conf.SamplesPerMessage
	w.ask, w.runs = b.Device, w.runs[:0]
	var err error
	w.samples, err = w.decoder.AppendMany(w.samples[:0], b.Payload, b.Recv, b.Lines, w.pick)
	w.ask = nil
	if err != nil {
		var id devices.ID
		if n := len(w.runs); n > 0 {
			id = w.runs[n-1].device.ID()
		}
		if e, ok := errors.AsType[*codec.Error](err); ok && e.Kind == codec.KindDevice {
			id = ""
		}
		return p.refuse(done, rejectOf(err, id, b.Recv, b.Topic, b.Payload))
	}
	for i, r := range w.runs {
		if p.take(r.device, w.length(i), b.Recv) {
			continue
		}
		for j := range i { // nothing of the body is taken
			p.take(w.runs[j].device, -w.length(j), b.Recv)
		}
		return p.refuse(done, p.overRate(r.device, b.Recv, b.Topic, b.Payload))
	}
	return p.hand(w, b.Protocol, b.Recv, b.Wait, done)
}

func (w *worker) who(id []byte) (codec.Resolver, error) {
	if n := len(w.runs); n > 0 && string(w.runs[n-1].device.ID()) == string(id) {
		return w.runs[n-1].device, nil
	}
	d, err := w.ask(devices.ID(id))
	if err != nil {
		return nil, err
	}
	w.runs = append(w.runs, run{d, w.decoder.Taken()})
	return d, nil
}

func (w *worker) length(i int) int {
	if i+1 < len(w.runs) {
		return w.runs[i+1].from - w.runs[i].from
	}
	return len(w.samples) - w.runs[i].from
}

// hand passes what was decoded to the spine.
func (p *Pipeline) hand(w *worker, proto Protocol, recv int64, wait bool, done func(error)) int {
	ahead := 0
	for i := range w.samples {
		if s := &w.samples[i]; s.At > recv+MaxAhead {
			s.At, s.Quality = recv, devices.Uncertain
			ahead++
		}
	}
	if ahead > 0 {
		p.ahead.Add(uint64(ahead))
	}
	n := len(w.samples)
	t := &p.taken[place(proto)]
	t.messages.Add(1)
	t.samples.Add(uint64(n))
	switch {
	case n == 0:
	case wait:
		p.spine.Enqueue(w.samples, done)
		return n
	default:
		p.spine.Enqueue(w.samples, nil)
	}
	if done != nil {
		done(nil)
	}
	return n
}

func place(p Protocol) int {
	switch p {
	case MQTT:
		return 0
	case MQTTPull:
		return 1
	}
	return 2
}

// A bucket holds what a device may still send: it fills with DeviceRate, and holds a second of it or one large message.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	at     int64 // Unix ms of the last change
}

// take counts n samples against a device's rate (a negative n gives them back) and reports whether it may send them.
func (p *Pipeline) take(d *catalog.Device, n int, now int64) bool {
	if p.conf.DeviceRate <= 0 || n == 0 {
		return true
	}
	size := max(p.conf.DeviceRate, float64(p.conf.SamplesPerMessage))
	var b *bucket
	if v, ok := p.buckets.Load(d); ok {
		b = v.(*bucket)
	} else {
		v, _ := p.buckets.LoadOrStore(d, &bucket{tokens: size, at: now})
		b = v.(*bucket)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now > b.at {
		b.tokens = min(size, b.tokens+p.conf.DeviceRate*float64(now-b.at)/1000)
		b.at = now
	}
	// A body of many may hold more than the bucket: a full bucket lets it pass, into debt.
	if n > 0 && b.tokens < min(float64(n), size) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

func (p *Pipeline) overRate(d *catalog.Device, at int64, topic string, payload []byte) *Reject {
	return reject(d.ID(), at, topic, payload, "rate", devices.ErrRate,
		fmt.Sprintf("device %s sends more than %.0f samples a second", d.ID(), p.conf.DeviceRate))
}

// Stats since start.
type Stats struct {
	Messages, Samples map[Protocol]uint64
	Rejected          map[string]uint64 // by Kind
	ClockAhead        uint64            // samples from the future, taken at receive time as uncertain
}

// Stats returns copies.
func (p *Pipeline) Stats() Stats {
	st := Stats{Messages: make(map[Protocol]uint64), Samples: make(map[Protocol]uint64), ClockAhead: p.ahead.Load()}
	for _, proto := range []Protocol{MQTT, MQTTPull, HTTP} {
		t := &p.taken[place(proto)]
		st.Messages[proto], st.Samples[proto] = t.messages.Load(), t.samples.Load()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st.Rejected = maps.Clone(p.rejected)
	return st
}
