// Small helps for the admin pages, which also work without them: questions in a dialog, tables that sort, lists that
// filter, a tree that folds at once, and forms that say what is not saved yet. Copy buttons are app.ts's.

document.documentElement.classList.add("scripted");

const box = document.getElementById("dialog") as HTMLDialogElement | null;
let opener: HTMLElement | null = null;

// ── questions and small forms: htmx puts them into the one dialog
document.addEventListener("htmx:beforeRequest", (e) => {
  const at = e.target as HTMLElement;
  if (at.hasAttribute("data-poll") && (document.hidden || at.contains(document.activeElement))) return e.preventDefault();
  if (at.getAttribute("hx-target") === "#dialog") opener = at;
});
document.addEventListener("htmx:afterSwap", (e) => {
  if (e.target !== box || !box) return;
  if (!box.open) box.showModal();
  (box.querySelector("input:not([type=hidden]), select, textarea, button[type=submit]") as HTMLElement | null)?.focus();
});
box?.addEventListener("close", () => {
  box.replaceChildren();
  opener?.focus();
});
document.addEventListener("click", (e) => {
  const at = (e.target as HTMLElement).closest<HTMLElement>("[data-closes]");
  if (at && box?.open) e.preventDefault();
});
// Links that act as buttons answer to Space, too.
document.addEventListener("keydown", (e) => {
  const at = e.target as HTMLElement;
  if (e.key === " " && at.matches("a[role=button]")) {
    e.preventDefault();
    at.click();
  }
});

// ── tables: a click on a head sorts the rows of this page
function cell(row: HTMLTableRowElement, i: number): string {
  const c = row.cells[i];
  return c?.dataset.value ?? c?.textContent?.trim() ?? "";
}

function sort(table: HTMLTableElement, head: HTMLTableCellElement): void {
  const i = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const th of table.tHead!.rows[0].cells) th.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => cell(a, i).localeCompare(cell(b, i), undefined, { numeric: true }));
  body.append(...(down ? rows.reverse() : rows));
}

function upgrade(root: ParentNode): void {
  for (const th of root.querySelectorAll<HTMLTableCellElement>("table[data-sortable] th[data-sort]")) {
    if (th.querySelector("button")) continue;
    const b = document.createElement("button");
    b.type = "button";
    b.className = "sort";
    b.append(...th.childNodes);
    b.addEventListener("click", () => sort(th.closest("table")!, th));
    th.append(b);
  }
  for (const n of root.querySelectorAll<HTMLElement>(".needs-script")) n.hidden = false;
}
upgrade(document);
document.addEventListener("htmx:load", (e) => upgrade(e.target as HTMLElement));

// ── on a phone the places are a row that scrolls: where one is, is in view
const here = document.querySelector(".side [aria-current]");
const row = here?.closest(".side");
if (here && row && row.scrollWidth > row.clientWidth) here.scrollIntoView({ block: "nearest", inline: "center", behavior: "instant" });

// ── the tree
document.addEventListener("click", (e) => {
  const b = (e.target as HTMLElement).closest<HTMLElement>("[data-expand]");
  if (!b) return;
  const all = [...document.querySelectorAll<HTMLDetailsElement>(`#${b.dataset.expand} details`)];
  const open = !all.some((d) => d.open);
  for (const d of all) d.open = open;
  b.textContent = open ? "Collapse all" : "Expand all";
});

// ── lists that filter, forms that know whether they are saved
document.addEventListener("input", (e) => {
  const at = e.target as HTMLInputElement;
  if (at.dataset.filters) {
    const wanted = at.value.toLowerCase();
    for (const li of document.getElementById(at.dataset.filters)!.children) (li as HTMLElement).hidden = !li.textContent!.toLowerCase().includes(wanted);
    return;
  }
  const form = at.closest<HTMLFormElement>("form[data-dirty]");
  if (form) say(form, "Not saved yet");
});
document.addEventListener("submit", (e) => {
  const form = e.target as HTMLFormElement;
  if (form.matches("[data-dirty]")) say(form, "Saving …");
});
addEventListener("beforeunload", (e) => {
  for (const s of document.querySelectorAll("[data-save-state]")) if (s.textContent === "Not saved yet") e.preventDefault();
});

function say(form: HTMLFormElement, text: string): void {
  const s = form.querySelector("[data-save-state]");
  if (s && s.textContent !== text) s.textContent = text;
}

export {};
