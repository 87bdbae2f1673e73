// What time a page shows: live with a window up to now, a fixed range, or a replay. All charts of a page share one timeline;
// the address bar holds it, so that a link shows the same and the browser's back and forward work.
import type { Address, Part } from "./address";

/** The ranges one can choose quickly; keys 1 to 9. */
export const WINDOWS = [
  { key: "1m", text: "1 minute", ms: 60_000 },
  { key: "5m", text: "5 minutes", ms: 300_000 },
  { key: "15m", text: "15 minutes", ms: 900_000 },
  { key: "1h", text: "1 hour", ms: 3_600_000 },
  { key: "6h", text: "6 hours", ms: 21_600_000 },
  { key: "24h", text: "24 hours", ms: 86_400_000 },
  { key: "7d", text: "7 days", ms: 604_800_000 },
  { key: "30d", text: "30 days", ms: 2_592_000_000 },
  { key: "1y", text: "1 year", ms: 31_536_000_000 },
] as const;
export const USUAL = 900_000;
export const LEAST = 50; // ms shown, fixed
export const LEAST_LIVE = 1000;
export const MOST = 2 * 31_536_000_000;

/** live: up to now and running on; fixed: stands still; replay: its right edge runs through the past. */
export type Mode = "live" | "fixed" | "replay";

const HELD = 30_000; // ms; who holds it longer has forgotten it
const GLIDE = 1000; // ms within which moves are one step for the browser's history
const UNITS: [string, number][] = [
  ["y", 31_536_000_000],
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["m", 60_000],
  ["s", 1000],
  ["ms", 1],
];

/** A span as in the address: "15m", "24h", "90s". */
export function formatSpan(ms: number): string {
  const known = WINDOWS.find((w) => w.ms === ms);
  if (known) return known.key;
  for (const [unit, size] of UNITS) if (ms % size === 0) return ms / size + unit;
  return Math.round(ms) + "ms";
}

/** What formatSpan wrote; NaN for anything else. */
export function parseSpan(s: string): number {
  const m = /^(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d|w|y)$/.exec(s.trim());
  if (!m) return NaN;
  return Number(m[1]) * (m[2] === "w" ? 604_800_000 : UNITS.find((u) => u[0] === m[2])![1]);
}

/** A moment as in the address: RFC 3339 in UTC, or Unix milliseconds. NaN for anything else. */
export function parseMoment(s: string): number {
  if (/^\d{10,14}$/.test(s)) return s.length <= 10 ? Number(s) * 1000 : Number(s);
  return /^\d{4}-\d\d-\d\d/.test(s) ? Date.parse(s) : NaN;
}

export function formatMoment(ms: number): string {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}

export class Timeline implements Part {
  mode: Mode = "live";
  paused = false; // fixed by pausing: the whole page stands still, not only its charts
  window = USUAL; // ms shown
  private end = 0; // right edge while fixed
  private held = NaN; // right edge while a pointer holds a live picture
  private edge: (() => number) | null = null; // of a replay
  private seek: ((edge: number) => void) | null = null;
  private listeners = new Set<() => void>();
  private glided = -Infinity;

  /** clock tells now by the server's clock; address is where the view is written, if anywhere. */
  constructor(
    readonly clock: () => number,
    private readonly address: Address | null = null,
  ) {
    address?.add(this);
  }

  /** Calls f after each change by hand or address; not while live time just passes. Returns what ends it. */
  listen(f: () => void): () => void {
    this.listeners.add(f);
    return () => this.listeners.delete(f);
  }

  right(): number {
    if (this.mode === "replay") return this.edge!();
    if (this.mode === "fixed") return this.end;
    const now = this.clock();
    return now - this.held < HELD ? this.held : now; // NaN: not held
  }

  left(): number {
    return this.right() - this.window;
  }

  /** Holds a live picture still while one points at something in it. */
  hold(on: boolean): void {
    this.held = on && this.mode === "live" ? this.clock() : NaN;
  }

  /** Runs on with now, with another window if given. */
  live(window = this.window): void {
    this.become("live", clamp(window, LEAST_LIVE, MOST), 0, true);
  }

  /** Shows from–to. A glide is one of many small moves: together they are one step back for the browser. */
  fix(from: number, to: number, glide = false): void {
    let [a, b] = from <= to ? [from, to] : [to, from];
    if (b - a < LEAST) {
      const middle = (a + b) / 2;
      a = middle - LEAST / 2;
      b = middle + LEAST / 2;
    }
    if (b - a > MOST) a = b - MOST;
    let push = true;
    if (glide) {
      const now = performance.now();
      push = now - this.glided > GLIDE;
      this.glided = now;
    }
    a = Math.round(a);
    b = Math.round(b);
    this.become("fixed", b - a, b, push);
  }

