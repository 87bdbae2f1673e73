// The table behind a chart: what its lines have in the range that is shown.
import { moment } from "./axis";
import type { ChartOptions, Context } from "./chart";
import { make, setText } from "./dom";
import { age, amount, number } from "./format";
import { Kind } from "./store";

/** A value of a bucket as text, without unit. */
export function valueText(kind: Kind, v: number, decimals: number, words: readonly string[]): string {
  if (kind === Kind.Bool) return v ? "true" : "false";
  if (kind === Kind.String) return words[v] ?? "–";
  return number(v, decimals);
}

/** Writes the table; units: lines have several, so each number has its own. */
export function paintTable(holder: HTMLElement, options: ChartOptions, lines: readonly number[], units: boolean, ctx: Context): void {
  const { store: s, time } = ctx;
  const from = time.left();
  const to = time.right();
  let body = holder.querySelector("tbody");
  if (!body || body.children.length !== lines.length) {
    const heads = ["Series", "Last", "Lowest", "Highest", "Samples", "Newest"];
    const head = make("tr");
    for (const h of heads) head.append(make("th", { scope: "col", class: h === "Series" ? null : "num" }, h));
    body = make("tbody");
    for (let i = 0; i < lines.length; i++) {
      const row = make("tr", {}, make("th", { scope: "row" }));
      for (let k = 1; k < heads.length; k++) row.append(make("td", { class: "num" }));
      body.append(row);
    }
    holder.replaceChildren(make("table", {}, make("caption", { class: "sr" }, `${options.title} in the range shown`), make("thead", {}, head), body));
  }
  const sameDay = new Date(from).toDateString() === new Date(to).toDateString();
  lines.forEach((slot, i) => {
    let lo = Infinity;
    let hi = -Infinity;
    let n = 0;
    const b = s.shown(slot);
    const first = b.since(from);
    let k = first;
    for (; k < b.end && b.t[k] <= to; k++) {
      if (b.min[k] < lo) lo = b.min[k];
      if (b.max[k] > hi) hi = b.max[k];
      n += b.count[k];
    }
    k--;
    const d = s.decimals[slot];
    const numeric = s.numeric(slot);
    const c = body!.children[i].children as HTMLCollectionOf<HTMLElement>;
    setText(c[0], options.name?.(slot) ?? s.device[slot]);
    const unit = units && numeric && s.unit[slot] ? " " + s.unit[slot] : "";
    setText(c[1], k < first ? "–" : valueText(s.kind[slot], b.last[k], d, b.words) + unit);
    setText(c[2], !numeric || lo > hi ? "–" : number(lo, d) + unit);
    setText(c[3], !numeric || lo > hi ? "–" : number(hi, d) + unit);
    setText(c[4], amount(n));
    setText(c[5], k < first ? "–" : time.mode !== "fixed" ? age(ctx.now() - (s.t[slot] || b.t[k])) + " ago" : moment(b.t[k], to - from, !sameDay));
  });
}
