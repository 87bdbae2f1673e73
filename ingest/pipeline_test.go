package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/devices"
	"millrace/devices/catalog"
)

// store is an inventory of devices d1 to d3.
type store struct{}

func (store) LoadDevices(context.Context, []devices.ID) ([]catalog.DeviceRecord, error) {
	var all []catalog.DeviceRecord
	for i := range 3 {
		all = append(all, catalog.DeviceRecord{Device: devices.Device{ID: devices.ID(fmt.Sprintf("d%d", i+1)), State: devices.Active}})
	}
	return all, nil
}
func (store) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	return nil, nil, nil
}
func (store) LoadAccess(context.Context) (catalog.Access, error) { return catalog.Access{}, nil }

// log is a spine that keeps what it gets.
type log struct {
	samples []devices.Sample
	waited  int
	answer  error
}

func (l *log) Enqueue(samples []devices.Sample, done func(error)) {
	l.samples = append(l.samples[:0], samples...)
	if done != nil {
		l.waited++
		done(l.answer)
	}
}

func pipeline(t testing.TB, c Config) (*Pipeline, *catalog.Catalog, *log) {
	t.Helper()
	cat := catalog.New(catalog.Config{SeriesPerDevice: 5}, store{})
	if err := cat.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	return New(c, cat, l), cat, l
}

const recv = 1_795_456_789_123

func TestHandle(t *testing.T) {
	p, cat, l := pipeline(t, Config{MaxPayload: 200, SamplesPerMessage: 4})
	d := cat.Device("d1")
	send := func(m Message) (n int, err error) {
		t.Helper()
		m.Protocol, m.Device, m.Topic, m.Recv = MQTT, d, "devices/d1/telemetry", recv
		calls := 0
		n = p.Handle(&m, func(e error) { err = e; calls++ })
		if calls != 1 {
			t.Errorf("done was called %d times", calls)
		}
		return n, err
	}
	if n, err := send(Message{Payload: []byte(`{"a":1,"b":2}`), Wait: true}); n != 2 || err != nil || l.waited != 1 || len(l.samples) != 2 {
		t.Errorf("%d, %v, %+v", n, err, l)
	}
	if n, err := send(Message{Payload: []byte(`{"a":1}`)}); n != 1 || err != nil || l.waited != 1 {
		t.Errorf("without waiting: %d, %v, %+v", n, err, l)
	}
	if n, err := send(Message{Payload: []byte(`{}`), Wait: true}); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	if n, err := send(Message{Payload: []byte(`21.5`), Metric: "c", Wait: true}); n != 1 || err != nil || l.samples[0].Value != 21.5 {
		t.Errorf("scalar: %d, %v", n, err)
	}
	if n, err := send(Message{Payload: []byte("{\"a\":1}\n{\"a\":2}"), Lines: true}); n != 2 || err != nil {
		t.Errorf("lines: %d, %v", n, err)
	}
	// A clock a minute ahead is believed, one further ahead is not; the past is.
	if _, err := send(Message{Payload: []byte(`[{"ts":1795456849123,"a":1},{"ts":1795456849124,"a":1},{"ts":1,"a":1}]`), Wait: true}); err != nil ||
		l.samples[0].At != recv+MaxAhead || l.samples[0].Quality != devices.Good ||
		l.samples[1].At != recv || l.samples[1].Quality != devices.Uncertain || l.samples[2].At != 1000 {
		t.Errorf("clock: %+v, %v", l.samples, err)
	}
	l.answer = devices.ErrFull
	if _, err := send(Message{Payload: []byte(`{"a":1}`), Wait: true}); !errors.Is(err, devices.ErrFull) {
		t.Errorf("full: %v", err)
	}
	l.answer = nil
	refused := func(payload, metric, kind string, is error) {
		t.Helper()
		n, err := send(Message{Payload: []byte(payload), Metric: metric, Wait: true})
		r, ok := errors.AsType[*Reject](err)
		if n != 0 || !ok || r.Kind != kind || !errors.Is(err, is) || r.Device != "d1" || r.At != recv {
			t.Errorf("%s: %d, %+v", payload, n, err)
		}
	}
	refused(strings.Repeat(" ", 201), "", "too_large", devices.ErrTooLarge)
	refused(`{"a":1,"a":1,"a":1,"a":1,"a":1}`, "", "too_many_samples", devices.ErrTooLarge)
	refused(`{"d":1,"e":1,"f":1}`, "", "too_many_series", devices.ErrTooLarge)
	refused(`{"x#":1}`, "", "metric_name", devices.ErrInvalid)
	refused(`garbage`, "", "json", devices.ErrInvalid)
	refused(`[1]`, "c", "value", devices.ErrInvalid)
	refused(`{"ts":"x","a":1}`, "", "time", devices.ErrInvalid)
	st := p.Stats()
	if st.Messages[MQTT] != 7 || st.Samples[MQTT] != 10 || st.ClockAhead != 1 || st.Rejected["json"] != 1 || len(st.Rejected) != 7 {
		t.Errorf("%+v", st)
	}
	list := p.Rejects("d1", 3)
	if len(list) != 3 || list[0].Kind != "time" || string(list[1].Head) != "[1]" || list[2].Kind != "json" {
		t.Errorf("%+v", list)
	}
}

