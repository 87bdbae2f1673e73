// The header's live part: connection state in words and shape, frame rate, freshness, bytes, and the server's clock.
import { $, maybe, setText } from "./dom";
import { byteRate } from "./format";
import type { Live } from "./socket";

const SAMPLES = 256;

export class Header {
  mode: "live" | "paused" | "fixed" | "replay" = "live"; // what the page shows; other than live it does not pretend to be
  freshness = NaN; // median ms from measuring to pixels, of the last 256 points looked at
  frameRate = 0;
  private ages = new Float64Array(SAMPLES);
  private sorted = new Float64Array(SAMPLES);
  private seen = 0;
  private frames = 0;
  private bytes = 0;
  private at = performance.now();
  private spoken = 0;
  private said = "";

  constructor(private readonly live: Live) {
    live.onstate = () => this.show();
    setInterval(() => this.second(), 1000);
    this.show();
  }

  /** Notes how old a value was when painted. */
  saw(ms: number): void {
    this.ages[this.seen++ % SAMPLES] = ms < 0 ? 0 : ms;
  }

  private second(): void {
    const now = performance.now();
    const s = (now - this.at) / 1000;
    this.frameRate = (this.live.frames - this.frames) / s;
    const bytes = (this.live.bytes - this.bytes) / s;
    this.at = now;
    this.frames = this.live.frames;
    this.bytes = this.live.bytes;
    const n = Math.min(this.seen, SAMPLES);
    if (n > 0) {
      this.sorted.set(this.ages);
      const a = this.sorted.subarray(0, n).sort();
      this.freshness = a[n >> 1];
    }
    this.seen = 0;
    const more = maybe("conn-more");
    if (more) {
      more.hidden = this.live.state !== "live" || this.mode !== "live";
      const fresh = Number.isNaN(this.freshness) || n === 0 ? "" : ` · ${Math.round(this.freshness)} ms`;
      setText(more, `${this.frameRate.toFixed(0)}/s${fresh} · ${byteRate(bytes)}`);
      more.title = "Frames a second · median time from measuring to pixels · data received";
    }
    this.clock();
    this.show();
  }

  private clock(): void {
    const c = maybe("clock");
    if (!c || !this.live.offsetKnown) return;
    c.hidden = false;
    const d = new Date(this.live.now());
    const time = d.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" });
    const off = Math.abs(this.live.offset);
    // A second of network delay looks like a clock that is off, and so does a second off: both are worth a mark.
    const mark = off > 1000 ? `this device ${(off / 1000).toFixed(off < 9950 ? 1 : 0)} s ${this.live.offset > 0 ? "behind" : "ahead"}` : "";
    if (c.firstChild?.nodeType !== Node.TEXT_NODE) c.prepend("");
    if (c.firstChild!.nodeValue !== time) c.firstChild!.nodeValue = time;
    let o = c.querySelector<HTMLElement>(".off");
    if (mark && !o) {
      o = document.createElement("span");
      o.className = "off";
      c.append(o);
    }
    if (o) {
      o.hidden = !mark;
      setText(o, mark);
    }
    c.title = "The server's time in your zone";
  }

  show(): void {
    const box = maybe("conn");
    if (!box) return;
    const { state, lag } = this.live;
    box.dataset.state = this.mode !== "live" && state === "live" ? "paused" : state;
    let text = "Connecting";
    let speech = "";
    switch (state) {
      case "live":
        text = { live: "Live", paused: "Paused", fixed: "Not live", replay: "Replay" }[this.mode];
        break;
      case "lagging":
        text = `Lagging by ${lag} s`;
        speech = "Values on this page are late.";
        break;
      case "reconnecting":
        text = lag > 0 ? `Reconnecting in ${lag} s` : "Reconnecting";
        speech = "The connection is lost. Values on this page are old.";
        break;
      case "offline":
        text = "Offline";
        speech = "Offline. Values on this page are old.";
        break;
    }
    setText($("conn-text"), text);
    document.body.classList.toggle("not-live", state === "lagging" || state === "reconnecting" || state === "offline");
    const bar = maybe("page-stale");
    if (bar) {
      bar.hidden = state === "live" || state === "connecting";
      setText($("page-stale-text"), speech);
    }
    this.speak(state === "live" && this.said ? "Live again." : speech);
  }

  // Page-level staleness only, at most one message in five seconds (UI.md, 29).
  private speak(text: string): void {
    const out = maybe("announce");
    const now = performance.now();
    if (!out || text === this.said || (text === "Live again." && this.said === "") || (this.spoken > 0 && now - this.spoken < 5000)) return;
    this.spoken = now;
    this.said = text === "Live again." ? "" : text;
    out.textContent = text;
  }
}
