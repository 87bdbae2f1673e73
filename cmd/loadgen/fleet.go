package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// spikeBase is where spikes begin: the n-th spike of a series has the value spikeBase + n. Ordinary values are below 1000.
const spikeBase = 1_000_000

// fleet is all devices.
type fleet struct {
	o       options
	site    *site
	devices []*device
	sent    []counter // samples by group
	http    *http.Client

	messages, acknowledged, bytes atomic.Uint64
}

// device is one simulated device. Its fields belong to the goroutine that publishes for it.
type device struct {
	f        *fleet
	index    int
	conn     net.Conn
	packet   []byte // reused
	body     []byte
	id       uint16
	n        uint64
	spikes   []uint32      // by metric
	inFlight chan struct{} // QoS 1: holds a token for each message that is not acknowledged
	acked    chan struct{} // closed when the connection has ended
	rnd      *rand.Rand
}

func newFleet(o options, s *site) (*fleet, error) {
	f := &fleet{o: o, site: s, sent: make([]counter, len(s.groups)), http: &http.Client{
		Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: o.Devices, MaxConnsPerHost: 64}}}
	for i := range o.Devices {
		f.devices = append(f.devices, &device{f: f, index: i, spikes: make([]uint32, o.Metrics), inFlight: make(chan struct{}, 100),
			rnd: rand.New(rand.NewPCG(uint64(i), 3))})
	}
	return f, nil
}

// published is the number of samples sent to a group so far.
func (f *fleet) published(group int) uint64 { return f.sent[group].Load() }

func (f *fleet) connect(ctx context.Context) error {
	if f.o.Protocol == "http" {
		return nil
	}
	errs := make(chan error, len(f.devices))
	var group sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, d := range f.devices {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs <- d.dial(ctx)
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) close() {
	for _, d := range f.devices {
		if d.conn != nil {
			_, _ = d.conn.Write([]byte{0xe0, 0}) // DISCONNECT
			d.conn.Close()
			<-d.acked
		}
	}
}

// dial connects with MQTT 3.1.1: clean session, no keep-alive.
func (d *device) dial(ctx context.Context) error {
	user, password := string(d.f.site.ids[d.index]), d.f.site.tokens[d.index]
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", d.f.o.MQTT)
	if err != nil {
		return err
	}
	field := func(dst []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
	}
	body := append([]byte{0, 4}, "MQTT\x04\xc2\x00\x00"...) // level 4; user name, password, clean session; keep-alive 0
	body = field(field(field(body, user), user), password)
	packet := append(appendLength([]byte{0x10}, len(body)), body...)
	if _, err := conn.Write(packet); err != nil {
		conn.Close()
		return err
	}
	r := bufio.NewReaderSize(conn, 512)
	var ack [4]byte
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(r, ack[:]); err != nil || ack[0] != 0x20 || ack[3] != 0 {
		conn.Close()
		return fmt.Errorf("device %s: CONNACK % x: %w", user, ack, errors.Join(err, errors.New("not accepted")))
	}
	_ = conn.SetReadDeadline(time.Time{})
	d.conn, d.acked = conn, make(chan struct{})
	go d.read(r) // ends with the connection; close waits for it
	return nil
}

// read takes PUBACKs, four bytes each; nothing else comes.
func (d *device) read(r *bufio.Reader) {
	defer close(d.acked)
	var p [4]byte
	for {
		if _, err := io.ReadFull(r, p[:]); err != nil || p[0] != 0x40 {
			return
		}
		<-d.inFlight
		d.f.acknowledged.Add(1)
	}
}

func appendLength(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst, n = append(dst, byte(n)|0x80), n>>7
	}
	return append(dst, byte(n))
}

