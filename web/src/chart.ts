// A chart of one metric: up to twelve lines with their min–max bands. uPlot gives axes, scales and the cursor; the lines are
// drawn straight from the rings, so nothing is copied per frame and every line keeps its own times.
import uPlot from "uplot";
import { make, setText } from "./dom";
import { age, number } from "./format";
import type { Task } from "./paint";
import { type Ring, SPANS, type Store } from "./store";
import { Quality } from "./wire";

export const LINES = 12;
const HEIGHT = 168;

export interface Context {
  store: Store;
  span(): number; // index into SPANS
  now(): number; // right edge, server's clock; stands still while paused
  mark(t: Task): void;
  shown(): void; // what is in view has changed
  text(slot: number): string; // value as the table writes it, without unit
}

interface Colors {
  lines: string[];
  grid: string;
  axis: string;
  band: string;
  ink: string;
  font: string;
}
let colors: Colors | null = null;

/** Colours come from the tokens; they are read again after the theme changed. */
export function forgetColors(): void {
  colors = null;
}

function palette(): Colors {
  if (!colors) {
    const s = getComputedStyle(document.documentElement);
    const v = (name: string) => s.getPropertyValue(name).trim();
    colors = { lines: [], grid: v("--grid"), axis: v("--axis"), band: v("--band"), ink: v("--ink"), font: `11px ${v("--font")}` };
    for (let i = 1; i <= LINES; i++) colors.lines.push(v("--line-" + i));
  }
  return colors;
}

interface Entry {
  row: HTMLLIElement;
  name: HTMLElement;
  value: HTMLElement;
  version: number;
}

const sync = uPlot.sync("live");

export class Chart implements Task {
  dirty = true;
  every = 66;
  painted = 0;
  visible = false;
  slots: number[] = []; // all series of the metric that pass the filter
  lines: number[] = []; // those drawn now
  readonly card: HTMLElement;
  private first = 0; // of slots, drawn as the first line
  private plot: uPlot | null = null;
  private holder: HTMLElement;
  private title: HTMLElement;
  private unit: HTMLElement;
  private pager: HTMLElement;
  private range: HTMLElement;
  private legend: HTMLOListElement;
  private tableHolder: HTMLElement;
  private toggle: HTMLButtonElement;
  private entries: Entry[] = [];
  private lit = -1; // line under the pointer in the legend
  private lo = NaN;
  private hi = NaN;
  private shrinkAt = 0;
  private asTable = false;
  private decimals = 0; // of all lines alike, so that they can be compared at a glance
  private x = new Float64Array(2);
  private y = new Float64Array(2).fill(NaN);
  private data: uPlot.AlignedData;

  constructor(
    readonly metric: string,
    private readonly ctx: Context,
  ) {
    this.data = [this.x, this.y] as unknown as uPlot.AlignedData;
    this.title = make("h3", {}, metric);
    this.unit = make("span", { class: "unit" });
    this.range = make("span", { class: "muted" });
    const back = make("button", { type: "button", class: "plain icon-only", "aria-label": `Earlier lines of ${metric}` }, "‹");
    const on = make("button", { type: "button", class: "plain icon-only", "aria-label": `Further lines of ${metric}` }, "›");
    back.addEventListener("click", () => this.page(-LINES));
    on.addEventListener("click", () => this.page(LINES));
    this.pager = make("span", { class: "pager", hidden: true }, back, this.range, on);
    this.toggle = make("button", { type: "button", class: "plain chart-toggle", "aria-pressed": "false", title: "Show the values as a table (t)" }, "Table");
    this.toggle.addEventListener("click", () => this.flip());
    this.holder = make("div", { class: "plot", "aria-hidden": "true" });
    this.tableHolder = make("div", { class: "plot-table", hidden: true, tabindex: 0, role: "region", "aria-label": `Values of ${metric}` });
    this.legend = make("ol", { class: "legend" });
    this.card = make(
      "section",
      { class: "card chart", tabindex: 0, "aria-label": `Chart of ${metric}`, "data-metric": metric },
      make("header", { class: "card-head" }, this.title, this.unit, make("span", { class: "end" }, this.pager, this.toggle)),
      this.holder,
      this.tableHolder,
      this.legend,
    );
    this.card.addEventListener("keydown", (e) => {
      if (e.target === this.card && e.key === "t") this.flip();
    });
  }

  private page(by: number): void {
    const n = this.slots.length;
    let f = this.first + by;
    if (f >= n) f = 0;
    else if (f < 0) f = Math.floor((n - 1) / LINES) * LINES;
    this.first = f;
    this.choose();
    this.ctx.shown();
  }

