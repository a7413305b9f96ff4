/** Live streams in the page against a mock node, in a real browser. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertClean, mock, open, page, playing, setUp } from './harness.mjs';
import { liveStream } from './samples.mjs';

setUp();

const panel = () => page.locator('[data-stream="pier"]');

describe('live streams', () => {
  test('stand first in the catalogue, also before a segment is stored', async () => {
    mock.live = [liveStream('pier'), liveStream('harbour_cam', { state: 'waiting' })];
    await open();
    await page.waitForSelector('li.card[data-live="live"]');
    assert.match(await page.locator('li.card').first().innerText(), /Live[^]*pier[^]*2\.4 Mb\/s/);
    // One that the catalogue has as well has one card.
    assert.equal(await page.locator('[data-ref="harbour_cam"]').count(), 1);
    assertClean();
  });

  test('play with their latency, and offer the replay when they are over', async () => {
    mock.live = [liveStream('harbour_cam')];
    await open('#/play/harbour_cam');
    await playing(1);
    assert.match(await page.getByTestId('latency').innerText(), /^Latency \d+\.\d s$/);
    mock.live[0].state = 'paused';
    await page.getByText('The stream is paused').waitFor();
    mock.live[0].state = 'waiting';
    await page.getByText('waits for its publisher').waitFor();
    mock.live = [];
    await page.getByText('The stream is over.').waitFor();
    await page.getByRole('button', { name: 'Watch the replay' }).click();
    await playing(0.2);
    assert.equal(await page.getByText('The stream is over.').count(), 0);
    assertClean();
  });

  test('the publisher gets a key that is hidden until it is asked for', async () => {
    mock.token = 'letmein';
    mock.status.auth_required = true;
    await open('#/publish');
    await page.getByText('No stream runs now.').waitFor();
    await page.getByLabel('Name of the stream').fill('pier');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').locator('input').fill('letmein');
    await page.keyboard.press('Enter');
    await page.getByText('rtmp://127.0.0.1:1935/live', { exact: true }).waitFor();
    assert.equal(await page.getByText('pier-secret').count(), 0);
    await page.getByRole('button', { name: 'Show the key' }).click();
    await page.getByText('pier-secret', { exact: true }).waitFor();
    assert.match(await page.locator('main').innerText(), /lavant live pier -/);
    assertClean();
  });

  test('the publisher sees health and hints, pauses, and confirms a stop', async () => {
    mock.live = [liveStream('pier', { key_seconds: 8, fault: 'the disk is full' })];
    await open('#/publish');
    await panel().getByText('avc1.4d401f, mp4a.40.2, 1280 × 720').waitFor();
    const text = await panel().innerText();
    assert.match(text, /Key frames come only every 8\.0 s/);
    assert.match(text, /the disk is full/);
    await panel().getByRole('button', { name: 'Pause' }).click();
    await panel().getByRole('button', { name: 'Resume' }).click();
    await panel().getByRole('button', { name: 'Pause' }).waitFor();
    await panel().getByRole('button', { name: 'Stop' }).click();
    assert.ok(!mock.calls.some((call) => call.endsWith('/stop')));
    await page.getByRole('dialog').getByRole('button', { name: 'Stop' }).click();
    await panel().waitFor({ state: 'detached' });
    assert.ok(mock.calls.includes('POST /api/v1/live/pier/stop'));
    assertClean();
  });
});
