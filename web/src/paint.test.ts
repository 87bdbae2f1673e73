import assert from "node:assert/strict";
import test from "node:test";
import { Painter, type Task } from "./paint";

// A clock and animation frames under the test's hand.
let now = 1000;
let wanted: FrameRequestCallback[] = [];
performance.now = () => now;
globalThis.requestAnimationFrame = (f) => wanted.push(f);

function frame(): void {
  const due = wanted;
  wanted = [];
  now += 16;
  for (const f of due) f(now);
}

function task(log: string[], name: string, cost: number, every = 0): Task {
  return {
    dirty: false,
    every,
    painted: 0,
    paint() {
      log.push(name);
      now += cost;
    },
  };
}

test("dear paints are spread over animation frames, in turn", () => {
  const log: string[] = [];
  const p = new Painter();
  let rounds = 0;
  p.after = () => rounds++;
  const tasks = ["a", "b", "c", "d"].map((n) => task(log, n, 8));
  for (const t of tasks) {
    p.add(t);
    p.mark(t);
  }
  frame();
  assert.deepEqual(log, ["a", "b"]);
  assert.equal(rounds, 0, "what is not painted is not told as painted");
  p.mark(tasks[0]); // a new value meanwhile: its turn is the next round
  frame();
  assert.deepEqual(log, ["a", "b", "c", "d"]);
  assert.equal(rounds, 1);
  frame();
  assert.deepEqual(log, ["a", "b", "c", "d", "a"]);
  assert.equal(wanted.length, 0, "nothing dirty, nothing asked for");
});

test("a task waits for its time and is painted then without being marked again", () => {
  const log: string[] = [];
  const p = new Painter();
  const t = task(log, "a", 1, 50);
  p.add(t);
  p.mark(t);
  frame();
  p.mark(t);
  frame();
  assert.deepEqual(log, ["a"]);
  for (let i = 0; i < 3; i++) frame();
  assert.deepEqual(log, ["a", "a"]);
});

test("removing a task during a round skips nobody", () => {
  const log: string[] = [];
  const p = new Painter();
  const tasks = ["a", "b", "c"].map((n) => task(log, n, 20));
  for (const t of tasks) {
    p.add(t);
    p.mark(t);
  }
  frame();
  p.remove(tasks[0]);
  frame();
  frame();
  assert.deepEqual(log, ["a", "b", "c"]);
});
