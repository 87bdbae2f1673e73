// What the page knows of its series, as columns indexed by a slot of our own; and the past of those on screen in buckets, a
// bounded number of them. Nothing here grows with time: a wall screen runs for weeks.
import { Buckets } from "./buckets";
import { type Frame, Quality } from "./wire";
import type { Member } from "./socket";

export const enum Kind {
  Float = 0,
  Int = 1,
  Bool = 2,
  String = 3,
  Location = 4,
}
const kinds: Record<string, Kind> = { float: Kind.Float, int: Kind.Int, bool: Kind.Bool, string: Kind.String, location: Kind.Location };

/** The trends of the table: the last 15 minutes in buckets of 10 s. */
export const SPARK = { ms: 900_000, bucket: 10_000 } as const;
const SPARK_ROOM = 128;

/** A series' past: what its chart shows, and the trend in the table. */
export class Past {
  used = 0; // when it was last wanted; the one unused longest is taken for another series
  main: Buckets | null = null; // what a chart shows
  next: Buckets | null = null; // what it will show once history has answered
  spark = new Buckets(SPARK.bucket, SPARK_ROOM);
  constructor(public slot: number) {
    this.spark.live = true;
  }
}

const PASTS = 320; // at most about 25 MB

const EMPTY = new Buckets(1);

export class Store {
  size = 0;
  device: string[] = [];
  metric: string[] = [];
  unit: string[] = [];
  label: string[] = [];
  text: string[] = []; // of strings
  last = new Float64Array(256);
  lon = new Float64Array(256);
  min = new Float64Array(256); // of the last frame that had samples
  max = new Float64Array(256);
  low = new Float64Array(256).fill(NaN);
  high = new Float64Array(256).fill(NaN);
  t = new Float64Array(256); // 0: no value yet
  count = new Float64Array(256); // samples merged into the last frame
  total = new Float64Array(256); // samples since the page was opened
  quality = new Uint8Array(256);
  kind = new Uint8Array(256);
  decimals = new Int8Array(256).fill(-1); // shown; learned, never fewer
  gone = new Uint8Array(256);
  version = new Uint32Array(256); // counts changes, so that painters see what is new
  members = 0; // counts changes of which series there are
  private bySlot = new Map<string, number>();
  private pasts: Past[] = [];
  private pastOf = new Int16Array(256).fill(-1);
  private clock = 0;

  /** The slot of a series, new or not. */
  slot(m: Member): number {
    const key = m.device + "/" + m.metric;
    let s = this.bySlot.get(key);
    if (s === undefined) {
      s = this.size++;
      if (this.size > this.last.length) this.grow();
      this.bySlot.set(key, s);
      this.device[s] = m.device;
      this.metric[s] = m.metric;
      this.unit[s] = this.label[s] = this.text[s] = "";
      this.members++;
    }
    if (this.gone[s]) {
      this.gone[s] = 0;
      this.members++;
    }
    if (m.unit !== undefined && m.unit !== this.unit[s]) {
      this.unit[s] = m.unit;
      this.members++;
    }
    if (m.label) this.label[s] = m.label;
    if (m.kind !== undefined && kinds[m.kind] !== undefined && this.kind[s] !== kinds[m.kind]) {
      this.kind[s] = kinds[m.kind];
      this.members++;
    }
    if (m.low != null) this.low[s] = m.low;
    if (m.high != null) this.high[s] = m.high;
    return s;
  }

  /** Has the same series in the same slots as another store, without their values. */
  adopt(from: Store): void {
    for (let i = 0; i < from.size; i++) {
      this.slot({ index: i, device: from.device[i], metric: from.metric[i], unit: from.unit[i], label: from.label[i], low: from.low[i], high: from.high[i] });
      this.kind[i] = from.kind[i];
      this.gone[i] = from.gone[i];
      this.decimals[i] = Math.max(this.decimals[i], from.decimals[i]);
    }
    this.members = from.members;
  }

  /** Forgets all values, not the series. */
  rewind(): void {
    for (const a of [this.t, this.last, this.lon, this.min, this.max, this.count, this.total, this.quality]) a.fill(0);
    this.text.fill("");
    for (let i = 0; i < this.size; i++) this.version[i]++;
  }

  find(device: string, metric: string): number {
    return this.bySlot.get(device + "/" + metric) ?? -1;
  }

  remove(slot: number): void {
    if (slot < 0 || this.gone[slot]) return;
    this.gone[slot] = 1;
    this.members++;
  }

  numeric(slot: number): boolean {
    return this.kind[slot] <= Kind.Int;
  }

