// What every page has: theme, search, shortcuts, copy buttons, ages that go on counting.
import { dialog, make, maybe, toast, typing } from "./dom";
import { age } from "./format";
import { openPalette } from "./palette";

const root = document.documentElement;

// ── theme: as the system, light or dark; in a cookie, so that the server's first answer is right at once
const themes = ["", "light", "dark"];
const themeNames: Record<string, string> = { "": "as the system", light: "light", dark: "dark" };

function showTheme(): void {
  const b = maybe("theme");
  if (!b) return;
  const text = "Theme: " + themeNames[root.dataset.theme ?? ""];
  b.setAttribute("aria-label", text);
  b.title = text;
}

function setTheme(theme: string): void {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  document.cookie = `millrace_theme=${theme}; path=/; samesite=lax; max-age=${theme ? 31536000 : 0}`;
  showTheme();
  window.dispatchEvent(new Event("millrace:theme"));
}

maybe("theme")?.addEventListener("click", () => {
  setTheme(themes[(themes.indexOf(root.dataset.theme ?? "") + 1) % themes.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("millrace:theme")));
showTheme();

// ── search and help
maybe("search-open")?.addEventListener("click", openPalette);
maybe("help-open")?.addEventListener("click", help);

let helpBox: HTMLDialogElement | null = null;

function help(): void {
  if (!helpBox) {
    const rows: [string, string][] = [
      ["/", "search groups and devices"],
      ["?", "this list"],
      ["Space", "pause, and back to live (live pages)"],
      ["← →", "half a range back or on; with Shift a tenth"],
      ["+ −", "zoom in or out"],
      ["0 Home", "back to live"],
      ["[ ]", "the range before, and after (as the browser's back and forward)"],
      ["1 … 9", "the last minute, 5, 15 minutes, 1, 6, 24 hours, 7, 30 days, year"],
      ["Space", "in a replay: play or stop"],
      [", .", "in a replay: one frame back or on"],
      ["< >", "in a replay: slower or faster"],
      ["f", "filter series (live pages)"],
      ["↑ ↓", "move between charts, and rows of the table"],
      ["t", "show a chart's values as a table (on a chart)"],
      ["u", "one level up"],
      ["Esc", "close, or leave a field"],
    ];
    const dl = make("dl", { class: "facts" });
    for (const [keys, does] of rows) {
      const dt = make("dt");
      for (const k of keys.split(" ")) dt.append(make("kbd", {}, k), " ");
      dl.append(dt, make("dd", {}, does));
    }
    const close = make("button", { type: "button", autofocus: true }, "Close");
    close.addEventListener("click", () => helpBox?.close());
    helpBox = dialog(
      make("dialog", { "aria-labelledby": "help-title" }, make("div", { class: "dialog-head" }, make("h2", { id: "help-title" }, "Keyboard shortcuts")), make("div", { class: "dialog-body" }, dl), make("div", { class: "dialog-foot" }, close)),
    );
  }
  if (!helpBox.open) helpBox.showModal();
}

document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") {
    for (const m of document.querySelectorAll<HTMLDetailsElement>("details.menu[open]")) m.open = false;
    if (e.target instanceof HTMLInputElement && !e.target.closest("dialog")) e.target.blur();
    return;
  }
  if (typing(e) || document.querySelector("dialog[open]")) return;
  if (e.key === "/") {
    e.preventDefault();
    // Not before the key press is over: its character must not land in the field.
    if (maybe("search-open")) setTimeout(openPalette);
  } else if (e.key === "?") {
    help();
  } else if (e.key === "u") {
    const up = document.querySelectorAll<HTMLAnchorElement>(".crumbs a");
    if (up.length > 0) up[up.length - 1].click();
  }
});

// ── menus close when one clicks elsewhere; copy buttons; dialogs opened and closed by attribute
document.addEventListener("click", (e) => {
  const at = e.target as HTMLElement;
  for (const m of document.querySelectorAll<HTMLDetailsElement>("details.menu[open]")) if (!m.contains(at)) m.open = false;
  const copy = at.closest<HTMLElement>("[data-copy]");
  if (copy) {
    const text = copy.dataset.copy || copy.closest(".snippet")?.querySelector("code")?.textContent || "";
    void copyText(text).then((ok) => {
      if (!ok) return toast("Could not copy", "Select the text and copy it by hand.", true);
      const before = copy.textContent;
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = before), 1500);
    });
  }
  const focus = at.closest<HTMLElement>("[data-focus]");
  if (focus) maybe(focus.dataset.focus!)?.focus();
  const opener = at.closest<HTMLElement>("[data-opens]");
  if (opener) (document.getElementById(opener.dataset.opens!) as HTMLDialogElement | null)?.showModal();
  if (at.closest("[data-closes]")) at.closest("dialog")?.close();
});

// The clipboard API exists only on secure origins; a Millrace on http://plant.local still has to copy.
async function copyText(text: string): Promise<boolean> {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // not allowed: the old way
  }
  const t = make("textarea", { readonly: true, class: "sr" });
  t.value = text;
  document.body.append(t);
  t.select();
  const ok = document.execCommand("copy");
  t.remove();
  return ok;
}

// ── ages
function ages(): void {
  if (document.hidden) return;
  const now = Date.now();
  for (const t of document.querySelectorAll<HTMLTimeElement>("time[data-age]")) {
    const ms = now - Date.parse(t.dateTime);
    const text = ms < 1000 ? "now" : age(ms).replace(/\.\d/, "") + " ago";
    if (t.textContent !== text) t.textContent = text;
  }
}
setInterval(ages, 1000);
document.addEventListener("visibilitychange", ages);

// ── what htmx could not do is said
document.addEventListener("htmx:responseError", (e) => {
  const x = (e as CustomEvent).detail?.xhr as XMLHttpRequest | undefined;
  let text = "The server answered " + (x?.status ?? "nothing") + ".";
  try {
    const p = JSON.parse(x?.responseText ?? "");
    text = p.detail || p.title || text;
  } catch {
    // no problem document
  }
  toast("That did not work", text, true);
});
document.addEventListener("htmx:sendError", () => toast("The server can't be reached", "Nothing was changed. Try again when the connection is back.", true));
