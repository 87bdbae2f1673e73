// The address bar: what a page shows, so that a link shows the same. Each part of a page writes its own parameters.

export interface Part {
  write(q: URLSearchParams): void;
  /** Takes over what the address says; what it does not say becomes the usual. */
  read(q: URLSearchParams): void;
}

export class Address {
  private parts: Part[] = [];

  constructor() {
    window.addEventListener("popstate", () => this.read());
  }

  add(p: Part): void {
    this.parts.push(p);
  }

  read(): void {
    const q = new URLSearchParams(location.search);
    for (const p of this.parts) p.read(q);
  }

  /** Writes what the page shows now: as a step that one can go back from, or in place of the present one. */
  changed(push: boolean): void {
    const q = new URLSearchParams();
    for (const p of this.parts) p.write(q);
    // These two are allowed in a query as they are, and can be read.
    const s = q.toString().replaceAll("%3A", ":").replaceAll("%2F", "/");
    const url = location.pathname + (s ? "?" + s : "");
    if (url === location.pathname + location.search) return;
    if (push) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  }
}
