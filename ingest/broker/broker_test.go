package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// inventory is what the catalog loads: devices press-7, press-8, …, each with its name and "-token" as token.
type inventory struct {
	mu      sync.Mutex
	records map[devices.ID]catalog.DeviceRecord
}

func (s *inventory) LoadDevices(_ context.Context, ids []devices.ID) ([]catalog.DeviceRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []catalog.DeviceRecord
	for id, r := range s.records {
		if ids == nil || slices.Contains(ids, id) {
			all = append(all, r)
		}
	}
	return all, nil
}

func (s *inventory) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	return nil, nil, nil
}

func (s *inventory) LoadAccess(context.Context) (catalog.Access, error) {
	return catalog.Access{}, nil
}

func (s *inventory) set(id devices.ID, change func(*catalog.DeviceRecord)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[id]
	if !ok {
		sum := sha256.Sum256([]byte(id + "-token"))
		r = catalog.DeviceRecord{
			Device:      devices.Device{ID: id, State: devices.Active},
			Credentials: []devices.Credential{{ID: "c-" + string(id), Device: id, Kind: devices.TokenCredential, Hash: sum[:]}},
		}
	}
	if change != nil {
		change(&r)
	}
	s.records[id] = r
}

// intake takes everything; payloads say what is to become of them: "bad", "rate", "full". While held, nothing is on disk.
type intake struct {
	mu       sync.Mutex
	taken    []string // device metric payload
	rejects  []ingest.Reject
	hold     bool
	waiting  []func(error)
	slowdown int // how many more messages are over the rate
}

func (f *intake) Handle(m *ingest.Message, done func(error)) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if done == nil {
		done = func(error) {}
	}
	refuse := func(kind string, err error) int {
		r := &ingest.Reject{Device: m.Device.ID(), Kind: kind, Reason: "refused: " + kind, Err: err}
		f.rejects = append(f.rejects, *r)
		done(r)
		return 0
	}
	switch string(m.Payload) {
	case "bad":
		return refuse("json", devices.ErrInvalid)
	case "rate":
		if f.slowdown > 0 {
			f.slowdown--
			return refuse("rate", devices.ErrRate)
		}
	case "full":
		go done(devices.ErrFull)
		return 1
	}
	f.taken = append(f.taken, strings.TrimSpace(string(m.Device.ID())+" "+m.Metric+" "+string(m.Payload)))
	if f.hold {
		f.waiting = append(f.waiting, done)
	} else {
		go done(nil)
	}
	return 1
}

func (f *intake) Record(r *ingest.Reject) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejects = append(f.rejects, *r)
}

func (f *intake) kinds() (kinds []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rejects {
		kinds = append(kinds, string(r.Device)+" "+r.Kind)
	}
	return kinds
}

func (f *intake) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.taken)
}

func (f *intake) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

// settle finishes what is held.
func (f *intake) settle(i int, err error) {
	f.mu.Lock()
	done := f.waiting[i]
	f.mu.Unlock()
	done(err)
}

// site is a broker with what is around it.
type site struct {
	*Broker
	t      testing.TB
	store  *inventory
	intake *intake
	stop   func()
}

func start(t testing.TB, change func(*Config)) *site {
	t.Helper()
	s := &site{t: t, store: &inventory{records: make(map[devices.ID]catalog.DeviceRecord)}, intake: &intake{}}
	for _, id := range []devices.ID{"press-7", "press-8", "press-70"} {
		s.store.set(id, nil)
	}
	s.run(change)
	return s
}

// run starts a broker on the site; stop ends it.
func (s *site) run(change func(*Config)) {
	s.t.Helper()
	s.prepare(change)
	s.serve()
}

