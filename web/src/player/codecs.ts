/** Which codecs this browser plays, and what people call them. */
import type { CatalogEntry } from '../lib/api';

const NAMES: [RegExp, string][] = [
  [/^(hvc1|hev1|dvh1|dvhe)/, 'HEVC (H.265) video'],
  [/^(avc1|avc3)/, 'H.264 video'],
  [/^av01/, 'AV1 video'],
  [/^vp0?9/, 'VP9 video'],
  [/^vp0?8/, 'VP8 video'],
  [/^mp4a/, 'AAC audio'],
  [/^opus/i, 'Opus audio'],
  [/^ac-3/, 'AC-3 audio'],
  [/^ec-3/, 'E-AC-3 audio'],
  [/^flac/i, 'FLAC audio'],
];

interface MediaSourceLike {
  isTypeSupported(type: string): boolean;
}

function mediaSource(): MediaSourceLike | undefined {
  const scope = globalThis as {
    ManagedMediaSource?: MediaSourceLike;
    MediaSource?: MediaSourceLike;
  };
  return scope.ManagedMediaSource ?? scope.MediaSource;
}

function supported(codecs: string): boolean {
  return mediaSource()?.isTypeSupported(`video/mp4; codecs="${codecs}"`) ?? true;
}

function nameOf(codec: string): string {
  return NAMES.find(([pattern]) => pattern.test(codec))?.[1] ?? codec;
}

/** A codec string split into its codecs, as people call them. */
export function codecNames(codecs: string): string[] {
  return codecs.split(',').map((codec) => nameOf(codec.trim()));
}

/**
 * Names of the codecs that keep every rendition from playing here; empty when one can be tried.
 * A rendition without a codec string can be tried: the player learns its codecs from the segments.
 */
export function unplayable(entry: CatalogEntry): string[] {
  const missing = new Set<string>();
  for (const { codecs } of entry.renditions) {
    if (!codecs) return [];
    const bad = codecs.split(',').filter((codec) => !supported(codec.trim()));
    if (bad.length === 0) return [];
    for (const codec of bad) missing.add(nameOf(codec.trim()));
  }
  return [...missing];
}

/** The sentence for a viewer whose browser cannot play the content. */
export function codecSentence(names: string[]): string {
  const what = names.length > 0 ? names.join(' and ') : 'the codec of this content';
  return `This browser cannot play ${what}. Another player can: open the address below in mpv or VLC.`;
}
