/** Live streams in words, and as contents that the player takes. */
import { refOf, type CatalogEntry, type LiveStream } from './api';

/** Above this many seconds between key frames viewers wait long for their first picture. */
const KEY_SECONDS_MAX = 4;
/** Seconds behind the clock from which the publisher is told. */
const DRIFT_MAX = 3;

/** The REF of a stream. */
export function refOfStream(stream: LiveStream): string {
  return /^\/play\/(.+?)\/index\.m3u8$/.exec(stream.play)?.[1] ?? encodeURIComponent(stream.name);
}

/** The streams that are not over. */
export function runningStreams(streams: LiveStream[] | null): LiveStream[] {
  return (streams ?? []).filter((stream) => stream.state !== 'ended');
}

/** The contents of a catalogue that are not among the running streams. */
export function withoutStreams(catalog: CatalogEntry[], running: LiveStream[]): CatalogEntry[] {
  const refs = new Set(running.map(refOfStream));
  return catalog.filter((entry) => !refs.has(refOf(entry)));
}

/** A stream as a content, for as long as the catalogue does not have it. */
export function asContent(stream: LiveStream, publisher: string): CatalogEntry {
  return {
    content_id: stream.name,
    title: stream.name,
    priority: 'live',
    segment_count: stream.stored,
    expires_at: null,
    publisher,
    version: stream.version,
    state: stream.state === 'ended' ? 'finished' : 'open',
    complete: true,
    created: stream.since,
    duration_seconds: stream.seconds,
    bytes: 0,
    pinned: false,
    play_url: stream.play,
    renditions: [
      {
        name: 'main',
        mime_type: 'video/mp4',
        segment_count: stream.stored,
        bandwidth: stream.bit_rate || null,
        codecs: stream.codecs || null,
        width: stream.width || null,
        height: stream.height || null,
        frame_rate: null,
      },
    ],
  };
}

/** What a viewer has to know of a stream that does not simply run; empty when it does. */
export function stateSentence(stream: LiveStream): string {
  switch (stream.state) {
    case 'waiting':
      return 'The stream waits for its publisher. It goes on when the publisher is back.';
    case 'paused':
      return 'The stream is paused by its publisher.';
    case 'ended':
      return 'The stream is over.';
    default:
      return '';
  }
}

/** The state of a stream in a word or two. */
export const STATE: Record<LiveStream['state'], string> = {
  live: 'Live',
  paused: 'Paused',
  waiting: 'Waiting for its publisher',
  ended: 'Over',
};

/** A bit rate in megabits a second: 2400000 is "2.4 Mb/s". */
export function megabits(bits: number): string {
  return bits > 0 ? `${(bits / 1e6).toFixed(bits < 1e7 ? 1 : 0)} Mb/s` : 'not known yet';
}

/** How a stream is doing, as names and values. */
export function healthOf(stream: LiveStream): [string, string][] {
  const size = stream.width > 0 ? `, ${stream.width} \u00d7 ${stream.height}` : '';
  const by = { http: 'HTTP', rtmp: 'RTMP', srt: 'SRT', pull: 'this node' }[stream.by] ?? stream.by;
  const dropped = stream.dropped > 0 ? `, ${stream.dropped.toLocaleString()} left out` : '';
  return [
    ['State', STATE[stream.state]],
    ['Publisher by', by || 'not connected'],
    ...(stream.source ? [['Fetched from', stream.source] as [string, string]] : []),
    ['Codecs', stream.codecs ? stream.codecs.replaceAll(',', ', ') + size : 'not known yet'],
    ['Bit rate', megabits(stream.bit_rate)],
    [
      'Key frames',
      stream.key_seconds > 0 ? `every ${stream.key_seconds.toFixed(1)} s` : 'not known yet',
    ],
    ['Frames', stream.frames.toLocaleString() + dropped],
    ['Against the clock', stream.drift === null ? 'not known yet' : driftOf(stream.drift)],
    ['Segments stored', stream.stored.toLocaleString()],
    ['Segments lost', stream.lost.toLocaleString()],
    ['Low latency', stream.low_latency ? 'yes' : 'no'],
    ...stream.forwards.map(({ to, running, error }): [string, string] => [
      `Sent to ${to}`,
      running ? 'running' : (error ?? 'waiting'),
    ]),
  ];
}

function driftOf(seconds: number): string {
  if (Math.abs(seconds) < 0.05) return 'in time';
  return `${Math.abs(seconds).toFixed(1)} s ${seconds > 0 ? 'ahead' : 'behind'}`;
}

/** What the publisher of a stream should mend, in sentences. */
export function hintsOf(stream: LiveStream): string[] {
  const hints: string[] = [];
  if (stream.key_seconds > KEY_SECONDS_MAX) {
    hints.push(
      `Key frames come only every ${stream.key_seconds.toFixed(1)} s. ` +
        'Set the key-frame interval of your encoder to 2 s, so that viewers start faster.',
    );
  }
  if (stream.left_out.length > 0) hints.push(`Not taken: ${stream.left_out.join(', ')}.`);
  if (stream.drift !== null && stream.drift < -DRIFT_MAX) {
    hints.push(
      `The stream comes ${(-stream.drift).toFixed(1)} s too late: ` +
        'the encoder, or the way to here, is too slow. A lower bit rate helps.',
    );
  }
  if (stream.lost > 0) hints.push(`The replay lacks ${stream.lost} segments.`);
  if (stream.fault) hints.push(`The store does not take the stream: ${stream.fault}`);
  if (stream.error) hints.push(`The latest publisher was cut off: ${stream.error}`);
  return hints;
}

/** Text as one argument of a shell. */
function quoted(text: string): string {
  return /^[\w./:@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** A command line that publishes a file with ffmpeg: by RTMP where the node listens, else by HTTP. */
export function ffmpegLine(name: string, origin: string, rtmp: string | null, key: string): string {
  const encode = 'ffmpeg -re -i INPUT -c:v libx264 -preset veryfast -tune zerolatency';
  const sound = '-force_key_frames "expr:gte(t,n_forced*2)" -c:a aac';
  if (rtmp) return `${encode} ${sound} -f flv ${quoted(`${rtmp}/${key}`)}`;
  const to = `${origin}/api/v1/live/${encodeURIComponent(name)}`;
  return `${encode} ${sound} -f mpegts - | curl -T - ${quoted(to)}`;
}

/** The command line that publishes what comes on standard input. */
export function shellLine(name: string): string {
  return `lavant live ${quoted(name)} -`;
}
