package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/devices"
	"millrace/fanout"
	"millrace/fanout/wire"
)

// fake is a server that shows each message to the viewers of the device's group as a frame of its own, at once; unless a test
// lets it cheat.
type fake struct {
	t    *testing.T
	http *httptest.Server
	mqtt net.Listener
	live sync.WaitGroup // connections

	cheat  func(n int, f *fanout.Frame) (sent bool) // of the n-th message; nil: an honest one
	refuse int                                      // status for telemetry; 0: it is taken

	mu       sync.Mutex
	groups   map[devices.GroupPath]*fakeGroup
	devices  map[string]devices.GroupPath
	messages int
	deleted  int
	memory   int // bytes, as /metrics tells
	leak     int // bytes that come to it whenever it is asked for
}

type fakeGroup struct {
	series  []fanout.Member
	index   map[string]uint32
	frames  []*fanout.Frame // frames[i] has the number i + 1
	viewers []*websocket.Conn
}

const token = "mrt_00000000000000000000"

func newFake(t *testing.T) *fake {
	s := &fake{t: t, groups: map[devices.GroupPath]*fakeGroup{}, devices: map[string]devices.GroupPath{}, memory: 25_000_000}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/groups", s.postGroup)
	mux.HandleFunc("POST /api/v1/devices", s.postDevice)
	mux.HandleFunc("POST /api/v1/devices/{id}/credentials", func(w http.ResponseWriter, r *http.Request) { answer(w, 201, `{"token":"second"}`) })
	mux.HandleFunc("PATCH /api/v1/devices/{id}", func(w http.ResponseWriter, r *http.Request) { answer(w, 200, `{}`) })
	mux.HandleFunc("DELETE /api/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.deleted++
		w.WriteHeader(204)
	})
	mux.HandleFunc("POST /api/v1/devices/{id}/telemetry", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if s.refuse > 0 {
			answer(w, s.refuse, `{"title":"no"}`)
			return
		}
		s.take(r.PathValue("id"), body)
		answer(w, 200, `{}`)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, 200, fmt.Sprintf("# HELP x\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes %e\n", float64(s.memory)))
		s.memory += s.leak
	})
	mux.HandleFunc("GET /live", s.view)
	s.http = httptest.NewServer(mux)
	var err error
	if s.mqtt, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.live.Go(s.accept)
	t.Cleanup(func() {
		s.mqtt.Close()
		s.live.Wait()
		s.http.Close()
	})
	return s
}

