package broker

import (
	"strings"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"

	"millrace/devices"
)

// session is what the broker remembers of a client between connections: the QoS 2 messages it has taken and that the client
// has not released yet (MQTT 5.0, 4.3.3). mochi keeps the rest.
type session struct {
	key   string // mochi's client identifier
	store *store

	mu       sync.Mutex
	received map[uint16]*receipt
	stored   int // of received
}

// receipt is one QoS 2 message.
type receipt struct {
	stored  bool
	waiting []func(error) // repeats that came before it was stored
}

// awaiting counts the messages that the client has yet to release.
func (s *session) awaiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored
}

// has reports whether a message came before and is not released.
func (s *session) has(packet uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received[packet] != nil
}

// receive notes a message. isNew is false if it came before: then done is called when that one is settled.
func (s *session) receive(packet uint16, done func(error)) (r *receipt, isNew bool) {
	s.mu.Lock()
	r = s.received[packet]
	switch {
	case r == nil:
		r = &receipt{}
		s.received[packet] = r
		s.mu.Unlock()
		return r, true
	case r.stored:
		s.mu.Unlock()
		done(nil)
	default:
		r.waiting = append(r.waiting, done)
		s.mu.Unlock()
	}
	return r, false
}

// settle says what became of a message that receive noted.
func (s *session) settle(packet uint16, r *receipt, err error) {
	s.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	if err == nil {
		r.stored = true
		s.stored++
		s.store.putID(s.key, packet)
	} else if s.received[packet] == r {
		delete(s.received, packet)
	}
	s.mu.Unlock()
	for _, done := range waiting {
		done(err)
	}
}

// release ends a message by PUBREL; false if there was none.
func (s *session) release(packet uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.received[packet]
	delete(s.received, packet)
	if ok && r.stored {
		s.stored--
		s.store.deleteID(s.key, packet)
	}
	return ok
}

// forget drops what is kept of it on disk.
func (s *session) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for packet, r := range s.received {
		if r.stored {
			s.store.deleteID(s.key, packet)
		}
	}
	clear(s.received)
	s.stored = 0
}

// newSession starts a client's session, in place of an earlier one. The caller holds mu.
func (b *Broker) newSession(key string) *session {
	s := &session{key: key, store: b.store, received: make(map[uint16]*receipt)}
	if b.sessions[key] == nil {
		b.perDevice[deviceOf(key)]++
	}
	b.sessions[key] = s
	return s
}

// forget drops our part of a session; mochi's goes by itself.
func (b *Broker) forget(key string) {
	b.mu.Lock()
	s := b.sessions[key]
	if s != nil {
		delete(b.sessions, key)
		if id := deviceOf(key); b.perDevice[id] > 1 {
			b.perDevice[id]--
		} else {
			delete(b.perDevice, id)
		}
	}
	b.mu.Unlock()
	if s != nil {
		s.forget()
	}
	b.store.delete(bucketClients, key)
}

// deviceOf returns the device of a client identifier as mochi knows it.
func deviceOf(key string) devices.ID {
	id, _, _ := strings.Cut(key, "/")
	return devices.ID(id)
}

// discard drops a session altogether; its connection has ended.
func (b *Broker) discard(cl *mqtt.Client) {
	cl.ClearInflights()
	b.server.UnsubscribeClient(cl)
	b.server.Clients.Delete(cl.ID)
	b.forget(cl.ID)
}

// transient reports whether a client's session ends with its connection (MQTT 5.0, 3.1.2.11.2; MQTT 3.1.1, 3.1.2.4).
func transient(cl *mqtt.Client) bool {
	if cl.Properties.ProtocolVersion == 5 {
		return cl.Properties.Props.SessionExpiryInterval == 0
	}
	return cl.Properties.Clean
}
