package operator_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"millrace/devices"
)

// shown is a script that answers what the visible charts hold of [from, to), as JSON.
func shown(from, to int64) string {
	return fmt.Sprintf(`JSON.stringify([...millrace.charts.values()].filter(c => c.visible).map(c => [c.key, c.lines.map(s => {
		const b = millrace.store.shown(s), rows = [];
		for (let k = b.since(%d); k < b.end && b.t[k] < %d; k++) rows.push([b.t[k], ...(b.words.length ? [b.words[b.last[k]]] : [b.last[k], b.min[k], b.max[k]]), b.count[k]]);
		return [millrace.store.device[s], b.width, rows];
	})]))`, from, to)
}

// loaded waits until the past is there and nothing is under way.
func loaded(t *testing.T, ctx context.Context) {
	t.Helper()
	eventually(t, ctx, "charts are filled", `window.millrace?.backfill.ready && document.querySelector("#charts .u-over") && !document.querySelector(".chart.loading")`)
}

func location(t *testing.T, ctx context.Context) url.Values {
	t.Helper()
	q, err := url.ParseQuery(strings.TrimPrefix(eval[string](t, ctx, `location.search`), "?"))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func wheelBy(y float64) chromedp.MouseOption {
	return func(p *input.DispatchMouseEventParams) { p.DeltaX, p.DeltaY = 0.001, y }
}

// touch puts fingers at these places of a row, moves them, and lifts them.
func touch(typ input.DispatchTouchEventType, y float64, xs ...float64) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		p := input.DispatchTouchEventParams{Type: typ, TouchPoints: []*input.TouchPoint{}}
		for i, x := range xs {
			id := float64(i)
			p.TouchPoints = append(p.TouchPoints, &input.TouchPoint{X: x, Y: y, ID: &id})
		}
		_, err := cdp.Call(ctx, t, input.DispatchTouchEvent, p)
		return err
	})
}

// TestTouch moves and zooms with fingers on a phone; up and down still scrolls.
func TestTouch(t *testing.T) {
	s := newSite(t, 2)
	s.before = 20 * time.Minute
	s.run(t)
	ctx := browser(t, s.addr)
	do(t, ctx, chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch), chromedp.Navigate(s.addr+"/g/plant1?range=5m"))
	loaded(t, ctx)
	box := eval[[]float64](t, ctx, `(() => { const r = document.querySelector("#charts .u-over").getBoundingClientRect(); return [r.left, r.top, r.width, r.height] })()`)
	left, y, width := box[0], box[1]+box[3]/2, box[2]
	finger := func(xs ...[]float64) {
		do(t, ctx, touch(input.DispatchTouchEventTypeTouchStart, y, xs[0]...))
		for _, x := range xs[1:] {
			do(t, ctx, touch(input.DispatchTouchEventTypeTouchMove, y, x...))
		}
		do(t, ctx, touch(input.DispatchTouchEventTypeTouchEnd, y), chromedp.Sleep(200*time.Millisecond))
	}
	edge := eval[float64](t, ctx, `millrace.time.right()`)
	finger([]float64{left + 50}, []float64{left + 70}, []float64{left + 100}, []float64{left + 50 + width/4})
	if moved := edge - eval[float64](t, ctx, `millrace.time.right()`); moved < 60_000 || moved > 80_000 {
		t.Errorf("a quarter of the width with a finger is %v ms of 300000", moved)
	}
	finger([]float64{left + 100, left + 150}, []float64{left + 90, left + 160}, []float64{left + 75, left + 175})
	if window := eval[float64](t, ctx, `millrace.time.window`); window < 130_000 || window > 175_000 {
		t.Errorf("two fingers twice as far apart show %v ms of 300000", window)
	}
	if mode := eval[string](t, ctx, `millrace.time.mode`); mode != "fixed" {
		t.Errorf("it is %s", mode)
	}
	loaded(t, ctx)
	axe(t, ctx, "phone")
}

