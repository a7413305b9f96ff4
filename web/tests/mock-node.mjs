/**
 * A stand-in for a node: the part of its HTTP API that the page uses, plain node:http, with state the
 * tests change. It sends the same Content-Security-Policy as a node does.
 *
 * By hand: `node tests/mock-node.mjs --port 7700` shows the page with sample contents.
 */
import { createServer } from 'node:http';
import { access, mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { extname, join, normalize, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { growing, liveWindow, makeMedia } from './media.mjs';
import { PUBLISHER, sampleCatalog, sampleStatus } from './samples.mjs';

export const CSP =
  "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; " +
  "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; connect-src 'self'";

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.m3u8': 'application/vnd.apple.mpegurl',
  '.ts': 'video/mp2t',
  '.m4s': 'video/iso.segment',
  '.mp4': 'video/mp4',
};

/** How many contents a node tells of at first. */
const AT_ONCE = 500;

export class MockNode {
  catalog = [];
  status = sampleStatus();
  peers = [];
  live = [];
  /** Where the node listens for RTMP; null when it does not. */
  rtmp = 'rtmp://127.0.0.1:1935/live';
  /** When set, state-changing calls need it. */
  token = null;
  /** Answers 503 to media while true. */
  mediaDown = false;
  /** Sends no events while true. */
  noEvents = false;
  calls = [];
  #streams = new Set();
  #server = null;
  #ticker = null;
  #port = 0;
  #start = Date.now();

  constructor(media) {
    this.media = media;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Listens; a second start uses the same port as the first. */
  async start(port = this.#port) {
    this.#server = createServer((req, res) => {
      this.#answer(req, res).catch((error) => this.#json(res, 500, { error: String(error) }));
    });
    await new Promise((done) => this.#server.listen(port, '127.0.0.1', done));
    this.#port = this.#server.address().port;
    this.#ticker = setInterval(() => this.push(['status']), 1_000);
  }

  /** Stops at once, cutting open connections, as a node that dies. */
  async stop() {
    clearInterval(this.#ticker);
    this.#streams.clear();
    this.#server?.closeAllConnections();
    await new Promise((done) => (this.#server ? this.#server.close(done) : done()));
    this.#server = null;
  }

  /** Tells every open page. */
  push(events = ['catalog', 'status']) {
    for (const stream of this.#streams) this.#send(stream, events);
  }

  /** Tells every open page what changed, and the status, as a node does after its first event. */
  change(changed, gone = []) {
    const left = (entry) => !gone.some((it) => it.content_id === entry.content_id);
    const other = (entry) => !changed.some((it) => it.content_id === entry.content_id);
    this.catalog = [...this.catalog.filter((entry) => left(entry) && other(entry)), ...changed];
    this.changes = { changed, gone };
    this.push(['changes', 'status']);
  }

  #send(stream, events) {
    for (const name of events) {
      const data = name === 'catalog' ? this.catalog.slice(0, AT_ONCE) : this[name];
      stream.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
    }
  }

  #json(res, code, body) {
    res.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  }

  async #answer(req, res) {
    const { pathname, searchParams } = new URL(req.url, this.url);
    this.calls.push(`${req.method} ${pathname}`);
    res.setHeader('content-security-policy', CSP);
    if (pathname.startsWith('/api/v1/live')) return this.#live(req, res, pathname.slice(12));
    if (req.method === 'PUT' || req.method === 'DELETE') return this.#change(req, res, pathname);
    if (pathname === '/health') {
      const { node_id, version, publisher } = this.status;
      return this.#json(res, 200, { ok: true, node_id, version, publisher });
    }
    if (pathname === '/catalog') return this.#json(res, 200, this.#listed(searchParams));
    if (pathname === '/status') return this.#json(res, 200, this.status);
    if (pathname === '/peers') return this.#json(res, 200, this.peers);
    if (pathname === '/events') return this.#events(req, res);
    if (pathname.startsWith('/content/')) return this.#content(res, pathname.slice(9));
    if (pathname.startsWith('/play/')) return this.#play(res, pathname.slice(6));
    return this.#file(res, DIST, pathname === '/' ? '/index.html' : pathname);
  }

  /** The live streams, the key of a name, and what a stream is told. */
  #live(req, res, rest) {
    if (req.method === 'GET') return this.#json(res, 200, this.live);
    if (this.token && req.headers.authorization !== `Bearer ${this.token}`) {
      return this.#json(res, 401, { error: 'a token is needed: send it as Bearer' });
    }
    const [, name, action] = rest.split('/').map(decodeURIComponent);
    if (action === 'key') {
      return this.#json(res, 200, { name, key: `${name}-secret`, rtmp: this.rtmp });
    }
    const stream = this.live.find((it) => it.name === name);
    if (!stream) return this.#json(res, 404, { error: 'nobody publishes this now' });
    stream.state = { pause: 'paused', resume: 'live', stop: 'ended' }[action];
    return this.#json(res, 200, stream);
  }

  #events(req, res) {
    if (this.noEvents) return this.#json(res, 404, { error: 'there are no events here' });
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    this.#streams.add(res);
    req.on('close', () => this.#streams.delete(res));
    this.#send(res, ['catalog', 'status']);
  }

  #listed(query) {
    const words = query.get('search') ?? '';
    const found = this.catalog.filter((entry) => entry.title.includes(words));
    const from = Number(query.get('offset') ?? 0);
    return found.slice(from, from + Number(query.get('limit') ?? found.length));
  }

  #find(ref) {
    const parts = ref.split('/').map(decodeURIComponent);
    const id = parts.at(-1);
    const by = parts.length > 1 ? parts[0] : null;
    return this.catalog.find((e) => e.content_id === id && (!by || e.publisher === by));
  }

  #content(res, ref) {
    const entry = this.#find(ref);
    if (!entry) return this.#json(res, 404, { error: 'this node does not hold this content' });
    return this.#json(res, 200, entry);
  }

  #change(req, res, pathname) {
    if (this.token && req.headers.authorization !== `Bearer ${this.token}`) {
      return this.#json(res, 401, { error: 'a token is needed: send it as Bearer' });
    }
    const [, ref, pin] = /^\/content\/(.+?)(\/pin)?$/.exec(pathname) ?? [];
    const entry = ref && this.#find(ref);
    if (!entry) return this.#json(res, 404, { error: 'this node does not hold this content' });
    if (pin) {
      entry.pinned = req.method === 'PUT';
      this.push();
      return this.#json(res, 200, { pinned: entry.pinned });
    }
    this.catalog = this.catalog.filter((e) => e !== entry);
    this.push();
    return this.#json(res, 200, {
      deleted_segments: entry.segment_count,
      freed_bytes: entry.bytes,
    });
  }

  async #play(res, rest) {
    if (this.mediaDown) return this.#json(res, 503, { error: 'the media is away for a while' });
    const parts = rest.split('/').map(decodeURIComponent);
    const file = /\.\w+$/.test(parts.at(-1)) ? parts.pop() : 'index.m3u8';
    const entry = this.catalog.find((e) => e.content_id === parts.at(-1));
    const dir = entry?.media ?? parts.at(-1);
    if (entry?.media === 'live' && file === 'index.m3u8') {
      const text = await readFile(join(this.media, 'live', file), 'utf8');
      res.writeHead(200, { 'content-type': TYPES['.m3u8'] });
      const window = entry.priority === 'vod' ? growing : liveWindow;
      return res.end(window(text, (Date.now() - this.#start) / 1_000));
    }
    return this.#file(res, join(this.media, dir), file);
  }

  async #file(res, root, path) {
    const full = normalize(join(root, path));
    if (!full.startsWith(resolve(root))) return this.#json(res, 404, { error: 'no such file' });
    let data;
    try {
      data = await readFile(full);
    } catch {
      return this.#json(res, 404, { error: 'no such file' });
    }
    const type = TYPES[extname(full)] ?? 'application/octet-stream';
    res.writeHead(200, { 'content-type': type, 'content-length': data.length });
    return res.end(data);
  }
}

/** A started mock with all test media, made in a new folder. */
export async function startMock({ port = 0 } = {}) {
  await access(join(DIST, 'index.html')).catch(() => {
    throw new Error('web/dist is missing: run `npm run build` first');
  });
  const media = await mkdtemp(join(tmpdir(), 'lavant-media-'));
  await makeMedia(media);
  const mock = new MockNode(media);
  await mock.start(port);
  return mock;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf('--port');
  const mock = await startMock({ port: at > 0 ? Number(process.argv[at + 1]) : 0 });
  mock.catalog = sampleCatalog();
  mock.status = sampleStatus({ uploads: true, publisher: PUBLISHER });
  setInterval(() => {
    for (const upload of mock.status.uploads) {
      upload.duration_seconds = (upload.duration_seconds + 1.5) % (upload.expected_seconds ?? 1e9);
    }
  }, 1_000);
  console.log(mock.url);
}
