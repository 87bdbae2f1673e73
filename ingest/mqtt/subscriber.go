// Package mqtt takes measurements from somebody's MQTT 5 broker. A message is acknowledged to that broker when the spine has it
// on disk, so what Millrace could not store, or did not see while it was away, the broker keeps and sends again.
package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

// Config of the subscription.
type Config struct {
	URL            string        `help:"An MQTT 5 broker to take measurements from, such as mqtts://user:password@host:8883."`
	ClientID       string        `default:"millrace" help:"Client identifier there; the broker keeps messages for it while we are away."`
	Share          string        `default:"millrace" help:"Name of the shared subscription; servers with the same name divide the messages."`
	ReceiveMaximum uint16        `default:"1000" help:"Messages the broker may send before the first is acknowledged."`
	SessionExpiry  time.Duration `default:"24h" help:"How long the broker is to keep messages while we are away."`
}

func (c *Config) defaults() {
	if c.ClientID == "" {
		c.ClientID = "millrace"
	}
	if c.Share == "" {
		c.Share = "millrace"
	}
	if c.ReceiveMaximum == 0 {
		c.ReceiveMaximum = 1000
	}
	if c.SessionExpiry == 0 {
		c.SessionExpiry = 24 * time.Hour
	}
}

// Validate checks the URL; without one there is no subscription, and nothing to check.
func (c Config) Validate() error {
	if c.URL == "" {
		return nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" {
		return devices.Invalid("url", "must look like mqtt://host:1883 or mqtts://user:password@host:8883")
	}
	switch u.Scheme {
	case "mqtt", "mqtts", "ws", "wss":
	default:
		return devices.Invalid("url", "scheme must be mqtt, mqtts, ws or wss")
	}
	if strings.ContainsAny(c.Share, "/+#") {
		return devices.Invalid("share", "can't contain / + #")
	}
	return nil
}

// Intake is what messages are handed to: *ingest.Pipeline.
type Intake interface {
	Handle(m *ingest.Message, done func(error)) (n int)
	Record(r *ingest.Reject)
}

const (
	ackInterval  = 5 * time.Millisecond // acknowledgements go in order and in groups; paho's own 50 ms hold the rate down
	retryAfter   = 500 * time.Millisecond
	firstBackoff = 250 * time.Millisecond
	lastBackoff  = 15 * time.Second
)

// Subscriber is safe for concurrent use.
type Subscriber struct {
	conf   Config
	url    *url.URL
	cat    *catalog.Catalog
	intake Intake
	log    *slog.Logger

	connected atomic.Bool
	messages  atomic.Uint64
	unknown   atomic.Uint64
	held      atomic.Uint64
	connects  atomic.Uint64

	mu    sync.Mutex
	retry []*message // could not be stored; at most Receive Maximum
}

// message is one that has been received and not been acknowledged.
type message struct {
	ingest.Message
	packet *paho.Publish
	from   *paho.Client // acknowledged there or nowhere: a later connection counts anew
}

// New prepares a subscriber; Run connects it.
func New(c Config, cat *catalog.Catalog, in Intake, log *slog.Logger) (*Subscriber, error) {
	c.defaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if u.Port() == "" {
		u.Host += map[string]string{"mqtt": ":1883", "mqtts": ":8883", "ws": "", "wss": ""}[u.Scheme]
	}
	return &Subscriber{conf: c, url: u, cat: cat, intake: in, log: log}, nil
}

// Run stays connected until ctx ends. The broker keeps the session.
func (s *Subscriber) Run(ctx context.Context) error {
	user := s.url.User
	bare := *s.url
	bare.User = nil
	password, _ := user.Password()
	var subscribing sync.WaitGroup
	defer subscribing.Wait()
	manager, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls:            []*url.URL{&bare},
		KeepAlive:             30,
		SessionExpiryInterval: uint32(min(s.conf.SessionExpiry/time.Second, 1<<32-1)),
		ReconnectBackoff:      backoff,
		ConnectUsername:       user.Username(),
		ConnectPassword:       []byte(password),
		ConnectPacketBuilder: func(c *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			c.CleanStart = false
			c.Properties.ReceiveMaximum = &s.conf.ReceiveMaximum
			return c, nil
		},
		OnConnectionUp: func(m *autopaho.ConnectionManager, ack *paho.Connack) {
			s.connects.Add(1)
			s.log.Info("connected to mqtt broker", "broker", bare.String(), "session", ack.SessionPresent)
			subscribing.Go(func() { s.subscribe(ctx, m) }) // may not block here
		},
		OnConnectionDown: func() bool {
			s.connected.Store(false)
			s.log.Warn("connection to mqtt broker lost", "broker", bare.String())
			return true
		},
		OnConnectError: func(err error) { s.log.Warn("mqtt broker can't be reached", "broker", bare.String(), "err", err) },
		ClientConfig: paho.ClientConfig{
			ClientID:                   s.conf.ClientID,
			EnableManualAcknowledgment: true,
			SendAcksInterval:           ackInterval,
			OnPublishReceived:          []func(paho.PublishReceived) (bool, error){s.onPublish},
		},
	})
	if err != nil {
		return fmt.Errorf("mqtt broker %s: %w", bare.String(), err)
	}
	again := time.NewTicker(retryAfter)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			s.tryAgain()
		case <-manager.Done():
			s.connected.Store(false)
			return nil
		}
	}
}

