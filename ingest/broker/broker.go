// Package broker is the embedded MQTT broker: mochi-mqtt with Millrace's rules around it. It signs devices in from the
// catalog, keeps each to its own topics, and acknowledges a measurement when the spine has it on disk.
//
// mochi does the protocol towards subscribers, sessions and retained messages. What a device publishes at QoS 1 and 2 is
// acknowledged here (acks.go): mochi would acknowledge as soon as its hook returns, one message at a time, and it numbers
// both directions in one table. The hook therefore shows mochi each PUBLISH as QoS 0 and keeps packet identifier and QoS.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

// Config of the embedded broker.
type Config struct {
	Addr           string        `default:":1883" help:"Where the embedded MQTT broker listens; empty: not over plain TCP."`
	TLSAddr        string        `default:":8883" help:"Where it listens for MQTT over TLS, when a certificate is given."`
	TLSCert        string        `kong:"-"` // PEM file with the certificate chain
	TLSKey         string        `kong:"-"` // PEM file with its private key
	TLSClientCA    string        `help:"PEM file with the authorities that sign client certificates; empty: any certificate whose fingerprint is a credential." type:"path"`
	MaxConnections int           `default:"10000" help:"Devices connected at once."`
	ConnectTimeout time.Duration `default:"10s" help:"How long a new connection may take to sign in."`
	WriteTimeout   time.Duration `default:"30s" help:"How long a device may take to read what it is sent."`
	MaxKeepAlive   time.Duration `default:"1h" help:"Longest keep-alive; MQTT 5 clients that ask for more, or for none, are given this."`
	ReceiveMaximum uint16        `default:"1024" help:"QoS 1 and 2 messages of one device under way at once."`
	SessionExpiry  time.Duration `default:"168h" help:"Longest time a session is kept for a device that is away."`
	Sessions       int           `default:"32" help:"Sessions (client identifiers) a device may have."`
	QueueMessages  uint16        `default:"1000" help:"QoS 1 and 2 messages kept for one session."`
	Retained       int           `default:"100" help:"Retained messages a device may have."`
	AuthFailures   int           `default:"100" help:"Failed sign-ins a minute from one address before it is turned away; 0: no limit."`

	Dir        string `kong:"-"` // where sessions and retained messages are kept; empty: in memory only
	MaxPayload int    `kong:"-"` // ingest.Config.MaxPayload; 0 means 256 KiB
}

// Validate checks what tags can't. It is also called before a certificate has been given.
func (c Config) Validate() error {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return devices.Invalid("tls-cert", "certificate and key must be given together")
	case c.MaxConnections < 0 || c.Sessions < 0 || c.Retained < 0:
		return devices.Invalid("max-connections", "limits can't be negative; 0 means the default")
	}
	return nil
}

func (c *Config) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.ConnectTimeout, 10*time.Second)
	set(&c.WriteTimeout, 30*time.Second)
	set(&c.MaxKeepAlive, time.Hour)
	set(&c.SessionExpiry, 7*24*time.Hour)
	c.MaxKeepAlive = min(c.MaxKeepAlive, maxKeepAlive*time.Second)
	if c.MaxConnections == 0 {
		c.MaxConnections = 10000
	}
	if c.ReceiveMaximum == 0 {
		c.ReceiveMaximum = 1024
	}
	if c.Sessions == 0 {
		c.Sessions = 32
	}
	if c.QueueMessages == 0 {
		c.QueueMessages = 1000
	}
	if c.Retained == 0 {
		c.Retained = 100
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = 256 << 10
	}
}

const (
	maxKeepAlive   = 43690   // seconds; mochi multiplies by 1.5 in 16 bits
	packetOverhead = 4 << 10 // of the largest packet beyond its payload: topic and properties
	topicAliases   = 64      // a device may name, per connection
	topicLevels    = 128     // of topics and filters: mochi walks each from its start, level by level, under one lock
	subscriptions  = 10000   // of a session
	drainTimeout   = 5 * time.Second
	outgoing       = 1024 // packets that wait for one slow connection before further ones are dropped
)

