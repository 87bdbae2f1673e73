// Brings the past of what is in view: asks history for the buckets that charts and trends lack, in few requests, and goes on
// settling the newest part, which is made of live points until then. A picture that has settled is the same after a reload.
import { type Buckets, type Columns, widthFor } from "./buckets";
import { SPARK, type Store } from "./store";
import type { Timeline } from "./timeline";

/** What is asked of history: from and to are multiples of the width that the answer is to have. */
export interface Question {
  series: { device: string; metric: string }[];
  from: number;
  to: number;
  buckets: number;
}
export interface Answer {
  width: number;
  series: (Columns & { device: string; metric: string })[];
}
export type Ask = (q: Question, signal: AbortSignal) => Promise<Answer>;

/** Something that shows lines over the timeline. */
export interface Filled {
  readonly lines: readonly number[]; // slots
  /** Tells how far it is. missing: loaded, and there is nothing in the range. */
  filled(loading: boolean, failed: string, loaded: boolean): void;
}

const LAG = 3000; // ms after which a sample is taken to have arrived
const SETTLE = 10_000; // ms between questions for the newest part
const SERIES = 24; // of one question for a whole range; bounds the time that reading an answer takes
const NAMES = 5000; // bytes of names in an address
const AT_ONCE = 3;
const SPARK_SETTLE = 60_000;

interface Job {
  slots: number[];
  into: Buckets[];
  from: number;
  to: number;
  width: number;
  abort: AbortController;
  main: boolean; // of a chart, not of a trend
  load: boolean; // a whole range, not only the newest part
}

export class Backfill {
  charts: Filled[] = []; // in view
  rows: number[] = []; // slots whose trends are in view
  errors = 0; // in a row
  private jobs = new Set<Job>();
  private settledAt = 0;
  private sparksAt = 0;
  private notBefore = 0; // after an error
  private failed = "";
  private timer = 0;

  constructor(
    private readonly store: Store,
    private readonly time: Timeline,
    private readonly ask: Ask,
    private readonly changed: () => void,
  ) {
    time.listen(() => {
      const w = widthFor(time.window);
      const margin = time.window / 2;
      for (const j of this.jobs) {
        if (j.main && (j.width !== w || j.to <= time.left() - margin || j.from >= time.right() + margin)) j.abort.abort();
      }
      this.soon(60);
    });
  }

