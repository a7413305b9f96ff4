/** Facts as short text: sizes, durations, ages, names. */
import type { CatalogEntry, Priority, Rendition } from './api';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** A size with decimal units: 77000000 is "77 MB". */
export function bytes(count: number): string {
  let value = Math.max(0, count);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return `${Number(value.toFixed(digits))} ${UNITS[unit]}`;
}

/** A duration as a clock: 3723 is "1:02:03". */
export function clock(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const tail = `${String(s).padStart(2, '0')}`;
  return h > 0 ? `${h}:${String(m).padStart(2, '0')}:${tail}` : `${m}:${tail}`;
}

/** A span of time in its one or two largest units: 3723 is "1 h 2 min". */
export function span(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  const minutes = Math.round(s / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

/** How far an instant lies ahead: "expires in 29 days". */
export function until(iso: string, now: number): string {
  const at = Date.parse(iso);
  if (Number.isNaN(at)) return 'expiry unknown';
  const seconds = (at - now) / 1_000;
  return seconds <= 0 ? 'expired' : `expires in ${span(seconds)}`;
}

/** A date in the viewer's own manner. */
export function date(iso: string): string {
  const at = Date.parse(iso);
  if (Number.isNaN(at)) return 'unknown';
  return new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

/** The name of a priority. */
export const PRIORITY: Record<Priority, string> = {
  live: 'Live',
  near_live: 'Near live',
  vod: 'On demand',
};

/** The title of a content, or its id when it has none. */
export function titleOf(entry: { title: string; content_id: string }): string {
  return entry.title.trim() || entry.content_id;
}

/** The short form of a key: its first and last four digits. */
export function shortKey(key: string): string {
  return key.length > 12 ? `${key.slice(0, 4)}\u2026${key.slice(-4)}` : key;
}

/** A rendition as viewers call it: "720p", "audio", or its name. */
export function renditionLabel(rendition: Rendition): string {
  if (rendition.height) {
    const short = rendition.width ? Math.min(rendition.width, rendition.height) : rendition.height;
    return `${short}p`;
  }
  return isAudio(rendition) ? 'audio' : rendition.name;
}

/** True when a rendition is known to hold no picture. */
export function isAudio(rendition: Rendition): boolean {
  if (rendition.mime_type.startsWith('audio/')) return true;
  if (rendition.height || !rendition.codecs) return false;
  return !/avc|hvc|hev|av01|vp0?[89]|dvh|mp4v/.test(rendition.codecs);
}

/** True when none of a content's renditions holds a picture. */
export function isAudioOnly(entry: CatalogEntry): boolean {
  return entry.renditions.length > 0 && entry.renditions.every(isAudio);
}

/** The renditions of a content, best first, each name once. */
export function renditionLabels(entry: CatalogEntry): string[] {
  const sorted = [...entry.renditions].sort((a, b) => (b.height ?? 0) - (a.height ?? 0));
  return [...new Set(sorted.map(renditionLabel))];
}

/** A bit rate: 1400000 is "1.4 Mbit/s". */
export function bitrate(bits: number): string {
  return bits >= 1e6
    ? `${Number((bits / 1e6).toFixed(1))} Mbit/s`
    : `${Math.round(bits / 1e3)} kbit/s`;
}
