import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { type Answer, Backfill, type Filled, type Question } from "./backfill";
import { Store } from "./store";
import { Timeline } from "./timeline";

Object.assign(globalThis, { window: { setTimeout: (f: () => void, ms: number) => setTimeout(f, ms) } });

// A page with n series in charts of 12, and a history under the test's hand.
class Page {
  ms = 1_000_000; // of the test's clock
  store = new Store();
  time = new Timeline(() => this.ms);
  asked: { q: Question; signal: AbortSignal; answer(make?: (t: number) => number): Promise<void>; fail(): Promise<void> }[] = [];
  told: { loading: boolean; failed: string; loaded: boolean }[] = [];
  charts: Filled[] = [];
  fill: Backfill;

  constructor(n: number) {
    performance.now = () => this.ms;
    for (let i = 0; i < n; i++) this.store.slot({ index: i, device: "d" + i, metric: "m", kind: "float" });
    for (let i = 0; i < n; i += 12) {
      const lines = Array.from({ length: Math.min(12, n - i) }, (_, k) => i + k);
      const at = this.charts.length;
      this.charts.push({ lines, filled: (loading, failed, loaded) => void (this.told[at] = { loading, failed, loaded }) });
    }
    const ask = (q: Question, signal: AbortSignal) =>
      new Promise<Answer>((done, failed) => {
        const settle = async () => void (await new Promise((r) => setImmediate(r)));
        signal.addEventListener("abort", () => failed(new DOMException("", "AbortError")));
        this.asked.push({
          q,
          signal,
          answer: (make = () => 1) => {
            const width = (q.to - q.from) / q.buckets;
            const t: number[] = [];
            for (let x = q.from; x < Math.min(q.to, this.ms); x += width) t.push(x);
            const v = t.map(make);
            done({ width, series: q.series.map((s) => ({ ...s, t, last: v, min: v, max: v, count: t.map(() => 1) })) });
            return settle();
          },
          fail: () => {
            failed(new Error("no"));
            return settle();
          },
        });
      });
    this.fill = new Backfill(this.store, this.time, ask, () => {});
    this.fill.charts = this.charts;
  }

  pass(ms: number): void {
    this.ms += ms;
    this.fill.beat();
  }
}

mock.timers.enable({ apis: ["setTimeout"] });

test("what is in view is asked for once, in questions of at most 24 series and at most three at a time", async () => {
  const p = new Page(100);
  p.fill.beat();
  assert.deepEqual(p.asked.map((a) => a.q.series.length), [24, 24, 24]);
  p.fill.beat();
  assert.equal(p.asked.length, 3);
  const { q } = p.asked[0];
  assert.deepEqual([(q.to - q.from) / q.buckets, q.from % 1000, q.to % 1000], [1000, 0, 0]);
  assert.ok(q.from <= p.time.left() && q.to > p.ms);
  assert.ok(p.told.every((t) => t.loading));
  for (let i = 0; i < p.asked.length; i++) {
    await p.asked[i].answer();
    p.fill.beat();
  }
  assert.equal(p.asked.reduce((n, a) => n + a.q.series.length, 0), 100);
  assert.ok(p.fill.ready && p.told.every((t) => t.loaded && !t.loading));
});

test("the newest part is settled every ten seconds, from where it was settled", async () => {
  const p = new Page(5);
  p.fill.beat();
  await p.asked[0].answer();
  p.pass(500);
  assert.equal(p.asked.length, 1);
  const b = p.store.shown(0);
  b.add(p.ms, 7, 3, 9, 5);
  p.pass(9600);
  assert.equal(p.asked.length, 2);
  const { q } = p.asked[1];
  assert.equal(q.from, 1_000_000 - 3000);
  assert.ok(q.to > p.ms && q.buckets < 20);
  await p.asked[1].answer(() => 2);
  assert.equal(b.max[b.since(1_000_000)], 2);
  assert.equal(b.settled, Math.floor((p.ms - 3000) / 1000) * 1000);
  // After a break at once.
  p.pass(4000);
  assert.equal(p.asked.length, 2);
  p.fill.renew();
  p.fill.beat();
  assert.equal(p.asked.length, 3);
});

test("what is shown stays until the new range is there; leaving a range aborts what was asked for it", async () => {
  const p = new Page(1);
  p.fill.beat();
  await p.asked[0].answer();
  const before = p.store.shown(0);
  p.time.live(3_600_000);
  p.fill.beat();
  assert.equal(p.store.shown(0), before);
  assert.deepEqual(p.told[0], { loading: true, failed: "", loaded: false });
  p.time.live(86_400_000);
  assert.ok(p.asked[1].signal.aborted);
  await new Promise((r) => setImmediate(r));
  p.fill.beat();
  assert.equal(p.asked.length, 3);
  await p.asked[2].answer();
  assert.equal(p.store.shown(0).width, 120_000);
  assert.ok(p.fill.ready);
});

test("a range that stands still is asked for once it has settled, and small moves need no question", async () => {
  const p = new Page(1);
  p.ms = 100_000_000;
  p.time.fix(50_000_000, 50_900_000);
  p.fill.beat();
  await p.asked[0].answer();
  for (let i = 0; i < 50; i++) p.pass(1000);
  assert.equal(p.asked.length, 1);
  p.time.move(50_100_000, 51_000_000);
  p.fill.beat();
  assert.equal(p.asked.length, 1);
  p.time.move(50_600_000, 51_500_000);
  p.fill.beat();
  assert.equal(p.asked.length, 2);
  assert.equal(p.asked[1].q.from, 51_125_000); // only what is missing
  await p.asked[1].answer();
  assert.ok(p.fill.ready);
  assert.ok(p.store.shown(0).length < 2000);
});

test("without history a page is live all the same; it asks again later, and at once when told to", async () => {
  const p = new Page(1);
  p.fill.beat();
  await p.asked[0].fail();
  assert.equal(p.told[0].failed, "no");
  p.store.shown(0).add(p.ms, 1, 1, 1, 1);
  assert.equal(p.store.shown(0).length, 1);
  p.pass(1000);
  assert.equal(p.asked.length, 1);
  p.fill.retry();
  p.fill.beat();
  assert.equal(p.asked.length, 2);
  await p.asked[1].answer();
  assert.equal(p.told[0].failed, "");
});

test("trends are asked for by rows in view, and settle once a minute", async () => {
  const p = new Page(60);
  p.fill.charts = [];
  p.fill.rows = Array.from({ length: 40 }, (_, i) => i);
  p.fill.beat();
  assert.deepEqual(p.asked.map((a) => [a.q.series.length, (a.q.to - a.q.from) / a.q.buckets]), [[40, 10_000]]);
  await p.asked[0].answer();
  p.pass(59_000);
  assert.equal(p.asked.length, 1);
  p.pass(2000);
  assert.equal(p.asked.length, 2);
  assert.ok(p.asked[1].q.buckets <= 9);
});