func TestHandleManyTakesAllOrNothing(t *testing.T) {
	p, cat, l := pipeline(t, Config{DeviceRate: 100, SamplesPerMessage: 100})
	var asked []devices.ID
	send := func(body string) (int, error) {
		asked = nil
		var got error
		n := p.HandleMany(&Body{Protocol: HTTP, Payload: []byte(body), Recv: recv, Wait: true, Device: func(id devices.ID) (*catalog.Device, error) {
			asked = append(asked, id)
			if d := cat.Device(id); d != nil {
				return d, nil
			}
			return nil, devices.ErrNotFound
		}}, func(err error) { got = err })
		return n, got
	}
	n, err := send(`[{"device":"d1","a":1},{"device":"d1","b":1},{"device":"d2","a":1},{"device":"d1","a":1}]`)
	if n != 4 || err != nil || !slices.Equal(asked, []devices.ID{"d1", "d2", "d1"}) || len(l.samples) != 4 {
		t.Fatalf("%d, %v, %v", n, err, asked)
	}
	l.samples = nil
	for body, is := range map[string]error{
		`[{"device":"d1","a":1},{"device":"d9","a":1}]`:  devices.ErrNotFound,
		`[{"device":"d1","a":1},{"device":"d2","a":[]}]`: devices.ErrInvalid,
	} {
		if n, err := send(body); n != 0 || !errors.Is(err, is) || !strings.Contains(err.Error(), "element 1") || len(l.samples) != 0 {
			t.Errorf("%s: %d, %v", body, n, err)
		}
	}
	if list := p.Rejects("d2", 9); len(list) != 1 {
		t.Errorf("d2: %+v", list)
	}
	// d1 has 97 left, d2 99. A body over d2's rate takes nothing from d1's.
	big := func(id string, n int) string { return strings.Repeat(`{"device":"`+id+`","a":1},`, n) }
	if _, err := send(`[` + big("d1", 50) + big("d2", 99) + `{"device":"d2","a":1}]`); !errors.Is(err, devices.ErrRate) {
		t.Fatalf("over its rate: %v", err)
	}
	if n, err := send(`[` + big("d1", 96) + `{"device":"d1","a":1}]`); n != 97 || err != nil {
		t.Fatalf("what was given back: %d, %v", n, err)
	}
	if _, err := send(`[{"device":"d1","a":1}]`); !errors.Is(err, devices.ErrRate) {
		t.Fatalf("an empty bucket: %v", err)
	}
}

func TestRateFillsAgain(t *testing.T) {
	p, cat, _ := pipeline(t, Config{DeviceRate: 10, SamplesPerMessage: 10})
	d := cat.Device("d1")
	for i, want := range []bool{true, false, true, false} {
		now := int64(recv)
		if i >= 2 {
			now += 1000
		}
		if got := p.take(d, 10, now); got != want {
			t.Errorf("take %d: %v", i, got)
		}
	}
}

func TestRejectsAreBounded(t *testing.T) {
	p, _, _ := pipeline(t, Config{})
	for i := range 5000 { // names that no device has share one list
		p.Record(&Reject{Device: devices.ID(fmt.Sprintf("stranger%d", i)), Kind: "auth", Reason: "wrong password", Head: make([]byte, 1000)})
	}
	p.Record(&Reject{Device: "d1", Kind: "topic", Reason: "foreign topic"})
	all := p.Rejects("", 100)
	if len(all) != perDevice+1 || all[0].Device != "d1" || all[1].Device != "stranger4999" || len(all[1].Head) != headBytes {
		t.Errorf("%d: %+v", len(all), all[:2])
	}
	if st := p.Stats(); st.Rejected["auth"] != 5000 || st.Rejected["topic"] != 1 {
		t.Errorf("%+v", st)
	}
	var r rejects
	for i := range 1500 {
		r.add(devices.ID(fmt.Sprint(i)), Reject{})
	}
	if len(r.by) != rejectDevices || r.recent.Len() != rejectDevices || r.by["0"] != nil {
		t.Errorf("%d devices have a list", len(r.by))
	}
}

func TestHandleAllocatesNothing(t *testing.T) {
	p, cat, _ := pipeline(t, Config{DeviceRate: 1e9})
	m := Message{Protocol: MQTT, Device: cat.Device("d1"), Payload: []byte(`{"a":1.5,"b":true,"c":"on","d":{"x":1}}`), Recv: recv, Wait: true}
	done := func(error) {}
	if n := testing.AllocsPerRun(100, func() { p.Handle(&m, done) }); n != 0 && !poolDrops {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHandle(b *testing.B) {
	p, cat, _ := pipeline(b, Config{DeviceRate: 1e12})
	m := Message{Protocol: MQTT, Device: cat.Device("d1"), Recv: recv, Wait: true,
		Payload: []byte(`{"ts":1795456789012,"a":21.53,"b":1013.25,"c":1480,"d":true,"e":"producing"}`)}
	b.ReportAllocs()
	for b.Loop() {
		p.Handle(&m, nil)
	}
}
