// What is buffered of a replay, as a film: consecutive parts of narrow buckets of each series, handed out frame by frame in the shape of
// live frames. Staleness is judged as of the moment that is played. Bounded: parts that lie behind are dropped.
import type { BucketColumns } from "./history";
import { Frame, Quality } from "./wire";

interface Part {
  from: number;
  to: number;
  columns: (BucketColumns | null)[]; // by track
}

/** What was last known of each track before a reel begins. */
export interface Seed {
  t: number; // 0: nothing
  last: number;
  lon: number;
  quality: number;
  text: string;
  interval: number; // usual ms between samples; 0: unknown
}
export const UNKNOWN: Seed = { t: 0, last: 0, lon: 0, quality: 0, text: "", interval: 0 };

const LEAST_STALE = 1000; // ms; as the server judges

export class Reel {
  at: number; // played up to here
  to: number; // buffered up to here
  private parts: Part[] = [];
  private part: Int32Array; // of each track, where it goes on
  private index: Int32Array;
  // State of each track as of at.
  private readonly t: Float64Array;
  private readonly last: Float64Array;
  private readonly lon: Float64Array;
  private readonly quality: Uint8Array;
  private readonly stale: Uint8Array;
  private readonly gap: Float64Array; // smoothed ms between samples
  private readonly deviation: Float64Array;
  private readonly text: string[];
  private readonly lo: Float64Array;
  private readonly hi: Float64Array;
  private readonly count: Float64Array;
  private readonly frame = new Frame();
  private readonly columns: { last: Float64Array; lon: Float64Array; below: Float64Array; above: Float64Array; count: Uint32Array; quality: Uint8Array; index: Uint32Array };

  constructor(
    public from: number, // a multiple of width
    readonly width: number, // of its buckets, ms
    private readonly seeds: Seed[], // by track, before from
  ) {
    const n = seeds.length;
    this.at = this.to = from;
    this.part = new Int32Array(n);
    this.index = new Int32Array(n);
    this.t = new Float64Array(n);
    this.last = new Float64Array(n);
    this.lon = new Float64Array(n);
    this.quality = new Uint8Array(n);
    this.stale = new Uint8Array(n);
    this.gap = new Float64Array(n);
    this.deviation = new Float64Array(n);
    this.text = new Array(n).fill("");
    this.lo = new Float64Array(n);
    this.hi = new Float64Array(n);
    this.count = new Float64Array(n);
    this.columns = { last: new Float64Array(n), lon: new Float64Array(n), below: new Float64Array(n), above: new Float64Array(n), count: new Uint32Array(n), quality: new Uint8Array(n), index: new Uint32Array(n) };
    this.frame.t = new Float64Array(Math.max(1, n));
    this.reset();
  }

  /** Adds what follows: [this.to, to). */
  append(to: number, columns: (BucketColumns | null)[]): void {
    const previous = this.parts[this.parts.length - 1];
    if (previous && columns.every((c) => !c || c.t.length === 0) && previous.columns.every((c) => c === null)) previous.to = to;
    else this.parts.push({ from: this.to, to, columns });
    this.to = to;
  }

  /** When there is something next, after at and within what is buffered; NaN if nothing is. */
  next(): number {
    let first = Infinity;
    for (const p of this.parts) {
      if (p.to <= this.at) continue;
      for (const c of p.columns) {
        if (!c) continue;
        for (let k = c.t.length - 1; k >= 0 && c.t[k] + this.width > this.at; k--) if (c.t[k] < first) first = c.t[k];
      }
      if (first < Infinity) return first;
    }
    return NaN;
  }

  /** Plays on to a moment: a frame of what came since the one before, with the extremes of that time. The frame is reused. */
  play(to: number): Frame {
    this.count.fill(0);
    this.advance(to);
    return this.cut(to, false);
  }

  /** Goes to any moment of what is buffered: a snapshot as of then. */
  seek(to: number): Frame {
    if (to < this.at) this.reset();
    this.advance(to);
    this.count.fill(0);
    return this.cut(to, true);
  }

