// Numbers and times as text. Digits follow the resolution a series has shown and are never taken back, so nothing jumps.

const MAX_DIGITS = 6; // significant ones

/** How many decimals v needs, at most so many that MAX_DIGITS significant digits are shown. */
export function decimalsOf(v: number): number {
  const a = Math.abs(v);
  if (a === 0 || !Number.isFinite(v)) return 0;
  const whole = a >= 1 ? Math.floor(Math.log10(a)) + 1 : 1;
  const most = Math.max(0, MAX_DIGITS - whole);
  let scale = 1;
  for (let d = 0; d <= most; d++, scale *= 10) {
    const x = a * scale;
    if (Math.abs(x - Math.round(x)) <= 1e-9 * Math.max(1, x)) return d;
  }
  // It fills all digits: a computed value, not a reading. Four significant digits say enough of those.
  return Math.max(0, Math.min(most, 4 - whole));
}

/** v with so many decimals and a real minus; from a million on with an engineering prefix. */
export function number(v: number, decimals: number): string {
  const a = Math.abs(v);
  let s: string;
  if (a >= 1e12) s = (a / 1e12).toFixed(3) + " T";
  else if (a >= 1e9) s = (a / 1e9).toFixed(3) + " G";
  else if (a >= 1e6) s = (a / 1e6).toFixed(3) + " M";
  else s = a.toFixed(decimals < 0 ? 0 : decimals);
  return v < 0 && Number.parseFloat(s) !== 0 ? "−" + s : s;
}

/** An age in ms, shortly: "0.3 s", "12 s", "3 m", "5 h", "9 d". */
export function age(ms: number): string {
  if (!(ms > 0)) ms = 0;
  if (ms < 9950) return (ms / 1000).toFixed(1) + " s";
  if (ms < 60_000) return Math.floor(ms / 1000) + " s";
  if (ms < 3_600_000) return Math.floor(ms / 60_000) + " m";
  if (ms < 172_800_000) return Math.floor(ms / 3_600_000) + " h";
  return Math.floor(ms / 86_400_000) + " d";
}

/** A count of things or things a second: "7", "1.2 k", "48.1 k", "1.25 M". */
export function amount(v: number): string {
  if (v >= 1e6) return (v / 1e6).toFixed(2) + " M";
  if (v >= 1e4) return (v / 1e3).toFixed(1) + " k";
  if (v >= 100 || v === Math.floor(v)) return v.toFixed(0);
  return v.toFixed(1);
}

/** Bytes a second. */
export function byteRate(v: number): string {
  if (v >= 1e6) return (v / 1e6).toFixed(1) + " MB/s";
  if (v >= 1e3) return (v / 1e3).toFixed(1) + " kB/s";
  return v.toFixed(0) + " B/s";
}

/** Compares names the way people do: press-2 before press-10. */
export const byName = new Intl.Collator("en", { numeric: true }).compare;
