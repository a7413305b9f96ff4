/**
 * Build of the page into `dist/`, which the node embeds and serves at `/`.
 *
 * Nothing is inlined as a data URL or an inline script, so the page works under the node's strict
 * Content-Security-Policy.
 */
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** A running node, for `npm run dev`. */
const NODE = 'http://127.0.0.1:7777';

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    chunkSizeWarningLimit: 700,
  },
  server: {
    proxy: Object.fromEntries(
      ['/health', '/catalog', '/status', '/events', '/content', '/play', '/segment'].map((path) => [
        path,
        NODE,
      ]),
    ),
  },
});
