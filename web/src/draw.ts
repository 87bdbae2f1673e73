// Draws buckets on a canvas: lines with their min–max bands, steps of switches, strips of states. Straight from the columns:
// nothing is copied or allocated per point, and every line keeps its own times.
import type { Buckets } from "./buckets";

/** Where on the canvas, in its pixels, and which time. */
export interface Area {
  left: number;
  top: number;
  width: number;
  height: number;
  from: number;
  to: number;
  now: number; // nothing is drawn later
  dpr: number;
}

export interface Pen {
  color: string;
  lit: boolean;
  faded: boolean;
  dot: boolean; // at the newest
}

function x(a: Area, b: Buckets, k: number): number {
  const middle = b.t[k] + b.width / 2;
  return a.left + (((middle > a.now && b.t[k] <= a.now ? a.now : middle) - a.from) * a.width) / (a.to - a.from);
}

function bounds(a: Area, b: Buckets): [number, number] {
  return [Math.max(b.begin, b.since(a.from - b.width) - 1), Math.min(b.end, b.since(a.to) + 1)];
}

/** A line through the last values, breaking at gaps, over the band from the lowest to the highest. */
export function line(g: CanvasRenderingContext2D, a: Area, b: Buckets, lo: number, hi: number, pen: Pen): void {
  const [start, end] = bounds(a, b);
  if (end <= start) return;
  const gap = b.gap();
  const ky = a.height / (hi - lo);
  const bottom = a.top + a.height;
  g.strokeStyle = g.fillStyle = pen.color;
  g.globalAlpha = pen.faded ? 0.05 : 0.2;
  let i = start;
  while (i < end) {
    let j = i;
    while (j < end - 1 && !b.breaks(j + 1, gap)) j++;
    if (j > i) {
      // Forth along the highest, back along the lowest.
      g.beginPath();
      for (let k = i; k <= j; k++) g.lineTo(x(a, b, k), bottom - (b.max[k] - lo) * ky);
      for (let k = j; k >= i; k--) g.lineTo(x(a, b, k), bottom - (b.min[k] - lo) * ky);
      g.fill();
    }
    i = j + 1;
  }
  // A single bucket has no width as an area: its extremes are a stroke.
  g.globalAlpha = pen.faded ? 0.08 : 0.5;
  g.lineWidth = a.dpr;
  g.beginPath();
  for (let k = start; k < end; k++) {
    if (b.max[k] > b.min[k]) {
      const at = x(a, b, k);
      g.moveTo(at, bottom - (b.max[k] - lo) * ky);
      g.lineTo(at, bottom - (b.min[k] - lo) * ky);
    }
  }
  g.stroke();
  g.globalAlpha = pen.faded ? 0.18 : 1;
  g.lineWidth = (pen.lit ? 2.25 : 1.25) * a.dpr;
  g.beginPath();
  for (let k = start; k < end; k++) {
    const at = x(a, b, k);
    const y = bottom - (b.last[k] - lo) * ky;
    if (k > start && !b.breaks(k, gap)) g.lineTo(at, y);
    else g.moveTo(at, y);
  }
  g.stroke();
  // The newest is a dot, and so is one that stands alone, or it would not be seen.
  g.beginPath();
  for (let k = start; k < end; k++) {
    const alone = (k === start || b.t[k] - b.t[k - 1] > gap) && (k === end - 1 || b.t[k + 1] - b.t[k] > gap);
    if (!(alone && (k === start || b.breaks(k, gap)) && (k === end - 1 || b.breaks(k + 1, gap))) && !(pen.dot && k === b.end - 1)) continue;
    const at = x(a, b, k);
    const y = bottom - (b.last[k] - lo) * ky;
    g.moveTo(at, y);
    g.arc(at, y, 1.75 * a.dpr, 0, 7);
  }
  g.fill();
}

/** A switch as steps: a value holds until the next. */
export function steps(g: CanvasRenderingContext2D, a: Area, b: Buckets, lo: number, hi: number, pen: Pen): void {
  const [start, end] = bounds(a, b);
  const gap = b.gap();
  const ky = a.height / (hi - lo);
  const bottom = a.top + a.height;
  g.strokeStyle = pen.color;
  g.globalAlpha = pen.faded ? 0.18 : 1;
  g.lineWidth = (pen.lit ? 2.25 : 1.5) * a.dpr;
  g.beginPath();
  for (let k = start; k < end; k++) {
    const at = x(a, b, k);
    const y = bottom - (b.last[k] - lo) * ky;
    if (k > start && !b.breaks(k, gap)) g.lineTo(at, bottom - (b.last[k - 1] - lo) * ky);
    else g.moveTo(at, y);
    if (b.max[k] > b.min[k]) {
      g.lineTo(at, bottom - (b.min[k] - lo) * ky);
      g.lineTo(at, bottom - (b.max[k] - lo) * ky);
    }
    g.lineTo(at, y);
  }
  g.stroke();
}

/** How states look: colours by word, in the order in which words were met. */
export interface Look {
  color(word: string): string;
  off: string;
  ink: string;
  font: string;
}

/** One series' states as a strip from top on: runs of the same state, their name in them where it fits. */
export function strip(g: CanvasRenderingContext2D, a: Area, b: Buckets, top: number, height: number, isSwitch: boolean, on: boolean, look: Look, faded: boolean): void {
  const [start, end] = bounds(a, b);
  const gap = b.gap();
  const k = a.width / (a.to - a.from);
  g.font = look.font;
  g.textAlign = "left";
  g.textBaseline = "middle";
  for (let i = start; i < end; ) {
    let j = i;
    const both = isSwitch && b.max[i] > b.min[i];
    while (j < end - 1 && !b.breaks(j + 1, gap) && b.last[j + 1] === b.last[i] && (isSwitch && b.max[j + 1] > b.min[j + 1]) === both) j++;
    const joined = j < end - 1 && !b.breaks(j + 1, gap);
    let until = joined ? b.t[j + 1] : b.t[j] + Math.max(b.width, gap / 2);
    if (j === b.end - 1 && on) until = a.now;
    const x0 = Math.max(a.left - 4, a.left + (b.t[i] - a.from) * k);
    const x1 = Math.min(a.left + (a.now - a.from) * k, a.left + (until - a.from) * k);
    const word = isSwitch ? "" : b.words[b.last[i]];
    const width = Math.max(a.dpr, x1 - x0 - (joined && x1 - x0 > 3 * a.dpr ? a.dpr : 0));
    const off = isSwitch && b.last[i] === 0 && !both;
    g.fillStyle = off ? look.off : look.color(isSwitch ? "true" : word);
    g.globalAlpha = (faded ? 0.3 : 1) * (off ? 1 : both ? 0.3 : 0.55);
    g.fillRect(x0, top, width, height);
    const text = isSwitch ? (both ? "" : off ? "false" : "true") : word;
    const seen = Math.max(x0, a.left);
    if (text && x1 - seen > 24 * a.dpr && g.measureText(text).width < x1 - seen - 10 * a.dpr) {
      g.globalAlpha = faded ? 0.4 : 1;
      g.fillStyle = look.ink;
      g.fillText(text, seen + 5 * a.dpr, top + height / 2 + 0.5 * a.dpr);
    }
    i = j + 1;
  }
  g.globalAlpha = 1;
}
