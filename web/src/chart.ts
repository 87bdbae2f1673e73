// A chart: up to twelve lines over the page's time, with their min–max bands. uPlot gives axes, scales and the cursor; lines, steps and
// strips are drawn straight from the buckets (draw.ts). Each unit has its own axis. Where all series are switches or words, it is a strip of states
// for each.
import uPlot from "uplot";
import { day, moment, ticks } from "./axis";
import { paintTable, valueText } from "./charttable";
import { LINES, palette } from "./colors";
import { type Area, type Look, line, steps, strip } from "./draw";
import { make, setText } from "./dom";
import { age, number } from "./format";
import { gestures } from "./gestures";
import { across, labels, timeLabels } from "./labels";
import type { Filled } from "./backfill";
import type { Task } from "./paint";
import { Kind, type Store } from "./store";
import type { Timeline } from "./timeline";
import { Quality } from "./wire";

export { LINES };
const AXES = 4; // units with an axis of their own
const HEIGHT = 168;
const LANE = 24; // px of a strip of states; what one points at is not lower
const UNDER = 26; // px of the time axis
const APART = [0, 1, 2, 3, 5, 4, 8, 7, 10, 11, 9, 6]; // lines, the most different first
const HUES = 5;

/** What charts and the table share. */
export interface Context {
  store: Store;
  time: Timeline;
  now(): number; // what ages are counted from; stands still while paused
  mark(t: Task): void;
  shown(): void; // what is in view has changed
  text(slot: number): string; // value as the table writes it, without unit
  hidden: Set<string>; // "device/metric" of lines that are switched off
  hide(slot: number, alone: boolean): void; // switches a line off or on, or all others
  retry(): void; // asks history again
  nearest(chart: Chart): void; // goes to where there is something
  extent(chart: Chart): Promise<{ oldest: number; newest: number } | null>; // of what is recorded
}

/** How a chart is called and calls its lines. */
export interface ChartOptions {
  key: string; // distinguishes it on its page
  title: string;
  name?(slot: number): string; // of a line; usually the device
  height?: number; // px of the plot; not for strips of states
}

interface Entry {
  row: HTMLLIElement;
  key: HTMLButtonElement;
  value: HTMLElement;
}

/** The vertical scale of the lines of one unit. */
interface Scale {
  unit: string;
  lo: number;
  hi: number;
  shrinkAt: number;
}

const sync = uPlot.sync("live");

export class Chart implements Task, Filled {
  dirty = true;
  every = 66;
  painted = 0;
  visible = false;
  slots: number[] = []; // all series of the chart that pass the filter
  lines: number[] = []; // those drawn now
  readonly key: string;
  readonly card: HTMLElement;
  private first = 0; // of slots, drawn as the first line
  private plot: uPlot | null = null;
  private readonly body: HTMLElement;
  private readonly holder: HTMLElement;
  private readonly title: HTMLElement;
  private readonly unit: HTMLElement;
  private readonly pager: HTMLElement;
  private readonly range: HTMLElement;
  private readonly legend: HTMLOListElement;
  private readonly wordList = make("ul", { class: "words", "aria-label": "States", hidden: true });
  private readonly tableHolder: HTMLElement;
  private readonly toggle: HTMLButtonElement;
  private readonly note = make("div", { class: "chart-note", hidden: true });
  private readonly pointer = make("div", { class: "cursor-time", hidden: true });
  private entries: Entry[] = [];
  private scales: Scale[] = [];
  private scaleOf: number[] = []; // of each line
  private strips = false;
  private lit = -1; // line under the pointer in the legend
  private asTable = false;
  private decimals: number[] = []; // of each scale alike, so that lines can be compared at a glance
  private x = new Float64Array(2);
  private data: uPlot.AlignedData = [[]];
  private drawnAt = 0;
  private drawnFrom = 0;
  private drawnTo = 0;
  private drawnVersion = -1;
  private force = true;
  private pointed = false;
  private words = new Map<string, number>();
  private told = "";

