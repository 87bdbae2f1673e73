// Labels of the axes of a plot.
import type uPlot from "uplot";
import { ticks } from "./axis";

/** How wide the plot is, px; its element may not have been laid out yet. */
export function across(u: uPlot): number {
  return u.bbox.width / (devicePixelRatio || 1);
}

/** The labels of these times; one that would be cut at an edge is left out. */
export function timeLabels(u: uPlot, at: number[]): string[] {
  const { min, max } = u.scales.x;
  const width = across(u);
  const t = ticks(min!, max!, width / 76);
  return at.map((v, i) => {
    const text = t.label[i] ?? "";
    const x = u.valToPos(v, "x");
    return x > width + 10 - 3 * text.length || x + u.bbox.left / (devicePixelRatio || 1) < 3 * text.length ? "" : text; // the plot's right padding is 10 px
  });
}

/** The labels of a scale of values. */
export function labels(vs: number[]): string[] {
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