// Intake is what the broker hands messages to: *ingest.Pipeline.
type Intake interface {
	Handle(m *ingest.Message, done func(error)) (n int)
	Record(r *ingest.Reject)
}

// Broker is safe for concurrent use.
type Broker struct {
	conf   Config
	cat    *catalog.Catalog
	intake Intake
	log    *slog.Logger
	open   bool // conformance tests only: everybody may everything but subscribe to closed, and there is no telemetry
	closed string

	server     *mqtt.Server
	inline     *mqtt.Client // hands on what was acknowledged here
	store      *store       // nil: in memory only
	listeners  []net.Listener
	plain      net.Addr
	secure     net.Addr
	throttle   throttle
	subscribed atomic.Bool  // somebody has, at some time; until then nothing is handed on (mochi's own count drifts)
	order      atomic.Int64 // of messages towards subscribers, instead of mochi's seconds
	conns      sync.WaitGroup
	changed    chan struct{} // something in the catalog changed
	aheads     aheads

	authFailures atomic.Uint64
	refused      atomic.Uint64
	foreign      atomic.Uint64

	mu       sync.Mutex
	serving  bool // Run is at work
	all      map[*conn]struct{}
	live     map[string]*conn    // by client identifier as mochi knows it
	sessions map[string]*session // likewise; also of devices that are away
	gone     map[devices.ID]bool // deleted, their sessions not yet

	perDevice map[devices.ID]int // of sessions

	wills   map[string]string  // entry in the store of the will of a client that is connected or may yet come back
	orphans map[string]*orphan // of before the start
}

// New prepares a broker; Listen opens its ports and Run lets devices in.
func New(c Config, cat *catalog.Catalog, in Intake, log *slog.Logger) (*Broker, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("broker settings: %w", err)
	}
	c.defaults()
	b := &Broker{
		conf: c, cat: cat, intake: in, log: log,
		changed:  make(chan struct{}, 1),
		all:      make(map[*conn]struct{}),
		live:     make(map[string]*conn),
		sessions: make(map[string]*session),
		gone:     make(map[devices.ID]bool),

		perDevice: make(map[devices.ID]int),
		wills:     make(map[string]string),
		orphans:   make(map[string]*orphan),
		throttle:  throttle{limit: c.AuthFailures, seen: make(map[string]*failures)},
	}
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(c.MaxConnections)
	caps.MaximumMessageExpiryInterval = 0 // as long as the message says; the tables are bounded by number
	caps.MaximumClientWritesPending = outgoing
	caps.MaximumSessionExpiryInterval = uint32(min(c.SessionExpiry/time.Second, math.MaxUint32))
	caps.MaximumPacketSize = uint32(c.MaxPayload + packetOverhead)
	caps.ReceiveMaximum = c.ReceiveMaximum
	caps.MaximumInflight = c.QueueMessages
	caps.TopicAliasMaximum = topicAliases
	b.server = mqtt.New(&mqtt.Options{
		Capabilities:           caps,
		Logger:                 slog.New(slog.DiscardHandler), // it logs whole packets
		SysTopicResendInterval: math.MaxInt32,                 // stops the world for statistics that nobody may read
		InlineClient:           true,
	})
	b.inline, _ = b.server.Clients.Get(mqtt.InlineClientId)
	b.inline.Properties.ProtocolVersion = 5 // so that message expiry is kept
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return b, nil
}

// ListenError tells which port can't be opened. Setting is "addr" or "tls-addr".
type ListenError struct {
	Setting, Addr string
	Err           error
}

func (e *ListenError) Error() string { return fmt.Sprintf("mqtt on %s: %v", e.Addr, e.Err) }

func (e *ListenError) Unwrap() error { return e.Err }

// Listen opens the ports. It is called before Run, so that a port that is taken is found out at start.
func (b *Broker) Listen() error {
	open := func(setting, addr string, conf *tls.Config) (net.Addr, error) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, &ListenError{setting, addr, err}
		}
		at := l.Addr()
		if conf != nil {
			l = tls.NewListener(l, conf)
		}
		b.listeners = append(b.listeners, l)
		return at, nil
	}
	var err error
	if b.conf.TLSCert != "" && b.conf.TLSAddr != "" {
		conf, err := b.tlsConfig()
		if err != nil {
			return err
		}
		if b.secure, err = open("tls-addr", b.conf.TLSAddr, conf); err != nil {
			return err
		}
	}
	if b.conf.Addr != "" {
		if b.plain, err = open("addr", b.conf.Addr, nil); err != nil {
			b.closeListeners()
		}
	}
	return err
}