// backoff is how long to wait before an attempt to connect: doubling, with jitter, so that servers don't come back together.
func backoff(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	d := min(firstBackoff<<min(attempt-1, 10), lastBackoff)
	return d/2 + rand.N(d/2)
}

// subscribe asks for the telemetry of all devices. It does so on each connection: the broker may have lost the session.
func (s *Subscriber) subscribe(ctx context.Context, m *autopaho.ConnectionManager) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	prefix := "$share/" + s.conf.Share + "/devices/+/telemetry"
	ack, err := m.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
		{Topic: prefix, QoS: 1, RetainHandling: 2},
		{Topic: prefix + "/+", QoS: 1, RetainHandling: 2},
	}})
	if err != nil {
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			s.log.Error("mqtt broker refuses the subscription", "err", err)
		}
		return
	}
	s.connected.Store(true)
	s.log.Debug("subscribed", "reasons", ack.Reasons)
}

// onPublish is called by paho's delivery goroutine, in the order of the broker. It waits only when the spine has too much to
// write; meanwhile the broker waits for acknowledgements.
func (s *Subscriber) onPublish(p paho.PublishReceived) (bool, error) {
	s.messages.Add(1)
	m := &message{packet: p.Packet, from: p.Client}
	device, metric, ok := splitTopic(p.Packet.Topic)
	if ok {
		m.Device = s.cat.Device(devices.ID(device))
	}
	if m.Device == nil || m.Device.State() != devices.Active {
		s.unknown.Add(1)
		s.refuse(m, device)
		return true, nil
	}
	m.Message = ingest.Message{
		Protocol: ingest.MQTTPull, Device: m.Device, Metric: metric, Topic: p.Packet.Topic, Payload: p.Packet.Payload,
		Recv: time.Now().UnixMilli(), Wait: p.Packet.QoS > 0,
	}
	s.handle(m)
	return true, nil
}

// refuse records a message of a device that may not send any, and acknowledges it: it would come again for ever.
func (s *Subscriber) refuse(m *message, device string) {
	known := devices.ID("")
	if m.Device != nil {
		known = m.Device.ID()
	}
	s.intake.Record(&ingest.Reject{
		Device: known, At: time.Now().UnixMilli(), Topic: m.packet.Topic, Head: m.packet.Payload[:min(len(m.packet.Payload), 128)],
		Kind: "auth", Reason: fmt.Sprintf("no active device %.128q", device), Err: devices.ErrUnauthorized,
	})
	s.ack(m)
}

func (s *Subscriber) handle(m *message) {
	if m.packet.QoS == 0 {
		s.intake.Handle(&m.Message, nil)
		return
	}
	s.intake.Handle(&m.Message, func(err error) {
		if _, refused := errors.AsType[*ingest.Reject](err); err == nil || refused || errors.Is(err, devices.ErrRate) {
			s.ack(m) // what is bad stays bad, and was counted
			return
		}
		s.held.Add(1)
		s.mu.Lock()
		s.retry = append(s.retry, m)
		s.mu.Unlock()
	})
}

// ack marks a message as done; paho sends acknowledgements in the order of the messages.
func (s *Subscriber) ack(m *message) {
	if m.packet.QoS > 0 {
		_ = m.from.Ack(m.packet) // fails when that connection is gone: the broker sends the message again
	}
}

// tryAgain hands over what could not be stored. The broker sends no more than Receive Maximum before that has succeeded.
func (s *Subscriber) tryAgain() {
	s.mu.Lock()
	again := s.retry
	s.retry = nil
	s.mu.Unlock()
	for _, m := range again {
		select {
		case <-m.from.Done(): // comes again on the new connection
		default:
			s.handle(m)
		}
	}
}

// splitTopic takes devices/{device}/telemetry or devices/{device}/telemetry/{metric} apart.
func splitTopic(topic string) (device, metric string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "devices/")
	if !ok {
		return "", "", false
	}
	device, rest, ok = strings.Cut(rest, "/")
	if !ok {
		return "", "", false
	}
	if rest == "telemetry" {
		return device, "", true
	}
	metric, ok = strings.CutPrefix(rest, "telemetry/")
	return device, metric, ok
}

// Connected reports whether messages can come.
func (s *Subscriber) Connected() bool { return s.connected.Load() }

// Stats since start.
type Stats struct {
	Connected bool
	Connects  uint64
	Messages  uint64
	Unknown   uint64 // of devices that are not there or not active
	Held      uint64 // times a message could not be stored and was kept back
	Waiting   int    // messages kept back now
}

// Stats tells what the subscriber does.
func (s *Subscriber) Stats() Stats {
	s.mu.Lock()
	waiting := len(s.retry)
	s.mu.Unlock()
	return Stats{
		Connected: s.Connected(), Connects: s.connects.Load(), Messages: s.messages.Load(), Unknown: s.unknown.Load(),
		Held: s.held.Load(), Waiting: waiting,
	}
}
