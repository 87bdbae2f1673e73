// The live connection (docs/protocol.md): one WebSocket a page, subscriptions on it that outlive it. A frame is
// acknowledged when it has been painted, a hidden tab acknowledges nothing, and after a break every subscription goes
// on from its cursor.
import { Frame, decode } from "./wire";

export type State = "connecting" | "live" | "lagging" | "reconnecting" | "offline";

export interface Member {
  index: number;
  device: string;
  metric: string;
  unit?: string;
  kind?: string;
  label?: string;
  low?: number | null;
  high?: number | null;
}

export interface Handlers {
  /** The series there are, at the start and again after each reconnect; indexes are new each time. */
  series(members: Member[]): void;
  added(members: Member[]): void;
  removed(indexes: number[]): void;
  frame(f: Frame): void;
  /** The subscription is over and won't come back by itself. */
  ended(code: string, message: string): void;
}

export interface Options {
  group: string;
  series?: string[];
  pace?: number;
  detail?: "last" | "envelope";
}

/** A subscription. Its cursor survives the connection. */
export class Subscription {
  epoch = "";
  seq = 0; // applied
  acked = 0; // acknowledged as painted
  ready = false; // subscribed on the present connection
  constructor(
    readonly id: number,
    readonly options: Options,
    readonly handlers: Handlers,
    from?: { epoch: string; seq: number },
  ) {
    if (from) {
      this.epoch = from.epoch;
      this.seq = from.seq;
    }
  }
}

const QUIET = 2500; // ms without a word from the server (it says the time each second) that count as lagging
const DEAD = 10000; // and that end the connection
const FIRST_WAIT = 300;
const LONGEST_WAIT = 15000;

/** Close codes that say not to come back by oneself: 40xx we did wrong, 41xx signed out (docs/protocol.md). */
export function comesBack(code: number): boolean {
  return !(code === 1002 || code === 1003 || code === 1007 || code === 1008 || code === 1009 || (code >= 4000 && code < 4200));
}

/** How long to wait before try number n (0, 1, …): doubling, with "full jitter" so that a crowd does not return at once. */
export function backoff(n: number, random = Math.random()): number {
  const most = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(n, 10));
  return most / 2 + (most / 2) * random;
}

export class Live {
  state: State = "connecting";
  lag = 0; // seconds behind while lagging
  offset = 0; // server's clock minus ours, ms; best guess of the last minute
  offsetKnown = false;
  frames = 0; // since start; rates are taken by differences
  bytes = 0;
  retryAt = 0; // when the next try is due, while reconnecting
  reason = "";
  onstate: (() => void) | null = null;
  held = false; // nothing is acknowledged: the server merges what comes until it is
  private ws: WebSocket | null = null;
  private subs = new Map<number, Subscription>();
  private nextID = 1;
  private tries = 0;
  private heard = 0;
  private stopped = false;
  private timer = 0;
  private watch = 0;
  private frame = new Frame();
  private offsets = new Float64Array(60).fill(NaN);
  private offsetsAt = 0;
  private frameLag = 0;

  constructor(private readonly url: string) {
    document.addEventListener("visibilitychange", () => this.painted());
    window.addEventListener("online", () => this.soon());
    window.addEventListener("offline", () => this.check());
    window.addEventListener("pagehide", () => this.stop());
    window.addEventListener("pageshow", (e) => {
      if (e.persisted) {
        this.stopped = false;
        this.start();
      }
    });
  }

  start(): void {
    this.connect();
    if (!this.watch) this.watch = window.setInterval(() => this.check(), 500);
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.watch = 0;
    this.ws?.close(1000);
  }

  /** Now by the server's clock. */
  now(): number {
    return Date.now() + this.offset;
  }

  subscribe(options: Options, handlers: Handlers, from?: { epoch: string; seq: number }): Subscription {
    const s = new Subscription(this.nextID++, options, handlers, from);
    this.subs.set(s.id, s);
    if (this.ws?.readyState === WebSocket.OPEN) this.sendSubscribe(s);
    return s;
  }

  unsubscribe(s: Subscription): void {
    if (!this.subs.delete(s.id)) return;
    this.send({ type: "unsubscribe", id: s.id });
  }

  /** Acknowledges all that has been applied: to be called after painting. */
  painted(): void {
    if (document.hidden || this.held || this.ws?.readyState !== WebSocket.OPEN) return;
    for (const s of this.subs.values()) {
      if (s.ready && s.seq > s.acked) {
        s.acked = s.seq;
        this.ws.send(`{"type":"credit","id":${s.id},"seq":${s.seq}}`);
      }
    }
  }

  /** Tries again at once. */
  soon(): void {
    if (!this.ws && !this.stopped) {
      this.tries = 0;
      clearTimeout(this.timer);
      this.connect();
    }
  }

