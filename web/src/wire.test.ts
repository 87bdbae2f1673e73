import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { Frame, decode } from "./wire";

const folder = process.env.MILLRACE_FRAMES ?? "../fanout/wire/testdata";
const qualities = ["good", "uncertain", "bad", "stale"];

function read(name: string): ArrayBuffer {
  const b = readFileSync(`${folder}/${name}`);
  return b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength) as ArrayBuffer;
}

// The bounds of a band are rounded outward to float32 on the wire; the .json beside a frame has them as decoded in Go.
const names = readdirSync(folder).filter((f) => f.endsWith(".bin"));
assert.ok(names.length >= 8, "golden frames are missing");

const reused = new Frame();
for (const name of names) {
  test(`golden frame ${name}`, () => {
    const want = JSON.parse(readFileSync(`${folder}/${name.replace(".bin", ".json")}`, "utf8"));
    const f = decode(read(name), reused);
    assert.deepEqual(
      { id: f.id, from: f.from, seq: f.seq, at: f.at, snapshot: f.snapshot, truncated: f.truncated, n: f.n, envelope: f.below !== null },
      { id: want.id, from: want.from, seq: want.seq, at: want.at, snapshot: want.snapshot, truncated: want.truncated, n: want.points.length, envelope: want.envelope },
    );
    let k = 0;
    want.points.forEach((p: any, i: number) => {
      assert.equal(f.index ? f.index[i] : i, p.index);
      assert.equal(f.t[i], p.t);
      assert.equal(f.last[i], p.last);
      assert.equal(f.count ? f.count[i] : 0, p.count);
      assert.equal(qualities[f.quality ? f.quality[i] : 0], p.quality);
      assert.equal(f.lon ? f.lon[i] : 0, p.lon);
      if (p.text !== null) assert.equal(f.textAt.get(i), p.text);
      if (f.below && f.above) {
        assert.equal(f.last[i] - f.below[i], p.min);
        assert.equal(f.last[i] + f.above[i], p.max);
      }
      const samples = f.fullCount ? f.fullCount[i] : 0;
      assert.equal(samples, p.samples.length);
      for (const [t, v] of p.samples) {
        assert.equal(f.fullT![k], t);
        assert.equal(f.fullV![k], v);
        k++;
      }
    });
  });
}

test("frames that are cut off are refused", () => {
  for (const name of names) {
    const whole = read(name);
    for (let n = 0; n < whole.byteLength; n += 7) assert.throws(() => decode(whole.slice(0, n), reused), RangeError, `${name} cut to ${n}`);
  }
});

test("other versions are refused", () => {
  const b = read("envelope.bin");
  new Uint8Array(b)[0] = 2;
  assert.throws(() => decode(b, reused), /unknown version/);
});
