/**
 * The live streams of the node, asked for every two seconds while the page is seen.
 *
 * A stream shows here from its first frame; the catalogue has it with its first stored segment.
 */
import { fetchLive, type LiveStream } from './api';

const POLL_MS = 2_000;

class Live {
  /** Null until the node has answered. */
  streams = $state.raw<LiveStream[] | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Starts asking; called once. */
  open(): void {
    document.addEventListener('visibilitychange', () => void this.#poll());
    void this.#poll();
  }

  /** Asks now, after the page changed something. */
  async refresh(): Promise<void> {
    const streams = await fetchLive();
    if (!Array.isArray(streams)) throw new TypeError('the live streams are not a list');
    this.streams = streams;
  }

  async #poll(): Promise<void> {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    try {
      await this.refresh();
    } catch {
      // The banner says when the node does not answer; what was known stays on the screen.
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#poll(), POLL_MS);
  }
}

/** The live streams of the page. */
export const live = new Live();
