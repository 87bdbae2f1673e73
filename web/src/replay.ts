// Replay: plays a page from a past moment through the same charts and table that show what is live. Values come frame by frame from a reel of
// narrow buckets, lines from buckets of the width that the charts have; both are brought a little ahead, and dropped behind.
import type { Address, Part } from "./address";
import type { Filled } from "./backfill";
import { type Buckets, widthFor } from "./buckets";
import { type BucketColumns, fetchBuckets, firstAfter, HistoryError, type Name } from "./history";
import { Reel, type Seed, UNKNOWN } from "./reel";
import { SPARK, Store } from "./store";
import { formatMoment, parseMoment, type Timeline } from "./timeline";

export const SPEEDS = [0.5, 1, 2, 5, 10, 30, 60];
const FRAME = 50; // ms of page time that a frame covers
const MANY = 100; // series from which on frames are half as many
const AHEAD = 8000; // ms of page time that are brought ahead
const PARTS = 160; // frames in one part of the reel
const BEHIND = 5000; // ms of page time kept behind, for steps back
const LAG = 3000; // ms after which a sample is taken to have arrived; a replay ends there
const EMPTY = 4000; // ms of page time without anything that are worth a word
const WAIT = 80; // ms that a seek waits for the next, while one drags
const TELL = 5000; // ms between notes of the place in the address
const NICE = [20, 50, 100, 200, 500, 1000, 2000, 5000];

/** The page that a replay is shown on. */
export interface Stage {
  readonly time: Timeline;
  readonly address: Pick<Address, "changed">;
  readonly store: Store; // what is live
  hold(on: boolean): void; // live news wait; afterwards they are caught up with
  show(store: Store): void; // draws from this store from now on
  cast(): number[]; // slots of which values are shown
  inView(): readonly Filled[]; // charts
  rows(): readonly number[]; // slots whose trends are in view
  painted(): boolean; // the values applied before have been drawn
  played(): void; // a frame has been applied
}

export class Player implements Part {
  at = 0; // the moment shown, Unix ms
  speed = 10;
  playing = false;
  loading = false;
  ended = false; // it has come to the present
  failed = "";
  begin = 0; // of the scrubber
  end = 0;
  until = NaN; // nothing is recorded until then; Infinity: nothing any more
  store: Store | null = null; // null: no replay
  private reel: Reel | null = null;
  private slots: number[] = []; // of the reel's tracks
  private map = new Int32Array(0);
  private abort = new AbortController();
  private fetching = false;
  private filling = 0;
  private looked = NaN; // where until was asked from
  private notBefore = 0;
  private ticked = 0;
  private told = 0;
  private timer = 0;
  private interval: ReturnType<typeof setInterval> | null = null;
  private listeners = new Set<() => void>();

  constructor(private readonly stage: Stage) {
    stage.time.listen(() => {
      if (this.store && stage.time.mode !== "replay") this.leave();
      else if (this.store) this.fill();
    });
  }

  /** Calls f after each change, and several times a second while playing. */
  listen(f: () => void): void {
    this.listeners.add(f);
  }

  get active(): boolean {
    return this.store !== null;
  }

  /** Up to where there is something buffered. */
  get buffered(): number {
    return this.reel?.to ?? this.at;
  }

  private get last(): number {
    return this.stage.time.clock() - LAG;
  }

  // ── what a person does

  /** Begins to play from a moment on. */
  start(at: number, playing = true, push = true): void {
    const { stage } = this;
    if (!this.store) {
      this.store = new Store();
      this.store.adopt(stage.store);
      stage.hold(true);
      stage.show(this.store);
      this.interval = setInterval(() => this.tick(performance.now()), FRAME);
    }
    this.begin = this.end = 0;
    this.at = Math.round(Math.min(at, this.last));
    this.playing = playing;
    this.ticked = performance.now();
    stage.time.play(
      () => this.at,
      (to) => this.seek(to),
    );
    this.seek(this.at);
    stage.address.changed(push);
  }

  toggle(): void {
    if (this.ended) return;
    this.playing = !this.playing;
    this.ticked = performance.now();
    this.stage.address.changed(false);
    this.tell();
  }

