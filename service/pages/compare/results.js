// The figures of a comparison: agreement, accuracy, labels, latency, tokens, and the rows behind them.

import { html } from "../app/html.js";
import { count, counted, decimal, decimals, interval, milliseconds, pValue, times } from "../app/format.js";
import { Table, Tile } from "../app/tables.js";
import { Disagreements } from "./disagreements.js";
import { LabelFigures } from "./label_figures.js";
import { LatencyChart } from "./latency_chart.js";
import { saveFigures, saveRows } from "./files/result_files.js";

const shown = (estimate) => (estimate ? interval(estimate.value, estimate.low, estimate.high) : "–");

export function Results({ run }) {
  const { tally } = run;
  return html`
    <section aria-labelledby="figures-title">
      <h2 id="figures-title">${tally.candidate} against ${tally.reference}</h2>
      <dl class="tiles">
        ${tally.oneScore ? scoreTiles(tally) : labelTiles(tally)}
        ${otherTiles(tally)}
      </dl>
      <p class="note">Brackets hold 95 % intervals (${tally.oneScore ? "Hoeffding's for pairs, Bonett and Wright's for correlations" : "Wilson"}),
        as if the texts were independent. Rows that the same text repeats make them too narrow.</p>
      <div class="actions">
        <button type="button" onClick=${() => saveRows(tally, "all", tally.rows)}>All rows as CSV</button>
        <button type="button" onClick=${() => saveFigures(run)}>Figures as CSV</button>
      </div>
    </section>
    ${!tally.oneScore && html`<${LabelFigures} tally=${tally} />`}
    <${Latency} tally=${tally} />
    <${Disagreements} tally=${tally} rows=${tally.rows.length}
      onSave=${(rows) => saveRows(tally, tally.oneScore ? "rows" : "disagreements", rows)} />`;
}

function labelTiles(tally) {
  const accuracy = tally.accuracy();
  return html`
    <${Tile} title="Same prediction" value=${shown(tally.agreement())}
      note=${`${count(tally.disagreements.length)} of ${count(tally.rows.length)} rows differ`} />
    ${accuracy && html`
      <${Tile} title=${`Accuracy of ${tally.reference}`} value=${shown(accuracy.reference)} />
      <${Tile} title=${`Accuracy of ${tally.candidate}`} value=${shown(accuracy.candidate)} />
      <${Tile} title="Equal accuracy, McNemar's p" value=${pValue(accuracy.p)}
        note=${`only ${tally.reference} right: ${accuracy.onlyReference}, only ${tally.candidate}: ${accuracy.onlyCandidate}`} />`}`;
}

function scoreTiles(tally) {
  const { sameOrder, against } = tally.scoreFigures();
  const variants = [[tally.reference, against?.reference], [tally.candidate, against?.candidate]];
  return html`
    <${Tile} title="Pairs of rows in the same order" value=${shown(sameOrder)}
      note=${against ? `${counted(against.rows, "row")} with a true number` : "no column of true numbers"} />
    ${against && variants.map(([name, { spearman, pearson, squaredError }]) => html`
      <${Tile} title=${`Spearman's correlation, ${name}`} value=${decimals(spearman)}
        note=${`Pearson's ${decimal(pearson)}; mean squared error ${decimal(squaredError, 4)}`} />`)}
    ${against && html`<${Tile} title="Equally near to the true numbers, sign test's p" value=${pValue(against.nearer.p)}
      note=${`only ${tally.reference} nearer: ${against.nearer.onlyReference}, only ${tally.candidate}: ${against.nearer.onlyCandidate}`} />`}
    ${against?.reference.ranking && variants.map(([name, { ranking }]) => html`
      <${Tile} title=${`nDCG@10, ${name}`} value=${decimal(ranking.ndcg10)}
        note=${`mean reciprocal rank ${decimal(ranking.mrr)}; queries: ${count(ranking.queries)}`} />`)}`;
}

function otherTiles(tally) {
  const latency = tally.latency();
  const difference = tally.difference();
  const lengths = tally.lengths();
  return html`
    <${Tile} title="Speed-up, one text at a time" value=${times(latency.speedup)}
      note=${latency.together ? `${times(latency.together.speedup)} for many texts at once` : null} />
    <${Tile} title="Difference of a score" value=${decimal(difference.mean)} note=${`mean; largest ${decimal(difference.largest)}`} />
    <${Tile} title="Tokens of a text" value=${count(Math.round(lengths.median))}
      note=${`median; longest ${count(lengths.longest)}; ${count(lengths.truncated)} truncated` +
        (lengths.windowed ? `; ${count(lengths.windowed)} in windows, ${count(lengths.mostWindows)} at most` : "")} />`;
}

function Latency({ tally }) {
  const { reference, candidate, together } = tally.latency();
  const row = (name, { sorted, p50, p95 }, many) =>
    [name, milliseconds(p50), milliseconds(p95), count(sorted.length), milliseconds(many)];
  return html`
    <section aria-labelledby="latency-title">
      <h2 id="latency-title">Latency of the models</h2>
      <${Table} caption="Latency of both variants"
        headings=${["Variant", "#p50", "#p95", "#Texts sent alone", "#Per text, many at once"]}
        rows=${[row(tally.reference, reference, together?.reference), row(tally.candidate, candidate, together?.candidate)]} />
      <${LatencyChart} tally=${tally} reference=${reference.sorted} candidate=${candidate.sorted} />
      <p class="note">Compute time inside the service, without network and queue, while whatever else runs on that machine
        runs. The report has figures that were measured with nothing else running.</p>
    </section>`;
}