  /** Stops where it is. */
  pause(): void {
    if (this.mode !== "live") return;
    const at = Math.round(this.right());
    this.become("fixed", this.window, at, false, true);
  }

  /** Pauses, or goes back to live. */
  toggle(): void {
    if (this.mode === "live") this.pause();
    else if (this.paused) this.become("live", Math.max(this.window, LEAST_LIVE), 0, false);
    else this.live();
  }

  /** Moves by so many windows: -0.5 is half a window back. Forward past now becomes live. */
  step(windows: number, glide = false): void {
    if (this.mode === "live" && windows >= 0) return;
    if (this.mode === "replay") return this.seek!(this.right() + windows * this.window);
    this.settle(this.left() + windows * this.window, this.right() + windows * this.window, glide, windows > 0);
  }

  /** Moves to from–to with a finger or a wheel: many small moves are one step back. What reaches past now ends there, and is live. */
  move(from: number, to: number): void {
    if (this.mode === "replay") return this.seek!(to);
    this.settle(from, to, true, to >= this.right() || to - from > this.window);
  }

  /** Shows factor times as much; at, if given, keeps its place. A live picture stays live unless one zooms into its past. */
  zoom(factor: number, at = NaN, glide = false): void {
    const left = this.left();
    const right = this.right();
    const limit = this.mode === "live" && !(at < right) ? LEAST_LIVE : LEAST;
    const window = clamp(this.window * factor, limit, MOST);
    if (this.mode === "replay") {
      if (window === this.window) return;
      this.window = Math.round(window);
      this.tell();
      this.address?.changed(false);
      return;
    }
    if (this.mode === "live" && (Number.isNaN(at) || factor >= 1 || right - at < 0.03 * this.window)) {
      if (window !== this.window) this.become("live", Math.round(window), 0, !glide || this.first());
      return;
    }
    const share = Number.isNaN(at) ? 0.5 : (at - left) / this.window;
    const middle = Number.isNaN(at) ? (left + right) / 2 : at;
    this.settle(middle - share * window, middle + (1 - share) * window, glide, factor > 1);
  }

  /** Plays: the right edge is what edge tells, until stop or any other change. Moves and steps go to seek. */
  play(edge: () => number, seek: (edge: number) => void): void {
    this.edge = edge;
    this.seek = seek;
    this.mode = "replay";
    this.paused = false;
    this.held = NaN;
    this.tell();
  }

  /** Ends a replay where it is. */
  stop(): void {
    if (this.mode === "replay") this.become("fixed", this.window, Math.round(this.right()), false);
  }

  write(q: URLSearchParams): void {
    if (this.mode !== "fixed") {
      if (this.window !== USUAL) q.set("range", formatSpan(this.window));
      return;
    }
    q.set("from", formatMoment(this.left()));
    q.set("to", formatMoment(this.right()));
  }

  read(q: URLSearchParams): void {
    const from = parseMoment(q.get("from") ?? "");
    const to = parseMoment(q.get("to") ?? "");
    this.paused = false;
    this.held = NaN;
    this.edge = null;
    if (to - from >= LEAST && to - from <= MOST) {
      this.mode = "fixed";
      this.window = to - from;
      this.end = to;
    } else {
      const span = parseSpan(q.get("range") ?? "");
      this.mode = "live";
      this.window = span >= LEAST_LIVE && span <= MOST ? span : USUAL;
    }
    this.tell();
  }

  // Fixes a range that one has moved to; what would reach past now ends at now, and is live when one has moved on to there.
  private settle(from: number, to: number, glide: boolean, onwards: boolean): void {
    const now = this.clock();
    if (to >= now) {
      if (onwards && to - from >= LEAST_LIVE) {
        this.become("live", Math.round(to - from), 0, !glide || this.first());
        return;
      }
      from -= to - now;
      to = now;
    }
    this.fix(from, to, glide);
  }

  private first(): boolean {
    const now = performance.now();
    const is = now - this.glided > GLIDE;
    this.glided = now;
    return is;
  }

  private become(mode: Mode, window: number, end: number, push: boolean, paused = false): void {
    const same = this.mode === mode && this.window === window && (mode === "live" || this.end === end);
    this.mode = mode;
    this.window = window;
    this.end = end;
    this.paused = paused;
    this.held = NaN;
    this.edge = null;
    if (same) return;
    this.tell();
    this.address?.changed(push);
  }

  private tell(): void {
    for (const f of this.listeners) f();
  }
}

function clamp(v: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, v));
}
