/** Hash routes: `#/` catalogue, `#/play/REF` player, `#/publish` publishing, `#/node` node panel. */

/** Where the page is. */
export type Route =
  { view: 'catalogue' } | { view: 'play'; ref: string } | { view: 'publish' } | { view: 'node' };

function parse(hash: string): Route {
  const path = hash.replace(/^#\/?/, '');
  if (path === 'node') return { view: 'node' };
  if (path === 'publish') return { view: 'publish' };
  if (path.startsWith('play/') && path.length > 5) {
    return { view: 'play', ref: normalise(path.slice(5)) };
  }
  return { view: 'catalogue' };
}

/** Encodes each part of a REF exactly once, however the address bar holds it. */
function normalise(ref: string): string {
  return ref
    .split('/')
    .map((part) => {
      try {
        return encodeURIComponent(decodeURIComponent(part));
      } catch {
        return encodeURIComponent(part);
      }
    })
    .join('/');
}

class Router {
  current = $state.raw<Route>(parse(location.hash));
  /** The content that was played last, whose card gets the focus on the way back. */
  lastPlayed = '';

  constructor() {
    addEventListener('hashchange', () => {
      if (this.current.view === 'play') this.lastPlayed = this.current.ref;
      this.current = parse(location.hash);
    });
  }

  go(hash: string): void {
    location.hash = hash;
  }
}

/** The one router of the page. */
export const router = new Router();
