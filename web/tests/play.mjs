/**
 * Plays a content of a real node in its own page and tells how it went, or takes a picture of a view.
 *
 *   node tests/play.mjs BASE_URL REF --seconds N --json
 *   node tests/play.mjs BASE_URL --screenshot FILE [--dark] [--width W] [--height H] [--route '#/…']
 *
 * REF is percent-encoded. Exits 1 when the content did not play for N seconds, or the page complained.
 */
import { parseArgs } from 'node:util';
import { openBrowser, watch } from './browser.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
    screenshot: { type: 'string' },
    dark: { type: 'boolean', default: false },
    width: { type: 'string', default: '1280' },
    height: { type: 'string', default: '800' },
    route: { type: 'string' },
    limit: { type: 'string' },
  },
});
const [base, ref] = positionals;
if (!base || (!ref && !values.screenshot)) {
  console.error(
    'usage: node tests/play.mjs BASE_URL REF [--seconds N] [--json] [--screenshot FILE]',
  );
  process.exit(2);
}
const seconds = Number(values.seconds);
const limitMs = 1_000 * Number(values.limit ?? Math.max(45, seconds * 3 + 30));

// A browser that hangs must not hang the caller.
setTimeout(() => finish({ ok: false, error: `no result within ${limitMs / 1_000} s` }), limitMs);

function finish(outcome) {
  const numbers = { currentTime: 0, duration: null, totalVideoFrames: 0, droppedVideoFrames: 0 };
  const lists = { stalls: 0, error: null, consoleErrors: [], foreignRequests: [] };
  const result = { ok: false, ...numbers, ...lists, ...outcome };
  if (values.json) console.log(JSON.stringify(result));
  else console.log(result.ok ? 'ok' : `failed: ${result.error}`, result);
  process.exit(result.ok ? 0 : 1);
}

/** Runs in the page: what its video says now. */
function sample() {
  const video = document.querySelector('video');
  const trouble = document.querySelector('[data-testid="trouble"][data-final="true"]');
  const quality = video?.getVideoPlaybackQuality();
  const latency = document.querySelector('[data-testid="latency"]');
  return {
    currentTime: video?.currentTime ?? 0,
    duration: Number.isFinite(video?.duration) ? video.duration : null,
    ended: video?.ended ?? false,
    hasPicture: (video?.videoWidth ?? 0) > 0,
    totalVideoFrames: quality?.totalVideoFrames ?? 0,
    droppedVideoFrames: quality?.droppedVideoFrames ?? 0,
    stalls: globalThis.__stalls ?? 0,
    trouble: trouble?.textContent ?? null,
    latency: Number.parseFloat(latency?.textContent.replace(/[^\d.]/g, '') ?? '') || null,
  };
}

/** Runs in the page: counts stops of a playback that had begun. */
function countStalls() {
  globalThis.__stalls = 0;
  const video = document.querySelector('video');
  let begun = false;
  video.addEventListener('timeupdate', () => (begun ||= video.currentTime > 0 && !video.paused));
  video.addEventListener('waiting', () => {
    if (begun && !video.seeking && !video.ended) globalThis.__stalls += 1;
  });
}

async function play(page) {
  await page.goto(`${base}/#/play/${ref}`);
  await page.waitForSelector('video, [data-testid="trouble"][data-final="true"]', {
    state: 'attached',
    timeout: 20_000,
  });
  await page.evaluate(`(${countStalls})()`).catch(() => {});
  let now = await page.evaluate(sample);
  const until = Date.now() + limitMs - 8_000;
  let start = null;
  while (Date.now() < until && !now.trouble && !now.ended) {
    await page.waitForTimeout(200);
    now = await page.evaluate(sample);
    // A live content starts at its edge, so only the time that passes counts.
    if (start === null && now.currentTime > 0) start = now.currentTime;
    if (start !== null && now.currentTime - start >= seconds) break;
  }
  return { now, played: start === null ? 0 : now.currentTime - start };
}

function verdict({ now, played }, seen) {
  const enough = played >= seconds - 0.3 || (now.ended && now.currentTime > 0);
  let error = now.trouble;
  if (!error && !enough) error = `played ${played.toFixed(1)} s of ${seconds} s`;
  if (!error && now.hasPicture && now.totalVideoFrames === 0) error = 'no video frame was decoded';
  if (!error && seen.consoleErrors.length > 0) error = 'the page wrote errors to the console';
  if (!error && seen.foreignRequests.length > 0) error = 'the page asked another origin';
  const { currentTime, duration, totalVideoFrames, droppedVideoFrames, stalls, latency } = now;
  const numbers = { currentTime, duration, totalVideoFrames, droppedVideoFrames, stalls, latency };
  return { ok: !error, ...numbers, error: error ?? null, ...seen };
}

const { page, close } = await openBrowser({
  width: Number(values.width),
  height: Number(values.height),
  dark: values.dark,
});
const seen = watch(page, base);
let result;
try {
  if (ref) {
    result = verdict(await play(page), seen);
  } else {
    await page.goto(`${base}/${values.route ?? '#/'}`);
    await page.waitForFunction(() => !/Asking the node/.test(document.body.innerText));
    const playing = /play/.test(values.route ?? '');
    await page.waitForTimeout(playing ? 4_000 : 800);
    // Paused, the player keeps its controls on the screen.
    if (playing) await page.keyboard.press('k');
    await page.waitForTimeout(600);
    result = { ok: true, error: null, ...seen };
  }
  if (values.screenshot) await page.screenshot({ path: values.screenshot });
} catch (error) {
  result = { ok: false, error: String(error), ...seen };
}
await close().catch(() => {});
finish(result);
