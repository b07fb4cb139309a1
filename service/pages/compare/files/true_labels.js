// The truth in a column of a file: labels in the names of the model, or numbers for a model with one score.

import { plain } from "./columns.js";

const NUMBERED_LABELS_SHOWN = 4;
const LABELS_SHOWN = 6;
const SEPARATORS = ["|", ";", ","];
const QUOTED = /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/gs;
const QUOTED_LIST = /^\s*[[({]\s*(?:(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")[\s,]*)*[\])}]\s*$/s;

// `numbers` is true for a model with one score. Returns { of(cell), list(cell), note }: `of` is the truth as predictions
// are shown, null where a cell has none; `list` is that of several labels, and absent for other models.
export function truthReader(cells, { labels, numbers, severalLabels }) {
  if (numbers) return { of: numberOf, note: noteOnNumbers(cells) };
  const byName = new Map(labels.map((label) => [plain(label), label]));
  const separator = severalLabels ? separatorOf(cells, byName) : null;
  const names = (cell) => (severalLabels ? namesIn(cell, separator) : [cell]);
  const distinct = new Set(cells.flatMap(names).map(plain).filter(Boolean));
  const unknown = [...distinct].filter((value) => !byName.has(value)).length;
  const note = unknown ? `Rows with ${unknown} other labels, which the model does not have, count as wrong.` : null;
  if (severalLabels && (distinct.size === 0 || unknown < distinct.size)) {
    const list = (cell) => inOrder(names(cell), labels, byName);
    return { of: (cell) => list(cell).join(", "), list, note };
  }
  if (unknown < distinct.size) return { of: (cell) => byName.get(plain(cell)) ?? (cell.trim() || null), note };
  const isPlace = (value) => /^\d+$/.test(value) && Number(value) < labels.length;
  if (!severalLabels && distinct.size > 0 && [...distinct].every(isPlace)) {
    const spelled = labels.slice(0, NUMBERED_LABELS_SHOWN).map((label, place) => `${place} = ${label}`).join(", ");
    const more = labels.length > NUMBERED_LABELS_SHOWN ? ", …" : "";
    return {
      of: (cell) => (cell.trim() ? labels[Number(cell)] : null),
      note: `The label column holds numbers, read as places in the model's list: ${spelled}${more}.`,
    };
  }
  const known = labels.slice(0, LABELS_SHOWN).join(", ");
  return {
    of: () => null,
    note: `No value of the label column is a label of the model (${known}): there is no accuracy.`,
  };
}

function numberOf(cell) {
  const value = Number(cell);
  return cell.trim() && Number.isFinite(value) ? value : null;
}

function noteOnNumbers(cells) {
  const full = cells.filter((cell) => cell.trim());
  const others = full.filter((cell) => numberOf(cell) === null).length;
  if (others === 0) return null;
  const way = others === full.length ? "there are no true numbers to compare with" : "these rows have no true number";
  return `${others.toLocaleString("en")} values of the column of true numbers are no numbers: ${way}.`;
}

// The separator that splits the column into the most labels of the model, whose names may contain another one; null if
// whole cells are as many.
function separatorOf(cells, byName) {
  const known = (separator) => cells.reduce(
    (sum, cell) => sum + namesIn(cell, separator).filter((name) => byName.has(plain(name))).length, 0);
  let [best, most] = [null, known(null)];
  for (const separator of SEPARATORS) {
    const times = known(separator);
    if (times > most) [best, most] = [separator, times];
  }
  return best;
}

function namesIn(cell, separator) {
  const parts = listOf(cell) ?? (separator === null ? [cell] : cell.split(separator));
  return parts.map((part) => part.trim()).filter(Boolean);
}

// The names in a list as JSON or Python writes it; null for another cell.
function listOf(cell) {
  if (!/^\s*[[({]/.test(cell)) return null;
  try {
    const list = JSON.parse(cell);
    if (Array.isArray(list)) return list.map(String);
  } catch {
    // Not JSON.
  }
  if (!QUOTED_LIST.test(cell)) return null;
  return [...cell.matchAll(QUOTED)].map(([text]) => text.slice(1, -1).replace(/\\(.)/gs, "$1"));
}

// Labels in the order of the model's, then those that the model does not have.
function inOrder(names, labels, byName) {
  const chosen = new Set(names.map((name) => byName.get(plain(name))));
  const others = names.filter((name) => !byName.has(plain(name)));
  return [...labels.filter((label) => chosen.has(label)), ...others];
}