  private flip(): void {
    this.asTable = !this.asTable;
    this.toggle.setAttribute("aria-pressed", String(this.asTable));
    this.holder.hidden = this.asTable;
    this.legend.hidden = this.asTable;
    this.tableHolder.hidden = !this.asTable;
    this.ctx.mark(this);
  }

  setSlots(slots: number[]): void {
    this.slots = slots;
    if (this.first >= slots.length) this.first = 0;
    const s = this.ctx.store;
    const named = slots.find((x) => s.label[x]);
    if (named !== undefined && s.label[named] !== this.metric) this.title.title = s.label[named];
    const units = new Set(slots.map((x) => s.unit[x]).filter(Boolean));
    setText(this.unit, units.size === 1 ? [...units][0] : units.size > 1 ? "several units" : "");
    this.choose();
  }

  private choose(): void {
    const next = this.slots.slice(this.first, this.first + LINES);
    const same = next.length === this.lines.length && next.every((s, i) => s === this.lines[i]);
    this.lines = next;
    this.pager.hidden = this.slots.length <= LINES;
    setText(this.range, `${this.first + 1}–${this.first + next.length} of ${this.slots.length}`);
    if (!same) {
      this.legend.replaceChildren();
      this.entries = next.map((slot, i) => {
        const name = make("a", { href: "/devices/" + this.ctx.store.device[slot] }, this.ctx.store.device[slot]);
        const value = make("span", { class: "legend-value" });
        const row = make("li", { class: "l" + (i + 1) }, make("span", { class: "key", "aria-hidden": "true" }), name, value);
        row.addEventListener("pointerenter", () => this.light(i));
        row.addEventListener("pointerleave", () => this.light(-1));
        name.addEventListener("focus", () => this.light(i));
        name.addEventListener("blur", () => this.light(-1));
        this.legend.append(row);
        return { row, name, value, version: -1 };
      });
      this.legend.classList.toggle("one", next.length === 1);
      this.lo = this.hi = NaN;
      this.decimals = 0;
    }
    this.ctx.mark(this);
  }

  private light(i: number): void {
    this.lit = i;
    this.ctx.mark(this);
  }

  resize(): void {
    if (this.plot && this.holder.clientWidth > 0) this.plot.setSize({ width: this.holder.clientWidth, height: HEIGHT });
  }

  /** Makes the canvas again, in the present theme. */
  restyle(): void {
    this.plot?.destroy();
    this.plot = null;
    this.ctx.mark(this);
  }

  paint(now: number): void {
    if (!this.visible) return;
    if (this.asTable) {
      this.paintTable();
      return;
    }
    this.plot ??= this.build();
    const span = SPANS[this.ctx.span()];
    const right = this.ctx.now();
    this.x[0] = right - span.ms;
    this.x[1] = right;
    this.scaleY(right - span.ms, now);
    const u = this.plot;
    u.batch(() => {
      u.setData(this.data, false);
      u.setScale("x", { min: this.x[0], max: this.x[1] });
      u.setScale("y", { min: this.lo, max: this.hi });
    });
    this.paintLegend();
  }

  // Grows at once, shrinks after five seconds and only when a third is unused: axes that breathe with every sample tire.
  private scaleY(from: number, now: number): void {
    let lo = Infinity;
    let hi = -Infinity;
    let decimals = 0;
    for (const slot of this.lines) {
      const r = this.ring(slot);
      for (let i = Math.max(0, r.since(from) - 1); i < r.length; i++) {
        const k = r.at(i);
        if (r.min[k] < lo) lo = r.min[k];
        if (r.max[k] > hi) hi = r.max[k];
      }
      const d = this.ctx.store.decimals[slot];
      if (d > decimals) decimals = d;
    }
    if (lo > hi) {
      if (Number.isNaN(this.lo)) {
        this.lo = 0;
        this.hi = 1;
      }
      return;
    }
    const least = Math.max(Math.abs(hi) * 1e-3, 10 ** -decimals, 1e-9);
    const room = Math.max((hi - lo) * 0.08, least);
    const floor = lo >= 0 && lo - room < 0 ? 0 : lo - room;
    const top = hi + room;
    if (Number.isNaN(this.lo) || floor < this.lo || top > this.hi) {
      this.lo = Number.isNaN(this.lo) ? floor : Math.min(floor, this.lo);
      this.hi = Number.isNaN(this.hi) ? top : Math.max(top, this.hi);
      this.shrinkAt = now + 5000;
    } else if (top - floor > (this.hi - this.lo) * 0.66) {
      this.shrinkAt = now + 5000;
    } else if (now > this.shrinkAt) {
      this.lo = floor;
      this.hi = top;
    }
  }

