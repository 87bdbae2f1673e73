package broker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.etcd.io/bbolt"
)

// Kinds of entries. Keys begin with mochi's client identifier and a zero byte, but for clients and retained messages.
const (
	bucketClients       = "clients"
	bucketSubscriptions = "subscriptions"
	bucketInflight      = "inflight"
	bucketReceived      = "received"
	bucketRetained      = "retained"
	bucketWills         = "wills"
)

var buckets = [...]string{bucketClients, bucketSubscriptions, bucketInflight, bucketReceived, bucketRetained, bucketWills}

// store keeps sessions and retained messages over restarts, in one file. It is written behind: changes gather while one
// transaction is synced and go into the next, so that a message costs no sync of its own. A crash loses the last few
// milliseconds of them, never a measurement: those are in the spine. Its size is bounded by the limits on sessions, queued and
// retained messages. When changes come faster than the disk takes them, making one waits.
// mochi's own stores forget packet identifiers and expiry, keep refused subscriptions, and sync each change by itself.
//
// A nil store keeps nothing.
type store struct {
	db   *bbolt.DB
	wake chan struct{}
	done chan struct{}

	mu     sync.Mutex
	room   sync.Cond
	dirty  map[entryKey][]byte // nil: to be deleted
	closed bool
}

type entryKey struct{ bucket, key string }

const maxDirty = 1 << 16 // entries

// client is a session whose device is away or was connected.
type client struct {
	Version        byte
	Expiry         uint32 // of the session in seconds, MQTT 5
	ReceiveMaximum uint16
	Username       []byte
	Left           int64 // Unix seconds; 0: was connected
}

// message is one towards a subscriber, or a retained one.
type message struct {
	Header  packets.FixedHeader
	Packet  uint16
	Topic   string
	Payload []byte
	Origin  string
	Created int64
	Expiry  int64
	Version byte
	Props   packets.Properties
}

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mqtt sessions: %w", err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "sessions.db"), 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		return nil, fmt.Errorf("mqtt sessions: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // the first error tells more
		return nil, fmt.Errorf("mqtt sessions: %w", err)
	}
	s := &store{db: db, wake: make(chan struct{}, 1), done: make(chan struct{}), dirty: make(map[entryKey][]byte)}
	s.room.L = &s.mu
	return s, nil
}

// run writes changes until close.
func (s *store) run(log *slog.Logger) {
	defer close(s.done)
	for range s.wake {
		s.mu.Lock()
		dirty, closed := s.dirty, s.closed
		s.dirty = make(map[entryKey][]byte)
		s.room.Broadcast()
		s.mu.Unlock()
		if err := s.write(dirty); err != nil {
			log.Error("mqtt sessions not kept", "entries", len(dirty), "err", err)
		}
		if closed {
			return
		}
	}
}

