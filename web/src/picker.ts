// Finds a series by typing: a combobox over GET /api/v1/series, by keyboard and pointer (WAI-ARIA, combobox with list autocomplete).
import { get, make, setText } from "./dom";

export interface SeriesItem {
  device: string;
  metric: string;
  kind: string;
  unit: string;
  label?: string;
  low?: number | null;
  high?: number | null;
}

const SHOWN = 20;

export class Picker {
  private found: SeriesItem[] = [];
  private current = -1;
  private timer = 0;
  private asked: AbortController | null = null;

  constructor(
    private readonly input: HTMLInputElement,
    private readonly list: HTMLElement,
    private readonly note: HTMLElement,
    private readonly picked: (s: SeriesItem) => void,
  ) {
    input.addEventListener("focus", () => void this.search());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => void this.search(), 120);
    });
    input.addEventListener("keydown", (e) => {
      if (e.key === "ArrowDown" || e.key === "ArrowUp") {
        e.preventDefault();
        if (this.list.hidden) void this.search();
        else this.choose(this.current + (e.key === "ArrowDown" ? 1 : -1));
      } else if (e.key === "Enter") {
        e.preventDefault();
        if (!this.list.hidden && this.found[this.current]) this.take(this.current);
      } else if (e.key === "Escape" && !this.list.hidden) {
        e.stopPropagation();
        this.close();
      }
    });
    // The focus stays in the field, so that the next can be picked at once.
    list.addEventListener("pointerdown", (e) => e.preventDefault());
  }

  private async search(): Promise<void> {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    const q = this.input.value.trim();
    try {
      const a = await get<{ items: SeriesItem[]; next: string | null }>(`/api/v1/series?limit=${SHOWN}&q=${encodeURIComponent(q)}`, asked.signal);
      if (asked.signal.aborted || document.activeElement !== this.input) return;
      this.found = a.items;
      this.list.replaceChildren(
        ...a.items.map((s, i) => {
          const o = make("div", { role: "option", id: "series-" + i, "aria-selected": "false" }, make("span", {}, s.device), make("span", { class: "metric" }, s.metric), make("small", {}, s.unit || s.kind));
          o.addEventListener("click", () => this.take(i));
          return o;
        }),
      );
      this.list.hidden = a.items.length === 0;
      this.input.setAttribute("aria-expanded", String(a.items.length > 0));
      setText(this.note, a.items.length === 0 ? (q ? `Nothing you may see matches “${q}”.` : "There are no series yet.") : a.next ? "There are more: type to narrow them down." : "");
      this.choose(0);
    } catch (e) {
      if ((e as Error).name !== "AbortError") setText(this.note, "The search does not answer right now. Try again in a moment.");
    }
  }

  private close(): void {
    this.asked?.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    setText(this.note, "");
  }

  private choose(i: number): void {
    if (this.found.length === 0) return;
    this.list.children[this.current]?.setAttribute("aria-selected", "false");
    this.current = (i + this.found.length) % this.found.length;
    const o = this.list.children[this.current];
    o.setAttribute("aria-selected", "true");
    o.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", o.id);
  }

  private take(i: number): void {
    const s = this.found[i];
    this.input.value = "";
    this.close();
    this.picked(s);
  }
}