  private ring(slot: number): Ring {
    return this.ctx.store.past(slot).rings[this.ctx.span()];
  }

  private paintLegend(): void {
    const s = this.ctx.store;
    const hover = this.plot!.cursor.left! >= 0 ? this.plot!.posToVal(this.plot!.cursor.left!, "x") : NaN;
    for (const slot of this.lines) {
      this.ctx.text(slot); // learns the decimals
      if (s.decimals[slot] > this.decimals) this.decimals = s.decimals[slot];
    }
    for (let i = 0; i < this.lines.length; i++) {
      const slot = this.lines[i];
      const e = this.entries[i];
      let q = s.quality[slot];
      let text: string;
      if (Number.isNaN(hover)) {
        text = s.t[slot] > 0 ? number(s.last[slot], this.decimals) : "–";
        if (q === Quality.Stale && s.t[slot] > 0) text += ` · ${age(this.ctx.now() - s.t[slot])} old`;
      } else {
        const r = this.ring(slot);
        const j = r.since(hover + r.bucket / 2) - 1;
        text = j < 0 ? "–" : number(r.last[r.at(j)], this.decimals);
        if (j >= 0 && r.max[r.at(j)] > r.min[r.at(j)] && this.lines.length <= 4) {
          text += ` (${number(r.min[r.at(j)], s.decimals[slot])} to ${number(r.max[r.at(j)], s.decimals[slot])})`;
        }
        q = Quality.Good;
      }
      setText(e.value, text);
      e.row.dataset.q = String(q);
      e.row.classList.toggle("lit", i === this.lit);
    }
  }

  private paintTable(): void {
    const s = this.ctx.store;
    const from = this.ctx.now() - SPANS[this.ctx.span()].ms;
    let body = this.tableHolder.querySelector("tbody");
    if (!body || body.children.length !== this.lines.length) {
      body = make("tbody");
      for (const slot of this.lines) body.append(make("tr", {}, make("th", { scope: "row" }, s.device[slot]), make("td", { class: "num" }), make("td", { class: "num" }), make("td", { class: "num" }), make("td", { class: "num" })));
      const head = make("tr");
      for (const h of ["Device", "Last", "Lowest", "Highest", "Age"]) head.append(make("th", { scope: "col", class: h === "Device" ? null : "num" }, h));
      this.tableHolder.replaceChildren(make("table", {}, make("thead", {}, head), body));
    }
    this.lines.forEach((slot, i) => {
      let lo = Infinity;
      let hi = -Infinity;
      const r = this.ring(slot);
      for (let j = r.since(from); j < r.length; j++) {
        const k = r.at(j);
        if (r.min[k] < lo) lo = r.min[k];
        if (r.max[k] > hi) hi = r.max[k];
      }
      const c = body!.children[i].children as HTMLCollectionOf<HTMLElement>;
      setText(c[0], s.device[slot]);
      setText(c[1], this.ctx.text(slot));
      setText(c[2], lo > hi ? "–" : number(lo, s.decimals[slot]));
      setText(c[3], lo > hi ? "–" : number(hi, s.decimals[slot]));
      setText(c[4], s.t[slot] > 0 ? age(this.ctx.now() - s.t[slot]) : "–");
    });
  }

  private build(): uPlot {
    const c = palette();
    const u = new uPlot(
      {
        width: Math.max(200, this.holder.clientWidth),
        height: HEIGHT,
        ms: 1,
        padding: [10, 10, 0, 0],
        legend: { show: false },
        cursor: { key: "live", sync: { key: sync.key, setSeries: false }, y: false, points: { show: false }, drag: { x: false, y: false } } as uPlot.Cursor,
        scales: { x: { time: true, auto: false }, y: { auto: false } },
        series: [{}, { show: false }],
        axes: [
          { stroke: c.axis, font: c.font, size: 26, gap: 4, space: 70, grid: { show: false }, ticks: { stroke: c.grid, width: 1, size: 4 }, values: timeLabels },
          { stroke: c.axis, font: c.font, size: 52, gap: 6, space: 32, grid: { stroke: c.grid, width: 1 }, ticks: { show: false }, values: (_, vs) => labels(vs) },
        ],
        hooks: { drawClear: [(p) => this.drawBand(p)], draw: [(p) => this.draw(p)], setCursor: [() => this.ctx.mark(this)] },
      },
      this.data,
      this.holder,
    );
    return u;
  }

