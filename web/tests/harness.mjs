/** What the page tests share: a mock node, a browser, and short words for what they do. */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { after, before, beforeEach } from 'node:test';
import { openBrowser, watch } from './browser.mjs';
import { startMock } from './mock-node.mjs';
import { sampleCatalog, sampleStatus } from './samples.mjs';

const WAIT_MS = 15_000;

export let mock;
export let page;
export let seen;

/** Starts the mock and the browser before a file's tests, and resets the mock before each. */
export function setUp() {
  let browser;
  before(async () => {
    mock = await startMock();
    browser = await openBrowser();
    page = browser.page;
    page.setDefaultTimeout(WAIT_MS);
    seen = watch(page, mock.url);
  });
  after(async () => {
    await browser?.close();
    await mock?.stop();
    if (mock) await rm(mock.media, { recursive: true, force: true });
  });
  beforeEach(() => {
    mock.catalog = sampleCatalog();
    mock.status = sampleStatus();
    mock.peers = [];
    mock.live = [];
    mock.token = null;
    mock.calls = [];
    seen.consoleErrors.length = 0;
  });
}

/** Opens a view as a first visit does. */
export async function open(route = '#/') {
  await page.goto('about:blank');
  await page.goto(`${mock.url}/${route}`);
  await page.evaluate(() => sessionStorage.clear());
  await page.waitForSelector('h1');
}

export const card = (text) => page.locator('li.card', { hasText: text });

/** Waits until the playhead is beyond `seconds`. */
export const playing = (seconds) =>
  page.waitForFunction((s) => (document.querySelector('video')?.currentTime ?? 0) > s, seconds);

export const frames = () =>
  page.evaluate(() => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames);

export const finalTrouble = () =>
  page.locator('[data-testid="trouble"][data-final="true"]').innerText();

/** The page wrote no errors and asked nobody but its node. */
export function assertClean() {
  assert.deepEqual(seen.consoleErrors, []);
  assert.deepEqual(seen.foreignRequests, []);
}

/** Presses Tab until the focused element matches, as a viewer without a mouse does. */
export async function tabTo(selector, limit = 80) {
  for (let i = 0; i < limit; i += 1) {
    await page.keyboard.press('Tab');
    if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) return;
  }
  assert.fail(`Tab does not reach ${selector}`);
}
