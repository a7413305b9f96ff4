/** The player against a mock node, in a real browser. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertClean, finalTrouble, frames, mock, open, page, playing } from './harness.mjs';
import { setUp, tabTo } from './harness.mjs';
import { entry, rendition } from './samples.mjs';

setUp();

describe('player', () => {
  test('plays by keyboard only, and Escape goes back to the card', async () => {
    await open();
    await page.waitForSelector('li.card');
    await tabTo('li[data-ref="lavant_film"] a');
    await page.keyboard.press('Enter');
    await playing(1);
    assert.ok((await frames()) > 10);
    await page.keyboard.press('k');
    assert.ok(await page.evaluate(() => document.querySelector('video').paused));
    await page.keyboard.press('k');
    await page.keyboard.press('l');
    await playing(9);
    await page.keyboard.press('m');
    assert.ok(await page.evaluate(() => document.querySelector('video').muted));
    const buttons = 'media-play-button, media-settings-menu-button, media-fullscreen-button';
    for (const name of buttons.split(', ')) await tabTo(name);
    await page.keyboard.press('Escape');
    await page.waitForSelector('li.card');
    const focused = await page.evaluate(() => document.activeElement.getAttribute('href'));
    assert.equal(focused, '#/play/lavant_film');
    assertClean();
  });

  test('offers its renditions and speeds', async () => {
    await open('#/play/lavant_film');
    await playing(0.5);
    const list = () =>
      page.evaluate(() => document.querySelector('video').videoRenditions.selectedIndex);
    assert.equal(await list(), -1);
    await page.hover('media-controller');
    await page.click('media-settings-menu-button');
    await page.locator('media-settings-menu-item', { hasText: 'Quality' }).first().click();
    await page.locator('media-rendition-menu').getByText('180p').click();
    await page.waitForFunction(() => document.querySelector('video').videoHeight === 180);
    assert.notEqual(await list(), -1);
    assertClean();
  });

  test('plays sound with a poster, live at its edge, and over gaps', async () => {
    await open('#/play/radio');
    await playing(1);
    assert.ok(await page.locator('media-controller [slot=poster]').isVisible());
    await open('#/play/harbour_cam');
    await playing(2);
    await page.locator('media-live-button').waitFor({ state: 'attached' });
    mock.catalog.push(entry('gappy', { title: 'Gappy', complete: false, media: 'gappy' }));
    await open('#/play/gappy');
    await playing(0.5);
    await page.evaluate(() => (document.querySelector('video').currentTime = 4));
    await playing(11);
    assert.ok(!mock.calls.some((call) => /gappy.*-00[34]\.ts/.test(call)));
    assertClean();
  });

  test('plays what still grows from its beginning, with the worker of hls.js', async () => {
    mock.catalog = [entry('grow', { title: 'Growing', state: 'open', media: 'live' })];
    await open('#/play/grow');
    await playing(0.5);
    const at = await page.evaluate(() => document.querySelector('video').currentTime);
    assert.ok(at < 5, `starts at ${at} s`);
    assert.ok(mock.calls.some((call) => /hls\.worker/.test(call)));
    assertClean();
  });

  test('a menu takes Escape before the player does', async () => {
    await open('#/play/radio');
    await playing(0.2);
    await page.getByRole('button', { name: /^More for/ }).click();
    await page.keyboard.press('Escape');
    await page.getByRole('menu', { name: /^More for/ }).waitFor({ state: 'detached' });
    assert.match(page.url(), /play\/radio$/);
    await page.locator('media-settings-menu-button').focus();
    await page.keyboard.press('Enter');
    await page.waitForSelector('media-settings-menu:not([hidden])');
    await page.keyboard.press('Escape');
    await page.waitForSelector('media-settings-menu[hidden]', { state: 'attached' });
    assert.match(page.url(), /play\/radio$/);
    // Closed before its opening was over, it does not take the focus afterwards.
    const focused = await page.evaluate(() => {
      const menu = document.querySelector('media-settings-menu');
      const button = document.querySelector('media-settings-menu-button');
      for (let press = 0; press < 4; press += 1) button.click();
      menu.dispatchEvent(new Event('transitionend'));
      return [menu.hidden, document.activeElement.localName];
    });
    assert.deepEqual(focused, [true, 'media-settings-menu-button']);
    await page.keyboard.press('Escape');
    await page.waitForSelector('li.card');
  });

  test('starts inside a gap by stepping over it', async () => {
    mock.catalog.push(entry('gappy', { title: 'Gappy', complete: false, media: 'gappy' }));
    await open('#/play/gappy');
    await playing(0.1);
    await page.evaluate(() => (document.querySelector('video').currentTime = 7.5));
    await playing(10.5);
    assertClean();
  });

  test('says which codec cannot be played, told or found out', async () => {
    await open('#/play/e20b6d17a9f4c8350b71e6d29f8a4c13570ec9b28d64fa1730c5be92a6d8471f/clinic_04');
    assert.match(await finalTrouble(), /cannot play HEVC \(H\.265\) video.*mpv or VLC/);
    assert.match(await page.locator('main').innerText(), /mpv 'http/);
    mock.catalog = [entry('untold', { media: 'hevc', renditions: [rendition('main', null)] })];
    mock.catalog[0].renditions[0].codecs = null;
    await open('#/play/untold');
    assert.match(await finalTrouble(), /cannot play|cannot decode/);
    await open('#/play/not-here');
    assert.match(await finalTrouble(), /does not hold this content/);
  });

  test('goes on when the media was away', async () => {
    await open('#/play/harbour_cam');
    await playing(1);
    mock.mediaDown = true;
    const trouble = page.locator('[data-testid="trouble"]');
    try {
      await trouble.waitFor({ timeout: 40_000 });
    } finally {
      mock.mediaDown = false;
    }
    await trouble.waitFor({ state: 'detached', timeout: 40_000 });
    const at = await page.evaluate(() => document.querySelector('video').currentTime);
    await playing(at + 1);
  });
});
