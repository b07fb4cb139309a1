// Files that the browser saves. Nothing is sent.

import { request } from "./api.js";

const QUOTED = /[",\r\n]/;
const URL_LIFETIME_MILLISECONDS = 60_000;

const cell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return QUOTED.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

// RFC 4180. The byte order mark says UTF-8 to spreadsheets.
export const csv = (headings, rows) => `\ufeff${[headings, ...rows].map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;

export const saveCsv = (name, headings, rows) => save(name, new Blob([csv(headings, rows)], { type: "text/csv" }));

// A link cannot send a key: fetch the file with it, and save that.
export async function saveFrom(path, name) {
  save(name, await (await request(path)).blob());
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), URL_LIFETIME_MILLISECONDS);
}