  /** Whether it is one of few states rather than a number: a switch, or a word. */
  state(slot: number): boolean {
    return this.kind[slot] === Kind.Bool || this.kind[slot] === Kind.String;
  }

  /**
   * Applies a frame whose index i is slot map[i]. Where covered[slot] is set, another subscription tells about the series in
   * more detail: this one only brings news that one started too late for.
   */
  apply(f: Frame, map: Int32Array, covered: Uint8Array | null = null): void {
    const { n, last, t, below, above, count, quality, index } = f;
    for (let i = 0; i < n; i++) {
      const s = map[index ? index[i] : i] ?? -1;
      if (s < 0) continue;
      const v = last[i];
      const q = quality ? quality[i] : Quality.Good;
      let c = count ? count[i] : f.snapshot ? 0 : 1;
      const lo = below ? v - below[i] : v;
      const hi = above ? v + above[i] : v;
      const older = t[i] < this.t[s];
      if (covered !== null && covered[s] === 1) {
        if (t[i] <= this.t[s] && (q === this.quality[s] || older)) continue;
        c = 0;
      }
      this.quality[s] = q;
      this.version[s]++;
      if (!older) {
        this.last[s] = v;
        this.t[s] = t[i];
        if (f.lon) this.lon[s] = f.lon[i];
        if (f.textAt.size > 0) {
          const text = f.textAt.get(i);
          if (text !== undefined) this.text[s] = text;
        }
      }
      if (c > 0 || f.snapshot) {
        this.min[s] = lo;
        this.max[s] = hi;
        this.count[s] = c;
        this.total[s] += c;
      }
      const p = this.pastOf[s];
      if (p < 0 || q === Quality.Stale || (c === 0 && !f.snapshot)) continue;
      const { main, next, spark } = this.pasts[p];
      if (this.kind[s] <= Kind.Bool) {
        if (main?.live && (c > 0 || main.length === 0)) main.add(t[i], v, lo, hi, c);
        if (next?.live && (c > 0 || next.length === 0)) next.add(t[i], v, lo, hi, c);
        if (c > 0) spark.add(t[i], v, lo, hi, c);
      } else if (this.kind[s] === Kind.String && c > 0) {
        const word = f.textAt.get(i) ?? this.text[s];
        if (main?.live) main.say(t[i], word);
        if (next?.live) next.say(t[i], word);
      }
    }
  }

  /** The past of a series, kept from the first time it is asked for until 320 others have been wanted more recently. */
  past(s: number): Past {
    let p = this.pastOf[s];
    if (p < 0) {
      if (this.pasts.length < PASTS) {
        p = this.pasts.length;
        this.pasts.push(new Past(s));
      } else {
        p = 0;
        for (let i = 1; i < this.pasts.length; i++) if (this.pasts[i].used < this.pasts[p].used) p = i;
        this.pastOf[this.pasts[p].slot] = -1;
        this.pasts[p] = new Past(s);
      }
      this.pastOf[s] = p;
    }
    this.pasts[p].used = ++this.clock;
    return this.pasts[p];
  }

  /** The past of a series if there is one; does not count as wanting it. */
  known(s: number): Past | null {
    const p = this.pastOf[s];
    return p < 0 ? null : this.pasts[p];
  }

  /** What a chart draws of a series. */
  shown(s: number): Buckets {
    return this.past(s).main ?? EMPTY;
  }

  /** Empty buckets for a chart. */
  buckets(width: number, live: boolean): Buckets {
    const b = new Buckets(width);
    b.live = live;
    return b;
  }

  private grow(): void {
    const n = this.last.length * 2;
    const f64 = (a: Float64Array, fill = 0) => {
      const b = new Float64Array(n).fill(fill);
      b.set(a);
      return b;
    };
    this.last = f64(this.last);
    this.lon = f64(this.lon);
    this.min = f64(this.min);
    this.max = f64(this.max);
    this.low = f64(this.low, NaN);
    this.high = f64(this.high, NaN);
    this.t = f64(this.t);
    this.count = f64(this.count);
    this.total = f64(this.total);
    const u8 = (a: Uint8Array) => {
      const b = new Uint8Array(n);
      b.set(a);
      return b;
    };
    this.quality = u8(this.quality);
    this.kind = u8(this.kind);
    this.gone = u8(this.gone);
    const d = new Int8Array(n).fill(-1);
    d.set(this.decimals);
    this.decimals = d;
    const v = new Uint32Array(n);
    v.set(this.version);
    this.version = v;
    const p = new Int16Array(n).fill(-1);
    p.set(this.pastOf);
    this.pastOf = p;
  }
}
