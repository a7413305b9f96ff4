/** What a viewer can change: delete a content, pin it, let it expire again. */
import {
  ApiError,
  deleteContent,
  fetchStreamKey,
  pinContent,
  refOf,
  tellLive,
  type CatalogEntry,
  type StreamKey,
} from './api';
import { dialogs } from './dialogs.svelte';
import { feed } from './feed.svelte';
import { bytes, titleOf, until } from './format';
import { live } from './live.svelte';
import { notices } from './notices.svelte';

const TOKEN_KEY = 'lavant-token';

/** Runs a call with the token when the node wants one; asks for it again when it is refused. */
async function withToken<T>(run: (token: string | null) => Promise<T>): Promise<T | null> {
  let token = sessionStorage.getItem(TOKEN_KEY);
  let why = 'This node allows changes only with its access token.';
  for (;;) {
    if (!token && feed.status?.auth_required) {
      token = await dialogs.token(why);
      if (!token) return null;
    }
    try {
      const answer = await run(token);
      if (token) sessionStorage.setItem(TOKEN_KEY, token);
      return answer;
    } catch (error) {
      const refused = error instanceof ApiError && (error.status === 401 || error.status === 403);
      if (!refused || !feed.status?.auth_required) throw error;
      sessionStorage.removeItem(TOKEN_KEY);
      token = null;
      why = 'The node refused this token. Type the token of this node.';
    }
  }
}

async function attempt(work: () => Promise<string | null>): Promise<void> {
  try {
    const done = await work();
    if (done) {
      notices.say(done);
      await feed.refresh();
    }
  } catch (error) {
    notices.say(error instanceof Error ? error.message : String(error), true);
  }
}

/** Deletes a content after the viewer confirmed it; true when it is gone. */
export async function removeContent(entry: CatalogEntry): Promise<boolean> {
  const title = titleOf(entry);
  const body =
    `${entry.segment_count} segments (${bytes(entry.bytes)}) are removed from this node. ` +
    'Other nodes that hold this content keep it.';
  if (!(await dialogs.confirm(`Delete \u201c${title}\u201d?`, body, 'Delete', true))) return false;
  let gone = false;
  await attempt(async () => {
    const answer = await withToken((token) => deleteContent(refOf(entry), token));
    gone = answer !== null;
    return answer && `${title} is deleted, ${bytes(answer.freed_bytes)} are free again.`;
  });
  return gone;
}

/** Pins a content at once; asks before unpinning, because an expired content is then removed. */
export async function setPinned(entry: CatalogEntry, pinned: boolean): Promise<void> {
  const title = titleOf(entry);
  if (!pinned) {
    const when = entry.expires_at ? until(entry.expires_at, Date.now()) : 'no expiry is set';
    const body = `Without the pin this node removes it when it expires (${when}).`;
    if (!(await dialogs.confirm(`Unpin \u201c${title}\u201d?`, body, 'Unpin'))) return;
  }
  await attempt(async () => {
    const answer = await withToken((token) => pinContent(refOf(entry), pinned, token));
    if (!answer) return null;
    return answer.pinned ? `${title} is kept until you unpin it.` : `${title} expires again.`;
  });
}

/** Asks for the stream key of a name; null when the viewer gave up or the node refused. */
export async function askStreamKey(name: string): Promise<StreamKey | null> {
  let key: StreamKey | null = null;
  await attempt(async () => {
    key = await withToken((token) => fetchStreamKey(name, token));
    return null;
  });
  return key;
}

/** Pauses, resumes or stops a live stream; asks before it stops one. */
export async function tellStream(name: string, action: 'pause' | 'resume' | 'stop'): Promise<void> {
  if (action === 'stop') {
    const body =
      'Viewers see the end, and the publisher cannot come back for a minute. ' +
      'What is stored stays as a replay.';
    if (!(await dialogs.confirm(`Stop \u201c${name}\u201d?`, body, 'Stop', true))) return;
  }
  await attempt(async () => {
    const answer = await withToken((token) => tellLive(name, action, token));
    if (!answer) return null;
    await live.refresh();
    const done = { pause: 'is paused', resume: 'goes on', stop: 'is stopped' }[action];
    return `${name} ${done}.`;
  });
}
