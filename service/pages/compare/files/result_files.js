// The rows and the figures of a comparison as CSV files.

import { saveCsv } from "../../app/downloads.js";

export function saveRows(tally, kind, rows) {
  const headings = (variant) => (tally.oneScore ? ["score"] : tally.labels).map((name) => `${variant} ${name}`);
  // In the order of the labels: an object puts names that are whole numbers first.
  const scores = (answer) => (tally.oneScore ? [answer.score] : tally.labels.map((name) => answer.scores[name]));
  const [one, other] = [tally.reference, tally.candidate];
  const labels = tally.oneScore ? [] : [one, other, "agree"];
  saveCsv(`${one}-${other}-${kind}.csv`,
    ["row", "text", "text_pair", tally.oneScore ? "true number" : "true label", ...labels, "difference",
      ...headings(one), ...headings(other), "tokens", "truncated", "windows"],
    rows.map((row) => [
      row.number, row.text, row.pair, row.truth,
      ...(tally.oneScore ? [] : [row.reference.label, row.candidate.label, row.agree]), row.difference,
      ...scores(row.reference), ...scores(row.candidate), row.tokens, row.truncated, row.windows,
    ]));
}

const figure = (name, variant, estimate) => (estimate ? [[name, variant, estimate.value, estimate.low, estimate.high]] : []);

function labelFigures(tally) {
  const { reference: one, candidate: other } = tally;
  const accuracy = tally.accuracy();
  return [
    ...figure("agreement", other, tally.agreement()),
    ...figure("accuracy", one, accuracy?.reference),
    ...figure("accuracy", other, accuracy?.candidate),
    ...(accuracy ? [["McNemar's p", "", accuracy.p], ["only this one right", one, accuracy.onlyReference],
      ["only this one right", other, accuracy.onlyCandidate]] : []),
    ...[...tally.labelCounts].flatMap(([label, counts]) => [
      [`predictions of ${label}`, one, counts.reference], [`predictions of ${label}`, other, counts.candidate],
      ...(tally.labelled ? [[`rows of ${label}`, "truth", counts.truth]] : []),
    ]),
    ...tally.crossings.entries().map(({ row, column, times }) => [`${one} says ${row} and ${other} says ${column}`, "", times]),
  ];
}

function scoreFigures(tally) {
  const { sameOrder, against } = tally.scoreFigures();
  const rows = figure("pairs in the same order", tally.candidate, sameOrder);
  for (const name of against ? ["reference", "candidate"] : []) {
    const variant = tally[name];
    const { spearman, pearson, squaredError, ranking } = against[name];
    rows.push(...figure("Spearman's correlation", variant, spearman), ["Pearson's correlation", variant, pearson],
      ["mean squared error", variant, squaredError]);
    if (ranking) rows.push(["nDCG@10", variant, ranking.ndcg10], ["mean reciprocal rank", variant, ranking.mrr]);
  }
  if (against) {
    rows.push(["sign test's p", "", against.nearer.p], ["only this one nearer", tally.reference, against.nearer.onlyReference],
      ["only this one nearer", tally.candidate, against.nearer.onlyCandidate]);
  }
  return rows;
}

export function saveFigures({ tally, task }) {
  const { reference: one, candidate: other } = tally;
  const latency = tally.latency();
  const lengths = tally.lengths();
  const seconds = (variant, { p50, p95 }) => [["p50 seconds", variant, p50], ["p95 seconds", variant, p95]];
  const rows = [
    ["task", "", task.task],
    ["rows", "", tally.rows.length],
    ...(tally.oneScore ? scoreFigures(tally) : labelFigures(tally)),
    ...seconds(one, latency.reference), ...seconds(other, latency.candidate),
    ["speed-up, one text at a time", other, latency.speedup],
    ["speed-up, many texts at once", other, latency.together?.speedup],
    ["mean difference of a score", other, tally.difference().mean],
    ["largest difference of a score", other, tally.difference().largest],
    ["median tokens", "", lengths.median], ["longest, tokens", "", lengths.longest],
    ["truncated texts", "", lengths.truncated], ["texts in windows", "", lengths.windowed],
  ];
  saveCsv(`${one}-${other}-figures.csv`, ["figure", "variant", "value", "low", "high"], rows);
}
