import assert from "node:assert/strict";
import { test } from "node:test";
import { Buckets, type Columns, widthFor } from "./buckets";

function columns(rows: [t: number, last: number, min: number, max: number, count: number][]): Columns {
  return { t: rows.map((r) => r[0]), last: rows.map((r) => r[1]), min: rows.map((r) => r[2]), max: rows.map((r) => r[3]), count: rows.map((r) => r[4]) };
}

function rows(b: Buckets): number[][] {
  return Array.from({ length: b.length }, (_, i) => [b.t[b.begin + i], b.last[b.begin + i], b.min[b.begin + i], b.max[b.begin + i], b.count[b.begin + i]]);
}

// The truth: buckets of samples, computed simply.
function naive(samples: [number, number][], width: number): number[][] {
  const m = new Map<number, number[]>();
  for (const [t, v] of [...samples].sort((a, b) => a[0] - b[0])) {
    const s = Math.floor(t / width) * width;
    const b = m.get(s);
    if (!b) m.set(s, [s, v, v, v, 1]);
    else {
      b[1] = v;
      b[2] = Math.min(b[2], v);
      b[3] = Math.max(b[3], v);
      b[4]++;
    }
  }
  return [...m.values()];
}

test("widths are the server's: the smallest with which a window never touches more buckets than asked for", () => {
  const M = 60_000;
  for (const [window, width] of [
    [50, 1],
    [1000, 2],
    [M, 100],
    [5 * M, 500],
    [15 * M, 1000],
    [60 * M, 5000],
    [360 * M, 30_000],
    [1440 * M, 120_000],
    [7 * 1440 * M, 900_000],
    [30 * 1440 * M, 3_600_000],
    [365 * 1440 * M, 43_200_000],
  ]) {
    assert.equal(widthFor(window), width, String(window));
  }
});

test("live points make the buckets that history would, and stay within their room", () => {
  const b = new Buckets(100);
  const samples: [number, number][] = [];
  for (let i = 0; i < 50_000; i++) {
    const t = i * 37;
    const v = i === 49_000 ? 500 : i % 11;
    samples.push([t, v]);
    b.add(t, v, v, v, 1);
  }
  const truth = naive(samples, 100).slice(-b.length);
  assert.deepEqual(rows(b), truth);
  assert.ok(b.length > 1500 && b.t.length <= 2048, `${b.length} of ${b.t.length}`);
  assert.equal(b.t[b.since(1_849_850)], 1_849_900);
});

test("late live points find their bucket, or make one; the settled part before becomes unsettled", () => {
  const b = new Buckets(100);
  b.settled = 2000;
  b.add(1000, 5, 5, 5, 1);
  b.add(1500, 6, 6, 6, 1);
  b.settled = 1500;
  b.add(1020, 9, 9, 9, 1);
  b.add(1210, 1, 1, 1, 1);
  b.add(300, 7, 7, 7, 1); // before all there is
  assert.deepEqual(rows(b), [
    [1000, 5, 5, 9, 2],
    [1200, 1, 1, 1, 1],
    [1500, 6, 6, 6, 1],
  ]);
  assert.equal(b.settled, 300);
});

test("history replaces what was shown, and keeps what came since it was asked", () => {
  const b = new Buckets(100);
  b.add(1050, 5, 5, 5, 1);
  b.add(1110, 6, 2, 9, 4); // the 2 and the 9 belong to the bucket before: frames merge
  b.asking();
  b.add(1150, 7, 7, 7, 1);
  b.add(1210, 8, 8, 8, 1);
  b.put(0, 1300, 1100, columns([
    [900, 3, 3, 3, 1],
    [1000, 5, 2, 9, 4],
    [1100, 6, 6, 6, 1],
  ]));
  assert.deepEqual(rows(b), [
    [900, 3, 3, 3, 1],
    [1000, 5, 2, 9, 4],
    [1100, 7, 6, 7, 2],
    [1200, 8, 8, 8, 1],
  ]);
  assert.equal(b.settled, 1100);
  assert.equal(b.from, 0);
});

