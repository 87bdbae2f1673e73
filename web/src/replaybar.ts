// The controls of a replay and their keys. The elements are made by the server (replayBar in live.templ).
import { moment, range, span, ticks, zone } from "./axis";
import { $, make, maybe, setText } from "./dom";
import type { Player } from "./replay";
import { type Timeline, WINDOWS } from "./timeline";

export class ReplayBar {
  private readonly bar = $("replay");
  private readonly seek = $<HTMLInputElement>("replay-seek");
  private readonly speed = $<HTMLSelectElement>("replay-speed");
  private readonly buffer = $("replay-buffer");
  private readonly jump = $<HTMLButtonElement>("replay-jump");
  private ticksFor = "";

  constructor(
    private readonly player: Player,
    private readonly time: Timeline,
  ) {
    maybe("replay-start")?.addEventListener("click", () => {
      player.start(time.left());
      $("replay-play").focus();
    });
    $("replay-play").addEventListener("click", () => (player.ended ? time.live() : player.toggle()));
    $("replay-back").addEventListener("click", () => player.step(-1));
    $("replay-on").addEventListener("click", () => player.step(1));
    $("replay-live").addEventListener("click", () => time.live());
    this.jump.addEventListener("click", () => (player.failed ? player.retry() : player.jump()));
    this.speed.addEventListener("change", () => player.pace(Number(this.speed.value)));
    this.seek.addEventListener("input", () => player.seek(Number(this.seek.value)));
    this.seek.addEventListener("keydown", (e) => {
      // A step of the slider is a tenth of the window, a page of it a window.
      const by = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 }[e.key];
      if (by === undefined) return void replayKey(e, player, time);
      e.preventDefault();
      e.stopPropagation();
      player.seek(player.at + by * time.window);
    });
    player.listen(() => this.show());
    time.listen(() => this.show());
    window.addEventListener("resize", () => this.show());
    this.show();
  }

  private show(): void {
    const { player: p, bar } = this;
    const start = maybe("replay-start");
    if (start) start.hidden = p.active;
    bar.hidden = !p.active;
    if (!p.active) return;
    const fine = p.speed <= 2 ? 60_000 : 600_000;
    setText($("replay-at"), `${moment(p.at, fine)} ${zone(p.at)}`);
    bar.classList.toggle("loading", p.loading && !p.failed);
    bar.classList.toggle("playing", p.playing);
    const play = $<HTMLButtonElement>("replay-play");
    setText($("replay-play-text"), p.ended ? "Go live" : p.playing ? "Pause" : "Play");
    play.title = p.ended ? "It has come to the present (0)" : "Space";
    if (this.speed.value !== String(p.speed)) this.speed.value = String(p.speed);
    let note = "";
    let action = "";
    if (p.failed) {
      note = p.failed;
      action = "Try again";
    } else if (p.ended) note = "It has come to the present.";
    else if (p.until === Infinity) note = "Nothing is recorded after this.";
    else if (p.until > p.at) {
      note = `Nothing recorded until ${moment(p.until, p.until - p.at < 3_600_000 ? 600_000 : 86_400_000, p.until - p.at > 43_200_000)}.`;
      action = "Go there";
    }
    setText($("replay-note"), note);
    this.jump.hidden = action === "";
    setText(this.jump, action);
    const { begin, end } = p;
    this.seek.min = String(Math.round(begin));
    this.seek.max = String(Math.round(end));
    this.seek.step = "1";
    this.seek.value = String(Math.round(p.at));
    this.seek.setAttribute("aria-valuetext", `${moment(p.at, 600_000)}, showing ${range(p.at - this.time.window, p.at)}`);
    const share = (t: number) => `${Math.max(0, Math.min(100, ((t - begin) / (end - begin)) * 100))}%`;
    this.buffer.style.left = share(p.at);
    this.buffer.style.width = `${Math.max(0, Math.min(100, ((Math.min(p.buffered, end) - p.at) / (end - begin)) * 100))}%`;
    this.marks(begin, end);
  }

  private marks(begin: number, end: number): void {
    const width = this.seek.clientWidth;
    const key = `${begin} ${end} ${width}`;
    if (key === this.ticksFor || width === 0) return;
    this.ticksFor = key;
    const t = ticks(begin, end, width / 90);
    $("replay-ticks").replaceChildren(
      ...t.at.flatMap((at, i) => {
        const x = (at - begin) / (end - begin);
        if (x < 0.02 || x > 0.98) return [];
        const tick = make("span", {}, t.label[i]);
        tick.style.left = `${x * 100}%`;
        return [tick];
      }),
    );
    this.seek.title = `${span(end - begin)}, ${range(begin, end)}`;
  }
}

/** Does what a key says about a replay; whether it did. Not for keys typed into fields. */
export function replayKey(e: KeyboardEvent, player: Player, time: Timeline): boolean {
  const target = e.target as HTMLElement;
  switch (e.key) {
    case " ":
      if (target.closest("button, a, summary")) return false;
      if (player.ended) time.live();
      else player.toggle();
      break;
    case ",":
    case ".":
      player.step(e.key === "," ? -1 : 1);
      break;
    case "<":
    case ">":
      player.faster(e.key === "<" ? -1 : 1);
      break;
    default: {
      const w = /^[1-9]$/.test(e.key) ? WINDOWS[Number(e.key) - 1] : undefined;
      if (!w) return false;
      time.zoom(w.ms / time.window);
    }
  }
  e.preventDefault();
  return true;
}

