package live_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"millrace/devices/catalog"
)

func (p *place) stream(t *testing.T, group, last string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+p.addr+"/api/v1/groups/"+url.PathEscape(group)+"/stream?access_token=all", nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// An event is one server-sent event.
type event struct{ id, name, data string }

func readEvent(t *testing.T, r *bufio.Scanner) (e event) {
	t.Helper()
	for r.Scan() {
		key, value, _ := strings.Cut(r.Text(), ": ")
		switch key {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			if e.data != "" {
				return e
			}
		}
	}
	t.Fatalf("the stream ended: %v", r.Err())
	return e
}

func TestStream(t *testing.T) {
	p := newPlace(t, 1)
	p.group("hall/a")
	p.add("d9", "hall/a")
	p.refresh(catalog.GroupsChanged)
	p.offer("d9", 5)
	resp := p.stream(t, "hall/a", "")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatal(resp.Status, resp.Header)
	}
	events := bufio.NewScanner(resp.Body)
	if e := readEvent(t, events); e.name != "subscribed" {
		t.Fatalf("%+v", e)
	}
	var snap, f message
	e := readEvent(t, events)
	if err := json.Unmarshal([]byte(e.data), &snap); err != nil || e.name != "" || snap.Type != "frame" || !snap.Snapshot || snap.Points[0].Last != 5 {
		t.Fatalf("%+v", e)
	}
	if e.id != fmt.Sprintf("%s:%d", snap.Epoch, snap.Seq) {
		t.Errorf("id %q of %+v", e.id, snap)
	}
	p.offer("d9", 6)
	readEvent(t, events)
	resp.Body.Close()
	for deadline := time.Now().Add(20 * time.Second); p.live.Stats().Viewers > 0; { // it feels that we left
		if time.Now().After(deadline) {
			t.Fatal("the stream goes on without its client")
		}
		p.offer("d9", 0)
		<-time.After(20 * time.Millisecond)
	}
	p.offer("d9", 8)
	events = bufio.NewScanner(p.stream(t, "hall/a", e.id).Body)
	readEvent(t, events)
	e = readEvent(t, events)
	if err := json.Unmarshal([]byte(e.data), &f); err != nil || f.Snapshot || f.From != snap.Seq || f.Points[0].Max != 8 || f.Points[0].Count < 2 {
		t.Fatalf("%+v %v", e, err)
	}
	for address, status := range map[string]int{
		"/api/v1/groups/hall/stream":                          401,
		"/api/v1/groups/nowhere/stream?access_token=all":      404,
		"/api/v1/groups/hall/stream?access_token=all&pace=x":  400,
		"/api/v1/groups/hall/stream?access_token=all&from=x":  400,
		"/api/v1/groups/hall/stream?access_token=all&speed=1": 400,
	} {
		resp, err := http.Get("http://" + p.addr + address)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s, want %d", address, resp.Status, resp.Header.Get("Content-Type"), status)
		}
	}
	// The right ends: the stream says so and ends.
	p.mu.Lock()
	p.access.Bindings = nil
	p.mu.Unlock()
	p.refresh(catalog.AccessChanged)
	for {
		if e = readEvent(t, events); e.name == "closed" {
			break
		}
	}
	if !strings.Contains(e.data, "forbidden") {
		t.Errorf("%+v", e)
	}
}