  /** Forgets what lies before a moment, in whole parts. */
  trim(before: number): void {
    while (this.parts.length > 1 && this.parts[0].to <= before) {
      const p = this.parts[0];
      p.columns.forEach((c, i) => {
        if (!c || c.t.length === 0) return;
        const k = c.t.length - 1;
        this.seeds[i] = { t: c.t[k] + this.width / 2, last: c.last[k], lon: c.lon?.[k] ?? 0, quality: c.quality?.[k] ?? 0, text: c.text?.[k] ?? "", interval: this.gap[i] };
      });
      this.parts.shift();
      this.from = p.to;
      for (let i = 0; i < this.part.length; i++) {
        if (this.part[i] > 0) this.part[i]--;
        else this.index[i] = 0;
      }
    }
  }

  private reset(): void {
    this.at = this.from;
    this.part.fill(0);
    this.index.fill(0);
    this.stale.fill(0);
    this.count.fill(0);
    this.deviation.fill(0);
    this.seeds.forEach((s, i) => {
      this.t[i] = s.t;
      this.last[i] = s.last;
      this.lon[i] = s.lon;
      this.quality[i] = s.quality;
      this.text[i] = s.text;
      this.gap[i] = s.interval;
    });
  }

  // Takes over all buckets that end by then.
  private advance(to: number): void {
    for (let i = 0; i < this.part.length; i++) {
      while (this.part[i] < this.parts.length) {
        const p = this.parts[this.part[i]];
        const c = p.columns[i];
        if (!c || this.index[i] >= c.t.length) {
          if (p.to > to || this.part[i] === this.parts.length - 1) break;
          this.part[i]++;
          this.index[i] = 0;
          continue;
        }
        const k = this.index[i];
        if (c.t[k] + this.width > to) break;
        this.index[i]++;
        const t = c.t[k] + this.width / 2; // somewhere in the bucket
        const n = Math.max(1, c.count[k]);
        if (this.t[i] > 0 && t > this.t[i]) {
          const gap = (t - this.t[i]) / n;
          if (this.gap[i] === 0) this.gap[i] = gap;
          else if (this.stale[i] === 0) {
            this.deviation[i] += (Math.abs(gap - this.gap[i]) - this.deviation[i]) * 0.2;
            this.gap[i] += (gap - this.gap[i]) * 0.2;
          }
        }
        if (this.count[i] === 0) {
          this.lo[i] = c.min[k];
          this.hi[i] = c.max[k];
        } else {
          this.lo[i] = Math.min(this.lo[i], c.min[k]);
          this.hi[i] = Math.max(this.hi[i], c.max[k]);
        }
        this.count[i] += n;
        this.t[i] = t;
        this.last[i] = c.last[k];
        if (c.lon) this.lon[i] = c.lon[k];
        if (c.text) this.text[i] = c.text[k];
        this.quality[i] = c.quality ? c.quality[k] : Quality.Good;
        this.stale[i] = 0;
      }
    }
    this.at = to;
  }

  private cut(at: number, snapshot: boolean): Frame {
    const f = this.frame;
    const o = this.columns;
    let n = 0;
    f.textAt.clear();
    for (let i = 0; i < this.t.length; i++) {
      if (this.t[i] === 0) continue;
      const limit = Math.max(LEAST_STALE, 2 * (this.gap[i] + this.deviation[i])) + this.width;
      let changed = this.count[i] > 0 || snapshot;
      if (this.stale[i] === 0 && this.gap[i] > 0 && at - this.t[i] > limit) {
        this.stale[i] = 1;
        changed = true;
      }
      if (!changed) continue;
      const v = this.last[i];
      const some = this.count[i] > 0;
      o.index[n] = i;
      o.last[n] = v;
      o.lon[n] = this.lon[i];
      o.below[n] = some ? v - this.lo[i] : 0;
      o.above[n] = some ? this.hi[i] - v : 0;
      o.count[n] = this.count[i];
      o.quality[n] = this.stale[i] ? Quality.Stale : this.quality[i];
      f.t[n] = this.t[i];
      if (this.text[i] !== "") f.textAt.set(n, this.text[i]);
      n++;
    }
    f.n = n;
    f.at = at;
    f.snapshot = snapshot;
    f.last = o.last;
    f.lon = o.lon;
    f.below = o.below;
    f.above = o.above;
    f.count = o.count;
    f.quality = o.quality;
    f.index = o.index;
    return f;
  }
}