  /** Looks soon at what is missing. */
  soon(ms = 0): void {
    if (this.timer) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.beat();
    }, ms);
  }

  /** Asks for the newest part at once: after a break, or when the page can be seen again. */
  renew(): void {
    this.settledAt = this.sparksAt = 0;
    this.notBefore = 0;
    this.soon(150);
  }

  retry(): void {
    this.notBefore = this.errors = 0;
    this.failed = "";
    this.soon();
  }

  /** Whether all that is in view is as history has it, at the width that belongs to the range, up to the newest part. */
  get ready(): boolean {
    const w = widthFor(this.time.window);
    const needed = this.time.mode === "live" ? -Infinity : this.needed(w);
    return this.charts.length > 0 && this.charts.every((c) => c.lines.every((s) => {
      const b = this.store.known(s)?.main;
      return b?.width === w && b.from <= this.time.left() && b.settled >= needed;
    }));
  }

  // Up to where a range that stands still has to be settled.
  private needed(width: number): number {
    return Math.min(this.time.right(), this.time.clock() - LAG - width);
  }

  /** Asks for what is missing; to be called a few times a second. */
  beat(): void {
    if (this.time.mode === "replay") return; // which brings its own
    const now = performance.now();
    if (now >= this.notBefore) {
      this.lines(now);
      this.sparks(now);
    }
    this.tell();
  }

  private lines(now: number): void {
    const { time, store } = this;
    const window = time.window;
    const w = widthFor(window);
    const clock = time.clock();
    const live = time.mode === "live";
    const left = time.left();
    const right = time.right();
    const settle = live && now - this.settledAt >= Math.min(300_000, Math.max(SETTLE, w / 4));
    // A little more than what is seen, so that lines come in from beside it and small moves need no question.
    const margin = live ? window / 10 : window / 4;
    const from = Math.floor((left - margin) / w) * w;
    const to = live ? Math.ceil(clock / w) * w + w : Math.ceil(Math.min(right + margin, clock + w) / w) * w;
    const needed = this.needed(w);
    const loads = new Map<number, Buckets>();
    const tails = new Map<number, Buckets>();
    let tail = Infinity;
    for (const chart of this.charts) {
      for (const slot of chart.lines) {
        const past = store.past(slot);
        let b = past.main;
        if (!b || b.length === 0) b = past.main = b?.width === w ? b : store.buckets(w, live);
        const fits = b.width === w && (b.from === Infinity || (b.from <= right && b.settled >= left - margin));
        if (!fits) {
          if (past.next?.width !== w) past.next = store.buckets(w, live);
          b = past.next;
        } else {
          past.next = null;
        }
        if (b.busy) continue;
        if (b.from > left) {
          b.live = live;
          loads.set(slot, b);
          continue;
        }
        if (live) {
          const resumed = !b.live;
          b.live = true;
          if (b.begin < b.end && b.t[b.begin] < from - window) b.keep(from, Infinity);
          if (settle || resumed) {
            tails.set(slot, b);
            tail = Math.min(tail, Math.max(from, b.settled));
          }
        } else {
          b.live = time.paused && right > clock - LAG;
          if (b.begin < b.end && b.t[b.begin] < from - window) b.keep(from - window, Infinity);
          if (b.settled < needed) {
            tails.set(slot, b);
            tail = Math.min(tail, Math.max(from, b.settled));
          }
        }
      }
    }
    if (settle) this.settledAt = now;
    this.start(loads, from, to, w, true, true);
    if (tails.size > 0) this.start(tails, Math.floor(tail / w) * w, to, w, true, false);
  }

  private sparks(now: number): void {
    const w = SPARK.bucket;
    const clock = this.time.clock();
    const from = Math.floor((clock - SPARK.ms) / w) * w;
    const to = Math.ceil(clock / w) * w + w;
    const settle = now - this.sparksAt >= SPARK_SETTLE;
    const loads = new Map<number, Buckets>();
    const tails = new Map<number, Buckets>();
    let tail = Infinity;
    for (const slot of this.rows) {
      if (!this.store.numeric(slot)) continue;
      const b = this.store.past(slot).spark;
      if (b.busy) continue;
      if (b.from === Infinity) loads.set(slot, b);
      else if (settle) {
        tails.set(slot, b);
        tail = Math.min(tail, Math.max(from, b.settled));
      }
    }
    if (settle) this.sparksAt = now;
    this.start(loads, from, to, w, false, true);
    if (tails.size > 0) this.start(tails, Math.floor(tail / w) * w, to, w, false, false);
  }

  // Asks for [from, to) of some series, in as many questions as it takes; those that have to wait are asked next time.
  private start(what: Map<number, Buckets>, from: number, to: number, width: number, main: boolean, load: boolean): void {
    let job: Job | null = null;
    let names = 0;
    for (const [slot, b] of what) {
      if (!job || job.slots.length >= (load && main ? SERIES : 4 * SERIES) || names > NAMES) {
        if (job) void this.run(job);
        job = null;
        if (this.jobs.size >= AT_ONCE) {
          this.soon(100);
          return;
        }
        job = { slots: [], into: [], from, to, width, abort: new AbortController(), main, load };
        names = 0;
      }
      job.slots.push(slot);
      job.into.push(b);
      b.asking();
      names += encodeURIComponent(this.store.device[slot] + this.store.metric[slot]).length + 9;
    }
    if (job) void this.run(job);
  }

  private async run(job: Job): Promise<void> {
    const { store } = this;
    this.jobs.add(job);
    const sent = this.time.clock();
    try {
      const series = job.slots.map((s) => ({ device: store.device[s], metric: store.metric[s] }));
      const a = await this.ask({ series, from: job.from, to: job.to, buckets: (job.to - job.from) / job.width }, job.abort.signal);
      if (job.abort.signal.aborted) throw new DOMException("", "AbortError");
      if (a.width !== job.width && a.series.length > 0) throw new Error(`answered in buckets of ${a.width} ms instead of ${job.width} ms`);
      const byName = new Map<string, Columns>();
      for (const c of a.series) byName.set(c.device + "/" + c.metric, c);
      const settled = Math.floor((sent - LAG) / job.width) * job.width;
      job.slots.forEach((slot, i) => {
        const b = job.into[i];
        const c = byName.get(store.device[slot] + "/" + store.metric[slot]);
        b.put(job.from, job.to, Math.min(settled, job.to), c ?? NOTHING);
        const past = store.known(slot);
        if (job.main && past?.next === b) {
          past.main = b;
          past.next = null;
        }
        if (job.main && job.load && !b.live) b.keep(job.from, job.to);
      });
      this.errors = 0;
      this.failed = "";
    } catch (e) {
      for (const b of job.into) b.unanswered();
      if (!job.abort.signal.aborted) {
        this.errors++;
        this.failed = (e as Error).message || "no answer";
        this.notBefore = performance.now() + Math.min(60_000, 2000 * 2 ** Math.min(this.errors, 5));
        // Without history a page still shows what is live.
        for (let i = 0; i < job.slots.length; i++) {
          const past = store.known(job.slots[i]);
          if (job.main && this.time.mode === "live" && past?.next === job.into[i]) {
            past.main = past.next;
            past.next = null;
          }
        }
      }
    } finally {
      this.jobs.delete(job);
      this.tell();
      this.changed();
      if (this.jobs.size === 0 || this.charts.length > 0) this.soon(50);
    }
  }

  // Tells each chart how far it is.
  private tell(): void {
    const loading = new Set<number>();
    for (const j of this.jobs) if (j.main && j.load) for (const s of j.slots) loading.add(s);
    const w = widthFor(this.time.window);
    const left = this.time.left();
    for (const chart of this.charts) {
      let busy = false;
      let missing = false;
      for (const slot of chart.lines) {
        if (loading.has(slot)) busy = true;
        const b = this.store.known(slot)?.main;
        if (!b || b.width !== w || b.from > left) missing = true;
      }
      chart.filled(busy || (missing && !this.failed), missing ? this.failed : "", !missing);
    }
  }
}

const NOTHING: Columns = { t: [], last: [], min: [], max: [], count: [] };
