/**
 * What a store costs with many contents: an append, the start, also after `kill -9`, the memory, the
 * catalogue, a search, the removal of a long film, the events of an open page.
 *
 *   node benches/scale.mjs      BENCH_CONTENTS=100,1000,10000,100000 BENCH_FILM=10000
 *
 * Goals: with 100,000 contents an append costs at most 1.2 times the CPU that it costs with 1,000
 * (measured at the end, in turns, on the last store and on a copy of the first one that has as many);
 * the start takes a second and 150 MB at most, the beginning of the catalogue and a search 50 ms;
 * while a film of 10,000 segments is removed, no other write waits longer than 20 ms.
 */
import { cpSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpu, folder, lavant, median, peakMemory, start, stop, table, timed } from './common.mjs';

const counts = (process.env.BENCH_CONTENTS ?? '100,1000,10000,100000').split(',').map(Number);
const filmSegments = Number(process.env.BENCH_FILM ?? 10_000);
/** Writers at a time while a store is filled: they share commits. */
const WRITERS = 64;
const APPENDS = 300;
/** How many times two stores append in turns. */
const TURNS = 7;
const store = join(folder, 'scale');
/** A copy of the first store that has a thousand contents or more. */
const smallStore = join(folder, 'scale-small');
const [port, smallPort] = [17_900, 17_910];
const url = `http://127.0.0.1:${port}`;

async function node(store, port) {
  const args = ['serve', '--store', store, '--port', port, '--no-discovery', '--json'];
  const own = ['--relay-port', port + 1, '--relay-bind', '127.0.0.1'];
  const began = process.hrtime.bigint();
  const env = { ...process.env, LAVANT_LOG: 'error', RUST_LOG: 'error' };
  const child = start(lavant, [...args, ...own].map(String), { env });
  await new Promise((ready) => child.stdout.once('data', ready));
  return { child, started: Number(process.hrtime.bigint() - began) / 1e6 };
}

async function post(id, sequence, title = id, to = url) {
  const query = new URLSearchParams({ content_id: id, content_title: title, sequence, duration: 2 });
  const answer = await fetch(`${to}/ingest?${query}`, {
    method: 'POST',
    headers: { 'content-type': 'video/mp2t' },
    body: `${id} ${sequence}`,
  });
  if (!answer.ok) throw new Error(`${id}: ${await answer.text()}`);
}

/** Does `work` for each number, some at a time. */
async function each(from, to, work) {
  let next = from;
  const one = async () => {
    while (next < to) {
      const number = next;
      next += 1;
      await work(number);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, one));
}

const words = ['harbour', 'tide', 'ferry', 'market', 'school', 'weather', 'storm', 'village'];
const titleOf = (no) => `The ${words[no % 8]} ${words[(no >> 3) % 8]} ${no}`;

/** CPU and wall time of an append, in milliseconds, one after another. */
async function appends(child, id, to = url) {
  const before = cpu([child.pid]);
  const took = [];
  for (let sequence = 0; sequence < APPENDS; sequence += 1) {
    const began = process.hrtime.bigint();
    await post(id, sequence, id, to);
    took.push(Number(process.hrtime.bigint() - began) / 1e6);
  }
  return { cpu: (cpu([child.pid]) - before) / APPENDS, wall: median(took) };
}

/** Bytes of events that an open page gets while `work` is done. */
async function events(work) {
  let bytes = 0;
  let first;
  const open = request(`${url}/events`, (answer) => answer.on('data', (data) => (bytes += data.length)));
  open.on('error', () => {});
  open.end();
  while (bytes === 0) await sleep(20);
  await sleep(1500);
  first = bytes;
  await work();
  await sleep(1500);
  open.destroy();
  return { first, after: bytes - first };
}

/** The longest that another write waits while a film is removed. */
async function removal(film) {
  let removing = true;
  const gone = fetch(`${url}/content/${film}`, { method: 'DELETE' }).then(() => (removing = false));
  let longest = 0;
  for (let sequence = 0; removing; sequence += 1) {
    const began = process.hrtime.bigint();
    await post(`beside-${film}`, sequence);
    longest = Math.max(longest, Number(process.hrtime.bigint() - began) / 1e6);
  }
  await gone;
  return longest;
}

/** The CPU time of an append to the last store, and to the small one, in turns. */
async function inTurns() {
  const large = await node(store, port);
  const small = await node(smallStore, smallPort);
  const smallUrl = `http://127.0.0.1:${smallPort}`;
  // What a start does for its contents in the background is no part of an append.
  await sleep(5000);
  const costs = { large: [], small: [], ratio: [] };
  for (let turn = 0; turn < TURNS; turn += 1) {
    const of = {
      small: (await appends(small.child, `turn-${turn}`, smallUrl)).cpu,
      large: (await appends(large.child, `turn-${turn}`)).cpu,
    };
    of.ratio = of.large / of.small;
    for (const name of Object.keys(costs)) costs[name].push(of[name]);
  }
  await stop(small.child);
  await stop(large.child);
  return Object.fromEntries(Object.entries(costs).map(([name, all]) => [name, median(all)]));
}

const rows = [['contents', 'append CPU ms', 'wall', 'start ms', 'after kill -9', 'peak MB', 'catalog ms', 'search ms', 'events first kB', 'then kB', 'removal ms']];
let filled = 0;
let smallCount;
for (const count of counts) {
  let { child } = await node(store, port);
  await each(filled, count, (no) => post(`c${no}`, 0, titleOf(no)));
  filled = count;
  const append = await appends(child, `grow-${count}`);
  const stream = await events(() => appends(child, `page-${count}`));
  const film = `film-${count}`;
  await each(0, filmSegments, (sequence) => post(film, sequence));
  const held = await removal(film);
  await stop(child);
  const again = await node(store, port);
  await post(`killed-${count}`, 0);
  const ended = new Promise((end) => again.child.once('exit', end));
  again.child.kill('SIGKILL');
  await ended;
  const killed = await node(store, port);
  child = killed.child;
  await sleep(1000);
  const memory = peakMemory(child.pid);
  const ask = (...flags) => median([1, 2, 3, 4, 5].map(() => timed(lavant, ['catalog', '--daemon', url, ...flags])));
  const catalog = ask('--newest', '--limit', '20');
  const search = ask('--search', `harbour ${count - 4}`, '--limit', '20');
  await stop(child);
  if (count >= 1000 && !smallCount) {
    cpSync(store, smallStore, { recursive: true });
    smallCount = count;
  }
  const fixed = (value) => value.toFixed(value < 10 ? 2 : 0);
  rows.push([
    count,
    append.cpu.toFixed(3),
    append.wall.toFixed(2),
    fixed(again.started),
    fixed(killed.started),
    fixed(memory / 1e6),
    fixed(catalog),
    fixed(search),
    fixed(stream.first / 1e3),
    fixed(stream.after / 1e3),
    fixed(held),
  ]);
  console.log(rows.at(-1).join('  '));
}
console.log();
table(rows);
if (smallCount < filled) {
  const { large, small, ratio } = await inTurns();
  const exponent = Math.log(ratio) / Math.log(filled / smallCount);
  console.log(
    `\nappend CPU in turns: ${large.toFixed(3)} ms with ${filled} contents, ${small.toFixed(3)} ms with ` +
      `${smallCount}: ${ratio.toFixed(2)} times as much (goal 1.2), exponent ${exponent.toFixed(3)}`,
  );
}
