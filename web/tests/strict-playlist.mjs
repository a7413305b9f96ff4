/**
 * Reads playlists with hls-parser in strict mode, which refuses what RFC 8216 forbids.
 *
 *   node tests/strict-playlist.mjs FILE_OR_URL...
 *
 * A URL of a master playlist is followed to its variants and renditions. Exits 1 at the first refusal.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import HLS from 'hls-parser';

const TIMEOUT_MS = 15_000;

HLS.setOptions({ strictMode: true });

async function load(where) {
  if (!/^https?:/.test(where)) return readFile(where, 'utf8');
  const response = await fetch(where, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.text();
}

function children(playlist, where) {
  if (!playlist.isMasterPlaylist || !/^https?:/.test(where)) return [];
  const uris = playlist.variants.flatMap((variant) => [
    variant.uri,
    ...[...variant.audio, ...variant.subtitles].map((rendition) => rendition.uri),
  ]);
  return [...new Set(uris.filter(Boolean))].map((uri) => new URL(uri, where).href);
}

/** Checks a playlist and those it names; returns one line for each, throws at the first refusal. */
export async function check(where) {
  let playlist;
  try {
    playlist = HLS.parse(await load(where));
  } catch (error) {
    throw new Error(`${where}: ${error.message}`);
  }
  const size = playlist.isMasterPlaylist
    ? `master, ${playlist.variants.length} variants`
    : `media, ${playlist.segments.length} segments`;
  const lines = [`${where}: ok (${size})`];
  for (const child of children(playlist, where)) lines.push(...(await check(child)));
  return lines;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const places = process.argv.slice(2);
  if (places.length === 0) {
    console.error('usage: node tests/strict-playlist.mjs FILE_OR_URL...');
    process.exit(2);
  }
  try {
    for (const place of places) console.log((await check(place)).join('\n'));
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
