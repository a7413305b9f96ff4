/**
 * What it costs to serve playlists and segments, beside nginx with the same bytes.
 *
 *   node benches/serving.mjs            BENCH_ROUNDS=5 BENCH_SECONDS=3
 *
 * Server and load have a core each (the first and the second), and one server is alive at a time.
 * What counts is the time of both cores together, from /proc/stat. The time of the server's process
 * alone says little: on loopback the kernel sends what is queued when acknowledgements come in, and
 * charges that to whoever runs then, often the reader. How much of it depends on how the two take
 * turns: the same server cost between 0.11 and 0.33 ms/MB of its own. Median and spread of all
 * rounds are shown, the ratio is that of both cores, round by round.
 * Goals: playlists cheaper than nginx, segments at parity.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  answers, childrenOf, cpu, folder, median, node, run, start, stop, table,
} from './common.mjs';

const rounds = Number(process.env.BENCH_ROUNDS ?? 5);
const seconds = Number(process.env.BENCH_SECONDS ?? 3);
const segmentBytes = 2_000_000;
const nginxPort = 17_778;
const ownPort = 17_777;
/** Prefixes of commands: the server's core, and the core of the load. */
const [serverCore, loadCore] = ['0', '1'].map((core) => ['taskset', '-c', core]);

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

function prepareNginx(playlist, segment) {
  const www = join(folder, 'www');
  mkdirSync(www);
  writeFileSync(join(www, 'index.m3u8'), playlist);
  writeFileSync(join(www, '0.ts'), segment);
  chmodSync(folder, 0o755);
  const configuration = `
    user root; pid ${folder}/nginx.pid; error_log ${folder}/nginx.log; daemon off; worker_processes 1;
    events { worker_connections 1024; }
    http {
      access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
      open_file_cache max=100; types { video/mp2t ts; application/vnd.apple.mpegurl m3u8; }
      client_body_temp_path ${folder}/b; proxy_temp_path ${folder}/p;
      fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
      server { listen 127.0.0.1:${nginxPort}; root ${www}; }
    }`;
  writeFileSync(join(folder, 'nginx.conf'), configuration);
}

/** Both servers, by how they are started on their core. */
const servers = {
  async nginx() {
    const log = ['-e', join(folder, 'nginx.log')];
    const [pin, ...core] = serverCore;
    const child = start(pin, [...core, 'nginx', ...log, '-c', join(folder, 'nginx.conf')]);
    const url = `http://127.0.0.1:${nginxPort}`;
    await answers(`${url}/index.m3u8`);
    return { child, url, pids: () => [child.pid, ...childrenOf(child.pid)] };
  },
  lavant: () => node(ownPort, ['--hot-memory', '64MiB', '--no-relay'], serverCore),
};

/** Milliseconds that the two cores were busy since the machine started. */
function busy() {
  const lines = readFileSync('/proc/stat', 'utf8').match(/^cpu[01] .*$/gm);
  const fields = lines.map((line) => line.split(' ').slice(1).map(Number));
  // Idle and waiting for input are the fourth and the fifth; guests are counted among the first.
  const ticks = fields.flatMap((all) => all.filter((_, at) => at < 8 && at !== 3 && at !== 4));
  return ticks.reduce((sum, value) => sum + value, 0) * 10;
}

/** One round: CPU time for each request and each MB, after a moment of warming up. */
function ask(server, path) {
  const [pin, ...core] = loadCore;
  const load = (time) => run(pin, [...core, 'wrk', '-t1', '-c64', `-d${time}s`, server.url + path]);
  load(1);
  const before = [busy(), cpu(server.pids())];
  const text = load(seconds);
  const used = busy() - before[0];
  const own = cpu(server.pids()) - before[1];
  const [, requests, amount, unit] = text.match(/(\d+) requests in [^,]+, ([\d.]+)([KMGT]?B)/);
  const scale = { B: 1e-6, KB: 1.024e-3, MB: 1.048576, GB: 1073.741824, TB: 1099511.627776 };
  const errors = text.match(/Non-2xx.*|Socket errors.*/);
  if (errors && !/read 0, write 0, timeout 0/.test(errors[0])) console.error(errors[0]);
  const megabytes = Number(amount) * scale[unit];
  const amounts = { request: Number(requests) / 1000, megabyte: megabytes };
  const each = (time) => Object.fromEntries(
    Object.entries(amounts).map(([unit, count]) => [unit, time / count]),
  );
  return { both: each(used), own: each(own), rate: requests / seconds };
}

const filled = await servers.lavant();
const segment = randomBytes(segmentBytes);
for (let sequence = 0; sequence < 12; sequence += 1) {
  const bytes = sequence === 0 ? segment : randomBytes(188_000);
  await send(filled.url, 'live', 'live', sequence, bytes);
  await send(filled.url, 'film', 'vod', sequence, bytes);
}
const playlist = await (await fetch(`${filled.url}/play/live/index.m3u8`)).text();
await stop(filled.child);
prepareNginx(playlist, segment);
const cases = [
  ['playlist', '/index.m3u8', '/play/live/index.m3u8', 'request'],
  ['live segment', '/0.ts', '/segment/live/1/main/0.ts', 'megabyte'],
  ['film segment', '/0.ts', '/segment/film/1/main/0.ts', 'megabyte'],
];
console.log(`playlist of ${playlist.length} B, segment of ${segmentBytes} B, ${rounds} rounds of ${seconds} s`);
const results = cases.map(() => ({ nginx: [], lavant: [] }));
for (let round = 0; round < rounds; round += 1) {
  for (const name of Object.keys(servers)) {
    const server = await servers[name]();
    cases.forEach(([, theirs, ours], at) => {
      results[at][name].push(ask(server, name === 'nginx' ? theirs : ours));
    });
    await stop(server.child);
  }
}
const rows = [['', 'unit', 'whose', 'nginx', 'lavant', 'ratio', 'nginx req/s', 'lavant req/s']];
cases.forEach(([name, , , unit], at) => {
  const rate = (who) => Math.round(median(results[at][who].map((result) => result.rate)));
  const label = unit === 'request' ? 'CPU us/req' : 'CPU ms/MB';
  for (const [whose, key] of [['server alone', 'own'], ['both cores', 'both']]) {
    const all = (who) => results[at][who].map((result) => result[key][unit]);
    const shown = (values, digits) => {
      const [least, most] = [Math.min(...values), Math.max(...values)];
      return [median(values), least, most].map((value) => value.toFixed(digits));
    };
    const spread = ([middle, least, most]) => `${middle} (${least}-${most})`;
    const ratios = all('lavant').map((own, round) => own / all('nginx')[round]);
    const columns = [shown(all('nginx'), 3), shown(all('lavant'), 3), shown(ratios, 2)];
    rows.push([name, label, whose, ...columns.map(spread), rate('nginx'), rate('lavant')]);
  }
});
table(rows);
process.exit(0);
