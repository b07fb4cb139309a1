// Labels: how often each variant says each one, and a confusion matrix.

import { html, Component } from "../app/html.js";
import { count, percent } from "../app/format.js";
import { Choice, Table } from "../app/tables.js";

const MATRIX_LABELS_MOST = 12;
const SHOWN_CROSSINGS = 20;
const SHOWN_LABELS = 20;

export class LabelFigures extends Component {
  state = { kind: "variants" };

  // Name, row heading, column heading, counts.
  get matrices() {
    const { tally } = this.props;
    const matrices = { variants: [tally.reference, tally.candidate, tally.crossings] };
    if (tally.labelled) {
      matrices.reference = ["true label", tally.reference, tally.truths[0]];
      matrices.candidate = ["true label", tally.candidate, tally.truths[1]];
    }
    return matrices;
  }

  matrix() {
    const { tally } = this.props;
    const [down, across, crossings] = this.matrices[this.state.kind] ?? this.matrices.variants;
    const entries = crossings.entries();
    const used = new Set(entries.flatMap(({ row, column }) => [row, column]));
    const names = [...tally.labels.filter((label) => used.has(label)), ...[...used].filter((name) => !tally.labels.includes(name))];
    const caption = `${down} (rows) against ${across} (columns)`;
    if (names.length > MATRIX_LABELS_MOST) {
      const largest = entries.filter(({ row, column }) => row !== column).sort((a, b) => b.times - a.times);
      return html`<${Table} caption=${`${caption}: the most frequent differences`} headings=${[down, across, "#Rows"]}
        rows=${largest.slice(0, SHOWN_CROSSINGS).map(({ row, column, times }) => [bdi(row), bdi(column), count(times)])} />`;
    }
    const shade = (row, column) => {
      const cell = crossings.at(row, column);
      const share = cell / Math.max(names.reduce((sum, name) => sum + crossings.at(row, name), 0), 1);
      return html`<span class=${`cell ${row === column ? "same" : "other"}`} style=${{ "--share": share }}>${count(cell)}</span>`;
    };
    return html`<${Table} caption=${caption} headings=${[`${down} ↓ ${across} →`, ...names.map((name) => `#${name || "no label"}`)]}
      rows=${names.map((row) => [bdi(row), ...names.map((column) => shade(row, column))])} />`;
  }

  render({ tally }, { kind }) {
    const total = tally.rows.length;
    const share = (times) => `${count(times)} (${percent(times / total)})`;
    const said = [...tally.labelCounts].filter(([, one]) => one.reference || one.candidate || one.truth);
    const often = ([, one]) => one.reference + one.candidate + one.truth;
    const labels = said.length > SHOWN_LABELS ? said.sort((one, other) => often(other) - often(one)).slice(0, SHOWN_LABELS) : said;
    const options = Object.entries(this.matrices).map(([name, [down, across]]) => [name, `${down} against ${across}`]);
    return html`
      <section aria-labelledby="labels-title">
        <h2 id="labels-title">Labels</h2>
        <div class="columns">
          <div>
            <h3>How often each is said</h3>
            <${Table} caption="Predictions of each label"
              headings=${["Label", `#${tally.reference}`, `#${tally.candidate}`, ...(tally.labelled ? ["#True"] : [])]}
              rows=${labels.map(([label, one]) => [bdi(label), share(one.reference), share(one.candidate),
                ...(tally.labelled ? [count(one.truth)] : [])])} />
            ${labels.length < said.length && html`<p class="note">The ${count(labels.length)} most frequent of ${count(said.length)}
              labels. Figures as CSV has all of them.</p>`}
          </div>
          <div>
            <h3>Confusion matrix</h3>
            ${options.length > 1 && html`<${Choice} label="Matrix of" value=${kind} options=${options}
              onChange=${(value) => this.setState({ kind: value })} />`}
            ${this.matrix()}
          </div>
        </div>
      </section>`;
  }
}

const bdi = (name) => html`<bdi>${name || "no label"}</bdi>`;
