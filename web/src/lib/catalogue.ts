/** Order and search of the catalogue. */
import type { CatalogEntry, Gone } from './api';

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

function nameOf({ publisher, content_id }: { publisher: string; content_id: string }): string {
  return `${publisher}/${content_id}`;
}

/** The catalogue with new and changed contents, without those that are gone. */
export function merged(
  catalog: CatalogEntry[],
  changed: CatalogEntry[],
  gone: Gone[],
): CatalogEntry[] {
  const all = new Map(catalog.map((entry) => [nameOf(entry), entry]));
  // Before what is new: of a content whose version changed the old one is gone and a new one is here.
  for (const it of gone) {
    if (all.get(nameOf(it))?.version === it.version) all.delete(nameOf(it));
  }
  for (const entry of changed) all.set(nameOf(entry), entry);
  return [...all.values()];
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
