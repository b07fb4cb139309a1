// Tables with headings that name their columns; wide ones scroll by themselves.

import { html } from "./html.js";

// `headings` are texts, with "#" before those of numbers; the first cell of each row is its heading.
export function Table({ caption, headings, rows }) {
  const kind = headings.map((heading) => (heading.startsWith("#") ? "number" : undefined));
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="unseen">${caption}</caption>
        <thead><tr>${headings.map((text, place) =>
          html`<th scope="col" class=${kind[place]}>${text.replace("#", "")}</th>`)}</tr></thead>
        <tbody>${rows.map((cells) => html`<tr>${cells.map((cell, place) =>
          place === 0 ? html`<th scope="row" class=${kind[0]}>${cell}</th>` : html`<td class=${kind[place]}>${cell}</td>`)}</tr>`)}</tbody>
      </table>
    </div>`;
}

// A select with its label. `options` are names, or [value, text].
export function Choice({ label, value, options, onChange }) {
  return html`<label>${label}
    <select value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map((option) => {
        const [own, text] = Array.isArray(option) ? option : [option, option];
        return html`<option value=${own} selected=${String(own) === String(value)}>${text}</option>`;
      })}
    </select></label>`;
}

export const Tile = ({ title, value, note }) => html`
  <div class="tile"><dt>${title}</dt><dd>${value}</dd>${note && html`<dd class="note">${note}</dd>`}</div>`;
