/** The strict playlist check accepts what ffmpeg writes and refuses what RFC 8216 forbids. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('strict-playlist.mjs', import.meta.url));
let dir;

before(async () => (dir = await mkdtemp(join(tmpdir(), 'lavant-playlist-'))));
after(() => rm(dir, { recursive: true, force: true }));

async function verdict(name, rows) {
  const path = join(dir, name);
  await writeFile(path, ['#EXTM3U', '#EXT-X-VERSION:3', ...rows, ''].join('\n'));
  return new Promise((done) =>
    execFile(process.execPath, [SCRIPT, path], (error, stdout, stderr) =>
      done({ code: error?.code ?? 0, text: stdout + stderr }),
    ),
  );
}

test('a sound playlist passes', async () => {
  const rows = ['#EXT-X-TARGETDURATION:6', '#EXTINF:6.4,', '0.ts', '#EXTINF:2,', '1.ts'];
  const { code, text } = await verdict('good.m3u8', [...rows, '#EXT-X-ENDLIST']);
  assert.equal(code, 0, text);
  assert.match(text, /media, 2 segments/);
});

test('a segment above the target duration is refused', async () => {
  const { code, text } = await verdict('long.m3u8', [
    '#EXT-X-TARGETDURATION:6',
    '#EXTINF:7.6,',
    '0.ts',
  ]);
  assert.equal(code, 1);
  assert.match(text, /target duration/);
});

test('a playlist without a target duration is refused', async () => {
  const { code } = await verdict('none.m3u8', ['#EXTINF:2,', '0.ts']);
  assert.equal(code, 1);
});
