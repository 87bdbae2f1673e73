package spine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"millrace/devices"
)

// Spine is the producer's side. Samples handed over while a publish is under way gather into the next message.
type Spine struct {
	names  Names
	log    *slog.Logger
	server *server.Server // nil with an external NATS
	lock   *os.File       // of the directory; nil with an external NATS
	nc     *nats.Conn
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	made   time.Time // the stream, as it was when Open returned

	name       string // of this life of the producer, part of message ids
	shards     []*shard
	soft, hard int // bytes of a message
	gather     time.Duration
	maxBytes   int64

	room     chan struct{} // cap 1: the stream is full, look now whether something can go
	released struct {
		sync.Mutex
		at map[string]uint64 // not yet written
	}
	late sync.WaitGroup // callbacks of what came after the end

	messages, samples, bytes, refused, publishes, delivered, unknown, lost, replaced atomic.Uint64
	waiting                                                                          atomic.Int64
	streamBytes, first, last                                                         atomic.Uint64
	unhealthy                                                                        atomic.Bool
}

// Open starts or reaches NATS, makes the stream if it is missing, and is ready when it returns.
func Open(ctx context.Context, c Config, names Names, log *slog.Logger) (_ *Spine, err error) {
	if c.MaxBytes <= 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.Shards <= 0 {
		c.Shards = DefaultShards
	}
	s := &Spine{names: names, log: log, name: nuid.Next(), maxBytes: c.MaxBytes, gather: gather, room: make(chan struct{}, 1)}
	s.released.at = make(map[string]uint64)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	options := []nats.Option{
		nats.Name("millrace"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // a publish while NATS is away fails at once; we retry, with the same id
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("nats reconnected") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Debug("nats", "err", err) }),
	}
	if c.NATSURL == "" {
		if err := s.embed(ctx, c); err != nil {
			return nil, fmt.Errorf("spine in %s: %w", c.Dir, err)
		}
		options = append(options, nats.InProcessServer(s.server))
	}
	if s.nc, err = nats.Connect(c.NATSURL, options...); err != nil {
		return nil, fmt.Errorf("nats at %s: %w", Redacted(c.NATSURL), err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return nil, fmt.Errorf("spine: %w", err)
	}
	if err := s.setUp(ctx); err != nil {
		return nil, fmt.Errorf("spine: %w", err)
	}
	s.hard = min(hardMessage, int(s.nc.MaxPayload())-1024) // headers count, too
	s.soft = min(softMessage, s.hard/2)
	for i := range c.Shards {
		s.shards = append(s.shards, newShard(subjectPrefix+strconv.Itoa(i)))
	}
	return s, nil
}

// Redacted returns the addresses in a NATS URL, of which there may be several between commas, without users and passwords.
func Redacted(natsURL string) string {
	all := strings.Split(natsURL, ",")
	for i, one := range all {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil {
			return "(an address that can't be read)"
		}
		u.User, u.RawQuery = nil, ""
		all[i] = u.String()
	}
	return strings.Join(all, ",")
}

// setUp makes the stream and the bucket. Of a stream that is there only what we depend on is changed, so that
// replicas and placement stay as somebody chose.
func (s *Spine) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cfg := jetstream.StreamConfig{Name: stream, Description: "accepted samples", Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy}
	switch old, err := s.js.Stream(ctx, stream); {
	case err == nil:
		cfg = old.CachedInfo().Config
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	cfg.Subjects = []string{subjectPrefix + "*"}
	cfg.Discard = jetstream.DiscardNew
	cfg.MaxBytes = s.maxBytes
	cfg.Duplicates = dedupe
	st, err := s.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return fmt.Errorf("stream %s of %d bytes: %w", stream, s.maxBytes, err)
	}
	s.note(st.CachedInfo().State)
	if s.made.IsZero() {
		s.made = st.CachedInfo().Created
	}
	if s.kv, err = s.js.KeyValue(ctx, bucket); errors.Is(err, jetstream.ErrBucketNotFound) {
		s.kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: bucket, Description: "sequence up to which each consumer has stored " + stream, Storage: jetstream.FileStorage, History: 1})
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", bucket, err)
	}
	return nil
}

// Run publishes until ctx ends, then flushes what waits and returns. Samples that come later are refused with
// ErrUnavailable. The embedded server goes on until Close.
func (s *Spine) Run(ctx context.Context) error {
	var work sync.WaitGroup
	for _, sh := range s.shards {
		work.Go(func() { s.publishAll(ctx, sh) })
	}
	s.keepUp(ctx)
	work.Wait()
	s.writeReleased(context.WithoutCancel(ctx))
	return nil
}

// Close ends the connection and the embedded server, after Run and all readers have ended.
func (s *Spine) Close() error {
	s.late.Wait()
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.lock != nil {
		return s.lock.Close() // which unlocks
	}
	return nil
}

// shardOf gives a device its shard. FNV-1a, because it must be the same in every process.
func (s *Spine) shardOf(id devices.ID) *shard {
	if len(s.shards) == 1 {
		return s.shards[0]
	}
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return s.shards[h%uint32(len(s.shards))]
}

