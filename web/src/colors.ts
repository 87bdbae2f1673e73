// The colours of charts, from the tokens.

/** Lines of a chart at most: as many as there are colours. */
export const LINES = 12;

export interface Colors {
  lines: string[];
  grid: string;
  axis: string;
  band: string;
  ink: string;
  sunk: string;
  font: string;
}
let colors: Colors | null = null;

/** Colours come from the tokens; they are read again after the theme changed. */
export function forgetColors(): void {
  colors = null;
}

/** The colours of charts in the present theme. */
export function palette(): Colors {
  if (!colors) {
    const s = getComputedStyle(document.documentElement);
    const v = (name: string) => s.getPropertyValue(name).trim();
    colors = { lines: [], grid: v("--grid"), axis: v("--axis"), band: v("--band"), ink: v("--ink"), sunk: v("--sunk"), font: `11px ${v("--font")}` };
    for (let i = 1; i <= LINES; i++) colors.lines.push(v("--line-" + i));
  }
  return colors;
}
