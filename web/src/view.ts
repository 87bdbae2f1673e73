// A live page: charts by metric and a table of current values, of a group or of one device in it. A small page subscribes to
// everything; a large one to the last values of all at a slow pace (so that it can sort, filter and count), and to just
// what is on screen in full.
import { $, dialog, make, maybe, setText, toast, typing } from "./dom";
import { Chart, type Context, forgetColors } from "./chart";
import { age, amount, byName, number } from "./format";
import { Header } from "./header";
import { Painter, type Task } from "./paint";
import { type Handlers, Live, type Member, type Subscription } from "./socket";
import { SPANS, Store } from "./store";
import { QUALITIES, type StateFilter, Table } from "./table";
import { type Frame, Quality } from "./wire";

const LARGE = 400; // series from which on only what is in view is subscribed in full
const OVERVIEW_PACE = 0.5; // frames a second of the slow subscription

export class View {
  private store = new Store();
  private painter = new Painter();
  private live: Live;
  private header: Header;
  private table: Table;
  private charts = new Map<string, Chart>();
  private span = 0;
  private paused = false;
  private frozen = 0; // right edge while paused
  private main: Subscription | null = null; // everything, or the overview of a large page
  private focus: Subscription | null = null; // what is in view, on a large page
  private next: Subscription | null = null; // the focus to come, until it has started
  private covered = new Uint8Array(0); // slots that focus tells about
  private focusKey = "";
  private large = false;
  private members = -1; // store.members when the page was last laid out
  private layoutTimer = 0;
  private focusTimer = 0;
  private details: HTMLDialogElement | null = null;
  private detailed = -1;
  private seen: IntersectionObserver;
  private resized: ResizeObserver;

