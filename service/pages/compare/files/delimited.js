// CSV and TSV: the delimiter, the records, and the header. A column is a place; every row has the same number of cells.

import { KNOWN_NAMES, plain } from "./columns.js";

const DELIMITERS = [",", ";", "\t", "|"];
const SAMPLE_RECORDS = 100;
const SAMPLE_CHARACTERS = 1 << 18;

// Returns { names, named, rows, notes }; throws an Error that names the line.
export function readDelimited(text, usual) {
  const declared = /^sep=([,;|\t])\r?\n/.exec(text);
  const body = declared ? text.slice(declared[0].length) : text;
  const delimiter = declared?.[1] ?? bestDelimiter(body.slice(0, SAMPLE_CHARACTERS), usual);
  const { records } = parse(body, delimiter, Infinity, quotesFields(body, delimiter));
  const width = usualWidth(records);
  const rows = [];
  for (const { line, cells } of records) {
    if (!cells.some((cell) => cell.trim())) continue;
    const extra = cells.slice(width);
    if (cells.length < width || extra.some((cell) => cell.trim())) {
      throw new Error(
        `Line ${line} has ${cells.length} fields, but most rows have ${width}. Quote fields that contain ` +
        `${delimiter === "\t" ? "a tab" : delimiter}, or remove the line.`);
    }
    rows.push(cells.slice(0, width));
  }
  const named = hasHeader(rows);
  const names = named ? rows.shift().map((name, place) => name.trim() || `column ${place + 1}`)
    : Array.from({ length: width }, (_, place) => `column ${place + 1}`);
  const notes = delimiter === usual ? [] : [`Fields are separated by ${delimiter === "\t" ? "tabs" : delimiter} (detected).`];
  return { names, named, rows, notes };
}

// RFC 4180: a quoted field may hold delimiters, line breaks, and quotes written twice.
function parse(text, delimiter, most, quoted) {
  const records = [];
  let cells = [];
  let place = 0;
  let line = 1;
  let start = 1;
  const end = () => {
    records.push({ line: start, cells });
    cells = [];
    start = line;
  };
  while (place < text.length && records.length < most) {
    if (quoted && text[place] === '"') {
      let cell = "";
      let close = place;
      for (;;) {
        const next = text.indexOf('"', close + 1);
        if (next < 0) throw new Error(`A quoted field that begins on line ${start} does not end. Close it, or write quotes in a field twice.`);
        cell += text.slice(close + 1, next);
        close = next;
        if (text[next + 1] !== '"') break;
        cell += '"';
        close = next + 1;
      }
      line += cell.split("\n").length - 1;
      cells.push(cell);
      place = close + 1;
      if (place < text.length && text[place] !== delimiter && text[place] !== "\n" && text[place] !== "\r") {
        throw new Error(`Line ${line}: text follows a quoted field. Write quotes in a field twice.`);
      }
    } else {
      let stop = place;
      while (stop < text.length && text[stop] !== delimiter && text[stop] !== "\n" && text[stop] !== "\r") stop += 1;
      cells.push(text.slice(place, stop));
      place = stop;
    }
    if (place >= text.length) break;
    if (text[place] === delimiter) {
      place += 1;
      if (place === text.length) cells.push("");
      continue;
    }
    place += text[place] === "\r" && text[place + 1] === "\n" ? 2 : 1;
    line += 1;
    end();
  }
  if (cells.length > 0) end();
  return { records };
}

// The delimiter that splits most records into the same number of fields, at least 2.
function bestDelimiter(sample, usual) {
  let best = usual;
  let bestShare = 0;
  for (const delimiter of [usual, ...DELIMITERS.filter((one) => one !== usual)]) {
    let records = [];
    try {
      ({ records } = parse(sample, delimiter, SAMPLE_RECORDS, quotesFields(sample, delimiter)));
    } catch {
      continue;
    }
    const full = records.filter(({ cells }) => cells.some((cell) => cell.trim()));
    const width = usualWidth(full);
    const share = width < 2 ? 0 : full.filter(({ cells }) => cells.length === width).length / full.length;
    if (share > bestShare) [best, bestShare] = [delimiter, share];
  }
  return best;
}

// A quote in a TSV file is a character like any other, unless fields stand between two of them.
function quotesFields(text, delimiter) {
  if (delimiter !== "\t") return true;
  const lines = text.slice(0, SAMPLE_CHARACTERS).split("\n").slice(0, SAMPLE_RECORDS);
  return lines.some((line) => line.split(delimiter).some((field) => /^".*"\r?$/.test(field) && field.trim().length > 1));
}

function usualWidth(records) {
  const counts = new Map();
  for (const { cells } of records.slice(0, SAMPLE_RECORDS)) counts.set(cells.length, (counts.get(cells.length) ?? 0) + 1);
  let width = 1;
  for (const [length, times] of counts) if (times > (counts.get(width) ?? 0)) width = length;
  return width;
}

// One known name that does not occur again in its column is enough; else every field must look like a name.
function hasHeader(rows) {
  if (rows.length < 2) return false;
  const first = rows[0].map((name) => name.trim());
  const body = rows.slice(1, 2001);
  const unique = first.map((name, place) => body.every((row) => row[place].trim() !== name));
  if (first.some((name, place) => unique[place] && KNOWN_NAMES.has(plain(name)))) return true;
  const looksLikeName = (name) => name && name.length <= 40 && name.split(/\s+/).length <= 4 && Number.isNaN(Number(name));
  return unique.every(Boolean) && first.every(looksLikeName);
}
