/**
 * Rate and time-left of running ingests, and what is announced of them to screen readers.
 *
 * The node tells how many seconds of video are in; the page derives the speed from a short window of
 * such reports, so that a pause or a change of speed shows within seconds.
 */
import type { CatalogEntry, Upload } from './api';
import { notices } from './notices.svelte';

const WINDOW_MS = 20_000;
/** An upload without new data for this long is shown as waiting. */
export const IDLE_SECONDS = 10;
const ANNOUNCE_STEP = 25;

interface Track {
  title: string;
  contentId: string;
  samples: { at: number; seconds: number }[];
  announced: number;
}

class Progress {
  /** Seconds of video ingested per second, by upload. */
  speeds = $state.raw<Record<string, number>>({});
  #tracks = new Map<string, Track>();
  #awaited = new Map<string, string>();
  #catalog: CatalogEntry[] = [];

  statusChanged(uploads: Upload[], now: number): void {
    const speeds: Record<string, number> = {};
    for (const upload of uploads) {
      const track = this.#track(upload);
      track.samples.push({ at: now, seconds: upload.duration_seconds });
      track.samples = track.samples.filter((s) => now - s.at <= WINDOW_MS);
      const speed = speedOf(track.samples);
      if (speed !== null) speeds[upload.upload_id] = speed;
      announce(track, upload);
    }
    this.#dropMissing(uploads);
    // The catalogue can be told before the upload ends.
    this.catalogChanged(this.#catalog);
    this.speeds = speeds;
  }

  /** Tells the viewer when a content whose upload was seen here is ready. */
  catalogChanged(catalog: CatalogEntry[]): void {
    this.#catalog = catalog;
    for (const [id, title] of this.#awaited) {
      if (!catalog.some((e) => e.content_id === id && e.state === 'finished')) continue;
      this.#awaited.delete(id);
      notices.say(`${title} is ready to play.`);
    }
  }

  #track(upload: Upload): Track {
    let track = this.#tracks.get(upload.upload_id);
    if (!track) {
      const title = upload.title || upload.content_id;
      track = { title, contentId: upload.content_id, samples: [], announced: 0 };
      this.#tracks.set(upload.upload_id, track);
      notices.announce(`Ingest of ${title} is running.`);
    }
    return track;
  }

  #dropMissing(uploads: Upload[]): void {
    const running = new Set(uploads.map((u) => u.upload_id));
    for (const [id, track] of this.#tracks) {
      if (running.has(id)) continue;
      this.#tracks.delete(id);
      this.#awaited.set(track.contentId, track.title);
    }
  }
}

function speedOf(samples: Track['samples']): number | null {
  const first = samples[0];
  const last = samples.at(-1);
  if (!first || !last || last.at - first.at < 1_500) return null;
  return Math.max(0, (last.seconds - first.seconds) / ((last.at - first.at) / 1_000));
}

function announce(track: Track, upload: Upload): void {
  const percent = percentOf(upload);
  if (percent === null) return;
  const step = Math.floor(percent / ANNOUNCE_STEP) * ANNOUNCE_STEP;
  if (step <= track.announced || step >= 100) return;
  track.announced = step;
  notices.announce(`${track.title}: ${step} % ingested.`);
}

/** How much of an upload is in, or null when its length is not known. */
export function percentOf(upload: Upload): number | null {
  if (!upload.expected_seconds || upload.expected_seconds <= 0) return null;
  return Math.min(100, (100 * upload.duration_seconds) / upload.expected_seconds);
}

/** Seconds until an upload is done at its present speed, or null when that cannot be told. */
export function secondsLeft(upload: Upload, speed: number | undefined): number | null {
  if (!upload.expected_seconds || !speed || speed < 0.01) return null;
  return Math.max(0, (upload.expected_seconds - upload.duration_seconds) / speed);
}

/** The one record of ingests of the page. */
export const progress = new Progress();
