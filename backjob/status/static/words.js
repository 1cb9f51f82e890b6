// The words of another language than English, from words.TAG.json beside this file. progress.js loads this for pages in
// one of these languages.

const LONGEST_WAIT = 2000; // ms; after that the element speaks English
const languages = {}; // tag → promise

class Language {
  #tables;

  constructor(tables) {
    this.#tables = tables;
  }

  get words() {
    return this.#tables.words;
  }

  // The translation of a text that backjob wrote, or else the text: whole, or of its parts between semicolons.
  text(text) {
    return this.#sentence(text) ?? text.split("; ").map((part) => this.#sentence(part) ?? part).join("; ");
  }

  // The translation of the reason why an earlier run ended.
  reason(text) {
    return this.#tables.reasons[text] ?? this.text(text);
  }

  #sentence(text) {
    const failure = text.match(/^([345]\d\d)( [A-Z][A-Za-z -]*)( → \S+)?(?:: (.+))?$/s);
    if (failure) {
      const [, number, phrase, target = "", message] = failure;
      const line = this.#tables.sentences[`{number}${phrase}`]?.replace("{number}", number);
      return line && line + target + (message ? this.words.separator + this.text(message) : "");
    }
    const values = [], keep = (name) => (value) => (values.push(value), `{${name}}`);
    const job = text.replace(/(?<=\(job )[\w-]+(?=\))/, keep("job"));
    const key = values.length ? job : text.replace(/\d[\d.e+]*/g, keep("number"));
    return this.#tables.sentences[key]?.replace(/\{\w+\}/g, () => values.shift());
  }
}

const read = async (url) => {
  const response = await fetch(url, { signal: AbortSignal.timeout(LONGEST_WAIT) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return new Language(await response.json());
};

// The language of a tag, from this folder. Raises if its words can't be loaded; the next call tries again.
export const language = (folder, tag) => {
  const url = new URL(`words.${tag}.json`, folder).href;
  return (languages[url] ||= read(url).catch((error) => {
    delete languages[url];
    throw error;
  }));
};