// publish sends at the rate until ctx ends, from two goroutines that each walk over half of the devices every ten
// milliseconds and send what is due. Devices are spread evenly over their interval.
func (f *fleet) publish(ctx context.Context) error {
	const workers, beat = 2, 10 * time.Millisecond
	if f.o.Protocol == "http" {
		return f.post(ctx)
	}
	interval := time.Duration(float64(time.Second) / f.o.Rate)
	start := time.Now()
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			tick := time.NewTicker(beat)
			defer tick.Stop()
			for {
				now := time.Now()
				for i := w; i < len(f.devices); i += workers {
					d := f.devices[i]
					offset := time.Duration(i) * interval / time.Duration(len(f.devices))
					for due := uint64(max(0, now.Sub(start)-offset) / interval); d.n < due; {
						if err := d.send(ctx, now); err != nil {
							if ctx.Err() != nil {
								err = nil
							}
							errs <- err
							return
						}
					}
				}
				select {
				case <-ctx.Done():
					errs <- nil
					return
				case <-tick.C:
				}
			}
		}()
	}
	var all []error
	for range workers {
		all = append(all, <-errs)
	}
	// Those at QoS 1 that are under way are waited for.
	if f.o.QoS == 1 {
		waiting, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer stop()
		all = append(all, eventually(waiting, 10*time.Second, func() bool { return f.acknowledged.Load() == f.messages.Load() }))
	}
	return errors.Join(all...)
}

// measure writes the next message into d.body.
func (d *device) measure(now time.Time) {
	b := append(d.body[:0], `{"ts":`...)
	b = strconv.AppendInt(b, now.UnixMilli(), 10)
	for m := range d.f.o.Metrics {
		b = append(b, `,"m`...)
		b = strconv.AppendInt(b, int64(m), 10)
		b = append(b, `":`...)
		if s := d.f.o.Spikes; s > 0 && d.rnd.Float64() < 1/(s.Seconds()*d.f.o.Rate) {
			d.spikes[m]++
			b = strconv.AppendInt(b, spikeBase+int64(d.spikes[m]), 10)
			continue
		}
		v := (d.n*37 + uint64(d.index)*11 + uint64(m)*101) % 10000 // 0.00 to 99.99
		b = strconv.AppendUint(b, v/100, 10)
		b = append(b, '.', '0'+byte(v/10%10), '0'+byte(v%10))
	}
	d.body = append(b, '}')
	d.n++
}

func (d *device) count(bytes int) {
	d.f.sent[d.f.site.group(d.index)].Add(uint64(d.f.o.Metrics))
	d.f.messages.Add(1)
	d.f.bytes.Add(uint64(bytes))
}

func (d *device) send(ctx context.Context, now time.Time) error {
	if d.f.o.QoS == 1 { // before measuring: what is measured is sent
		select {
		case d.inFlight <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		case <-d.acked:
		}
	}
	d.measure(now)
	topic := "devices/" + string(d.f.site.ids[d.index]) + "/telemetry"
	head, length := byte(0x30), 2+len(topic)+len(d.body)
	if d.f.o.QoS == 1 {
		head, length = 0x32, length+2
	}
	p := appendLength(append(d.packet[:0], head), length)
	p = append(binary.BigEndian.AppendUint16(p, uint16(len(topic))), topic...)
	if d.f.o.QoS == 1 {
		if d.id++; d.id == 0 {
			d.id = 1
		}
		p = binary.BigEndian.AppendUint16(p, d.id)
	}
	d.packet = append(p, d.body...)
	d.count(len(d.packet))
	if _, err := d.conn.Write(d.packet); err != nil {
		return fmt.Errorf("device %s: %w", d.f.site.ids[d.index], err)
	}
	return nil
}

// post publishes over HTTP, some devices at a time.
func (f *fleet) post(ctx context.Context) error {
	const workers = 32
	interval := time.Duration(float64(time.Second) / f.o.Rate)
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for {
				now := time.Now()
				for i := w; i < len(f.devices); i += workers {
					if err := f.devices[i].post(context.WithoutCancel(ctx), now); err != nil {
						errs <- err
						return
					}
				}
				select {
				case <-ctx.Done():
					errs <- nil
					return
				case <-time.After(interval - time.Since(now)):
				}
			}
		}()
	}
	var all []error
	for range workers {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (d *device) post(ctx context.Context, now time.Time) error {
	d.measure(now)
	address := d.f.o.Server + "/api/v1/devices/" + string(d.f.site.ids[d.index]) + "/telemetry"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(d.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+d.f.site.tokens[d.index])
	d.count(len(d.body))
	res, err := d.f.http.Do(req)
	if err != nil {
		return err
	}
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("device %s: %s: %s", d.f.site.ids[d.index], res.Status, answer)
	}
	d.f.acknowledged.Add(1)
	return nil
}
