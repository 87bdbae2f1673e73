import assert from "node:assert/strict";
import { test } from "node:test";
import { Buckets } from "./buckets";
import { linesCSV, quote } from "./export";

test("fields are quoted, and no formulas", () => {
  const f = (v: string, want: string) => assert.equal(quote(v), want);
  f("plain", "plain");
  f("a,b", '"a,b"');
  f('say "so"', '"say ""so"""');
  f("two\nlines", '"two\nlines"');
  f("=1+1", "'=1+1");
  f("@x", "'@x");
  f("-3.5", "-3.5");
  f("-cmd", "'-cmd");
});

test("lines by time, with lowest and highest where they differ", () => {
  const a = new Buckets(1000);
  a.add(1000, 1.5, 1.5, 1.5, 1);
  a.add(2000, -2, -9.25, 4, 3);
  a.add(9000, 7, 7, 7, 1);
  const b = new Buckets(1000);
  b.say(2000, 'on "hold", waiting');
  b.say(3000, "run");
  const c = new Buckets(1000);
  c.add(2000, 1, 1, 1, 1);
  const csv = linesCSV(
    [
      { name: "p/temp", unit: "°C", kind: 0, b: a },
      { name: "p/state", unit: "", kind: 3, b },
      { name: "p/door", unit: "", kind: 2, b: c },
    ],
    1000,
    5000,
  );
  assert.deepEqual(csv.split("\r\n"), [
    "time,p/temp (°C),p/temp min (°C),p/temp max (°C),p/state,p/door",
    "1970-01-01T00:00:01.000Z,1.5,1.5,1.5,,",
    '1970-01-01T00:00:02.000Z,-2,-9.25,4,"on ""hold"", waiting",true',
    "1970-01-01T00:00:03.000Z,,,,run,",
    "",
  ]);
});
