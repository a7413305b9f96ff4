/**
 * One film of 75 MB in cosmosd 0.2.0 and in lavant: disk, memory, CPU, and what a player gets.
 *
 *   node benches/cosmosd.mjs
 *
 * cosmosd is built from the crate registry once, into target/peers. It listens on all addresses
 * for its relay, so both run in a network namespace of their own; that needs root. Its API takes
 * bodies of 2 MB at most, so the film has 1.1 Mbit/s.
 */
import { existsSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { answers, cpu, diskUse, folder, lavant, node, peakMemory, root, run, start, table, timed } from './common.mjs';

const inside = process.env.BENCH_NAMESPACE;
if (!inside) {
  const again = `ip link set lo up && BENCH_NAMESPACE=1 exec node ${join(root, 'benches/cosmosd.mjs')}`;
  build();
  run('unshare', ['--net', 'sh', '-c', again], { stdio: 'inherit' });
  process.exit(0);
}

/** Builds cosmosd where it is missing. */
function build() {
  if (existsSync(join(root, 'target/peers/cosmosd/bin/cosmosd'))) return;
  const to = ['--root', join(root, 'target/peers/cosmosd')];
  run('cargo', ['install', 'cosmosd', '--version', '0.2.0', ...to], { stdio: 'inherit' });
}

function film() {
  const path = join(root, 'target/bench/film-75.mp4');
  if (existsSync(path)) return path;
  const clip = join(folder, 'clip.mp4');
  run('ffmpeg', [
    '-v', 'error', '-nostdin', '-f', 'lavfi', '-i', 'testsrc2=size=640x360:rate=25:duration=30',
    '-f', 'lavfi', '-i', 'sine=frequency=440:duration=30', '-c:v', 'libx264', '-preset', 'veryfast',
    '-b:v', '1000k', '-maxrate', '1000k', '-bufsize', '500k', '-g', '50', '-pix_fmt', 'yuv420p',
    '-c:a', 'aac', '-b:a', '64k', clip,
  ]);
  const loops = Math.max(0, Math.round(75e6 / statSync(clip).size) - 1);
  const part = join(folder, 'film.mp4');
  run('ffmpeg', ['-v', 'error', '-nostdin', '-stream_loop', String(loops), '-i', clip, '-c', 'copy', part]);
  renameSync(part, path);
  return path;
}

/** The seconds that a player sees in a playlist, and whether it ends. */
async function playlist(url) {
  const text = await (await fetch(url)).text();
  const durations = [...text.matchAll(/#EXTINF:([\d.]+)/g)].map((match) => Number(match[1]));
  return durations.reduce((sum, duration) => sum + duration, 0);
}

/** What ffmpeg says of playing it. */
function played(url) {
  try {
    run('timeout', ['120', 'ffmpeg', '-v', 'error', '-xerror', '-i', url, '-c', 'copy', '-f', 'null', '-'], { stdio: 'pipe' });
    return 'yes';
  } catch (error) {
    return `no: ${String(error.stderr).trim().split('\n').at(-1).slice(0, 60)}`;
  }
}

async function byCosmosd(input) {
  const program = join(root, 'target/peers/cosmosd/bin/cosmosd');
  const store = join(folder, 'cosmosd');
  const flags = ['--port', '17900', '--relay-port', '17901', '--no-discovery', '--store', store];
  const child = start(program, ['serve', ...flags], { env: { ...process.env, RUST_LOG: 'error' } });
  const url = 'http://127.0.0.1:17900';
  await answers(`${url}/health`);
  const wall = timed(program, ['ingest', input, '--title', 'film', '--daemon', url]);
  const [entry] = await (await fetch(`${url}/catalog`)).json();
  const seconds = await playlist(`${url}/play/${entry.content_id}`);
  const plays = played(`${url}/play/${entry.content_id}`);
  return { wall, cpu: cpu([child.pid]), memory: peakMemory(child.pid), disk: diskUse(store), seconds, plays };
}

async function byLavant(input) {
  const own = await node(17_910);
  const wall = timed(lavant, ['ingest', input, '--title', 'film', '--daemon', own.url, '--segment-seconds', '10']);
  const [entry] = await (await fetch(`${own.url}/catalog`)).json();
  const seconds = await playlist(`${own.url}${entry.play_url}`);
  const plays = played(`${own.url}${entry.play_url}`);
  return { wall, cpu: cpu(own.pids()), memory: peakMemory(own.child.pid), disk: diskUse(own.store), seconds, plays, payload: entry.bytes };
}

const input = film();
const length = Number(run('ffprobe', ['-v', 'error', '-show_entries', 'format=duration', '-of', 'csv=p=0', input]));
const theirs = await byCosmosd(input);
const ours = await byLavant(input);
const megabytes = (bytes) => (bytes / 1e6).toFixed(0);
const row = (name, of, ratio) => [name, of(theirs), of(ours), ratio ? (ratio(theirs) / ratio(ours)).toFixed(1) : ''];
console.log(`film of ${megabytes(statSync(input).size)} MB and ${length.toFixed(1)} s`);
table([
  ['', 'cosmosd 0.2.0', 'lavant', 'times less'],
  row('disk, MB', (r) => megabytes(r.disk), (r) => r.disk),
  row('peak memory, MB', (r) => megabytes(r.memory), (r) => r.memory),
  row('CPU of the node, s', (r) => (r.cpu / 1000).toFixed(2), (r) => r.cpu),
  row('ingest, s', (r) => (r.wall / 1000).toFixed(2), (r) => r.wall),
  row('length of the playlist, s', (r) => r.seconds.toFixed(1)),
  row('plays in ffmpeg', (r) => r.plays),
]);
console.log(`lavant's disk is ${(ours.disk / ours.payload).toFixed(4)} times the payload`);
process.exit(0);
