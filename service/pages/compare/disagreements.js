// The rows on which the variants differ: sorted, searched, a page at a time. For one score all rows.

import { html, Component } from "../app/html.js";
import { count, counted, decimal, percent } from "../app/format.js";
import { Choice } from "../app/tables.js";

const PAGE_ROWS = 20;
const ORDERS = {
  difference: ["largest difference", (one, other) => other.difference - one.difference],
  least: ["smallest difference", (one, other) => one.difference - other.difference],
  file: ["order of the file", (one, other) => one.number - other.number],
};

export class Disagreements extends Component {
  state = { order: "difference", kind: "all", search: "", page: 0 };

  kinds() {
    const { tally } = this.props;
    const kinds = { all: ["all", () => true] };
    if (tally.labelled && !tally.oneScore) {
      kinds.lost = [`only ${tally.reference} is right`, (row) => row.reference.label === row.truth];
      kinds.won = [`only ${tally.candidate} is right`, (row) => row.candidate.label === row.truth];
    }
    kinds.truncated = ["truncated texts", (row) => row.truncated];
    if (tally.windowed) kinds.windowed = ["texts in windows", (row) => row.windows > 1];
    return kinds;
  }

  // The rows that are chosen, in order; computed again only if something has changed.
  chosen() {
    const { tally } = this.props;
    const { order, kind, search } = this.state;
    const state = [tally.disagreements.length, order, kind, search].join("\n");
    if (this.known?.tally !== tally || this.known.state !== state) {
      const kinds = this.kinds();
      const fits = (kinds[kind] ?? kinds.all)[1];
      const words = search.trim().toLowerCase();
      const found = (text) => text !== null && text.toLowerCase().includes(words);
      const rows = tally.disagreements.filter((row) => fits(row) && (!words || found(row.text) || found(row.pair)));
      this.known = { tally, state, rows: rows.sort(ORDERS[order][1]) };
    }
    return this.known.rows;
  }

  change(changes) {
    this.setState({ page: 0, ...changes });
  }

  row(row) {
    const { tally } = this.props;
    const answer = ({ label, score, labels }) => (tally.oneScore ? decimal(score) : html`
      <bdi>${label || "no label"}</bdi>${labels.length === 1 && html` <span class="note">${percent(score)}</span>`}`);
    const wrong = ({ label }) => (row.truth !== null && !tally.oneScore && label !== row.truth ? "wrong" : undefined);
    const kind = tally.oneScore ? "number" : undefined;
    return html`<tr key=${row.number}>
      <td class="number">${count(row.number)}</td>
      <td class="text" dir="auto">${row.text}${row.pair !== null && html`<span class="pair" dir="auto">${row.pair}</span>`}
        ${row.truncated && html` <span class="badge">truncated</span>`}
        ${row.windows > 1 && html` <span class="badge">${row.windows} windows</span>`}</td>
      ${tally.labelled > 0 && html`<td class=${kind}><bdi>${row.truth === "" ? "no label" : row.truth ?? "–"}</bdi></td>`}
      <td class=${kind ?? wrong(row.reference)}>${answer(row.reference)}</td>
      <td class=${kind ?? wrong(row.candidate)}>${answer(row.candidate)}</td>
      <td class="number">${decimal(row.difference)}</td>
    </tr>`;
  }

  render({ tally, onSave }, { order, kind, search, page }) {
    const rows = this.chosen();
    const pages = Math.max(Math.ceil(rows.length / PAGE_ROWS), 1);
    const current = Math.min(page, pages - 1);
    const title = tally.oneScore ? "Rows" : "Disagreements";
    const cells = tally.oneScore ? "number" : undefined;
    return html`
      <section aria-labelledby="disagreements-title">
        <h2 id="disagreements-title">${title}</h2>
        <div class="fields">
          <label>Search in the texts <input type="search" value=${search} onInput=${(event) => this.change({ search: event.target.value })} /></label>
          <${Choice} label="Sort by" value=${order} options=${Object.entries(ORDERS).map(([name, [text]]) => [name, text])}
            onChange=${(value) => this.change({ order: value })} />
          <${Choice} label="Rows to show" value=${kind} options=${Object.entries(this.kinds()).map(([name, [text]]) => [name, text])}
            onChange=${(value) => this.change({ kind: value })} />
        </div>
        <div class="scroll" tabindex="0" role="region" aria-label=${title}>
          <table class="texts">
            <caption class="unseen">${title} between ${tally.reference} and ${tally.candidate}</caption>
            <thead><tr><th scope="col" class="number">Row</th><th scope="col">Text</th>
              ${tally.labelled > 0 && html`<th scope="col" class=${cells}>True</th>`}
              <th scope="col" class=${cells}>${tally.reference}</th><th scope="col" class=${cells}>${tally.candidate}</th>
              <th scope="col" class="number">Difference</th></tr></thead>
            <tbody>${rows.slice(current * PAGE_ROWS, (current + 1) * PAGE_ROWS).map((row) => this.row(row))}</tbody>
          </table>
        </div>
        <div class="actions">
          <button type="button" disabled=${current === 0} onClick=${() => this.setState({ page: current - 1 })}>Previous</button>
          <button type="button" disabled=${current >= pages - 1} onClick=${() => this.setState({ page: current + 1 })}>Next</button>
          <span role="status" class="note">${counted(rows.length, "row")}, page ${current + 1} of ${pages}</span>
          <button type="button" disabled=${rows.length === 0} onClick=${() => onSave(rows)}>These rows as CSV</button>
        </div>
      </section>`;
  }
}
