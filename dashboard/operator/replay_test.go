package operator_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"millrace/devices"
)

// TestReplay plays a past in which one sample was a spike, and another in which nothing was recorded, and comes back to live.
func TestReplay(t *testing.T) {
	s := newSite(t, 3)
	s.before = 2 * time.Hour
	s.run(t)
	// A spike of one sample between two others, and a device that spoke once, was silent for 40 minutes, and spoke again.
	spike := time.Now().Add(-20*time.Minute).Truncate(time.Second).UnixMilli() + 437
	id, _ := s.catalog.Device("press-2").Series([]byte("pressure"), devices.Float)
	s.past.add([]devices.Sample{{Series: id, At: spike, Value: 42}})
	quiet := time.Now().Add(-90 * time.Minute).Truncate(time.Minute)
	d := s.catalog.Device("press-1")
	rare, err := d.Series([]byte("rare"), devices.Float)
	if err != nil {
		t.Fatal(err)
	}
	info, groups, _ := s.catalog.Series(rare)
	s.engine.SetSeries(info, groups)
	s.past.add([]devices.Sample{{Series: rare, At: quiet.UnixMilli(), Value: 1.5}, {Series: rare, At: quiet.Add(40 * time.Minute).UnixMilli(), Value: 2.5}})

	ctx := browser(t, s.addr)
	do(t, ctx, chromedp.Navigate(fmt.Sprintf("%s/g/plant1?replay=%d&speed=10&range=5m&still=1", s.addr, spike-40_000)))
	eventually(t, ctx, "it stands", `millrace.player.active && !millrace.player.playing && !millrace.player.loading && millrace.player.buffered > millrace.player.at`)
	const row = `[...document.querySelectorAll("#values tbody tr")].find(r => r.children[0]?.innerText === "press-2" && r.children[1]?.innerText === "pressure")`
	do(t, ctx, js(`window.seen = []; setInterval(() => { const r = `+row+`; if (r) seen.push(r.querySelector(".v").textContent, r.querySelector(".extremes").textContent) }, 15); document.body.focus()`), chromedp.KeyEvent(" "))
	eventually(t, ctx, "it plays", `document.getElementById("conn-text").textContent === "Replay" && !document.getElementById("replay").hidden && millrace.player.playing && !millrace.player.loading`)
	// What is shown is of then: every value's time is before the moment played, and none after it.
	if n := eval[int](t, ctx, `(() => { const p = millrace.player, s = p.store; let n = 0; for (let i = 0; i < s.size; i++) if (s.t[i] > p.at) n++; return n })()`); n > 0 {
		t.Errorf("%d values are of later than the moment played", n)
	}
	eventually(t, ctx, "the spike in the table", `seen.some(v => /(^| to )42\.0*$/.test(v))`)
	drawn := `(() => { const b = millrace.player.store.shown(millrace.store.find("press-2", "pressure")); return Math.max(...b.max.subarray(b.begin, b.since(millrace.player.at))) })()`
	eventually(t, ctx, "the spike in the chart", drawn+` === 42`)
	axe(t, ctx, "replay")
	shoot(t, ctx, "replay")

	// Stop, step, scrub, another speed; the address says it all.
	do(t, ctx, chromedp.KeyEvent(" "))
	eventually(t, ctx, "it stands", `!millrace.player.playing && location.search.includes("still=1")`)
	at := eval[float64](t, ctx, `millrace.player.at`)
	do(t, ctx, chromedp.KeyEvent("."))
	if next := eval[float64](t, ctx, `millrace.player.at`); next <= at || next > at+1000 {
		t.Errorf("a frame on from %v is %v", at, next)
	}
	do(t, ctx, js(fmt.Sprintf(`(() => { const r = document.getElementById("replay-seek"); r.value = %d; r.dispatchEvent(new Event("input")) })()`, spike-600_000)))
	eventually(t, ctx, "scrubbed", fmt.Sprintf(`millrace.player.at === %d && millrace.player.buffered > millrace.player.at && document.getElementById("replay-seek").getAttribute("aria-valuetext").includes("showing")`, spike-600_000))
	do(t, ctx, chromedp.KeyEvent(">"))
	eventually(t, ctx, "faster", `location.search.includes("speed=30") && document.getElementById("replay-speed").value === "30"`)
	link := eval[string](t, ctx, `location.href`)
	do(t, ctx, chromedp.Navigate(link))
	eventually(t, ctx, "the link shows the same", fmt.Sprintf(`millrace.player.at === %d && millrace.player.speed === 30 && !millrace.player.playing && millrace.time.window === 300000 && !millrace.player.loading`, spike-600_000))
	stale := `document.querySelectorAll("#values tbody tr[data-q='3']").length`
	if n := eval[int](t, ctx, stale); n > 1 {
		t.Errorf("%d values are stale at a time when all were sending", n)
	}

	// Back: exact, and live.
	do(t, ctx, js(`document.getElementById("replay-live").click()`))
	eventually(t, ctx, "live again", `document.getElementById("conn-text").textContent === "Live" && document.getElementById("replay").hidden && !location.search.includes("replay")`)
	eventually(t, ctx, "fresh values", `Date.now() - millrace.store.t[millrace.store.find("press-1", "power")] < 2000 && document.querySelector("#values-title").textContent === "Values now"`)
	loaded(t, ctx)
	to := time.Now().Add(-2 * time.Second).UnixMilli()
	eventually(t, ctx, "no hole", fmt.Sprintf(`(() => { const b = millrace.store.shown(millrace.store.find("press-1", "power")); let n = 0; for (let k = b.since(%d); k < b.end && b.t[k] < %d; k++) n++; return n >= 58 })()`, to-60_000, to))

	// Of a series with nothing to show for 40 minutes it says so, and goes there.
	do(t, ctx, chromedp.Navigate(fmt.Sprintf("%s/devices/press-1?q=rare&replay=%d&speed=60&range=15m", s.addr, time.Now().Add(-3*time.Hour).UnixMilli())))
	eventually(t, ctx, "nothing until", `document.getElementById("replay-note").textContent.startsWith("Nothing recorded until") && !document.getElementById("replay-jump").hidden`)
	axe(t, ctx, "replay of nothing")
	shoot(t, ctx, "replay-empty")
	do(t, ctx, js(`document.getElementById("replay-jump").click()`))
	eventually(t, ctx, "there it is", `millrace.player.store.t[millrace.store.find("press-1", "power")] > 0`)

	// At the end it stops and offers to go live.
	do(t, ctx, js(`millrace.player.seek(Date.now() - 60000)`))
	eventually(t, ctx, "the end", `millrace.player.ended && document.getElementById("replay-play-text").textContent === "Go live"`)
	do(t, ctx, chromedp.KeyEvent(" "))
	eventually(t, ctx, "live from the end", `millrace.time.mode === "live"`)
}
