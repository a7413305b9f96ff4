/** Short notices: shown at the foot of the page, and spoken by screen readers. */

/** A notice on the screen. */
export interface Notice {
  id: number;
  text: string;
  bad: boolean;
}

const SHOW_MS = 6_000;

class Notices {
  shown = $state.raw<Notice[]>([]);
  /** Spoken only; ingest progress would be noise on the screen twice. */
  spoken = $state('');
  #next = 1;

  /** Shows and speaks a notice. */
  say(text: string, bad = false): void {
    const id = this.#next++;
    this.shown = [...this.shown.slice(-2), { id, text, bad }];
    setTimeout(() => this.dismiss(id), bad ? SHOW_MS * 2 : SHOW_MS);
  }

  /** Speaks a notice without showing it. */
  announce(text: string): void {
    this.spoken = text;
  }

  dismiss(id: number): void {
    this.shown = this.shown.filter((n) => n.id !== id);
  }
}

/** The one list of notices of the page. */
export const notices = new Notices();
