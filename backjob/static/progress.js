// <backjob-progress src="/backjob/ID.TOKEN" output cancel label="…">: shows a job's progress until its end.
//
// src     the job's status address, as status_url() gives it
// output  show the job's output too
// cancel  show a button to cancel the job
//
// Events, all bubbling, with the job's state as their detail: backjob-update after every change, then once backjob-done
// (COMPLETED) or backjob-failed (FAILED, CANCELLED). Whatever a job says is set as text, never as markup.
(() => {
  "use strict";
  if (customElements.get("backjob-progress")) return;

  const FIRST_WAIT = 500, LONGEST_WAIT = 3000, PATIENCE = 20000; // ms
  const LONGEST_HEADLINE = 500; // characters
  const COMPLETED = 2;
  const WORDS = ["Waiting to start", "Running", "Done", "Failed", "Cancelled"];

  const visible = () => new Promise((resolve) => {
    if (!document.hidden) return resolve();
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
  });

  const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));

  const make = (name, attributes, text = "") => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };

  // A result may come from anywhere; javascript: and data: are no links to follow.
  const safeLink = (result) => {
    if (!result || typeof result.href !== "string") return null;
    try {
      const url = new URL(result.href, document.baseURI);
      return ["http:", "https:"].includes(url.protocol) ? url.href : null;
    } catch {
      return null;
    }
  };

  class BackjobProgress extends HTMLElement {
    static observedAttributes = ["src"];
    #turn = 0; // grows when watching begins anew or ends: what an older turn still hears does not count
    #request = null;
    #parts = null;
    #offset = 0;

    connectedCallback() {
      this.#start();
    }

    disconnectedCallback() {
      this.#stop();
    }

    attributeChangedCallback(_name, before, now) {
      if (this.isConnected && before !== now && this.#turn) this.#start();
    }

    #start() {
      this.#stop();
      if (this.#parts) this.replaceChildren();
      this.#parts = null;
      this.#offset = 0;
      if (!this.firstElementChild) this.#build(); // what the server rendered stays until there is something newer
      if (this.hasAttribute("src")) this.#watch(this.#turn);
    }

    #stop() {
      this.#turn += 1;
      this.#request?.abort();
    }

    #build() {
      if (this.#parts) return this.#parts;
      const label = this.getAttribute("label") || "Progress";
      const line = make("div", { part: "line" });
      const parts = {
        bar: make("progress", { part: "bar", max: 100, "aria-label": label }),
        percent: make("span", { part: "percent" }),
        status: make("p", { part: "status", role: "status", "aria-live": "polite" }),
        result: make("p", { part: "result", hidden: "" }),
        cancel: make("button", { part: "cancel", type: "button", hidden: "" }, "Cancel"),
        output: make("pre", { part: "output", role: "region", "aria-label": "Output", tabindex: 0, hidden: "" }),
        note: make("p", { part: "note", hidden: "" }, "The output was longer than is kept; the rest is missing."),
      };
      parts.cancel.addEventListener("click", () => this.#cancel());
      line.append(parts.bar, parts.percent);
      this.replaceChildren(line, parts.status, parts.result, parts.cancel, parts.output, parts.note);
      return (this.#parts = parts);
    }

    #say(text) {
      const { status } = this.#build();
      if (status.textContent !== text) status.textContent = text;
    }

    #fetch(path, options) {
      const request = new AbortController();
      const timer = setTimeout(() => request.abort(), PATIENCE);
      const answered = fetch(this.getAttribute("src") + path, {
        headers: { Accept: "application/json" }, cache: "no-store", signal: request.signal, ...options,
      }).then(async (response) => ({ status: response.status, ok: response.ok, body: await response.json() }));
      return { request, answered: answered.finally(() => clearTimeout(timer)) };
    }

    async #get(path) {
      const { request, answered } = this.#fetch(path);
      this.#request = request;
      return answered;
    }

    async #watch(turn) {
      let wait = FIRST_WAIT, last = "";
      for (;;) {
        await visible();
        if (turn !== this.#turn) return;
        try {
          const { status, ok, body: state } = await this.#get("");
          if (turn !== this.#turn) return;
          if (status === 404) return this.#say("This job is not known here, or is not yours to see.");
          if (!ok) throw new Error(`status ${status}`);
          if (this.hasAttribute("output")) await this.#follow(turn);
          if (turn !== this.#turn) return;
          this.removeAttribute("data-lost");
          this.#show(state);
          const now = JSON.stringify(state);
          if (now !== last) this.#tell("backjob-update", state);
          if (turn !== this.#turn) return;
          wait = now !== last ? FIRST_WAIT : Math.min(wait * 1.5, LONGEST_WAIT);
          last = now;
          if (state.end_time !== null) {
            this.#tell(state.status === COMPLETED ? "backjob-done" : "backjob-failed", state);
            return;
          }
        } catch {
          if (turn !== this.#turn) return;
          this.setAttribute("data-lost", "");
          this.#say("Connection lost; trying again …");
          wait = Math.min(wait * 2, LONGEST_WAIT);
        }
        await pause(wait);
      }
    }

    async #follow(turn) {
      for (;;) {
        const { ok, status, body: piece } = await this.#get(`/output?offset=${this.#offset}`);
        if (turn !== this.#turn) return;
        if (!ok) throw new Error(`status ${status}`);
        const { output, note } = this.#build();
        note.hidden = !piece.truncated;
        if (piece.next_offset <= this.#offset) return;
        this.#offset = piece.next_offset;
        output.hidden = false;
        const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 8; // px
        output.append(piece.text);
        if (atEnd) output.scrollTop = output.scrollHeight;
      }
    }

    #show(state) {
      const { bar, percent, result, cancel, output } = this.#build();
      const final = state.end_time !== null;
      const known = state.progress > 0 || final;
      if (known) bar.value = state.progress;
      else bar.removeAttribute("value");
      percent.textContent = known ? `${state.progress} %` : "";

      // Without a text of its own a job's status text is the end of its output, which may stand below already.
      let text = state.status_text.trim();
      if (text.length > LONGEST_HEADLINE || (text.includes("\n") && output.textContent.includes(text)))
        text = text.slice(text.lastIndexOf("\n") + 1).slice(0, LONGEST_HEADLINE);
      const word = WORDS[state.status];
      this.#say(["", word.toLowerCase()].includes(text.toLowerCase()) ? word : `${word}: ${text}`);

      this.setAttribute("data-status", state.status_name.toLowerCase());
      cancel.hidden = final || !this.hasAttribute("cancel");
      const href = safeLink(state.result);
      result.hidden = !href;
      result.replaceChildren();
      if (href) result.append(make("a", { href, rel: "noopener noreferrer" }, "Open the result"));
    }

    async #cancel() {
      const turn = this.#turn, { cancel } = this.#parts;
      cancel.disabled = true;
      try {
        const { status, body } = await this.#fetch("/cancel", { method: "POST" }).answered;
        if (turn !== this.#turn) return;
        if (status === 200 || status === 409) this.#show(body); // its end, and the events, come with the next look
        else this.#say("The job could not be cancelled.");
      } catch {
        if (turn === this.#turn) this.#say("The job could not be cancelled: connection lost.");
      }
      cancel.disabled = false;
    }

    #tell(name, state) {
      this.dispatchEvent(new CustomEvent(name, { bubbles: true, detail: state }));
    }
  }

  customElements.define("backjob-progress", BackjobProgress);
})();
