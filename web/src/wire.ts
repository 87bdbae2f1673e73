// Binary frames (docs/protocol.md, "Binary frames"), decoded into views over the received buffer: no object per point.

export const HEADER = 48;
export const enum Flag {
  Snapshot = 0x0001,
  Envelope = 0x0002,
  Quality = 0x0004,
  Lon = 0x0008,
  Texts = 0x0010,
  Full = 0x0020,
  Truncated = 0x0040,
}
export const enum Quality {
  Good = 0,
  Uncertain = 1,
  Bad = 2,
  Stale = 3,
}

type Bytes = Uint8Array | Uint16Array | Uint32Array;

/** A decoded frame. It is reused: what it holds is valid until the next decode. Columns that are absent are null. */
export class Frame {
  id = 0;
  from = 0;
  seq = 0;
  at = 0; // when it was cut, Unix ms by the server's clock
  n = 0;
  bytes = 0;
  snapshot = false;
  truncated = false;
  last!: Float64Array;
  lon: Float64Array | null = null;
  below: Float32Array | Float64Array | null = null; // min = last - below
  above: Float32Array | Float64Array | null = null; // max = last + above
  count: Bytes | null = null;
  quality: Uint8Array | null = null; // null: all good
  index: Bytes | null = null; // null: 0, 1, 2 …
  t = new Float64Array(256); // time of last, Unix ms; only the first n are this frame's
  textAt = new Map<number, string>(); // ordinal of the point -> text
  fullCount: Uint32Array | null = null; // samples of each point
  fullT: Float64Array | null = null;
  fullV: Float64Array | null = null;
}

const utf8 = new TextDecoder();

function pad(at: number, to: number): number {
  return (at + to - 1) & -to;
}

/** Decodes buf into f. Throws RangeError for what is no whole frame of version 1. */
export function decode(buf: ArrayBuffer, f: Frame): Frame {
  if (buf.byteLength < HEADER) throw new RangeError("frame: shorter than its header");
  const h = new DataView(buf, 0, HEADER);
  if (h.getUint8(0) !== 1 || h.getUint8(1) !== 1) throw new RangeError("frame: unknown version or kind");
  const flags = h.getUint16(2, true);
  f.id = h.getUint32(4, true);
  f.from = h.getUint32(8, true) + h.getUint32(12, true) * 4294967296;
  f.seq = h.getUint32(16, true) + h.getUint32(20, true) * 4294967296;
  f.at = h.getFloat64(24, true);
  const n = (f.n = h.getUint32(32, true));
  const m = h.getUint32(36, true);
  const textBytes = h.getUint32(40, true);
  const fullBytes = h.getUint32(44, true);
  f.bytes = buf.byteLength;
  f.snapshot = (flags & Flag.Snapshot) !== 0;
  f.truncated = (flags & Flag.Truncated) !== 0;
  const indexWidth = (flags >> 8) & 3;
  const countWidth = (flags >> 10) & 3;
  const ageWidth = (flags >> 12) & 3;
  const envelope = (flags & Flag.Envelope) !== 0;
  if (indexWidth > 2 || countWidth > 2 || ageWidth > 1) throw new RangeError("frame: unknown column width");

  // Columns come widest first, so each starts aligned. The constructors below check that they lie within buf.
  let at = HEADER;
  f.last = new Float64Array(buf, at, n);
  at += 8 * n;
  f.lon = null;
  if (flags & Flag.Lon) {
    f.lon = new Float64Array(buf, at, n);
    at += 8 * n;
  }
  const late = new Float64Array(buf, at, m);
  at += 8 * m;
  f.below = f.above = null;
  if (envelope) {
    f.below = new Float32Array(buf, at, n);
    f.above = new Float32Array(buf, at + 4 * n, n);
    at += 8 * n;
  }
  f.index = null;
  f.count = null;
  if (indexWidth === 2) {
    f.index = new Uint32Array(buf, at, n);
    at += 4 * n;
  }
  if (envelope && countWidth === 2) {
    f.count = new Uint32Array(buf, at, n);
    at += 4 * n;
  }
  let age: Bytes | null = null;
  if (indexWidth === 1) {
    f.index = new Uint16Array(buf, at, n);
    at += 2 * n;
  }
  if (ageWidth === 1) {
    age = new Uint16Array(buf, at, n);
    at += 2 * n;
  }
  if (envelope && countWidth === 1) {
    f.count = new Uint16Array(buf, at, n);
    at += 2 * n;
  }
  if (ageWidth === 0) {
    age = new Uint8Array(buf, at, n);
    at += n;
  }
  if (envelope && countWidth === 0) {
    f.count = new Uint8Array(buf, at, n);
    at += n;
  }
  f.quality = null;
  if (flags & Flag.Quality) {
    f.quality = new Uint8Array(buf, at, n);
    at += n;
  }

  if (f.t.length < n) f.t = new Float64Array(Math.max(n, 2 * f.t.length));
  const old = ageWidth === 0 ? 255 : 65535;
  const ages = age!;
  for (let i = 0, j = 0; i < n; i++) {
    const a = ages[i];
    if (a !== old) {
      f.t[i] = f.at - a;
    } else {
      if (j >= m) throw new RangeError("frame: fewer late times than points that need one");
      f.t[i] = late[j++];
    }
  }

  if (f.textAt.size > 0) f.textAt.clear();
  const textEnd = at + textBytes;
  if (textEnd > buf.byteLength) throw new RangeError("frame: texts are cut off");
  if (textBytes > 0) {
    const v = new DataView(buf);
    while (at < textEnd) {
      if (at + 8 > textEnd) throw new RangeError("frame: a text is cut off");
      const ordinal = v.getUint32(at, true);
      const length = v.getUint32(at + 4, true);
      at += 8;
      if (ordinal >= n || at + length > textEnd) throw new RangeError("frame: a text lies outside");
      f.textAt.set(ordinal, utf8.decode(new Uint8Array(buf, at, length)));
      at += length;
    }
  }

  f.fullCount = null;
  f.fullT = f.fullV = null;
  if (flags & Flag.Full && fullBytes > 0) {
    at = pad(at, 8);
    f.fullCount = new Uint32Array(buf, at, n);
    at = pad(at + 4 * n, 8);
    let k = 0;
    for (let i = 0; i < n; i++) k += f.fullCount[i];
    f.fullT = new Float64Array(buf, at, k);
    f.fullV = new Float64Array(buf, at + 8 * k, k);
    at += 16 * k;
  }
  return f;
}
