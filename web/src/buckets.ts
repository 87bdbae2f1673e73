// The past of one series at one width, as columns: aligned buckets from history with live points merged into the newest ones.
// A bucket keeps its last value and the extremes, so a spike stays at every width. Bounded; no object per point.

/** At most so many buckets are asked for over a window. */
export const ASKED = 1000;
const ROOM = 2048; // buckets a series has room for

const S = 1000;
const M = 60 * S;
const H = 60 * M;
const D = 24 * H;
// The server's widths (docs/protocol.md, history): asking with one of these, from one multiple to another, is answered in it.
const WIDTHS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500],
  ...[1, 2, 5, 10, 15, 20, 30].map((n) => n * S),
  ...[1, 2, 5, 10, 15, 20, 30].map((n) => n * M),
  ...[1, 2, 3, 4, 6, 8, 12].map((n) => n * H),
  ...[1, 2, 7, 14, 28].map((n) => n * D),
];

/** The width of buckets for a window: the smallest with which it never touches more than most, wherever it begins. */
export function widthFor(window: number, most = ASKED): number {
  for (const w of WIDTHS) if (window / w + 1 <= most) return w;
  let w = 28 * D;
  while (window / w + 1 > most) w *= 2;
  return w;
}

/** Columns of buckets as history answers them. */
export interface Columns {
  readonly t: ArrayLike<number>;
  readonly last: ArrayLike<number>;
  readonly min: ArrayLike<number>;
  readonly max: ArrayLike<number>;
  readonly count: ArrayLike<number>;
  readonly text?: ArrayLike<string> | null;
}

export class Buckets {
  t = new Float64Array(64); // start of the bucket, Unix ms
  last = new Float64Array(64); // of strings: index into words
  min = new Float64Array(64);
  max = new Float64Array(64);
  count = new Uint32Array(64);
  begin = 0; // the first bucket's place in the columns
  end = 0; // and where the next one goes
  from = Infinity; // history has been asked for from here on
  settled = -Infinity; // before this, buckets are as history has them
  live = false; // takes live points
  words: string[] = [];
  version = 0;
  private codes = new Map<string, number>();
  private learned = -1;
  private interval = 0;

  private fresh: Buckets | null = null; // live points since the question
  private waiting = false;
  private asked = -Infinity; // the newest bucket when it went out

  constructor(
    readonly width: number,
    private readonly room = ROOM,
  ) {}

  get length(): number {
    return this.end - this.begin;
  }

  /** Whether a question is out. */
  get busy(): boolean {
    return this.waiting;
  }

  clear(): void {
    this.begin = this.end = 0;
    this.from = Infinity;
    this.settled = -Infinity;
    this.version++;
  }