func (s *store) write(dirty map[entryKey][]byte) error {
	if len(dirty) == 0 {
		return nil
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for k, v := range dirty {
			b := tx.Bucket([]byte(k.bucket))
			var err error
			if v == nil {
				err = b.Delete([]byte(k.key))
			} else {
				err = b.Put([]byte(k.key), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// close writes what is left, ends run, and closes the file.
func (s *store) close() error {
	s.mu.Lock()
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	s.signal()
	<-s.done
	return s.db.Close()
}

func (s *store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *store) put(bucket, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		return // there is nothing in these types that can't be marshalled
	}
	s.set(bucket, key, value)
}

func (s *store) delete(bucket, key string) {
	if s != nil {
		s.set(bucket, key, nil)
	}
}

func (s *store) set(bucket, key string, value []byte) {
	s.mu.Lock()
	for len(s.dirty) >= maxDirty && !s.closed {
		s.room.Wait()
	}
	first := len(s.dirty) == 0
	s.dirty[entryKey{bucket, key}] = value
	s.mu.Unlock()
	if first {
		s.signal()
	}
}

func (s *store) putClient(cl *mqtt.Client, left time.Time) {
	if s == nil || transient(cl) {
		return
	}
	c := client{
		Version: cl.Properties.ProtocolVersion, Expiry: cl.Properties.Props.SessionExpiryInterval,
		ReceiveMaximum: cl.Properties.Props.ReceiveMaximum, Username: cl.Properties.Username,
	}
	if !left.IsZero() {
		c.Left = left.Unix()
	}
	s.put(bucketClients, cl.ID, c)
}

func (s *store) putSubscription(cl *mqtt.Client, sub packets.Subscription) {
	if s == nil || transient(cl) {
		return
	}
	sub.Identifiers = nil
	s.put(bucketSubscriptions, cl.ID+"\x00"+sub.Filter, sub)
}

func (s *store) putInflight(cl *mqtt.Client, pk packets.Packet) {
	if s == nil || cl.Net.Inline || transient(cl) {
		return
	}
	s.put(bucketInflight, packetKey(cl.ID, pk.PacketID), newMessage(&pk))
}

func (s *store) deleteInflight(cl *mqtt.Client, pk packets.Packet) {
	if s == nil || cl.Net.Inline || transient(cl) {
		return
	}
	s.set(bucketInflight, packetKey(cl.ID, pk.PacketID), nil)
}

func (s *store) putRetained(pk packets.Packet) {
	if s != nil {
		s.put(bucketRetained, pk.TopicName, newMessage(&pk))
	}
}

func (s *store) putID(key string, packet uint16) {
	if s != nil {
		s.set(bucketReceived, packetKey(key, packet), []byte{1})
	}
}

func (s *store) deleteID(key string, packet uint16) {
	if s != nil {
		s.set(bucketReceived, packetKey(key, packet), nil)
	}
}

func packetKey(key string, packet uint16) string {
	return string(binary.BigEndian.AppendUint16(append([]byte(key), 0), packet))
}

// splitKey takes a key apart that begins with a client identifier and a zero byte.
func splitKey(k []byte) (key string, rest []byte) {
	i := slices.Index(k, 0)
	if i < 0 {
		return "", nil
	}
	return string(k[:i]), k[i+1:]
}

func newMessage(pk *packets.Packet) message {
	return message{
		Header: pk.FixedHeader, Packet: pk.PacketID, Topic: pk.TopicName, Payload: pk.Payload, Origin: pk.Origin,
		Created: pk.Created, Expiry: max(pk.Expiry, 0), Version: pk.ProtocolVersion, Props: pk.Properties,
	}
}

func (m *message) pk() packets.Packet {
	return packets.Packet{
		FixedHeader: m.Header, PacketID: m.Packet, TopicName: m.Topic, Payload: m.Payload, Origin: m.Origin,
		Created: m.Created, Expiry: m.Expiry, ProtocolVersion: m.Version, Properties: m.Props,
	}
}

// restore gives mochi back what it knew when the server ended. Entries that belong to nobody are dropped.
func (b *Broker) restore() error {
	now := time.Now()
	latest := int64(0)
	var dead []entryKey
	each := func(tx *bbolt.Tx, bucket string, f func(k, v []byte) (keep bool, err error)) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			keep, err := f(k, v)
			if err != nil {
				return fmt.Errorf("mqtt sessions: %s %q: %w", bucket, k, err)
			}
			if !keep {
				dead = append(dead, entryKey{bucket, string(k)})
			}
			return nil
		})
	}
	err := b.store.db.View(func(tx *bbolt.Tx) error {
		if err := each(tx, bucketClients, func(k, v []byte) (bool, error) {
			var c client
			if err := json.Unmarshal(v, &c); err != nil {
				return false, err
			}
			return b.restoreClient(string(k), c, now), nil
		}); err != nil {
			return err
		}
		if err := each(tx, bucketSubscriptions, func(k, v []byte) (bool, error) {
			key, _ := splitKey(k)
			cl, ok := b.server.Clients.Get(key)
			var sub packets.Subscription
			if err := json.Unmarshal(v, &sub); !ok || err != nil {
				return false, err
			}
			if b.server.Topics.Subscribe(key, sub) {
				atomic.AddInt64(&b.server.Info.Subscriptions, 1)
			}
			cl.State.Subscriptions.Add(sub.Filter, sub)
			b.subscribed.Store(true)
			return true, nil
		}); err != nil {
			return err
		}
		if err := each(tx, bucketInflight, func(k, v []byte) (bool, error) {
			key, _ := splitKey(k)
			cl, ok := b.server.Clients.Get(key)
			var m message
			if err := json.Unmarshal(v, &m); !ok || err != nil {
				return false, err
			}
			latest = max(latest, m.Created)
			cl.State.Inflight.Set(m.pk())
			atomic.AddInt64(&b.server.Info.Inflight, 1)
			return true, nil
		}); err != nil {
			return err
		}
		if err := each(tx, bucketReceived, func(k, _ []byte) (bool, error) {
			key, packet := splitKey(k)
			s := b.sessions[key]
			if s == nil || len(packet) != 2 {
				return false, nil
			}
			s.received[binary.BigEndian.Uint16(packet)] = &receipt{stored: true}
			s.stored++
			return true, nil
		}); err != nil {
			return err
		}
		if err := each(tx, bucketRetained, func(_, v []byte) (bool, error) {
			var m message
			if err := json.Unmarshal(v, &m); err != nil {
				return false, err
			}
			if m.Expiry > 0 && m.Expiry < now.Unix() {
				return false, nil
			}
			b.server.Topics.RetainMessage(m.pk())
			return true, nil
		}); err != nil {
			return err
		}
		if err := each(tx, bucketWills, func(k, v []byte) (bool, error) {
			key, _ := splitKey(k)
			var w will
			if err := json.Unmarshal(v, &w); err != nil {
				return false, err
			}
			void, ok := b.restoreWill(string(k), key, w, now)
			if void != "" {
				dead = append(dead, entryKey{bucketWills, void})
			}
			return ok, nil
		}); err != nil {
			return err
		}
		b.order.Store(latest)
		return nil
	})
	for _, k := range dead {
		b.store.delete(k.bucket, k.key)
	}
	return err
}

// restoreClient makes a session of a device that is away; false if its time was over meanwhile, or its device is gone.
func (b *Broker) restoreClient(key string, c client, now time.Time) bool {
	expiry := int64(b.conf.SessionExpiry / time.Second)
	if c.Version == 5 {
		expiry = min(expiry, int64(c.Expiry))
	}
	if c.Left > 0 {
		expiry -= now.Unix() - c.Left
	}
	if expiry <= 0 || !b.open && b.cat.Device(deviceOf(key)) == nil {
		return false
	}
	cl := b.server.NewClient(nil, "devices", key, false)
	cl.Properties.ProtocolVersion = c.Version
	cl.Properties.Username = c.Username
	cl.Properties.Props.SessionExpiryInterval = uint32(min(expiry, math.MaxUint32))
	cl.Properties.Props.SessionExpiryIntervalFlag = true
	cl.Properties.Props.ReceiveMaximum = c.ReceiveMaximum
	cl.Stop(packets.ErrServerShuttingDown)
	b.server.Clients.Add(cl)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newSession(key)
	return true
}
