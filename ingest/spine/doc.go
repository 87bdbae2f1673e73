// Package spine is the durable log of accepted samples: a NATS JetStream stream, in this process or in a cluster.
//
// Producers hand samples to Enqueue. Each shard (a subject) has one batcher: while a publish is under way, what comes in
// gathers in the next message, so the size of messages follows the load. What nobody waits for (QoS 0) is published at once
// when little comes, and otherwise two milliseconds after what went before. Waiting is bounded: when a full message waits
// behind the one under way, Enqueue blocks, and so does the device. Readers get the stream in order, each message once,
// from any position that is still kept.
//
// A message acknowledged to a producer is on disk: the embedded server syncs every write (sync_always). An external NATS
// must be set up so itself, or replicate the stream: its own configuration decides what its acknowledgement means.
package spine

import (
	"time"

	"millrace/devices"
)

// Config of the spine.
type Config struct {
	NATSURL  string // an existing NATS server or cluster; empty: one inside this process, with no port
	Dir      string // where the embedded server keeps its files
	MaxBytes int64  // size of the stream at which it takes no more; 0: DefaultMaxBytes
	Shards   int    // subjects millrace.samples.0 … n-1, a batcher each; a device always goes to the same one; 0: DefaultShards
}

// Defaults of Config. One shard is best on one machine: each publish is one fsync, and more shards mean more of them.
const (
	DefaultMaxBytes = 4 << 30
	DefaultShards   = 1
)

// Names in NATS.
const (
	stream        = "MILLRACE_SAMPLES"
	subjectPrefix = "millrace.samples."
	bucket        = "MILLRACE_RELEASED" // key-value: consumer -> sequence it has released
)

const (
	softMessage = 512 << 10 // a message is published without more when it has grown to this
	hardMessage = 4 << 20   // no message is larger; 8 MB is what the server takes
	maxPayload  = 8 << 20

	gather = 2 * time.Millisecond // between messages that nobody waits for, while there is load

	publishTimeout = 3 * time.Second  // one attempt
	publishTotal   = 10 * time.Second // all attempts at one message; then its producers get ErrUnavailable
	retryPause     = 100 * time.Millisecond
	// dedupe is how long NATS remembers the id of a message: longer than all attempts take, and short, because at 3,000
	// messages a second each second of it is 3,000 ids in memory.
	dedupe = 30 * time.Second

	upkeep = time.Second // how often released positions are written and room is made
)

// Names turns a SeriesID into the names that go into the log. catalog.Catalog is one.
type Names interface {
	Name(devices.SeriesID) (devices.ID, string)
}

// Resolver turns names back into ids. ok is false for a device that is unknown (deleted meanwhile): its samples are
// counted and left out. The slices are valid during the call only.
type Resolver interface {
	Resolve(device []byte, metric []byte, k devices.Kind) (id devices.SeriesID, ok bool)
}

// Sink takes decoded batches in the order of the stream; the slice is reused after it returns. seq is the stream
// sequence of the message, rising; a Sink that has seen seq has seen everything before.
type Sink interface {
	Deliver(seq uint64, samples []devices.Sample)
}

// Position is what of the stream is kept: sequences First to Last, or nothing when First is Last+1.
type Position struct{ First, Last uint64 }

// Stats for the collector and the system page.
type Stats struct {
	Messages, Samples, Bytes, Refused, Publishes uint64 // since start; Messages and Samples as handed over, Bytes as published
	Waiting                                      int    // samples not yet on disk
	StreamBytes, MaxBytes                        uint64
	First, Last                                  uint64
	Delivered                                    uint64 // samples, by the readers
	Unknown                                      uint64 // samples of series or devices that are known no more, left out
	Lost                                         uint64 // messages a reader wanted that were no longer there, or that it could not read
	Replaced                                     uint64 // times that the stream was another one than what had been read, and was read from its start
	Healthy                                      bool   // the last publish succeeded, or nothing was wrong
}
