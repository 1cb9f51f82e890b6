// Shows output as a terminal would: carriage returns and backspaces move back, and new text overwrites old text; colours
// become spans with classes. progress.js loads this with the first output. backjob/output/ does the
// same on the server; tests/unit/output/vectors.json tests both.

const LONGEST = 1 << 18; // characters; longer output is cut to half of this
const REACH = 50; // lines that the cursor reaches
const WIDTH = 250; // columns that a sequence reaches
const MOST_MARKS = 30; // that join a character
const TOKEN =
  /\x1b(?:\[([0-?]{0,64})[ -/]{0,4}([@-~])|[\]PX^_][^\0-\x1f\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)?|[ -/]{0,4}[0-~])?|[\0-\x1f\x7f-\x9f]|[^\0-\x1f\x7f-\x9f]+/gu;
const UNFINISHED = /\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[\]PX^_][^\0-\x1f\x9c]{0,4096}\x1b?|[ -/]{0,4})$/u;
// Characters of two columns (in Python: east_asian_width), and those that join the one before.
const WIDE =
  /[\p{Emoji_Presentation}\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]/u;
const JOINING = /[\p{M}\u200b-\u200d]/u;
const FLAGS = ["bold", "dim", "italic", "underline", "inverse", "strike"];
const ON = { 1: 0, 2: 1, 3: 2, 4: 3, 7: 4, 9: 5, 21: 3 }, OFF = { 22: [0, 1], 23: [2], 24: [3], 27: [4], 29: [5] };
const GROUNDS = { 3: "f", 9: "f", 4: "g", 10: "g" };

const span = (classes, ...children) => {
  const node = document.createElement("span");
  if (classes) node.className = classes;
  node.append(...children);
  return node;
};

// Appends text to a node. The last lines can still change. Each has its cells, its `start` (the newline before it)
// and the node that shows it. A cell is [text, classes]; after a character of several columns come cells without text.
export class Screen {
  #node;
  #tailNode;
  #tail = "";
  #rows = [{ cells: [], start: "" }];
  #row = 0;
  #column = 0;
  #style = {}; // f and g: lists of the ends of classes; flags by their number
  #classes = "";
  #rest = ""; // the beginning of a sequence
  #size = 0; // characters in lines that can't change

  // `node` gets the lines, and `tailNode` those of the tail: the end of output of which a part is missing.
  constructor(node, tailNode) {
    this.#node = node;
    this.#tailNode = tailNode;
  }

