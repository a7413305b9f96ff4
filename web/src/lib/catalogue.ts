/** Order and search of the catalogue. */
import type { CatalogEntry } from './api';

/** True while a content is being sent out live. */
export function isLiveNow(entry: CatalogEntry): boolean {
  return entry.state === 'open' && entry.priority === 'live';
}

/** Live contents first, then the newest. */
export function inOrder(catalog: CatalogEntry[]): CatalogEntry[] {
  return [...catalog].sort(
    (a, b) =>
      Number(isLiveNow(b)) - Number(isLiveNow(a)) ||
      (Date.parse(b.created) || 0) - (Date.parse(a.created) || 0) ||
      a.content_id.localeCompare(b.content_id),
  );
}

function folded(text: string): string {
  return text.normalize('NFKD').replace(/\p{M}/gu, '').toLocaleLowerCase();
}

/** The contents whose title, id or publisher holds every word that was typed. */
export function search(catalog: CatalogEntry[], query: string): CatalogEntry[] {
  const words = folded(query).split(/\s+/).filter(Boolean);
  if (words.length === 0) return catalog;
  return catalog.filter((entry) => {
    const text = folded(`${entry.title} ${entry.content_id} ${entry.publisher}`);
    return words.every((word) => text.includes(word));
  });
}

/** The ids that more than one publisher uses; their cards name the publisher. */
export function sharedIds(catalog: CatalogEntry[]): Set<string> {
  const seen = new Set<string>();
  const shared = new Set<string>();
  for (const { content_id } of catalog) {
    if (seen.has(content_id)) shared.add(content_id);
    seen.add(content_id);
  }
  return shared;
}