func answer(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (s *fake) postGroup(w http.ResponseWriter, r *http.Request) {
	var in struct{ Path devices.GroupPath }
	_ = json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+token {
		answer(w, 401, `{"title":"who are you?"}`)
		return
	}
	if s.groups[in.Path] != nil {
		answer(w, 409, `{"title":"exists"}`)
		return
	}
	s.groups[in.Path] = &fakeGroup{index: map[string]uint32{}}
	answer(w, 201, `{}`)
}

func (s *fake) postDevice(w http.ResponseWriter, r *http.Request) {
	var in struct {
		ID     string
		Groups []devices.GroupPath
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.devices[in.ID]; ok {
		answer(w, 409, `{"title":"exists"}`)
		return
	}
	s.devices[in.ID] = in.Groups[0]
	answer(w, 201, `{"token":"first"}`)
}

// take makes a frame of a message and sends it to everybody in the group.
func (s *fake) take(device string, body []byte) {
	var values map[string]float64
	if err := json.Unmarshal(body, &values); err != nil {
		s.t.Errorf("device %s sent %q: %v", device, body, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[s.devices[device]]
	f := &fanout.Frame{From: uint64(len(g.frames)), Seq: uint64(len(g.frames) + 1), At: time.Now().UnixMilli()}
	for metric, v := range values {
		if metric == "ts" {
			continue
		}
		name := device + "/" + metric
		i, ok := g.index[name]
		if !ok {
			i = uint32(len(g.series))
			g.index[name] = i
			g.series = append(g.series, fanout.Member{Index: i, Series: &devices.Series{Device: devices.ID(device), Metric: metric}})
			for _, ws := range g.viewers {
				s.tell(ws, map[string]any{"type": "series", "id": 1, "added": seriesList(g.series[i:])})
			}
		}
		f.Points = append(f.Points, fanout.Point{Member: g.series[i], T: int64(values["ts"]), Last: v, Min: v, Max: v, Count: 1})
	}
	slices.SortFunc(f.Points, func(a, b fanout.Point) int { return int(a.Index) - int(b.Index) })
	s.messages++
	sent := s.cheat == nil || s.cheat(s.messages, f)
	g.frames = append(g.frames, f)
	if sent {
		for _, ws := range g.viewers {
			s.show(ws, f)
		}
	}
}

func seriesList(list []fanout.Member) (all []map[string]any) {
	for _, m := range list {
		all = append(all, map[string]any{"index": m.Index, "device": m.Device, "metric": m.Metric})
	}
	return all
}

// A viewer may have gone.
func (s *fake) tell(ws *websocket.Conn, message any) {
	b, _ := json.Marshal(message)
	_ = ws.Write(context.Background(), websocket.MessageText, b)
}

func (s *fake) show(ws *websocket.Conn, f *fanout.Frame) {
	_ = ws.Write(context.Background(), websocket.MessageBinary, wire.Binary{}.AppendFrame(nil, f, 1))
}

// view serves a viewer: a snapshot, or the frames it has missed, and then what comes.
func (s *fake) view(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"millrace.v1"}})
	if err != nil {
		s.t.Error(err)
		return
	}
	s.live.Add(1)
	defer s.live.Done()
	defer ws.CloseNow()
	var ask struct {
		Group devices.GroupPath
		From  *struct{ Seq uint64 }
	}
	_, b, err := ws.Read(r.Context())
	if err != nil || json.Unmarshal(b, &ask) != nil {
		return
	}
	s.mu.Lock()
	g := s.groups[ask.Group]
	if g == nil {
		s.tell(ws, map[string]any{"type": "error", "code": "not-found", "message": "no such group"})
		s.mu.Unlock()
		return
	}
	seq := uint64(len(g.frames))
	s.tell(ws, map[string]any{"type": "subscribed", "id": 1, "epoch": "life", "seq": seq, "series": seriesList(g.series)})
	if ask.From == nil {
		s.show(ws, &fanout.Frame{From: seq, Seq: seq, Snapshot: true, At: time.Now().UnixMilli()})
	} else {
		for _, f := range g.frames[ask.From.Seq:] {
			s.show(ws, f)
		}
	}
	g.viewers = append(g.viewers, ws)
	s.mu.Unlock()
	for err == nil {
		_, _, err = ws.Read(r.Context()) // credit
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.viewers = slices.DeleteFunc(g.viewers, func(x *websocket.Conn) bool { return x == ws })
}

func (s *fake) accept() {
	for {
		conn, err := s.mqtt.Accept()
		if err != nil {
			return
		}
		s.live.Go(func() {
			defer conn.Close()
			s.broker(conn)
		})
	}
}

// broker takes MQTT 3.1.1 from a device until it leaves.
func (s *fake) broker(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return
		}
		n, err := binary.ReadUvarint(r) // the same as MQTT's lengths
		if err != nil {
			return
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(r, p); err != nil {
			return
		}
		switch kind {
		case 0x10:
			_, _ = conn.Write([]byte{0x20, 2, 0, 0})
		case 0x30, 0x32:
			length := 2 + int(binary.BigEndian.Uint16(p))
			_, topic, _ := strings.Cut(string(p[2:length]), "/")
			device, _, _ := strings.Cut(topic, "/")
			body := p[length:]
			if kind == 0x32 {
				_, _ = conn.Write([]byte{0x40, 2, body[0], body[1]})
				body = body[2:]
			}
			s.take(device, body)
		case 0xe0:
			return
		default:
			s.t.Errorf("device sent a packet of kind %s", strconv.FormatUint(uint64(kind), 16))
			return
		}
	}
}
