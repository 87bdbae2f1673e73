// Small helpers for the page: finding, making, fetching, telling.

export function $<T extends HTMLElement = HTMLElement>(id: string): T {
  const e = document.getElementById(id);
  if (!e) throw new Error(`the page has no #${id}`);
  return e as T;
}

export function maybe<T extends HTMLElement = HTMLElement>(id: string): T | null {
  return document.getElementById(id) as T | null;
}

type Attributes = Record<string, string | number | boolean | null | undefined>;

/** Makes an element. Attributes that are false, null or undefined are left out. */
export function make<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (v === false || v == null) continue;
    e.setAttribute(k, v === true ? "" : String(v));
  }
  e.append(...children);
  return e;
}

/** Sets text only if it differs: an unchanged cell costs no layout. */
export function setText(e: HTMLElement, text: string): void {
  if (e.textContent !== text) e.textContent = text;
}

export async function get<T>(url: string, signal?: AbortSignal): Promise<T> {
  const r = await fetch(url, { headers: { Accept: "application/json" }, signal });
  if (r.status === 401) {
    location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
    throw new Error("signed out");
  }
  if (!r.ok) throw new Error(`${url}: ${r.status}`);
  return r.json() as Promise<T>;
}

export function toast(title: string, text = "", error = false): void {
  const box = maybe("toasts");
  if (!box) return;
  const t = make("div", { class: error ? "toast error" : "toast" }, make("strong", {}, title));
  if (text) t.append(make("p", {}, text));
  box.append(t);
  while (box.children.length > 4) box.firstElementChild?.remove();
  setTimeout(() => t.remove(), error ? 12000 : 4000);
}

/** Whether a key press belongs to a field one types into. */
export function typing(e: KeyboardEvent): boolean {
  const t = e.target as HTMLElement;
  return t.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(t.tagName) || e.ctrlKey || e.metaKey || e.altKey;
}

/** Opens a modal dialog made once; a click beside it closes it. */
export function dialog(d: HTMLDialogElement): HTMLDialogElement {
  document.body.append(d);
  d.addEventListener("click", (e) => {
    if (e.target === d) d.close();
  });
  return d;
}
