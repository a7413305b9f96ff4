/**
 * HLS test contents, made by ffmpeg into a folder: one subfolder a content with its playlists and
 * segments. Small and short, since the tests are about the page and not about codecs.
 */
import { execFile } from 'node:child_process';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const H264 = [
  '-c:v',
  'libx264',
  '-preset',
  'ultrafast',
  '-profile:v',
  'main',
  '-pix_fmt',
  'yuv420p',
];
const AAC = ['-c:a', 'aac', '-b:a', '64k', '-ac', '2'];

function source(size, rate, seconds) {
  return [
    ...['-f', 'lavfi', '-i', `testsrc2=size=${size}:rate=${rate}:duration=${seconds}`],
    ...['-f', 'lavfi', '-i', `sine=frequency=330:duration=${seconds}`],
  ];
}

function hls(dir, name, seconds, more = []) {
  return [
    ...['-f', 'hls', '-hls_time', String(seconds), '-hls_list_size', '0'],
    ...['-hls_playlist_type', 'vod', ...more],
    ...['-hls_segment_filename', join(dir, `${name}-%03d${more.length ? '.m4s' : '.ts'}`)],
    join(dir, `${name}.m3u8`),
  ];
}

async function encode(root, id, name, input, codec, segment, more = []) {
  const dir = join(root, id);
  await mkdir(dir, { recursive: true });
  const fixed = ['-hide_banner', '-loglevel', 'error', '-nostdin', '-y'];
  const keys = ['-force_key_frames', `expr:gte(t,n_forced*${segment})`];
  const args = [...fixed, ...input, ...keys, ...codec, ...hls(dir, name, segment, more)];
  await run('ffmpeg', args);
}

/** A film with two renditions and the master playlist that names them. */
async function film(root) {
  for (const [name, size] of [
    ['low', '320x180'],
    ['high', '640x360'],
  ]) {
    await encode(root, 'film', name, source(size, 25, 24), [...H264, ...AAC], 2);
  }
  const codecs = 'CODECS="avc1.4d401e,mp4a.40.2"';
  const rows = [
    '#EXTM3U',
    '#EXT-X-VERSION:3',
    `#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=640x360,${codecs}`,
    'high.m3u8',
    `#EXT-X-STREAM-INF:BANDWIDTH=400000,RESOLUTION=320x180,${codecs}`,
    'low.m3u8',
    '',
  ];
  await writeFile(join(root, 'film', 'index.m3u8'), rows.join('\n'));
}

/** A content of which segments 3 and 4 are not here. */
async function gappy(root) {
  await encode(root, 'gappy', 'index', source('320x180', 25, 24), [...H264, ...AAC], 2);
  const path = join(root, 'gappy', 'index.m3u8');
  const text = await readFile(path, 'utf8');
  const marked = text
    .replace('#EXT-X-VERSION:3', '#EXT-X-VERSION:8')
    .replace(/(#EXTINF:[^\n]*\n)(index-00[34]\.ts)/g, '#EXT-X-GAP\n$1$2');
  await writeFile(path, marked);
}

/** Makes all test contents; returns the ids. */
export async function makeMedia(root) {
  const fmp4 = ['-hls_segment_type', 'fmp4', '-hls_fmp4_init_filename', 'init-0.mp4'];
  const hevc = ['-c:v', 'libx265', '-preset', 'ultrafast', '-tag:v', 'hvc1', '-x265-params'];
  await film(root);
  await gappy(root);
  await encode(root, 'live', 'index', source('320x180', 25, 60), [...H264, ...AAC], 1);
  await encode(root, 'song', 'index', source('320x180', 25, 12), ['-map', '1:a', ...AAC], 2);
  const loud = [...hevc, 'log-level=none', '-pix_fmt', 'yuv420p', '-an'];
  await encode(root, 'hevc', 'index', source('320x180', 25, 4), loud, 2, fmp4);
  return readdir(root);
}

/** The live playlist `seconds` after the start: a sliding window over the segments, round and round. */
export function liveWindow(text, seconds, count = 8) {
  const pairs = [...text.matchAll(/(#EXTINF:[^\n]*\n[^\n]+)\n/g)].map((m) => m[1]);
  const first = Math.floor(seconds);
  const laps = (n) => Math.floor(n / pairs.length);
  const rows = Array.from({ length: count }, (_, i) => {
    const row = pairs[(first + i) % pairs.length];
    // Timestamps begin again with each lap.
    return i > 0 && (first + i) % pairs.length === 0 ? `#EXT-X-DISCONTINUITY\n${row}` : row;
  });
  return [
    ...['#EXTM3U', '#EXT-X-VERSION:3', '#EXT-X-TARGETDURATION:1'],
    `#EXT-X-MEDIA-SEQUENCE:${first}`,
    `#EXT-X-DISCONTINUITY-SEQUENCE:${laps(first)}`,
    ...rows,
    '',
  ].join('\n');
}

/** A playlist of a content that still grows: what is there after `seconds`, from the beginning. */
export function growing(text, seconds) {
  const pairs = [...text.matchAll(/(#EXTINF:[^\n]*\n[^\n]+)\n/g)].map((m) => m[1]);
  const head = ['#EXTM3U', '#EXT-X-VERSION:3', '#EXT-X-TARGETDURATION:1'];
  const rows = pairs.slice(0, 20 + Math.floor(seconds));
  return [...head, '#EXT-X-PLAYLIST-TYPE:EVENT', '#EXT-X-MEDIA-SEQUENCE:0', ...rows, ''].join('\n');
}
