/**
 * Typed client of the node's HTTP API: the shapes of its JSON and one function per call.
 *
 * A REF is the percent-encoded `CONTENT_ID` or `PUBLISHER/CONTENT_ID` as it stands in a path.
 */

/** How urgently a content is delivered, and for how long it is kept by default. */
export type Priority = 'live' | 'near_live' | 'vod';

/** One encoding of a content. */
export interface Rendition {
  name: string;
  mime_type: string;
  segment_count: number;
  bandwidth: number | null;
  codecs: string | null;
  width: number | null;
  height: number | null;
  frame_rate: number | null;
}

/** What a viewer picks: a stream or a title. */
export interface CatalogEntry {
  content_id: string;
  title: string;
  priority: Priority;
  segment_count: number;
  expires_at: string | null;
  publisher: string;
  version: number;
  state: 'open' | 'finished';
  complete: boolean;
  created: string;
  duration_seconds: number;
  bytes: number;
  pinned: boolean;
  play_url: string;
  renditions: Rendition[];
}

/** A content that is being ingested right now. */
export interface Upload {
  upload_id: string;
  content_id: string;
  title: string;
  segments: number;
  bytes: number;
  duration_seconds: number;
  expected_seconds: number | null;
  idle_seconds: number;
}

/** The store of a node. */
export interface StoreStatus {
  path: string;
  bytes: number;
  limit_bytes: number | null;
  segments: number;
  contents: number;
  hot_bytes: number;
  disk_free_bytes: number | null;
}

/** How the node is doing. */
export interface Status {
  node_id: string;
  version: string;
  publisher: string;
  uptime_seconds: number;
  store: StoreStatus;
  uploads: Upload[];
  read_only: boolean;
  warnings: string[];
  auth_required: boolean;
  /** Where links of other nodes come in; null when this node meets none. */
  relay_port: number | null;
}

/** A node that this one meets, or tries to. */
export interface Peer {
  address: string;
  node: string | null;
  name: string;
  state: 'connected' | 'dialling' | 'waiting' | 'away';
  link: 'tcp' | 'quic' | null;
  error: string | null;
  retry_seconds: number | null;
  received_bytes: number;
  sent_bytes: number;
  /** Bytes a second that arrive. */
  rate: number;
  round_trip_ms: number | null;
}

/** A live stream that runs, or has just ended. */
export interface LiveStream {
  name: string;
  version: number;
  state: 'live' | 'paused' | 'waiting' | 'ended';
  /** How its publisher is connected: `http`, `rtmp`, `srt`, `pull`, or empty. */
  by: string;
  /** Where the node fetches it from. */
  source: string | null;
  /** Where it is sent on. */
  forwards: { to: string; running: boolean; error: string | null }[];
  since: string;
  play: string;
  codecs: string;
  width: number;
  height: number;
  bit_rate: number;
  key_seconds: number;
  frames: number;
  /** Frames that were left out because of their times. */
  dropped: number;
  /** Seconds by which the media runs ahead of the clock. */
  drift: number | null;
  /** Tracks that were not taken, by their codecs. */
  left_out: string[];
  seconds: number;
  stored: number;
  lost: number;
  fault: string | null;
  target_duration: number | null;
  error: string | null;
  low_latency: boolean;
}

/** What an encoder needs; `rtmp` is null when the node does not listen for RTMP. */
export interface StreamKey {
  name: string;
  key: string;
  rtmp: string | null;
}

/** A call that the node refused, or that did not reach it (`status` 0). */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/** A content that a node shows no more. */
export interface Gone {
  publisher: string;
  content_id: string;
  version: number;
}

/** What changed of a node's catalogue. */
export interface CatalogChanges {
  changed: CatalogEntry[];
  gone: Gone[];
}

/** How many contents of a long catalogue the page asks for at a time; the first event has so many. */
export const AT_ONCE = 500;

/** Nothing on this page waits for the node longer than this. */
const TIMEOUT_MS = 10_000;

async function refusal(response: Response): Promise<string> {
  try {
    const body: unknown = await response.json();
    if (body && typeof body === 'object' && 'error' in body && typeof body.error === 'string') {
      return body.error;
    }
  } catch {
    // A proxy between the page and the node answers with HTML; its status is all there is to say.
  }
  return `The node answered with status ${response.status}.`;
}

async function call<T>(method: string, path: string, token?: string | null): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      cache: 'no-store',
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new ApiError('The node did not answer. Check that it is running.', 0);
  }
  if (!response.ok) throw new ApiError(await refusal(response), response.status);
  return (await response.json()) as T;
}

/** All contents of the node. */
export const fetchCatalog = (offset = 0, words = '') => {
  const query = new URLSearchParams({ newest: 'true', limit: String(AT_ONCE) });
  if (offset > 0) query.set('offset', String(offset));
  if (words) query.set('search', words);
  return call<CatalogEntry[]>('GET', `/catalog?${query}`);
};

/** How the node is doing. */
export const fetchStatus = () => call<Status>('GET', '/status');

/** The nodes that this one meets. */
export const fetchPeers = () => call<Peer[]>('GET', '/peers');

/** One content with the details of its renditions. */
export const fetchContent = (ref: string) => call<CatalogEntry>('GET', `/content/${ref}`);

/** Deletes a content and its segments from this node. */
export const deleteContent = (ref: string, token: string | null) =>
  call<{ deleted_segments: number; freed_bytes: number }>('DELETE', `/content/${ref}`, token);

/** Keeps a content past its expiry, or lets it expire again. */
export const pinContent = (ref: string, pinned: boolean, token: string | null) =>
  call<{ pinned: boolean }>(pinned ? 'PUT' : 'DELETE', `/content/${ref}/pin`, token);

const livePath = (name: string) => `/api/v1/live/${encodeURIComponent(name)}`;

/** The live streams of this node. */
export const fetchLive = () => call<LiveStream[]>('GET', '/api/v1/live');

/** Tells a live stream to pause, resume or stop. */
export const tellLive = (name: string, action: 'pause' | 'resume' | 'stop', token: string | null) =>
  call<LiveStream>('POST', `${livePath(name)}/${action}`, token);

/** The secret with which an encoder publishes under a name. */
export const fetchStreamKey = (name: string, token: string | null) =>
  call<StreamKey>('POST', `${livePath(name)}/key`, token);

/** The REF of a content, taken from its `play_url`, which names the publisher where it must. */
export function refOf(entry: CatalogEntry): string {
  const path = /^\/play\/(.+?)(?:\/index\.m3u8)?$/.exec(entry.play_url)?.[1];
  return path ?? `${entry.publisher}/${encodeURIComponent(entry.content_id)}`;
}

/** The absolute address of a content's playlist, for other players. */
export function playUrl(entry: CatalogEntry): string {
  // An apostrophe is legal in a URL but would end the quoted argument of a copied command.
  return new URL(`/play/${refOf(entry)}/index.m3u8`, location.origin).href.replaceAll("'", '%27');
}
