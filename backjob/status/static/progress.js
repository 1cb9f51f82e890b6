// <backjob-progress src="/backjob/ID.TOKEN">: shows a job's progress until its end.
//
// src           the job's status address, as status_url() gives it
// output        show the job's output too
// cancel        show a button to cancel the job
// stream        listen to the server's events; ask again and again only where it has none
// on-done-href  go there once the job is done; without a value, to the job's result
// label         the bar's name for screen readers
// texts         words of another language, as JSON; BackjobProgress.texts has them for all elements
//
// Events, all bubbling, with the job's state as their detail: backjob-update after every change, then once backjob-done
// (COMPLETED) or backjob-failed (FAILED, CANCELLED). Whatever a job says is set as text, never as markup.
(() => {
  "use strict";
  if (customElements.get("backjob-progress")) return;

  const FIRST_WAIT = 500, LONGEST_WAIT = 3000, PATIENCE = 20000, TICK = 1000; // ms
  const GRACE = 5000; // ms; a stream that the server ends in time is opened again within 2 s
  const LONGEST_STREAM = 310000; // ms; the server ends each within 300 s, unless the connection has died unnoticed
  const MOST_STREAMS = 3; // in a page: over HTTP/1.1 a browser has six connections for all of a site
  const LONGEST_HEADLINE = 500, LONGEST_OUTPUT = 1 << 18; // characters; of a longer one half is shown
  const WAITING = 0, RUNNING = 1, COMPLETED = 2;
  const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const TEXTS = {
    started: "Waiting to start",
    in_progress: "Running",
    completed: "Done",
    failed: "Failed",
    cancelled: "Cancelled",
    starts: "starts in {time}",
    elapsed: "{time}",
    left: "about {time} left",
    result: "Open the result",
    cancel: "Cancel",
    label: "Progress",
    output: "Output",
    more: "There is more output before this.",
    truncated: "The output was longer than is kept; the rest is missing.",
    lost: "Connection lost; trying again …",
    unknown: "This job is not known here, or is not yours to see.",
    refused: "The job could not be cancelled.",
  };
  let streams = 0;

  const visible = () => new Promise((resolve) => {
    if (!document.hidden) return resolve();
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });

  const make = (name, attributes, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  // A live region speaks up when it is set, be it to the same words.
  const set = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  // A result may come from anywhere; javascript: and data: are no links to follow.
  const safeLink = (href) => {
    if (!href || typeof href !== "string") return null;
    try {
      const url = new URL(href, document.baseURI);
      return ["http:", "https:"].includes(url.protocol) ? url.href : null;
    } catch {
      return null;
    }
  };

  const formatted = (value, language, options) => {
    try {
      return new Intl.NumberFormat(language, options).format(value);
    } catch {
      return new Intl.NumberFormat(undefined, options).format(value); // no such language
    }
  };

  class BackjobProgress extends HTMLElement {
    static observedAttributes = ["src", "texts"];
    static texts = TEXTS;
    #own = {}; // texts
    #turn = 0; // grows when watching begins anew or ends: what an older turn still hears does not count
    #leave = () => {}; // ends a request or a stream that nobody waits for any more
    #wake = () => {}; // ends the wait between two looks
    #ticking = 0;
    #parts = null;
    #offset = 0;
    #state = null;
    #last = "";
    #told; // the src whose end was told
    #ahead = -Infinity; // ms, the server's clock before this one
    #mark = null; // the newest progress, and the seconds it took

    get state() {
      return this.#state;
    }

    connectedCallback() {
      if (this.#told !== this.getAttribute("src")) this.#start();
    }

    disconnectedCallback() {
      this.#stop();
    }

    attributeChangedCallback(name, before, now) {
      if (name === "texts") this.#own = this.#read(now);
      else if (this.isConnected && before !== now && this.#turn) this.#start();
    }

    #start() {
      this.#stop();
      if (this.#parts) {
        this.replaceChildren();
        this.removeAttribute("data-status");
        this.removeAttribute("data-lost");
      }
      this.#parts = this.#state = this.#mark = null;
      this.#offset = 0;
      this.#last = "";
      this.#told = undefined;
      if (!this.hasAttribute("src")) return; // a fragment of the server's
      // What the server rendered stays until there is something newer; while the page loads it may be still to come.
      if (!this.firstElementChild && document.readyState !== "loading") this.#build();
      this.#watch(this.#turn);
    }

    #stop() {
      this.#turn += 1;
      this.#leave();
      this.#wake();
      clearInterval(this.#ticking);
    }

    // --- watching ---

    async #watch(turn) {
      let wait = FIRST_WAIT, refusals = 0;
      this.#ticking = setInterval(() => document.hidden || this.#tick(), TICK);
      for (;;) {
        await visible();
        if (turn !== this.#turn) return;
        try {
          const before = this.#last;
          if (await this.#look(turn)) return;
          wait = this.#last === before ? Math.min(wait * 1.5, LONGEST_WAIT) : FIRST_WAIT;
          if (this.hasAttribute("stream") && !document.hidden && refusals < 2 && streams < MOST_STREAMS) {
            const end = await this.#stream(turn);
            if (end === "over") return;
            if (end === "hidden") continue;
            refusals = end === "refused" ? refusals + 1 : 0;
          }
        } catch {
          if (turn !== this.#turn) return;
          this.#lose();
          wait = Math.min(wait * 2, LONGEST_WAIT);
        }
        await new Promise((resolve) => {
          this.#wake = resolve;
          setTimeout(resolve, wait);
        });
      }
    }

    async #fetch(path, options) {
      const request = new AbortController();
      const timer = setTimeout(() => request.abort(), PATIENCE);
      if (!options) this.#leave = () => request.abort();
      try {
        const response = await fetch(this.getAttribute("src") + path, {
          headers: { Accept: "application/json" }, cache: "no-store", signal: request.signal, ...options,
        });
        const { status, ok, headers } = response;
        return { status, ok, date: Date.parse(headers.get("Date")) || 0, body: ok || status === 409 ? await response.json() : null };
      } finally {
        clearTimeout(timer);
      }
    }

    async #get(turn, path) {
      const answer = await this.#fetch(path);
      if (turn !== this.#turn) throw new Error("no longer wanted");
      return answer;
    }

    // Ask once; whether there is nothing more to ask.
    async #look(turn) {
      const { status, ok, date, body: state } = await this.#get(turn, "");
      if ([401, 403, 404, 410].includes(status)) {
        this.#say(this.#words().unknown, "");
        this.#parts.bar.value = this.#state?.progress ?? 0;
        this.#offer(false);
        this.removeAttribute("data-lost");
        this.#stop();
        return true;
      }
      if (!ok) throw new Error(`status ${status}`);
      if (this.hasAttribute("output") && JSON.stringify(state) !== this.#last) await this.#follow(turn);
      return this.#accept(turn, state, date);
    }

    async #follow(turn) {
      for (let text = "", offset = this.#offset; ; ) {
        const { ok, status, body: piece } = await this.#get(turn, `/output?offset=${offset}`);
        if (!ok) throw new Error(`status ${status}`);
        if (piece.next_offset <= offset) return this.#append({ ...piece, text, next_offset: offset });
        text += piece.text;
        offset = piece.next_offset;
      }
    }

    // Listen until the stream ends; how it did: "over", "hidden", "refused" before a first event, or "cut".
    #stream(turn) {
      return new Promise((resolve) => {
        const output = this.hasAttribute("output");
        const source = new EventSource(
          `${this.getAttribute("src")}/events?offset=${this.#offset}${output ? "" : "&output=0"}`,
        );
        let began = false, left = false, silence = 0, patience = 0, life = 0;
        const leave = (how = began ? "cut" : "refused") => {
          if (left) return;
          left = true;
          source.close();
          for (const timer of [silence, patience, life]) clearTimeout(timer);
          document.removeEventListener("visibilitychange", hide);
          streams -= 1;
          resolve(how);
        };
        const hide = () => document.hidden && leave("hidden");
        // A connection alone says little: a proxy may keep back what comes by it. A state follows each.
        const doubt = () => (patience ||= setTimeout(() => leave(), PATIENCE));
        const hear = (name, handle) => source.addEventListener(name, (event) => {
          began = true;
          clearTimeout(silence);
          clearTimeout(patience);
          silence = patience = 0;
          handle(JSON.parse(event.data));
        });
        streams += 1;
        this.#leave = () => leave("over");
        document.addEventListener("visibilitychange", hide);
        doubt();
        source.onopen = () => {
          clearTimeout(life);
          life = setTimeout(() => leave(), LONGEST_STREAM);
        };
        source.onerror = () => {
          if (source.readyState === EventSource.CLOSED) return leave();
          silence ||= setTimeout(() => this.#lose(), GRACE);
          doubt();
        };
        hear("output", (piece) => {
          this.#append(piece);
          if (this.#state) this.#show(); // a status text that is the output's end came before it
        });
        for (const name of ["state", "end"]) hear(name, (state) => this.#accept(turn, state, 0) && leave("over"));
      });
    }

    // Take in a state; whether it was the last.
    #accept(turn, state, date) {
      const now = JSON.stringify(state), final = state.end_time !== null, changed = now !== this.#last;
      this.#ahead = Math.max(this.#ahead, Math.max(date, Date.parse(state.updated_time)) - Date.now());
      this.#state = state;
      this.#last = now;
      if (this.#mark?.progress !== state.progress) this.#mark = { progress: state.progress, after: Math.max(this.#elapsed(), 0.1) };
      this.#show();
      if (changed) this.#tell("backjob-update");
      if (turn !== this.#turn || !final) return turn !== this.#turn;
      clearInterval(this.#ticking);
      this.#told = this.getAttribute("src");
      const done = state.status === COMPLETED;
      const stays = !this.#tell(done ? "backjob-done" : "backjob-failed");
      const href = safeLink(this.getAttribute("on-done-href") || state.result?.href);
      if (done && !stays && href && this.hasAttribute("on-done-href")) location.replace(href);
      return true;
    }

    #tell(name) {
      return this.dispatchEvent(new CustomEvent(name, { bubbles: true, cancelable: true, detail: this.#state }));
    }

    async #cancel() {
      const turn = this.#turn, { cancel, alert } = this.#parts;
      if (cancel.ariaDisabled) return; // a button that is disabled would lose the focus
      cancel.ariaDisabled = "true";
      alert.hidden = true;
      const { status } = await this.#fetch("/cancel", { method: "POST" }).catch(() => ({ status: 0 }));
      if (turn !== this.#turn) return;
      cancel.ariaDisabled = null;
      if (status === 200 || status === 409) {
        this.#wake(); // and see
      } else {
        alert.hidden = false;
        set(alert, this.#words().refused);
      }
    }

    // --- showing ---

    #read(texts) {
      try {
        return JSON.parse(texts || "{}");
      } catch (error) {
        console.error("backjob-progress: texts is not JSON:", error.message);
        return {};
      }
    }

    #words() {
      return { ...TEXTS, ...BackjobProgress.texts, ...this.#own };
    }

    #build() {
      if (this.#parts) return this.#parts;
      const parts = {
        state: make("span", { part: "state", role: "status" }),
        text: make("span", { part: "text" }),
        percent: make("span", { part: "percent" }),
        bar: make("progress", { part: "bar", max: 100 }),
        time: make("span", { part: "time" }),
        result: make("a", { part: "result", rel: "noopener noreferrer", hidden: "" }),
        cancel: make("button", { part: "cancel", type: "button", hidden: "" }),
        alert: make("p", { part: "alert", role: "alert", hidden: "" }),
        more: make("p", { part: "note", hidden: "" }),
        output: make("pre", { part: "output", role: "group", tabindex: 0, hidden: "" }),
        truncated: make("p", { part: "note", hidden: "" }),
      };
      parts.word = new Text();
      parts.state.append(parts.word);
      parts.status = make("p", { part: "status", tabindex: -1 }, parts.state, parts.text);
      parts.cancel.addEventListener("click", () => this.#cancel());
      this.#parts = parts;
      this.#dress();
      this.replaceChildren(
        make("div", { part: "head" }, parts.status, parts.percent),
        parts.bar,
        make("div", { part: "foot" }, parts.time, parts.result, parts.cancel),
        parts.alert, parts.more, parts.output, parts.truncated,
      );
      return parts;
    }

    #dress() {
      const words = this.#words(), parts = this.#parts;
      for (const name of ["result", "cancel", "more", "truncated"]) set(parts[name], words[name]);
      parts.bar.ariaLabel = this.getAttribute("label") || words.label;
      parts.output.ariaLabel = words.output;
      return words;
    }

    // What is said in `state` is read out by screen readers: a word while the job lives, and how it ended.
    #say(word, text, final = false) {
      const parts = this.#build(), home = final ? parts.state : parts.status;
      if (parts.text.parentNode !== home) home.append(parts.text);
      set(parts.word, word);
      set(parts.text, text && `: ${text}`);
    }

    #lose() {
      this.dataset.lost = "";
      if (this.#parts || !this.firstElementChild) this.#say(this.#words().lost, "");
    }

    #append({ text, next_offset: offset, truncated }) {
      const { output, more, truncated: note } = this.#build();
      note.hidden = !truncated;
      if (offset <= this.#offset) return;
      this.#offset = offset;
      output.hidden = false;
      const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 8; // px
      output.append(text);
      const size = output.textContent.length;
      if (size > LONGEST_OUTPUT) {
        const whole = output.textContent, from = size - LONGEST_OUTPUT / 2, line = whole.indexOf("\n", from) + 1;
        const within = whole.codePointAt(from - 1) > 0xffff; // a surrogate pair
        output.textContent = whole.slice(line && line < size ? line : from + within);
        more.hidden = false;
      }
      if (atEnd) output.scrollTop = output.scrollHeight;
    }

    #show() {
      const state = this.#state, final = state.end_time !== null, name = state.status_name.toLowerCase();
      const { bar, percent, result, output } = this.#build();
      const words = this.#dress();

      // Without a text of its own a job's status text is the end of its output, which may stand below already.
      let text = state.status_text.trim();
      if (text.length > LONGEST_HEADLINE || (text.includes("\n") && output.textContent.includes(text)))
        text = text.slice(text.lastIndexOf("\n") + 1).slice(0, LONGEST_HEADLINE);
      const word = words[name];
      this.#say(word, text.toLowerCase() === word.toLowerCase() ? "" : text, final);
      this.removeAttribute("data-lost");
      this.dataset.status = name;

      const known = state.progress > 0 || final;
      if (known) bar.value = state.progress;
      else bar.removeAttribute("value");
      set(percent, known ? formatted(state.progress / 100, this.#language, { style: "percent" }) : "");
      this.#tick();

      const href = safeLink(state.result?.href);
      result.hidden = !href;
      if (href) result.href = href;
      this.#offer(!final && this.hasAttribute("cancel"));
    }

    // Show the button or hide it; the focus is not lost with it.
    #offer(shown) {
      const { cancel, status } = this.#parts, focused = document.activeElement === cancel;
      cancel.hidden = !shown;
      if (focused && !shown) status.focus();
    }

    // --- time ---

    get #language() {
      return this.closest("[lang]")?.lang || undefined;
    }

    // The seconds since the job was due, or until its end.
    #elapsed() {
      const { start_time: start, end_time: end } = this.#state;
      return ((end === null ? Date.now() + this.#ahead : Date.parse(end)) - Date.parse(start)) / 1000;
    }

    // The seconds left, at the pace so far. It counts down until the next percent is due, and then waits for it.
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
        if (count || !shown.length) shown.push(formatted(count, this.#language, { style: "unit", unit, unitDisplay: "short" }));
      }
      return shown.join(" ");
    }

    #tick() {
      if (!this.#state) return;
      const words = this.#words(), elapsed = this.#elapsed(), waiting = this.#state.status === WAITING;
      const say = (name, seconds) => words[name].replace("{time}", this.#duration(seconds));
      const shown = [];
      if (elapsed >= (waiting ? 1 : 0)) shown.push(say("elapsed", elapsed));
      else if (waiting && elapsed <= -1) shown.push(say("starts", -elapsed));
      const left = this.#left(elapsed);
      if (left > 0) shown.push(say("left", left));
      set(this.#parts.time, shown.join(" · "));
    }
  }

  customElements.define("backjob-progress", BackjobProgress);
})();