// Addr is where MQTT over TCP is served; nil if it is not.
func (b *Broker) Addr() net.Addr { return b.plain }

// TLSAddr is where MQTT over TLS is served; nil if it is not.
func (b *Broker) TLSAddr() net.Addr { return b.secure }

// Run serves devices until ctx ends. Then it takes no more, acknowledges what is still on its way to the disk (for at most
// five seconds), tells MQTT 5 clients that the server is shutting down, and closes all connections.
func (b *Broker) Run(ctx context.Context) error {
	defer b.closeListeners()
	var background sync.WaitGroup
	if b.conf.Dir != "" {
		var err error
		if b.store, err = openStore(b.conf.Dir); err != nil {
			return err
		}
		background.Go(func() { b.store.run(b.log) })
		if err := b.restore(); err != nil {
			return errors.Join(err, b.store.close())
		}
	}
	if err := b.server.Serve(); err != nil {
		if b.store != nil {
			err = errors.Join(err, b.store.close())
		}
		return fmt.Errorf("broker: %w", err)
	}
	b.mu.Lock()
	b.serving = true
	b.mu.Unlock()
	cancel := b.cat.Watch(b.onChange)

	var accepting sync.WaitGroup
	failed := make(chan error, len(b.listeners))
	for _, l := range b.listeners {
		accepting.Go(func() { failed <- b.accept(l) })
	}
	b.log.Info("mqtt broker listens", "addr", b.plain, "tls", b.secure)
	err := b.watch(ctx, failed)

	cancel()
	b.closeListeners()
	b.mu.Lock()
	b.serving = false
	all := make([]*conn, 0, len(b.all))
	for c := range b.all {
		all = append(all, c)
	}
	b.mu.Unlock()
	accepting.Wait()
	for _, c := range all {
		c.stop(packets.ErrServerShuttingDown)
	}
	b.conns.Wait()
	err = errors.Join(err, b.server.Close())
	if b.store != nil {
		err = errors.Join(err, b.store.close())
	}
	background.Wait()
	return err
}

// watch looks after the connections until ctx ends or a listener fails.
func (b *Broker) watch(ctx context.Context, failed <-chan error) error {
	each := time.NewTicker(time.Second) // credentials expire without an event
	defer each.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-b.changed:
		case <-each.C:
		}
		b.dropRevoked()
		b.forgetGone()
		b.publishOrphans(time.Now())
		b.throttle.prune(time.Now())
	}
}

func (b *Broker) accept(l net.Listener) error {
	for {
		nc, err := l.Accept()
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || isTooManyFiles(err) {
				time.Sleep(50 * time.Millisecond) // as net/http does; the kernel queues meanwhile
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("mqtt on %s: %w", l.Addr(), err)
		}
		b.conns.Go(func() { _ = b.serve(nc) }) // how a device left is counted, not logged
	}
}

func (b *Broker) closeListeners() {
	for _, l := range b.listeners {
		_ = l.Close() // a second close is harmless
	}
}

var errBusy = errors.New("broker takes no connection")

// Serve speaks MQTT on a connection that somebody else accepted, and blocks until it ends and is closed. Run must be
// running.
func (b *Broker) Serve(nc net.Conn) error {
	b.mu.Lock()
	if !b.serving {
		b.mu.Unlock()
		_ = nc.Close()
		return errBusy
	}
	b.conns.Add(1)
	b.mu.Unlock()
	defer b.conns.Done()
	return b.serve(nc)
}

