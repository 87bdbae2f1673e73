// Pointer, finger and wheel on a plot: drag selects a range, Shift+drag and one finger move, pinch and wheel zoom. The wheel alone scrolls
// the page unless the chart has the focus or Ctrl or ⌘ is held; nothing here is without a key or button that does the same.
import { make } from "./dom";
import type { Timeline } from "./timeline";

const SLOP = 6; // px before a press is a drag

interface Finger {
  x: number;
  y: number;
  t: number; // what it holds
}

/** Adds the gestures to the area of a plot. card gets the focus by a click. */
export function gestures(over: HTMLElement, card: HTMLElement, time: Timeline): void {
  const band = make("div", { class: "plot-select", hidden: true });
  over.append(band);
  const fingers = new Map<number, Finger>();
  let mode: "" | "select" | "move" | "pinch" = "";
  let startX = 0;

  const place = (e: PointerEvent | WheelEvent) => {
    const r = over.getBoundingClientRect();
    return { x: e.clientX - r.left, y: e.clientY - r.top, width: Math.max(1, r.width) };
  };
  const at = (x: number, width: number) => time.left() + (x / width) * time.window;
  const end = () => {
    mode = "";
    band.hidden = true;
    fingers.clear();
    time.hold(false);
  };

  over.addEventListener("pointerdown", (e) => {
    if (e.pointerType === "mouse" && e.button !== 0) return;
    const p = place(e);
    if (fingers.size === 0) time.hold(true);
    fingers.set(e.pointerId, { x: p.x, y: p.y, t: at(p.x, p.width) });
    if (e.pointerType !== "touch") over.setPointerCapture(e.pointerId);
    if (fingers.size === 2) {
      mode = "pinch";
      for (const [id, f] of fingers) {
        f.t = at(f.x, p.width);
        over.setPointerCapture(id);
      }
    } else {
      startX = p.x;
      mode = "";
    }
  });

  over.addEventListener("pointermove", (e) => {
    const f = fingers.get(e.pointerId);
    if (!f) return;
    const p = place(e);
    f.x = p.x;
    f.y = p.y;
    if (mode === "pinch") {
      const [a, b] = [...fingers.values()].sort((m, n) => m.t - n.t);
      const apart = b.x - a.x;
      if (apart < 12 || b.t <= a.t) return;
      const window = Math.max(50, ((b.t - a.t) * p.width) / apart);
      const left = a.t - (a.x / p.width) * window;
      time.move(left, left + window);
      return;
    }
    if (mode === "" && Math.abs(p.x - startX) > SLOP) {
      mode = e.pointerType === "touch" || e.shiftKey ? "move" : "select";
      over.setPointerCapture(e.pointerId);
    }
    if (mode === "move") {
      const left = f.t - (p.x / p.width) * time.window;
      time.move(left, left + time.window);
    } else if (mode === "select") {
      const a = Math.max(0, Math.min(startX, p.x));
      const b = Math.min(p.width, Math.max(startX, p.x));
      band.hidden = false;
      band.style.left = a + "px";
      band.style.width = b - a + "px";
    }
  });

  over.addEventListener("pointerup", (e) => {
    if (!fingers.has(e.pointerId)) return;
    const p = place(e);
    if (mode === "select" && Math.abs(p.x - startX) > SLOP) {
      const x = (v: number) => Math.max(0, Math.min(p.width, v));
      const [a, b] = [at(x(startX), p.width), at(x(p.x), p.width)];
      end();
      time.fix(a, b);
      return;
    }
    if (mode === "" && e.pointerType === "mouse") card.focus({ preventScroll: true });
    end();
  });
  over.addEventListener("pointercancel", end);
  over.addEventListener("lostpointercapture", (e) => {
    if (fingers.size === 1 && fingers.has(e.pointerId)) end();
  });
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape" && mode === "select") end();
  });

  over.addEventListener(
    "wheel",
    (e) => {
      const sideways = e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY);
      if (!sideways && !e.ctrlKey && !e.metaKey && !card.contains(document.activeElement)) return;
      e.preventDefault();
      const unit = e.deltaMode === 1 ? 16 : e.deltaMode === 2 ? 400 : 1;
      const p = place(e);
      if (sideways) {
        const by = (((e.deltaX || e.deltaY) * unit) / p.width) * time.window;
        time.move(time.left() + by, time.right() + by);
      } else {
        const factor = Math.exp(Math.max(-0.5, Math.min(0.5, e.deltaY * unit * 0.002)));
        time.zoom(factor, at(p.x, p.width), true);
      }
    },
    { passive: false },
  );
}
