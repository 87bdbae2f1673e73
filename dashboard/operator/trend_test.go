package operator_test

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestTrends picks series of two devices and units by keyboard, watches them run on, replays and saves them.
func TestTrends(t *testing.T) {
	s := newSite(t, 3)
	s.before = time.Hour
	s.run(t)
	ctx := browser(t, s.addr)
	do(t, ctx, chromedp.Navigate(s.addr+"/trends"), chromedp.WaitVisible(chromedp.CSS("#trend-empty button")))
	axe(t, ctx, "trends, empty")
	shoot(t, ctx, "trends-empty")
	do(t, ctx, js(`document.querySelector("#trend-empty button").click()`))
	pick := func(q, name string) {
		t.Helper()
		do(t, ctx, js(`document.getElementById("pick").focus()`), chromedp.SendKeys(chromedp.CSS("#pick"), q))
		eventually(t, ctx, "found "+name, `document.querySelector("#pick-list:not([hidden]) [aria-selected=true]")?.innerText.replace(/\s+/g, " ").startsWith("`+name+`")`)
		if q == "press-1/temp" {
			axe(t, ctx, "picker")
			shoot(t, ctx, "trends-pick")
		}
		do(t, ctx, chromedp.KeyEvent(kb.Enter))
	}
	pick("press-1/temp", "press-1 temperature")
	pick("press-2/pre", "press-2 pressure")
	pick("press-2/state", "press-2 state")
	eventually(t, ctx, "three are picked", `location.search === "?series=press-1/temperature&series=press-2/pressure&series=press-2/state" && document.querySelectorAll("#picked li").length === 3`)
	eventually(t, ctx, "both lines are filled", `millrace.backfill.ready && millrace.charts[0].lines.length === 2 && millrace.charts[0].lines.every(s => millrace.store.shown(s).length > 800)`)
	eventually(t, ctx, "an axis for each unit", `document.querySelectorAll("#charts .chart:first-child .u-axis").length >= 3 && millrace.charts[0].card.querySelector(".unit").textContent === "°C · bar"`)
	eventually(t, ctx, "live values", `[...document.querySelectorAll("#charts .legend-value")].filter(e => /°C|bar/.test(e.textContent)).length === 2 && Date.now() - millrace.store.t[millrace.store.find("press-2", "pressure")] < 2000`)
	axe(t, ctx, "trends")
	shoot(t, ctx, "trends")

	// The link shows the same; a picture and a CSV are of what is seen.
	do(t, ctx, chromedp.Navigate(eval[string](t, ctx, `location.href`)))
	eventually(t, ctx, "the link shows the same", `millrace.charts[0].lines.length === 2 && millrace.charts[1].lines.length === 1 && millrace.backfill.ready`)
	do(t, ctx, js(`window.made = []; URL.createObjectURL = b => (made.push(b), "#"); document.getElementById("picture").click(); document.getElementById("download-lines").click()`))
	eventually(t, ctx, "saved", `made.length === 3 && made.filter(b => b.type === "image/png" && b.size > 5000).length === 2`)
	if v := eval[string](t, ctx, `made.find(b => b.type === "text/csv").text().then(v => v.split("\r\n")[0])`); v != "time,press-1/temperature (°C),press-1/temperature min (°C),press-1/temperature max (°C),press-2/pressure (bar),press-2/pressure min (bar),press-2/pressure max (bar),press-2/state" {
		t.Errorf("the CSV begins with %q", v)
	}
	do(t, ctx, js(`document.querySelector(".chart-save summary").click()`))
	axe(t, ctx, "save menu")
	do(t, ctx, js(`document.querySelector(".chart-save summary").click(); document.activeElement.blur()`))

	// It is replayed as a live page is, and one of the series removed meanwhile.
	do(t, ctx, js(`document.getElementById("replay-start").click()`))
	eventually(t, ctx, "it plays", `millrace.player.playing && millrace.player.store.t[millrace.store.find("press-1", "temperature")] > 0 && millrace.player.store.shown(millrace.store.find("press-1", "temperature")).length > 0`)
	do(t, ctx, js(`document.querySelector("#picked button").click()`))
	eventually(t, ctx, "one less", `document.querySelectorAll("#picked li").length === 2 && millrace.charts[0].lines.length === 1`)
	do(t, ctx, js(`document.getElementById("replay-live").click()`))
	eventually(t, ctx, "live", `millrace.time.mode === "live" && document.getElementById("conn-text").textContent === "Live"`)
}
