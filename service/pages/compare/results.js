// The figures of a comparison: agreement, accuracy, labels, latency, tokens, and the rows behind them.

import { html } from "../app/html.js";
import { saveCsv } from "../app/downloads.js";
import { count, decimal, interval, milliseconds, pValue, times } from "../app/format.js";
import { Table, Tile } from "../app/tables.js";
import { Disagreements } from "./disagreements.js";
import { LabelFigures } from "./label_figures.js";
import { LatencyChart } from "./latency_chart.js";

const shown = (estimate) => (estimate ? interval(estimate.value, estimate.low, estimate.high) : "–");

export function Results({ run }) {
  const { tally } = run;
  return html`
    <section aria-labelledby="figures-title">
      <h2 id="figures-title">${tally.candidate} against ${tally.reference}</h2>
      <${Tiles} tally=${tally} />
      <p class="note">Brackets hold 95 % intervals (Wilson), as if the texts were independent. Rows that the same text
        repeats make them too narrow.</p>
      <div class="actions">
        <button type="button" onClick=${() => saveRows(tally, "all", tally.rows)}>All rows as CSV</button>
        <button type="button" onClick=${() => saveFigures(run)}>Figures as CSV</button>
      </div>
    </section>
    ${!tally.isRegression && html`<${LabelFigures} tally=${tally} />`}
    <${Latency} tally=${tally} />
    <${Disagreements} tally=${tally} rows=${tally.rows.length} onSave=${(rows) => saveRows(tally, "disagreements", rows)} />`;
}

function Tiles({ tally }) {
  const accuracy = tally.accuracy();
  const errors = tally.meanErrors();
  const latency = tally.latency();
  const difference = tally.difference();
  const lengths = tally.lengths();
  return html`<dl class="tiles">
    ${!tally.isRegression && html`<${Tile} title="Same prediction" value=${shown(tally.agreement())}
      note=${`${count(tally.disagreements.length)} of ${count(tally.rows.length)} rows differ`} />`}
    ${accuracy && html`
      <${Tile} title=${`Accuracy of ${tally.reference}`} value=${shown(accuracy.reference)} />
      <${Tile} title=${`Accuracy of ${tally.candidate}`} value=${shown(accuracy.candidate)} />
      <${Tile} title="Equal accuracy, McNemar's p" value=${pValue(accuracy.p)}
        note=${`only ${tally.reference} right: ${accuracy.onlyReference}, only ${tally.candidate}: ${accuracy.onlyCandidate}`} />`}
    ${errors && html`
      <${Tile} title=${`Mean absolute error of ${tally.reference}`} value=${decimal(errors.reference)} />
      <${Tile} title=${`Mean absolute error of ${tally.candidate}`} value=${decimal(errors.candidate)} />`}
    <${Tile} title="Speed-up, one text at a time" value=${times(latency.speedup)}
      note=${latency.together ? `${times(latency.together.speedup)} for many texts at once` : null} />
    <${Tile} title="Difference of a score" value=${decimal(difference.mean)} note=${`mean; largest ${decimal(difference.largest)}`} />
    <${Tile} title="Tokens of a text" value=${count(Math.round(lengths.median))}
      note=${`median; longest ${count(lengths.longest)}; ${count(lengths.truncated)} texts truncated`} />
  </dl>`;
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

function saveRows(tally, kind, rows) {
  const headings = (variant) => (tally.isRegression ? ["score"] : tally.labels).map((name) => `${variant} ${name}`);
  // In the order of the labels: an object puts names that are whole numbers first.
  const scores = (answer) => tally.labels.map((name) => answer.scores[name]);
  const [one, other] = [tally.reference, tally.candidate];
  saveCsv(`${one}-${other}-${kind}.csv`,
    ["row", "text", "text_pair", "true label", one, other, "agree", "difference", ...headings(one), ...headings(other), "tokens", "truncated"],
    rows.map((row) => [
      row.number, row.text, row.pair, row.truth, answerOf(tally, row.reference), answerOf(tally, row.candidate),
      row.agree, row.difference, ...scores(row.reference), ...scores(row.candidate),
      row.tokens, row.truncated,
    ]));
}

const answerOf = (tally, { label, score }) => (tally.isRegression ? score : label);

function saveFigures({ tally, task }) {
  const { reference: one, candidate: other } = tally;
  const accuracy = tally.accuracy();
  const latency = tally.latency();
  const lengths = tally.lengths();
  const figure = (name, variant, estimate) => (estimate ? [[name, variant, estimate.value, estimate.low, estimate.high]] : []);
  const seconds = (variant, { p50, p95 }) => [["p50 seconds", variant, p50], ["p95 seconds", variant, p95]];
  const rows = [
    ["task", "", task.task],
    ["rows", "", tally.rows.length],
    ...figure("agreement", other, tally.agreement()),
    ...figure("accuracy", one, accuracy?.reference),
    ...figure("accuracy", other, accuracy?.candidate),
    ...(accuracy ? [["McNemar's p", "", accuracy.p], ["only this one right", one, accuracy.onlyReference], ["only this one right", other, accuracy.onlyCandidate]] : []),
    ...seconds(one, latency.reference), ...seconds(other, latency.candidate),
    ["speed-up, one text at a time", other, latency.speedup],
    ["speed-up, many texts at once", other, latency.together?.speedup],
    ["mean difference of a score", other, tally.difference().mean],
    ["largest difference of a score", other, tally.difference().largest],
    ["median tokens", "", lengths.median], ["longest, tokens", "", lengths.longest], ["truncated texts", "", lengths.truncated],
    ...[...tally.labelCounts].flatMap(([label, counts]) => [
      [`predictions of ${label}`, one, counts.reference], [`predictions of ${label}`, other, counts.candidate],
      ...(tally.labelled ? [[`rows of ${label}`, "truth", counts.truth]] : []),
    ]),
    ...tally.crossings.entries().map(({ row, column, times: cell }) => [`${one} says ${row} and ${other} says ${column}`, "", cell]),
  ];
  saveCsv(`${one}-${other}-figures.csv`, ["figure", "variant", "value", "low", "high"], rows);
}

