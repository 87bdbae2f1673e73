import assert from "node:assert/strict";
import { test } from "node:test";

process.env.TZ = "Europe/Berlin";
const { range, span, ticks, zone } = await import("./axis");

const at = (s: string) => Date.parse(s);

test("ticks from milliseconds to years, at round local times", () => {
  const from = at("2026-11-24T13:00:00+01:00");
  for (const [length, label] of [
    [60, ["00:00.00", "00:00.01", "00:00.02", "00:00.03", "00:00.04", "00:00.05", "00:00.06"]],
    [1000, ["00:00.0", "00:00.2", "00:00.4", "00:00.6", "00:00.8", "00:01.0"]],
    [60_000, ["13:00:00", "13:00:10", "13:00:20", "13:00:30", "13:00:40", "13:00:50", "13:01:00"]],
    [900_000, ["13:00", "13:05", "13:10", "13:15"]],
    [86_400_000, ["18:00", "25 Nov", "06:00", "12:00"]],
    [7 * 86_400_000, ["25 Nov", "26 Nov", "27 Nov", "28 Nov", "29 Nov", "30 Nov", "1 Dec"]],
    [365 * 86_400_000, ["2027", "Mar", "May", "Jul", "Sep", "Nov"]],
  ] as const) {
    assert.deepEqual(ticks(from, from + length, 7).label, label, String(length));
  }
});

test("days begin at midnight also where the clock changes", () => {
  const t = ticks(at("2026-03-28T12:00:00+01:00"), at("2026-03-31T12:00:00+02:00"), 5);
  assert.deepEqual(t.label, ["29 Mar", "30 Mar", "31 Mar"]);
  assert.equal(t.at[1] - t.at[0], 23 * 3_600_000);
  const h = ticks(at("2026-10-25T00:00:00+02:00"), at("2026-10-25T12:00:00+01:00"), 6);
  assert.deepEqual(h.label, ["25 Oct", "03:00", "06:00", "09:00", "12:00"]);
});

test("never more ticks than asked for, always some", () => {
  for (let w = 1; w < 1e12; w *= 1.7) {
    const from = at("2026-11-24T13:07:11.123Z");
    const n = ticks(from, from + w, 6).at.length;
    assert.ok(n <= 7, `${w}: ${n}`);
    if (w > 10) assert.ok(n >= 1, `${w}: ${n}`);
  }
});

test("times in words", () => {
  assert.equal(range(at("2026-11-24T13:00:00Z"), at("2026-11-24T13:15:00Z")).replace(" 2026", ""), "24 Nov 14:00:00 – 14:15:00");
  assert.equal(zone(at("2026-11-24T13:00:00Z")), "CET");
  assert.deepEqual([50, 1500, 60_000, 900_000, 5_400_000, 3_600_000, 604_800_000, 31_536_000_000].map(span), ["50 ms", "1.5 s", "1 minute", "15 minutes", "1 h 30 min", "1 hour", "7 days", "1 year"]);
});
