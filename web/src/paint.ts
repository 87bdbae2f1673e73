// One animation-frame loop for the whole page. Tasks say when they are dirty; each has a least time between paints. A round
// through all of them is spread over as many animation frames as it takes, so that typing and scrolling never wait for a page
// of charts; when a round gets dear (over a third of the time) the tasks paint less often rather than the page stutter.

const SLICE = 10; // ms of one animation frame spent on painting; the task begun last may go over it

export interface Task {
  dirty: boolean;
  every: number; // ms between paints at least
  painted: number; // when it was last painted
  paint(now: number): void;
}

export class Painter {
  fps = 0; // rounds a second, over the last second
  private tasks: Task[] = [];
  private asked = false;
  private at = 0; // of tasks, the next in this round
  private spent = 0; // ms, on this round so far
  private cost = 0; // smoothed, ms a round
  private rounds = 0;
  private since = performance.now();
  /** Called after each round. */
  after: (() => void) | null = null;

  add(t: Task): void {
    this.tasks.push(t);
  }

  remove(t: Task): void {
    const i = this.tasks.indexOf(t);
    if (i < 0) return;
    this.tasks.splice(i, 1);
    if (i < this.at) this.at--;
  }

  mark(t: Task): void {
    t.dirty = true;
    this.ask();
  }

  ask(): void {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(this.loop);
  }

  private loop = (): void => {
    this.asked = false;
    const start = performance.now();
    const slower = this.cost > 6 ? Math.min(8, this.cost / 6) : 1;
    let now = start;
    for (; this.at < this.tasks.length && now - start < SLICE; this.at++) {
      const t = this.tasks[this.at];
      if (!t.dirty) continue;
      if (start - t.painted < t.every * slower - 4) continue; // its time has not come
      t.dirty = false;
      t.painted = start;
      t.paint(start);
      now = performance.now();
    }
    this.spent += now - start;
    if (this.at < this.tasks.length) {
      this.ask();
      return;
    }
    this.after?.();
    this.cost += (this.spent - this.cost) * 0.1;
    this.at = this.spent = 0;
    this.rounds++;
    if (now - this.since >= 1000) {
      this.fps = (this.rounds * 1000) / (now - this.since);
      this.rounds = 0;
      this.since = now;
    }
    if (this.tasks.some((t) => t.dirty)) this.ask();
  };
}
