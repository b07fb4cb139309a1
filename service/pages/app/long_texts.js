// The treatment of texts with more tokens than the model takes, for tasks that leave a choice.

import { html } from "./html.js";
import { Choice } from "./tables.js";

const NAMES = { truncate: "cut at the end", windows: "answered in windows", error: "refused" };

// The treatments that a reader can choose, the task's default first; none without a choice. Pairs cannot be split.
function treatments(task) {
  if (!task?.long_texts) return [];
  const names = new Set([task.long_texts.overlong, "truncate", ...(task.inputs === "pair" ? [] : ["windows"])]);
  return names.size > 1 ? [...names] : [];
}

// The treatment to ask for: the wanted one if the task allows it, else the task's default; null for no choice.
export function overlong(task, wanted) {
  const allowed = treatments(task);
  return allowed.includes(wanted) ? wanted : allowed[0] ?? null;
}

export const describeLongTexts = (task) => (task.long_texts ? `, longer texts are ${NAMES[task.long_texts.overlong]}` : "");

export function LongTextChoice({ task, value, onChange }) {
  const allowed = treatments(task);
  if (allowed.length === 0) return null;
  return html`<${Choice} label=${`Texts of more than ${task.max_length} tokens`} value=${value}
    options=${allowed.map((name) => [name, NAMES[name]])} onChange=${onChange} />`;
}
