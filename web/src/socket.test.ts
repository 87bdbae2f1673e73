import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { readFileSync } from "node:fs";
import { Live, backoff, comesBack } from "./socket";

const folder = process.env.MILLRACE_FRAMES ?? "../fanout/wire/testdata";

// A browser as far as the socket sees it.
const sockets: FakeSocket[] = [];
class FakeSocket {
  static OPEN = 1;
  readyState = 0;
  binaryType = "";
  sent: any[] = [];
  onopen: any;
  onmessage: any;
  onclose: any;
  constructor(readonly url: string) {
    sockets.push(this);
  }
  send(m: string) {
    this.sent.push(JSON.parse(m));
  }
  close() {}
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say(m: unknown) {
    this.onmessage({ data: m instanceof ArrayBuffer ? m : JSON.stringify(m) });
  }
  drop(code: number) {
    this.readyState = 3;
    this.onclose({ code, reason: "" });
  }
}
const page = Object.assign(new EventTarget(), { hidden: false });
Object.defineProperty(globalThis, "navigator", { value: { onLine: true }, configurable: true });
Object.assign(globalThis, {
  WebSocket: FakeSocket,
  document: page,
  window: Object.assign(new EventTarget(), { setTimeout: (f: () => void, ms: number) => setTimeout(f, ms), setInterval: (f: () => void, ms: number) => setInterval(f, ms) }),
});

function golden(): ArrayBuffer {
  const b = readFileSync(`${folder}/envelope.bin`);
  return b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength) as ArrayBuffer;
}

test("who comes back, and when", () => {
  for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4200, 4299]) assert.equal(comesBack(code), true, String(code));
  for (const code of [1002, 1008, 4000, 4099, 4100, 4101]) assert.equal(comesBack(code), false, String(code));
  assert.equal(backoff(0, 0), 150);
  assert.equal(backoff(0, 1), 300);
  assert.equal(backoff(99, 1), 15000);
});

test("credit comes after painting and not from a hidden tab; a break goes on from the cursor", () => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const live = new Live("ws://x/live");
  const got: string[] = [];
  live.start();
  const first = sockets.at(-1)!;
  const sub = live.subscribe({ group: "plant1" }, { series: (m) => got.push("series " + m.length), added: () => {}, removed: () => {}, frame: (f) => got.push("frame " + f.seq), ended: () => got.push("ended") });
  assert.equal(first.sent.length, 0);
  first.open();
  assert.deepEqual(first.sent[0], { type: "subscribe", id: sub.id, group: "plant1", detail: "envelope", format: "binary", credit: "manual" });
  first.say({ type: "subscribed", id: sub.id, epoch: "k3x9", seq: 1041, series: [{ index: 0, device: "a", metric: "b" }] });
  const f = golden();
  new DataView(f).setUint32(4, sub.id, true);
  first.say(f);
  assert.deepEqual(got, ["series 1", "frame 1044"]);

  page.hidden = true;
  live.painted();
  assert.equal(first.sent.length, 1);
  page.hidden = false;
  live.painted();
  live.painted();
  assert.deepEqual(first.sent.slice(1), [{ type: "credit", id: sub.id, seq: 1044 }]);

  first.drop(1006);
  assert.equal(live.state, "reconnecting");
  mock.timers.tick(400);
  const second = sockets.at(-1)!;
  assert.notEqual(second, first);
  second.open();
  assert.deepEqual(second.sent[0].from, { epoch: "k3x9", seq: 1044 });

  second.drop(4101);
  assert.equal(live.state, "offline");
  assert.equal(got.at(-1), "ended");
  mock.timers.tick(60_000);
  assert.equal(sockets.at(-1), second);
  live.stop();
  mock.timers.reset();
});

test("the fastest message tells the clocks' difference", () => {
  const live = new Live("ws://x/live");
  live.start();
  const s = sockets.at(-1)!;
  s.open();
  const now = mock.method(Date, "now", () => 1_000_000);
  s.say({ type: "time", at: 1_004_800 });
  s.say({ type: "time", at: 1_004_990 });
  s.say({ type: "time", at: 1_004_500 });
  assert.equal(live.offset, 4990);
  now.mock.restore();
  live.stop();
});
