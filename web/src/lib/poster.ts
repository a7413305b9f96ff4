/**
 * Posters drawn from a content's name alone: a field of stream lines over two tones.
 *
 * The same content looks the same on every node, with nothing fetched and nothing stored.
 */

/** A stream line of a poster. */
export interface Line {
  path: string;
  width: number;
  opacity: number;
  dash: string;
}

/** A poster on a canvas of 320 by 180. */
export interface Poster {
  from: string;
  to: string;
  angle: number;
  lines: Line[];
}

/** FNV-1a over UTF-16 units: short ids that differ in one letter end up far apart. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  }
  return h >>> 0;
}

/** mulberry32: a tiny seeded generator; `Math.random` would change the poster at each visit. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function line(next: () => number, base: number, swing: number, phase: number): Line {
  const points: string[] = [];
  const wave = 90 + next() * 50;
  const y = (x: number) => base + Math.sin(x / wave + phase) * swing + (x - 160) * 0.06;
  for (let x = -20; x <= 340; x += 20) points.push(`${x} ${y(x).toFixed(1)}`);
  const broken = next() < 0.4;
  return {
    path: `M${points.join('L')}`,
    width: 1.5 + next() * 3.5,
    opacity: 0.1 + next() * 0.2,
    dash: broken ? `${Math.round(30 + next() * 90)} ${Math.round(10 + next() * 30)}` : 'none',
  };
}

/** The poster of a content, which its publisher and its id name together. */
export function posterOf(publisher: string, contentId: string): Poster {
  const next = generator(hash(`${publisher}/${contentId}`));
  // Greens through blues to reds; the olive part of the circle looks like mud at this lightness.
  const hue = Math.floor(145 + next() * 250) % 360;
  const turn = 25 + next() * 45;
  const phase = next() * 6.3;
  const swing = 10 + next() * 16;
  const lines = Array.from({ length: 9 }, (_, i) =>
    line(next, 14 + i * 19 + next() * 6, swing * (0.7 + next() * 0.6), phase + i * 0.22),
  );
  return {
    from: `oklch(0.52 0.085 ${hue})`,
    to: `oklch(0.3 0.07 ${Math.round((hue + turn) % 360)})`,
    angle: Math.round(110 + next() * 60),
    lines,
  };
}

/** Keeps letters of joining scripts, such as Arabic, from being drawn as one word. */
const JOINER = '\u200c';

/** The first letters of a title's first two words, in any script. */
export function initials(title: string): string {
  const words = title.split(/[\s\p{P}\p{S}]+/u).filter(Boolean);
  const first = (word: string) => {
    const segments = new Intl.Segmenter().segment(word);
    return segments[Symbol.iterator]().next().value?.segment ?? '';
  };
  return words.slice(0, 2).map(first).join(JOINER).toLocaleUpperCase();
}