test("history that is behind takes nothing away that was shown", () => {
  const b = new Buckets(100);
  for (const t of [1000, 1100, 1200]) b.add(t, 1, 1, 1, 1);
  b.asking();
  b.put(0, 1400, 1300, columns([[1000, 2, 2, 2, 2]]));
  assert.deepEqual(rows(b), [
    [1000, 2, 2, 2, 2],
    [1100, 1, 1, 1, 1],
    [1200, 1, 1, 1, 1],
  ]);
  assert.equal(b.settled, 1100);
});

test("settling again and again ends with exactly what history has, whatever frames merged", () => {
  let seed = 7;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let round = 0; round < 200; round++) {
    const width = [10, 100, 1000][round % 3];
    const b = new Buckets(width);
    const history: [number, number][] = [];
    const ask = (from: number, to: number) => columns(naive(history.filter((s) => s[0] >= from && s[0] < to), width) as [number, number, number, number, number][]);
    let now = 100_000;
    let pending: [number, number][] = [];
    const flush = () => {
      if (pending.length === 0) return;
      const vs = pending.map((p) => p[1]);
      const newest = pending.reduce((a, p) => (p[0] >= a[0] ? p : a));
      b.add(newest[0], newest[1], Math.min(...vs), Math.max(...vs), vs.length);
      pending = [];
    };
    b.asking();
    b.put(0, Math.ceil(now / width) * width, Math.floor((now - 600) / width) * width, ask(0, now + width));
    let used = new Set<number>();
    for (let i = 0; i < 300; i++) {
      now += Math.floor(random() * 40) + 1;
      const t = random() < 0.05 ? now - Math.floor(random() * 500) : now;
      if (!used.has(t)) {
        used.add(t);
        const s: [number, number] = [t, Math.floor(random() * 100)];
        history.push(s);
        pending.push(s);
      }
      if (random() < 0.4) flush();
      if (random() < 0.05) {
        flush();
        const from = Math.floor(b.settled / width) * width;
        const to = Math.ceil(now / width) * width + width;
        b.asking();
        const answer = ask(from, to);
        now += 3;
        history.push([now, 50]);
        b.add(now, 50, 50, 50, 1);
        b.put(from, to, Math.floor((now - 600) / width) * width, answer);
      }
    }
    flush();
    now += 2000;
    const from = Math.max(0, Math.floor(b.settled / width) * width);
    b.asking();
    b.put(from, now - (now % width), now - (now % width), ask(from, now));
    assert.deepEqual(rows(b), naive(history, width), `round ${round}, width ${width}`);
  }
});

test("gaps: twice the width, or two and a half usual intervals", () => {
  const dense = new Buckets(1000);
  for (let t = 0; t < 60_000; t += 100) dense.add(t, 1, 1, 1, 1);
  assert.equal(dense.gap(), 2000);
  const slow = new Buckets(1000);
  for (let t = 0; t < 3_600_000; t += 60_000) slow.add(t, 1, 1, 1, 1);
  assert.equal(slow.gap(), 150_000);
  assert.equal(new Buckets(1000).gap(), 2000);
});

test("a series that was slower before is joined there, and an outage is not", () => {
  const b = new Buckets(1000);
  for (let t = 0; t < 3_600_000; t += 30_000) b.add(t, 1, 1, 1, 1);
  for (let t = 3_600_000; t < 4_000_000; t += 200) if (t < 3_700_000 || t > 3_720_000) b.add(t, 1, 1, 1, 1);
  const breaks: number[] = [];
  for (let k = b.begin + 1; k < b.end; k++) if (b.breaks(k, b.gap())) breaks.push(b.t[k]);
  assert.deepEqual(breaks, [3_720_000]);
});

test("what is out of the range goes", () => {
  const b = new Buckets(10);
  for (let t = 0; t < 1000; t += 10) b.add(t, t, t, t, 1);
  b.from = 0;
  b.settled = 2000;
  b.keep(500, 700);
  assert.deepEqual([b.length, b.t[b.begin], b.from, b.settled], [20, 500, 500, 700]);
  b.keep(5000, 6000);
  assert.equal(b.length, 0);
});
