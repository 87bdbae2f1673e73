// A live page: charts by metric and a table of current values, of a group or of one device in it. A small page subscribes to
// everything; a large one to the last values of all at a slow pace (so that it can sort, filter and count), and to just
// what is on screen in full.
import { Address, type Part } from "./address";
import { ask, extent, nearest } from "./ask";
import { moment } from "./axis";
import { Backfill, type Filled } from "./backfill";
import { Details } from "./details";
import { $, make, maybe, setText, toast, typing } from "./dom";
import { Chart, type Context } from "./chart";
import { forgetColors } from "./colors";
import { amount, byName } from "./format";
import { saveCSV, saveMenu, type Scene } from "./export";
import { Header } from "./header";
import { Painter, type Task } from "./paint";
import { TimeBar, timeKey, timeText } from "./range";
import { type Handlers, Live, type Member, type Subscription } from "./socket";
import { Player, type Stage } from "./replay";
import { ReplayBar, replayKey } from "./replaybar";
import { Store } from "./store";
import { QUALITIES, type StateFilter, Table } from "./table";
import { Timeline } from "./timeline";
import { type Frame, Quality } from "./wire";

const LARGE = 400; // series from which on only what is in view is subscribed in full
const OVERVIEW_PACE = 0.5; // frames a second of the slow subscription

export class View implements Part, Stage {
  readonly store = new Store();
  readonly painter = new Painter();
  readonly live: Live;
  readonly header: Header;
  readonly table: Table;
  readonly charts = new Map<string, Chart>();
  readonly address = new Address();
  readonly time: Timeline;
  readonly backfill: Backfill;
  readonly player: Player;
  private readonly ctx: Context;
  private main: Subscription | null = null; // everything, or the overview of a large page
  private focus: Subscription | null = null; // what is in view, on a large page
  private next: Subscription | null = null; // the focus to come, until it has started
  private covered = new Uint8Array(0); // slots that focus tells about
  private focusKey = "";
  private large = false;
  private members = -1; // store.members when the page was last laid out
  private layoutTimer = 0;
  private focusTimer = 0;
  private speakTimer = 0;
  private readonly details: Details;
  private seen: IntersectionObserver;
  private resized: ResizeObserver;

