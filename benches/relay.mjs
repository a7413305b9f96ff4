/**
 * What it takes to bring contents to a second node: beside cosmosd 0.2.0, beside a bare link, and
 * when there is nothing new.
 *
 *   node benches/relay.mjs [film] [bulk] [contact]      BENCH_MB=1000 BENCH_SEGMENTS=100000
 *
 * cosmosd and its film are those of benches/cosmosd.mjs, which builds them; it listens on all
 * addresses, so all of this runs in a network namespace of its own, which needs root. Goals: at
 * least 20 times faster than cosmosd with a fifth of its CPU time; at most 2.0 s of CPU for a GB
 * over TCP and 4.5 s over QUIC, both ends together; a contact of nodes with nothing new takes less
 * than 1 kB and 5 ms of CPU, the start of a node with 100,000 segments less than half a second.
 */
import { createServer, connect } from 'node:net';
import { closeSync, cpSync, existsSync, fdatasyncSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { answers, cpu, folder, lavant, peakMemory, root, run, start, table } from './common.mjs';

if (!process.env.BENCH_NAMESPACE) {
  const again = 'ip link set lo up && BENCH_NAMESPACE=1 exec node "$0" "$@"';
  const args = [join(root, 'benches/relay.mjs'), ...process.argv.slice(2)];
  run('unshare', ['--net', 'sh', '-c', again, ...args], { stdio: 'inherit' });
  process.exit(0);
}

const film = join(root, 'target/bench/film-75.mp4');
const cosmosd = join(root, 'target/peers/cosmosd/bin/cosmosd');
const megabytes = Number(process.env.BENCH_MB ?? 1000);
const segments = Number(process.env.BENCH_SEGMENTS ?? 100_000);
const wanted = process.argv.slice(2);
let port = 17_950;

/** Waits until something is true, ten minutes at most; the milliseconds it took. */
async function until(what, is, pause = 5) {
  const began = process.hrtime.bigint();
  const passed = () => Number(process.hrtime.bigint() - began) / 1e6;
  while (!(await is())) {
    if (passed() > 600_000) throw new Error(`${what}: not within ten minutes`);
    await sleep(pause);
  }
  return passed();
}

/** A node that meets others; the time until it is ready is kept. */
async function node(flags, store) {
  port += 2;
  const own = { url: `http://127.0.0.1:${port}`, relay: `127.0.0.1:${port + 1}` };
  own.store = store ?? join(folder, `relay-${port}`);
  const args = ['serve', '--store', own.store, '--port', port, '--relay-port', port + 1];
  const began = process.hrtime.bigint();
  const all = [...args, '--relay-bind', '127.0.0.1', '--no-discovery', '--json', ...flags];
  own.child = start(lavant, all.map(String), { env: { ...process.env, LAVANT_LOG: 'error', RUST_LOG: 'error' } });
  await new Promise((ready) => own.child.stdout.once('data', ready));
  own.started = Number(process.hrtime.bigint() - began) / 1e6;
  return own;
}

async function cosmos(flags) {
  port += 2;
  const own = { url: `http://127.0.0.1:${port}`, relay: `127.0.0.1:${port + 1}` };
  const args = ['serve', '--store', join(folder, `cosmosd-${port}`), '--port', port];
  const all = [...args, '--relay-port', port + 1, '--no-discovery', ...flags];
  own.child = start(cosmosd, all.map(String), { env: { ...process.env, RUST_LOG: 'error' } });
  await answers(`${own.url}/health`);
  return own;
}

const json = async (url) => (await fetch(url)).json();

async function end(...nodes) {
  for (const { child } of nodes) {
    const ended = new Promise((done) => child.once('exit', done));
    child.kill('SIGTERM');
    await Promise.race([ended, sleep(3000).then(() => child.kill('SIGKILL'))]);
  }
}

/** From the start of the second node until it has everything. */
async function carry(first, second, complete) {
  const before = cpu([first.child.pid]);
  const other = await second();
  const wall = (other.started ?? 0) + (await until('all of it', () => complete(other), 25));
  const result = {
    wall,
    first: cpu([first.child.pid]) - before,
    second: cpu([other.child.pid]),
    memory: [peakMemory(first.child.pid), peakMemory(other.child.pid)],
  };
  await end(other);
  return result;
}

const whole = (id) => async (other) => {
  const reply = await fetch(`${other.url}/content/${id}`);
  return reply.ok && (await reply.json()).complete;
};

async function filmByLavant(link) {
  const first = await node(['--link', link]);
  run(lavant, ['ingest', film, '--title', 'film', '--daemon', first.url], { stdio: 'ignore' });
  const result = await carry(
    first,
    () => node(['--link', link, '--peer', first.relay]),
    whole('film'),
  );
  await end(first);
  return result;
}

async function filmByCosmosd() {
  const first = await cosmos([]);
  run(cosmosd, ['ingest', film, '--title', 'film', '--daemon', first.url], { stdio: 'ignore' });
  const [entry] = await json(`${first.url}/catalog`);
  const lines = async ({ url }) => {
    const reply = await fetch(`${url}/play/${entry.content_id}`);
    return reply.ok ? [...(await reply.text()).matchAll(/^#EXTINF/gm)].length : 0;
  };
  const all = await lines(first);
  const result = await carry(
    first,
    () => cosmos(['--peer', first.relay]),
    async (other) => (await lines(other)) >= all,
  );
  await end(first);
  return result;
}

async function films() {
  if (!existsSync(film) || !existsSync(cosmosd)) throw new Error('run benches/cosmosd.mjs first');
  console.log(`\nfilm of ${(statSync(film).size / 1e6).toFixed(0)} MB, from the start of the second node on`);
  const theirs = await filmByCosmosd();
  const tcp = await filmByLavant('tcp');
  const quic = await filmByLavant('quic');
  const runs = [theirs, tcp, quic];
  const row = (name, of, unit) => [
    name,
    ...runs.map((result) => (of(result) / unit).toFixed(2)),
    ...runs.slice(1).map((result) => (of(theirs) / of(result)).toFixed(1)),
  ];
  table([
    ['', 'cosmosd', 'tcp', 'quic', 'times less, tcp', 'quic'],
    row('until all is there, s', (r) => r.wall, 1000),
    row('CPU of the first node, s', (r) => r.first, 1000),
    row('CPU of the second node, s', (r) => r.second, 1000),
    row('CPU of both, s', (r) => r.first + r.second, 1000),
    row('peak memory of the first, MB', (r) => r.memory[0], 1e6),
    row('peak memory of the second, MB', (r) => r.memory[1], 1e6),
  ]);
}

/** CPU seconds a GB of writing as many bytes to a file and flushing it: the least that storing them costs. */
function writing() {
  const path = join(folder, 'written');
  const piece = new Uint8Array(32 << 10).fill(7);
  const file = openSync(path, 'w');
  const before = process.cpuUsage();
  for (let at = 0; at < megabytes * 1e6; at += piece.length) writeSync(file, piece);
  fdatasyncSync(file);
  const { user, system } = process.cpuUsage(before);
  closeSync(file);
  rmSync(path);
  return (user + system) / 1e3 / megabytes;
}

async function bulk() {
  const length = 2_000_000;
  const count = Math.round((megabytes * 1e6) / length);
  const first = await node([]);
  const body = new Uint8Array(length);
  for (let at = 0; at < length; at += 4) new DataView(body.buffer).setUint32(at, Math.random() * 2 ** 32);
  for (let sequence = 0; sequence < count; sequence += 1) {
    new DataView(body.buffer).setUint32(0, sequence);
    const query = `content_id=bulk&priority=vod&duration=6&target_duration=6&sequence=${sequence}`;
    const headers = { 'content-type': 'video/mp2t' };
    const reply = await fetch(`${first.url}/ingest?${query}`, { method: 'POST', headers, body });
    if (!reply.ok) throw new Error(await reply.text());
  }
  await fetch(`${first.url}/ingest/bulk/finish`, { method: 'POST' });
  console.log(`\n${megabytes} MB in segments of 2 MB, store to store, verified`);
  const rows = [['', 'MB/s', 'CPU s/GB', 'first', 'second', 'peak MB', 'writing alone, CPU s/GB']];
  const written = [];
  for (const link of ['tcp', 'quic', 'tcp', 'quic', 'tcp', 'quic']) {
    run('sync', []);
    const least = writing();
    const result = await carry(
      first,
      () => node(['--link', link, '--peer', first.relay]),
      whole('bulk'),
    );
    // A file system looks for free inodes among those that were deleted lately: not now.
    written.push(join(folder, `relay-${port}`));
    const per = (ms) => (ms / megabytes).toFixed(2);
    rows.push([
      link,
      (megabytes / (result.wall / 1000)).toFixed(0),
      per(result.first + result.second),
      per(result.first),
      per(result.second),
      (result.memory[1] / 1e6).toFixed(0),
      least.toFixed(2),
    ]);
  }
  for (const path of written) rmSync(path, { recursive: true });
  table(rows);
  await end(first);
  const speed = join(lavant, '../examples/link_speed');
  const args = ['run', '--release', '--quiet', '--package', 'lavant-node', '--example', 'link_speed', '--'];
  const sizes = [String(megabytes / 1000), '2'];
  console.log(existsSync(speed) ? run(speed, sizes) : run('cargo', [...args, ...sizes], { cwd: root }));
}

/** A way to a node that counts the bytes of both directions. */
function counted(target) {
  const passed = { bytes: 0 };
  const server = createServer((near) => {
    const far = connect(Number(target.split(':')[1]), '127.0.0.1');
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on('data', (piece) => {
        passed.bytes += piece.length;
        to.write(piece);
      });
      from.on('error', () => to.destroy());
      from.on('close', () => to.end());
    }
  });
  return new Promise((ready) => {
    server.listen(0, '127.0.0.1', () => {
      passed.address = `127.0.0.1:${server.address().port}`;
      ready(passed);
    });
  });
}

/** CPU time of all threads in nanoseconds, from the scheduler. */
function exactCpu(pid) {
  const text = run('sh', ['-c', `cat /proc/${pid}/task/*/schedstat`]);
  const lines = text.trim().split('\n');
  return lines.reduce((sum, line) => sum + Number(line.split(' ')[0]), 0);
}

async function contact() {
  const made = join(folder, 'scale');
  const scale = join(lavant, '../examples/store_scale');
  const args = ['run', '--release', '--quiet', '--package', 'lavant-node', '--example', 'store_scale', '--'];
  const [program, before] = existsSync(scale) ? [scale, []] : ['cargo', args];
  run(program, [...before, made, String(segments)], { cwd: root });
  const other = join(folder, 'scale-other');
  cpSync(join(made, 'scale'), other, { recursive: true });
  const first = await node(['--link', 'tcp'], join(made, 'scale'));
  const second = await node(['--link', 'tcp'], other);
  await sleep(2000);
  const wire = await counted(first.relay);
  // The first answer over HTTP is not part of a contact.
  await json(`${second.url}/peers`);
  const both = [first.child.pid, second.child.pid];
  const used = () => both.map(exactCpu).map((ns) => ns / 1e6);
  const atRest = used();
  await sleep(2000);
  const idle = used().map((ms, at) => ms - atRest[at]);
  const begun = used();
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ address: wire.address });
  await fetch(`${second.url}/peers`, { method: 'POST', headers, body });
  await sleep(2000);
  const taken = used().map((ms, at) => ms - begun[at] - idle[at]);
  const [peer] = await json(`${second.url}/peers`);
  console.log(`\n${segments} segments on both sides, nothing new`);
  table([
    ['', 'first', 'second'],
    ['start, ms', first.started.toFixed(0), second.started.toFixed(0)],
    ['CPU of the contact, ms', taken[0].toFixed(1), taken[1].toFixed(1)],
    ['peak memory, MB', ...both.map((pid) => (peakMemory(pid) / 1e6).toFixed(0))],
  ]);
  console.log(`${wire.bytes} bytes on the wire, handshake included; the peer is ${peer.state}`);
  await end(first, second);
}

const parts = { film: films, bulk, contact };
for (const [name, part] of Object.entries(parts)) {
  if (wanted.length === 0 || wanted.includes(name)) await part();
}
process.exit(0);