func (s *site) prepare(change func(*Config)) {
	s.t.Helper()
	conf := Config{Addr: "127.0.0.1:0", MaxPayload: 1000}
	if change != nil {
		change(&conf)
	}
	cat := catalog.New(catalog.Config{}, s.store)
	if err := cat.Load(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	b, err := New(conf, cat, s.intake, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Broker = b
}

func (s *site) serve() {
	s.t.Helper()
	b := s.Broker
	if err := b.Listen(); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.t.Cleanup(func() { s.stop() })
	eventually(s.t, "broker to run", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.serving
	})
}

// change edits a device and tells the catalog.
func (s *site) change(id devices.ID, f func(*catalog.DeviceRecord)) {
	s.t.Helper()
	s.store.set(id, f)
	if err := s.cat.Refresh(s.t.Context(), catalog.Change{Topic: catalog.DevicesChanged, Devices: []devices.ID{id}}); err != nil {
		s.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// raw is a client that sends and reads packets one by one.
type raw struct {
	t       testing.TB
	c       net.Conn
	r       *bufio.Reader
	version byte
}

func (s *site) raw(version byte) *raw {
	s.t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return &raw{s.t, c, bufio.NewReader(c), version}
}

// sign connects as a device with client identifier "raw", in a session that is kept.
func (r *raw) sign(device string, change func(*packets.Packet)) packets.Packet {
	r.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: r.version}
	pk.Connect = packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "raw", Keepalive: 60, UsernameFlag: true, PasswordFlag: true,
		Username: []byte(device), Password: []byte(device + "-token"),
	}
	if r.version == 5 {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 100, true
	}
	if change != nil {
		change(&pk)
	}
	r.send(pk)
	return r.next()
}

func (r *raw) send(pks ...packets.Packet) {
	r.t.Helper()
	var buf bytes.Buffer
	for _, pk := range pks {
		pk.ProtocolVersion = r.version
		var err error
		switch pk.FixedHeader.Type {
		case packets.Connect:
			err = pk.ConnectEncode(&buf)
		case packets.Publish:
			err = pk.PublishEncode(&buf)
		case packets.Pubrel:
			pk.FixedHeader.Qos = 1
			err = pk.PubrelEncode(&buf)
		case packets.Puback:
			err = pk.PubackEncode(&buf)
		case packets.Subscribe:
			pk.FixedHeader.Qos = 1
			err = pk.SubscribeEncode(&buf)
		case packets.Unsubscribe:
			pk.FixedHeader.Qos = 1
			err = pk.UnsubscribeEncode(&buf)
		case packets.Disconnect:
			err = pk.DisconnectEncode(&buf)
		case packets.Pingreq:
			err = pk.PingreqEncode(&buf)
		default:
			r.t.Fatalf("packet type %d", pk.FixedHeader.Type)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := r.c.Write(buf.Bytes()); err != nil {
		r.t.Fatal(err)
	}
}

// next reads a packet; one of type 0 when the connection has been closed.
func (r *raw) next() packets.Packet {
	r.t.Helper()
	_ = r.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	first, err := r.r.ReadByte()
	if err != nil {
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			r.t.Fatal("nothing came")
		}
		return packets.Packet{}
	}
	pk := packets.Packet{ProtocolVersion: r.version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		r.t.Fatal(err)
	}
	n, _, err := packets.DecodeLength(r.r)
	if err != nil {
		r.t.Fatal(err)
	}
	pk.FixedHeader.Remaining = n
	body := make([]byte, n)
	if _, err := io.ReadFull(r.r, body); err != nil {
		r.t.Fatal(err)
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return pk
}

func publishPacket(topic, payload string, qos byte, id uint16) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload), PacketID: id}
}

// want checks kind, identifier and reason of a packet.
func (r *raw) want(kind byte, id uint16, code byte) packets.Packet {
	r.t.Helper()
	pk := r.next()
	if pk.FixedHeader.Type != kind || pk.PacketID != id || pk.ReasonCode != code {
		r.t.Fatalf("got packet type %d, id %d, reason %#x (%s); want %d, %d, %#x",
			pk.FixedHeader.Type, pk.PacketID, pk.ReasonCode, pk.Properties.ReasonString, kind, id, code)
	}
	return pk
}

var goodbye = &paho.Disconnect{}

// client5 is a paho client of MQTT 5 and what it has received.
type client5 struct {
	*paho.Client
	conn    net.Conn
	connack *paho.Connack
	mu      sync.Mutex
	got     []string // topic payload, with "retained" in front if so
	closed  chan struct{}
	gone    *paho.Disconnect // from the server
}

func (s *site) connect5(device, id string, change func(*paho.Connect)) (*client5, error) {
	nc, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return nil, err
	}
	return s.connect5On(nc, device, id, change)
}

func (s *site) connect5On(nc net.Conn, device, id string, change func(*paho.Connect)) (*client5, error) {
	c := &client5{closed: make(chan struct{}), conn: nc}
	var once sync.Once
	c.Client = paho.NewClient(paho.ClientConfig{
		Conn: nc, ClientID: id, PacketTimeout: 10 * time.Second,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			m := p.Packet.Topic + " " + string(p.Packet.Payload)
			if p.Packet.Retain {
				m = "retained " + m
			}
			c.got = append(c.got, m)
			return true, nil
		}},
		OnClientError: func(error) { once.Do(func() { close(c.closed) }) },
		OnServerDisconnect: func(d *paho.Disconnect) {
			c.mu.Lock()
			c.gone = d
			c.mu.Unlock()
			once.Do(func() { close(c.closed) })
		},
	})
	cp := &paho.Connect{
		ClientID: id, KeepAlive: 30, CleanStart: true, UsernameFlag: true, PasswordFlag: true,
		Username: device, Password: []byte(device + "-token"),
	}
	if change != nil {
		change(cp)
	}
	var err error
	c.connack, err = c.Connect(s.t.Context(), cp)
	s.t.Cleanup(func() {
		_ = nc.Close()
		if err == nil {
			<-c.Done()
		}
	})
	return c, err
}

func (s *site) must5(device, id string, change func(*paho.Connect)) *client5 {
	s.t.Helper()
	c, err := s.connect5(device, id, change)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *client5) received() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func (c *client5) reason() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		return -1
	}
	return int(c.gone.ReasonCode)
}
