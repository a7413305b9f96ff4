/**
 * What it costs to serve playlists and segments, beside nginx with the same bytes.
 *
 *   node benches/serving.mjs            BENCH_ROUNDS=5 BENCH_SECONDS=3
 *
 * wrk asks both in turn; the CPU time of the servers is read from /proc. Goals: playlists cheaper
 * than nginx, hot segments (in memory) at most 2.5 times its CPU per MB, cold ones at parity.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { answers, childrenOf, cpu, folder, median, node, run, start, table } from './common.mjs';

const rounds = Number(process.env.BENCH_ROUNDS ?? 5);
const seconds = Number(process.env.BENCH_SECONDS ?? 3);
const segmentBytes = 2_000_000;
const nginxPort = 17_778;

/** Sends one segment in the way of cosmosd's clients, with a raw body. */
async function send(url, id, priority, sequence, bytes) {
  const query = new URLSearchParams({ content_id: id, priority, sequence, duration: 6 });
  const response = await fetch(`${url}/ingest?${query}`, {
    method: 'POST',
    headers: { 'content-type': 'video/mp2t' },
    body: bytes,
  });
  if (!response.ok) throw new Error(await response.text());
}

async function nginx(playlist, segment) {
  const www = join(folder, 'www');
  mkdirSync(www);
  writeFileSync(join(www, 'index.m3u8'), playlist);
  writeFileSync(join(www, '0.ts'), segment);
  chmodSync(folder, 0o755);
  const configuration = `
    pid ${folder}/nginx.pid; error_log ${folder}/nginx.log; daemon off; worker_processes 2;
    events { worker_connections 1024; }
    http {
      access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
      open_file_cache max=100; types { video/mp2t ts; application/vnd.apple.mpegurl m3u8; }
      client_body_temp_path ${folder}/b; proxy_temp_path ${folder}/p;
      fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
      server { listen 127.0.0.1:${nginxPort}; root ${www}; }
    }`;
  writeFileSync(join(folder, 'nginx.conf'), configuration);
  const log = ['-e', join(folder, 'nginx.log')];
  const child = start('nginx', [...log, '-c', join(folder, 'nginx.conf')]);
  const url = `http://127.0.0.1:${nginxPort}`;
  await answers(`${url}/index.m3u8`);
  return { url, pids: () => [child.pid, ...childrenOf(child.pid)] };
}

/** One round: CPU time for each request and each MB. */
function ask(server, path) {
  const before = cpu(server.pids());
  const text = run('wrk', ['-t2', '-c64', `-d${seconds}s`, server.url + path]);
  const used = cpu(server.pids()) - before;
  const [, requests, amount, unit] = text.match(/(\d+) requests in [^,]+, ([\d.]+)([KMGT]?B)/);
  const scale = { B: 1e-6, KB: 1.024e-3, MB: 1.048576, GB: 1073.741824, TB: 1099511.627776 };
  const errors = text.match(/Non-2xx.*|Socket errors.*/);
  if (errors && !/read 0, write 0, timeout 0/.test(errors[0])) console.error(errors[0]);
  const megabytes = Number(amount) * scale[unit];
  return { request: (used * 1000) / Number(requests), megabyte: used / megabytes, rate: requests / seconds };
}

const own = await node(17_777, ['--hot-memory', '64MiB']);
const segment = randomBytes(segmentBytes);
for (let sequence = 0; sequence < 12; sequence += 1) {
  const bytes = sequence === 0 ? segment : randomBytes(188_000);
  await send(own.url, 'live', 'live', sequence, bytes);
  await send(own.url, 'film', 'vod', sequence, bytes);
}
const playlist = await (await fetch(`${own.url}/play/live/index.m3u8`)).text();
const peer = await nginx(playlist, segment);
const cases = [
  ['playlist', peer, '/index.m3u8', own, '/play/live/index.m3u8', 'request'],
  ['hot segment', peer, '/0.ts', own, '/segment/live/1/main/0.ts', 'megabyte'],
  ['cold segment', peer, '/0.ts', own, '/segment/film/1/main/0.ts', 'megabyte'],
];
console.log(`playlist of ${playlist.length} B, segment of ${segmentBytes} B, ${rounds} rounds of ${seconds} s`);
const results = cases.map(() => ({ peer: [], own: [] }));
for (let round = 0; round < rounds; round += 1) {
  cases.forEach(([, peerServer, peerPath, server, path], at) => {
    results[at].peer.push(ask(peerServer, peerPath));
    results[at].own.push(ask(server, path));
  });
}
const rows = [['', 'unit', 'nginx', 'lavant', 'ratio', 'nginx req/s', 'lavant req/s']];
cases.forEach(([name, , , , , unit], at) => {
  const of = (who) => median(results[at][who].map((result) => result[unit]));
  const rate = (who) => Math.round(median(results[at][who].map((result) => result.rate)));
  const label = unit === 'request' ? 'CPU us/req' : 'CPU ms/MB';
  const [theirs, ours] = [of('peer'), of('own')];
  rows.push([
    name, label, theirs.toFixed(3), ours.toFixed(3), (ours / theirs).toFixed(2),
    rate('peer'), rate('own'),
  ]);
});
table(rows);
process.exit(0);