  /** The place of the first bucket that is not before t. */
  since(t: number): number {
    let lo = this.begin;
    let hi = this.end;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (this.t[mid] < t) lo = mid + 1;
      else hi = mid;
    }
    return lo;
  }

  /** The code of a word in last. Beyond 1,000 words they are all one. */
  code(word: string): number {
    let c = this.codes.get(word);
    if (c === undefined) {
      if (this.words.length >= 1000) word = "…";
      c = this.codes.get(word) ?? this.words.length;
      if (c === this.words.length) {
        this.words.push(word);
        this.codes.set(word, c);
      }
    }
    return c;
  }

  /** Merges a live point. One that is older than what is settled makes that part unsettled again. */
  add(t: number, last: number, min: number, max: number, count: number): void {
    const b = Math.floor(t / this.width) * this.width;
    if (this.waiting) this.fresh!.merge(b, last, min, max, count);
    if (b < this.settled) this.settled = b;
    this.merge(b, last, min, max, count);
  }

  /** Merges a live point of a string series. */
  say(t: number, word: string): void {
    const b = Math.floor(t / this.width) * this.width;
    if (this.waiting) this.fresh!.say(t, word);
    if (b < this.settled) this.settled = b;
    const c = this.code(word);
    this.merge(b, c, c, c, 1);
  }

  // b is the start of a bucket.
  private merge(b: number, last: number, min: number, max: number, count: number): void {
    this.version++;
    let i = this.end - 1;
    const newest = i < this.begin || b >= this.t[i];
    if (i < this.begin || b > this.t[i]) {
      i = this.resize(this.end, this.end, 1);
    } else if (b < this.t[i]) {
      if (b < this.t[this.begin]) return; // before all that is kept
      i = this.since(b);
      if (this.t[i] !== b) i = this.resize(i, i, 1);
      else i = -1 - i;
    } else {
      i = -1 - i;
    }
    if (i >= 0) {
      this.t[i] = b;
      this.last[i] = last;
      this.min[i] = min;
      this.max[i] = max;
      this.count[i] = count;
      return;
    }
    i = -1 - i;
    if (min < this.min[i]) this.min[i] = min;
    if (max > this.max[i]) this.max[i] = max;
    if (newest) this.last[i] = last; // of a late sample history will tell
    this.count[i] += count;
  }

  /** Notes what is here as a question to history goes out: the answer has all of it, and what comes from now on is merged over it. */
  asking(): void {
    this.asked = this.length > 0 ? this.t[this.end - 1] : -Infinity;
    this.fresh ??= new Buckets(this.width, 512);
    this.fresh.begin = this.fresh.end = 0;
    this.waiting = true;
  }

  /** The question is not answered. */
  unanswered(): void {
    this.waiting = false;
  }

  /**
   * Takes over what history has of [from, to), two multiples of the width, as the answer to the question noted by asking: the
   * truth before settled, and after it what there was then, with live points since merged over it.
   */
  put(from: number, to: number, settled: number, c: Columns): void {
    const n = c.t.length;
    const newest = n > 0 ? c.t[n - 1] : -Infinity;
    if (this.asked > newest && this.asked >= from && this.asked < to) {
      // History is behind what was shown here before: what it does not have yet stays.
      to = n > 0 ? newest + this.width : from;
      settled = Math.min(settled, to);
    }
    const k = this.resize(this.since(from), this.since(to), n);
    for (let j = 0; j < n; j++) {
      this.t[k + j] = c.t[j];
      this.count[k + j] = c.count[j];
      this.last[k + j] = c.text ? this.code(c.text[j]) : c.last[j];
      this.min[k + j] = c.text ? this.last[k + j] : c.min[j];
      this.max[k + j] = c.text ? this.last[k + j] : c.max[j];
    }
    if (from < this.from) this.from = from;
    if (settled > this.settled) this.settled = settled;
    if (this.waiting) {
      this.waiting = false;
      const f = this.fresh!;
      for (let i = f.begin; i < f.end; i++) this.merge(f.t[i], f.words.length ? this.code(f.words[f.last[i]]) : f.last[i], f.min[i], f.max[i], f.count[i]);
    }
    this.version++;
    this.learned = -1;
  }

  /** Forgets buckets before and after: [from, to) is kept. */
  keep(from: number, to: number): void {
    this.begin = this.since(from);
    this.end = this.since(to);
    if (this.from < from) this.from = from;
    if (this.settled > to) this.settled = to;
    if (this.begin === this.end) this.begin = this.end = 0;
    this.version++;
  }

  /** Neighbours further apart than this are not joined, as a rule: max(2 widths, 2.5 usual intervals). */
  gap(): number {
    if (this.learned < 0 || Math.abs(this.version - this.learned) > 64) {
      this.learned = this.version;
      this.interval = this.usual();
    }
    return Math.max(2 * this.width, 2.5 * this.interval);
  }

  /** Whether a line breaks before the bucket at k: it is further away than gap allows, and than what is usual around there. */
  breaks(k: number, gap: number): boolean {
    const apart = this.t[k] - this.t[k - 1];
    if (apart <= gap) return false;
    let n = 0;
    for (let i = Math.max(this.begin + 1, k - 4); i < Math.min(this.end, k + 5); i++) {
      if (i !== k) near[n++] = (this.t[i] - this.t[i - 1]) / Math.max(1, this.count[i - 1]);
    }
    if (n < 4) return true;
    const d = near.subarray(0, n).sort();
    return apart > 2.5 * d[n >> 1];
  }

  // The median distance of samples, over at most 256 of the newest pairs of buckets.
  private usual(): number {
    const first = Math.max(this.begin, this.end - 257);
    const n = this.end - 1 - first;
    if (n < 2) return 0;
    const d = scratch.subarray(0, n);
    for (let i = 0; i < n; i++) d[i] = (this.t[first + i + 1] - this.t[first + i]) / Math.max(1, this.count[first + i]);
    d.sort();
    return d[n >> 1];
  }

  // Makes [a, z) n long and returns where it begins now.
  private resize(a: number, z: number, n: number): number {
    const by = n - (z - a);
    if (this.end + by > this.t.length) {
      // Out of room at the end: to the front, larger, or without the oldest.
      const length = this.length + by;
      let size = this.t.length;
      while (size < length * 1.25 && size < this.room) size *= 2;
      const drop = Math.max(0, length - size + (size < length * 1.25 ? size >> 3 : 0));
      const lost = Math.min(drop, a - this.begin);
      if (drop > lost) size = Math.max(size, 2 ** Math.ceil(Math.log2(length - lost + 1)));
      const first = this.begin + lost;
      if (lost > 0 && this.t[first] > this.from) this.from = this.t[first];
      for (const name of COLUMNS) {
        const old = this[name] as Float64Array;
        if (size === old.length) {
          old.copyWithin(0, first, this.end);
        } else {
          const wider = name === "count" ? new Uint32Array(size) : new Float64Array(size);
          wider.set(old.subarray(first, this.end));
          (this as any)[name] = wider;
        }
      }
      a -= first;
      z -= first;
      this.end -= first;
      this.begin = 0;
    }
    if (by !== 0 && z < this.end) for (const name of COLUMNS) (this[name] as Float64Array).copyWithin(z + by, z, this.end);
    this.end += by;
    return a;
  }
}

const COLUMNS = ["t", "last", "min", "max", "count"] as const;
const scratch = new Float64Array(256);
const near = new Float64Array(8);
