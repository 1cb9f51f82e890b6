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
  /** The job's own title, or its path. */
  readonly title: string;
  readonly method: string;
  readonly path: string;
  readonly queue: string;
  readonly created_time: string | null;
  /** When the job first ran; null before. */
  readonly claimed_time: string | null;
  /** The file that the job has made; `links.file` is its URL. */
  readonly file: { readonly name: string; readonly type: string; readonly size: number } | null;
  /** URLs for what this visitor may do now; null for everything else. */
  readonly links?: BackjobLinks;
}

/** Relative to the URL of the state, unless it was requested with `absolute=1`. */
export interface BackjobLinks {
  readonly self: string;
  readonly events: string | null;
  readonly output: string;
  readonly file: string | null;
  readonly cancel: string | null;
  readonly run_again: string | null;
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
  /** Between a word and the job's text: ": ". */
  separator: string;
  starts: string;
  elapsed: string;
  left: string;
  attempt: string;
  history: string;
  result: string;
  /** `{name}` is the file's name. */
  file: string;
  run_again: string;
  cancel: string;
  label: string;
  output: string;
  more: string;
  truncated: string;
  lost: string;
  unknown: string;
  refused: string;
  not_again: string;
  log_in: string;
}

/** The element's attributes, for JSX and Vue. An attribute without a value, such as `output`, is `""` or true. */
export interface BackjobProgressAttributes {
  /** The job's status URL. */
  src?: string;
  output?: boolean | "";
  cancel?: boolean | "";
  stream?: boolean | "";
  /** The URL to go to when the job is done; `""`: its result. */
  "on-done-href"?: string;
  /** The bar's name for screen readers. */
  label?: string;
  lang?: string;
  /** `BackjobTexts` as JSON. */
  texts?: string;
}

export interface BackjobProgressElement extends HTMLElement {
  /** The latest state; null until the first one arrives. */
  readonly state: BackjobState | null;
}

export interface BackjobProgressConstructor {
  new (): BackjobProgressElement;
  /** Texts for all elements, instead of those of the page's language. An element's attribute `texts` takes precedence. */
  texts: Partial<BackjobTexts>;
  /** Header fields for all requests, such as `Authorization`, or a function that returns them. */
  headers: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
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

// The next lines need the types of React or Vue only if they are installed; otherwise they declare nothing.
// @ts-ignore
declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "backjob-progress": BackjobProgressAttributes & {
        children?: unknown;
        className?: string;
        id?: string;
        key?: string | number | null;
        ref?: ((element: BackjobProgressElement | null) => void) | { current: BackjobProgressElement | null } | null;
        style?: object;
        "onbackjob-update"?: (event: BackjobEvent) => void;
        "onbackjob-done"?: (event: BackjobEvent) => void;
        "onbackjob-failed"?: (event: BackjobEvent) => void;
      };
    }
  }
}

// @ts-ignore
declare module "vue" {
  interface GlobalComponents {
    "backjob-progress": new () => {
      $props: BackjobProgressAttributes & {
        onBackjobUpdate?: (event: BackjobEvent) => void;
        onBackjobDone?: (event: BackjobEvent) => void;
        onBackjobFailed?: (event: BackjobEvent) => void;
      };
    };
  }
}
