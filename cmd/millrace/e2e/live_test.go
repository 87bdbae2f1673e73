package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A point and a frame as docs/protocol.md gives them in JSON.
type point struct {
	Device, Metric string
	T              int64
	Last           any
	Min, Max       *float64
	Count          uint64
	Quality        string
}

type frame struct {
	Type      string
	ID        uint32
	Epoch     string
	From, Seq uint64
	Snapshot  bool
	At        int64
	Points    []point
	Code      string
	Reason    string
}

// A viewer is a subscription in JSON that folds its frames.
type viewer struct {
	ws *websocket.Conn

	mu     sync.Mutex
	last   map[string]point  // newest point of each device/metric
	count  map[string]uint64 // samples told of in frames, snapshots left out
	max    map[string]float64
	seq    uint64
	closed string // reason of a closed message
	at     []int64
}

func watch(t *testing.T, s *server, token, group string, options map[string]any) *viewer {
	t.Helper()
	v, err := dial(t.Context(), s, token, group, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.ws.CloseNow() })
	return v
}

func dial(ctx context.Context, s *server, token, group string, options map[string]any) (*viewer, error) {
	ws, _, err := websocket.Dial(ctx, strings.Replace(s.http, "http", "ws", 1)+"/live", &websocket.DialOptions{
		HTTPClient: s.httpClient(), Subprotocols: []string{"millrace.v1"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(16 << 20)
	v := &viewer{ws: ws, last: map[string]point{}, count: map[string]uint64{}, max: map[string]float64{}}
	request := map[string]any{"type": "subscribe", "id": 1, "group": group, "format": "json"}
	maps.Copy(request, options)
	data, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if err := ws.Write(ctx, websocket.MessageText, data); err != nil {
		return nil, err
	}
	go v.read(ctx)
	return v, nil
}

func (v *viewer) read(ctx context.Context) {
	for {
		_, data, err := v.ws.Read(ctx)
		if err != nil {
			return
		}
		var f frame
		if json.Unmarshal(data, &f) != nil {
			continue
		}
		v.mu.Lock()
		switch f.Type {
		case "frame":
			v.seq = f.Seq
			v.at = append(v.at, time.Now().UnixMilli()-f.At)
			for _, p := range f.Points {
				key := p.Device + "/" + p.Metric
				if f.Snapshot || p.Count > 0 {
					v.last[key] = p
				}
				if f.Snapshot {
					continue
				}
				v.count[key] += p.Count
				if p.Max != nil && p.Count > 0 && (v.count[key] == p.Count || *p.Max > v.max[key]) {
					v.max[key] = *p.Max
				}
			}
		case "closed", "error":
			v.closed = f.Code + f.Reason
		}
		v.mu.Unlock()
	}
}

// value is the newest value of device/metric, nil before the first.
func (v *viewer) value(key string) any {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last[key].Last
}

func (v *viewer) sees(t *testing.T, key string, want any) {
	t.Helper()
	eventually(t, 10*time.Second, "the viewer sees the value published to "+key, func() bool { return v.value(key) == want })
}
