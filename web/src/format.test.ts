import assert from "node:assert/strict";
import { test } from "node:test";
import { age, amount, byName, decimalsOf, number } from "./format";

test("decimals follow the resolution", () => {
  const f = (v: number, want: number) => assert.equal(decimalsOf(v), want, String(v));
  f(0, 0);
  f(21, 0);
  f(21.5, 1);
  f(0.1 + 0.2, 1);
  f(-3.25, 2);
  f(21.483726, 2);
  f(1 / 3, 3);
  f(123456.75, 0);
});

test("numbers", () => {
  const f = (v: number, d: number, want: string) => assert.equal(number(v, d), want);
  f(21.5, 2, "21.50");
  f(-0.04, 1, "0.0");
  f(-4, 0, "−4");
  f(1234567, 0, "1.235 M");
  f(-2.5e9, 0, "−2.500 G");
});

test("ages", () => {
  const f = (ms: number, want: string) => assert.equal(age(ms), want);
  f(-20, "0.0 s");
  f(240, "0.2 s");
  f(12_900, "12 s");
  f(185_000, "3 m");
  f(5 * 3_600_000, "5 h");
  f(9 * 86_400_000, "9 d");
});

test("amounts and names", () => {
  assert.equal(amount(48123), "48.1 k");
  assert.equal(amount(3.25), "3.3");
  assert.deepEqual(["press-10", "press-2", "Press-1"].sort(byName), ["Press-1", "press-2", "press-10"]);
});
