/**
 * Plays a playlist in a video element and gets it going again after errors.
 *
 * hls.js is used wherever it works, also in browsers that know HLS themselves, because only then the
 * page can retry, skip gaps and say what is wrong. Elsewhere the browser plays the playlist.
 */
import type Hls from 'hls.js';
import type { ErrorData, HlsConfig } from 'hls.js';
import workerUrl from 'hls.js/dist/hls.worker.js?url';
import { codecSentence } from './codecs';
import { skipGaps } from './gaps';
import { offerRenditions } from './renditions';

/** What keeps a content from playing: `final` when the page does not try further. */
export interface Trouble {
  text: string;
  final: boolean;
}

/** How far behind the newest picture a viewer is. */
export interface Place {
  seconds: number;
  /** More than two target durations. */
  far: boolean;
  goLive(): void;
}

/** What the engine is told, and whom it tells. */
export interface EngineOptions {
  url: string;
  /** Start at the beginning even when the content still grows. */
  fromStart: boolean;
  onTrouble(trouble: Trouble | null): void;
  /** Told twice a second where a live stream is watched. */
  onPlace?: (place: Place) => void;
}

const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000, 15_000];
const MAX_RECOVERIES = 3;
const RECOVERY_WINDOW_MS = 30_000;
const MAX_PARSE_FAILURES = 4;
const PLACE_MS = 500;
/** Behind its target by more than this, a viewer who follows is moved: rate alone would take long. */
const JUMP_SECONDS = 1.5;
const JUMP_PAUSE_MS = 3_000;

/** Starts playback; returns the function that ends it. */
export async function startEngine(video: HTMLVideoElement, options: EngineOptions) {
  const { default: HlsClass } = await import('hls.js');
  if (HlsClass.isSupported()) {
    const engine = new HlsEngine(HlsClass, video, options);
    return () => engine.stop();
  }
  if (video.canPlayType('application/vnd.apple.mpegurl')) return startNative(video, options);
  options.onTrouble({ text: 'This browser cannot play HLS. Open the address below.', final: true });
  return () => {};
}

function config(fromStart: boolean): Partial<HlsConfig> {
  return {
    workerPath: workerUrl,
    liveDurationInfinity: true,
    lowLatencyMode: true,
    backBufferLength: 90,
    // Catches up what the start cost; pitch is kept. A film that still arrives looks like a stream,
    // and would be played faster than it comes.
    maxLiveSyncPlaybackRate: fromStart ? 1 : 1.1,
    // After a break of the publisher the viewer is to be as near as before. Where parts do not come
    // steadily, the node says so in its playlist, which moves the target.
    liveSyncOnStallIncrease: 0,
    startPosition: fromStart ? 0 : -1,
  };
}

class HlsEngine {
  readonly #hls: Hls;
  readonly #events: (typeof Hls)['Events'];
  readonly #kinds: (typeof Hls)['ErrorTypes'];
  readonly #details: (typeof Hls)['ErrorDetails'];
  readonly #stopSkipping: () => void;
  #failures = 0;
  #recoveries: number[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #placer: ReturnType<typeof setInterval> | undefined;
  /** Whether the viewer watches the newest pictures, and has not gone back or paused. */
  #follows: boolean;
  #jumped = 0;

