// The table of current values: thousands of series, rows only for those in view. It sorts by name, value, age or quality,
// filters by text and state, and never reorders under the pointer.
import { $, make, setText } from "./dom";
import { age, byName, decimalsOf, number } from "./format";
import type { Context } from "./chart";
import type { Task } from "./paint";
import { Kind, SPARK, type Store } from "./store";
import { Quality } from "./wire";

export type SortKey = "device" | "metric" | "value" | "age" | "quality";
export type StateFilter = "all" | "attention" | "stale";
export const QUALITIES = ["Good", "Uncertain", "Bad", "Stale"];
const SPARK_W = 120;
const SPARK_H = 20;
const EXTRA = 6; // rows kept above and below the view

interface Row {
  tr: HTMLTableRowElement;
  device: HTMLAnchorElement;
  metric: HTMLElement;
  value: HTMLElement;
  unit: HTMLElement;
  extremes: HTMLElement;
  spark: HTMLCanvasElement;
  age: HTMLElement;
  quality: HTMLElement;
  more: HTMLButtonElement;
  slot: number;
  version: number;
  sparked: number;
}

/** A value as text, without its unit. Its decimals are learned here, so only of what has been shown. */
export function valueText(s: Store, slot: number): string {
  if (s.t[slot] === 0) return "–";
  switch (s.kind[slot]) {
    case Kind.Bool:
      return s.last[slot] ? "true" : "false";
    case Kind.String:
      return s.text[slot] || "–";
    case Kind.Location:
      return `${s.last[slot].toFixed(5)}, ${s.lon[slot].toFixed(5)}`;
  }
  const d = decimalsOf(s.last[slot]);
  if (d > s.decimals[slot]) s.decimals[slot] = d;
  return number(s.last[slot], s.decimals[slot]);
}

export class Table implements Task {
  dirty = true;
  every = 50;
  painted = 0;
  query = "";
  state: StateFilter = "all";
  sort: SortKey = "device";
  descending = false;
  order = new Int32Array(0); // slots as shown
  first = 0;
  shownRows = 0;
  private rows: Row[] = [];
  private body: HTMLTableSectionElement;
  private above = make("tr", { class: "spacer", "aria-hidden": "true" }, make("td", { colspan: 9 }));
  private below = make("tr", { class: "spacer", "aria-hidden": "true" }, make("td", { colspan: 9 }));
  private ranks = new Int32Array(0); // by device, then metric
  private metricRanks = new Int32Array(0);
  private ranked = -1; // store.members when ranks were made
  private rowHeight = 30;
  private pointed = false;
  private sortedAt = 0;
  private spark = { line: "", band: "" };

  constructor(
    private readonly table: HTMLTableElement,
    private readonly ctx: Context,
    private readonly open: (slot: number) => void,
  ) {
    this.body = table.tBodies[0];
    const heads = table.querySelectorAll<HTMLButtonElement>("button.sort");
    for (const b of heads) {
      b.addEventListener("click", () => {
        const key = b.dataset.sort as SortKey;
        if (this.sort === key) this.descending = !this.descending;
        else {
          this.sort = key;
          this.descending = key === "quality" || key === "age";
        }
        this.refresh();
      });
    }
    this.body.addEventListener("pointerenter", () => (this.pointed = true));
    this.body.addEventListener("pointerleave", () => (this.pointed = false));
    window.addEventListener("scroll", () => this.ctx.mark(this), { passive: true });
    this.body.addEventListener("keydown", (e) => this.key(e));
  }

  measure(): void {
    const h = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.rowHeight = Math.round(h * rem) || 30;
    const s = getComputedStyle(document.documentElement);
    this.spark = { line: s.getPropertyValue("--spark").trim(), band: s.getPropertyValue("--band").trim() };
    for (const r of this.rows) r.sparked = 0;
    this.ctx.mark(this);
  }

  /** Whether the series passes the text filter; charts ask, too. */
  matches(slot: number): boolean {
    if (!this.query) return true;
    const s = this.ctx.store;
    const text = `${s.device[slot]}/${s.metric[slot]} ${s.label[slot]} ${s.unit[slot]}`.toLowerCase();
    for (const word of this.query.split(" ")) if (word && !text.includes(word)) return false;
    return true;
  }

  rank(): Int32Array {
    const s = this.ctx.store;
    if (this.ranked !== s.members) {
      this.ranked = s.members;
      const ids = Array.from({ length: s.size }, (_, i) => i);
      this.ranks = new Int32Array(s.size);
      this.metricRanks = new Int32Array(s.size);
      ids.sort((a, b) => byName(s.device[a], s.device[b]) || byName(s.metric[a], s.metric[b]));
      ids.forEach((slot, i) => (this.ranks[slot] = i));
      ids.sort((a, b) => byName(s.metric[a], s.metric[b]) || this.ranks[a] - this.ranks[b]);
      ids.forEach((slot, i) => (this.metricRanks[slot] = i));
    }
    return this.ranks;
  }