  constructor(
    private readonly options: ChartOptions,
    private readonly ctx: Context,
  ) {
    const title = options.title;
    this.key = options.key;
    this.title = make("h3", {}, title);
    this.unit = make("span", { class: "unit" });
    this.range = make("span", { class: "muted" });
    const back = make("button", { type: "button", class: "plain icon-only", "aria-label": `Earlier lines of ${title}` }, "‹");
    const on = make("button", { type: "button", class: "plain icon-only", "aria-label": `Further lines of ${title}` }, "›");
    back.addEventListener("click", () => this.page(-LINES));
    on.addEventListener("click", () => this.page(LINES));
    this.pager = make("span", { class: "pager", hidden: true }, back, this.range, on);
    this.toggle = make("button", { type: "button", class: "plain chart-toggle", "aria-pressed": "false", title: "Show the values as a table (t)" }, "Table");
    this.toggle.addEventListener("click", () => this.flip());
    this.holder = make("div", { class: "plot", "aria-hidden": "true" });
    this.tableHolder = make("div", { class: "plot-table", hidden: true, tabindex: 0, role: "region", "aria-label": `Values of ${title}` });
    this.legend = make("ol", { class: "legend" });
    this.body = make("div", { class: "chart-body" }, this.holder, this.legend, this.wordList);
    this.card = make(
      "section",
      { class: "card chart", tabindex: 0, "aria-label": `Chart of ${title}`, "data-key": options.key },
      make("header", { class: "card-head" }, this.title, this.unit, make("span", { class: "end" }, this.pager, this.toggle)),
      this.body,
      this.tableHolder,
      this.note,
    );
    this.card.addEventListener("keydown", (e) => {
      if (e.target === this.card && e.key === "t") this.flip();
    });
    this.holder.addEventListener("pointerenter", () => (this.pointed = true));
    this.holder.addEventListener("pointerleave", () => {
      this.pointed = false;
      this.pointer.hidden = true;
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
    this.body.hidden = this.asTable;
    this.tableHolder.hidden = !this.asTable;
    this.redraw();
  }

  setSlots(slots: number[]): void {
    this.slots = slots;
    if (this.first >= slots.length) this.first = 0;
    const s = this.ctx.store;
    const named = slots.find((x) => s.label[x]);
    if (named !== undefined && s.label[named] !== this.options.title) this.title.title = s.label[named];
    this.choose();
  }

  private choose(): void {
    const s = this.ctx.store;
    const next = this.slots.slice(this.first, this.first + LINES);
    const same = next.length === this.lines.length && next.every((x, i) => x === this.lines[i]);
    this.lines = next;
    this.pager.hidden = this.slots.length <= LINES;
    setText(this.range, `${this.first + 1}–${this.first + next.length} of ${this.slots.length}`);
    const strips = next.length > 0 && next.every((x) => s.state(x));
    const units: string[] = [];
    this.scaleOf = next.map((x) => {
      const unit = s.kind[x] === Kind.Bool ? "on/off" : s.unit[x];
      let i = units.indexOf(unit);
      if (i < 0) i = units.push(unit) - 1;
      return i;
    });
    setText(this.unit, strips || units.length === 0 ? "" : units.length === 1 ? units[0] : units.filter(Boolean).join(" · "));
    if (strips !== this.strips || units.length !== this.scales.length || units.some((u, i) => u !== this.scales[i].unit) || (strips && !same)) {
      this.strips = strips;
      this.scales = units.map((unit) => ({ unit, lo: NaN, hi: NaN, shrinkAt: 0 }));
      this.decimals = units.map(() => 0);
      this.body.classList.toggle("states", strips);
      this.words.clear();
      this.wordList.replaceChildren();
      this.wordList.hidden = !strips;
      if (strips && next.some((x) => s.kind[x] === Kind.Bool)) {
        this.wordList.append(make("li", { class: "l1" }, make("span", { class: "key" }, make("span", {})), "true"), make("li", { class: "off" }, make("span", { class: "key" }, make("span", {})), "false"));
      }
      this.restyle();
    }
    if (!same) {
      this.legend.replaceChildren();
      this.entries = next.map((slot, i) => this.entry(slot, i));
      this.legend.classList.toggle("one", next.length === 1);
      for (const c of this.scales) c.lo = c.hi = NaN;
      this.decimals.fill(0);
    }
    this.redraw();
  }

  private entry(slot: number, i: number): Entry {
    const s = this.ctx.store;
    const text = this.options.name?.(slot) ?? s.device[slot];
    const key = make("button", { type: "button", class: "key", "aria-pressed": "true", "aria-label": `Draw ${text}`, title: "Hide or show; with Shift, hide or show all others" }, make("span", {}));
    key.addEventListener("click", (e) => this.ctx.hide(slot, e.shiftKey));
    const name = make("a", { href: "/devices/" + s.device[slot] }, text);
    const value = make("span", { class: "legend-value" });
    const row = make("li", { class: "l" + (i + 1) }, key, name, value);
    row.addEventListener("pointerenter", () => this.light(i));
    row.addEventListener("pointerleave", () => this.light(-1));
    name.addEventListener("focus", () => this.light(i));
    name.addEventListener("blur", () => this.light(-1));
    this.legend.append(row);
    return { row, key, value };
  }

  private light(i: number): void {
    this.lit = i;
    this.redraw();
  }

  /** Draws again at the next chance, whether or not anything has changed. */
  redraw(): void {
    this.force = true;
    this.ctx.mark(this);
  }

  /** The range has changed: scales fit anew. */
  moved(): void {
    if (this.ctx.time.mode !== "live") for (const s of this.scales) s.lo = s.hi = NaN;
    this.redraw();
  }

  resize(): void {
    if (this.plot && this.holder.clientWidth > 0) this.plot.setSize({ width: this.holder.clientWidth, height: this.height() });
    this.redraw();
  }

  private height(): number {
    return this.strips ? this.lines.length * LANE + UNDER + 4 : (this.options.height ?? HEIGHT);
  }

  /** Makes the canvas again, in the present theme. */
  restyle(): void {
    this.plot?.destroy();
    this.plot = null;
    this.redraw();
  }

  /** What the plot looks like now, for a picture of it. */
  canvas(): HTMLCanvasElement | null {
    return this.plot?.ctx.canvas ?? null;
  }

  filled(loading: boolean, failed: string, loaded: boolean): void {
    const { time, store } = this.ctx;
    this.card.classList.toggle("loading", loading);
    const left = time.left();
    const right = time.right();
    let empty = loaded && !loading && this.lines.length > 0;
    if (empty) {
      for (const slot of this.lines) {
        const b = store.shown(slot);
        const k = b.since(left - b.width);
        if (k < b.end && b.t[k] <= right) {
          empty = false;
          break;
        }
      }
    }
    const tell = failed ? "failed:" + failed : empty ? "empty" : "";
    if (tell === this.told) return;
    this.told = tell;
    this.note.hidden = tell === "";
    this.note.classList.toggle("failed", failed !== "");
    if (failed) {
      const again = make("button", { type: "button" }, "Try again");
      again.addEventListener("click", () => this.ctx.retry());
      this.note.replaceChildren(make("span", { title: failed }, "The past can't be loaded."), again);
    } else if (empty) {
      const go = make("button", { type: "button" }, "Go to the nearest");
      go.addEventListener("click", () => this.ctx.nearest(this));
      const text = make("span", {}, "Nothing recorded in this range.");
      this.note.replaceChildren(text, go);
      this.ctx.extent(this).then(
        (e) => {
          if (!e) setText(text, "Nothing is recorded of these series yet.");
          else setText(text, `Nothing recorded in this range. The oldest sample is of ${day(e.oldest)}, the newest of ${day(e.newest)}.`);
          go.hidden = !e;
        },
        () => {}, // it stays without
      );
    }
  }

  paint(now: number): void {
    if (!this.visible) return;
    if (this.asTable) {
      paintTable(this.tableHolder, this.options, this.lines, this.scales.length > 1, this.ctx);
      return;
    }
    if (!this.plot) {
      this.plot = this.build();
      this.force = true;
    }
    const { time, store } = this.ctx;
    const from = time.left();
    const to = time.right();
    let version = 0;
    for (const slot of this.lines) version += store.shown(slot).version;
    // At wide windows nothing moves by a pixel from one frame to the next.
    const due = now - this.drawnAt >= Math.min(250, Math.max(60, time.window / 3600));
    if (this.force || (due && (from !== this.drawnFrom || to !== this.drawnTo || version !== this.drawnVersion))) {
      this.force = false;
      this.drawnAt = now;
      this.drawnFrom = this.x[0] = from;
      this.drawnTo = this.x[1] = to;
      this.drawnVersion = version;
      for (let i = 0; i < this.scales.length; i++) this.fit(i, from, to, now);
      const u = this.plot;
      u.batch(() => {
        u.setData(this.data, false);
        u.setScale("x", { min: from, max: to });
        this.scales.forEach((s, i) => u.setScale("y" + i, { min: Number.isNaN(s.lo) ? 0 : s.lo, max: Number.isNaN(s.lo) ? 1 : s.hi }));
      });
    }
    this.paintLegend();
  }

  private off(slot: number): boolean {
    const h = this.ctx.hidden;
    return h.size > 0 && h.has(this.ctx.store.device[slot] + "/" + this.ctx.store.metric[slot]);
  }

  // Live, a scale grows at once, shrinks after five seconds and only when a third is unused: axes that breathe with every sample tire.
  private fit(at: number, from: number, to: number, now: number): void {
    const scale = this.scales[at];
    if (this.strips || scale.unit === "on/off") {
      scale.lo = -0.15;
      scale.hi = 1.15;
      return;
    }
    const store = this.ctx.store;
    let lo = Infinity;
    let hi = -Infinity;
    let decimals = 0;
    this.lines.forEach((slot, i) => {
      if (this.scaleOf[i] !== at || this.off(slot)) return;
      const b = store.shown(slot);
      const first = Math.max(b.begin, b.since(from) - 1);
      for (let k = first; k < b.end && b.t[k] <= to; k++) {
        if (b.min[k] < lo) lo = b.min[k];
        if (b.max[k] > hi) hi = b.max[k];
      }
      if (store.decimals[slot] > decimals) decimals = store.decimals[slot];
    });
    if (lo > hi) return;
    const least = Math.max(Math.abs(hi) * 1e-3, 10 ** -decimals, 1e-9);
    const room = Math.max((hi - lo) * 0.08, least);
    const floor = lo >= 0 && lo - room < 0 ? 0 : lo - room;
    const top = hi + room;
    if (Number.isNaN(scale.lo) || this.ctx.time.mode === "fixed") {
      scale.lo = floor;
      scale.hi = top;
      scale.shrinkAt = now + 5000;
    } else if (floor < scale.lo || top > scale.hi) {
      scale.lo = Math.min(floor, scale.lo);
      scale.hi = Math.max(top, scale.hi);
      scale.shrinkAt = now + 5000;
    } else if (top - floor > (scale.hi - scale.lo) * 0.66) {
      scale.shrinkAt = now + 5000;
    } else if (now > scale.shrinkAt) {
      scale.lo = floor;
      scale.hi = top;
    }
  }

  private paintLegend(): void {
    const { store: s, time } = this.ctx;
    const u = this.plot!;
    const cursor = u.cursor.left! >= 0 ? u.posToVal(u.cursor.left!, "x") : NaN;
    const live = time.mode !== "fixed"; // values as of the right edge
    this.lines.forEach((slot, i) => {
      this.ctx.text(slot); // learns the decimals
      if (s.decimals[slot] > this.decimals[this.scaleOf[i]]) this.decimals[this.scaleOf[i]] = s.decimals[slot];
    });
    for (let i = 0; i < this.lines.length; i++) {
      const slot = this.lines[i];
      const e = this.entries[i];
      const d = this.decimals[this.scaleOf[i]];
      const unit = this.scales.length > 1 && s.unit[slot] && !this.strips ? " " + s.unit[slot] : "";
      let q = live ? s.quality[slot] : Quality.Good;
      let text = "–";
      if (live && Number.isNaN(cursor)) {
        if (s.t[slot] > 0) text = (s.numeric(slot) ? number(s.last[slot], d) : this.ctx.text(slot)) + unit;
        if (q === Quality.Stale && s.t[slot] > 0) text += ` · ${age(this.ctx.now() - s.t[slot])} old`;
      } else {
        q = Quality.Good;
        const b = s.shown(slot);
        const at = Number.isNaN(cursor) ? time.right() : cursor;
        const k = b.since(at + b.width / 2) - 1;
        // Further from the pointer than a gap, there is no value there.
        if (k >= b.begin && (Number.isNaN(cursor) ? b.t[k] + b.width >= time.left() : at - b.t[k] <= b.gap() + b.width)) {
          text = valueText(s.kind[slot], b.last[k], d, b.words) + unit;
          if (!Number.isNaN(cursor) && s.numeric(slot) && b.max[k] > b.min[k] && this.lines.length <= 4) text += ` (${number(b.min[k], d)} to ${number(b.max[k], d)})`;
        }
      }
      setText(e.value, text);
      e.row.dataset.q = String(q);
      const off = this.off(slot);
      e.key.setAttribute("aria-pressed", String(!off));
      e.row.classList.toggle("off", off);
      e.row.classList.toggle("lit", i === this.lit);
    }
    const show = this.pointed && !Number.isNaN(cursor);
    this.pointer.hidden = !show;
    if (show) {
      setText(this.pointer, moment(cursor, time.window, time.window >= 86_400_000));
      const half = this.pointer.offsetWidth / 2;
      this.pointer.style.left = Math.round(Math.max(half, Math.min(u.over.clientWidth - half, u.cursor.left!))) + "px";
    }
  }

  private build(): uPlot {
    const c = palette();
    const scales: uPlot.Scales = { x: { time: true, auto: false } };
    const series: uPlot.Series[] = [{}];
    const none = new Float64Array(2).fill(NaN);
    this.data = [this.x, ...this.scales.map(() => none)] as unknown as uPlot.AlignedData;
    const axes: uPlot.Axis[] = [
      {
        stroke: c.axis,
        font: c.font,
        size: UNDER,
        gap: 4,
        grid: this.strips ? { stroke: c.grid, width: 1 } : { show: false },
        ticks: { stroke: c.grid, width: 1, size: 4 },
        splits: (u, _, from, to) => ticks(from, to, across(u) / 76).at,
        values: (u, at) => timeLabels(u, at),
      },
    ];
    let shown = 0;
    this.scales.forEach((s, i) => {
      scales["y" + i] = { auto: false };
      series.push({ show: false, scale: "y" + i });
      if (shown >= AXES || this.strips || (s.unit === "on/off" && this.scales.length > 1)) return; // on is up
      const several = this.scales.length > 1;
      axes.push({
        scale: "y" + i,
        side: shown++ % 2 === 0 ? 3 : 1,
        stroke: c.axis,
        font: c.font,
        size: several ? 48 : 52,
        gap: 6,
        space: 32,
        label: several ? s.unit || " " : undefined,
        labelFont: c.font,
        labelSize: 16,
        labelGap: 0,
        grid: shown === 1 ? { stroke: c.grid, width: 1 } : { show: false },
        ticks: { show: false },
        values: (_, vs) => (Number.isNaN(s.lo) ? vs.map(() => "") : labels(vs)),
      });
    });
    this.holder.style.height = this.height() + "px";
    const u = new uPlot(
      {
        width: Math.max(160, this.holder.clientWidth),
        height: this.height(),
        ms: 1,
        padding: this.strips ? [4, 10, 0, 6] : [10, shown > 1 ? 0 : 10, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: sync.key, setSeries: false }, y: false, points: { show: false }, drag: { x: false, y: false, setScale: false } } as uPlot.Cursor,
        scales,
        series,
        axes,
        hooks: { drawClear: [(p) => this.drawBand(p)], draw: [(p) => this.draw(p)], setCursor: [() => this.ctx.mark(this)] },
      },
      this.data,
      this.holder,
    );
    u.over.append(this.pointer);
    gestures(u.over, this.card, this.ctx.time);
    return u;
  }

  // The normal band, when all lines agree on it.
  private drawBand(u: uPlot): void {
    const s = this.ctx.store;
    if (this.lines.length === 0 || this.scales.length !== 1 || this.strips) return;
    const low = s.low[this.lines[0]];
    const high = s.high[this.lines[0]];
    for (const x of this.lines) if (!Object.is(s.low[x], low) || !Object.is(s.high[x], high)) return;
    if (Number.isNaN(low) && Number.isNaN(high)) return;
    const { lo, hi } = this.scales[0];
    if (Number.isNaN(lo)) return;
    const { left, top, width, height } = u.bbox;
    const y = (v: number) => Math.min(top + height, Math.max(top, top + height * (1 - (v - lo) / (hi - lo))));
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
    const { store, time } = this.ctx;
    const { left, top, width, height } = u.bbox;
    const dpr = devicePixelRatio || 1;
    const live = time.mode === "live";
    const area: Area = { left, top, width, height, from: this.x[0], to: this.x[1], now: Math.min(this.x[1], time.clock()), dpr };
    g.save();
    g.beginPath();
    g.rect(left, top, width, height);
    g.clip();
    g.lineJoin = "round";
    const look: Look = { color: (w) => c.lines[this.words.get(w) ?? 0], off: c.sunk, ink: c.ink, font: c.font.replace("11px", 11 * dpr + "px") };
    if (this.strips) this.learn();
    for (let i = 0; i < this.lines.length; i++) {
      const slot = this.lines[i];
      if (this.off(slot)) continue;
      const b = store.shown(slot);
      const fresh = store.quality[slot] !== Quality.Stale;
      const faded = this.lit >= 0 && this.lit !== i;
      if (this.strips) {
        strip(g, area, b, top + (i * LANE + 3) * dpr, (LANE - 6) * dpr, store.kind[slot] === Kind.Bool, live && fresh, look, faded);
        continue;
      }
      const scale = this.scales[this.scaleOf[i]];
      const pen = { color: c.lines[i], lit: this.lit === i, faded, dot: live && fresh };
      if (Number.isNaN(scale.lo)) continue;
      if (store.kind[slot] === Kind.Bool) steps(g, area, b, scale.lo, scale.hi, pen);
      else if (store.numeric(slot)) line(g, area, b, scale.lo, scale.hi, pen);
    }
    g.restore();
  }

  // Gives the states of all lines their colours, the same whatever order they come in; they are told beneath.
  private learn(): void {
    const { store } = this.ctx;
    let fresh = false;
    for (const slot of this.lines) {
      if (store.kind[slot] === Kind.Bool) continue;
      for (const w of store.shown(slot).words) {
        if (this.words.has(w)) continue;
        this.words.set(w, 0);
        fresh = true;
      }
    }
    if (!fresh) return;
    const taken = new Set<number>();
    const items: HTMLElement[] = [];
    for (const w of [...this.words.keys()].sort()) {
      let i = 0;
      for (let k = 0; k < w.length; k++) i = (i * 31 + w.charCodeAt(k)) % 997;
      // First the five hues, then their darker and lighter kin.
      i %= HUES;
      while (taken.has(i) && taken.size < LINES) i = taken.size < HUES ? (i + 1) % HUES : taken.size;
      taken.add(i);
      i = APART[i];
      this.words.set(w, i);
      if (items.length < LINES) items.push(make("li", { class: "l" + (i + 1) }, make("span", { class: "key" }, make("span", {})), w));
    }
    this.wordList.replaceChildren(...items);
  }
}
