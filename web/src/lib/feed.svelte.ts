/**
 * What the page knows of the node: catalogue and status, kept current by Server-Sent Events.
 *
 * The node sends a status at least every two seconds, so silence means a dead connection even when
 * the socket looks open. When events do not get through (a proxy that buffers, an old browser), the
 * page polls and tries events again from time to time.
 */
import {
  fetchCatalog,
  fetchStatus,
  type CatalogChanges,
  type CatalogEntry,
  type Status,
} from './api';
import { merged } from './catalogue';
import { progress } from './progress.svelte';

const SILENCE_MS = 8_000;
const POLL_MS = 2_500;
const EVENTS_AGAIN_MS = 30_000;
const HIDDEN_MS = 60_000;
const BACKOFF_MS = [500, 1_000, 2_000, 3_000, 5_000];

/** How the page hears from the node. */
export type Link = 'connecting' | 'events' | 'polling' | 'lost';

class Feed {
  catalog = $state.raw<CatalogEntry[] | null>(null);
  status = $state.raw<Status | null>(null);
  link = $state<Link>('connecting');
  /** The time that ages and expiries on the page are counted from. */
  now = $state(Date.now());

  #source: EventSource | null = null;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  #sleep: ReturnType<typeof setTimeout> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #eventsFailures = 0;
  #eventsAgainAt = 0;

  /** Starts listening; called once. */
  open(): void {
    addEventListener('online', () => this.#connect());
    document.addEventListener('visibilitychange', () => this.#visibility());
    this.#connect();
  }

  /** Asks the node for fresh facts now, after the page changed something. */
  async refresh(): Promise<void> {
    const [catalog, status] = await Promise.all([fetchCatalog(), fetchStatus()]);
    this.#takeCatalog(catalog);
    this.#takeStatus(status);
  }

  /** Browsers allow six connections to a node; forgotten tabs would use them up. */
  #visibility(): void {
    clearTimeout(this.#sleep);
    if (document.hidden) {
      this.#sleep = setTimeout(() => {
        clearTimeout(this.#timer);
        this.#close();
      }, HIDDEN_MS);
    } else if (!this.#source) {
      this.#connect();
    }
  }

  #connect(): void {
    clearTimeout(this.#timer);
    this.#close();
    if (!('EventSource' in globalThis) || Date.now() < this.#eventsAgainAt) {
      void this.#poll();
      return;
    }
    const source = new EventSource('/events');
    this.#source = source;
    source.addEventListener('catalog', (e) => this.#take(() => this.#takeCatalog(read(e))));
    source.addEventListener('changes', (e) => this.#take(() => this.#takeChanges(read(e))));
    source.addEventListener('status', (e) => this.#take(() => this.#takeStatus(read(e))));
    source.addEventListener('error', () => this.#eventsFailed());
    this.#watch();
  }

  #take(store: () => void): void {
    try {
      store();
    } catch {
      this.#eventsFailed();
      return;
    }
    this.#failures = 0;
    this.#eventsFailures = 0;
    this.link = 'events';
    this.#watch();
  }

  #watch(): void {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#eventsFailed(), SILENCE_MS);
  }

  #close(): void {
    clearTimeout(this.#watchdog);
    this.#source?.close();
    this.#source = null;
  }

  #eventsFailed(): void {
    this.#close();
    this.#eventsFailures += 1;
    // A node that answers requests but sends no events is polled for a while.
    if (this.#eventsFailures >= 3) this.#eventsAgainAt = Date.now() + EVENTS_AGAIN_MS;
    void this.#poll();
  }

  async #poll(): Promise<void> {
    try {
      await this.refresh();
      this.#failures = 0;
      this.link = this.#eventsFailures >= 3 ? 'polling' : 'events';
      this.#later(this.#eventsFailures >= 3 ? POLL_MS : 300);
    } catch {
      this.link = 'lost';
      this.#eventsFailures = 0;
      this.#eventsAgainAt = 0;
      this.#later(BACKOFF_MS[Math.min(this.#failures, BACKOFF_MS.length - 1)] ?? POLL_MS);
      this.#failures += 1;
    }
  }

  #later(ms: number): void {
    clearTimeout(this.#timer);
    // The jitter keeps many open pages from asking a returning node all at once.
    this.#timer = setTimeout(() => this.#connect(), ms * (0.8 + Math.random() * 0.4));
  }

  #takeCatalog(catalog: CatalogEntry[]): void {
    if (!Array.isArray(catalog)) throw new TypeError('the catalogue is not a list');
    progress.catalogChanged(catalog);
    this.catalog = catalog;
    this.now = Date.now();
  }

  #takeChanges({ changed, gone }: CatalogChanges): void {
    this.#takeCatalog(merged(this.catalog ?? [], changed, gone));
  }

  /** Asks for the contents that come after those that are shown, of a long catalogue. */
  async more(): Promise<void> {
    const shown = this.catalog ?? [];
    this.#takeCatalog(merged(shown, await fetchCatalog(shown.length), []));
  }

  #takeStatus(status: Status): void {
    progress.statusChanged(status.uploads, performance.now());
    this.status = status;
    this.now = Date.now();
  }
}

function read<T>(event: Event): T {
  return JSON.parse((event as MessageEvent<string>).data) as T;
}

/** The one feed of the page. */
export const feed = new Feed();
