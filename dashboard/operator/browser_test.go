package operator_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"millrace/devices"
)

var screenshots = flag.String("screenshots", "", "folder to save pictures of the pages in")

// browser starts a Chromium of its own, ends it with the test, and signs in. Exceptions in a page fail the test.
func browser(t *testing.T, addr string) context.Context {
	t.Helper()
	alloc, stop := chromedp.NewExecAllocator(context.Background(), chromedp.NoSandbox, chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1440, 900), chromedp.Flag("disable-background-networking", true))
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	err := chromedp.Listen(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("page: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" {
				for _, a := range e.Args {
					t.Errorf("console: %s", a.Value)
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	limited, end := context.WithTimeout(ctx, 120*time.Second)
	t.Cleanup(end)
	do(t, limited, chromedp.Navigate(addr+"/login"))
	axe(t, limited, "login")
	shoot(t, limited, "login")
	do(t, limited,
		chromedp.SendKeys(chromedp.CSS("#email"), "ada@example.org"), chromedp.SendKeys(chromedp.CSS("#password"), password), js(`document.querySelector("form").requestSubmit()`),
		chromedp.WaitVisible(chromedp.CSS("header.top")))
	return limited
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// js runs a script for what it does.
func js(script string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](script)
}

// eval answers a script's value, or that of the promise it makes.
func eval[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually polls a JavaScript condition.
func eventually(t *testing.T, ctx context.Context, what, condition string) {
	t.Helper()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](condition, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(15*time.Second))); err != nil {
		seen, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.getElementById("conn")?.innerText + " | " + document.body.innerText.slice(0, 900)`))
		t.Fatalf("%s: %v; the page: %s", what, err, seen)
	}
}

// axe checks the page as it stands, or the part of it that a selector names, against WCAG 2.2 A and AA.
func axe(t *testing.T, ctx context.Context, name string, part ...string) {
	t.Helper()
	script, err := os.ReadFile("../../web/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("axe-core is missing: run npm ci in web (%v)", err)
	}
	do(t, ctx, js(string(script)))
	result := eval[string](t, ctx, `axe.run(`+strconv.Quote(strings.Join(append(part, ""), ""))+` || document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(r => JSON.stringify(r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 4).map(n => n.html.slice(0, 200) + " " + n.failureSummary)}))))`)
	var violations []struct {
		ID, Help string
		Nodes    []string
	}
	if err := json.Unmarshal([]byte(result), &violations); err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Errorf("axe on %s: %s: %s\n%s", name, v.ID, v.Help, strings.Join(v.Nodes, "\n"))
	}
}

// shoot saves pictures when asked to: light and dark, on a desk and on a phone.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	for _, at := range []struct {
		suffix, theme string
		w, h          int64
		options       []chromedp.EmulateViewportOption
	}{{"", "light", 1440, 900, nil}, {"-dark", "dark", 1440, 900, nil}, {"-phone", "light", 390, 844, []chromedp.EmulateViewportOption{chromedp.EmulateMobile, chromedp.EmulateTouch}}} {
		do(t, ctx, chromedp.EmulateViewport(at.w, at.h, at.options...),
			js(`document.documentElement.dataset.theme="`+at.theme+`"; window.dispatchEvent(new Event("millrace:theme"))`), chromedp.Sleep(800*time.Millisecond))
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*screenshots, name+at.suffix+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	do(t, ctx, chromedp.EmulateViewport(1440, 900), js(`delete document.documentElement.dataset.theme; window.dispatchEvent(new Event("millrace:theme"))`))
}

// A cable is a TCP connection to the server that can be pulled.
type cable struct {
	net.Listener
	to     string
	mu     sync.Mutex
	pulled bool
	conns  map[net.Conn]struct{}
	all    sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: strings.TrimPrefix(to, "http://"), conns: map[net.Conn]struct{}{}}
	c.all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			c.all.Go(func() { c.carry(in) })
		}
	})
	t.Cleanup(func() { l.Close(); c.pull(true); c.all.Wait() })
	return c
}

func (c *cable) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	c.mu.Lock()
	if c.pulled {
		c.mu.Unlock()
		return
	}
	c.conns[in], c.conns[out] = struct{}{}, struct{}{}
	c.mu.Unlock()
	c.all.Go(func() { _, _ = io.Copy(out, in); out.Close() })
	_, _ = io.Copy(in, out)
	c.mu.Lock()
	delete(c.conns, in)
	delete(c.conns, out)
	c.mu.Unlock()
}

func (c *cable) pull(out bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulled = out
	if out {
		for conn := range c.conns {
			conn.Close()
		}
	}
}

func TestPages(t *testing.T) {
	s := newSite(t, 18)
	s.before = 20 * time.Minute
	s.run(t)
	ctx := browser(t, s.addr)

	eventually(t, ctx, "home counts", `document.getElementById("sum-rate").textContent !== "0.0" && document.getElementById("sum-series").textContent === "126"`)
	axe(t, ctx, "home")
	shoot(t, ctx, "home")

	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1"))
	eventually(t, ctx, "live state", `document.getElementById("conn").dataset.state === "live"`)
	eventually(t, ctx, "a chart for each metric", `document.querySelectorAll("#charts .chart canvas").length >= 3 && document.querySelectorAll("#charts .chart").length === 7`)
	eventually(t, ctx, "values", `[...document.querySelectorAll("#values .v")].some(e => /\d/.test(e.textContent))`)
	if *screenshots != "" {
		do(t, ctx, chromedp.Sleep(12*time.Second))
	}
	axe(t, ctx, "group")
	shoot(t, ctx, "group")
	eventually(t, ctx, "the dead device goes stale", `Number(document.getElementById("n-stale").textContent) === 7`)

	do(t, ctx, js(`window.scrollTo(0, document.getElementById("values").offsetTop - 120)`))
	eventually(t, ctx, "rows", `document.querySelectorAll("#values tbody tr:not(.spacer)").length > 15`)
	axe(t, ctx, "values")
	shoot(t, ctx, "values")
	do(t, ctx, js(`window.scrollTo(0, 0); document.querySelector('[data-state-filter="stale"]').click()`))
	eventually(t, ctx, "only the stale", `document.querySelectorAll("#values tbody tr[data-q='3']").length === 7 && document.querySelectorAll("#values tbody tr[data-q='0']").length === 0`)
	do(t, ctx, js(`document.querySelector('[data-state-filter="all"]').click()`))

	do(t, ctx, chromedp.KeyEvent(" "))
	eventually(t, ctx, "paused", `document.getElementById("conn-text").textContent === "Paused"`)
	do(t, ctx, chromedp.KeyEvent(" "), chromedp.KeyEvent("/"))
	eventually(t, ctx, "search", `document.querySelector("dialog.palette[open] [role=option]") !== null`)
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#palette-input"), "press-1"))
	eventually(t, ctx, "a device is found", `[...document.querySelectorAll("[role=option]")].some(o => o.innerText.includes("device press-1"))`)
	axe(t, ctx, "search")
	shoot(t, ctx, "search")
	do(t, ctx, js(`document.querySelector("dialog[open]").close()`))
	eventually(t, ctx, "focus back on the page", `document.activeElement === document.body`)
	do(t, ctx, chromedp.KeyEvent("?"))
	eventually(t, ctx, "help", `document.querySelector("dialog[open] dl") !== null`)
	axe(t, ctx, "help")

	do(t, ctx, chromedp.Navigate(s.addr+"/devices/press-2"))
	eventually(t, ctx, "charts of a device", `document.querySelectorAll("#charts .chart").length === 7 && document.querySelectorAll("#values tbody tr:not(.spacer)").length === 7`)
	eventually(t, ctx, "its state", `document.querySelector("#values").innerText.match(/running|idle|cleaning/) !== null`)
	axe(t, ctx, "device")
	shoot(t, ctx, "device")
	for _, p := range []string{"/devices/loose", "/account", "/g/nowhere", "/g/yard"} {
		do(t, ctx, chromedp.Navigate(s.addr+p), chromedp.WaitVisible(chromedp.CSS("main h1, main h2")))
		axe(t, ctx, p)
		shoot(t, ctx, strings.ReplaceAll(strings.Trim(p, "/"), "/", "-"))
	}
}

// TestHeals pulls the network from under a live page, and gives it back.
func TestHeals(t *testing.T) {
	s := newSite(t, 2)
	s.offer(t, "press-1", "temperature", devices.Float, devices.Sample{Value: 20.5})
	wire := newCable(t, s.addr)
	ctx := browser(t, "http://"+wire.Addr().String())
	do(t, ctx, js(`location.assign("/g/plant1/line1")`), chromedp.WaitVisible(chromedp.CSS("#values")))
	eventually(t, ctx, "the value", `document.querySelector("#values .v")?.textContent === "20.5"`)
	wire.pull(true)
	eventually(t, ctx, "marked", `["lagging", "reconnecting", "offline"].includes(document.getElementById("conn").dataset.state) && !document.getElementById("page-stale").hidden`)
	shoot(t, ctx, "pulled")
	s.offer(t, "press-1", "temperature", devices.Float, devices.Sample{Value: 99.25})
	s.offer(t, "press-1", "temperature", devices.Float, devices.Sample{Value: 21.5})
	wire.pull(false)
	eventually(t, ctx, "healed", `document.getElementById("conn").dataset.state === "live" && document.querySelector("#values .v")?.textContent.startsWith("21.5")`)
	eventually(t, ctx, "no longer marked", `document.getElementById("page-stale").hidden`)
}

// TestLarge watches a group of 5,250 series: only what is in view is subscribed in full and has rows.
func TestLarge(t *testing.T) {
	s := newSite(t, 750)
	s.before = 3 * time.Minute
	s.run(t)
	ctx := browser(t, s.addr)
	do(t, ctx, chromedp.Navigate(s.addr+"/g/plant1"))
	eventually(t, ctx, "all are counted", `document.getElementById("n-series").textContent === "5250"`)
	eventually(t, ctx, "values in view", `[...document.querySelectorAll(".legend-value")].filter(e => /\d/.test(e.textContent)).length >= 12`)
	do(t, ctx, js(`window.scrollTo(0, 90000)`))
	eventually(t, ctx, "rows far down", `[...document.querySelectorAll("#values tbody tr:not(.spacer) .v")].filter(e => e.textContent !== "–" && e.getBoundingClientRect().top > 0).length > 10`)
	if rows := eval[int](t, ctx, `document.querySelectorAll("#values tbody tr").length`); rows > 80 {
		t.Errorf("%d rows in the page", rows)
	}
	longest := eval[float64](t, ctx, `new Promise(done => { let top = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) top = Math.max(top, e.duration) }).observe({type: "longtask"}); setTimeout(() => done(top), 5000) })`)
	t.Logf("longest task in 5 s: %.0f ms", longest)
	shoot(t, ctx, "large")
}
