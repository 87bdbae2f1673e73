// The controls of a page's time: pause and live, quick ranges, from–to, steps, the scrubber, and their keys. The elements are made by the server
// (timeControls and scrubber in live.templ).
import { moment, range, span, zone } from "./axis";
import { $, maybe, setText } from "./dom";
import { MOST, type Timeline, WINDOWS } from "./timeline";

/** "Last 15 minutes", or the range with its zone. */
export function timeText(time: Timeline): string {
  if (time.mode === "live") return "Last " + span(time.window).replace(/^1 (?=[a-z])/, "");
  if (time.mode === "replay") return `Replay, ${span(time.window)}`;
  return `${range(time.left(), time.right())} ${zone(time.right())}`;
}

// A moment as a field of the form takes it, in the page's zone.
function local(ms: number, fine: boolean): string {
  const d = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return d.toISOString().slice(0, fine ? 23 : 19);
}

export class TimeBar {
  private readonly menu = $<HTMLDetailsElement>("time-menu");
  private readonly from = $<HTMLInputElement>("time-from");
  private readonly to = $<HTMLInputElement>("time-to");
  private readonly scrub = maybe("scrub");
  private readonly at = maybe<HTMLInputElement>("scrub-at");
  private scrubbing = false;

  constructor(private readonly time: Timeline) {
    $("pause").addEventListener("click", () => time.toggle());
    $("time-back").addEventListener("click", () => time.step(-0.5));
    $("time-on").addEventListener("click", () => time.step(0.5));
    $("time-out").addEventListener("click", () => time.zoom(2));
    for (const b of this.menu.querySelectorAll<HTMLElement>("[data-window]")) {
      b.addEventListener("click", () => {
        this.close();
        time.live(Number(b.dataset.window));
      });
    }
    this.menu.addEventListener("toggle", () => {
      if (this.menu.open) this.fill();
    });
    this.menu.addEventListener("keydown", (e) => {
      if (e.key === "Escape") {
        e.stopPropagation();
        this.close();
      }
    });
    $("time-form").addEventListener("submit", (e) => {
      e.preventDefault();
      this.submit();
    });
    for (const f of [this.from, this.to]) f.addEventListener("input", () => this.problem(""));
    this.at?.addEventListener("input", () => {
      this.scrubbing = true;
      const left = Number(this.at!.value);
      time.move(left, left + time.window);
    });
    const done = () => {
      this.scrubbing = false;
      this.show();
    };
    this.at?.addEventListener("change", done);
    this.at?.addEventListener("blur", done);
    time.listen(() => this.show());
    setInterval(() => {
      if (this.scrub && time.mode === "live" && !document.hidden) this.showScrub();
    }, 1000);
    this.show();
  }

  private close(): void {
    const inside = this.menu.contains(document.activeElement);
    this.menu.open = false;
    if (inside) this.menu.querySelector("summary")!.focus();
  }

  private fill(): void {
    const fine = this.time.window < 120_000;
    this.from.value = local(this.time.left(), fine);
    this.to.value = local(this.time.right(), fine);
    this.problem("");
    setText($("time-zone"), `Times are in this device's zone, ${zone(this.time.right())}.`);
  }

  private problem(text: string): void {
    const p = $("time-problem");
    setText(p, text);
    p.hidden = text === "";
    this.from.setAttribute("aria-invalid", String(text !== ""));
  }

  private submit(): void {
    const from = new Date(this.from.value).getTime();
    const to = new Date(this.to.value).getTime();
    if (Number.isNaN(from) || Number.isNaN(to)) return this.problem("Give both times.");
    if (from >= to) return this.problem("“From” has to be before “to”.");
    if (to - from > 2 * 366 * 86_400_000) return this.problem("Two years are the most that is shown at once.");
    this.close();
    this.time.fix(from, to);
  }

  /** Shows what time it is; called after each change. */
  show(): void {
    const { time } = this;
    const live = time.mode === "live";
    setText($("time-text"), timeText(time));
    const pause = $("pause");
    pause.classList.toggle("resume", !live);
    setText($("pause-text"), live ? "Pause" : "Back to live");
    pause.title = live ? "Stand still (Space)" : "Run on with now (Space or 0)";
    $<HTMLButtonElement>("time-on").disabled = live;
    for (const b of this.menu.querySelectorAll<HTMLElement>("[data-window]")) b.setAttribute("aria-pressed", String(live && Number(b.dataset.window) === time.window));
    if (this.scrub) {
      this.scrub.hidden = time.mode === "replay";
      if (time.mode !== "replay") this.showScrub();
    }
  }

  private showScrub(): void {
    const { time, at } = this;
    const left = time.left();
    const right = time.right();
    if (!this.scrubbing) {
      // Ten windows around, but not back to before there were any.
      const length = Math.min(10 * time.window, Math.max(2 * time.window, MOST));
      const end = Math.max(right, Math.min(time.clock(), right + (length - time.window) / 2));
      const begin = end - length;
      at!.min = String(Math.round(begin));
      at!.max = String(Math.round(end - time.window));
      at!.step = String(Math.max(1, Math.round(time.window / 200)));
      at!.style.setProperty("--thumb", (100 * time.window) / length + "%");
      setText($("scrub-begin"), moment(begin, length, length > 43_200_000));
      setText($("scrub-end"), time.mode === "live" ? "now" : moment(end, length, length > 43_200_000));
    }
    at!.value = String(left);
    at!.setAttribute("aria-valuetext", range(left, right));
    setText($("scrub-state"), time.mode === "live" ? "Live" : time.paused ? "Paused" : "Not live");
  }
}

/** Does what a key says about time; whether it did. Not for keys typed into fields. */
export function timeKey(e: KeyboardEvent, time: Timeline): boolean {
  const target = e.target as HTMLElement;
  const scrolls = target.closest(".plot-table, .values, [role=tablist], details[open]") !== null;
  switch (e.key) {
    case " ":
      if (target.closest("button, a, summary")) return false;
      time.toggle();
      break;
    case "ArrowLeft":
    case "ArrowRight":
      if (scrolls) return false;
      time.step((e.key === "ArrowLeft" ? -1 : 1) * (e.shiftKey ? 0.1 : 0.5), e.shiftKey);
      break;
    case "+":
    case "=":
      time.zoom(0.5);
      break;
    case "-":
    case "_":
      time.zoom(2);
      break;
    case "0":
    case "Home":
      if (e.key === "Home" && scrolls) return false;
      time.live();
      break;
    case "[":
      history.back();
      break;
    case "]":
      history.forward();
      break;
    default: {
      const w = /^[1-9]$/.test(e.key) ? WINDOWS[Number(e.key) - 1] : undefined;
      if (!w) return false;
      time.live(w.ms);
    }
  }
  e.preventDefault();
  return true;
}
