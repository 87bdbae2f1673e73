// The client of recorded history (GET /api/v1/history, docs/protocol.md): questions of any number of series are split into ones the API
// takes, identical ones under way are asked once, answers come as typed columns. Nothing is kept but the answers of a few moments.

export interface Name {
  device: string;
  metric: string;
}

/** What is asked of history. The answer has buckets of exactly (to - from) / buckets where that is a nice width and both are multiples of it. */
export interface Query {
  series: readonly Name[];
  from: number; // Unix ms, from ≤ t < to
  to: number;
  buckets: number; // at most so many of each series
  signal?: AbortSignal;
}

/** The buckets of one series, oldest first; empty ones are left out. Of strings text is the last of each; min and max are numbers only. */
export interface BucketColumns extends Name {
  unit: string;
  kind: string;
  t: Float64Array; // beginning, Unix ms
  first: Float64Array;
  last: Float64Array;
  min: Float64Array;
  max: Float64Array;
  sum: Float64Array;
  count: Float64Array;
  quality: Uint8Array | null; // the worst; null: all good
  text: string[] | null;
  lon: Float64Array | null;
}

/** The samples of one series, oldest first. */
export interface SampleColumns extends Name {
  unit: string;
  kind: string;
  t: Float64Array;
  value: Float64Array;
  quality: Uint8Array | null;
  text: string[] | null;
  lon: Float64Array | null;
}

export interface Answer<C> {
  from: number;
  to: number;
  width: number; // ms; 0: samples
  series: C[];
}

/** Why a question has no answer, in words for the person, with when to try again. */
export class HistoryError extends Error {
  constructor(
    message: string,
    readonly status: number, // 0: the server was not reached
    readonly retryMs: number, // 0: asking the same again will not help
  ) {
    super(message);
  }
}

const SERIES = 100; // of one question
const NAMES = 6000; // bytes of them in an address
const POINTS = 500_000; // series × buckets of one question
const KEPT_MS = 2000;
const KEPT = 8;

interface Shared {
  promise: Promise<any>;
  abort: AbortController;
  users: number;
}
const underWay = new Map<string, Shared>();
const kept = new Map<string, { at: number; answer: any }>();

function names(series: readonly Name[]): string {
  let s = "";
  for (const n of series) s += "&series=" + encodeURIComponent(n.device) + "/" + encodeURIComponent(n.metric);
  return s;
}

/** The questions that together ask q. Exported for its test. */
export function split(series: readonly Name[], buckets: number): Name[][] {
  const most = Math.max(1, Math.min(SERIES, Math.floor(POINTS / Math.max(1, buckets))));
  const parts: Name[][] = [];
  let part: Name[] = [];
  let bytes = 0;
  for (const s of series) {
    const n = names([s]).length;
    if (part.length >= most || (part.length > 0 && bytes + n > NAMES)) {
      parts.push(part);
      part = [];
      bytes = 0;
    }
    part.push(s);
    bytes += n;
  }
  if (part.length > 0) parts.push(part);
  return parts;
}

/** The address of a question; with format "csv" a link for people. */
export function address(series: readonly Name[], from: number, to: number, buckets: number, format = ""): string {
  return `/api/v1/history?from=${Math.round(from)}&to=${Math.round(to)}&buckets=${buckets}${format === "csv" ? "&format=csv" : "&shape=columns"}${names(series)}`;
}

async function request(url: string, signal: AbortSignal): Promise<any> {
  let r: Response;
  try {
    r = await fetch(url, { headers: { Accept: "application/json" }, signal });
  } catch (e) {
    if (signal.aborted) throw e;
    throw new HistoryError("The server can't be reached. Recorded values come when the connection is back.", 0, 3000);
  }
  if (r.status === 401) {
    location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
    throw new HistoryError("Your session has ended.", 401, 0);
  }
  if (!r.ok) {
    let text = "";
    try {
      const p = await r.json();
      text = p.detail || p.title || "";
    } catch {
      // no problem document
    }
    const after = Number(r.headers.get("Retry-After")) * 1000;
    const again = r.status === 429 || r.status >= 500 ? after || 3000 : 0;
    throw new HistoryError((text || `The server answered ${r.status}.`) + (again ? ` Try again in ${Math.ceil(again / 1000)} s.` : ""), r.status, again);
  }
  return r.json();
}