  faster(by: number): void {
    const i = SPEEDS.indexOf(this.speed);
    this.pace(SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, (i < 0 ? 1 : i) + by))]);
  }

  pace(speed: number): void {
    if (speed === this.speed) return;
    this.speed = speed;
    this.reel = null;
    this.seek(this.at);
    this.stage.address.changed(false);
  }

  /** One frame on or back; stops. */
  step(by: number): void {
    this.playing = false;
    const width = this.width();
    this.seek(Math.floor(this.at / width + 1e-9) * width + by * width);
    this.stage.address.changed(false);
  }

  /** Goes to any moment; plays on from there if it was playing. */
  seek(to: number): void {
    if (!this.store) return;
    this.at = Math.round(Math.min(to, this.last));
    this.ended = false;
    this.failed = "";
    this.notBefore = 0;
    this.looked = this.until = NaN;
    this.around();
    for (let i = 0; i < this.store.size; i++) this.store.known(i)?.spark.clear();
    const r = this.reel;
    if (r && this.at >= r.from && this.at <= r.to) {
      this.store.rewind();
      this.store.apply(r.seek(this.at), this.map);
      this.fill();
    } else {
      this.reel = null;
      this.loading = true;
      this.abort.abort();
      this.abort = new AbortController();
      this.fetching = false;
      this.filling = 0;
      clearTimeout(this.timer);
      this.timer = Number(setTimeout(() => void this.load(), WAIT));
    }
    this.stage.played();
    this.tell();
  }

  /** Over an empty stretch. */
  jump(): void {
    if (Number.isFinite(this.until)) this.seek(this.until - 2 * this.width());
  }

  retry(): void {
    this.failed = "";
    this.notBefore = 0;
    if (!this.reel) this.seek(this.at);
  }

  // ── the address

  write(q: URLSearchParams): void {
    if (!this.store) return;
    q.set("replay", formatMoment(Math.round(this.at)));
    q.set("speed", String(this.speed));
    if (!this.playing) q.set("still", "1");
    this.told = performance.now();
  }

  read(q: URLSearchParams): void {
    const at = parseMoment(q.get("replay") ?? "");
    const speed = Number(q.get("speed"));
    if (SPEEDS.includes(speed)) {
      if (speed !== this.speed) this.reel = null;
      this.speed = speed;
    }
    if (!Number.isNaN(at) && at > 0) this.start(at, q.get("still") !== "1", false);
    else if (this.store) this.leave();
  }

  // ── playing

  /** What is in view has changed. */
  recast(): void {
    if (!this.store) return;
    this.store.adopt(this.stage.store);
    const here = new Set(this.slots);
    if (this.stage.cast().some((s) => !here.has(s))) {
      this.reel = null;
      this.seek(this.at);
    }
    this.fill();
  }

  /** Plays on; called many times a second. */
  tick(now: number): void {
    if (!this.store) return;
    const passed = Math.min(250, now - this.ticked);
    this.ticked = now;
    const r = this.reel;
    if (r) {
      if (this.playing && passed > 0) {
        let to = Math.min(this.at + passed * this.speed, this.last);
        const ready = Math.min(r.to, this.drawn());
        this.loading = to > ready;
        to = Math.max(this.at, Math.min(to, ready));
        if (to > this.at) {
          this.at = to;
          // A frame that was not drawn yet is not replaced: the next one has the extremes of all the time since.
          if (this.stage.painted()) this.store.apply(r.play(to), this.map);
          this.around();
          this.stage.played();
        }
        if (this.at >= Math.floor(this.last / r.width) * r.width - r.width) this.finish();
        if (now - this.told > TELL) this.stage.address.changed(false);
      } else {
        this.loading = false;
      }
      r.trim(this.at - BEHIND * this.speed);
      void this.ahead();
    }
    this.fill();
    this.tell();
  }

  private finish(): void {
    this.playing = this.loading = false;
    this.ended = true;
    this.stage.address.changed(false);
  }

  private leave(): void {
    if (!this.store) return;
    clearInterval(this.interval!);
    clearTimeout(this.timer);
    this.abort.abort();
    this.abort = new AbortController();
    this.store = this.reel = null;
    this.playing = this.loading = this.ended = this.fetching = false;
    this.filling = 0;
    this.failed = "";
    this.stage.hold(false);
    this.stage.show(this.stage.store);
    this.tell();
  }

  private tell(): void {
    for (const f of this.listeners) f();
  }

  // The width of the reel's buckets: what a frame covers at this speed.
  private width(): number {
    const covers = FRAME * this.speed * (this.slots.length > MANY ? 2 : 1);
    return NICE.findLast((w) => w <= covers) ?? NICE[0];
  }

  // Keeps the scrubber's range around the present place, without moving it all the time.
  private around(): void {
    const { window } = this.stage.time;
    if (this.at >= this.begin && this.at <= this.end && this.end - this.begin === 10 * window) return;
    this.end = Math.min(this.stage.time.clock(), this.at + 6 * window);
    this.begin = this.end - 10 * window;
  }

  private names(slots: readonly number[]): Name[] {
    const s = this.stage.store;
    return slots.map((i) => ({ device: s.device[i], metric: s.metric[i] }));
  }

  // Columns in the order of slots.
  private ordered(slots: readonly number[], series: BucketColumns[]): (BucketColumns | null)[] {
    const by = new Map(series.map((c) => [c.device + "/" + c.metric, c]));
    return this.names(slots).map((n) => by.get(n.device + "/" + n.metric) ?? null);
  }

  // A question's answer if it is still wanted.
  private async asked<T>(ask: (signal: AbortSignal) => Promise<T>): Promise<T | null> {
    const { abort } = this;
    try {
      const a = await ask(abort.signal);
      if (abort.signal.aborted) return null;
      this.failed = "";
      return a;
    } catch (e) {
      if (!abort.signal.aborted) {
        const wait = e instanceof HistoryError ? e.retryMs : 3000;
        this.failed = (e as Error).message || "History does not answer.";
        this.notBefore = performance.now() + (wait || 60_000);
        this.tell();
      }
      return null;
    }
  }

  // Begins a reel at the present place.
  private async load(): Promise<void> {
    if (!this.store || performance.now() < this.notBefore) return;
    const slots = this.stage.cast();
    this.slots = slots;
    this.map = Int32Array.from(slots);
    const width = this.width();
    const from = Math.floor(this.at / width) * width;
    this.fetching = true;
    this.fill();
    const reel = await this.asked(async (signal) => {
      const [seeds, first] = await Promise.all([this.seeds(slots, from, signal), this.part(slots, from, width, PARTS / 4, signal)]);
      const r = new Reel(from, width, seeds);
      if (first.to > from) r.append(first.to, first.columns);
      return r;
    });
    if (!reel) {
      if (this.failed) {
        this.fetching = false;
        this.timer = Number(setTimeout(() => void this.load(), Math.max(100, this.notBefore - performance.now() + 10)));
      }
      return;
    }
    this.fetching = false;
    this.reel = reel;
    this.loading = false;
    this.ticked = performance.now();
    this.store!.rewind();
    this.store!.apply(reel.seek(Math.min(this.at, Math.max(reel.to, from))), this.map);
    if (this.at >= Math.floor(this.last / width) * width - width) this.finish();
    this.stage.played();
    void this.ahead();
    this.tell();
  }

  private async part(slots: number[], from: number, width: number, frames: number, signal: AbortSignal): Promise<{ to: number; columns: (BucketColumns | null)[] }> {
    const to = Math.min(from + frames * width, Math.floor(this.last / width) * width);
    if (to <= from || slots.length === 0) return { to: Math.max(from, to), columns: slots.map(() => null) };
    const a = await fetchBuckets({ series: this.names(slots), from, to, buckets: (to - from) / width, signal });
    return { to, columns: this.ordered(slots, a.series) };
  }

  // The last value of each series before a moment, however old: asked in ever longer and coarser times, of those not found yet.
  private async seeds(slots: number[], before: number, signal: AbortSignal): Promise<Seed[]> {
    const seeds: Seed[] = slots.map(() => UNKNOWN);
    let open = slots.map((_, i) => i);
    for (const [span, width] of [
      [60_000, 100],
      [3_600_000, 5000],
      [86_400_000, 120_000],
      [90 * 86_400_000, 10_800_000],
    ]) {
      if (open.length === 0) break;
      const to = Math.floor(before / width) * width;
      const from = to - span;
      const asked = open.map((i) => slots[i]);
      const a = await fetchBuckets({ series: this.names(asked), from, to, buckets: span / width, signal });
      const found = this.ordered(asked, a.series);
      const left: number[] = [];
      found.forEach((c, j) => {
        const i = open[j];
        const k = c ? c.t.length - 1 : -1;
        if (!c || k < 0) {
          left.push(i);
          return;
        }
        let n = -1;
        for (let m = 0; m <= k; m++) n += c.count[m];
        const interval = n > 0 && k > 0 ? (c.t[k] - c.t[0]) / n : n > 0 ? width / n : 0;
        seeds[i] = { t: c.t[k] + width / 2, last: c.last[k], lon: c.lon?.[k] ?? 0, quality: c.quality?.[k] ?? 0, text: c.text?.[k] ?? "", interval };
      });
      open = left;
    }
    return seeds;
  }

  // Brings what comes next, and finds out where it goes on after an empty stretch.
  private async ahead(): Promise<void> {
    const r = this.reel;
    if (!r || this.fetching || performance.now() < this.notBefore) return;
    const known = !Number.isNaN(r.next());
    if (this.at >= this.until || (known && this.until === Infinity)) this.until = NaN;
    if (this.at > this.looked || known) this.looked = NaN;
    const limit = Math.floor(this.last / r.width) * r.width;
    // Near the present little comes at a time: it is asked for when it is needed, or worth while.
    const some = limit - r.to >= 20 * r.width || (r.to < limit && r.to - this.at < 3 * r.width);
    if (some && r.to - this.at < AHEAD * this.speed) {
      this.fetching = true;
      const p = await this.asked((signal) => this.part(this.slots, r.to, r.width, PARTS, signal));
      if (p && this.reel === r) {
        this.fetching = false;
        r.append(p.to, p.columns);
      } else if (this.reel === r) this.fetching = false;
      return;
    }
    if (!Number.isNaN(this.looked) || known || this.slots.length === 0) return;
    // Nothing ahead in what is buffered.
    this.fetching = true;
    const next = r.to < limit ? await this.asked((signal) => firstAfter(this.names(this.slots), r.to, limit, r.width, signal)) : NaN;
    if (this.reel !== r) return;
    this.fetching = false;
    if (next === null) return;
    const to = Number.isNaN(next) ? limit : Math.floor(next / r.width) * r.width;
    if (to > r.to) {
      r.append(
        to,
        this.slots.map(() => null),
      );
    }
    this.looked = r.to;
    if (to - this.at > EMPTY * this.speed) this.until = Number.isNaN(next) ? Infinity : next;
    this.tell();
  }

  // ── lines and trends

  // Up to where all lines in view are loaded; those that begin to be do not hold up the rest.
  private drawn(): number {
    const w = widthFor(this.stage.time.window);
    let to = Infinity;
    for (const c of this.stage.inView()) {
      for (const slot of c.lines) {
        const b = this.store!.known(slot)?.main;
        if (b && b.width === w && b.from <= this.at && b.settled >= this.at && b.settled < to) to = b.settled;
      }
    }
    return to === Infinity ? to : Math.max(to, this.at);
  }

  private fill(): void {
    const { store } = this;
    if (!store || performance.now() < this.notBefore) return;
    const { time } = this.stage;
    const w = widthFor(time.window);
    const limit = (w > 10_000 ? Math.ceil(this.last / w) : Math.floor(this.last / w)) * w;
    // Not more than fits into a series' room, and no longer than it takes to bring the next.
    const ahead = Math.min(Math.max(40 * w, AHEAD * this.speed), 900 * w);
    const left = Math.floor((this.at - 1.1 * time.window) / w) * w;
    const to = Math.min(limit, Math.ceil((this.at + ahead) / w) * w);
    const loads = new Map<number, Buckets>();
    const tails = new Map<number, Map<number, Buckets>>();
    for (const chart of this.stage.inView()) {
      let busy = false;
      for (const slot of chart.lines) {
        const past = store.past(slot);
        const b = past.main;
        if (!b || b.width !== w || b.from > Math.ceil((this.at - time.window) / w) * w || b.settled < Math.min(limit, Math.floor(this.at / w) * w)) {
          busy = true;
          if (past.next?.width === w && past.next.busy && past.next.from <= this.at - time.window) continue;
          if (this.filling < 3) {
            past.next = store.buckets(w, false);
            past.next.from = left;
            loads.set(slot, past.next);
          }
        } else if (b.settled < limit && b.settled < to - ahead / 2 && !b.busy) {
          let t = tails.get(b.settled);
          if (!t) tails.set(b.settled, (t = new Map()));
          t.set(slot, b);
        }
      }
      chart.filled(busy && !this.failed, busy ? this.failed : "", false);
    }
    if (loads.size > 0 && to > left) void this.bring(loads, left, to, w, true);
    for (const [from, t] of tails) if (this.filling < 3 && to > from) void this.bring(t, from, to, w, false);
    const sw = SPARK.bucket;
    const sto = Math.floor(this.at / sw) * sw;
    const sparks = new Map<number, Buckets>();
    for (const slot of this.stage.rows()) {
      if (!store.numeric(slot)) continue;
      const b = store.past(slot).spark;
      if (b.from === Infinity && !b.busy) sparks.set(slot, b);
    }
    if (sparks.size > 0 && this.filling < 3 && this.reel) void this.bring(sparks, sto - SPARK.ms, sto, sw, false);
  }

  // Asks for [from, to) of some series. What a new load replaces is swapped when it is there.
  private async bring(what: Map<number, Buckets>, from: number, to: number, width: number, swap: boolean): Promise<void> {
    const { store, abort } = this;
    const slots = [...what.keys()];
    for (const b of what.values()) b.asking();
    this.filling++;
    const a = await this.asked((signal) => fetchBuckets({ series: this.names(slots), from, to, buckets: (to - from) / width, signal }));
    if (abort === this.abort) this.filling--;
    const columns = a && store === this.store ? this.ordered(slots, a.series) : null;
    slots.forEach((slot, i) => {
      const b = what.get(slot)!;
      const past = store!.known(slot);
      if (!columns) {
        b.unanswered();
        if (past?.next === b) past.next = null;
        return;
      }
      if (swap) b.from = Infinity;
      b.put(from, to, to, columns[i] ?? NOTHING);
      if (past?.next === b) {
        past.main = b;
        past.next = null;
      }
    });
    if (columns) this.stage.played();
  }
}

const NOTHING = { t: [], last: [], min: [], max: [], count: [] };
