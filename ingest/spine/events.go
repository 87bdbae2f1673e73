package spine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// eventStream keeps what Publish is given when no other stream takes its subject.
const eventStream = "MILLRACE_EVENTS"

// Limits of that stream: the oldest go first.
const (
	eventStreamBytes = 1 << 30
	eventStreamAge   = 7 * 24 * time.Hour
)

// Publish puts a message on a subject of the same NATS, for others to read, and returns when JetStream has stored it. It has nothing to do
// with samples. A subject that no stream takes is given to the stream MILLRACE_EVENTS, which keeps a gigabyte and a week.
func (s *Spine) Publish(ctx context.Context, subject string, header map[string][]string, body []byte) error {
	m := &nats.Msg{Subject: subject, Header: header, Data: body}
	_, err := s.js.PublishMsg(ctx, m)
	if !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, nats.ErrNoResponders) {
		return err
	}
	if err := s.takeSubject(ctx, subject); err != nil {
		return fmt.Errorf("subject %s: %w", subject, err)
	}
	_, err = s.js.PublishMsg(ctx, m)
	return err
}

// takeSubject adds a subject to the stream of events.
func (s *Spine) takeSubject(ctx context.Context, subject string) error {
	cfg := jetstream.StreamConfig{Name: eventStream, Description: "events of Web PubSub for listeners", Storage: jetstream.FileStorage, MaxBytes: eventStreamBytes, MaxAge: eventStreamAge}
	switch st, err := s.js.Stream(ctx, eventStream); {
	case err == nil:
		cfg = st.CachedInfo().Config
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	}
	cfg.Subjects = append(cfg.Subjects, subject)
	_, err := s.js.CreateOrUpdateStream(ctx, cfg)
	return err
}
