/**
 * Packs the built page: beside each larger text file of `dist/` stands its gzip form, which the
 * node sends where a browser takes it. Slow links are what lavant is for.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const SMALLEST = 1024;
const dist = new URL('./dist/', import.meta.url).pathname;

for (const name of readdirSync(dist, { recursive: true })) {
  if (!/\.(js|css|html|svg)$/.test(name)) continue;
  const bytes = readFileSync(join(dist, name));
  if (bytes.length >= SMALLEST) {
    writeFileSync(join(dist, `${name}.gz`), gzipSync(bytes, { level: 9 }));
  }
}
