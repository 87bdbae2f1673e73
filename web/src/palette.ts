// The search palette: `/` from anywhere, over the groups and devices one may see.
import { dialog, get, make } from "./dom";

interface Hit {
  label: string;
  sub: string;
  href: string;
}
interface GroupItem {
  path: string;
  label?: string;
}
interface DeviceItem {
  id: string;
  label?: string;
  groups?: string[];
}

const SHOWN = 24;
let box: HTMLDialogElement | null = null;
let input: HTMLInputElement;
let list: HTMLElement;
let note: HTMLElement;
let hits: Hit[] = [];
let current = 0;
let groups: Promise<GroupItem[]> | null = null;
let asked: AbortController | null = null;
let timer = 0;

export function openPalette(): void {
  if (!box) build();
  if (box!.open) return;
  groups = null;
  input.value = "";
  box!.showModal();
  void search();
}

function build(): void {
  input = make("input", {
    type: "search",
    id: "palette-input",
    placeholder: "Find a group or a device",
    "aria-label": "Find a group or a device",
    role: "combobox",
    "aria-expanded": "true",
    "aria-controls": "palette-list",
    "aria-autocomplete": "list",
    autocomplete: "off",
    spellcheck: "false",
  });
  list = make("div", { role: "listbox", id: "palette-list", "aria-label": "Groups and devices" });
  note = make("p", { class: "palette-note muted", role: "status" });
  const foot = make("div", { class: "palette-foot", "aria-hidden": "true" });
  for (const [key, does] of [
    ["↑↓", "choose"],
    ["Enter", "open"],
    ["Esc", "close"],
  ])
    foot.append(make("span", {}, make("kbd", {}, key), " " + does));
  box = dialog(make("dialog", { class: "palette", "aria-label": "Search" }, input, list, note, foot));
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => void search(), 120);
  });
  input.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      choose(current + (e.key === "ArrowDown" ? 1 : -1));
    } else if (e.key === "Enter" && hits[current]) {
      location.assign(hits[current].href);
    }
  });
}

async function search(): Promise<void> {
  const q = input.value.trim().toLowerCase();
  asked?.abort();
  asked = new AbortController();
  try {
    groups ??= get<{ items: GroupItem[] }>("/api/v1/groups").then((r) => r.items);
    const [gs, ds] = await Promise.all([groups, get<{ items: DeviceItem[] }>(`/api/v1/devices?limit=${SHOWN}&q=${encodeURIComponent(q)}`, asked.signal)]);
    const found: Hit[] = [];
    for (const g of gs) {
      if (found.length >= SHOWN) break;
      if (!q || g.path.toLowerCase().includes(q) || g.label?.toLowerCase().includes(q)) found.push({ label: g.label || g.path, sub: "group " + g.path, href: "/g/" + g.path });
    }
    if (q || found.length < SHOWN) {
      for (const d of ds.items) found.push({ label: d.label || d.id, sub: "device " + d.id, href: "/devices/" + d.id });
    }
    show(found.slice(0, 2 * SHOWN), q);
  } catch (e) {
    if ((e as Error).name !== "AbortError") {
      groups = null;
      show([], q, "Search does not answer right now. Try again in a moment.");
    }
  }
}

function show(found: Hit[], q: string, problem = ""): void {
  hits = found;
  list.replaceChildren(
    ...found.map((h, i) => {
      const o = make("div", { role: "option", id: "hit-" + i, "aria-selected": "false" }, make("span", {}, h.label), make("small", {}, h.sub));
      o.addEventListener("click", () => location.assign(h.href));
      return o;
    }),
  );
  note.textContent = problem || (found.length === 0 ? (q ? `Nothing you may see matches “${q}”.` : "There are no groups or devices yet.") : "");
  note.hidden = note.textContent === "";
  choose(0);
}

function choose(i: number): void {
  if (hits.length === 0) {
    input.removeAttribute("aria-activedescendant");
    return;
  }
  list.children[current]?.setAttribute("aria-selected", "false");
  current = (i + hits.length) % hits.length;
  const o = list.children[current];
  o.setAttribute("aria-selected", "true");
  o.scrollIntoView({ block: "nearest" });
  input.setAttribute("aria-activedescendant", o.id);
}
