// A table from the bytes of a file or from pasted lines: { names, named, rows, notes }. Throws an Error with the way out.

import { readDelimited } from "./delimited.js";

const BINARY = [
  ["PAR1", "a Parquet file"], ["PK\x03\x04", "a ZIP archive or a workbook"], ["ARROW1", "an Arrow file"],
];

export async function readFile(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const head = String.fromCharCode(...bytes.slice(0, 6));
  const binary = BINARY.find(([magic]) => head.startsWith(magic));
  if (binary) throw new Error(`${file.name} is ${binary[1]}, which this page cannot read: save it as CSV, TSV or JSON lines.`);
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    const unpacked = new Response(file.stream().pipeThrough(new DecompressionStream("gzip")));
    return readBytes(new Uint8Array(await unpacked.arrayBuffer()), file.name.replace(/\.gz$/i, ""));
  }
  return readBytes(bytes, file.name);
}

function readBytes(bytes, name) {
  const { text, notes } = decode(bytes);
  if (text.includes("\0")) throw new Error(`${name} holds zero bytes, so it is not a text file: save it as CSV, TSV or JSON lines.`);
  const table = /^\s*[[{]/.test(text) ? readJson(text) : readDelimited(text, /\.(tsv|tab)$/i.test(name) ? "\t" : ",");
  if (table.rows.length === 0) throw new Error(`${name} holds no rows.`);
  return { ...table, notes: [...notes, ...table.notes] };
}

function decode(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return { text: new TextDecoder("utf-16le").decode(bytes), notes: [] };
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return { text: new TextDecoder("utf-16be").decode(bytes), notes: [] };
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes), notes: [] };
  } catch {
    return {
      text: new TextDecoder("windows-1252").decode(bytes),
      notes: ["The file is not UTF-8; it was read as Windows-1252."],
    };
  }
}

// Pasted lines: a text each, or two texts separated by a tab.
export function readLines(text) {
  const rows = text.split(/\r?\n/).filter((line) => line.trim()).map((line) => line.split("\t").slice(0, 2));
  const width = rows.some((row) => row.length > 1) ? 2 : 1;
  return {
    names: ["text", "text_pair"].slice(0, width),
    named: true,
    rows: rows.map((row) => Array.from({ length: width }, (_, place) => row[place] ?? "")),
    notes: [],
  };
}

function readJson(text) {
  let values;
  const lines = text.split("\n");
  let first;
  try {
    first = JSON.parse(lines[0]);
  } catch {
    first = undefined;
  }
  if (first !== null && typeof first === "object" && !Array.isArray(first) && lines.slice(1).some((line) => line.trim())) {
    values = lines.flatMap((line, place) => (line.trim() ? [parseLine(line, place + 1)] : []));
  } else {
    values = parseWhole(text);
  }
  const names = [];
  const known = new Set();
  values.forEach((value, place) => {
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new Error(`Row ${place + 1} is not a JSON object: write {"text": ..., "label": ...}.`);
    }
    for (const name of Object.keys(value)) {
      if (!known.has(name)) {
        known.add(name);
        names.push(name);
      }
    }
  });
  const rows = values.map((value) => names.map((name) => cellOf(Object.hasOwn(value, name) ? value[name] : null)));
  return { names, named: true, rows, notes: [] };
}

function cellOf(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function parseLine(line, number) {
  try {
    return JSON.parse(line);
  } catch (error) {
    throw new Error(`Line ${number} is not valid JSON: ${error.message}`);
  }
}

// An array of objects, an object of columns, or a single object.
function parseWhole(text) {
  const value = parseLine(text, 1);
  if (Array.isArray(value)) return value;
  const columns = Object.entries(value);
  if (columns.length === 0 || !columns.every(([, cells]) => Array.isArray(cells))) return [value];
  return columns[0][1].map((_, row) => Object.fromEntries(columns.map(([name, cells]) => [name, cells[row]])));
}