// Enqueue copies the samples (of one or several devices) into the open batch and returns; done is called exactly once, on
// another goroutine, in the order of Enqueue calls per shard, when they are on disk (nil) or refused (ErrFull,
// ErrUnavailable): all or nothing for the samples of one device that stand together. done must not block. With done nil
// they enter without waiting. When too much waits already (bounded), Enqueue itself blocks: backpressure to the device.
func (s *Spine) Enqueue(samples []devices.Sample, done func(error)) {
	s.messages.Add(1)
	s.samples.Add(uint64(len(samples)))
	n := s.run(samples)
	if n == len(samples) {
		s.enqueue(samples, done)
		return
	}
	// Of several devices: each run of one device is whole, and done hears the first fault when the last part is answered.
	parts := 1
	for rest := samples[n:]; len(rest) > 0; parts++ {
		rest = rest[s.run(rest):]
	}
	if done != nil {
		done = join(parts, done)
	}
	for rest := samples; len(rest) > 0; {
		n := s.run(rest)
		s.enqueue(rest[:n], done)
		rest = rest[n:]
	}
}

// run is how many samples from the first on are of the same device.
func (s *Spine) run(samples []devices.Sample) int {
	if len(samples) == 0 {
		return 0
	}
	first, _ := s.names.Name(samples[0].Series)
	last := samples[0].Series
	for i := 1; i < len(samples); i++ {
		if id := samples[i].Series; id != last {
			if d, _ := s.names.Name(id); d != first {
				return i
			}
			last = id
		}
	}
	return len(samples)
}

func join(parts int, done func(error)) func(error) {
	var mu sync.Mutex
	var first error
	return func(err error) {
		mu.Lock()
		if first == nil {
			first = err
		}
		parts--
		end := parts == 0
		mu.Unlock()
		if end {
			done(first)
		}
	}
}

func (s *Spine) enqueue(samples []devices.Sample, done func(error)) {
	size := bound(samples, s.names)
	if size > s.hard-headerSize {
		s.refuse(samples, done, fmt.Errorf("%d samples at once: %w", len(samples), devices.ErrTooLarge))
		return
	}
	var device devices.ID
	if len(samples) > 0 {
		device, _ = s.names.Name(samples[0].Series)
	}
	sh := s.shardOf(device)
	s.waiting.Add(int64(len(samples)))
	unknown, ok := sh.put(samples, size, s, done)
	if !ok {
		s.waiting.Add(-int64(len(samples)))
		s.refuse(samples, done, fmt.Errorf("spine is shutting down: %w", devices.ErrUnavailable))
	}
	if unknown > 0 {
		s.unknown.Add(uint64(unknown))
	}
}

// refuse answers on a goroutine of its own: the caller may hold what done needs.
func (s *Spine) refuse(samples []devices.Sample, done func(error), err error) {
	s.refused.Add(uint64(len(samples)))
	if done != nil {
		s.late.Go(func() { done(err) })
	}
}

// Append is Enqueue and waiting. When ctx ends first the samples may still be stored.
func (s *Spine) Append(ctx context.Context, samples []devices.Sample) error {
	answer := make(chan error, 1)
	s.Enqueue(samples, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Position of the stream.
func (s *Spine) Position(ctx context.Context) (Position, error) {
	info, err := s.info(ctx)
	if err != nil {
		return Position{}, err
	}
	return Position{info.FirstSeq, info.LastSeq}, nil
}

func (s *Spine) info(ctx context.Context) (jetstream.StreamState, error) {
	state, _, err := s.look(ctx)
	return state, err
}

// look returns the state of the stream, and when it was made.
func (s *Spine) look(ctx context.Context) (jetstream.StreamState, time.Time, error) {
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return jetstream.StreamState{}, time.Time{}, fmt.Errorf("stream %s: %w: %w", stream, devices.ErrUnavailable, err)
	}
	state := st.CachedInfo().State
	s.note(state)
	return state, st.CachedInfo().Created, nil
}

// Life names the stream as it was when Open returned: a text that is another when the stream was made anew, on another server or
// because its files were removed. A position in the stream means something only in the life that it is of.
func (s *Spine) Life() string { return stream + " " + s.made.UTC().Format(time.RFC3339Nano) }

// NoteReplaced tells, and counts, that a position kept elsewhere is of another life. Readers see by themselves what changes later.
func (s *Spine) NoteReplaced() {
	s.replaced.Add(1)
	s.log.Warn("the spine is not the one that was read before: it is read from its start", "made", s.made)
}

func (s *Spine) note(state jetstream.StreamState) {
	s.streamBytes.Store(state.Bytes)
	s.first.Store(state.FirstSeq)
	s.last.Store(max(state.LastSeq, s.last.Load()))
}

// Stats since start. StreamBytes and First are up to a second old.
func (s *Spine) Stats() Stats {
	return Stats{
		Messages: s.messages.Load(), Samples: s.samples.Load(), Bytes: s.bytes.Load(), Refused: s.refused.Load(), Publishes: s.publishes.Load(),
		Waiting:     int(min(max(s.waiting.Load(), 0), math.MaxInt32)),
		StreamBytes: s.streamBytes.Load(), MaxBytes: uint64(s.maxBytes),
		First: s.first.Load(), Last: s.last.Load(),
		Delivered: s.delivered.Load(), Unknown: s.unknown.Load(), Lost: s.lost.Load(), Replaced: s.replaced.Load(),
		Healthy: !s.unhealthy.Load(),
	}
}