  /** Decides anew which rows there are and in what order. */
  refresh(): void {
    const s = this.ctx.store;
    const ranks = this.rank();
    const found: number[] = [];
    for (let i = 0; i < s.size; i++) {
      if (s.gone[i] || !this.matches(i)) continue;
      if (this.state === "stale" && s.quality[i] !== Quality.Stale) continue;
      if (this.state === "attention" && s.quality[i] === Quality.Good && !this.outside(i)) continue;
      found.push(i);
    }
    const sign = this.descending ? -1 : 1;
    let by: (a: number, b: number) => number;
    switch (this.sort) {
      case "metric":
        by = (a, b) => sign * (this.metricRanks[a] - this.metricRanks[b]);
        break;
      case "value":
        by = (a, b) => sign * (s.last[a] - s.last[b]) || ranks[a] - ranks[b];
        break;
      case "age":
        by = (a, b) => sign * (s.t[b] - s.t[a]) || ranks[a] - ranks[b];
        break;
      case "quality":
        by = (a, b) => sign * (s.quality[a] - s.quality[b]) || ranks[a] - ranks[b];
        break;
      default:
        by = (a, b) => sign * (ranks[a] - ranks[b]);
    }
    found.sort(by);
    this.order = Int32Array.from(found);
    this.sortedAt = performance.now();
    this.table.setAttribute("aria-rowcount", String(found.length + 1));
    for (const th of this.table.tHead!.rows[0].cells) {
      const b = th.querySelector<HTMLElement>("button.sort");
      if (b?.dataset.sort === this.sort) th.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
    const none = document.getElementById("no-rows");
    if (none) none.hidden = found.length > 0;
    for (const r of this.rows) r.version = -1;
    this.ctx.mark(this);
  }

  /** Orders by what changes are brought up to date each two seconds, but not under the pointer. */
  maybeResort(now: number): void {
    const live = this.sort === "value" || this.sort === "age" || this.sort === "quality" || this.state !== "all";
    if (live && !this.pointed && now - this.sortedAt > 2000 && !this.body.contains(document.activeElement)) this.refresh();
  }

  outside(slot: number): boolean {
    const s = this.ctx.store;
    return s.last[slot] < s.low[slot] || s.last[slot] > s.high[slot]; // false for NaN
  }

  paint(now: number): void {
    const n = this.order.length;
    const box = this.body.getBoundingClientRect();
    const height = window.innerHeight;
    const from = Math.max(0, Math.floor(-box.top / this.rowHeight) - EXTRA);
    // A few rows are there also while the table is below the fold: for readers who don't scroll, and no flash for those who do.
    const inView = box.top > height ? 2 * EXTRA : Math.ceil(height / this.rowHeight) + 2 * EXTRA;
    const first = Math.min(from, Math.max(0, n - 1));
    const count = Math.max(0, Math.min(n - first, inView));
    if (count !== this.shownRows || !this.above.isConnected) this.fit(count);
    if (first !== this.first || count !== this.shownRows) {
      this.first = first;
      this.shownRows = count;
      this.ctx.shown();
    }
    this.space(this.above, first * this.rowHeight);
    this.space(this.below, (n - first - count) * this.rowHeight);
    for (let i = 0; i < count; i++) this.paintRow(this.rows[i], this.order[first + i], first + i, now);
  }

  private space(tr: HTMLTableRowElement, px: number): void {
    const h = px + "px";
    if (tr.style.height !== h) tr.style.height = h;
    tr.hidden = px <= 0;
  }

  private fit(count: number): void {
    while (this.rows.length < count) this.rows.push(this.build());
    this.body.replaceChildren(this.above, ...this.rows.slice(0, count).map((r) => r.tr), this.below);
  }

  private build(): Row {
    const device = make("a");
    const metric = make("td", { class: "metric" });
    const value = make("span", { class: "v" });
    const unit = make("td", { class: "unit" });
    const extremes = make("td", { class: "num extremes hide-phone" });
    const spark = make("canvas", { class: "spark", "aria-hidden": "true" });
    const ageCell = make("td", { class: "num age" });
    const quality = make("span", { class: "quality" });
    const more = make("button", { type: "button", class: "plain icon-only row-more" }, "⋯");
    const tr = make(
      "tr",
      {},
      make("th", { scope: "row" }, device),
      metric,
      make("td", { class: "num value" }, value),
      unit,
      extremes,
      make("td", { class: "trend hide-phone" }, spark),
      ageCell,
      make("td", { class: "hide-phone" }, quality),
      make("td", { class: "end" }, more),
    );
    const r: Row = { tr, device, metric, value, unit, extremes, spark, age: ageCell, quality, more, slot: -1, version: -1, sparked: 0 };
    more.addEventListener("click", () => this.open(r.slot));
    return r;
  }

  /** A value as text, without its unit. */
  text(slot: number): string {
    return valueText(this.ctx.store, slot);
  }

  private paintRow(r: Row, slot: number, at: number, now: number): void {
    const s = this.ctx.store;
    if (r.slot !== slot) {
      r.slot = slot;
      r.version = -1;
      r.sparked = 0;
      setText(r.device, s.device[slot]);
      r.device.href = "/devices/" + s.device[slot];
      setText(r.metric, s.metric[slot]);
      r.metric.title = s.label[slot];
      r.more.setAttribute("aria-label", `Details of ${s.device[slot]}/${s.metric[slot]}`);
    }
    r.tr.setAttribute("aria-rowindex", String(at + 2));
    const q = s.quality[slot];
    if (r.version !== s.version[slot]) {
      r.version = s.version[slot];
      setText(r.value, this.text(slot));
      setText(r.unit, s.unit[slot]);
      const d = s.decimals[slot];
      setText(r.extremes, s.numeric(slot) && s.t[slot] > 0 && s.max[slot] > s.min[slot] ? `${number(s.min[slot], d)} to ${number(s.max[slot], d)}` : "");
      r.tr.dataset.q = String(q);
      const out = this.outside(slot);
      r.tr.classList.toggle("outside", out);
      setText(r.quality, s.t[slot] === 0 ? "no value yet" : q !== Quality.Good ? QUALITIES[q] : out ? (s.last[slot] < s.low[slot] ? "Below normal" : "Above normal") : "Good");
    }
    const ms = this.ctx.now() - s.t[slot];
    setText(r.age, s.t[slot] === 0 ? "" : q === Quality.Stale ? age(ms) + " old" : age(Math.max(0, ms)));
    if (now - r.sparked > 250) {
      r.sparked = now;
      this.paintSpark(r.spark, slot);
    }
  }

  private paintSpark(canvas: HTMLCanvasElement, slot: number): void {
    const s = this.ctx.store;
    const dpr = devicePixelRatio || 1;
    const w = Math.round(SPARK_W * dpr);
    const h = Math.round(SPARK_H * dpr);
    if (canvas.width !== w) {
      canvas.width = w;
      canvas.height = h;
    }
    if (canvas.clientWidth === 0) return; // not shown on a phone
    const g = canvas.getContext("2d")!;
    g.clearRect(0, 0, w, h);
    if (!s.numeric(slot)) return;
    const ring = s.past(slot).spark;
    const right = this.ctx.now();
    const left = right - SPARK.ms;
    const start = Math.max(ring.begin, ring.since(left) - 1);
    const gap = ring.gap();
    let lo = Infinity;
    let hi = -Infinity;
    for (let k = start; k < ring.end; k++) {
      if (ring.min[k] < lo) lo = ring.min[k];
      if (ring.max[k] > hi) hi = ring.max[k];
    }
    if (lo > hi) return;
    const room = Math.max((hi - lo) * 0.1, Math.abs(hi) * 1e-3, 1e-9);
    lo -= room;
    hi += room;
    const ky = h / (hi - lo);
    const kx = w / SPARK.ms;
    const x = (k: number) => (Math.min(ring.t[k] + SPARK.bucket / 2, right) - left) * kx;
    const low = s.low[slot];
    const high = s.high[slot];
    if (!Number.isNaN(low) || !Number.isNaN(high)) {
      const a = Number.isNaN(high) ? 0 : Math.max(0, h - (high - lo) * ky);
      const b = Number.isNaN(low) ? h : Math.min(h, h - (low - lo) * ky);
      g.fillStyle = this.spark.band;
      g.globalAlpha = 0.5;
      if (b > a) g.fillRect(0, a, w, b - a);
      g.globalAlpha = 1;
    }
    g.strokeStyle = this.spark.line;
    g.globalAlpha = 0.45;
    g.lineWidth = dpr;
    g.beginPath();
    for (let k = start; k < ring.end; k++) {
      if (ring.max[k] > ring.min[k]) {
        g.moveTo(x(k), h - (ring.max[k] - lo) * ky);
        g.lineTo(x(k), h - (ring.min[k] - lo) * ky);
      }
    }
    g.stroke();
    g.globalAlpha = s.quality[slot] === Quality.Stale ? 0.5 : 1;
    g.beginPath();
    for (let k = start; k < ring.end; k++) {
      const y = h - (ring.last[k] - lo) * ky;
      if (k > start && !ring.breaks(k, gap)) g.lineTo(x(k), y);
      else g.moveTo(x(k), y);
    }
    g.stroke();
  }

  // Arrows walk through the rows, keeping the column.
  private key(e: KeyboardEvent): void {
    if (e.key !== "ArrowDown" && e.key !== "ArrowUp") return;
    const target = e.target as HTMLElement;
    const i = this.rows.findIndex((r) => r.tr.contains(target));
    if (i < 0) return;
    e.preventDefault();
    e.stopPropagation();
    const to = this.first + i + (e.key === "ArrowDown" ? 1 : -1);
    if (to < 0 || to >= this.order.length) return;
    const inColumn = target.classList.contains("row-more");
    const top = this.body.getBoundingClientRect().top + to * this.rowHeight;
    const head = $("main").offsetTop + 40;
    if (top < head) window.scrollBy(0, top - head);
    else if (top + this.rowHeight > window.innerHeight) window.scrollBy(0, top + 2 * this.rowHeight - window.innerHeight);
    this.paint(performance.now());
    const r = this.rows[to - this.first];
    (inColumn ? r?.more : r?.device)?.focus({ preventScroll: true });
  }
}
