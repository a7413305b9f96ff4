/** Questions to the viewer, as promises: a confirmation, or the node's access token. */

/** A question that is on the screen. */
export type Question =
  | { kind: 'confirm'; title: string; body: string; yes: string; danger: boolean }
  | { kind: 'token'; body: string };

class Dialogs {
  question = $state.raw<Question | null>(null);
  #resolve: (answer: string | null) => void = () => {};

  /** True when the viewer agreed. */
  async confirm(title: string, body: string, yes: string, danger = false): Promise<boolean> {
    return (await this.#ask({ kind: 'confirm', title, body, yes, danger })) !== null;
  }

  /** The token that the viewer typed, or null when they gave up. */
  token(body: string): Promise<string | null> {
    return this.#ask({ kind: 'token', body });
  }

  /** Ends the open question; null means it was cancelled. */
  answer(value: string | null): void {
    this.question = null;
    this.#resolve(value);
    this.#resolve = () => {};
  }

  #ask(question: Question): Promise<string | null> {
    this.answer(null);
    this.question = question;
    return new Promise((resolve) => (this.#resolve = resolve));
  }
}

/** The one dialog of the page. */
export const dialogs = new Dialogs();
