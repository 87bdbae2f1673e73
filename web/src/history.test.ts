import assert from "node:assert/strict";
import { test } from "node:test";
import { fetchBuckets, fetchSamples, firstAfter, HistoryError, split } from "./history";

type Reply = (url: URL, signal: AbortSignal) => any;
let asked: URL[] = [];

function serve(reply: Reply, status = 200): void {
  asked = [];
  globalThis.fetch = (async (path: string, init: RequestInit) => {
    const url = new URL(path, "http://x");
    asked.push(url);
    await new Promise((r) => setTimeout(r, 5));
    if (init.signal?.aborted) throw new DOMException("", "AbortError");
    return new Response(JSON.stringify(reply(url, init.signal!)), { status });
  }) as typeof fetch;
}

// One bucket at from of each series asked for.
const one: Reply = (url) => ({
  width: 10,
  series: url.searchParams.getAll("series").map((s) => ({ device: s.split("/")[0], metric: s.split("/")[1], unit: "bar", kind: "float", t: [Number(url.searchParams.get("from"))], first: [1], last: [2], min: [0], max: [3], sum: [3], count: [2] })),
});
const many = (n: number, metric = "m") => Array.from({ length: n }, (_, i) => ({ device: "d" + i, metric }));

test("splits by number, by length and by points", () => {
  assert.deepEqual(split(many(250), 10).map((p) => p.length), [100, 100, 50]);
  assert.deepEqual(split(many(250), 10).flat(), many(250));
  assert.ok(split(many(100, "µ".repeat(60)), 10).length > 5, "long names");
  assert.deepEqual(split(many(120), 10_000).map((p) => p.length), [50, 50, 20]);
  assert.deepEqual(split([], 10), []);
});

test("one answer of several questions, as typed columns", async () => {
  serve(one);
  const a = await fetchBuckets({ series: many(230), from: 100, to: 200, buckets: 10 });
  assert.equal(asked.length, 3);
  assert.deepEqual(a.series.map((s) => s.device), many(230).map((s) => s.device));
  assert.ok(a.series[0].t instanceof Float64Array && a.series[0].quality === null && a.series[0].text === null);
  assert.equal(a.series[7].max[0], 3);
});

test("identical questions under way are asked once, and aborted when all who asked have left", async () => {
  serve(one);
  const a = new AbortController();
  const b = new AbortController();
  const q = { series: many(1), from: 1000, to: 2000, buckets: 100 };
  const first = fetchBuckets({ ...q, signal: a.signal });
  const second = fetchBuckets({ ...q, signal: b.signal });
  a.abort();
  await assert.rejects(first, { name: "AbortError" });
  assert.equal((await second).series.length, 1);
  assert.equal(asked.length, 1);

  let seen: AbortSignal | undefined;
  serve((url, signal) => ((seen = signal), one(url, signal)));
  const c = new AbortController();
  const third = fetchBuckets({ ...q, from: 1500, signal: c.signal });
  c.abort();
  await assert.rejects(third, { name: "AbortError" });
  await new Promise((r) => setTimeout(r, 10));
  assert.equal(seen, undefined, "the request itself was aborted");
});

test("errors say what the server says, and whether to ask again", async () => {
  serve(() => ({ title: "Bad", detail: "at most 500 series" }), 400);
  await assert.rejects(fetchBuckets({ series: many(2), from: 1, to: 2, buckets: 1 }), (e: HistoryError) => e.message === "at most 500 series" && e.retryMs === 0 && e.status === 400);
  serve(() => ({}), 503);
  await assert.rejects(fetchBuckets({ series: many(2), from: 1, to: 3, buckets: 1 }), (e: HistoryError) => e.retryMs === 3000 && e.message.endsWith("Try again in 3 s."));
  globalThis.fetch = () => Promise.reject(new TypeError("refused"));
  await assert.rejects(fetchBuckets({ series: many(2), from: 1, to: 4, buckets: 1 }), (e: HistoryError) => e.status === 0 && e.retryMs > 0);
});

test("samples", async () => {
  serve((url) => ({ width: 0, series: [{ device: "d0", metric: "m", unit: "", kind: "string", t: [1, 2], text: ["a", "b"], quality: [0, 2], buckets: url.searchParams.get("buckets") }] }));
  const a = await fetchSamples({ series: many(1), from: 5, to: 9 });
  assert.equal(asked[0].searchParams.get("buckets"), "0");
  assert.deepEqual([...a.series[0].quality!], [0, 2]);
  assert.deepEqual(a.series[0].text, ["a", "b"]);
});

test("finds the next sample within a year in few questions", async () => {
  const at = 31_000_000_123;
  serve((url) => {
    const from = Number(url.searchParams.get("from"));
    const to = Number(url.searchParams.get("to"));
    const width = Math.max(1, 10 ** Math.ceil(Math.log10((to - from) / 499)));
    return { width, series: [{ device: "d0", metric: "m", t: at >= from && at < to ? [Math.floor(at / width) * width] : [] }] };
  });
  assert.equal(await firstAfter(many(1), 0, 31_536_000_000, 1, undefined), at);
  assert.ok(asked.length <= 5, `${asked.length} questions`);
  assert.ok(Number.isNaN(await firstAfter(many(1), at + 1, at + 1000, 1)));
});
