/**
 * How long it takes to put a film in, beside ffmpeg writing the same HLS to disk.
 *
 *   node benches/ingest.mjs             BENCH_ROUNDS=3 BENCH_MB=1000
 *
 * A film of 1 GB is copied, not transcoded; the runs alternate. Both are timed twice: until they
 * say that they are done, and until the bytes are on the disk (ffmpeg's with a sync behind it;
 * lavant says that it is done only then). Goal: at most 1.3 times ffmpeg's time.
 */
import { existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  cpu, diskUse, folder, lavant, median, node, peakMemory, root, run, table, timed,
} from './common.mjs';

const rounds = Number(process.env.BENCH_ROUNDS ?? 3);
const megabytes = Number(process.env.BENCH_MB ?? 1000);

/** A film of the wanted size: a noisy clip of 30 s, repeated without encoding it again. */
function film() {
  const path = process.env.BENCH_FILM ?? join(root, `target/bench/film-${megabytes}.mp4`);
  if (existsSync(path)) return path;
  const clip = join(folder, 'clip.mp4');
  const source = 'testsrc2=size=1280x720:rate=25:duration=30,noise=alls=40:allf=t';
  run('ffmpeg', [
    '-v', 'error', '-nostdin', '-f', 'lavfi', '-i', source, '-f', 'lavfi', '-i',
    'sine=frequency=440:duration=30', '-c:v', 'libx264', '-preset', 'ultrafast', '-b:v', '8M',
    '-maxrate', '8M', '-bufsize', '8M', '-pix_fmt', 'yuv420p', '-g', '50', '-c:a', 'aac', clip,
  ]);
  const loops = Math.max(0, Math.ceil((megabytes * 1e6) / statSync(clip).size) - 1);
  const part = join(folder, 'film.mp4');
  run('ffmpeg', ['-v', 'error', '-nostdin', '-stream_loop', String(loops), '-i', clip, '-c', 'copy', part]);
  renameSync(part, path);
  return path;
}

function byFfmpeg(input) {
  const out = join(folder, 'hls');
  mkdirSync(out);
  run('sync', []);
  const written = timed('ffmpeg', [
    '-v', 'error', '-nostdin', '-i', input, '-c', 'copy', '-f', 'hls', '-hls_time', '6',
    '-hls_list_size', '0', '-hls_segment_filename', join(out, '%05d.ts'), join(out, 'index.m3u8'),
  ]);
  const synced = written + timed('sync', ['-f', out]);
  rmSync(out, { recursive: true });
  return { written, synced };
}

async function byLavant(input, round) {
  const own = await node(17_780 + round);
  run('sync', []);
  const before = cpu(own.pids());
  const wall = timed(lavant, ['ingest', input, '--title', 'Film', '--daemon', own.url]);
  const result = {
    wall,
    nodeCpu: cpu(own.pids()) - before,
    memory: peakMemory(own.child.pid),
    disk: diskUse(own.store),
  };
  const [entry] = await (await fetch(`${own.url}/catalog`)).json();
  result.payload = entry.bytes;
  own.child.kill('SIGTERM');
  rmSync(own.store, { recursive: true });
  return result;
}

const input = film();
console.log(`film of ${(statSync(input).size / 1e6).toFixed(0)} MB, ${rounds} rounds`);
const theirs = [];
const ours = [];
for (let round = 0; round < rounds; round += 1) {
  theirs.push(byFfmpeg(input));
  ours.push(await byLavant(input, round));
}
const of = (runs, key) => median(runs.map((result) => result[key]));
const wall = of(ours, 'wall');
const [written, synced] = [of(theirs, 'written'), of(theirs, 'synced')];
table([
  ['', 'seconds', 'lavant / it'],
  ['ffmpeg -f hls, into the page cache', (written / 1000).toFixed(2), (wall / written).toFixed(2)],
  ['ffmpeg -f hls, on the disk', (synced / 1000).toFixed(2), (wall / synced).toFixed(2)],
  ['lavant ingest, published and durable', (wall / 1000).toFixed(2), ''],
]);
console.log(`node: ${(of(ours, 'nodeCpu') / 1000).toFixed(2)} s CPU, peak memory ${(of(ours, 'memory') / 1e6).toFixed(0)} MB`);
console.log(`disk: ${(of(ours, 'disk') / of(ours, 'payload')).toFixed(4)} times the payload`);
process.exit(0);
