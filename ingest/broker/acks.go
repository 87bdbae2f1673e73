package broker

import (
	"errors"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/ingest"
)

// acks are the acknowledgements a connection owes, in the order of its messages (MQTT 5.0, 4.6). A message joins when it is
// read; its acknowledgement is written when it and all before it are on disk. What waits is bounded by Receive Maximum: an MQTT
// 5 client that exceeds it is disconnected, an older one, which knows of no such thing, is not read from meanwhile.
type acks struct {
	c *conn

	mu      sync.Mutex
	room    sync.Cond // an acknowledgement left, or the connection ended
	queue   []*ack
	open    int // of queue, towards Receive Maximum; the session counts what else the client has under way
	started bool
	ending  bool          // no more will join
	gone    bool          // nobody waits for room any longer
	mute    bool          // nothing may be written any more
	wake    chan struct{} // the first of the queue is settled, or ending
	done    chan struct{} // closed when the writer has ended
}

// ack is one message that waits to be acknowledged.
type ack struct {
	packet  uint16
	qos     byte
	settled bool
	counted bool   // in acks.open
	drop    bool   // never acknowledged: the connection ends instead, so that the device sends it again
	code    byte   // reason code, 0 for success
	reason  string // reason string
	forward *packets.Packet
}

func (a *acks) init(c *conn) {
	a.c = c
	a.room.L = &a.mu
	a.wake = make(chan struct{}, 1)
	a.done = make(chan struct{})
}

// join puts a message into the queue; false: the connection is to end. A repeat is of a message that counts already.
func (a *acks) join(k *ack, repeat bool) bool {
	limit := int(a.c.b.conf.ReceiveMaximum)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c.version == 5 && !repeat && a.open+a.c.session.awaiting() >= limit {
		return false
	}
	for len(a.queue) >= limit && !a.gone {
		a.room.Wait()
	}
	if !repeat {
		k.counted = true
		a.open++
	}
	a.queue = append(a.queue, k)
	if !a.started {
		a.started = true
		a.c.b.conns.Go(a.run)
	}
	return true
}

// settle says what became of a message. It does not block, so the spine may call it.
func (a *acks) settle(k *ack, err error) {
	a.mu.Lock()
	k.code, k.reason, k.drop = verdict(err, a.c.version)
	if err != nil {
		k.forward = nil
	}
	k.settled = true
	first := a.queue[0] == k
	a.mu.Unlock()
	if first {
		a.signal()
	}
}

// uncount is called before the session counts a message.
func (a *acks) uncount(k *ack) {
	a.mu.Lock()
	a.uncountLocked(k)
	a.mu.Unlock()
}

func (a *acks) uncountLocked(k *ack) {
	if k.counted {
		k.counted = false
		a.open--
	}
}

// unforward keeps a message from subscribers. It is called before settle.
func (a *acks) unforward(k *ack) {
	a.mu.Lock()
	k.forward = nil
	a.mu.Unlock()
}

func (a *acks) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// giveUp lets a reader that waits for room go on.
func (a *acks) giveUp() {
	a.mu.Lock()
	a.gone = true
	a.room.Broadcast()
	a.mu.Unlock()
}

// drain waits until all that joined is acknowledged, for at most as long as given; afterwards nothing is written.
func (a *acks) drain(most time.Duration) (all bool) {
	a.mu.Lock()
	a.ending = true
	started := a.started
	a.mu.Unlock()
	if !started {
		return true
	}
	a.signal()
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-a.done:
		return true
	case <-t.C:
		a.mu.Lock()
		a.mute = true
		a.mu.Unlock()
		return false
	}
}

// run writes acknowledgements until the connection has ended and owes none.
func (a *acks) run() {
	defer close(a.done)
	var ready []*ack
	var buf []byte
	for {
		a.mu.Lock()
		ready = ready[:0]
		for _, k := range a.queue {
			if !k.settled {
				break
			}
			a.uncountLocked(k)
			ready = append(ready, k)
		}
		a.queue = a.queue[:copy(a.queue, a.queue[len(ready):])]
		clear(a.queue[len(a.queue) : len(a.queue)+len(ready)])
		last, mute := a.ending && len(a.queue) == 0, a.mute
		a.room.Broadcast()
		a.mu.Unlock()
		if len(ready) == 0 {
			if last {
				return
			}
			<-a.wake
			continue
		}
		buf = buf[:0]
		for i, k := range ready {
			if k.forward != nil {
				a.c.b.forward(k.forward)
			}
			if mute || k.drop {
				mute = true // later ones may be acknowledged only after this one, so never
				a.mu.Lock()
				a.mute = true
				a.mu.Unlock()
				a.c.stop(packets.ErrServerUnavailable)
			} else {
				buf = appendAck(buf, k, a.c)
			}
			ready[i] = nil
		}
		if len(buf) > 0 {
			_, _ = a.c.Write(buf) // a failed write ends the connection
		}
	}
}

// appendAck encodes PUBACK or PUBREC (MQTT 5.0, 3.4 and 3.5).
func appendAck(buf []byte, k *ack, c *conn) []byte {
	kind := packets.Puback
	if k.qos == 2 {
		kind = packets.Pubrec
	}
	id := []byte{byte(k.packet >> 8), byte(k.packet)}
	if c.version < 5 || k.code == 0 {
		return append(buf, kind<<4, 2, id[0], id[1])
	}
	reason := k.reason
	props := &c.client.Properties.Props
	if len(reason) > 100 {
		reason = reason[:100] // lengths below stay within one byte
	}
	if props.RequestProblemInfoFlag && props.RequestProblemInfo == 0 || props.MaximumPacketSize > 0 && props.MaximumPacketSize < uint32(len(reason)+9) {
		reason = ""
	}
	if reason == "" {
		return append(buf, kind<<4, 3, id[0], id[1], k.code)
	}
	buf = append(buf, kind<<4, byte(len(reason)+7), id[0], id[1], k.code, byte(len(reason)+3), packets.PropReasonString, 0, byte(len(reason)))
	return append(buf, reason...)
}

// verdict turns what became of a message into a reason code. Before MQTT 5 a device can't be told that its message was refused;
// it is acknowledged, as sending it again is of no use, and counted.
func verdict(err error, version byte) (code byte, reason string, drop bool) {
	if err == nil {
		return 0, "", false
	}
	refused, final := errors.AsType[*ingest.Reject](err)
	later := errors.Is(err, devices.ErrFull) || errors.Is(err, devices.ErrUnavailable) || errors.Is(err, devices.ErrRate)
	if version < 5 {
		return 0, "", !final || later
	}
	c := packets.ErrUnspecifiedError
	switch {
	case final && refused.Kind == "topic" && errors.Is(err, devices.ErrInvalid):
		c = packets.ErrTopicNameInvalid
	case final && refused.Kind == "topic":
		c = packets.ErrNotAuthorized
	case errors.Is(err, devices.ErrRate), errors.Is(err, devices.ErrTooLarge), errors.Is(err, devices.ErrFull), errors.Is(err, devices.ErrUnavailable):
		c = packets.ErrQuotaExceeded
	case errors.Is(err, devices.ErrInvalid):
		c = packets.ErrPayloadFormatInvalid
	}
	return c.Code, err.Error(), false
}
