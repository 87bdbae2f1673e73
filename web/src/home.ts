// The home page: rates, counts and staleness of the groups, asked for every two seconds while the page is visible.
import { get, maybe, setText } from "./dom";
import { age, amount } from "./format";

interface Item {
  path: string;
  devices: number;
  stats?: { series?: number; stale?: number; rate?: number; viewers?: number; lastSample?: number | string | null };
}

const EVERY = 2000;
const table = maybe("groups");
let failures = 0;

function time(v: number | string | null | undefined): number {
  return typeof v === "number" ? v : v ? Date.parse(v) : 0;
}

function cell(row: Element, name: string, text: string): void {
  const c = row.querySelector<HTMLElement>(`[data-cell="${name}"]`);
  if (c) setText(c, text);
}

async function poll(): Promise<void> {
  try {
    const r = await get<{ items: Item[]; at?: number }>("/api/v1/groups?stats=1");
    failures = 0;
    const now = Date.now();
    let rate = 0;
    let stale = 0;
    let series = 0;
    for (const g of r.items) {
      const row = document.getElementById("g:" + g.path);
      const s = g.stats;
      if (!g.path.includes("/") && s) {
        rate += s.rate ?? 0;
        stale += s.stale ?? 0;
        series += s.series ?? 0;
      }
      if (!row) continue;
      cell(row, "devices", amount(g.devices));
      if (!s) continue;
      cell(row, "series", amount(s.series ?? 0));
      cell(row, "rate", amount(Math.round((s.rate ?? 0) * 10) / 10));
      cell(row, "stale", amount(s.stale ?? 0));
      row.classList.toggle("has-stale", (s.stale ?? 0) > 0);
      const last = time(s.lastSample);
      cell(row, "last", last ? (now - last < 2000 ? "now" : age(now - last).replace(/\.\d/, "") + " ago") : "never");
    }
    for (const [id, v] of [
      ["sum-rate", rate],
      ["sum-stale", stale],
      ["sum-series", series],
    ] as const) {
      const e = maybe(id);
      if (e) setText(e, amount(Math.round(v * 10) / 10));
    }
  } catch {
    failures++;
  }
  const late = maybe("page-stale");
  if (late) late.hidden = failures < 2;
}

async function loop(): Promise<void> {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((r) => setTimeout(r, EVERY));
  }
}
if (table) void loop();

// On the first-run page: go to the live page as soon as there is something to see.
if (maybe("first-run")) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const r = await get<{ items: Item[] }>("/api/v1/groups");
      if (r.items.length > 0) location.reload();
    } catch {
      // the next try will tell
    }
  }, 3000);
}
