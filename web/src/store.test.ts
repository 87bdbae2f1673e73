import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "./store";
import { Frame, Quality } from "./wire";

function frame(points: { i: number; t: number; last: number; min?: number; max?: number; count?: number; q?: number }[], snapshot = false): Frame {
  const f = new Frame();
  f.n = points.length;
  f.snapshot = snapshot;
  f.last = Float64Array.from(points, (p) => p.last);
  f.below = Float32Array.from(points, (p) => p.last - (p.min ?? p.last));
  f.above = Float32Array.from(points, (p) => (p.max ?? p.last) - p.last);
  f.count = Uint32Array.from(points, (p) => p.count ?? (snapshot ? 0 : 1));
  f.index = Uint32Array.from(points, (p) => p.i);
  f.quality = Uint8Array.from(points, (p) => p.q ?? 0);
  f.t = Float64Array.from(points, (p) => p.t);
  return f;
}

test("frames change values, extremes and counts; older ones keep the last value", () => {
  const s = new Store();
  const a = s.slot({ index: 0, device: "press-7", metric: "temp", unit: "°C", kind: "float" });
  assert.equal(s.slot({ index: 4, device: "press-7", metric: "temp" }), a);
  const map = Int32Array.of(a);
  const b = (s.past(a).main = s.buckets(100, true));
  s.apply(frame([{ i: 0, t: 1000, last: 20 }], true), map);
  s.apply(frame([{ i: 0, t: 1500, last: 21, min: 20, max: 88, count: 37 }]), map);
  assert.deepEqual([s.last[a], s.min[a], s.max[a], s.count[a], s.total[a]], [21, 20, 88, 37, 37]);
  s.apply(frame([{ i: 0, t: 1200, last: 3, count: 1 }]), map);
  assert.equal(s.last[a], 21);
  assert.equal(s.total[a], 38);
  s.apply(frame([{ i: 0, t: 1500, last: 21, count: 0, q: Quality.Stale }]), map);
  assert.equal(s.quality[a], Quality.Stale);
  assert.equal(s.count[a], 1);
  assert.deepEqual([b.length, b.t[1], b.min[1], b.max[1], b.count[1]], [3, 1200, 3, 3, 1]);
  assert.equal(b.max[2], 88);
});

test("words of string series go into the buckets of a chart", () => {
  const s = new Store();
  const a = s.slot({ index: 0, device: "d", metric: "state", kind: "string" });
  const b = (s.past(a).main = s.buckets(1000, true));
  for (const [t, word] of [
    [1000, "running"],
    [2000, "idle"],
    [3000, "running"],
  ] as const) {
    const f = frame([{ i: 0, t, last: 0 }]);
    f.textAt = new Map([[0, word]]);
    s.apply(f, Int32Array.of(a));
  }
  assert.deepEqual(b.words, ["running", "idle"]);
  assert.deepEqual([...b.last.subarray(b.begin, b.end)], [0, 1, 0]);
});

test("indexes nobody knows are left out", () => {
  const s = new Store();
  s.apply(frame([{ i: 9, t: 1, last: 1 }]), new Int32Array(2).fill(-1));
  assert.equal(s.size, 0);
});

test("what another subscription tells in full only takes news from the overview", () => {
  const s = new Store();
  const a = s.slot({ index: 0, device: "d", metric: "m", kind: "float" });
  const map = Int32Array.of(a);
  const covered = Uint8Array.of(1);
  s.apply(frame([{ i: 0, t: 2000, last: 5, min: 1, max: 9, count: 4 }]), map);
  s.apply(frame([{ i: 0, t: 1900, last: 4 }]), map, covered);
  assert.deepEqual([s.last[a], s.min[a], s.max[a], s.total[a]], [5, 1, 9, 4]);
  s.apply(frame([{ i: 0, t: 2100, last: 6 }]), map, covered);
  assert.deepEqual([s.last[a], s.min[a], s.max[a], s.total[a]], [6, 1, 9, 4]);
});

test("pasts are bounded: the one unused longest goes", () => {
  const s = new Store();
  for (let i = 0; i < 1000; i++) {
    s.slot({ index: i, device: "d" + i, metric: "m", kind: "float" });
    s.past(i);
  }
  s.apply(frame([{ i: 0, t: 1000, last: 1 }, { i: 999, t: 1000, last: 2 }]), Int32Array.from({ length: 1000 }, (_, i) => i));
  assert.equal(s.past(999).spark.length, 1);
  assert.equal(s.past(999).slot, 999);
  assert.equal((s as any).pasts.length, 320);
});
