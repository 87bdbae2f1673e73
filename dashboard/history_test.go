package dashboard_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/devices"
)

// historyAnswer is the answer of GET /api/v1/history.
type historyAnswer struct {
	From, To, Width int64
	Series          []struct {
		Device, Metric, Unit, Kind string
		Points                     []struct {
			T                    int64
			First, Min, Max, Sum float64
			Last, Value          any
			Count                int
			Quality              string
		}
		T, Count, Quality []int64
		Last, Max         []float64
		Text              []string
		Value             []float64
	}
}

// recordedSite has what press-7 and press-8 sent from a round hour on: temp each 100 ms for ten seconds with a spike, state, place; rpm is not written yet.
func recordedSite(t *testing.T) (s *site, start int64) {
	s = newSite(t)
	start = time.Now().Add(-2*time.Hour).UnixMilli() / 3_600_000 * 3_600_000
	for _, id := range []devices.ID{"press-7", "press-8"} {
		group := devices.GroupPath("plant1")
		if id == "press-8" {
			group = "plant2"
		}
		must(s.inventory.CreateGroup(t.Context(), system, devices.Group{Path: group}))
		must2(s.inventory.CreateDevice(t.Context(), system, devices.Device{ID: id, State: devices.Active, Groups: []devices.GroupPath{group}}))
	}
	w, _, err := s.history.NewWriter(t.Context(), "life", func(uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	id := func(device devices.ID, metric string, k devices.Kind) devices.SeriesID {
		return must(s.catalog.Device(device).Series([]byte(metric), k))
	}
	var all []devices.Sample
	for _, d := range []devices.ID{"press-7", "press-8"} {
		temp, state, place := id(d, "temp", devices.Float), id(d, "state", devices.String), id(d, "place", devices.Location)
		for i := range 100 {
			v := 20 + float64(i%10)/10
			if i == 55 {
				v = 99.5
			}
			all = append(all, devices.Sample{Series: temp, At: start + int64(i)*100, Value: v})
		}
		all = append(all, devices.Sample{Series: state, Kind: devices.String, At: start + 10, Text: "said \"hm\", then\nstopped", Quality: devices.Bad},
			devices.Sample{Series: place, Kind: devices.Location, At: start + 20, Value: 52.5, Lon: 13.25})
	}
	w.Deliver(1, all)
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Deliver(2, []devices.Sample{{Series: id("press-7", "rpm", devices.Int), Kind: devices.Int, At: start + 500, Value: 900}})
	return s, start
}

func (s *site) ask(secret, query string) (a historyAnswer) {
	s.t.Helper()
	resp, body := s.do("GET", "/api/v1/history?"+query, secret, "")
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %d %s", query, resp.StatusCode, body)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		s.t.Fatalf("%s: %v in %s", query, err, body)
	}
	return a
}

func TestHistory(t *testing.T) {
	s, start := recordedSite(t)
	secret := s.token(devices.Viewer, devices.Site, nil)
	times := fmt.Sprintf("from=%d&to=%d&", start, start+10_000)

	a := s.ask(secret, times+"device=press-7&metric=temp&buckets=10")
	if a.Width != 1000 || a.From != start || a.To != start+10_000 || len(a.Series) != 1 || len(a.Series[0].Points) != 10 {
		t.Fatalf("got %+v", a)
	}
	p := a.Series[0].Points[5]
	if p.T != start+5000 || p.First != 20 || p.Last != 20.9 || p.Min != 20 || p.Max != 99.5 || p.Count != 10 || p.Quality != "" {
		t.Errorf("the bucket of the spike is %+v", p)
	}

	// Samples, of all kinds, several series, and what is not written yet.
	a = s.ask(secret, times+"device=press-7&buckets=0")
	var got []string
	for _, x := range a.Series {
		got = append(got, fmt.Sprintf("%s %s %d %v %s", x.Metric, x.Kind, len(x.Points), x.Points[0].Value, x.Points[0].Quality))
	}
	if want := []string{"place location 1 map[lat:52.5 lon:13.25] ", "rpm int 1 900 ", "state string 1 said \"hm\", then\nstopped bad", "temp float 100 20 "}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}

	// In columns.
	a = s.ask(secret, times+"series=press-7/temp&series=press-8/state&buckets=5&shape=columns")
	if len(a.Series) != 2 || len(a.Series[0].T) != 5 || a.Series[0].Max[2] != 99.5 || a.Series[0].Quality != nil || a.Series[1].Text[0] != "said \"hm\", then\nstopped" || a.Series[1].Quality[0] != 2 {
		t.Errorf("got %+v", a)
	}
	a = s.ask(secret, times+"series=press-7/temp&series=press-7/rpm&buckets=0&shape=columns")
	if len(a.Series) != 2 || len(a.Series[0].Value) != 100 || len(a.Series[1].T) != 1 || a.Series[1].Value[0] != 900 {
		t.Errorf("got %+v", a)
	}

	// Pairs, a group, metrics of it, and times in other notations.
	a = s.ask(secret, times+"device=press-7&metric=temp&device=press-8&metric=state")
	if len(a.Series) != 2 || a.Series[1].Device != "press-8" || a.Series[1].Metric != "state" {
		t.Errorf("pairs give %+v", a.Series)
	}
	a = s.ask(secret, fmt.Sprintf("from=%d&to=%s&group=plant1&metric=temp", start/1000, time.UnixMilli(start+1000).UTC().Format(time.RFC3339)))
	if len(a.Series) != 1 || a.From != start || a.To != start+1000 {
		t.Errorf("a group gives %+v", a)
	}

	// CSV, both ways of asking.
	for _, header := range [][]string{nil, {"Accept", "text/csv"}} {
		q := times + "series=press-7/state&series=press-7/place&buckets=0"
		if header == nil {
			q += "&format=csv"
		}
		resp, body := s.do("GET", "/api/v1/history?"+q, secret, "", header...)
		rows := must(csv.NewReader(strings.NewReader(string(body))).ReadAll())
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/csv") || len(rows) != 3 || rows[1][5] != "said \"hm\", then\nstopped" || rows[2][5] != "52.5 13.25" || rows[0][0] != "device" {
			t.Errorf("%v gives %q", header, rows)
		}
	}
	if resp, body := s.do("GET", "/api/v1/history?"+times+"device=press-7&metric=temp&buckets=2&format=csv", secret, ""); resp.StatusCode != 200 || strings.Count(string(body), "\r\n") != 3 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestHistoryRefuses(t *testing.T) {
	s, start := recordedSite(t)
	secret := s.token(devices.Viewer, "plant1", nil)
	f := func(query string, status int, says string) {
		t.Helper()
		resp, body := s.do("GET", "/api/v1/history?"+query, secret, "")
		if resp.StatusCode != status || !strings.Contains(string(body), says) || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s", query, resp.StatusCode, resp.Header.Get("Content-Type"), body)
		}
	}
	f("", 400, "name one as device/metric")
	f("device=press-7&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "must be before to")
	f("device=press-7&from=yesterday", 400, "RFC 3339")
	f("device=press-7&buckets=20000", 400, "10000")
	f("device=press-7&buckets=x", 400, "10000")
	f("device=press-7&shape=round", 400, "points or columns")
	f("device=press-7&limit=5", 400, "no such parameter")
	f("series=press-7", 400, "device/metric")
	f("metric=temp", 400, "goes with device or group")
	f("device=press-7&device=press-7&device=press-7&metric=temp&metric=rpm", 400, "no pairs")
	f("series=press-7/nothing", 404, "press-7/nothing")
	f("device=press-9", 404, "press-9")
	f("device=press-8", 404, "press-8") // it may not be seen
	f("series=press-8/temp", 404, "press-8/temp")
	f("group=plant2", 404, "plant2")
	f(fmt.Sprintf("device=press-7&from=%d&to=9e18", start), 400, "RFC 3339")
}
