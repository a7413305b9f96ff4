/**
 * What the benchmarks share: starting programs, their CPU time and memory, medians.
 *
 * Figures of one run are compared with each other as ratios; machines differ and are noisy.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const root = new URL('..', import.meta.url).pathname;
export const lavant = process.env.LAVANT_BIN ?? join(root, 'target/release/lavant');
mkdirSync(join(root, 'target/bench'), { recursive: true });
/** A folder of this run, on the disk that is measured; removed at the end. */
export const folder = mkdtempSync(join(root, 'target/bench/run-'));
const children = [];

process.on('exit', () => {
  // nginx ends its workers only when it is asked to end.
  const gently = (child) => child.spawnargs.includes('nginx');
  for (const child of children) child.kill(gently(child) ? 'SIGTERM' : 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});
process.on('SIGINT', () => process.exit(130));

/** Starts a program that goes on in the background. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
  children.push(child);
  child.stdout?.resume();
  return child;
}

/** Runs a program to its end; its output, or the failure as an exception. */
export function run(command, args, options = {}) {
  return execFileSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
}

/** Waits until a URL answers, twenty seconds at most. */
export async function answers(url) {
  for (let tries = 0; tries < 200; tries += 1) {
    try {
      const response = await fetch(url);
      if (response.ok) return response;
    } catch {
      // Not listening yet.
    }
    await sleep(100);
  }
  throw new Error(`no answer from ${url}`);
}

/** Ends a program that was started, and waits for its end. */
export async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => {
    child.once('exit', resolve);
  });
  child.kill('SIGTERM');
  await ended;
}

/** A node of its own; `before` goes before its command. Its store is empty at first. */
export async function node(port, flags = [], before = []) {
  const store = join(folder, `store-${port}`);
  const [command, ...args] = [...before, lavant];
  const serve = ['serve', '--store', store, '--port', String(port), ...flags];
  const child = start(command, [...args, ...serve]);
  const url = `http://127.0.0.1:${port}`;
  await answers(`${url}/health`);
  return { child, store, url, pids: () => [child.pid] };
}

/** CPU time of processes so far, in milliseconds. */
export function cpu(pids) {
  const tick = 10;
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) * tick;
  }, 0);
}

/** Most memory that a process has had, in bytes. */
export function peakMemory(pid) {
  const line = readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmHWM:\s+(\d+) kB/);
  return Number(line?.[1] ?? 0) * 1024;
}

/** The processes that a process has started. */
export function childrenOf(pid) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1].split(' ')[1] === `${pid}`;
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Bytes that a folder takes on disk. */
export function diskUse(path) {
  return Number(run('du', ['-s', '-B1', path]).split('\t')[0]);
}

/** Wall time of a program with GNU-independent means, and its exit code, in milliseconds. */
export function timed(command, args) {
  const began = process.hrtime.bigint();
  const done = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${command} failed: ${done.stderr}`);
  return Number(process.hrtime.bigint() - began) / 1e6;
}

/** The middle value. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** Prints rows as a table. */
export function table(rows) {
  const widths = rows[0].map((_, at) => Math.max(...rows.map((row) => String(row[at]).length)));
  for (const row of rows) {
    const cells = row.map((cell, at) =>
      at === 0 ? String(cell).padEnd(widths[at]) : String(cell).padStart(widths[at]),
    );
    console.log(cells.join('  '));
  }
}
