// The columns of a table: the text, the second text and the label, recognised by their names as the job does.

export const TEXT_NAMES = [
  "text", "sentence", "review", "content", "sentence1", "premise", "question1", "question", "body", "comment",
  "comment_text", "message", "tweet", "title", "document", "utterance", "query", "description",
];
export const PAIR_NAMES = [
  "text_pair", "sentence2", "hypothesis", "question2", "text2", "pair", "passage", "answer",
];
export const LABEL_NAMES = [
  "label", "labels", "sentiment", "category", "class", "target", "intent", "topic", "tags", "gold_label", "y",
  "emotion", "stars", "rating",
];
export const KNOWN_NAMES = new Set([...TEXT_NAMES, ...PAIR_NAMES, ...LABEL_NAMES]);
export const PAIRS = [["question", "sentence"]];
const SAMPLE_ROWS = 1000;
const TEXT_CHARACTERS = 8;

export const plain = (name) => name.trim().toLowerCase();

// Places of the columns, -1 for none: { text, pair, label }. `wantsPair` is true for a task of pairs.
export function recognise(names, rows, wantsPair) {
  const known = names.map(plain);
  const sample = rows.slice(0, SAMPLE_ROWS);
  const label = LABEL_NAMES.map((name) => known.indexOf(name)).find((place) => place >= 0) ?? -1;
  const [first, second] = PAIRS.find((pair) => pair.every((name) => known.includes(name))) ?? [];
  let text = first === undefined ? -1 : known.indexOf(first);
  if (text < 0) text = TEXT_NAMES.map((name) => known.indexOf(name)).find((place) => place >= 0 && place !== label) ?? -1;
  if (text < 0) text = longest(names, sample, [label]);
  let pair = second === undefined ? -1 : known.indexOf(second);
  if (pair < 0) pair = PAIR_NAMES.map((name) => known.indexOf(name)).find((place) => place >= 0 && place !== text) ?? -1;
  if (pair < 0 && wantsPair) {
    const other = longest(names, sample, [label, text]);
    if (other >= 0 && meanLength(sample, other) >= TEXT_CHARACTERS) pair = other;
  }
  return { text, pair: pair === label ? -1 : pair, label };
}

function longest(names, rows, taken) {
  const free = names.map((_, place) => place).filter((place) => !taken.includes(place));
  return free.reduce((best, place) => (best < 0 || meanLength(rows, place) > meanLength(rows, best) ? place : best), -1);
}

const meanLength = (rows, place) => rows.reduce((sum, row) => sum + (row[place] ?? "").length, 0) / Math.max(rows.length, 1);
