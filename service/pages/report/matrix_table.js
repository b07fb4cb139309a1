// The share of weights that pruning has removed from each matrix of the encoder.

import { html, Component } from "../app/html.js";
import { percent } from "../app/format.js";
import { Choice, Table } from "../app/tables.js";

const PRUNED_FROM = 0.25; // less comes from rounding

export class MatrixTable extends Component {
  state = { variant: null };

  render({ report }, { variant }) {
    const pruned = report.variants.filter((row) => row.matrices.length && row.encoder_linear.sparsity >= PRUNED_FROM);
    if (pruned.length === 0) return null;
    const row = pruned.find((one) => one.variant === variant) ?? pruned[0];
    const names = [...new Set(row.matrices.map(({ matrix }) => matrix))];
    const layers = [...new Set(row.matrices.map(({ layer }) => layer))];
    const cell = (layer, name) => {
      const found = row.matrices.find((one) => one.layer === layer && one.matrix === name);
      return found ? html`<span class="cell same" style=${{ "--share": found.sparsity }}>${percent(found.sparsity)}</span>` : "–";
    };
    return html`
      <section aria-labelledby="matrices-title">
        <h2 id="matrices-title">Zeros by matrix</h2>
        ${pruned.length > 1 && html`<div class="fields"><${Choice} label="Variant" value=${row.variant}
          options=${pruned.map((one) => one.variant)} onChange=${(name) => this.setState({ variant: name })} /></div>`}
        <${Table} caption=${`Zeros of the encoder of ${row.variant}`} headings=${["Layer", ...names.map((name) => `#${name}`)]}
          rows=${layers.map((layer) => [String(layer), ...names.map((name) => cell(layer, name))])} />
      </section>`;
  }
}
