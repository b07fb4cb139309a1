// The truth in a column of a file: labels in the names of the model, or numbers for a model with one score.

import { plain } from "./columns.js";

const NUMBERED_LABELS_SHOWN = 4;
const LABELS_SHOWN = 6;

// `numbers` is true for a model with one score. Returns { of(cell), note }; `of` is null where a cell has no truth.
export function truthReader(cells, { labels, numbers, severalLabels }) {
  if (numbers) return { of: numberOf, note: noteOnNumbers(cells) };
  const byName = new Map(labels.map((label) => [plain(label), label]));
  const distinct = new Set((severalLabels ? cells.flatMap(namesIn) : cells).map(plain).filter(Boolean));
  const unknown = [...distinct].filter((value) => !byName.has(value)).length;
  const note = unknown ? `Rows with ${unknown} other labels, which the model does not have, count as wrong.` : null;
  if (severalLabels && (distinct.size === 0 || unknown < distinct.size)) {
    return { of: (cell) => setOf(cell, labels, byName), note };
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

// The names in a cell: a JSON list, or separated.
function namesIn(cell) {
  let parts = cell.split(/[,;|]/);
  try {
    const list = JSON.parse(cell);
    if (Array.isArray(list)) parts = list.map(String);
  } catch {
    // Not JSON.
  }
  return parts.map((part) => part.trim()).filter(Boolean);
}

// Several labels of a cell in the order of the model's, joined as predictions are; then those that the model does not have.
function setOf(cell, labels, byName) {
  const names = namesIn(cell);
  const chosen = new Set(names.map((name) => byName.get(plain(name))));
  const others = names.filter((name) => !byName.has(plain(name)));
  return [...labels.filter((label) => chosen.has(label)), ...others].join(", ");
}
