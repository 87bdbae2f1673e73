package telemetry

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"millrace/devices"
	"millrace/fanout"
	"millrace/fanout/hub"
)

// bare sends payloads as they are, a line each.
type bare struct{}

func (bare) Slot() int                                  { return 0 }
func (bare) Encode(m *hub.Message) []byte               { return append([]byte(m.Group+" "), m.Data.Bytes...) }
func (bare) Append(dst, shared []byte, _ uint64) []byte { return append(append(dst, shared...), '\n') }

// transport hands on what is due.
type transport struct{ woken chan struct{} }

func (w *transport) Wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}
func (*transport) Abort(int, string) {}

// observer tells a bridge who joins.
type observer struct{ b *Bridge }

func (observer) Connected(*hub.Conn)                {}
func (o observer) Joined(c *hub.Conn, group string) { o.b.Joined(c, group) }
func (o observer) Left(*hub.Conn, string)           { o.b.Left() }
func (o observer) Ended(*hub.Conn, string)          { o.b.Left() }

// TestFrames of a group reach who joins it: a snapshot first, then what changes, until it leaves.
func TestFrames(t *testing.T) {
	engine := fanout.New(fanout.Config{})
	engine.SetGroup(devices.Group{Path: "plant1/line2", Tick: 20 * time.Millisecond})
	engine.SetSeries(devices.Series{ID: 1, Device: "press-7", Metric: "temp", Kind: devices.Float}, []devices.GroupPath{"plant1/line2"})
	b := New(engine)
	s := hub.New(hub.Config{}, observer{b}, nil)
	h := s.Hub(Hub)
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	parts.Go(func() { _ = engine.Run(ctx) })
	parts.Go(func() { _ = b.Run(ctx, h) })
	defer parts.Wait()
	defer cancel()

	type frame struct {
		Snapshot bool
		Points   []struct {
			Device         string
			Last, Min, Max float64
			Count          int
		}
	}
	read := func(c *hub.Conn, w *transport) frame {
		t.Helper()
		for {
			p, err := c.Take(w, nil, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(p) == 0 {
				select {
				case <-w.woken:
					continue
				case <-time.After(10 * time.Second):
					t.Fatal("nothing came")
				}
			}
			const group = "plant1/line2 "
			var f frame
			if string(p[:len(group)]) != group {
				t.Fatalf("got %q", p)
			}
			if err := json.Unmarshal(p[len(group):], &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	now := time.Now()
	offer := func(values ...float64) {
		batch := make([]devices.Sample, len(values))
		for i, v := range values {
			batch[i] = devices.Sample{Series: 1, At: now.UnixMilli() + int64(i), Recv: now.UnixMilli(), Kind: devices.Float, Value: v}
		}
		now = now.Add(time.Second)
		engine.Offer(batch)
	}
	offer(20)
	w := &transport{make(chan struct{}, 1)}
	c, err := h.Connect(hub.Spec{Encoder: bare{}, Roles: []string{"webpubsub.joinLeaveGroup"}}, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Join("plant1/line2"); err != nil {
		t.Fatal(err)
	}
	if f := read(c, w); !f.Snapshot || len(f.Points) != 1 || f.Points[0].Last != 20 {
		t.Fatalf("first came %+v", f)
	}
	offer(21, 99, 22)
	if f := read(c, w); f.Snapshot || len(f.Points) != 1 || f.Points[0].Last != 22 || f.Points[0].Max != 99 || f.Points[0].Count != 3 {
		t.Fatalf("then came %+v", f)
	}
	w2 := &transport{make(chan struct{}, 1)}
	c2, _ := h.Connect(hub.Spec{Encoder: bare{}, Groups: []string{"plant1/line2", "no/such"}}, w2)
	f := read(c2, w2)
	if !f.Snapshot {
		t.Fatalf("to the second came %+v first", f)
	}
	for f.Points[0].Last != 22 { // the snapshot may be one that was made before
		f = read(c2, w2)
	}
	_ = c.Leave("plant1/line2")
	offer(23)
	if f := read(c2, w2); f.Points[0].Last != 23 {
		t.Fatalf("to the second came %+v", f)
	}
	if p, err := c.Take(w, nil, 1); err != nil || len(p) > 0 {
		t.Errorf("who left got %q, %v", p, err)
	}
}
