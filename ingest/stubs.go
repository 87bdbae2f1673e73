// Package ingest takes messages of devices on their way to the spine: topic to route, decode, check, hand over.
package ingest

import (
	"millrace/devices"
	"millrace/devices/catalog"
)

// Protocol a message came by; a label of metrics.
type Protocol string

const (
	MQTT     Protocol = "mqtt"      // embedded broker
	MQTTPull Protocol = "mqtt-pull" // somebody's broker
	HTTP     Protocol = "http"
)

// Config are the limits of intake.
type Config struct {
	MaxPayload        int     `default:"262144" help:"Largest payload of one message in bytes."`
	SamplesPerMessage int     `default:"10000" help:"Samples one message may hold."`
	DeviceRate        float64 `default:"50000" help:"Samples a second one device may send, on average; 0: no limit."`
}

// Spine is what the pipeline hands samples to.
type Spine interface {
	Enqueue(samples []devices.Sample, done func(error))
}

// Pipeline is safe for concurrent use.
type Pipeline struct{}

func New(c Config, cat *catalog.Catalog, s Spine) *Pipeline { panic("stub") }

// Message is one payload of one device.
type Message struct {
	Protocol Protocol
	Device   *catalog.Device
	Metric   string // the topic's last level when it names one metric (a scalar payload); "" for a JSON body
	Topic    string // for the list of rejects
	Payload  []byte // not kept after Handle returns
	Recv     int64  // Unix milliseconds
	Wait     bool   // done waits for the disk; else it is called as soon as the samples are taken
}

// Handle decodes all of the message, or refuses all of it. done is called once: nil, or a *Reject (bad input: sending it again is of no
// use), devices.ErrFull, ErrUnavailable, ErrRate. A reject is called at once, on the caller's goroutine. done may be nil. n is the number of samples taken.
func (p *Pipeline) Handle(m *Message, done func(error)) (n int) { panic("stub") }

// Reject says why a payload was not taken. It unwraps to devices.ErrInvalid, ErrTooLarge or ErrRate.
type Reject struct {
	Device devices.ID
	At     int64 // Unix ms
	Topic  string
	Head   []byte // first bytes, at most 128
	Reason string // for a person: what is wrong at which position
	Kind   string // for metrics: "json", "too_large", "too_many_samples", "too_many_series", "metric_name", "value", "time", "rate", "topic", "auth"
	Err    error
}

func (r *Reject) Error() string { return r.Reason }
func (r *Reject) Unwrap() error { return r.Err }

// Record counts a reject found elsewhere (a foreign topic, a wrong password) and puts it on the device's list.
func (p *Pipeline) Record(r *Reject) { panic("stub") }

// Rejects returns the newest first, of one device or (device "") of all, at most limit. Each device keeps its last 20; at most 1,000 devices, least recent out.
func (p *Pipeline) Rejects(device devices.ID, limit int) []Reject { panic("stub") }

// Stats since start.
type Stats struct {
	Messages, Samples map[Protocol]uint64
	Rejected          map[string]uint64 // by Kind
	ClockAhead        uint64            // samples from the future, taken at receive time as uncertain
}

func (p *Pipeline) Stats() Stats { panic("stub") }
