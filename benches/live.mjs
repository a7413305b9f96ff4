/**
 * A live stream of 2.5 Mb/s in lavant and in nginx-rtmp, side by side in one run: how soon it can be
 * watched, what a publisher and what a viewer cost, and memory.
 *
 *   node benches/live.mjs        needs ffmpeg, nginx and libnginx-mod-rtmp
 *
 * BENCH_VIEWERS (200), BENCH_SECONDS (20). A viewer of lavant is one of low-latency HLS: it waits for
 * each part in a blocking reload and fetches it. A viewer of nginx reads RTMP, which is the cheapest
 * that it offers.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { childrenOf, cpu, folder, node, peakMemory, run, start, table } from './common.mjs';

const viewers = Number(process.env.BENCH_VIEWERS ?? 200);
const seconds = Number(process.env.BENCH_SECONDS ?? 20);
const film = join(folder, 'film.flv');
const ports = { lavant: 7930, rtmp: 7931, nginx: 7932 };

const source = ['-f', 'lavfi', '-i', 'testsrc2=size=1280x720:rate=30'];
const sound = ['-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000'];
const picture = ['-c:v', 'libx264', '-preset', 'ultrafast', '-g', '60', '-pix_fmt', 'yuv420p'];
const rate = ['-b:v', '2.4M', '-minrate', '2.4M', '-maxrate', '2.4M', '-bufsize', '1M'];
const length = String(4 * seconds + 60);
const encode = [...source, ...sound, ...picture, ...rate, '-c:a', 'aac', '-b:a', '96k'];
run('ffmpeg', ['-v', 'error', ...encode, '-t', length, '-f', 'flv', film]);

/** Starts a publisher as an encoder would be one. */
function publish(url) {
  return start('ffmpeg', ['-v', 'error', '-re', '-i', film, '-c', 'copy', '-f', 'flv', url]);
}

/** nginx with RTMP and HLS; one worker, whose folder nobody else needs to read. */
async function nginx() {
  const hls = join(folder, 'hls');
  mkdirSync(hls, { recursive: true });
  const file = join(folder, 'nginx.conf');
  writeFileSync(
    file,
    `user root; daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log ${folder}/error.log;
     load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
     events {}
     rtmp { server { listen 127.0.0.1:${ports.nginx}; application live {
       live on; hls on; hls_path ${hls}; hls_fragment 2s; hls_playlist_length 120s; } } }`,
  );
  const child = start('nginx', ['-c', file]);
  await sleep(500);
  return { child, hls, pids: () => childrenOf(child.pid) };
}

/** The time in milliseconds until `ready` says that there is something to watch. */
async function playable(begun, ready) {
  while (!(await ready())) await sleep(20);
  return performance.now() - begun;
}

/** CPU of processes in milliseconds a second, over the time of the run. */
async function load(pids) {
  const [before, begun] = [cpu(pids()), performance.now()];
  await sleep(seconds * 1000);
  return ((cpu(pids()) - before) / (performance.now() - begun)) * 1000;
}

const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
let over = false;

/** One GET over a connection that is kept. */
function get(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent }, (response) => {
      const pieces = [];
      response.on('data', (piece) => pieces.push(piece));
      response.on('end', () => resolve({ status: response.statusCode, body: Buffer.concat(pieces) }));
    });
    request.on('error', reject);
  });
}

/** A viewer of low latency; gives the parts that it got. */
async function watch(base) {
  let parts = 0;
  let next = '_HLS_msn=0&_HLS_part=0';
  while (!over) {
    const list = (await get(`${base}/play/cam/index.m3u8?${next}&_HLS_skip=YES`)).body.toString();
    const hint = list.match(/PRELOAD-HINT:TYPE=PART,URI="([^"]*\/(\d+)\.(\d+)\.m4s)"/);
    if (!hint) {
      await sleep(300);
      continue;
    }
    const newest = [...list.matchAll(/EXT-X-PART:[^\n]*URI="([^"]*)"/g)].at(-1);
    if (newest) {
      await get(`${base}${newest[1]}`);
      parts += 1;
    }
    next = `_HLS_msn=${hint[2]}&_HLS_part=${hint[3]}`;
  }
  return parts;
}

