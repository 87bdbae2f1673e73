// Where the labels of a time axis go and what they say, from milliseconds to years, in the page's zone; and times in words.

const SEC = 1000;
const MIN = 60 * SEC;
const HOUR = 60 * MIN;
const DAY = 24 * HOUR;
const MONTH = 30.4 * DAY;
const YEAR = 365.25 * DAY;

// [step in ms, how it is counted, by how many]
const STEPS: [number, "ms" | "hour" | "day" | "month", number][] = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500].map((n): [number, "ms", number] => [n, "ms", n]),
  ...[1, 2, 5, 10, 15, 30].map((n): [number, "ms", number] => [n * SEC, "ms", n * SEC]),
  ...[1, 2, 5, 10, 15, 30].map((n): [number, "ms", number] => [n * MIN, "ms", n * MIN]),
  ...[1, 2, 3, 6, 12].map((n): [number, "hour", number] => [n * HOUR, "hour", n]),
  ...[1, 2, 7, 14].map((n): [number, "day", number] => [n * DAY, "day", n]),
  ...[1, 2, 3, 6].map((n): [number, "month", number] => [n * MONTH, "month", n]),
  ...[1, 2, 5, 10].map((n): [number, "month", number] => [n * YEAR, "month", 12 * n]),
];

const two = (n: number) => String(n).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export interface Ticks {
  at: number[];
  label: string[];
}

/** At most so many ticks in [from, to], at round local times. */
export function ticks(from: number, to: number, most: number): Ticks {
  const [step, kind, n] = STEPS.find((s) => (to - from) / s[0] <= Math.max(1, most)) ?? STEPS[STEPS.length - 1];
  const at: number[] = [];
  if (kind === "ms") {
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) at.push(t);
  } else {
    const d = new Date(from);
    const year = d.getFullYear();
    const month = d.getMonth();
    for (let i = 0; i < 400; i++) {
      let t: number;
      if (kind === "hour") t = new Date(year, month, d.getDate(), i * n).getTime();
      else if (kind === "month") t = new Date(year - (n >= 12 ? year % (n / 12) : 0), (n >= 12 ? 0 : month - (month % n)) + i * n, 1).getTime();
      else {
        // Days are counted since 1970, weeks from Monday on.
        const first = Math.floor(Date.UTC(year, month, d.getDate()) / DAY);
        const shift = n % 7 === 0 ? (first + 3) % n : first % n;
        t = new Date(year, month, d.getDate() - shift + i * n).getTime();
      }
      if (t > to) break;
      if (t >= from && (at.length === 0 || t > at[at.length - 1])) at.push(t);
    }
  }
  return { at, label: at.map((t) => label(t, step, kind)) };
}

function label(ms: number, step: number, kind: string): string {
  const d = new Date(ms);
  if (kind === "month") return d.getMonth() === 0 || step >= YEAR * 0.99 ? String(d.getFullYear()) : MONTHS[d.getMonth()];
  const day = `${d.getDate()} ${MONTHS[d.getMonth()]}`;
  if (kind === "day") return day;
  const hm = `${two(d.getHours())}:${two(d.getMinutes())}`;
  if (step >= MIN) return hm === "00:00" ? day : hm;
  const s = two(d.getSeconds());
  if (step >= SEC) return `${hm}:${s}`;
  const digits = step >= 100 ? 1 : step >= 10 ? 2 : 3;
  return `${two(d.getMinutes())}:${s}.${String(d.getMilliseconds()).padStart(3, "0").slice(0, digits)}`;
}

/** A moment as a person reads it, as fine as a window of that size needs. */
export function moment(ms: number, window: number, withDay = true): string {
  const d = new Date(ms);
  let s = `${two(d.getHours())}:${two(d.getMinutes())}`;
  if (window < 6 * HOUR) s += `:${two(d.getSeconds())}`;
  if (window < 2 * MIN) s += `.${String(d.getMilliseconds()).padStart(3, "0")}`;
  if (!withDay) return s;
  const year = d.getFullYear() === new Date().getFullYear() ? "" : ` ${d.getFullYear()}`;
  return `${d.getDate()} ${MONTHS[d.getMonth()]}${year} ${s}`;
}

/** "24 Nov", with the year when it is another. */
export function day(ms: number): string {
  const d = new Date(ms);
  return `${d.getDate()} ${MONTHS[d.getMonth()]}${d.getFullYear() === new Date().getFullYear() ? "" : " " + d.getFullYear()}`;
}

/** "24 Nov 14:00:00 – 14:15:00". */
export function range(from: number, to: number): string {
  const a = new Date(from);
  const b = new Date(to);
  const sameDay = a.toDateString() === b.toDateString();
  return `${moment(from, to - from)} – ${moment(to, to - from, !sameDay)}`;
}

/** The zone that the page's times are in: "CET", "UTC", "GMT+5:30". */
export function zone(at: number): string {
  const part = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(at).find((p) => p.type === "timeZoneName");
  return part?.value ?? "";
}

/** A length of time: "15 minutes", "1 h 30 min", "250 ms". */
export function span(ms: number): string {
  const plural = (n: number, unit: string) => `${n} ${unit}${n === 1 ? "" : "s"}`;
  if (ms < SEC) return `${Math.round(ms)} ms`;
  if (ms < MIN) return `${+(ms / SEC).toFixed(1)} s`;
  if (ms % YEAR_LONG === 0) return plural(ms / YEAR_LONG, "year");
  if (ms >= 2 * DAY) return ms % DAY === 0 ? plural(ms / DAY, "day") : `${Math.floor(ms / DAY)} d ${Math.round((ms % DAY) / HOUR)} h`;
  if (ms % HOUR === 0) return plural(ms / HOUR, "hour");
  if (ms >= HOUR) return `${Math.floor(ms / HOUR)} h ${Math.round((ms % HOUR) / MIN)} min`;
  if (ms % MIN === 0) return plural(ms / MIN, "minute");
  return `${Math.floor(ms / MIN)} min ${Math.round((ms % MIN) / SEC)} s`;
}
const YEAR_LONG = 365 * DAY;
