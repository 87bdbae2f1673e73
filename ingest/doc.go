// Package ingest takes messages of devices on their way to the spine: decode, check, hand over. It is the one place where
// limits are kept and refusals counted, whatever protocol a message came by.
package ingest

import "millrace/devices"

// Protocol a message came by; a label of metrics.
type Protocol string

// Protocols.
const (
	MQTT     Protocol = "mqtt"      // embedded broker
	MQTTPull Protocol = "mqtt-pull" // somebody's broker
	HTTP     Protocol = "http"
)

// Config are the limits of intake.
type Config struct {
	MaxPayload        int     `default:"262144" help:"Largest payload of one message in bytes."`
	MaxBody           int     `default:"4194304" help:"Largest HTTP body with samples of many devices, in bytes after decompression."`
	SamplesPerMessage int     `default:"10000" help:"Samples one message may hold; ten times as many in a body of many devices."`
	DeviceRate        float64 `default:"50000" help:"Samples a second one device may send, on average; 0: no limit."`
}

// Spine is what the pipeline hands samples to; spine.Spine is one. Enqueue copies the samples before it returns.
type Spine interface {
	Enqueue(samples []devices.Sample, done func(error))
}

// MaxAhead is how far ahead of its receipt a sample may say it was measured, in milliseconds. One further ahead comes from a
// wrong clock: it is taken at its receive time with quality uncertain.
const MaxAhead = 60_000
