/**
 * Keyboard control of the player from anywhere on its view.
 *
 * A control that has the focus keeps the keys it needs itself: a button its space bar, a slider its
 * arrows. So a key never does two things.
 */

const SLIDERS = 'input[type="range"], [role="slider"]';
const TYPING =
  'input:not([type="range"]), textarea, select, [contenteditable], dialog, [role="menu"]';
const PRESSABLE =
  'button, a[href], summary, [role="button"], [role="menuitem"], [role="menuitemradio"]';
const VOLUME_STEP = 0.05;

/** The player a key acts on. */
export interface KeyTarget {
  video: HTMLVideoElement;
  fullscreen(): void;
  leave(): void;
}

function within(event: KeyboardEvent, selector: string): boolean {
  // Controls live in shadow trees; only the composed path shows what really has the focus.
  return event.composedPath().some((node) => node instanceof Element && node.matches(selector));
}

function seek(video: HTMLVideoElement, by: number): void {
  const { seekable } = video;
  if (seekable.length === 0) return;
  const [start, end] = [seekable.start(0), seekable.end(seekable.length - 1)];
  video.currentTime = Math.min(Math.max(video.currentTime + by, start), end);
}

function loudness(video: HTMLVideoElement, by: number): void {
  video.volume = Math.min(1, Math.max(0, video.volume + by));
  if (by > 0) video.muted = false;
}

function toggle(video: HTMLVideoElement): void {
  if (video.paused) void video.play().catch(() => {});
  else video.pause();
}

/** Acts on a key; true when it was one of the player's. */
export function playerKey(event: KeyboardEvent, { video, fullscreen, leave }: KeyTarget): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return false;
  if (within(event, TYPING)) return false;
  const onSlider = within(event, SLIDERS);
  switch (event.key) {
    case ' ':
      if (within(event, PRESSABLE)) return false;
      toggle(video);
      return true;
    case 'k':
      toggle(video);
      return true;
    case 'ArrowLeft':
    case 'ArrowRight':
      if (onSlider) return false;
      seek(video, event.key === 'ArrowLeft' ? -5 : 5);
      return true;
    case 'ArrowUp':
    case 'ArrowDown':
      if (onSlider) return false;
      loudness(video, event.key === 'ArrowUp' ? VOLUME_STEP : -VOLUME_STEP);
      return true;
    case 'j':
    case 'l':
      seek(video, event.key === 'j' ? -10 : 10);
      return true;
    case 'm':
      video.muted = !video.muted;
      return true;
    case 'f':
      fullscreen();
      return true;
    case 'Escape':
      // In full screen the browser itself takes Escape; this is for engines that pass it on.
      if (document.fullscreenElement) return false;
      leave();
      return true;
    default:
      return false;
  }
}
