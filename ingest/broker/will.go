package broker

import (
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/ingest"
)

// will is what is published in a client's name if it does not come back. mochi keeps and publishes it while the server runs; on
// disk it is for a server that was killed, which publishes it after its next start (MQTT 5.0, 3.1.2.5 lets it).
type will struct {
	message
	Delay uint32 // seconds from the end of the connection, never longer than the session lives
	Due   int64  // Unix seconds; 0: was connected
}

// orphan is a will whose client was connected, or due to come back, when the server ended.
type orphan struct {
	entry string // in the store
	will  will
	busy  bool // is being published
	told  bool // subscribers have it; only the publisher's
}

// keepWill notes the will of a connection that has begun; those of earlier connections of the client are void.
func (b *Broker) keepWill(c *conn, cl *mqtt.Client) {
	if b.store == nil {
		return
	}
	entry := ""
	if atomic.LoadUint32(&cl.Properties.Will.Flag) == 1 {
		entry = cl.ID + "\x00" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	b.mu.Lock()
	var void []string
	if o := b.orphans[cl.ID]; o != nil {
		void = append(void, o.entry)
		delete(b.orphans, cl.ID)
	}
	if old := b.wills[cl.ID]; old != "" {
		void = append(void, old)
		delete(b.wills, cl.ID)
	}
	if entry != "" {
		b.wills[cl.ID] = entry
	}
	c.will = entry
	b.mu.Unlock()
	for _, e := range void {
		b.store.delete(bucketWills, e)
	}
	if entry != "" {
		b.store.put(bucketWills, entry, willOf(cl, 0))
	}
}

// leaveWill is called when a connection has ended: mochi has published its will, dropped it, or keeps it until its delay is over.
func (b *Broker) leaveWill(c *conn, cl *mqtt.Client) {
	b.mu.Lock()
	entry := c.will
	b.mu.Unlock()
	switch {
	case entry == "":
	case atomic.LoadUint32(&cl.Properties.Will.Flag) == 0 || cl.IsTakenOver():
		b.dropWill(c, cl.ID)
	default:
		b.store.put(bucketWills, entry, willOf(cl, time.Now().Unix()+int64(cl.Properties.Will.WillDelayInterval)))
	}
}

// dropWill forgets the will of a connection.
func (b *Broker) dropWill(c *conn, key string) {
	if c == nil {
		return
	}
	b.mu.Lock()
	entry := c.will
	if c.will = ""; b.wills[key] == entry {
		delete(b.wills, key)
	}
	b.mu.Unlock()
	if entry != "" {
		b.store.delete(bucketWills, entry)
	}
}

func willOf(cl *mqtt.Client, due int64) will {
	w := cl.Properties.Will
	return will{Delay: w.WillDelayInterval, Due: due, message: message{
		Header: packets.FixedHeader{Type: packets.Publish, Qos: w.Qos, Retain: w.Retain}, Topic: w.TopicName, Payload: w.Payload,
		Version: 5, Props: packets.Properties{User: w.User},
	}}
}

// restoreWill makes an orphan of a stored will, in place of an earlier one of the client, whose entry it returns; false if the device
// is gone. The client had no chance to come back while the server was away, so a delay begins now.
func (b *Broker) restoreWill(entry, key string, w will, now time.Time) (void string, ok bool) {
	if key == "" || !b.open && b.cat.Device(deviceOf(key)) == nil {
		return "", false
	}
	if w.Due == 0 {
		w.Due = now.Unix() + int64(w.Delay)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if o := b.orphans[key]; o != nil {
		void = o.entry
	}
	b.orphans[key] = &orphan{entry: entry, will: w}
	return void, true
}

// publishOrphans publishes the wills of those who have not come back in time.
func (b *Broker) publishOrphans(now time.Time) {
	b.mu.Lock()
	due := map[string]*orphan{}
	for key, o := range b.orphans {
		if !o.busy && o.will.Due <= now.Unix() {
			o.busy = true
			due[key] = o
		}
	}
	b.mu.Unlock()
	for key, o := range due {
		b.publishWill(key, o)
	}
}

// publishWill hands a will to subscribers, and to the spine if it is a measurement. It is forgotten when it is on disk there.
func (b *Broker) publishWill(key string, o *orphan) {
	d, pk := b.cat.Device(deviceOf(key)), o.will.pk()
	if d == nil && !b.open { // deleted meanwhile
		b.published(key, o, nil)
		return
	}
	if !o.told {
		o.told = true
		if pk.FixedHeader.Qos > 0 {
			pk.PacketID = 1 // mochi wants one; subscribers get their own
		}
		pk.Connect.ClientIdentifier = key // OnPublish makes it the origin
		b.forward(&pk)
	}
	metric, ok := b.measurement(key, &pk)
	if !ok {
		b.published(key, o, nil)
		return
	}
	b.intake.Handle(&ingest.Message{
		Protocol: ingest.MQTT, Device: d, Metric: metric, Topic: pk.TopicName, Payload: pk.Payload, Recv: time.Now().UnixMilli(), Wait: true,
	}, func(err error) { b.published(key, o, err) })
}

// published ends a will, or puts it off when the spine could not take it.
func (b *Broker) published(key string, o *orphan, err error) {
	b.mu.Lock()
	if b.orphans[key] != o { // the client is back, which made it void
		b.mu.Unlock()
		return
	}
	if errors.Is(err, devices.ErrFull) || errors.Is(err, devices.ErrUnavailable) || errors.Is(err, devices.ErrRate) {
		o.busy, o.will.Due = false, time.Now().Unix()+2
		b.mu.Unlock()
		return
	}
	delete(b.orphans, key)
	b.mu.Unlock()
	b.store.delete(bucketWills, o.entry)
}

// measurement tells whether a client's will carries measurements, and which metric its topic names.
func (b *Broker) measurement(key string, pk *packets.Packet) (metric string, ok bool) {
	metric, ok = telemetryTopic(pk.TopicName, "devices/"+string(deviceOf(key))+"/")
	return metric, ok && !b.open && !(pk.FixedHeader.Retain && len(pk.Payload) == 0) // that clears the retained message
}
