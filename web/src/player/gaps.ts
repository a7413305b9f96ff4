/**
 * Steps over missing segments (EXT-X-GAP), so that a content that is only partly here plays on.
 *
 * hls.js does not load a gap and jumps over small holes itself; a playhead that stands inside a long
 * gap, or was put there by a seek, waits for ever without this.
 */
import type Hls from 'hls.js';
import type { Fragment } from 'hls.js';

const CHECK_MS = 400;
const MARGIN_S = 0.05;

function fragments(hls: Hls): Fragment[] {
  const level = hls.levels[hls.currentLevel] ?? hls.levels[hls.loadLevel];
  return level?.details?.fragments ?? [];
}

/** Where playback goes on after the gap at `time`; null when there is no gap, or nothing after it. */
export function afterGap(frags: Pick<Fragment, 'start' | 'end' | 'gap'>[], time: number) {
  const at = frags.findIndex((f) => time >= f.start - MARGIN_S * 2 && time < f.end - MARGIN_S * 2);
  if (at < 0 || !frags[at]?.gap) return null;
  return frags.slice(at).find((f) => !f.gap)?.start ?? null;
}

/** Watches a playing video; returns the function that stops watching. */
export function skipGaps(video: HTMLVideoElement, hls: Hls): () => void {
  const timer = setInterval(() => {
    const waiting = video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA || video.seeking;
    if (!waiting || video.ended) return;
    const target = afterGap(fragments(hls), video.currentTime);
    if (target !== null) video.currentTime = target + MARGIN_S;
  }, CHECK_MS);
  return () => clearInterval(timer);
}
