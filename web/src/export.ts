// What is seen, to take along: a chart's lines or all charts as CSV, a chart as a picture. Made here, from what is drawn; the server is asked for
// nothing. Only the raw samples are a link to the API.
import { moment, range, span, ticks, zone } from "./axis";
import type { Buckets } from "./buckets";
import { make, toast } from "./dom";
import { type Area, line, type Look, steps, strip } from "./draw";
import { number } from "./format";
import { address } from "./history";
import { Kind, type Store } from "./store";
import type { Timeline } from "./timeline";

/** Some lines over a time. */
export interface Scene {
  title: string;
  slots: readonly number[]; // in the order of their colours
  name(slot: number): string;
  store: Store;
  time: Timeline;
  hidden: Set<string>;
}

/** One column, or three, of a CSV. */
export interface CSVLine {
  name: string;
  unit: string;
  kind: Kind;
  b: Buckets;
}

/** A field as RFC 4180 has it. What a spreadsheet would take for a formula is kept from being one. */
export function quote(v: string): string {
  if (/^[=+@\t]/.test(v) || /^-[^\d.]/.test(v)) v = "'" + v;
  return /[",\r\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v;
}

/** Lines as a table by time: the last value of each bucket, with lowest and highest where they differ anywhere. */
export function linesCSV(lines: readonly CSVLine[], from: number, to: number): string {
  const head = ["time"];
  const first: number[] = [];
  const end: number[] = [];
  const band: boolean[] = [];
  for (const { name, unit, kind, b } of lines) {
    const k = b.since(from);
    let z = k;
    let differs = false;
    for (; z < b.end && b.t[z] <= to; z++) if (kind <= Kind.Int && b.max[z] > b.min[z]) differs = true;
    first.push(k);
    end.push(z);
    band.push(differs);
    const of = unit ? ` (${unit})` : "";
    head.push(name + of);
    if (differs) head.push(`${name} min${of}`, `${name} max${of}`);
  }
  const rows = [head.map(quote).join(",")];
  const at = [...first];
  for (;;) {
    let t = Infinity;
    lines.forEach((l, i) => {
      if (at[i] < end[i] && l.b.t[at[i]] < t) t = l.b.t[at[i]];
    });
    if (t === Infinity) break;
    const row = [new Date(t).toISOString()];
    lines.forEach(({ kind, b }, i) => {
      const k = at[i];
      const here = k < end[i] && b.t[k] === t;
      if (here) at[i]++;
      if (!here) row.push("");
      else if (kind === Kind.String) row.push(b.words[b.last[k]] ?? "");
      else if (kind === Kind.Bool) row.push(b.last[k] ? "true" : "false");
      else row.push(String(b.last[k]));
      if (band[i]) row.push(here ? String(b.min[k]) : "", here ? String(b.max[k]) : "");
    });
    rows.push(row.map((v) => (/^-?[\d.e+-]*$/.test(v) ? v : quote(v))).join(","));
  }
  return rows.join("\r\n") + "\r\n";
}

function seen(s: Scene): number[] {
  return s.slots.filter((slot) => !s.hidden.has(s.store.device[slot] + "/" + s.store.metric[slot]));
}

export function sceneLines(s: Scene): CSVLine[] {
  return seen(s).map((slot) => ({ name: s.store.device[slot] + "/" + s.store.metric[slot], unit: s.store.unit[slot], kind: s.store.kind[slot], b: s.store.shown(slot) }));
}

const SCALE = 2;
const WIDTH = 960;
const PLOT = 300;
const LANE = 28;
const LEFT = 64;
const HEAD = 64;

/** A picture of some lines at twice the size, in the present theme: title, time, units, axes, lines, legend. */
export function picture(s: Scene): HTMLCanvasElement {
  const css = getComputedStyle(document.documentElement);
  const v = (name: string) => css.getPropertyValue(name).trim();
  const { store, time } = s;
  const shown = seen(s);
  const strips = shown.length > 0 && shown.every((x) => store.state(x));
  const height = strips ? shown.length * LANE : PLOT;
  const perRow = 3;
  const legend = strips ? 0 : Math.ceil(shown.length / perRow) * 20;
  const canvas = make("canvas");
  canvas.width = WIDTH * SCALE;
  canvas.height = (HEAD + height + 44 + legend) * SCALE;
  const g = canvas.getContext("2d")!;
  const font = (px: number, weight = 400) => `${weight} ${px}px ${v("--font")}`;
  const from = time.left();
  const to = time.right();
  g.scale(SCALE, SCALE);
  g.fillStyle = v("--surface");
  g.fillRect(0, 0, WIDTH, canvas.height);
  g.fillStyle = v("--ink");
  g.font = font(16, 600);
  g.textBaseline = "alphabetic";
  g.fillText(s.title, 16, 26, WIDTH - 32);
  g.font = font(12);
  g.fillStyle = v("--ink-2");
  g.fillText(`${range(from, to)} ${zone(to)} (${span(to - from)})`, 16, 45);

  // One scale and axis for each unit; from the third on they stand at the right, inside.
  const units: string[] = [];
  for (const x of shown) if (!units.includes(store.unit[x])) units.push(store.unit[x]);
  const sides = strips ? 0 : Math.min(4, Math.max(1, units.length));
  const left = strips ? 200 : LEFT * Math.ceil(sides / 2);
  const right = strips ? 16 : Math.max(16, LEFT * Math.floor(sides / 2));
  const width = WIDTH - left - right;
  const x = (t: number) => left + ((t - from) / (to - from)) * width;
  const t = ticks(from, to, width / 90);
  g.textAlign = "center";
  g.strokeStyle = v("--grid");
  g.lineWidth = 1;
  t.at.forEach((at, i) => {
    g.fillStyle = v("--axis");
    g.fillText(t.label[i], Math.min(WIDTH - 24, x(at)), HEAD + height + 18);
    g.beginPath();
    g.moveTo(x(at), HEAD);
    g.lineTo(x(at), HEAD + height + 4);
    g.stroke();
  });
  const scales = units.map((unit) => {
    let lo = Infinity;
    let hi = -Infinity;
    let step = 1;
    for (const slot of shown) {
      if (store.unit[slot] !== unit) continue;
      const b = store.shown(slot);
      for (let k = Math.max(b.begin, b.since(from) - 1); k < b.end && b.t[k] <= to; k++) {
        lo = Math.min(lo, b.min[k]);
        hi = Math.max(hi, b.max[k]);
      }
    }
    if (lo > hi) [lo, hi] = [0, 1];
    const room = Math.max((hi - lo) * 0.08, Math.abs(hi) * 1e-3, 1e-9);
    const floor = lo >= 0 && lo < room ? 0 : lo - room;
    hi += room;
    step = 10 ** Math.floor(Math.log10((hi - floor) / 5));
    step *= [1, 2, 5, 10].find((n) => (hi - floor) / (step * n) <= 6) ?? 10;
    return { lo: floor, hi, step };
  });
  if (!strips) {
    scales.slice(0, sides).forEach((c, i) => {
      const atLeft = i % 2 === 0;
      const at = atLeft ? left - 8 - LEFT * (i >> 1) : WIDTH - right + 8 + LEFT * (i >> 1);
      g.textAlign = atLeft ? "right" : "left";
      g.fillStyle = v("--axis");
      const digits = Math.max(0, -Math.floor(Math.log10(c.step) + 1e-9));
      for (let y = Math.ceil(c.lo / c.step) * c.step; y <= c.hi; y += c.step) {
        const py = HEAD + height * (1 - (y - c.lo) / (c.hi - c.lo));
        g.fillText(number(y, digits), at, py + 4);
        if (i > 0) continue;
        g.beginPath();
        g.moveTo(left, py);
        g.lineTo(left + width, py);
        g.stroke();
      }
      g.fillStyle = v("--ink-2");
      if (units[i]) g.fillText(units[i], at, HEAD - 6);
    });
  }

  g.save();
  g.setTransform(1, 0, 0, 1, 0, 0);
  const area: Area = { left: left * SCALE, top: HEAD * SCALE, width: width * SCALE, height: height * SCALE, from, to, now: Math.min(to, time.clock()), dpr: SCALE };
  g.textAlign = "left";
  g.beginPath();
  g.rect(area.left, area.top, area.width, area.height);
  g.clip();
  g.lineJoin = "round";
  const words = [...new Set(shown.flatMap((slot) => store.shown(slot).words))].sort();
  const look: Look = { color: (w) => v(`--line-${1 + (Math.max(0, words.indexOf(w)) % 12)}`), off: v("--sunk"), ink: v("--ink"), font: font(11 * SCALE) };
  shown.forEach((slot, i) => {
    const b = store.shown(slot);
    const isSwitch = store.kind[slot] === Kind.Bool;
    const color = v(`--line-${1 + (s.slots.indexOf(slot) % 12)}`);
    const c = scales[units.indexOf(store.unit[slot])];
    const pen = { color, lit: false, faded: false, dot: false };
    if (strips) strip(g, area, b, area.top + (i * LANE + 4) * SCALE, (LANE - 8) * SCALE, isSwitch, false, look, false);
    else if (isSwitch) steps(g, area, b, c.lo, c.hi, pen);
    else if (store.numeric(slot)) line(g, area, b, c.lo, c.hi, pen);
  });
  g.restore();
  g.globalAlpha = 1;
  g.textAlign = "left";
  g.font = font(12);
  shown.forEach((slot, i) => {
    const text = s.name(slot) + (store.unit[slot] && units.length > 1 ? ` (${store.unit[slot]})` : "");
    g.fillStyle = v("--ink-2");
    if (strips) {
      g.fillText(text, 16, HEAD + i * LANE + LANE / 2 + 4, left - 28);
      return;
    }
    const px = 16 + (i % perRow) * ((WIDTH - 32) / perRow);
    const py = HEAD + height + 44 + Math.floor(i / perRow) * 20;
    g.fillText(text, px + 20, py, (WIDTH - 32) / perRow - 28);
    g.fillStyle = v(`--line-${1 + (s.slots.indexOf(slot) % 12)}`);
    g.fillRect(px, py - 6, 13, 3);
  });
  return canvas;
}

function fileName(title: string, time: Timeline, ext: string): string {
  const at = new Date(time.right()).toISOString().slice(0, 19).replaceAll(":", "");
  return `${title.replace(/[^\p{L}\p{N}._-]+/gu, "-")}-${at}Z.${ext}`;
}

export function save(body: Blob, name: string): void {
  const a = make("a", { download: name });
  a.href = URL.createObjectURL(body);
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

/** Saves the lines of some scenes, together. */
export function saveCSV(scenes: readonly Scene[], title: string): void {
  if (scenes.length === 0) return;
  const { time } = scenes[0];
  save(new Blob([linesCSV(scenes.flatMap(sceneLines), time.left(), time.right())], { type: "text/csv" }), fileName(title, time, "csv"));
  toast("Lines saved", `${moment(time.left(), time.window)} to ${moment(time.right(), time.window)}, as CSV.`);
}

export function savePicture(s: Scene): void {
  picture(s).toBlob((b) => {
    if (!b) return toast("The picture can't be made", "This browser gave none.", true);
    save(b, fileName(s.title, s.time, "png"));
    toast("Picture saved", s.title);
  }, "image/png");
}

/** The address of the samples themselves as CSV, of what is seen; at most 500 series. */
export function samplesURL(scenes: readonly Scene[]): string {
  const names = scenes.flatMap((s) => seen(s).map((slot) => ({ device: s.store.device[slot], metric: s.store.metric[slot] })));
  const { time } = scenes[0];
  return address(names.slice(0, 100), time.left(), time.right(), 0, "csv");
}

/** The menu by which a chart is saved. */
export function saveMenu(title: string, scene: () => Scene): HTMLDetailsElement {
  const item = (text: string, does: () => void) => {
    const b = make("button", { type: "button" }, text);
    b.addEventListener("click", () => {
      menu.open = false;
      does();
    });
    return b;
  };
  const samples = make("a", { download: "samples.csv" }, "All samples (CSV)");
  const menu = make(
    "details",
    { class: "menu chart-save" },
    make("summary", { class: "button plain icon-only", "aria-label": `Save ${title}`, title: "Save" }, "⋯"),
    make("div", { class: "menu-body" }, item("Picture (PNG)", () => savePicture(scene())), item("Lines as seen (CSV)", () => saveCSV([scene()], title)), samples),
  );
  menu.addEventListener("toggle", () => {
    if (menu.open) samples.href = samplesURL([scene()]);
  });
  menu.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary")!.focus();
  });
  return menu;
}