  constructor(
    HlsClass: typeof Hls,
    readonly video: HTMLVideoElement,
    readonly options: EngineOptions,
  ) {
    this.#events = HlsClass.Events;
    this.#kinds = HlsClass.ErrorTypes;
    this.#details = HlsClass.ErrorDetails;
    this.#hls = new HlsClass(config(options.fromStart));
    this.#hls.on(this.#events.ERROR, (_, data) => this.#failed(data));
    this.#hls.on(this.#events.FRAG_BUFFERED, () => this.#works());
    this.#hls.on(this.#events.MANIFEST_PARSED, () => void play(video));
    offerRenditions(video, this.#hls, this.#events);
    this.#stopSkipping = skipGaps(video, this.#hls);
    this.#follows = !options.fromStart;
    video.addEventListener('pause', this.#left);
    video.addEventListener('seeking', this.#moved);
    this.#hls.loadSource(options.url);
    this.#hls.attachMedia(video);
    if (options.onPlace) this.#placer = setInterval(() => this.#place(), PLACE_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#placer);
    this.#stopSkipping();
    this.video.removeEventListener('pause', this.#left);
    this.video.removeEventListener('seeking', this.#moved);
    this.#hls.destroy();
  }

  readonly #left = (): void => {
    this.#follows = false;
  };

  /** A viewer who goes back stays there; one who comes to the end again follows. */
  readonly #moved = (): void => {
    const newest = this.#hls.liveSyncPosition;
    const target = this.#hls.latestLevelDetails?.targetduration ?? 2;
    if (newest !== null) this.#follows = this.video.currentTime > newest - 2 * target;
  };

  /** Moves a viewer who follows and fell behind, as after a break of the publisher. */
  #keepUp(): void {
    const newest = this.#hls.liveSyncPosition;
    const target = this.#hls.targetLatency;
    if (!this.#follows || this.video.paused || newest === null || target === null) return;
    const isFar = this.#hls.latency > target + JUMP_SECONDS;
    if (!isFar || performance.now() - this.#jumped < JUMP_PAUSE_MS) return;
    this.#jumped = performance.now();
    this.video.currentTime = newest;
  }

  #place(): void {
    const details = this.#hls.latestLevelDetails;
    if (!details?.live || this.video.readyState === 0) return;
    this.#keepUp();
    const seconds = this.#hls.latency;
    this.options.onPlace?.({
      seconds,
      far: seconds > 2 * details.targetduration,
      goLive: () => {
        this.video.currentTime = this.#hls.liveSyncPosition ?? this.video.currentTime;
        this.#follows = true;
        void play(this.video);
      },
    });
  }

  #works(): void {
    if (this.#failures > 0) this.options.onTrouble(null);
    this.#failures = 0;
  }

  #failed(data: ErrorData): void {
    if (!data.fatal) return;
    const d = this.#details;
    const codec = [
      d.MANIFEST_INCOMPATIBLE_CODECS_ERROR,
      d.BUFFER_INCOMPATIBLE_CODECS_ERROR,
      d.BUFFER_ADD_CODEC_ERROR,
    ];
    if (codec.includes(data.details)) return this.#giveUp(codecSentence([]));
    if (data.type === this.#kinds.NETWORK_ERROR) return this.#networkFailed(data);
    if (data.type === this.#kinds.MEDIA_ERROR) return this.#mediaFailed();
    this.#giveUp('The player met an error that it cannot repair. Load the page again.');
  }

  #networkFailed(data: ErrorData): void {
    const code = data.response?.code;
    const atStart = this.#hls.levels.length === 0;
    if (atStart && (code === 404 || code === 410)) {
      return this.#giveUp('This node does not hold this content any more.');
    }
    this.#failures += 1;
    if (data.details === this.#details.MANIFEST_PARSING_ERROR) {
      if (this.#failures > MAX_PARSE_FAILURES) {
        return this.#giveUp('The node sent a playlist that cannot be read.');
      }
    }
    const empty = data.details === this.#details.LEVEL_EMPTY_ERROR;
    this.options.onTrouble({
      text: empty
        ? 'The first segments are not here yet; playback starts when they are.'
        : 'The node does not send the next segment, retrying.',
      final: false,
    });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#retry(), BACKOFF_MS[this.#failures - 1] ?? 15_000);
  }

  #retry(): void {
    // A playlist that never came has to be asked for anew; startLoad only goes on with a known one.
    if (this.#hls.levels.length === 0) this.#hls.loadSource(this.options.url);
    else this.#hls.startLoad(this.video.currentTime > 0 ? this.video.currentTime : undefined);
  }

  #mediaFailed(): void {
    const now = performance.now();
    this.#recoveries = this.#recoveries.filter((at) => now - at < RECOVERY_WINDOW_MS);
    if (this.#recoveries.length >= MAX_RECOVERIES) {
      return this.#giveUp('The browser cannot decode this content. Another player may: see below.');
    }
    this.#recoveries.push(now);
    this.#hls.recoverMediaError();
    void play(this.video);
  }

  #giveUp(text: string): void {
    clearTimeout(this.#timer);
    this.#hls.stopLoad();
    this.options.onTrouble({ text, final: true });
  }
}

/** Starts playing; a browser that wants a gesture first leaves the play button on the screen. */
export async function play(video: HTMLVideoElement): Promise<void> {
  try {
    await video.play();
  } catch {
    // Autoplay is refused, or the source changed meanwhile: both end with the viewer's play button.
  }
}

function startNative(video: HTMLVideoElement, options: EngineOptions): () => void {
  let failures = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const failed = () => {
    const code = video.error?.code;
    if (code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED || code === MediaError.MEDIA_ERR_DECODE) {
      return options.onTrouble({ text: codecSentence([]), final: true });
    }
    options.onTrouble({ text: 'The node does not send the next segment, retrying.', final: false });
    timer = setTimeout(() => video.load(), BACKOFF_MS[failures] ?? 15_000);
    failures += 1;
  };
  const works = () => {
    if (failures > 0) options.onTrouble(null);
    failures = 0;
  };
  video.addEventListener('error', failed);
  video.addEventListener('playing', works);
  video.src = options.url;
  void play(video);
  return () => {
    clearTimeout(timer);
    video.removeEventListener('error', failed);
    video.removeEventListener('playing', works);
    video.removeAttribute('src');
    video.load();
  };
}
