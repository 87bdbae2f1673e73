package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// chartsHold is a script that answers what the visible charts hold of [from, to), as JSON.
func chartsHold(from, to int64) string {
	return fmt.Sprintf(`JSON.stringify([...millrace.charts.values()].filter(c => c.visible).map(c => [c.key, c.lines.map(s => {
		const b = millrace.store.shown(s), rows = [];
		for (let k = b.since(%d); k < b.end && b.t[k] < %d; k++) rows.push([b.t[k], ...(b.words.length ? [b.words[b.last[k]]] : [b.last[k], b.min[k], b.max[k]]), b.count[k]]);
		return [millrace.store.device[s], b.width, rows];
	})]))`, from, to)
}

func chartsFilled(t *testing.T, ctx context.Context) {
	t.Helper()
	eventually(t, 20*time.Second, "the charts are filled", func() bool {
		return evaluate[bool](t, ctx, `!!window.millrace && millrace.backfill.ready && !!document.querySelector("#charts .u-over") && !document.querySelector(".chart.loading")`)
	})
}

// differ tells where two texts part.
func differ(a, b string) string {
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	from := max(0, at-120)
	return fmt.Sprintf("at %d of %d and %d:\n%.300s\n%.300s", at, len(a), len(b), a[from:], b[from:])
}