func (b *Broker) serve(nc net.Conn) error {
	c := newConn(b, nc)
	b.mu.Lock()
	// Those that have not signed in yet get some room of their own, so that mochi can answer "server busy".
	if !b.serving || len(b.all) > b.conf.MaxConnections+b.conf.MaxConnections/10+16 {
		b.mu.Unlock()
		b.refused.Add(1)
		_ = nc.Close()
		return errBusy
	}
	b.all[c] = struct{}{}
	b.mu.Unlock()
	_ = nc.SetReadDeadline(time.Now().Add(b.conf.ConnectTimeout))
	err := b.server.EstablishConnection("devices", c)
	c.dropAhead()
	if c.session != nil && !c.left && transient(c.client) { // mochi could not write CONNACK, and forgets to tidy up
		b.discard(c.client)
	}
	c.acknowledge()
	b.mu.Lock()
	if b.live[c.id] == c {
		delete(b.live, c.id)
	}
	b.mu.Unlock()
	close(c.ended)
	c.goodbye(err)
	b.mu.Lock()
	delete(b.all, c)
	b.mu.Unlock()
	return err
}

// onChange is told by the catalog; it must be quick.
func (b *Broker) onChange(e catalog.Event) {
	if len(e.Devices) == 0 {
		return
	}
	b.mu.Lock()
	for _, id := range e.Devices {
		if b.cat.Device(id) == nil {
			b.gone[id] = true
		}
	}
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// dropRevoked ends the connections of devices that may no longer connect.
func (b *Broker) dropRevoked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.live {
		if c.device != nil && !b.cat.CredentialValid(c.device.ID(), c.credential) {
			c.stop(packets.ErrNotAuthorized)
		}
	}
}

// forgetGone drops the sessions and retained messages of deleted devices, once their connections have ended.
func (b *Broker) forgetGone() {
	b.mu.Lock()
	var ids []devices.ID
	for id := range b.gone {
		busy := false
		for c := range b.all {
			busy = busy || c.device != nil && c.device.ID() == id
		}
		if !busy {
			ids = append(ids, id)
			delete(b.gone, id)
		}
	}
	b.mu.Unlock()
	for _, id := range ids {
		for key, cl := range b.server.Clients.GetAll() {
			if strings.HasPrefix(key, string(id)+"/") {
				b.discard(cl)
			}
		}
		for _, pk := range b.server.Topics.Messages("devices/" + string(id) + "/#") {
			b.server.Topics.RetainMessage(packets.Packet{TopicName: pk.TopicName})
			b.store.delete(bucketRetained, pk.TopicName)
		}
	}
}

// Stats since start, and as of now.
type Stats struct {
	Connections   map[string]int // by protocol version: "3.1", "3.1.1", "5"
	Sessions      int            // also those whose device is away
	Subscriptions int
	Retained      int
	In, Out       uint64 // messages
	AuthFailures  uint64
	Refused       uint64 // connections: too many, throttled, no valid client identifier or will
	Foreign       uint64 // messages and subscriptions to topics of others
	Dropped       uint64 // messages that a slow or absent subscriber did not get
}

// Stats tells what the broker does.
func (b *Broker) Stats() Stats {
	info := b.server.Info
	s := Stats{
		Connections:   map[string]int{"3.1": 0, "3.1.1": 0, "5": 0},
		Subscriptions: int(atomic.LoadInt64(&info.Subscriptions)),
		Retained:      b.server.Topics.Retained.Len(),
		In:            uint64(atomic.LoadInt64(&info.MessagesReceived)),
		Out:           uint64(atomic.LoadInt64(&info.MessagesSent)),
		AuthFailures:  b.authFailures.Load(),
		Refused:       b.refused.Load(),
		Foreign:       b.foreign.Load(),
		Dropped:       uint64(atomic.LoadInt64(&info.MessagesDropped) + atomic.LoadInt64(&info.InflightDropped)),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Sessions = len(b.sessions)
	for _, c := range b.live {
		s.Connections[versionName(c.version)]++
	}
	return s
}

func versionName(v byte) string {
	switch v {
	case 5:
		return "5"
	case 3:
		return "3.1"
	}
	return "3.1.1"
}

func isTooManyFiles(err error) bool {
	se, ok := errors.AsType[*os.SyscallError](err)
	return ok && strings.Contains(se.Err.Error(), "too many open files")
}
