import assert from "node:assert/strict";
import { test } from "node:test";
import { formatMoment, formatSpan, LEAST, parseMoment, parseSpan, Timeline } from "./timeline";

let ms = 0;
performance.now = () => ms;

// An address bar with its history.
function bar(query = "") {
  const parts: any[] = [];
  const pages = [query];
  let at = 0;
  const address = {
    add: (p: any) => void parts.push(p),
    read: () => parts.forEach((p) => p.read(new URLSearchParams(pages[at]))),
    changed(push: boolean) {
      const q = new URLSearchParams();
      parts.forEach((p) => p.write(q));
      if (push) pages.splice(++at, Infinity, q.toString());
      else pages[at] = q.toString();
    },
    go(by: number) {
      at += by;
      address.read();
    },
    get query() {
      return decodeURIComponent(pages[at]);
    },
    get depth() {
      return pages.length;
    },
  };
  return address;
}

const NOW = Date.parse("2026-11-24T12:00:00Z");

function make(query = "") {
  const a = bar(query);
  let now = NOW;
  const t = new Timeline(() => now, a as any);
  a.read();
  return { t, a, pass: (by: number) => (now += by) };
}

test("spans and moments of the address", () => {
  for (const [text, value] of [["15m", 900_000], ["24h", 86_400_000], ["1y", 31_536_000_000], ["90s", 90_000], ["250ms", 250]] as const) {
    assert.equal(parseSpan(text), value);
    assert.equal(formatSpan(value), text);
  }
  assert.equal(parseSpan("2w"), 14 * 86_400_000);
  for (const bad of ["", "15", "m", "-5m", "1e9m", "5 m x"]) assert.ok(Number.isNaN(parseSpan(bad)), bad);
  assert.equal(parseMoment("2026-11-24T12:00:00Z"), NOW);
  assert.equal(parseMoment(String(NOW)), NOW);
  assert.equal(parseMoment(String(NOW / 1000)), NOW);
  assert.ok(Number.isNaN(parseMoment("yesterday")));
  assert.equal(formatMoment(NOW), "2026-11-24T12:00:00Z");
  assert.equal(formatMoment(NOW + 5), "2026-11-24T12:00:00.005Z");
});

test("live runs on, fixed stands still, and a link shows the same", () => {
  const { t, a, pass } = make();
  assert.deepEqual([t.mode, t.window, t.right()], ["live", 900_000, NOW]);
  pass(1000);
  assert.equal(t.right(), NOW + 1000);
  assert.equal(a.query, "");
  t.live(3_600_000);
  assert.equal(a.query, "range=1h");
  t.fix(NOW - 1000, NOW);
  pass(5000);
  assert.deepEqual([t.left(), t.right()], [NOW - 1000, NOW]);
  assert.equal(a.query, "from=2026-11-24T11:59:59Z&to=2026-11-24T12:00:00Z");
  const other = make(a.query);
  assert.deepEqual([other.t.mode, other.t.left(), other.t.right()], ["fixed", NOW - 1000, NOW]);
  assert.equal(make("range=6h").t.window, 21_600_000);
});

test("nonsense in the address is the usual range", () => {
  for (const q of ["range=1ms", "range=99y", "range=x", "from=1&to=0", "from=2026-11-24T12:00:00Z", "from=2020-01-01&to=2026-01-01"]) {
    const { t } = make(q);
    assert.deepEqual([t.mode, t.window], ["live", 900_000], q);
  }
});

test("back and forward go through the steps; a glide is one", () => {
  const { t, a } = make();
  ms = 10_000;
  t.live(3_600_000);
  t.fix(NOW - 60_000, NOW - 50_000);
  for (let i = 0; i < 20; i++) {
    ms += 50;
    t.move(t.left() - 100, t.right() - 100);
  }
  assert.equal(a.depth, 4);
  a.go(-1);
  assert.deepEqual([t.left(), t.right()], [NOW - 60_000, NOW - 50_000]);
  a.go(-1);
  assert.deepEqual([t.mode, t.window], ["live", 3_600_000]);
  a.go(-1);
  assert.deepEqual([t.mode, t.window], ["live", 900_000]);
  a.go(3);
  assert.deepEqual([t.left(), t.right()], [NOW - 62_000, NOW - 52_000]);
});

test("steps back leave live, steps on reach it again", () => {
  const { t } = make();
  t.step(0.5);
  assert.equal(t.mode, "live");
  t.step(-0.5);
  assert.deepEqual([t.mode, t.left(), t.right()], ["fixed", NOW - 1_350_000, NOW - 450_000]);
  t.step(-0.5);
  t.step(0.5);
  assert.equal(t.mode, "fixed");
  t.step(0.5);
  assert.deepEqual([t.mode, t.window], ["live", 900_000]);
});

test("zoom keeps the place under the pointer; at the edge it stays live", () => {
  const { t } = make();
  t.zoom(0.5);
  assert.deepEqual([t.mode, t.window], ["live", 450_000]);
  t.zoom(2, NOW - 100);
  assert.deepEqual([t.mode, t.window], ["live", 900_000]);
  const at = NOW - 300_000;
  const share = (at - t.left()) / t.window;
  t.zoom(0.1, at);
  assert.equal(t.mode, "fixed");
  assert.ok(Math.abs((at - t.left()) / t.window - share) < 1e-4);
  t.zoom(1e-9, at);
  assert.equal(t.window, LEAST);
  for (let i = 0; i < 60; i++) t.zoom(2);
  assert.ok(t.right() <= NOW);
  assert.equal(t.window, 2 * 31_536_000_000);
});

test("pausing freezes where it is and is no step of its own; going on is live again", () => {
  const { t, a, pass } = make();
  t.toggle();
  pass(60_000);
  assert.deepEqual([t.mode, t.paused, t.right(), a.depth], ["fixed", true, NOW, 1]);
  t.zoom(0.5);
  assert.equal(t.paused, false);
  t.toggle();
  assert.deepEqual([t.mode, t.paused, t.right()], ["live", false, NOW + 60_000]);
});

test("a held live picture stands still until it is let go", () => {
  const { t, pass } = make();
  t.hold(true);
  pass(5000);
  assert.equal(t.right(), NOW);
  t.hold(false);
  assert.equal(t.right(), NOW + 5000);
});

test("a replay's edge is its own; it ends where it is", () => {
  const { t } = make();
  let told = 0;
  t.listen(() => told++);
  let edge = NOW - 1_000_000;
  t.play(() => edge, (to) => (edge = to));
  edge += 500;
  assert.deepEqual([t.mode, t.right()], ["replay", NOW - 999_500]);
  t.zoom(2);
  t.step(-0.5);
  assert.deepEqual([t.mode, t.right(), t.window], ["replay", NOW - 1_899_500, 1_800_000]);
  t.stop();
  assert.deepEqual([t.mode, t.right(), told], ["fixed", NOW - 1_899_500, 3]);
});
