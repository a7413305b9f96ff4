/**
 * Offers hls.js's levels to the player controls, which ask a video for `videoRenditions`: a list with
 * `selectedIndex` (-1 for automatic) that tells of changes by events. No browser has it by itself.
 */
import type Hls from 'hls.js';

interface OfferedRendition {
  id: string;
  width: number;
  height: number;
  bitrate: number;
}

class RenditionList extends EventTarget {
  #items: OfferedRendition[] = [];
  #selected = -1;
  /** Called when the viewer chooses a rendition, or -1 for automatic. */
  onchoose: (index: number) => void = () => {};

  get length(): number {
    return this.#items.length;
  }

  [Symbol.iterator](): IterableIterator<OfferedRendition> {
    return this.#items[Symbol.iterator]();
  }

  get selectedIndex(): number {
    return this.#selected;
  }

  set selectedIndex(index: number) {
    if (index === this.#selected) return;
    this.#selected = index;
    this.onchoose(index);
    this.dispatchEvent(new Event('change'));
  }

  replace(items: OfferedRendition[]): void {
    this.#items = items;
    // The controls read entries by index, as of an array.
    items.forEach((item, i) => Object.defineProperty(this, i, { value: item, configurable: true }));
    this.dispatchEvent(new Event('addrendition'));
  }
}

/**
 * Gives a video its list of renditions. The controls look for it when they first see the video, so this
 * comes before the video is put among them.
 */
export function prepareRenditions(video: HTMLVideoElement): void {
  Object.defineProperty(video, 'videoRenditions', { value: new RenditionList() });
}

/** Fills the list of a prepared video with hls.js's levels, and follows the viewer's choice. */
export function offerRenditions(
  video: HTMLVideoElement,
  hls: Hls,
  events: (typeof Hls)['Events'],
): void {
  const list = (video as { videoRenditions?: unknown }).videoRenditions;
  if (!(list instanceof RenditionList)) return;
  list.onchoose = (index) => (hls.nextLevel = index);
  hls.on(events.MANIFEST_PARSED, () => {
    const sized = hls.levels.every((level) => level.height > 0);
    if (hls.levels.length < 2 || !sized) return;
    list.replace(
      hls.levels.map((level, i) => ({
        id: String(i),
        width: level.width,
        height: level.height,
        bitrate: level.bitrate,
      })),
    );
  });
}
