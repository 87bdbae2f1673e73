// What charts ask of recorded history: the columns they lack, and where there is something at all.
import type { Answer, Question } from "./backfill";
import { fetchBuckets } from "./history";

export function ask(q: Question, signal: AbortSignal): Promise<Answer> {
  return fetchBuckets({ ...q, signal });
}

/** When the first and the last samples of some series were taken, to a day; null if there are none. */
export async function extent(series: Question["series"], now: number, signal: AbortSignal): Promise<{ oldest: number; newest: number } | null> {
  const day = 86_400_000;
  const to = (Math.floor(now / day) + 1) * day;
  const a = await ask({ series, from: to - 800 * day, to, buckets: 800 }, signal);
  let oldest = Infinity;
  let newest = -Infinity;
  for (const s of a.series) {
    if (s.t.length === 0) continue;
    oldest = Math.min(oldest, s.t[0]);
    newest = Math.max(newest, s.t[s.t.length - 1] + a.width);
  }
  return oldest < newest ? { oldest, newest: Math.min(newest, now) } : null;
}

/** The moment nearest to at that has a sample of one of some series; NaN if there is none. */
export async function nearest(series: Question["series"], at: number, now: number, fine: number, signal: AbortSignal): Promise<number> {
  const day = 86_400_000;
  let to = (Math.floor(now / day) + 1) * day;
  let from = to - 800 * day;
  let found = NaN;
  for (let width = day; ; ) {
    const a = await ask({ series, from, to, buckets: (to - from) / width }, signal);
    let best = NaN;
    for (const s of a.series) {
      for (let i = 0; i < s.t.length; i++) {
        const t = s.t[i];
        const middle = Math.min(t + a.width, Math.max(t, at));
        if (Number.isNaN(best) || Math.abs(middle - at) < Math.abs(found - at)) {
          best = t;
          found = middle;
        }
      }
    }
    if (Number.isNaN(best) || a.width <= fine) return found;
    from = best;
    to = best + a.width;
    width = width >= day ? 300_000 : width >= 300_000 ? 1000 : 10;
  }
}