/** AMF0: a string, a number, and an object of strings. */
const text = (value) => Buffer.concat([Buffer.from([2, 0, value.length]), Buffer.from(value)]);
const number = (value) => {
  const bytes = Buffer.alloc(9);
  bytes.writeDoubleBE(value, 1);
  return bytes;
};
const object = (pairs) =>
  Buffer.concat([
    Buffer.from([3]),
    ...pairs.flatMap(([name, value]) => [text(name).subarray(1), text(value)]),
    Buffer.from([0, 0, 9]),
  ]);

/** A command on a message stream, in one chunk of 128 bytes at most each. */
function command(stream, ...values) {
  const body = Buffer.concat(values);
  const head = Buffer.from([3, 0, 0, 0, 0, body.length >> 8, body.length & 255, 20, stream, 0, 0, 0]);
  const chunks = [head, body.subarray(0, 128)];
  for (let at = 128; at < body.length; at += 128) {
    chunks.push(Buffer.from([0xc3]), body.subarray(at, at + 128));
  }
  return Buffer.concat(chunks);
}

/** A reader of RTMP that throws away what comes; gives the bytes. */
function read(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    let bytes = 0;
    const url = `rtmp://127.0.0.1:${port}/live`;
    socket.write(Buffer.concat([Buffer.from([3]), Buffer.alloc(1536)]));
    socket.on('data', (data) => {
      const before = bytes;
      bytes += data.length;
      if (before < 3073 && bytes >= 3073) {
        socket.write(Buffer.alloc(1536));
        const connect = object([
          ['app', 'live'],
          ['tcUrl', url],
        ]);
        socket.write(command(0, text('connect'), number(1), connect));
        socket.write(command(0, text('createStream'), number(2), Buffer.from([5])));
        socket.write(command(1, text('play'), number(3), Buffer.from([5]), text('cam')));
      }
      if (over) socket.destroy();
    });
    socket.on('close', () => resolve(bytes));
  });
}

/** All figures of one server. */
async function measure(server, publisher, ready, viewer) {
  const begun = performance.now();
  publisher();
  const first = await playable(begun, ready);
  await sleep(5000);
  const alone = await load(server.pids);
  over = false;
  const watching = Array.from({ length: viewers }, viewer);
  await sleep(5000);
  const watched = await load(server.pids);
  over = true;
  const got = await Promise.all(watching);
  const memory = Math.max(...server.pids().map(peakMemory));
  const least = Math.min(...got);
  return { first, alone, each: (watched - alone) / viewers, memory, least };
}

const ours = await node(ports.lavant, ['--no-relay', '--rtmp', String(ports.rtmp)]);
const key = JSON.parse((await postKey()).toString());
async function postKey() {
  const response = await fetch(`${ours.url}/api/v1/live/cam/key`, { method: 'POST' });
  return Buffer.from(await response.arrayBuffer());
}
const path = `${ours.url}/play/cam/index.m3u8?_HLS_msn=0&_HLS_part=0`;
const lavant = await measure(
  ours,
  () => publish(`${key.rtmp}/${key.key}`),
  async () => (await get(path)).status === 200,
  () => watch(ours.url),
);
ours.child.kill('SIGTERM');

const theirs = await nginx();
const list = join(theirs.hls, 'cam.m3u8');
const peer = await measure(
  theirs,
  () => publish(`rtmp://127.0.0.1:${ports.nginx}/live/cam`),
  async () => {
    try {
      return readFileSync(list, 'utf8').includes('#EXTINF');
    } catch {
      return false;
    }
  },
  () => read(ports.nginx),
);

const ratio = (name) => (lavant[name] / peer[name]).toFixed(2);
table([
  [`2.5 Mb/s, ${viewers} viewers`, 'lavant', 'nginx-rtmp', 'ratio'],
  ['publish to playable, ms', lavant.first.toFixed(0), peer.first.toFixed(0), ratio('first')],
  ['publisher, CPU ms/s', lavant.alone.toFixed(2), peer.alone.toFixed(2), ratio('alone')],
  ['viewer, CPU ms/s', lavant.each.toFixed(3), peer.each.toFixed(3), ratio('each')],
  ['peak memory, MB', ...[lavant, peer].map((it) => (it.memory / 1e6).toFixed(1)), ratio('memory')],
  ['least that a viewer got', `${lavant.least} parts`, `${(peer.least / 1e6).toFixed(1)} MB`, ''],
]);
process.exit(0);