  constructor(private readonly root: HTMLElement) {
    this.large = Number(root.dataset.series) > LARGE;
    this.live = new Live(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    this.header = new Header(this.live);
    const ctx: Context = {
      store: this.store,
      span: () => this.span,
      now: () => (this.paused ? this.frozen : this.live.now()),
      mark: (t: Task) => this.painter.mark(t),
      shown: () => this.refocusSoon(),
      text: (slot: number) => this.table.text(slot),
    };
    this.ctx = ctx;
    this.table = new Table($<HTMLTableElement>("values"), ctx, (slot) => this.showDetails(slot));
    this.painter.add(this.table);
    this.painter.after = () => this.live.painted();
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const e of entries) {
          const c = this.charts.get((e.target as HTMLElement).dataset.metric!);
          if (!c) continue;
          c.visible = e.isIntersecting;
          if (c.visible) this.painter.mark(c);
        }
        this.refocusSoon();
      },
      { rootMargin: "120px" },
    );
    this.resized = new ResizeObserver((entries) => {
      for (const e of entries) {
        const c = this.charts.get((e.target as HTMLElement).dataset.metric!);
        c?.resize();
        if (c) this.painter.mark(c);
      }
    });
    this.readAddress();
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
      if (!document.hidden) this.markAll();
    });
    setInterval(() => this.beat(), 250);
    this.subscribe();
    this.live.start();
  }

  private readonly ctx: Context;

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
    if (this.paused) this.live.painted();
    else this.markAll();
  }

  private markAll(): void {
    if (this.paused) return;
    this.painter.mark(this.table);
    for (const c of this.charts.values()) if (c.visible) this.painter.mark(c);
  }

  // Four times a second also without frames: ages go on, charts move on, sorting by value is brought up to date.
  private beat(): void {
    if (document.hidden || this.paused) return;
    this.markAll();
    this.table.maybeResort(performance.now());
    this.counts();
    if (this.details?.open) this.fillDetails();
  }

  private counts(): void {
    const s = this.store;
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
    const s = this.store;
    if (this.members !== s.members) {
      this.members = s.members;
      this.table.rank();
    }
    const ranks = this.table.rank();
    const byMetric = new Map<string, number[]>();
    for (let i = 0; i < s.size; i++) {
      if (s.gone[i] || !s.numeric(i) || !this.table.matches(i)) continue;
      const list = byMetric.get(s.metric[i]);
      if (list) list.push(i);
      else byMetric.set(s.metric[i], [i]);
    }
    const names = [...byMetric.keys()].sort(byName);
    const box = $("charts");
    for (const [name, c] of this.charts) {
      if (byMetric.has(name)) continue;
      this.seen.unobserve(c.card);
      this.resized.unobserve(c.card);
      this.painter.remove(c);
      c.restyle();
      c.card.remove();
      this.charts.delete(name);
    }
    names.forEach((name, at) => {
      let c = this.charts.get(name);
      if (!c) {
        c = new Chart(name, this.ctx);
        this.charts.set(name, c);
        this.painter.add(c);
      }
      if (box.children[at] !== c.card) {
        box.insertBefore(c.card, box.children[at] ?? null);
        this.seen.observe(c.card);
        this.resized.observe(c.card);
      }
      c.setSlots(byMetric.get(name)!.sort((a, b) => ranks[a] - ranks[b]));
    });
    $("charts-section").hidden = names.length === 0;
    const empty = maybe("live-empty");
    if (empty) empty.hidden = s.size > 0;
    $("values-section").hidden = s.size === 0;
    this.table.refresh();
    this.counts();
    this.refocusSoon();
  }

  // ── controls, keyboard, address bar

  private setSpan(i: number): void {
    this.span = i;
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-span]")) b.setAttribute("aria-pressed", String(Number(b.dataset.span) === SPANS[i].minutes));
    this.writeAddress();
    this.repaint();
  }

  private repaint(): void {
    this.painter.mark(this.table);
    for (const c of this.charts.values()) this.painter.mark(c);
  }

  private pause(on = !this.paused): void {
    this.frozen = this.live.now();
    this.paused = this.header.paused = on;
    const b = $("pause");
    b.setAttribute("aria-pressed", String(on));
    setText($("pause-text"), on ? "Go on" : "Pause");
    this.root.classList.toggle("paused", on);
    this.header.show();
    if (!on) this.repaint();
  }

  private setState(state: StateFilter): void {
    this.table.state = state;
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-state-filter]")) b.setAttribute("aria-pressed", String(b.dataset.stateFilter === state));
    this.writeAddress();
    this.table.refresh();
  }

  private controls(): void {
    $("pause").addEventListener("click", () => this.pause());
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-span]")) {
      b.addEventListener("click", () => this.setSpan(SPANS.findIndex((s) => s.minutes === Number(b.dataset.span))));
    }
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-state-filter]")) {
      b.addEventListener("click", () => this.setState(b.dataset.stateFilter as StateFilter));
    }
    const filter = $<HTMLInputElement>("filter");
    let timer = 0;
    filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => {
        this.table.query = filter.value.trim().toLowerCase();
        this.writeAddress();
        this.layout();
      }, 120);
    });
    $("download").addEventListener("click", () => this.csv());
  }

  private keys(): void {
    document.addEventListener("keydown", (e) => {
      if (typing(e) || document.querySelector("dialog[open]")) return;
      const onControl = (e.target as HTMLElement).closest("button, a, summary");
      if (e.key === " " && !onControl) {
        e.preventDefault();
        this.pause();
      } else if (e.key >= "1" && e.key <= "3") {
        this.setSpan(Number(e.key) - 1);
      } else if (e.key === "f") {
        e.preventDefault();
        $("filter").focus();
      } else if (e.key.startsWith("Arrow") && (e.target as HTMLElement).classList.contains("chart")) {
        const cards = [...$("charts").children] as HTMLElement[];
        const i = cards.indexOf(e.target as HTMLElement);
        const perRow = Math.max(1, cards.filter((c) => c.offsetTop === cards[0].offsetTop).length);
        const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow }[e.key] ?? 0;
        const to = cards[i + step];
        if (to) {
          e.preventDefault();
          to.focus();
        }
      }
    });
  }

  private readAddress(): void {
    const q = new URLSearchParams(location.search);
    const span = SPANS.findIndex((s) => s.minutes === Number(q.get("minutes")));
    if (span > 0) this.span = span;
    this.table.query = (q.get("q") ?? "").toLowerCase();
    $<HTMLInputElement>("filter").value = q.get("q") ?? "";
    const state = q.get("state");
    if (state === "attention" || state === "stale") this.table.state = state;
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-span]")) b.setAttribute("aria-pressed", String(Number(b.dataset.span) === SPANS[this.span].minutes));
    for (const b of this.root.querySelectorAll<HTMLElement>("[data-state-filter]")) b.setAttribute("aria-pressed", String(b.dataset.stateFilter === this.table.state));
  }

  private writeAddress(): void {
    const q = new URLSearchParams();
    if (this.span > 0) q.set("minutes", String(SPANS[this.span].minutes));
    if (this.table.query) q.set("q", this.table.query);
    if (this.table.state !== "all") q.set("state", this.table.state);
    const s = q.toString();
    history.replaceState(null, "", location.pathname + (s ? "?" + s : ""));
  }

  // ── details of one series, and the table as CSV

  private showDetails(slot: number): void {
    if (!this.details) {
      const close = make("button", { type: "button" }, "Close");
      close.addEventListener("click", () => this.details?.close());
      this.details = dialog(
        make(
          "dialog",
          { "aria-labelledby": "details-title" },
          make("div", { class: "dialog-head" }, make("h2", { id: "details-title" })),
          make("div", { class: "dialog-body" }, make("dl", { class: "facts", id: "details-facts" })),
          make("div", { class: "dialog-foot" }, make("a", { class: "button", id: "details-device" }, "Open device"), close),
        ),
      );
    }
    this.detailed = slot;
    $("details-facts").replaceChildren();
    setText($("details-title"), `${this.store.device[slot]} / ${this.store.metric[slot]}`);
    $<HTMLAnchorElement>("details-device").href = "/devices/" + this.store.device[slot];
    this.fillDetails();
    this.details.showModal();
  }

  private fillDetails(): void {
    const s = this.store;
    const i = this.detailed;
    const d = s.decimals[i];
    const unit = s.unit[i] ? " " + s.unit[i] : "";
    const numeric = s.numeric(i);
    const band = [s.low[i], s.high[i]].map((v) => (Number.isNaN(v) ? "" : number(v, Math.max(0, d))));
    const facts: [string, string][] = [
      ["Value", this.table.text(i) + unit],
      ["Quality", QUALITIES[s.quality[i]]],
      ["Measured", s.t[i] ? `${new Date(s.t[i]).toLocaleString("en-GB")} (${age(this.live.now() - s.t[i])} ago)` : "never"],
      ["Since the frame before", numeric && s.count[i] > 0 ? `${number(s.min[i], d)} to ${number(s.max[i], d)}${unit}, ${amount(s.count[i])} ${s.count[i] === 1 ? "sample" : "samples"} merged` : `${amount(s.count[i])} samples`],
      ["Since this page opened", `${amount(s.total[i])} samples`],
      ["Normal", band[0] || band[1] ? `${band[0] || "no lower limit"} to ${band[1] || "no upper limit"}${unit}` : "no limits set"],
    ];
    if (s.label[i]) facts.unshift(["Label", s.label[i]]);
    const dl = $("details-facts");
    if (dl.children.length !== 2 * facts.length) {
      dl.replaceChildren();
      for (const f of facts) dl.append(make("dt", {}, f[0]), make("dd"));
    }
    facts.forEach((f, k) => setText(dl.children[2 * k + 1] as HTMLElement, f[1]));
  }

  private csv(): void {
    const s = this.store;
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
