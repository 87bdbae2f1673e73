package fleet

import (
	"encoding/json"
	"testing"
	"time"

	"millrace/devices"
)

// TestPlant runs ten minutes of the plant and checks that what it sends is well formed, large and varied enough, within the
// rates it promises, and has its faults.
func TestPlant(t *testing.T) {
	start := time.Date(2026, 5, 4, 8, 0, 0, 0, time.UTC)
	p := NewPlant(1, start)
	if len(p.Units) < 60 || p.Series() < 400 {
		t.Errorf("%d devices with %d series; at least 60 with 400 are wanted", len(p.Units), p.Series())
	}
	known := map[devices.GroupPath]bool{}
	for _, g := range p.Groups {
		if err := g.Validate(); err != nil {
			t.Errorf("group %q: %v", g.Path, err)
		}
		known[g.Path] = true
	}
	metric := map[string]*devices.Metric{}
	for i, m := range p.Metrics {
		if !devices.ValidMetric(m.Name) || metric[m.Name] != nil {
			t.Errorf("metric %q is malformed or there twice", m.Name)
		}
		metric[m.Name] = &p.Metrics[i]
	}
	ids := map[devices.ID]bool{}
	for _, u := range p.Units {
		if err := u.Validate(); err != nil || ids[u.ID] {
			t.Errorf("device %q: %v, or there twice", u.ID, err)
		}
		ids[u.ID] = true
		for _, g := range u.Groups {
			if !known[g] {
				t.Errorf("device %q is in %q, which is no group", u.ID, g)
			}
		}
	}

	now := start
	messages, garbage, spikes, ahead, outside, inside := 0, 0, 0, 0, 0, 0
	series := map[string]bool{}
	last := map[devices.ID]time.Time{}
	for now.Before(start.Add(10 * time.Minute)) {
		now = p.Advance(now, func(m Message) {
			if m.Last {
				return
			}
			messages++
			last[m.Unit.ID] = now
			prefix := "devices/" + string(m.Unit.ID) + "/telemetry"
			if m.Topic != prefix {
				series[string(m.Unit.ID)+m.Topic[len(prefix):]] = true
				return
			}
			var body map[string]any
			if json.Unmarshal(m.Payload, &body) != nil {
				garbage++
				return
			}
			if ts := int64(body["ts"].(float64)); ts > now.Add(time.Minute).UnixMilli() {
				ahead++
			}
			delete(body, "ts")
			for name, v := range body {
				series[string(m.Unit.ID)+"/"+name] = true
				s := metric[name]
				if f, ok := v.(float64); ok && s != nil && s.Low != nil && s.High != nil {
					if f < *s.Low || f > *s.High {
						outside++
					} else {
						inside++
					}
				}
			}
			if v, ok := body["oil.pressure"].(float64); ok && v > 300 {
				spikes++
			}
		})
	}
	if rate := float64(messages) / 600; rate < 100 || rate > 1000 {
		t.Errorf("%.0f messages/s; between 100 and 1000 are wanted", rate)
	}
	if len(series) < p.Series() {
		t.Errorf("%d series seen, %d promised", len(series), p.Series())
	}
	if garbage < 20 || spikes < 5 || ahead < 50 {
		t.Errorf("faults: %d garbage, %d spikes, %d from the future", garbage, spikes, ahead)
	}
	if end := last["pump-3"]; end.Sub(start) > 5*time.Minute || end.Sub(start) < 3*time.Minute {
		t.Errorf("pump-3 last spoke after %v", end.Sub(start))
	}
	if outside*10 > inside {
		t.Errorf("%d values outside their limits, %d inside: alarms would never stop", outside, inside)
	}
	t.Logf("%d devices, %d series, %.0f messages/s; %d of %d banded values outside", len(p.Units), len(series), float64(messages)/600, outside, outside+inside)
}