// TestTime opens a live page whose devices have published before, watches it run on, reloads it, and travels: the picture is the
// same however one comes to it, and nothing that was recorded is missing.
func TestTime(t *testing.T) {
	s := newSite(t, 4)
	s.before = 26 * time.Hour
	s.run(t)
	// One spike of a single sample, between two others, 10 hours ago.
	spike := time.Now().Add(-10*time.Hour).UnixMilli() + 137
	d := s.catalog.Device("press-2")
	id, _ := d.Series([]byte("pressure"), devices.Float)
	s.past.add([]devices.Sample{{Series: id, At: spike, Value: 42}})

	ctx := browser(t, s.addr)
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1"))
	loaded(t, ctx)
	first := eval[int](t, ctx, `(() => { const s = millrace.store.find("press-1", "power"), b = millrace.store.shown(s); return b.since(Date.now()) - b.since(Date.now() - 900000) })()`)
	if first < 880 {
		t.Errorf("the last 15 minutes show %d buckets of 900 at once", first)
	}
	axe(t, ctx, "group, filled")

	// It runs on: what has settled is exactly what a reload shows.
	do(t, ctx, chromedp.Sleep(30*time.Second))
	to := time.Now().Add(-18 * time.Second).UnixMilli()
	from := to - 13*60_000
	before := eval[string](t, ctx, shown(from, to))
	link := fmt.Sprintf("%s/g/plant1?from=%d&to=%d", s.addr, from, to)
	do(t, ctx, js(fmt.Sprintf(`millrace.time.fix(%d, %d)`, from, to)))
	loaded(t, ctx)
	do(t, ctx, chromedp.Sleep(700*time.Millisecond))
	const picture = `[...document.querySelectorAll("#charts canvas")].slice(0, 3).map(c => c.toDataURL()).join()`
	pixels := eval[string](t, ctx, picture)
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1"))
	loaded(t, ctx)
	if after := eval[string](t, ctx, shown(from, to)); after != before || len(after) < 10_000 {
		at := 0
		for at < min(len(before), len(after)) && before[at] == after[at] {
			at++
		}
		t.Errorf("of %d–%d a reload shows something else (%d and %d bytes), from %d on:\n%.300s\n%.300s", from, to, len(before), len(after), at, before[max(0, at-100):], after[max(0, at-100):])
	}
	do(t, ctx, chromedp.Navigate(link))
	loaded(t, ctx)
	do(t, ctx, chromedp.Sleep(700*time.Millisecond))
	if again := eval[string](t, ctx, picture); again != pixels {
		t.Error("a fresh page draws the same range differently")
	}

	shoot(t, ctx, "time-fixed")

	// Out to a day by the key: the spike of one sample is there; then in to one second around it.
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1"))
	loaded(t, ctx)
	do(t, ctx, chromedp.KeyEvent("6"))
	eventually(t, ctx, "a day", `document.getElementById("time-text").textContent === "Last 24 hours" && location.search === "?range=24h"`)
	loaded(t, ctx)
	highest := `(() => { const b = millrace.store.shown(millrace.store.find("press-2", "pressure")); return Math.max(...b.max.subarray(b.since(millrace.time.left()), b.end)) })()`
	if v := eval[float64](t, ctx, highest); v != 42 {
		t.Errorf("over a day the spike is %v", v)
	}
	shoot(t, ctx, "time-day")
	do(t, ctx, js(fmt.Sprintf(`millrace.time.fix(%d, %d)`, spike-500, spike+500)))
	loaded(t, ctx)
	if v := eval[float64](t, ctx, highest); v != 42 {
		t.Errorf("in a second the spike is %v", v)
	}
	eventually(t, ctx, "not live", `document.getElementById("conn-text").textContent === "Not live" && !document.getElementById("scrub").hidden && document.getElementById("values-note").textContent !== ""`)
	axe(t, ctx, "a second")
	shoot(t, ctx, "time-second")
	second := location(t, ctx)
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1?from="+second.Get("from")+"&to="+second.Get("to")))
	loaded(t, ctx)
	if v := eval[string](t, ctx, `millrace.time.left() + "/" + millrace.time.right()`); v != fmt.Sprintf("%d/%d", spike-500, spike+500) {
		t.Errorf("the link shows %s", v)
	}

	// Gestures: drag selects, the browser goes back, the wheel with Ctrl zooms and alone scrolls, keys step.
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1?range=1h"))
	loaded(t, ctx)
	box := eval[[]float64](t, ctx, `(() => { const r = document.querySelector("#charts .u-over").getBoundingClientRect(); return [r.left, r.top, r.width, r.height] })()`)
	x, y := box[0]+box[2]/4, box[1]+box[3]/2
	do(t, ctx, chromedp.MouseEvent(chromedp.MousePressed, x, y, chromedp.Button("left"), chromedp.ClickCount(1)),
		chromedp.MouseEvent(chromedp.MouseMoved, x+20, y, chromedp.Button("left")), chromedp.MouseEvent(chromedp.MouseMoved, x+box[2]/2, y, chromedp.Button("left")))
	do(t, ctx, chromedp.MouseEvent(chromedp.MouseReleased, x+box[2]/2, y, chromedp.Button("left"), chromedp.ClickCount(1)))
	eventually(t, ctx, "half an hour is selected", `millrace.time.mode === "fixed" && Math.abs(millrace.time.window - 1800000) < 60000`)
	loaded(t, ctx)
	do(t, ctx, chromedp.KeyEvent("["))
	eventually(t, ctx, "back to the hour", `millrace.time.mode === "live" && millrace.time.window === 3600000`)
	do(t, ctx, chromedp.KeyEvent("]"))
	eventually(t, ctx, "and forward", `millrace.time.mode === "fixed"`)
	wheel := func(mod chromedp.Modifier) {
		do(t, ctx, js(`document.activeElement.blur()`), chromedp.MouseEvent(chromedp.MouseWheel, x, y, chromedp.ButtonModifiers(mod), wheelBy(240)), chromedp.Sleep(300*time.Millisecond))
	}
	window := eval[float64](t, ctx, `millrace.time.window`)
	wheel(chromedp.ModifierNone)
	if now := eval[float64](t, ctx, `millrace.time.window`); now != window || eval[float64](t, ctx, `scrollY`) == 0 {
		t.Error("the wheel alone does not scroll the page")
	}
	do(t, ctx, js(`scrollTo(0, 0)`))
	wheel(chromedp.ModifierCtrl)
	if now := eval[float64](t, ctx, `millrace.time.window`); now <= window {
		t.Error("the wheel with Ctrl does not zoom out")
	}
	do(t, ctx, chromedp.KeyEvent("0"))
	eventually(t, ctx, "live again", `millrace.time.mode === "live"`)
	do(t, ctx, chromedp.KeyEvent(" "))
	eventually(t, ctx, "paused", `document.getElementById("conn-text").textContent === "Paused" && document.getElementById("values-title").textContent.startsWith("Values at")`)
	axe(t, ctx, "paused", ".live-bar") // the wheel also went into the table: a row half below its head is no target for a moment
	do(t, ctx, js(`document.getElementById("pause").click()`), js(`document.querySelector("#time-menu summary").click()`))
	eventually(t, ctx, "the picker", `document.getElementById("time-from").value !== ""`)
	axe(t, ctx, "range picker", ".live-bar") // what it covers is not to be reached meanwhile
	shoot(t, ctx, "time-picker")
	do(t, ctx, js(`document.querySelector("#time-menu summary").click(); scrollTo(0, 0); document.getElementById("time-from").value = "2026-01-01T00:00"; document.getElementById("time-to").value = "2026-01-01T01:00"; document.getElementById("time-form").requestSubmit()`))
	eventually(t, ctx, "nothing there", `document.querySelector(".chart-note:not([hidden])")?.textContent.includes("The oldest sample is of")`)
	axe(t, ctx, "empty range")
	shoot(t, ctx, "time-empty")
	do(t, ctx, js(`document.querySelector(".chart-note button").click()`))
	eventually(t, ctx, "the nearest", `[...millrace.charts.values()].every(c => !c.visible || c.card.querySelector(".chart-note").hidden) && millrace.time.window === 3600000`)

	do(t, ctx, js(`scrollTo(0, 0)`))

	// A chart as a table, and the details of a value.
	do(t, ctx, js(`document.querySelector(".chart-toggle").click()`))
	eventually(t, ctx, "a chart as a table", `/\d/.test(document.querySelector(".plot-table tbody td")?.textContent ?? "")`)
	axe(t, ctx, "chart as a table")
	shoot(t, ctx, "time-table")
	do(t, ctx, js(`document.querySelector(".row-more").click()`))
	eventually(t, ctx, "details", `document.querySelector("dialog[open] dd") !== null`)
	axe(t, ctx, "details")
	shoot(t, ctx, "details")
	do(t, ctx, js(`document.querySelector("dialog[open]").close(); document.querySelector(".chart-toggle").click()`))

	// History that does not answer is told, and asked again.
	s.past.fail(true)
	do(t, ctx, chromedp.KeyEvent("3"))
	eventually(t, ctx, "the failure is told", `document.querySelector(".chart-note.failed:not([hidden])") !== null`)
	axe(t, ctx, "failure")
	s.past.fail(false)
	do(t, ctx, js(`document.querySelector(".chart-note.failed button").click()`))
	loaded(t, ctx)
	eventually(t, ctx, "and gone", `document.querySelector(".chart-note.failed:not([hidden])") === null`)
}
