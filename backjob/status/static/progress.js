// <backjob-progress src="/backjob/ID.TOKEN"> shows a job's progress until its end.
//
// src           the job's status URL, from status_url()
// output        also show the job's output
// cancel        show a button to cancel the job
// stream        use the server's event stream; poll only if there is none
// on-done-href  go to this URL once the job is done; without a value, go to the job's result
// label         the progress bar's name for screen readers
// lang          the language of the words, if it differs from the page's
// texts         replacements for the texts below, as JSON; BackjobProgress.texts replaces them for all elements
//
// BackjobProgress.headers, an object or a function that returns one, are header fields for each request.
//
// Events bubble and have the job's state as their detail: backjob-update after every change, then once backjob-done
// (COMPLETED) or backjob-failed (FAILED, CANCELLED). Everything from a job is inserted as text, never as markup.
(() => {
  "use strict";
  if (customElements.get("backjob-progress")) return;

  const FIRST_WAIT = 500, LONGEST_WAIT = 3000, TIMEOUT = 20000, TICK = 1000; // ms
  const GRACE = 5000; // ms; longer than the 2 s after which the browser reopens a stream that the server has ended
  const LONGEST_STREAM = 310000; // ms; the server ends streams after 300 s, so a longer one has lost its connection
  const MOST_STREAMS = 3; // per page; over HTTP/1.1 browsers open at most six connections to a site
  const LONGEST_HEADLINE = 500; // characters
  const WAITING = 0, RUNNING = 1, COMPLETED = 2;
  const LANGUAGES = "de fr es it pt nl pl ja zh"; // besides English
  const NO_SIGN = "no sign of its process"; // the only text of a running job that is not its action's
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const TEXTS = {
    started: "Waiting to start",
    retrying: "Retrying",
    in_progress: "Running",
    completed: "Done",
    failed: "Failed",
    cancelled: "Cancelled",
    separator: ": ",
    starts: "starts in {time}",
    elapsed: "{time}",
    left: "about {time} left",
    attempt: "attempt {attempt} of {attempts}",
    history: "Earlier runs",
    result: "Open the result",
    file: "Download {name}",
    run_again: "Run again",
    cancel: "Cancel",
    label: "Progress",
    output: "Output",
    more: "There is more output before this.",
    truncated: "The output exceeded the limit; a part is missing here.",
    lost: "Connection lost; reconnecting …",
    unknown: "This job does not exist, or you may not see it.",
    refused: "The job could not be cancelled.",
    not_again: "The job could not be started again.",
    log_in: "You are not logged in. Log in, then try again.",
  };
  let streams = 0;

  const visible = () => new Promise((resolve) => {
    if (!document.hidden) return resolve();
    const check = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", check);
      resolve();
    };
    document.addEventListener("visibilitychange", check);
  });

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  // Screen readers announce a live region whenever it is set, even to the same text.
  const set = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  // The result is untrusted: allow no javascript: or data: links.
  const safeLink = (href) => {
    if (!href || typeof href !== "string") return null;
    try {
      const url = new URL(href, document.baseURI);
      return ["http:", "https:"].includes(url.protocol) ? url.href : null;
    } catch {
      return null;
    }
  };

  class BackjobProgress extends HTMLElement {
    static observedAttributes = ["src", "texts", "lang"];
    static texts = {};
    static headers = {};
    #ownTexts = {}; // from the attribute
    #spoken = {}; // the language, with its words, if it is not English
    #run = 0; // increases when watching starts or stops; results that an older run still receives are ignored
    #abort = () => {}; // ends the current request or stream
    #wake = () => {}; // ends the wait between two polls
    #ticker = 0;
    #parts = null;
    #offset = 0;
    #screen = null; // a promise
    #state = null;
    #last = "";
    #endedSrc; // the src whose end event has fired
    #clockOffset = -Infinity; // ms that the server's clock is ahead
    #mark = null; // the latest progress, and the seconds it took to get there

    get state() {
      return this.#state;
    }

    connectedCallback() {
      if (this.#endedSrc !== this.getAttribute("src")) this.#start();
    }

    disconnectedCallback() {
      this.#stop();
    }

    attributeChangedCallback(name, before, now) {
      if (name === "texts") this.#ownTexts = this.#parse(now);
      else if (this.isConnected && before !== now && this.#run) this.#start();
    }

    #start() {
      this.#stop();
      if (this.#parts) {
        this.replaceChildren();
        this.removeAttribute("data-status");
        this.removeAttribute("data-lost");
      }
      this.#parts = this.#screen = this.#state = this.#mark = null;
      this.#offset = 0;
      this.#last = "";
      this.#endedSrc = undefined;
      if (!this.hasAttribute("src")) return; // a fragment from the server
      // Server-rendered content stays until the first state arrives. A loading page may not have parsed it yet.
      if (!this.firstElementChild && document.readyState !== "loading") this.#build();
      this.#watch(this.#run);
    }

    #stop() {
      this.#run += 1;
      this.#abort();
      this.#wake();
      clearInterval(this.#ticker);
    }

    // --- watching ---

    async #watch(run) {
      let wait = FIRST_WAIT, refusals = 0;
      const words = this.#load();
      this.#ticker = setInterval(() => document.hidden || this.#tick(), TICK);
      for (;;) {
        await visible();
        if (run !== this.#run) return;
        try {
          const before = this.#last;
          this.#spoken = await words;
          if (run !== this.#run || await this.#poll(run)) return;
          wait = this.#last === before ? Math.min(wait * 1.5, LONGEST_WAIT) : FIRST_WAIT;
          if (this.hasAttribute("stream") && !document.hidden && refusals < 2 && streams < MOST_STREAMS) {
            const end = await this.#stream(run);
            if (end === "over") return;
            if (end === "hidden") continue;
            refusals = end === "refused" ? refusals + 1 : 0;
          }
        } catch ({ later }) {
          if (run !== this.#run) return;
          if (!later) this.#showLost();
          wait = later || Math.min(wait * 2, LONGEST_WAIT);
        }
        await new Promise((resolve) => {
          this.#wake = resolve;
          setTimeout(resolve, wait);
        });
      }
    }

    // The page's language, unless it is English or can't be loaded.
    async #load() {
      const tag = this.#language?.split("-")[0], folder = new URL(this.getAttribute("src"), document.baseURI);
      if (!LANGUAGES.includes(tag)) return {};
      return import(new URL("words.js", folder)).then(({ language }) => language(folder, tag)).catch(() => ({}));
    }

    // The URL of a part of the job: the one in its state, which may have another token, or the one below `src`.
    #url(name) {
      const src = new URL(this.getAttribute("src"), document.baseURI), link = this.#state?.links?.[name];
      return link ? new URL(link, src).href : `${src}/${name}`;
    }

    async #fetch(url, method) {
      const request = new AbortController(), { headers } = BackjobProgress;
      const timer = setTimeout(() => request.abort(), TIMEOUT);
      if (!method) this.#abort = () => request.abort();
      try {
        const own = await (typeof headers === "function" ? headers() : headers);
        const response = await fetch(url, {
          headers: { Accept: "application/json", ...own }, cache: "no-store", signal: request.signal, method,
        });
        const { status, ok } = response, field = (name) => response.headers.get(name);
        const date = Date.parse(field("Date")) || 0, after = field("Retry-After");
        const later = status === 429 && (after > 0 ? after * 1000 : Date.parse(after) - (date || Date.now()));
        if (later) throw Object.assign(new Error("too many requests"), { later: Math.max(later, FIRST_WAIT) });
        return { status, ok, date, body: ok || status === 409 ? await response.json() : null };
      } finally {
        clearTimeout(timer);
      }
    }

    async #get(run, url) {
      const response = await this.#fetch(url);
      if (run !== this.#run) throw new Error("superseded");
      return response;
    }

    // Poll once. Returns whether the job has ended or is unknown, so that polling stops.
    async #poll(run) {
      const { status, ok, date, body: state } = await this.#get(run, this.getAttribute("src"));
      if ([401, 403, 404, 410].includes(status)) {
        this.#showStatus(this.#texts().unknown, "");
        this.#parts.bar.value = this.#state?.progress ?? 0;
        this.#showButton(this.#parts.cancel, false);
        set(this.#parts.time, "");
        this.dataset.status = "unknown";
        this.removeAttribute("data-lost");
        this.#stop();
        return true;
      }
      if (!ok) throw new Error(`status ${status}`);
      if (this.hasAttribute("output") && JSON.stringify(state) !== this.#last) await this.#readOutput(run);
      return this.#accept(run, state, date);
    }

    async #readOutput(run) {
      for (let text = "", offset = this.#offset; ; ) {
        const { ok, status, body: chunk } = await this.#get(run, `${this.#url("output")}?offset=${offset}`);
        if (!ok) throw new Error(`status ${status}`);
        if (chunk.next_offset <= offset) return this.#append({ ...chunk, text, next_offset: offset });
        text += chunk.text;
        offset = chunk.next_offset;
      }
    }

    // Stream until it ends. Returns how: "over", "hidden", "refused" (before the first event) or "cut".
    #stream(run) {
      return new Promise((resolve) => {
        const output = this.hasAttribute("output");
        const source = new EventSource(
          `${this.#url("events")}?offset=${this.#offset}${output ? "" : "&output=0"}`,
        );
        let began = false, closed = false, lossTimer = 0, eventTimer = 0, lifeTimer = 0;
        const close = (how = began ? "cut" : "refused") => {
          if (closed) return;
          closed = true;
          source.close();
          for (const timer of [lossTimer, eventTimer, lifeTimer]) clearTimeout(timer);
          document.removeEventListener("visibilitychange", hide);
          streams -= 1;
          resolve(how);
        };
        const hide = () => document.hidden && close("hidden");
        // A proxy may buffer an open stream, so wait for an event: the server sends a state after each connection.
        const expectEvent = () => (eventTimer ||= setTimeout(() => close(), TIMEOUT));
        const listen = (name, handle) => source.addEventListener(name, (event) => {
          began = true;
          clearTimeout(lossTimer);
          clearTimeout(eventTimer);
          lossTimer = eventTimer = 0;
          handle(JSON.parse(event.data));
        });
        streams += 1;
        this.#abort = () => close("over");
        document.addEventListener("visibilitychange", hide);
        expectEvent();
        source.onopen = () => {
          clearTimeout(lifeTimer);
          lifeTimer = setTimeout(() => close(), LONGEST_STREAM);
        };
        source.onerror = () => {
          if (source.readyState === EventSource.CLOSED) return close();
          lossTimer ||= setTimeout(() => this.#showLost(), GRACE);
          expectEvent();
        };
        listen("output", (chunk) => this.#append(chunk));
        for (const name of ["state", "end"]) listen(name, (state) => this.#accept(run, state, 0) && close("over"));
      });
    }

    // Process a state. Returns whether it was the last one.
    #accept(run, state, date) {
      const now = JSON.stringify(state), final = state.end_time !== null, changed = now !== this.#last;
      this.#clockOffset = Math.max(this.#clockOffset, Math.max(date, Date.parse(state.updated_time)) - Date.now());
      this.#state = state;
      this.#last = now;
      if (this.#mark?.progress !== state.progress) this.#mark = { progress: state.progress, after: Math.max(this.#elapsed(), 0.1) };
      this.#show();
      if (changed) this.#fire("backjob-update");
      if (run !== this.#run || !final) return run !== this.#run;
      clearInterval(this.#ticker);
      this.#endedSrc = this.getAttribute("src");
      const done = state.status === COMPLETED;
      const stays = !this.#fire(done ? "backjob-done" : "backjob-failed");
      const href = safeLink(this.getAttribute("on-done-href") || state.result?.href);
      if (done && !stays && href && this.hasAttribute("on-done-href")) location.replace(href);
      return true;
    }

    #fire(name) {
      return this.dispatchEvent(new CustomEvent(name, { bubbles: true, cancelable: true, detail: this.#state }));
    }

    // Cancel the job, or start it again and show the new one.
    async #post(button, name, refusal) {
      const run = this.#run, { alert } = this.#parts;
      if (button.ariaDisabled) return; // the attribute disabled would lose the focus
      button.ariaDisabled = "true";
      alert.hidden = true;
      const { status, ok, body } = await this.#fetch(this.#url(name), "POST").catch(() => ({ status: 0 }));
      if (run !== this.#run) return;
      button.ariaDisabled = null;
      const links = ok && name === "run_again" && body.links;
      if (links) {
        this.setAttribute("src", (links.cancel || links.self).replace(/\/cancel$/, ""));
        this.#build().status.focus();
      } else if (ok || (status === 409 && name === "cancel")) {
        this.#wake();
      } else {
        alert.hidden = false;
        set(alert, this.#texts()[status === 403 ? "log_in" : refusal]);
      }
    }

    // --- rendering ---

    #parse(texts) {
      try {
        return JSON.parse(texts || "{}");
      } catch (error) {
        console.error("backjob-progress: texts is not JSON:", error.message);
        return {};
      }
    }

    #texts() {
      return { ...TEXTS, ...this.#spoken.words, ...BackjobProgress.texts, ...this.#ownTexts };
    }

    #build() {
      if (this.#parts) return this.#parts;
      const parts = {
        state: make("span", { part: "state", role: "status" }),
        text: make("span", { part: "text" }),
        percent: make("span", { part: "percent" }),
        bar: make("progress", { part: "bar", max: 100 }),
        time: make("span", { part: "time" }),
        attempt: make("span", { part: "attempt", hidden: "" }),
        history: make("details", { part: "history", hidden: "" }),
        runs: make("ol"),
        earlier: make("summary"),
        result: make("a", { part: "result", rel: "noopener noreferrer", hidden: "" }),
        file: make("a", { part: "file", download: "", hidden: "" }),
        run_again: make("button", { part: "run-again", type: "button", hidden: "" }),
        cancel: make("button", { part: "cancel", type: "button", hidden: "" }),
        alert: make("p", { part: "alert", role: "alert", hidden: "" }),
        more: make("p", { part: "note", hidden: "" }),
        output: make("pre", { part: "output", role: "group", tabindex: 0, hidden: "" }),
        lines: make("span"),
        truncated: make("span", { part: "note" }),
        tail: make("span"),
      };
      [parts.word, parts.colon] = [new Text(), new Text()];
      parts.state.append(parts.word);
      parts.status = make("p", { part: "status", tabindex: -1 }, parts.state, parts.colon, parts.text);
      parts.history.append(parts.earlier, parts.runs);
      parts.cancel.addEventListener("click", () => this.#post(parts.cancel, "cancel", "refused"));
      parts.run_again.addEventListener("click", () => this.#post(parts.run_again, "run_again", "not_again"));
      parts.output.append(parts.lines);
      this.#parts = parts;
      this.#applyTexts();
      this.replaceChildren(
        make("div", { part: "head" }, parts.status, parts.percent),
        parts.bar,
        make("div", { part: "foot" }, parts.time, parts.attempt, parts.result, parts.file, parts.run_again, parts.cancel),
        parts.alert, parts.history, parts.more, parts.output,
      );
      return parts;
    }

    #applyTexts() {
      const words = this.#texts(), parts = this.#parts;
      for (const name of ["result", "run_again", "cancel", "more", "truncated"]) set(parts[name], words[name]);
      parts.bar.ariaLabel = this.getAttribute("label") || words.label;
      parts.output.ariaLabel = words.output;
      set(parts.earlier, words.history);
      return words;
    }

    // Screen readers announce `state`: one word while the job is unfinished, then how it ended.
    #showStatus(word, text, final = false) {
      const parts = this.#build(), home = final ? parts.state : parts.status;
      if (parts.text.parentNode !== home) home.append(parts.colon, parts.text);
      set(parts.word, word);
      set(parts.colon, text && this.#texts().separator);
      set(parts.text, text);
    }

    #showLost() {
      this.dataset.lost = "";
      if (this.#parts || !this.firstElementChild) this.#showStatus(this.#texts().lost, "");
    }

    // Show a chunk as a terminal would; terminal.js does it, and is loaded with the first output.
    async #append({ text, next_offset: offset, truncated, tail }) {
      const { output, lines, more, truncated: note, tail: end } = this.#build();
      if (truncated && !note.parentNode) output.append(note, end);
      if (offset > this.#offset) this.#offset = offset;
      else if (tail) text = "";
      else return;
      const file = new URL("terminal.js", new URL(this.getAttribute("src"), document.baseURI));
      this.#screen ??= import(file).then(({ Screen }) => new Screen(lines, end), () => ({ feed: (text) => lines.append(text) }));
      const screen = await this.#screen; // for each chunk in turn
      if (output !== this.#parts?.output) return;
      const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 8; // px
      output.hidden = false;
      if (screen.feed(text, tail)) more.hidden = false;
      if (atEnd) output.scrollTop = output.scrollHeight;
      if (this.#state) this.#show(); // the status text may repeat the output
    }

    #show() {
      const state = this.#state, final = state.end_time !== null, name = state.status_name.toLowerCase();
      const { bar, percent, result, file, output } = this.#build();
      const words = this.#applyTexts();

      // If the action sets no status text, the status text is the end of the output, which may already be shown below.
      let text = state.status_text.trim();
      if (text.length > LONGEST_HEADLINE || (text.includes("\n") && output.textContent.includes(text)))
        text = text.slice(text.lastIndexOf("\n") + 1).slice(0, LONGEST_HEADLINE);
      const word = words[name === "started" && state.attempt > 1 ? "retrying" : name];
      if ([word, TEXTS[name]].some((same) => same.toLowerCase() === text.toLowerCase())) text = "";
      else if (![RUNNING, COMPLETED].includes(state.status) || text === NO_SIGN) text = this.#spoken.text?.(text) ?? text;
      this.#showStatus(word, text, final);
      this.removeAttribute("data-lost");
      this.dataset.status = name;

      const known = state.progress > 0 || final;
      if (known) bar.value = state.progress;
      else bar.removeAttribute("value");
      set(percent, known ? this.#formatted(state.progress / 100, { style: "percent" }) : "");
      this.#tick();

      const href = safeLink(state.result?.href);
      result.hidden = !href;
      if (href) result.href = href;
      file.hidden = !state.file;
      if (state.file) {
        file.href = this.#url("file");
        set(file, words.file.replace("{name}", () => state.file.name));
      }
      const { cancel, run_again: again } = this.#parts, links = state.links;
      this.#showButton(cancel, !final && this.hasAttribute("cancel") && (!links || links.cancel));
      this.#showButton(again, final && links?.run_again);
      this.#showRuns(state, words);
    }

    // While a retry waits, the status text says which attempt it is.
    #showRuns({ attempt = 1, retries = 0, history = [], status }, words) {
      const parts = this.#parts;
      parts.attempt.hidden = !(attempt > 1 && status === RUNNING);
      set(parts.attempt, words.attempt.replace("{attempt}", attempt).replace("{attempts}", retries + 1));
      parts.history.hidden = !history.length;
      const reasonOf = (reason) => this.#spoken.reason?.(reason) ?? reason;
      const lines = history.map(({ begin, end, reason }) => this.#span(begin, end) + words.separator + reasonOf(reason));
      if (parts.runs.childElementCount === lines.length && parts.runs.lastChild?.textContent === lines.at(-1)) return;
      parts.runs.replaceChildren(...lines.map((line) => make("li", {}, line)));
    }

    // Show or hide a button; when it is hidden, its focus moves to the status.
    #showButton(button, shown) {
      const focused = document.activeElement === button;
      button.hidden = !shown;
      if (focused && !shown) this.#parts.status.focus();
    }

    // --- time ---

    // The tag of the page's language; undefined, the browser's, if the page has none or it is not valid.
    get #language() {
      try {
        return Intl.getCanonicalLocales(this.closest("[lang]")?.lang || [])[0];
      } catch {}
    }

    #formatted(value, options) {
      return new Intl.NumberFormat(this.#language, options).format(value);
    }

    // Seconds from the job's due time until now, or until its end.
    #elapsed() {
      const { start_time: start, end_time: end } = this.#state;
      return ((end === null ? Date.now() + this.#clockOffset : Date.parse(end)) - Date.parse(start)) / 1000;
    }

    // The time of an earlier run, in the page's language and the visitor's time zone.
    #span(begin, end) {
      const times = [begin, end].filter(Boolean).map((time) => new Date(time));
      const format = new Intl.DateTimeFormat(this.#language, { dateStyle: "medium", timeStyle: "medium" });
      return times.length === 2 ? format.formatRange(...times) : times.map((time) => format.format(time)).join();
    }

    // Seconds left at the pace so far. Counts down until the next percent is due, then stops until it arrives.
    #left(elapsed) {
      const { progress, after } = this.#mark;
      if (this.#state.status !== RUNNING || progress === 0 || elapsed < 2) return 0;
      const reached = Math.min(progress + ((elapsed - after) / after) * progress, progress + 1);
      const left = (elapsed / reached) * (100 - reached);
      return left < 60 ? Math.ceil(left / 5) * 5 : Math.ceil(left / 60) * 60;
    }

    #duration(seconds) {
      const largest = Math.max(0, UNITS.findIndex(([, size]) => seconds >= size));
      const shown = [];
      for (const [unit, size] of seconds < 1 ? UNITS.slice(-1) : UNITS.slice(largest, largest + 2)) {
        const count = Math.floor(seconds / size);
        seconds -= count * size;
        if (count || !shown.length) shown.push(this.#formatted(count, { style: "unit", unit, unitDisplay: "short" }));
      }
      return shown.join(" ");
    }

    #tick() {
      if (!this.#state) return;
      const words = this.#texts(), elapsed = this.#elapsed(), waiting = this.#state.status === WAITING;
      const timeText = (name, seconds) => words[name].replace("{time}", this.#duration(seconds));
      const shown = [];
      if (elapsed >= (waiting ? 1 : 0)) shown.push(timeText("elapsed", elapsed));
      else if (waiting && elapsed <= -1) shown.push(timeText("starts", -elapsed));
      const left = this.#left(elapsed);
      if (left > 0) shown.push(timeText("left", left));
      set(this.#parts.time, shown.join(" · "));
    }
  }

  customElements.define("backjob-progress", BackjobProgress);
})();
