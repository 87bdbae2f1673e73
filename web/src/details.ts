// The details of one series, in a dialog that goes on being brought up to date.
import type { Context } from "./chart";
import { $, dialog, make, setText } from "./dom";
import { age, amount, number } from "./format";
import { QUALITIES } from "./table";

export class Details {
  private box: HTMLDialogElement | null = null;
  private slot = -1;

  constructor(private readonly ctx: Context) {}

  /** Brings an open dialog up to date. */
  refresh(): void {
    if (this.box?.open) this.fill();
  }

  show(slot: number): void {
    if (!this.box) {
      const close = make("button", { type: "button" }, "Close");
      close.addEventListener("click", () => this.box?.close());
      this.box = dialog(
        make(
          "dialog",
          { "aria-labelledby": "details-title" },
          make("div", { class: "dialog-head" }, make("h2", { id: "details-title" })),
          make("div", { class: "dialog-body" }, make("dl", { class: "facts", id: "details-facts" })),
          make("div", { class: "dialog-foot" }, make("a", { class: "button", id: "details-device" }, "Open device"), make("a", { class: "button", id: "details-trends" }, "Open in trends"), close),
        ),
      );
    }
    this.slot = slot;
    $("details-facts").replaceChildren();
    setText($("details-title"), `${this.ctx.store.device[slot]} / ${this.ctx.store.metric[slot]}`);
    $<HTMLAnchorElement>("details-trends").href = `/trends?series=${encodeURIComponent(this.ctx.store.device[slot])}/${encodeURIComponent(this.ctx.store.metric[slot])}`;
    $<HTMLAnchorElement>("details-device").href = "/devices/" + this.ctx.store.device[slot];
    this.fill();
    this.box.showModal();
  }

  private fill(): void {
    const s = this.ctx.store;
    const i = this.slot;
    const d = s.decimals[i];
    const unit = s.unit[i] ? " " + s.unit[i] : "";
    const numeric = s.numeric(i);
    const band = [s.low[i], s.high[i]].map((v) => (Number.isNaN(v) ? "" : number(v, Math.max(0, d))));
    const facts: [string, string][] = [
      ["Value", this.ctx.text(i) + unit],
      ["Quality", QUALITIES[s.quality[i]]],
      ["Measured", s.t[i] ? `${new Date(s.t[i]).toLocaleString("en-GB")} (${age(this.ctx.now() - s.t[i])} ago)` : "never"],
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
}
