/**
 * What a store costs with many contents: an append, the start, the memory, the catalogue, a search,
 * the removal of a long film, the events of an open page.
 *
 *   node benches/scale.mjs      BENCH_CONTENTS=100,1000,10000,100000 BENCH_FILM=10000
 *
 * Goals: with 100,000 contents an append costs at most 1.2 times the CPU that it costs with 1,000;
 * the start takes a second and 150 MB at most, the beginning of the catalogue and a search 50 ms;
 * while a film of 10,000 segments is removed, no other write waits longer than 20 ms.
 */
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpu, folder, lavant, median, peakMemory, start, stop, table, timed } from './common.mjs';

const counts = (process.env.BENCH_CONTENTS ?? '100,1000,10000,100000').split(',').map(Number);
const filmSegments = Number(process.env.BENCH_FILM ?? 10_000);
/** Writers at a time while a store is filled: they share commits. */
const WRITERS = 64;
const APPENDS = 300;
const store = join(folder, 'scale');
const port = 17_900;
const url = `http://127.0.0.1:${port}`;

async function node() {
  const args = ['serve', '--store', store, '--port', port, '--no-discovery', '--json'];
  const own = ['--relay-port', port + 1, '--relay-bind', '127.0.0.1'];
  const began = process.hrtime.bigint();
  const env = { ...process.env, LAVANT_LOG: 'error', RUST_LOG: 'error' };
  const child = start(lavant, [...args, ...own].map(String), { env });
  await new Promise((ready) => child.stdout.once('data', ready));
  return { child, started: Number(process.hrtime.bigint() - began) / 1e6 };
}

async function post(id, sequence, title = id) {
  const query = new URLSearchParams({ content_id: id, content_title: title, sequence, duration: 2 });
  const answer = await fetch(`${url}/ingest?${query}`, {
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
async function appends(child, id) {
  const before = cpu([child.pid]);
  const took = [];
  for (let sequence = 0; sequence < APPENDS; sequence += 1) {
    const began = process.hrtime.bigint();
    await post(id, sequence);
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

const rows = [['contents', 'append CPU ms', 'wall', 'start ms', 'peak MB', 'catalog ms', 'search ms', 'events first kB', 'then kB', 'removal ms']];
const results = [];
let filled = 0;
for (const count of counts) {
  let { child } = await node();
  await each(filled, count, (no) => post(`c${no}`, 0, titleOf(no)));
  filled = count;
  const append = await appends(child, `grow-${count}`);
  const stream = await events(() => appends(child, `page-${count}`));
  const film = `film-${count}`;
  await each(0, filmSegments, (sequence) => post(film, sequence));
  const held = await removal(film);
  await stop(child);
  const again = await node();
  child = again.child;
  await sleep(1000);
  const memory = peakMemory(child.pid);
  const ask = (...flags) => median([1, 2, 3, 4, 5].map(() => timed(lavant, ['catalog', '--daemon', url, ...flags])));
  const catalog = ask('--newest', '--limit', '20');
  const search = ask('--search', `harbour ${count - 4}`, '--limit', '20');
  await stop(child);
  results.push({ count, append: append.cpu });
  const fixed = (value) => value.toFixed(value < 10 ? 2 : 0);
  rows.push([
    count,
    append.cpu.toFixed(3),
    append.wall.toFixed(2),
    fixed(again.started),
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
const [first, last] = [results.find((it) => it.count >= 1000) ?? results[0], results.at(-1)];
const ratio = last.append / first.append;
const exponent = Math.log(ratio) / Math.log(last.count / first.count);
console.log(
  `\nappend CPU: ${last.count} contents / ${first.count}: ${ratio.toFixed(2)} (goal 1.2), exponent ${exponent.toFixed(3)}`,
);
