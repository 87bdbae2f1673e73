// The page of trends: series that the viewer picks, of any device, over one time with an axis for each unit. The address holds them. They run
// on live through the first group of their device that the viewer may see, and can be replayed like a live page.
import { Address, type Part } from "./address";
import { ask, extent, nearest } from "./ask";
import { Backfill, type Filled } from "./backfill";
import { Chart, type Context } from "./chart";
import { forgetColors, LINES } from "./colors";
import { $, get, make, maybe, toast, typing } from "./dom";
import { saveCSV, saveMenu, savePicture, type Scene } from "./export";
import { byName } from "./format";
import { Header } from "./header";
import { Painter, type Task } from "./paint";
import { Picker, type SeriesItem } from "./picker";
import { TimeBar, timeKey } from "./range";
import { Player, type Stage } from "./replay";
import { ReplayBar, replayKey } from "./replaybar";
import { Live, type Member, type Subscription } from "./socket";
import { Store } from "./store";
import { valueText } from "./table";
import { Timeline } from "./timeline";

const HEIGHT = 380;

class Trends implements Part, Stage {
  readonly store = new Store();
  readonly live = new Live(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  readonly header = new Header(this.live);
  readonly address = new Address();
  readonly time = new Timeline(() => this.live.now(), this.address);
  readonly painter = new Painter();
  readonly backfill = new Backfill(this.store, this.time, ask, () => this.markAll());
  readonly player: Player;
  readonly charts: Chart[];
  picked: string[] = []; // "device/metric", in the order of their colours
  private slots = new Map<string, number>(); // of those known
  private groups: Promise<string[]> | null = null;
  private groupOf = new Map<string, string>(); // by device
  private subs = new Map<string, Subscription>(); // by group
  private wanted = new Map<string, string>(); // by group, the names that subs has
  private readonly ctx: Context;

  constructor(private readonly root: HTMLElement) {
    this.ctx = {
      store: this.store,
      time: this.time,
      now: () => (this.time.mode === "live" ? this.live.now() : this.time.right()),
      mark: (t: Task) => this.painter.mark(t),
      shown: () => this.shown(),
      text: (slot) => valueText(this.ctx.store, slot),
      hidden: new Set(),
      hide: (slot, alone) => this.hide(slot, alone),
      retry: () => this.backfill.retry(),
      nearest: (c) => void this.nearest(c),
      extent: (c) => extent(this.names(c.lines), this.live.now(), AbortSignal.timeout(20_000)),
    };
    const name = (slot: number) => `${this.store.device[slot]} ${this.store.metric[slot]}`;
    this.charts = [new Chart({ key: "lines", title: "Values", name, height: HEIGHT }, this.ctx), new Chart({ key: "states", title: "States", name }, this.ctx)];
    const sized = new ResizeObserver(() => this.charts.forEach((c) => c.resize()));
    for (const c of this.charts) {
      $("charts").append(c.card);
      c.card.querySelector(".card-head .end")!.append(saveMenu(c.key === "lines" ? "Values" : "States", () => this.scene(c)));
      c.visible = true;
      this.painter.add(c);
      sized.observe(c.card);
    }
    this.painter.after = () => this.live.painted();
    this.player = new Player(this);
    this.address.add(this);
    this.address.add(this.player);
    new Picker($<HTMLInputElement>("pick"), $("pick-list"), $("pick-note"), (s) => this.add(s));
    new TimeBar(this.time);
    new ReplayBar(this.player, this.time);
    this.time.listen(() => this.moved());
    this.address.read();
    this.moved();
    this.controls();
    setInterval(() => {
      if (document.hidden) return;
      this.backfill.beat();
      this.markAll();
    }, 250);
    this.live.start();
  }

  private controls(): void {
    $("download-lines").addEventListener("click", () => saveCSV(this.shownCharts().map((c) => this.scene(c)), "trends"));
    $("picture").addEventListener("click", () => this.shownCharts().forEach((c) => savePicture(this.scene(c))));
    $("copy-link").addEventListener("click", (e) => ((e.currentTarget as HTMLElement).dataset.copy = location.href));
    const menu = $<HTMLDetailsElement>("save-menu");
    menu.addEventListener("click", (e) => {
      if ((e.target as HTMLElement).closest(".menu-body button")) menu.open = false;
    });
    document.addEventListener("keydown", (e) => {
      if (typing(e) || document.querySelector("dialog[open]")) return;
      if (e.key === "f") {
        e.preventDefault();
        $("pick").focus();
      } else if (!this.player.active || !replayKey(e, this.player, this.time)) timeKey(e, this.time);
    });
    window.addEventListener("millrace:theme", () => {
      forgetColors();
      for (const c of this.charts) c.restyle();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.backfill.renew();
    });
  }

  // ── what is picked

  private add(s: SeriesItem): void {
    const name = s.device + "/" + s.metric;
    if (this.picked.includes(name)) return;
    if (this.picked.length >= LINES) return toast("That is enough", `${LINES} series are shown at once. Remove one first.`);
    this.known(s);
    this.picked.push(name);
    this.address.changed(true);
    this.changed();
  }

  private remove(name: string): void {
    const at = this.picked.indexOf(name);
    this.picked = this.picked.filter((n) => n !== name);
    this.ctx.hidden.delete(name);
    this.address.changed(true);
    this.changed();
    const next = $("picked").querySelectorAll("button");
    (next[Math.min(at, next.length - 1)] ?? $("pick")).focus();
  }

  private known(s: SeriesItem): void {
    this.slots.set(s.device + "/" + s.metric, this.store.slot({ index: 0, device: s.device, metric: s.metric, unit: s.unit, kind: s.kind, label: s.label, low: s.low, high: s.high }));
  }

  // Learns of series that the address names.
  private async learn(): Promise<void> {
    const open = this.picked.filter((n) => !this.slots.has(n));
    await Promise.all(
      open.map(async (n) => {
        const [device, ...metric] = n.split("/");
        try {
          const a = await get<{ items: SeriesItem[] }>(`/api/v1/series?device=${encodeURIComponent(device)}&metric=${encodeURIComponent(metric.join("/"))}&limit=1`);
          if (a.items.length > 0) this.known(a.items[0]);
          else toast("A series is not there", `${n} does not exist, or you may not see it.`, true);
        } catch (e) {
          toast("The series can't be loaded", (e as Error).message, true);
        }
      }),
    );
    if (open.length > 0) this.changed();
  }

  private changed(): void {
    const { store } = this;
    this.player.recast(); // a replay knows what there is now
    const slots = this.picked.map((n) => this.slots.get(n)).filter((s) => s !== undefined);
    const [lines, states] = this.charts;
    lines.setSlots(slots.filter((s) => store.numeric(s)));
    states.setSlots(slots.filter((s) => store.state(s)));
    lines.card.hidden = lines.slots.length === 0;
    states.card.hidden = states.slots.length === 0;
    $("trend-empty").hidden = this.picked.length > 0;
    $("charts-section").hidden = this.picked.length === 0;
    const list = $("picked");
    list.replaceChildren(
      ...this.picked.map((n) => {
        const slot = this.slots.get(n);
        const at = slot === undefined ? -1 : (store.numeric(slot) ? lines : states).slots.indexOf(slot);
        const off = make("button", { type: "button", class: "plain icon-only", "aria-label": `Remove ${n}` }, "×");
        off.addEventListener("click", () => this.remove(n));
        const unit = slot === undefined ? "not found" : store.unit[slot];
        return make("li", { class: at >= 0 ? `l${at + 1}` : "" }, make("span", { class: "key" }, make("span", {})), make("span", { class: "name" }, n.replace("/", " ")), make("small", {}, unit), off);
      }),
    );
    list.hidden = this.picked.length === 0;
    this.root.classList.toggle("started", this.picked.length > 0);
    this.player.recast();
    this.shown();
    void this.follow();
  }

  // Subscribes to what is picked, each through the first group of its device that one may see.
  private async follow(): Promise<void> {
    this.groups ??= get<{ items: { path: string }[] }>("/api/v1/groups").then((a) => a.items.map((g) => g.path));
    const devices = [...new Set([...this.slots.keys()].filter((n) => this.picked.includes(n)).map((n) => n.split("/")[0]))].filter((d) => !this.groupOf.has(d));
    try {
      const seen = new Set(await this.groups);
      await Promise.all(
        devices.map(async (d) => {
          const a = await get<{ groups?: string[] }>("/api/v1/devices/" + encodeURIComponent(d));
          this.groupOf.set(d, (a.groups ?? []).filter((g) => seen.has(g)).sort(byName)[0] ?? "");
        }),
      );
    } catch {
      this.groups = null;
      setTimeout(() => void this.follow(), 5000); // history is shown until then
      return;
    }
    const by = new Map<string, string[]>();
    for (const n of this.picked) {
      const g = this.slots.has(n) ? this.groupOf.get(n.split("/")[0]) : "";
      if (g) by.set(g, [...(by.get(g) ?? []), n]);
    }
    for (const [g, sub] of this.subs) {
      if (by.get(g)?.join() === this.wanted.get(g)) continue;
      this.live.unsubscribe(sub);
      this.subs.delete(g);
    }
    for (const [g, names] of by) if (!this.subs.has(g)) this.subscribe(g, names);
    this.backfill.renew();
  }

  private subscribe(group: string, names: string[]): void {
    let map = new Int32Array(0);
    const place = (ms: Member[]) => {
      const top = ms.reduce((n, m) => Math.max(n, m.index + 1), map.length);
      const wider = new Int32Array(top).fill(-1);
      wider.set(map);
      map = wider;
      for (const m of ms) map[m.index] = this.store.slot(m);
    };
    this.wanted.set(group, names.join());
    const sub = this.live.subscribe(
      { group, series: names },
      {
        series: (ms) => {
          map = new Int32Array(0);
          place(ms);
          this.backfill.renew();
        },
        added: place,
        removed: () => {},
        frame: (f) => {
          this.store.apply(f, map);
          if (this.time.paused) this.live.painted();
          else this.markAll();
        },
        ended: () => {
          if (this.subs.get(group) === sub) this.subs.delete(group);
        },
      },
    );
    this.subs.set(group, sub);
  }

  private hide(slot: number, alone: boolean): void {
    const { hidden } = this.ctx;
    const name = (s: number) => this.store.device[s] + "/" + this.store.metric[s];
    const others = alone ? this.charts.flatMap((c) => c.slots).filter((s) => s !== slot) : [];
    if (!alone && !hidden.delete(name(slot))) hidden.add(name(slot));
    const off = others.some((s) => !hidden.has(name(s)));
    if (alone) hidden.delete(name(slot));
    for (const s of others) {
      if (off) hidden.add(name(s));
      else hidden.delete(name(s));
    }
    this.address.changed(false);
    for (const c of this.charts) c.redraw();
  }

  // ── time, painting, address

  private moved(): void {
    const { time } = this;
    this.header.mode = time.mode === "live" ? "live" : time.mode === "replay" ? "replay" : time.paused ? "paused" : "fixed";
    this.header.show();
    this.root.dataset.time = time.mode;
    for (const c of this.charts) c.moved();
  }

  private markAll(): void {
    for (const c of this.charts) this.painter.mark(c);
  }

  private shownCharts(): Chart[] {
    return this.charts.filter((c) => c.lines.length > 0);
  }

  private shown(): void {
    this.backfill.charts = this.shownCharts();
    this.backfill.soon();
    this.markAll();
  }

  private names(slots: readonly number[]): { device: string; metric: string }[] {
    return slots.map((s) => ({ device: this.store.device[s], metric: this.store.metric[s] }));
  }

  private scene(c: Chart): Scene {
    const { store, time, hidden } = this.ctx;
    return { title: c.key === "lines" ? "Trends" : "States", slots: c.lines, name: (slot) => `${store.device[slot]} ${store.metric[slot]}`, store, time, hidden };
  }

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

  read(q: URLSearchParams): void {
    this.picked = [...new Set(q.getAll("series"))].filter((n) => n.includes("/")).slice(0, LINES);
    this.ctx.hidden.clear();
    for (const n of q.getAll("hide")) this.ctx.hidden.add(n);
    this.changed();
    void this.learn();
  }

  write(q: URLSearchParams): void {
    for (const n of this.picked) q.append("series", n);
    for (const n of this.ctx.hidden) q.append("hide", n);
  }

  // ── what a replay needs

  hold(on: boolean): void {
    this.live.held = on;
    if (on) return;
    this.live.painted();
    this.backfill.renew();
  }

  show(store: Store): void {
    this.ctx.store = store;
    this.changed();
    for (const c of this.charts) c.moved();
  }

  cast(): number[] {
    return this.charts.flatMap((c) => c.lines);
  }

  inView(): readonly Filled[] {
    return this.shownCharts();
  }

  rows(): readonly number[] {
    return [];
  }

  painted(): boolean {
    return document.hidden || this.charts.every((c) => !c.dirty);
  }

  played(): void {
    this.markAll();
  }
}

const root = maybe("live");
if (root) Object.assign(window, { millrace: new Trends(root) });
