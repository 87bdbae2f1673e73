// Package spine is the durable log of accepted samples: a NATS JetStream stream, in this process or in a cluster.
package spine

import (
	"context"
	"log/slog"

	"millrace/devices"
)

// Config of the spine.
type Config struct {
	NATSURL  string // an existing NATS server or cluster; empty: one inside this process, with no port
	Dir      string // where the embedded server keeps its files
	MaxBytes int64  // size of the stream at which it takes no more
	Shards   int    // subjects millrace.samples.0 … n-1, a batcher each; a device always goes to the same one
}

// Names turns a SeriesID into the names that go into the log. catalog.Catalog is one.
type Names interface {
	Name(devices.SeriesID) (devices.ID, string)
}

// Spine is the producer's side. Samples handed over while a publish is under way gather into the next message.
type Spine struct{}

// Open starts or reaches NATS, makes the stream if it is missing, and is ready when it returns.
func Open(ctx context.Context, c Config, names Names, log *slog.Logger) (*Spine, error) {
	panic("stub")
}

// Run publishes until ctx ends, then flushes what waits and returns. The embedded server goes on until Close.
func (s *Spine) Run(ctx context.Context) error { panic("stub") }

// Close stops the embedded server, after all readers have ended.
func (s *Spine) Close() error { panic("stub") }

// Enqueue copies the samples (of one or several devices) into the open batch and returns; done is called exactly once, on
// another goroutine, in the order of Enqueue calls per shard, when they are on disk (nil) or refused (ErrFull,
// ErrUnavailable): all or nothing for the samples of one device. done must not block. With done nil it enters without
// waiting. When too much waits already (bounded), Enqueue itself blocks: backpressure to the device.
func (s *Spine) Enqueue(samples []devices.Sample, done func(error)) { panic("stub") }

// Append is Enqueue and waiting.
func (s *Spine) Append(ctx context.Context, samples []devices.Sample) error { panic("stub") }

// Release says that everything up to seq is stored elsewhere by the named consumer (the store's last values; later, history).
// What all consumers have released may be dropped when room is needed. A consumer is known from its first call on, also
// after a restart.
func (s *Spine) Release(consumer string, seq uint64) { panic("stub") }

// Position of the stream.
type Position struct{ First, Last uint64 }

func (s *Spine) Position(ctx context.Context) (Position, error) { panic("stub") }

// Sink takes decoded batches in the order of the stream; the slice is reused after it returns. seq is the stream
// sequence of the message, rising; a Sink that has seen seq has seen everything before.
type Sink interface {
	Deliver(seq uint64, samples []devices.Sample)
}

// Resolver turns names back into ids. ok is false for a device that is unknown (deleted meanwhile): its samples are counted and left out.
type Resolver interface {
	Resolve(device []byte, metric []byte, k devices.Kind) (id devices.SeriesID, ok bool)
}

// Reader delivers the stream from a position on, forever, in order, each message once. Several may run.
type Reader struct{}

// Reader returns a reader that starts at sequence from (or the first there is, if later).
func (s *Spine) Reader(from uint64, names Resolver, to ...Sink) *Reader { panic("stub") }
func (r *Reader) Run(ctx context.Context) error                         { panic("stub") }

// CaughtUp is closed when the reader has delivered what was in the stream when Run began.
func (r *Reader) CaughtUp() <-chan struct{} { panic("stub") }

// Stats for the collector and the system page.
type Stats struct {
	Messages, Samples, Bytes, Refused, Publishes uint64 // since start
	Waiting                                      int    // samples not yet on disk
	StreamBytes, MaxBytes                        uint64
	First, Last                                  uint64
	Delivered                                    uint64 // by the reader
	Healthy                                      bool   // the last publish succeeded, or nothing was wrong
}

func (s *Spine) Stats() Stats { panic("stub") }