// A live page shows the last 15 minutes at once, runs on, survives an outage of its connection without a hole, and is the same
// picture after a reload; a spike of one sample is seen over a day and in the second around it; back and links show the same.
// MILLRACE_MINUTES makes it run on for so long.
func TestHistoryInTheBrowser(t *testing.T) {
	minutes := 0.5
	if m := os.Getenv("MILLRACE_MINUTES"); m != "" {
		fmt.Sscan(m, &minutes)
	}
	s := start(t)
	w := newWire(t, strings.TrimPrefix(s.http, "http://"))
	s.must("POST", "/api/v1/groups", map[string]any{"path": "plant1"}, nil)
	names := []string{"press-1", "press-2", "press-3"}
	for _, d := range names {
		s.device(d, "plant1")
	}
	sample := func(device string, i int, at time.Time) map[string]any {
		x := float64(at.UnixMilli())/60_000 + float64(i)
		return map[string]any{"device": device, "ts": at.UnixMilli(), "values": map[string]any{
			"temp": math.Round(100*(40+8*math.Sin(x)+0.8*math.Sin(31*x))) / 100, "running": math.Sin(x/3) > 0, "state": []string{"filling", "capping", "idle"}[int(x/2)%3]}}
	}
	publish := func(batch []map[string]any) {
		data, err := json.Marshal(batch)
		if err != nil {
			t.Error(err)
		}
		if status, answer := s.callAs(adminToken, "POST", "/api/v1/telemetry", string(data)); status >= 300 {
			t.Errorf("%d %s", status, answer)
		}
	}
	// A day every half a minute, the last 20 minutes each second, and one spike.
	now := time.Now()
	spike := now.Add(-9*time.Hour).UnixMilli() + 321
	var batch []map[string]any
	for at := now.Add(-25 * time.Hour); at.Before(now); {
		for i, d := range names {
			batch = append(batch, sample(d, i, at))
		}
		if now.Sub(at) > 20*time.Minute {
			at = at.Add(30 * time.Second)
		} else {
			at = at.Add(time.Second)
		}
		if len(batch) >= 1500 {
			publish(batch)
			batch = nil
		}
	}
	publish(append(batch, map[string]any{"device": "press-2", "ts": spike, "values": map[string]any{"temp": 99.5}}))
	ctx, stop := context.WithCancel(t.Context())
	var publisher sync.WaitGroup
	defer publisher.Wait()
	defer stop()
	publisher.Go(func() {
		for ctx.Err() == nil {
			var batch []map[string]any
			at := time.Now()
			for i, d := range names {
				batch = append(batch, sample(d, i, at.Add(-50*time.Millisecond)), sample(d, i, at))
			}
			publish(batch)
			pause(ctx, 100*time.Millisecond)
		}
	})

	tab := browser(t)
	signIn(t, tab, w.url())
	page := w.url() + "/g/plant1"
	do(t, tab, chromedp.Navigate(page))
	chartsFilled(t, tab)
	count := evaluate[int](t, tab, `(() => { const b = millrace.store.shown(millrace.store.find("press-1", "temp")); return b.since(millrace.time.right()) - b.since(millrace.time.left()) })()`)
	if count < 870 {
		t.Errorf("at once the page shows %d of the last 900 seconds", count)
	}
	axe(t, tab)

	// It runs on; in the middle its connection breaks for some seconds.
	pause(t.Context(), time.Duration(minutes*30)*time.Second)
	w.pull()
	eventually(t, 15*time.Second, "the page notices", func() bool {
		return evaluate[string](t, tab, `document.getElementById("conn").dataset.state`) != "live"
	})
	pause(t.Context(), 4*time.Second)
	w.putBack()
	eventually(t, 30*time.Second, "the page is live again", func() bool {
		return evaluate[string](t, tab, `document.getElementById("conn").dataset.state`) == "live"
	})
	pause(t.Context(), time.Duration(minutes*30)*time.Second+20*time.Second)
	to := time.Now().Add(-18 * time.Second).UnixMilli()
	from := to - 13*60_000
	before := evaluate[string](t, tab, chartsHold(from, to))
	link := fmt.Sprintf("%s?from=%d&to=%d", page, from, to)
	const pixels = `[...document.querySelectorAll("#charts canvas")].map(c => c.toDataURL()).join()`
	evaluate[bool](t, tab, fmt.Sprintf(`(millrace.time.fix(%d, %d), true)`, from, to))
	chartsFilled(t, tab)
	pause(t.Context(), 700*time.Millisecond)
	picture := evaluate[string](t, tab, pixels)
	do(t, tab, chromedp.Navigate(page))
	chartsFilled(t, tab)
	if after := evaluate[string](t, tab, chartsHold(from, to)); after != before || len(after) < 50_000 {
		t.Errorf("a reload shows something else: %s", differ(before, after))
	}
	do(t, tab, chromedp.Navigate(link))
	chartsFilled(t, tab)
	pause(t.Context(), 700*time.Millisecond)
	if evaluate[string](t, tab, pixels) != picture {
		t.Error("the link draws another picture")
	}

	// Out to a day and into the second around the spike; back, and by its link.
	highest := `(() => { const b = millrace.store.shown(millrace.store.find("press-2", "temp")); return Math.max(...b.max.subarray(b.since(millrace.time.left()), b.since(millrace.time.right()))) })()`
	do(t, tab, chromedp.Navigate(page+"?range=24h"))
	chartsFilled(t, tab)
	if v := evaluate[float64](t, tab, highest); v != 99.5 {
		t.Errorf("over a day the highest is %v, not the spike", v)
	}
	evaluate[bool](t, tab, fmt.Sprintf(`(millrace.time.fix(%d, %d), true)`, spike-500, spike+500))
	chartsFilled(t, tab)
	if v := evaluate[float64](t, tab, highest); v != 99.5 {
		t.Errorf("in its second the highest is %v, not the spike", v)
	}
	axe(t, tab)
	second := evaluate[string](t, tab, `location.href`)
	evaluate[bool](t, tab, `(history.back(), true)`)
	eventually(t, 10*time.Second, "back to the day", func() bool {
		return evaluate[string](t, tab, `location.search + millrace.time.mode`) == "?range=24hlive"
	})
	do(t, tab, chromedp.Navigate("about:blank"), chromedp.Navigate(second))
	chartsFilled(t, tab)
	if v := evaluate[string](t, tab, `millrace.time.left() + " " + millrace.time.right()`); v != fmt.Sprintf("%d %d", spike-500, spike+500) {
		t.Errorf("the link shows %s", v)
	}
}