  private connect(): void {
    if (this.ws || this.stopped) return;
    const ws = new WebSocket(this.url, "millrace.v1");
    ws.binaryType = "arraybuffer";
    this.ws = ws;
    this.heard = performance.now();
    ws.onopen = () => {
      this.heard = performance.now();
      for (const s of this.subs.values()) this.sendSubscribe(s);
    };
    ws.onmessage = (e: MessageEvent) => {
      this.heard = performance.now();
      if (typeof e.data === "string") {
        this.bytes += e.data.length;
        this.control(JSON.parse(e.data));
      } else {
        this.bytes += e.data.byteLength;
        this.take(e.data);
      }
    };
    ws.onclose = (e) => this.closed(ws, e.code, e.reason);
  }

  private closed(ws: WebSocket, code: number, reason: string): void {
    if (this.ws !== ws) return;
    this.ws = null;
    for (const s of this.subs.values()) s.ready = false;
    if (this.stopped) return;
    this.reason = reason;
    if (!comesBack(code)) {
      this.stopped = true;
      clearInterval(this.watch);
      this.watch = 0;
      this.set("offline", 0);
      const code41 = code >= 4100 && code < 4200;
      for (const s of this.subs.values()) s.handlers.ended(code41 ? "signed-out" : String(code), reason || "the server ended the connection");
      return;
    }
    const wait = backoff(this.tries++);
    this.retryAt = performance.now() + wait;
    this.timer = window.setTimeout(() => this.connect(), wait);
    this.check();
  }

  private send(message: object): void {
    if (this.ws?.readyState === WebSocket.OPEN) this.ws.send(JSON.stringify(message));
  }

  private sendSubscribe(s: Subscription): void {
    const o = s.options;
    this.send({
      type: "subscribe",
      id: s.id,
      group: o.group,
      series: o.series,
      pace: o.pace,
      detail: o.detail ?? "envelope",
      format: "binary",
      credit: "manual",
      from: s.epoch ? { epoch: s.epoch, seq: s.seq } : undefined,
    });
  }

  private control(m: any): void {
    if (m.type === "time") {
      this.clock(m.at);
      return;
    }
    const s = this.subs.get(m.id);
    if (!s) return;
    switch (m.type) {
      case "subscribed":
        s.epoch = m.epoch;
        s.seq = s.acked = m.seq;
        s.ready = true;
        this.tries = 0;
        s.handlers.series(m.series ?? []);
        break;
      case "series":
        if (m.removed?.length) s.handlers.removed(m.removed);
        if (m.added?.length) s.handlers.added(m.added);
        break;
      case "error":
      case "closed":
        this.subs.delete(s.id);
        s.handlers.ended(m.code ?? m.reason ?? m.type, m.message ?? m.reason ?? "");
        break;
    }
  }

  private take(buf: ArrayBuffer): void {
    const f = decode(buf, this.frame);
    const s = this.subs.get(f.id);
    if (!s) return;
    this.frames++;
    s.handlers.frame(f);
    s.seq = f.seq;
    this.frameLag = this.now() - f.at;
  }

  // The message that came fastest tells the clocks' difference best: of the last minute, the largest at - now.
  private clock(at: number): void {
    this.offsets[this.offsetsAt++ % this.offsets.length] = at - Date.now();
    let best = -Infinity;
    for (const o of this.offsets) if (o > best) best = o;
    this.offset = best;
    this.offsetKnown = true;
  }

  private check(): void {
    const silent = performance.now() - this.heard;
    if (this.ws?.readyState === WebSocket.OPEN) {
      if (silent > DEAD) {
        const ws = this.ws;
        ws.onclose = null;
        ws.close(4999, "silent");
        this.closed(ws, 1006, "silent");
      } else if (silent > QUIET) {
        this.set("lagging", Math.round(silent / 1000));
      } else if (this.frameLag > QUIET && !document.hidden) {
        this.set("lagging", Math.round(this.frameLag / 1000));
        this.frameLag = Math.max(0, this.frameLag - 500);
      } else {
        this.set("live", 0);
      }
      return;
    }
    if (this.ws && silent > DEAD) {
      const ws = this.ws;
      ws.onclose = null;
      ws.close();
      this.closed(ws, 1006, "no answer");
      return;
    }
    if (!navigator.onLine || this.tries > 6) this.set("offline", 0);
    else if (this.tries > 0) this.set("reconnecting", Math.max(0, Math.ceil((this.retryAt - performance.now()) / 1000)));
    else this.set("connecting", 0);
  }

  private set(state: State, lag: number): void {
    if (this.state === state && this.lag === lag) return;
    this.state = state;
    this.lag = lag;
    this.onstate?.();
  }
}