  // Add a chunk, and replace the tail unless it is empty. Returns whether the oldest lines were removed.
  feed(text, tail = "") {
    if (tail && tail !== this.#tail) {
      this.#tail = tail;
      this.#tailNode.replaceChildren();
      new Screen(this.#tailNode).feed(tail.slice(tail.indexOf("\n") + 1) || tail); // its first line is incomplete
    }
    text = this.#rest + text;
    this.#rest = UNFINISHED.exec(text.slice(-5000))?.[0] ?? "";
    const changed = new Set();
    for (const [token, parameters, final] of text.slice(0, text.length - this.#rest.length).matchAll(TOKEN)) {
      if (final === "m") this.#setStyle(parameters);
      else if (final) this.#control(final, parameters, changed);
      else if (token > "\x9f" || (token >= " " && token < "\x7f")) this.#put(token);
      else if (token === "\r") this.#column = 0;
      else if (token === "\b") this.#column = Math.max(0, this.#column - 1);
      else if (token === "\t") this.#tab();
      else if ("\n\v\f".includes(token)) {
        this.#column = 0;
        if (++this.#row === this.#rows.length) this.#rows.push({ cells: [], start: "\n" });
      }
      changed.add(this.#rows[this.#row]);
    }
    const isCut = this.#cutRows();
    this.#show(changed);
    return this.#cutLines() || isCut;
  }

  // Remove the beginning of each line that is longer than all output may be; the newline after it counts.
  #cutRows() {
    let isCut = false;
    for (const [index, { cells }] of this.#rows.entries()) {
      if (cells.length <= LONGEST) continue;
      const excess = cells.length - LONGEST / 2 + (index < this.#rows.length - 1);
      cells.splice(0, excess);
      if (index === this.#row) this.#column = Math.max(0, this.#column - excess);
      isCut = true;
    }
    return isCut;
  }

  // Remove the oldest of the lines that can't change, if they are too long.
  #cutLines() {
    if (this.#size <= LONGEST) return false;
    while (this.#size > LONGEST / 2) {
      const first = this.#node.firstChild, { nodeType, textContent: text } = first;
      const end = (nodeType === 3 && text.indexOf("\n", this.#size - LONGEST / 2) + 1) || text.length;
      if (end < text.length) first.data = text.slice(end);
      else first.remove();
      this.#size -= end;
    }
    return true;
  }

  get #cells() {
    return this.#rows[this.#row].cells;
  }

  #write(...added) {
    const cells = this.#cells, begin = this.#column;
    while (cells.length < begin) cells.push([" ", ""]);
    this.#column += added.length;
    this.#divide(begin);
    this.#divide(this.#column);
    added.forEach((cell, index) => (cells[begin + index] = cell));
  }

  // Replace a character of several columns by spaces if this column would divide it.
  #divide(column) {
    const cells = this.#cells;
    if (!column || column >= cells.length || cells[column][0]) return;
    let begin = column, end = column;
    while (begin && !cells[begin][0]) begin -= 1;
    while (end < cells.length && !cells[end][0]) end += 1;
    cells.fill([" ", cells[begin][1]], begin, end);
  }

  #tab() {
    const width = 8 - (this.#column % 8);
    if (this.#column < this.#cells.length) this.#column += width;
    else this.#write(["\t", this.#classes], ...Array(width - 1).fill(["", this.#classes]));
  }

  #put(text) {
    const cells = this.#cells, classes = this.#classes;
    for (const character of text) {
      if (JOINING.test(character)) {
        let before = this.#column - 1;
        while (before > 0 && before < cells.length && !cells[before][0]) before -= 1;
        if (cells[before]?.[0].length <= MOST_MARKS) cells[before] = [cells[before][0] + character, cells[before][1]];
      } else if (WIDE.test(character)) this.#write([character, classes], ["", classes]);
      else if (this.#column === cells.length) this.#column = cells.push([character, classes]);
      else this.#write([character, classes]);
    }
  }

  #control(final, parameters, changed) {
    if (/\D/.test(parameters)) return;
    const given = +parameters, count = given || 1, last = this.#rows.length - 1;
    if ("AF".includes(final)) this.#row = Math.max(0, last + 1 - REACH, this.#row - count);
    else if ("BE".includes(final)) this.#row = Math.min(last, this.#row + count);
    else if (final === "C") this.#column += Math.min(count, Math.max(0, WIDTH - this.#column));
    else if (final === "D") this.#column = Math.max(0, this.#column - count);
    else if (final === "G") this.#column = Math.min(count, WIDTH) - 1;
    else if ("JK".includes(final) && !given) {
      this.#divide(this.#column);
      this.#cells.length = Math.min(this.#cells.length, this.#column);
      if (final === "J") for (const row of this.#rows.splice(this.#row + 1)) row.node?.remove(), changed.delete(row);
    } else if (final === "K" && given === 1) {
      const first = Math.max(0, this.#column + 1 - WIDTH);
      this.#divide(first);
      this.#divide(this.#column + 1);
      this.#cells.fill([" ", ""], first, this.#column + 1);
    } else if (final === "K" && given === 2) this.#cells.length = 0;
    if ("EF".includes(final)) this.#column = 0;
  }

  #setStyle(parameters) {
    const plain = parameters
      .replace(/(^|;)4:(\d+)/g, (_, before, kind) => before + (+kind ? 4 : 24))
      .replace(/([345]8:2):\d*:(\d+:\d+:\d+)/g, "$1:$2")
      .replaceAll(":", ";");
    if (/[^\d;]/.test(plain)) return;
    const codes = plain.split(";").map(Number);
    while (codes.length) {
      const code = codes.shift(), tens = Math.floor(code / 10), digit = code % 10, ground = GROUNDS[tens];
      if (code === 0) this.#style = {};
      else if (code in ON) this.#style[ON[code]] = true;
      else if (code in OFF) for (const flag of OFF[code]) delete this.#style[flag];
      else if ([38, 48, 58].includes(code)) {
        const colour = this.#colour(codes);
        if (colour && ground) this.#style[ground] = colour;
      } else if (ground && digit < 8) this.#style[ground] = [digit + (tens > 4 ? 8 : 0)];
      else if (ground && digit === 9 && tens < 5) delete this.#style[ground];
    }
    const names = FLAGS.filter((_, flag) => this.#style[flag]);
    for (const ground of "fg") for (const end of this.#style[ground] ?? []) names.push(ground + end);
    this.#classes = names.map((name) => `bj-${name}`).join(" ");
  }

  // The ends of the classes of the colour that follows 38, 48 or 58. A style sheet has no rule for each of 16 million
  // colours, so each of red, green and blue is a digit from 0 to 5.
  #colour(codes) {
    const next = () => codes.shift() ?? 0, kind = next();
    let rgb;
    if (kind === 2) rgb = [next(), next(), next()];
    else if (kind === 5) {
      const number = next(), level = (size) => [0, 95, 135, 175, 215, 255][Math.floor((number - 16) / size) % 6];
      if (number < 16) return [number];
      if (number > 255) return null;
      rgb = number < 232 ? [36, 6, 1].map(level) : Array(3).fill(8 + 10 * (number - 232));
    } else return null;
    return ["x", ...rgb.map((value, i) => "rgb"[i] + Math.floor((Math.min(value, 255) + 25) / 51))];
  }

  #runs({ cells }) {
    const runs = [];
    for (const [text, classes] of cells) {
      if (runs.at(-1)?.[1] === classes) runs.at(-1)[0] += text;
      else runs.push([text, classes]);
    }
    return runs;
  }

  #show(changed) {
    const fixed = this.#rows.splice(0, Math.max(0, this.#rows.length - REACH)), node = this.#node;
    this.#row -= fixed.length;
    for (const row of fixed) row.node?.remove();
    const next = this.#rows.find((row) => row.node)?.node ?? null;
    let text = "";
    const write = (styled) => {
      const before = next ? next.previousSibling : node.lastChild;
      if (text && before?.nodeType === 3) before.appendData(text);
      else if (text) node.insertBefore(new Text(text), next);
      text = "";
      if (styled) node.insertBefore(styled, next);
    };
    for (const row of fixed) {
      text += row.start;
      for (const [run, classes] of this.#runs(row)) {
        if (classes) write(span(classes, run));
        else text += run;
        this.#size += run.length;
      }
      this.#size += row.start.length;
    }
    write();
    for (const row of this.#rows) {
      if (row.node && !changed.has(row)) continue;
      const runs = this.#runs(row).map(([run, classes]) => (classes ? span(classes, run) : run));
      row.node ??= node.appendChild(span());
      row.node.replaceChildren(row.start, ...runs);
    }
  }
}
