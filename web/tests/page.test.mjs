/** Catalogue, node panel and layout against a mock node, in a real browser. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertClean, card, mock, open, page, seen, setUp } from './harness.mjs';
import { entry, samplePeer, samplePeers, sampleStatus, upload } from './samples.mjs';

setUp();

describe('catalogue', () => {
  test('shows contents, live first, with their facts', async () => {
    await open();
    await page.waitForSelector('li.card');
    assert.equal(await page.locator('li.card').count(), 6);
    assert.match(await page.locator('li.card').first().innerText(), /Harbour camera/);
    const film = await card('The Lavant').innerText();
    assert.match(film, /On demand/);
    assert.match(film, /1080p · 720p · 360p · 1.84 GB/);
    assert.match(film, /52:07/);
    assert.match(await page.locator('li.card').nth(1).innerText(), /partly here/);
    assert.match(await card('Clinic lesson 4').innerText(), /e20b…471f/);
    assertClean();
  });

  test('never takes a title as HTML', async () => {
    mock.catalog = [entry('x', { title: '<img src=x onerror="document.title=1"><b>bold</b>' })];
    await open();
    await page.waitForSelector('li.card');
    assert.equal(await page.locator('li.card img, li.card b').count(), 0);
    assert.match(await page.locator('li.card h2').innerText(), /<b>bold<\/b>/);
    assertClean();
  });

  test('updates without reload: a content is added, an upload progresses', async () => {
    mock.catalog = [];
    await open();
    await page.getByText('Nothing flows here yet').waitFor();
    assert.match(await page.locator('main').innerText(), /lavant ingest FILE/);
    mock.status = { ...sampleStatus(), uploads: [upload('tide', { duration_seconds: 120 })] };
    mock.push();
    await page.getByText('25 %', { exact: true }).waitFor();
    mock.status.uploads[0].duration_seconds = 240;
    mock.push(['status']);
    await page.getByText('50 %', { exact: true }).waitFor();
    await page.getByText(/\d+ (s|min)( \d+ s)? left/).waitFor();
    await page.locator('[data-testid="spoken"]', { hasText: '50 % ingested' }).waitFor({
      state: 'attached',
    });
    mock.catalog = [entry('tide', { title: 'Tide tables' })];
    mock.status.uploads = [];
    mock.push();
    await card('Tide tables').waitFor();
    assert.equal(await page.locator('progress').count(), 0);
    assertClean();
  });

  test('search folds case and accents', async () => {
    mock.catalog.push(entry('ete', { title: '\u00c9t\u00e9 au bord du fleuve' }));
    await open();
    await page.getByRole('searchbox').fill('ETE fleuve');
    await page.getByText('1 of 7 contents').waitFor();
    await page.getByRole('searchbox').fill('nothing like it');
    await page.getByText('Nothing matches').waitFor();
    assertClean();
  });

  test('what changes is told alone: new, changed, gone', async () => {
    mock.catalog = [entry('tide', { title: 'Tide' }), entry('ferry', { title: 'Ferry' })];
    await open();
    await card('Ferry').waitFor();
    const { publisher, content_id, version } = mock.catalog[1];
    mock.change(
      [entry('tide', { title: 'Tide at noon' }), entry('market', { title: 'Market' })],
      [{ publisher, content_id, version }],
    );
    await card('Market').waitFor();
    await card('Tide at noon').waitFor();
    assert.equal(await page.locator('li.card').count(), 2);
    assertClean();
  });

  test('of a long catalogue the beginning is shown; the node is asked for the rest', async () => {
    mock.catalog = Array.from({ length: 1200 }, (_, no) =>
      entry(`c${no}`, { title: `Film ${no}` }),
    );
    mock.status = { ...sampleStatus(), uploads: [] };
    mock.status.store.contents = 1200;
    await open();
    await page.getByText('500 of 1200 are shown.').waitFor();
    assert.equal(await page.locator('li.card').count(), 500);
    await page.getByRole('searchbox').fill('Film 1111');
    await card('Film 1111').waitFor();
    await page.getByText('1 of 1200 contents').waitFor();
    await page.getByRole('searchbox').fill('');
    await page.getByRole('button', { name: 'Show more' }).click();
    await page.getByText('1000 of 1200 are shown.').waitFor();
    await page.getByRole('button', { name: 'Show more' }).click();
    await page.getByText('1200 contents').waitFor();
    assert.equal(await page.getByRole('button', { name: 'Show more' }).count(), 0);
    assertClean();
  });
});

describe('changes', () => {
  test('delete asks first, then for the token, then removes', async () => {
    mock.token = 'secret';
    mock.status.auth_required = true;
    await open();
    const film = card('The Lavant');
    await film.getByRole('button').click();
    await page.keyboard.press('End');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'hidden' });
    assert.ok(!mock.calls.some((call) => call.startsWith('DELETE')));
    await film.getByRole('button').click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByLabel('Token', { exact: true }).fill('secret');
    await page.keyboard.press('Enter');
    await film.waitFor({ state: 'detached' });
    assert.ok(mock.calls.includes('DELETE /content/lavant_film'));
    await page.getByText('is deleted, 1.84 GB are free again').waitFor();
    assertClean();
  });

  test('pin needs the token when the node wants one', async () => {
    mock.token = 'secret';
    mock.status.auth_required = true;
    await open();
    await card('Village clinic').getByRole('button').click();
    await page.getByRole('menuitem', { name: /^Pin/ }).click();
    await page.getByLabel('Token', { exact: true }).fill('wrong');
    await page.getByRole('button', { name: 'Use token' }).click();
    await page.getByText('The node refused this token').waitFor();
    await page.getByLabel('Token', { exact: true }).fill('secret');
    await page.getByRole('button', { name: 'Use token' }).click();
    await card('Village clinic').getByText('pinned, does not expire').waitFor();
    // The browser itself writes the refused request (401) to the console.
    assert.ok(seen.consoleErrors.every((text) => text.includes('401')));
  });
});

describe('node panel and connection', () => {
  test('shows store, ingests, key and warnings', async () => {
    mock.status = sampleStatus({ uploads: true });
    mock.status.warnings = ['The disk is nearly full.'];
    await open('#/node');
    await page.getByText('The disk is nearly full.').waitFor();
    const text = await page.locator('main').innerText();
    for (const part of [
      /28\.2 GB/,
      /44 % of its limit of 64 GB/,
      /212 GB/,
      /7c1f0a94be5d/,
      /61 %/,
    ]) {
      assert.match(text, part);
    }
    assert.equal(await page.getByRole('meter').getAttribute('aria-valuenow'), '44');
    assertClean();
  });

  test('shows the nodes that are met, and why others are not', async () => {
    await open('#/node');
    await page.getByText('No other node is met yet. Others come in at port 7778.').waitFor();
    mock.peers = samplePeers();
    await page.getByText('connected, QUIC').waitFor();
    const rows = page.locator('section', { hasText: 'Peers' }).getByRole('listitem');
    const [first, second, third] = await rows.allInnerTexts();
    assert.match(first, /ferry-2[^]*1\.84 GB received[^]*62 MB sent[^]*4\.2 MB\/s[^]*24 ms/);
    assert.match(second, /harbour[^]*again in 42 s[^]*does not answer/);
    assert.match(third, /clinic[^]*away/);
    mock.status.relay_port = null;
    mock.push(['status']);
    await page.getByText('it was started with --no-relay').waitFor();
    assertClean();
  });

  test('tells when the node is lost and when it is back', async () => {
    await open();
    await page.waitForSelector('li.card');
    await mock.stop();
    await page.getByText('connection to the node is lost, retrying').waitFor();
    assert.equal(await page.locator('li.card').count(), 6);
    mock.catalog = [entry('after', { title: 'After the outage' })];
    await mock.start();
    await page.getByText('After the outage').waitFor();
    await page.locator('[data-testid="lost"]').waitFor({ state: 'detached' });
  });

  test('polls when there are no events', async () => {
    mock.noEvents = true;
    await open('#/node');
    await page.getByText('asking every few seconds').waitFor();
    mock.status.node_id = 'renamed';
    await page.getByRole('heading', { name: 'renamed' }).waitFor();
    mock.noEvents = false;
  });
});

describe('layout', () => {
  const routes = ['#/', '#/node', '#/play/lavant_film', '#/play/nothing'];

  test('no view scrolls sideways, from 320 px to 4K, dark and light', async () => {
    mock.status = sampleStatus({ uploads: true });
    mock.peers = [...samplePeers(), samplePeer(`${'w'.repeat(80)}.example:7778`)];
    mock.catalog.push(entry('w'.repeat(60), { title: 'W'.repeat(90) }));
    for (const [width, colorScheme] of [
      [320, 'dark'],
      [768, 'light'],
      [3840, 'light'],
    ]) {
      await page.setViewportSize({ width, height: 700 });
      await page.emulateMedia({ colorScheme });
      for (const route of [...routes, `#/play/${'w'.repeat(60)}`]) {
        await open(route);
        await page.waitForTimeout(250);
        const over = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        assert.equal(over, 0, `${route} at ${width} px`);
      }
    }
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  test('dark and light differ, and text has contrast in both', async () => {
    mock.status = sampleStatus({ uploads: true });
    mock.peers = samplePeers();
    const grounds = [];
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      for (const route of ['#/', '#/node']) {
        await open(route);
        await page.waitForTimeout(200);
        assert.deepEqual(await page.evaluate(lowContrast), [], `${route} in ${colorScheme}`);
      }
      grounds.push(await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    assert.notEqual(grounds[0], grounds[1]);
  });
});

/** Runs in the page: texts whose contrast with the ground behind them is below 4.5. */
function lowContrast() {
  const parse = (c) => c.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) =>
      v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (el) => {
    for (let at = el; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const el of document.querySelectorAll('body *')) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || el.closest('svg, .picture, noscript, .unseen')) continue;
    const [a, b] = [light(parse(getComputedStyle(el).color)), light(ground(el))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${el.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return low;
}
