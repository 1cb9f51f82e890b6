/** Types of progress.js: `<backjob-progress src="…">`, its events, and its texts. */

/** A job's state as the server sends it; see "The state as JSON". Times are ISO 8601 in UTC. */
export interface BackjobState {
  readonly id: string;
  /** A whole number, 0 to 100. */
  readonly progress: number;
  /** 0 STARTED, 1 IN_PROGRESS, 2 COMPLETED, 3 FAILED, 4 CANCELLED */
  readonly status: 0 | 1 | 2 | 3 | 4;
  readonly status_name: "STARTED" | "IN_PROGRESS" | "COMPLETED" | "FAILED" | "CANCELLED";
  readonly status_text: string;
  readonly start_time: string;
  readonly updated_time: string;
  readonly end_time: string | null;
  readonly result: unknown;
  readonly owner: string | null;
  readonly scope: string;
  /** Why the job is not running yet: "due", "place", "connection", "proof", "store" or "engine". */
  readonly waiting_for: string | null;
  /** 1, or more after failed runs: at most `retries` + 1. */
  readonly attempt: number;
  readonly retries: number;
  /** The earlier runs, oldest first. */
  readonly history: readonly BackjobRun[];
}

/** An earlier run of a job. Times are ISO 8601 in UTC. */
export interface BackjobRun {
  readonly run: number;
  readonly begin: string | null;
  readonly end: string;
  /** Why it ended; "continued" if the next run is its next slice. */
  readonly reason: string;
}

/**
 * The element's texts. `{time}` in `starts`, `elapsed` and `left` is replaced by a time in the page's language,
 * `{attempt}` and `{attempts}` in `attempt` by numbers.
 */
export interface BackjobTexts {
  started: string;
  /** Instead of `started` while a job waits for another attempt. */
  retrying: string;
  in_progress: string;
  completed: string;
  failed: string;
  cancelled: string;
  starts: string;
  elapsed: string;
  left: string;
  attempt: string;
  history: string;
  result: string;
  cancel: string;
  label: string;
  output: string;
  more: string;
  truncated: string;
  lost: string;
  unknown: string;
  refused: string;
}

export interface BackjobProgressElement extends HTMLElement {
  /** The latest state; null until the first one arrives. */
  readonly state: BackjobState | null;
}

export interface BackjobProgressConstructor {
  new (): BackjobProgressElement;
  /** Texts for all elements; missing ones are in English. An element's attribute `texts` takes precedence. */
  texts: Partial<BackjobTexts>;
}

/** `preventDefault()` on `backjob-done` stops the element from going to `on-done-href`. */
export type BackjobEvent = CustomEvent<BackjobState>;

interface BackjobEvents {
  "backjob-update": BackjobEvent;
  "backjob-done": BackjobEvent;
  "backjob-failed": BackjobEvent;
}

declare global {
  interface HTMLElementTagNameMap {
    "backjob-progress": BackjobProgressElement;
  }
  interface HTMLElementEventMap extends BackjobEvents {}
  interface DocumentEventMap extends BackjobEvents {}
  interface WindowEventMap extends BackjobEvents {}
  interface CustomElementRegistry {
    get(name: "backjob-progress"): BackjobProgressConstructor | undefined;
    whenDefined(name: "backjob-progress"): Promise<BackjobProgressConstructor>;
  }
}