  constructor(readonly root: HTMLElement) {
    this.large = Number(root.dataset.series) > LARGE;
    this.live = new Live(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    this.header = new Header(this.live);
    this.time = new Timeline(() => this.live.now(), this.address);
    this.backfill = new Backfill(this.store, this.time, ask, () => this.markAll());
    this.ctx = {
      store: this.store,
      time: this.time,
      now: () => (this.time.paused || this.time.mode === "replay" ? this.time.right() : this.live.now()),
      mark: (t: Task) => this.painter.mark(t),
      shown: () => this.shown(),
      text: (slot: number) => this.table.text(slot),
      hidden: new Set(),
      hide: (slot, alone) => this.hide(slot, alone),
      retry: () => this.backfill.retry(),
      nearest: (c) => void this.nearest(c),
      extent: (c) => extent(this.names(c.lines), this.live.now(), AbortSignal.timeout(20_000)),
    };
    this.table = new Table($<HTMLTableElement>("values"), this.ctx, (slot) => this.details.show(slot));
    this.details = new Details(this.ctx);
    this.painter.add(this.table);
    this.painter.after = () => this.live.painted();
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const e of entries) {
          const c = this.charts.get((e.target as HTMLElement).dataset.key!);
          if (!c) continue;
          c.visible = e.isIntersecting;
          if (c.visible) c.redraw();
        }
        this.shown();
      },
      { rootMargin: "120px" },
    );
    this.resized = new ResizeObserver((entries) => {
      for (const e of entries) this.charts.get((e.target as HTMLElement).dataset.key!)?.resize();
    });
    this.address.add(this);
    this.player = new Player(this);
    this.address.add(this.player);
    this.address.read();
    this.time.listen(() => this.moved());
    new TimeBar(this.time);
    new ReplayBar(this.player, this.time);
    this.moved();
    this.controls();
    this.keys();
    this.table.measure();
    window.addEventListener("resize", () => this.table.measure());
    window.addEventListener("millrace:theme", () => {
      forgetColors();
      for (const c of this.charts.values()) c.restyle();
      this.table.measure();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.markAll();
      this.backfill.renew();
    });
    setInterval(() => this.beat(), 250);
    this.subscribe();
    this.live.start();
  }

  // ── subscriptions

  private patterns(): string[] | undefined {
    const device = this.root.dataset.device;
    return device ? [device + "/*"] : undefined;
  }

  private subscribe(): void {
    const group = this.root.dataset.group!;
    let map = new Int32Array(0);
    const place = (ms: Member[]) => {
      let top = map.length;
      for (const m of ms) if (m.index >= top) top = m.index + 1;
      if (top > map.length) {
        const wider = new Int32Array(Math.max(top, 2 * map.length)).fill(-1);
        wider.set(map);
        map = wider;
      }
      for (const m of ms) map[m.index] = this.store.slot(m);
    };
    const handlers: Handlers = {
      series: (ms) => {
        map = new Int32Array(ms.length).fill(-1);
        place(ms);
        const here = new Uint8Array(this.store.size);
        for (let i = 0; i < map.length; i++) if (map[i] >= 0) here[map[i]] = 1;
        for (let i = 0; i < this.store.size; i++) if (!here[i]) this.store.remove(i);
        this.root.classList.add("started");
        this.layout();
        this.grown();
        this.backfill.renew(); // after a break this closes the hole
      },
      added: (ms) => {
        place(ms);
        this.layoutSoon();
        this.grown();
      },
      removed: (gone) => {
        for (const i of gone) if (map[i] >= 0) this.store.remove(map[i]);
        this.layoutSoon();
      },
      frame: (f) => {
        this.store.apply(f, map, this.large ? this.covered : null);
        this.applied(f);
      },
      ended: (code, message) => this.ended(code, message),
    };
    this.main = this.live.subscribe({ group, series: this.patterns(), ...(this.large ? { detail: "last", pace: OVERVIEW_PACE } : {}) }, handlers);
  }

  // A page that has grown large goes over to subscribing to what is in view.
  private grown(): void {
    if (this.large || this.store.size <= 2 * LARGE || !this.main) return;
    this.live.unsubscribe(this.main);
    this.large = true;
    this.subscribe();
  }

  private refocusSoon(): void {
    if (!this.large || this.focusTimer) return;
    this.focusTimer = window.setTimeout(() => {
      this.focusTimer = 0;
      this.refocus();
    }, 200);
  }

  // Subscribes to the rows and charts in view. The new subscription starts where the present one stands, which goes on
  // until then: no extreme falls between the two.
  private refocus(): void {
    if (!this.large || !this.main?.ready) return;
    const wanted = new Set<number>();
    for (let i = 0; i < this.table.shownRows; i++) {
      const slot = this.table.order[this.table.first + i];
      if (slot !== undefined) wanted.add(slot);
    }
    for (const c of this.charts.values()) if (c.visible) for (const slot of c.lines) wanted.add(slot);
    const slots = [...wanted].sort((a, b) => a - b);
    const key = slots.join();
    if (key === this.focusKey) return;
    this.focusKey = key;
    if (this.next) {
      this.live.unsubscribe(this.next);
      this.next = null;
    }
    const old = this.focus;
    if (slots.length === 0) {
      if (old) this.live.unsubscribe(old);
      this.focus = null;
      this.covered = new Uint8Array(this.store.size);
      return;
    }
    const names = slots.map((s) => this.store.device[s] + "/" + this.store.metric[s]);
    const position = old ?? this.main;
    let map = new Int32Array(0);
    const sub = this.live.subscribe(
      { group: this.root.dataset.group!, series: names },
      {
        series: (ms) => {
          map = new Int32Array(ms.length).fill(-1);
          const covered = new Uint8Array(this.store.size + ms.length);
          for (const m of ms) {
            if (m.index >= map.length) {
              const wider = new Int32Array(2 * m.index + 2).fill(-1);
              wider.set(map);
              map = wider;
            }
            map[m.index] = this.store.slot(m);
            covered[map[m.index]] = 1;
          }
          this.covered = covered;
          if (this.next === sub) {
            this.next = null;
            if (this.focus) this.live.unsubscribe(this.focus);
            this.focus = sub;
          }
        },
        added: () => this.layoutSoon(),
        removed: () => {},
        frame: (f) => {
          this.store.apply(f, map);
          this.applied(f);
        },
        ended: () => {
          if (this.focus === sub) this.focus = null;
          if (this.next === sub) this.next = null;
          this.focusKey = "";
        },
      },
      { epoch: position.epoch, seq: position.seq },
    );
    this.next = sub;
  }

  private ended(code: string, message: string): void {
    const box = $("live-ended");
    box.hidden = false;
    const why: Record<string, string> = {
      "not-found": "This group does not exist any more, or you may not see it.",
      forbidden: "Your right to see this group has ended.",
      gone: "This group was deleted.",
      "signed-out": "Your session has ended. Sign in again to go on.",
    };
    setText($("live-ended-text"), why[code] ?? `The server ended the live view: ${message || code}. Reload the page to try again.`);
    this.root.classList.add("ended");
  }

  // ── frames and painting

  private applied(f: Frame): void {
    if (!f.snapshot && f.n > 0) {
      const now = this.live.now();
      const step = Math.max(1, f.n >> 2);
      for (let i = 0; i < f.n; i += step) if (!f.quality || f.quality[i] !== Quality.Stale) this.header.saw(now - f.t[i]);
    }
    if (this.time.paused) this.live.painted();
    else this.markAll();
  }

  private markAll(): void {
    if (!this.time.paused) this.painter.mark(this.table);
    for (const c of this.charts.values()) if (c.visible) this.painter.mark(c);
  }

  // Four times a second also without frames: ages go on, charts move on, sorting by value is brought up to date.
  private beat(): void {
    if (document.hidden) return;
    this.backfill.beat();
    this.markAll();
    if (this.time.paused) return;
    this.table.maybeResort(performance.now());
    this.counts();
    this.details.refresh();
  }

  private counts(): void {
    const s = this.ctx.store;
    let series = 0;
    let stale = 0;
    let attention = 0;
    for (let i = 0; i < s.size; i++) {
      if (s.gone[i]) continue;
      series++;
      const q = s.quality[i];
      if (q === Quality.Stale) stale++;
      if (q !== Quality.Good || this.table.outside(i)) attention++;
    }
    if (!this.main?.ready && series === 0) return;
    setText($("n-series"), amount(series));
    setText($("n-attention"), amount(attention));
    setText($("n-stale"), amount(stale));
    const shown = maybe("n-shown");
    if (shown) setText(shown, this.table.order.length === series ? "" : `${amount(this.table.order.length)} of ${amount(series)} shown`);
  }

  // ── what is on the page

  private layoutSoon(): void {
    if (this.layoutTimer) return;
    this.layoutTimer = window.setTimeout(() => {
      this.layoutTimer = 0;
      this.layout();
    }, 300);
  }

  private layout(): void {
    this.player.recast();
    const s = this.ctx.store;
    if (this.members !== s.members) {
      this.members = s.members;
      this.table.rank();
    }
    const ranks = this.table.rank();
    // A chart for each metric; numbers come before states.
    const byKey = new Map<string, number[]>();
    for (let i = 0; i < s.size; i++) {
      if (s.gone[i] || !(s.numeric(i) || s.state(i)) || !this.table.matches(i)) continue;
      const key = (s.state(i) ? "1" : "0") + s.metric[i];
      const list = byKey.get(key);
      if (list) list.push(i);
      else byKey.set(key, [i]);
    }
    const names = [...byKey.keys()].sort(byName);
    const box = $("charts");
    for (const [key, c] of this.charts) {
      if (byKey.has(key)) continue;
      this.seen.unobserve(c.card);
      this.resized.unobserve(c.card);
      this.painter.remove(c);
      c.visible = false;
      c.restyle();
      c.card.remove();
      this.charts.delete(key);
    }
    names.forEach((key, at) => {
      let c = this.charts.get(key);
      if (!c) {
        const made = (c = new Chart({ key, title: key.slice(1) }, this.ctx));
        c.card.querySelector(".card-head .end")!.append(saveMenu(key.slice(1), () => this.scene(made)));
        this.charts.set(key, c);
        this.painter.add(c);
      }
      if (box.children[at] !== c.card) {
        box.insertBefore(c.card, box.children[at] ?? null);
        this.seen.observe(c.card);
        this.resized.observe(c.card);
      }
      c.setSlots(byKey.get(key)!.sort((a, b) => ranks[a] - ranks[b]));
    });
    $("charts-section").hidden = names.length === 0;
    const empty = maybe("live-empty");
    if (empty) empty.hidden = s.size > 0;
    $("values-section").hidden = s.size === 0;
    this.table.refresh();
    this.counts();
    this.shown();
  }

  // What is in view has changed: its past is brought, and a large page subscribes to it.
  private shown(): void {
    this.backfill.charts = [...this.charts.values()].filter((c) => c.visible);
    this.backfill.rows = Array.from({ length: this.table.shownRows }, (_, i) => this.table.order[this.table.first + i]).filter((s) => s !== undefined);
    this.backfill.soon(100);
    this.player.recast();
    this.refocusSoon();
  }

  // ── time

  // The range has changed, by hand or by address.
  private moved(): void {
    const { time } = this;
    this.header.mode = time.mode === "live" ? "live" : time.mode === "replay" ? "replay" : time.paused ? "paused" : "fixed";
    this.header.show();
    this.root.classList.toggle("paused", time.paused);
    this.root.dataset.time = time.mode;
    const past = time.paused || time.mode === "replay";
    setText($("values-title"), past ? `Values at ${moment(time.right(), 600_000, false)}` : "Values now");
    setText($("values-note"), time.mode === "replay" ? "replay" : time.paused ? "paused" : time.mode === "fixed" ? "live, not of the range that the charts show" : "");
    for (const c of this.charts.values()) c.moved();
    this.painter.mark(this.table);
    clearTimeout(this.speakTimer);
    if (!this.root.classList.contains("started")) return;
    this.speakTimer = window.setTimeout(() => setText($("announce"), (time.mode === "live" ? "Live. " : time.mode === "replay" ? "Replay. " : time.paused ? "Paused. " : "Not live. ") + timeText(time)), 1000);
  }

  // ── what a replay needs

  hold(on: boolean): void {
    this.live.held = on;
    if (on) return;
    this.live.painted();
    this.backfill.renew(); // closes the hole
  }

  show(store: Store): void {
    this.ctx.store = store;
    if (this.members < 0) return;
    this.layout();
    for (const c of this.charts.values()) c.moved();
  }

  cast(): number[] {
    const { store } = this;
    const all: number[] = [];
    for (let i = 0; i < store.size; i++) if (!store.gone[i]) all.push(i);
    if (all.length <= LARGE) return all;
    const seen = new Set(this.backfill.rows);
    for (const c of this.backfill.charts) for (const slot of c.lines) seen.add(slot);
    return [...seen].filter((slot) => !store.gone[slot]).slice(0, LARGE);
  }

  inView(): readonly Filled[] {
    return this.backfill.charts;
  }

  rows(): readonly number[] {
    return this.backfill.rows;
  }

  painted(): boolean {
    return !this.table.dirty || document.hidden;
  }

  played(): void {
    setText($("values-title"), `Values at ${moment(this.time.right(), 600_000, false)}`);
    this.markAll();
  }

  private names(slots: readonly number[]): { device: string; metric: string }[] {
    return slots.map((s) => ({ device: this.store.device[s], metric: this.store.metric[s] }));
  }

  // Goes to where the series of a chart have something.
  private async nearest(c: Chart): Promise<void> {
    const { time } = this;
    try {
      const at = await nearest(this.names(c.lines), (time.left() + time.right()) / 2, this.live.now(), time.window / 4, AbortSignal.timeout(30_000));
      if (Number.isNaN(at)) toast("Nothing is recorded", "History has no sample of these series.");
      else time.fix(at - time.window / 2, at + time.window / 2);
    } catch (e) {
      toast("History does not answer", (e as Error).message, true);
    }
  }

  private hide(slot: number, alone: boolean): void {
    const { hidden } = this.ctx;
    const name = (s: number) => this.store.device[s] + "/" + this.store.metric[s];
    if (!alone) {
      if (!hidden.delete(name(slot))) hidden.add(name(slot));
    } else {
      const others = [...this.charts.values()].find((c) => c.lines.includes(slot))?.slots.filter((s) => s !== slot) ?? [];
      const off = others.some((s) => !hidden.has(name(s)));
      hidden.delete(name(slot));
      for (const s of others) {
        if (off) hidden.add(name(s));
        else hidden.delete(name(s));
      }
    }
    this.address.changed(false);
    for (const c of this.charts.values()) c.redraw();
  }

  // ── controls, keyboard, address bar

  private setState(state: StateFilter): void {
    this.table.state = state;
    this.showFilter();
    this.address.changed(false);
    this.table.refresh();
  }

  private showFilter(): void {
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-state-filter]")) b.setAttribute("aria-pressed", String(b.dataset.stateFilter === this.table.state));
  }

  private controls(): void {
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-state-filter]")) {
      b.addEventListener("click", () => this.setState(b.dataset.stateFilter as StateFilter));
    }
    const filter = $<HTMLInputElement>("filter");
    let timer = 0;
    filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => {
        this.table.query = filter.value.trim().toLowerCase();
        this.address.changed(false);
        this.layout();
      }, 120);
    });
    const menu = $<HTMLDetailsElement>("save-menu");
    $("download").addEventListener("click", () => {
      menu.open = false;
      this.csv();
    });
    $("download-lines").addEventListener("click", () => {
      menu.open = false;
      saveCSV(
        [...this.charts.values()].filter((c) => c.visible).map((c) => this.scene(c)),
        this.root.dataset.name ?? "lines",
      );
    });
    $("copy-link").addEventListener("click", (e) => ((e.currentTarget as HTMLElement).dataset.copy = location.href));
  }

  private keys(): void {
    document.addEventListener("keydown", (e) => {
      if (typing(e) || document.querySelector("dialog[open]")) return;
      if (e.key === "f") {
        e.preventDefault();
        $("filter").focus();
      } else if ((e.key === "ArrowUp" || e.key === "ArrowDown") && (e.target as HTMLElement).classList.contains("chart")) {
        const cards = [...$("charts").children] as HTMLElement[];
        const i = cards.indexOf(e.target as HTMLElement);
        const to = cards[i + (e.key === "ArrowDown" ? 1 : -1)];
        if (to) {
          e.preventDefault();
          to.focus();
        }
      } else if (!this.player.active || !replayKey(e, this.player, this.time)) {
        timeKey(e, this.time);
      }
    });
  }

  read(q: URLSearchParams): void {
    this.table.query = (q.get("q") ?? "").toLowerCase();
    $<HTMLInputElement>("filter").value = q.get("q") ?? "";
    const state = q.get("state");
    this.table.state = state === "attention" || state === "stale" ? state : "all";
    this.ctx.hidden.clear();
    for (const name of q.getAll("hide")) this.ctx.hidden.add(name);
    this.showFilter();
    if (this.members >= 0) this.layout();
  }

  write(q: URLSearchParams): void {
    if (this.table.query) q.set("q", this.table.query);
    if (this.table.state !== "all") q.set("state", this.table.state);
    for (const name of this.ctx.hidden) q.append("hide", name);
  }

  // ── the table as CSV

  private scene(c: Chart): Scene {
    const { store, time, hidden } = this.ctx;
    return { title: `${this.root.dataset.name ?? ""} ${c.key.slice(1)}`.trim(), slots: c.lines, name: (slot) => store.device[slot], store, time, hidden };
  }

  private csv(): void {
    const s = this.ctx.store;
    const quote = (v: string) => (/[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v);
    const lines = ["device,metric,value,unit,time,quality"];
    for (const i of this.table.order) {
      const v = s.numeric(i) ? (s.t[i] ? String(s.last[i]) : "") : this.table.text(i);
      lines.push([s.device[i], s.metric[i], v, s.unit[i], s.t[i] ? new Date(s.t[i]).toISOString() : "", QUALITIES[s.quality[i]].toLowerCase()].map(quote).join(","));
    }
    const a = make("a", { download: (this.root.dataset.name ?? "values").replaceAll("/", "-") + ".csv" });
    a.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    a.click();
    setTimeout(() => URL.revokeObjectURL(a.href), 1000);
    toast("Values saved", `${this.table.order.length} rows as CSV.`);
  }
}