// Asks once for all who ask the same at the same time. It is aborted when all of them are.
function shared(url: string, read: (a: any) => any, signal?: AbortSignal): Promise<any> {
  if (signal?.aborted) return Promise.reject(new DOMException("", "AbortError"));
  const now = performance.now();
  for (const [key, k] of kept) if (now - k.at > KEPT_MS) kept.delete(key);
  const old = kept.get(url);
  if (old) return Promise.resolve(old.answer);
  let s = underWay.get(url);
  if (!s) {
    const abort = new AbortController();
    s = { abort, users: 0, promise: Promise.resolve() };
    const mine = s;
    s.promise = request(url, abort.signal).then(
      (a) => {
        const answer = read(a);
        underWay.delete(url);
        if (answer.to < Date.now() - 60_000) kept.set(url, { at: performance.now(), answer });
        if (kept.size > KEPT) kept.delete(kept.keys().next().value!);
        return answer;
      },
      (e) => {
        if (underWay.get(url) === mine) underWay.delete(url);
        throw e;
      },
    );
    underWay.set(url, s);
  }
  const mine = s;
  mine.users++;
  if (!signal) return mine.promise;
  return new Promise((done, failed) => {
    const leave = () => {
      if (--mine.users === 0) {
        mine.abort.abort();
        if (underWay.get(url) === mine) underWay.delete(url);
      }
      failed(new DOMException("", "AbortError"));
    };
    signal.addEventListener("abort", leave, { once: true });
    mine.promise.then(done, failed).finally(() => signal.removeEventListener("abort", leave));
  });
}

const f64 = (a: readonly number[] | undefined, n: number): Float64Array => (a ? Float64Array.from(a) : new Float64Array(n));

function readBuckets(a: any): Answer<BucketColumns> {
  for (const s of a.series) {
    const n: number = s.t.length;
    s.t = f64(s.t, n);
    for (const c of ["first", "last", "min", "max", "sum", "count"]) s[c] = f64(s[c], n);
    rest(s);
  }
  return a;
}

function readSamples(a: any): Answer<SampleColumns> {
  for (const s of a.series) {
    const n: number = (s.t ??= []).length;
    s.t = f64(s.t, n);
    s.value = f64(s.value, n);
    rest(s);
  }
  return a;
}

function rest(s: any): void {
  s.quality = s.quality ? Uint8Array.from(s.quality) : null;
  s.text ??= null;
  s.lon = s.lon ? Float64Array.from(s.lon) : null;
}

async function ask<C>(q: Query, read: (a: any) => Answer<C>): Promise<Answer<C>> {
  const parts = await Promise.all(split(q.series, q.buckets).map((part) => shared(address(part, q.from, q.to, q.buckets), read, q.signal)));
  const series: C[] = [];
  for (const p of parts as Answer<C>[]) series.push(...p.series);
  return { from: q.from, to: q.to, width: (parts[0] as Answer<C> | undefined)?.width ?? 0, series };
}

/** The buckets of some series. */
export function fetchBuckets(q: Query): Promise<Answer<BucketColumns>> {
  return ask(q, readBuckets);
}

/** The samples themselves; for short times of few series. */
export function fetchSamples(q: Omit<Query, "buckets">): Promise<Answer<SampleColumns>> {
  return ask({ ...q, buckets: 0 }, readSamples);
}

/**
 * The beginning of the first bucket in [from, to) that has a sample of one of some series, to about fine ms; NaN if there is none.
 * A few questions however long the time is.
 */
export async function firstAfter(series: readonly Name[], from: number, to: number, fine: number, signal?: AbortSignal): Promise<number> {
  while (from < to) {
    const a = await fetchBuckets({ series, from, to, buckets: 500, signal });
    let first = Infinity;
    for (const s of a.series) if (s.t.length > 0 && s.t[0] < first) first = s.t[0];
    if (first === Infinity) return NaN;
    from = Math.max(from, first);
    if (a.width <= fine) return from;
    to = Math.min(to, first + a.width);
  }
  return NaN;
}