  // The normal band, when all lines agree on it.
  private drawBand(u: uPlot): void {
    const s = this.ctx.store;
    if (this.lines.length === 0) return;
    const low = s.low[this.lines[0]];
    const high = s.high[this.lines[0]];
    for (const x of this.lines) if (!Object.is(s.low[x], low) || !Object.is(s.high[x], high)) return;
    if (Number.isNaN(low) && Number.isNaN(high)) return;
    const { left, top, width, height } = u.bbox;
    const y = (v: number) => Math.min(top + height, Math.max(top, top + height * (1 - (v - this.lo) / (this.hi - this.lo))));
    const a = Number.isNaN(high) ? top : y(high);
    const b = Number.isNaN(low) ? top + height : y(low);
    u.ctx.fillStyle = palette().band;
    u.ctx.globalAlpha = 0.4;
    u.ctx.fillRect(left, a, width, b - a);
    u.ctx.globalAlpha = 1;
  }

  private draw(u: uPlot): void {
    const g = u.ctx;
    const c = palette();
    const { left, top, width, height } = u.bbox;
    const t0 = this.x[0];
    const kx = width / (this.x[1] - t0);
    const ky = height / (this.hi - this.lo);
    const bottom = top + height;
    const dpr = devicePixelRatio || 1;
    g.save();
    g.beginPath();
    g.rect(left, top, width, height);
    g.clip();
    g.lineJoin = "round";
    const stale = this.ctx.store.quality;
    for (let i = 0; i < this.lines.length; i++) {
      const slot = this.lines[i];
      const r = this.ring(slot);
      const start = Math.max(0, r.since(t0) - 1);
      if (r.length - start <= 0) continue;
      const faded = this.lit >= 0 && this.lit !== i;
      g.strokeStyle = g.fillStyle = c.lines[i];
      // The band: forth along the maxima, back along the minima.
      g.globalAlpha = faded ? 0.05 : 0.2;
      let a = start;
      while (a < r.length) {
        let b = a;
        while (b < r.length - 1 && r.gap[r.at(b)] === 0) b++;
        g.beginPath();
        for (let j = a; j <= b; j++) {
          const k = r.at(j);
          g.lineTo(left + (r.t[k] - t0) * kx, bottom - (r.max[k] - this.lo) * ky);
        }
        for (let j = b; j >= a; j--) {
          const k = r.at(j);
          g.lineTo(left + (r.t[k] - t0) * kx, bottom - (r.min[k] - this.lo) * ky);
        }
        g.fill();
        a = b + 1;
      }
      // A single bucket has no width as an area: its extremes are a stroke.
      g.globalAlpha = faded ? 0.08 : 0.35;
      g.lineWidth = dpr;
      g.beginPath();
      for (let j = start; j < r.length; j++) {
        const k = r.at(j);
        if (r.max[k] > r.min[k]) {
          const x = left + (r.t[k] - t0) * kx;
          g.moveTo(x, bottom - (r.max[k] - this.lo) * ky);
          g.lineTo(x, bottom - (r.min[k] - this.lo) * ky);
        }
      }
      g.stroke();
      g.globalAlpha = faded ? 0.18 : 1;
      g.lineWidth = (this.lit === i ? 2.25 : 1.25) * dpr;
      g.beginPath();
      let move = true;
      let x = 0;
      let y = 0;
      for (let j = start; j < r.length; j++) {
        const k = r.at(j);
        x = left + (r.t[k] - t0) * kx;
        y = bottom - (r.last[k] - this.lo) * ky;
        if (move) g.moveTo(x, y);
        else g.lineTo(x, y);
        move = r.gap[k] === 1;
      }
      g.stroke();
      if (stale[slot] !== Quality.Stale) {
        g.beginPath();
        g.arc(x, y, 1.75 * dpr, 0, 7);
        g.fill();
      }
    }
    g.restore();
  }
}

const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECOND = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// A label that would be cut at the right edge is left out.
function timeLabels(u: uPlot, vs: number[]): string[] {
  const [f, half] = vs.length > 1 && vs[1] - vs[0] < 60_000 ? [SECOND, 26] : [HOUR, 17];
  const most = u.over.clientWidth - half + 10; // px; the plot's right padding is 10
  return vs.map((v) => (u.valToPos(v, "x") > most ? "" : f.format(v)));
}

function labels(vs: number[]): string[] {
  const step = vs.length > 1 ? vs[1] - vs[0] : 1;
  let d = 0;
  for (let x = step; d < 6 && Math.abs(x - Math.round(x)) > 1e-6 * x; x *= 10) d++; // 2.5 needs one although it is above 1
  return vs.map((v) => {
    const a = Math.abs(v);
    if (a >= 1e6) return (v / 1e6).toFixed(step < 1e5 ? 2 : 1) + " M";
    if (a >= 1e4 && step >= 100) return (v / 1e3).toFixed(step < 1000 ? 1 : 0) + " k";
    return v.toFixed(d);
  });
}
