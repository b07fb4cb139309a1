// Reads a file beside the page, so that a large one does not freeze it.

import { readFile } from "./table_reader.js";

addEventListener("message", async ({ data: file }) => {
  try {
    postMessage({ table: await readFile(file) });
  } catch (error) {
    postMessage({ fault: error.message });
  }
});
