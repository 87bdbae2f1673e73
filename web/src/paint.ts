// One animation-frame loop for the whole page. Tasks say when they are dirty; each has a least time between paints, and when
// painting gets dear (over a third of the time) the charts paint less often rather than the page stutter.

export interface Task {
  dirty: boolean;
  every: number; // ms between paints at least
  painted: number; // when it was last painted
  paint(now: number): void;
}

export class Painter {
  fps = 0; // of painted frames, over the last second
  private tasks: Task[] = [];
  private asked = false;
  private cost = 0; // smoothed, ms a frame
  private frames = 0;
  private since = performance.now();
  /** Called after each painted frame. */
  after: (() => void) | null = null;

  add(t: Task): void {
    this.tasks.push(t);
  }

  remove(t: Task): void {
    const i = this.tasks.indexOf(t);
    if (i >= 0) this.tasks.splice(i, 1);
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
    let again = false;
    for (const t of this.tasks) {
      if (!t.dirty) continue;
      if (start - t.painted < t.every * slower - 4) {
        again = true;
        continue;
      }
      t.dirty = false;
      t.painted = start;
      t.paint(start);
    }
    this.after?.();
    const end = performance.now();
    this.cost += (end - start - this.cost) * 0.1;
    this.frames++;
    if (end - this.since >= 1000) {
      this.fps = (this.frames * 1000) / (end - this.since);
      this.frames = 0;
      this.since = end;
    }
    if (again) this.ask();
  };
}
