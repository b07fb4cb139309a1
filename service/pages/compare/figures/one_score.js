// Figures of models with one score for each row, as the job computes them: the order of rows, correlations, ranking.

import { mcnemar, mean, Z } from "./statistics.js";

const ORDERED_ROWS_MOST = 1000;
const FIRST = 10;
const RELEVANT = 0.5;

// Fraction of pairs of rows that both arrays of scores put in the same order, ties included: { value, low, high }, or
// null without a pair. Of more than 1,000 rows, so many are taken at even distances. The interval is that of a
// U-statistic (Hoeffding 1948).
export function sameOrder(scores, reference) {
  const size = Math.min(scores.length, ORDERED_ROWS_MOST);
  if (size < 2) return null;
  const places = Array.from({ length: size }, (_, place) => Math.floor((place * scores.length) / size));
  const [one, other] = [scores, reference].map((values) => Float64Array.from(places, (place) => values[place]));
  const shares = new Float64Array(size);
  for (let row = 0; row < size; row += 1) {
    for (let second = row + 1; second < size; second += 1) {
      if (Math.sign(one[row] - one[second]) === Math.sign(other[row] - other[second])) {
        shares[row] += 1;
        shares[second] += 1;
      }
    }
  }
  const value = mean(shares) / (size - 1);
  const variance = shares.reduce((sum, share) => sum + (share / (size - 1) - value) ** 2, 0) / (size - 1);
  const half = Z * 2 * Math.sqrt(variance / size);
  return { value, low: Math.max(value - half, 0), high: Math.min(value + half, 1) };
}

// Pearson's correlation; 0 if one of the arrays is constant.
export function correlation(first, second) {
  const [centre, other] = [mean(first), mean(second)];
  let [both, square, otherSquare] = [0, 0, 0];
  first.forEach((value, place) => {
    both += (value - centre) * (second[place] - other);
    square += (value - centre) ** 2;
    otherSquare += (second[place] - other) ** 2;
  });
  const scale = Math.sqrt(square * otherSquare);
  return scale > 0 ? Math.min(Math.max(both / scale, -1), 1) : 0;
}

// Spearman's correlation with its interval by Bonett and Wright (2000): { value, low, high }.
export function rankCorrelation(first, second) {
  const value = correlation(ranks(first), ranks(second));
  if (first.length <= 3 || Math.abs(value) === 1) return { value, low: null, high: null };
  const half = Z * Math.sqrt((1 + value ** 2 / 2) / (first.length - 3));
  return { value, low: Math.tanh(Math.atanh(value) - half), high: Math.tanh(Math.atanh(value) + half) };
}

// Sign test of equal distances to the true numbers: rows on which only one of the two is nearer, and p.
export function nearer(reference, candidate, truth) {
  let [onlyReference, onlyCandidate] = [0, 0];
  truth.forEach((value, row) => {
    const [one, other] = [Math.abs(reference[row] - value), Math.abs(candidate[row] - value)];
    onlyReference += one < other;
    onlyCandidate += other < one;
  });
  return { onlyReference, onlyCandidate, p: mcnemar(onlyReference, onlyCandidate) };
}

export const squaredError = (scores, truth) => mean(scores.map((score, row) => (score - truth[row]) ** 2));

// Figures of a reranker over the queries that have documents of different relevance: { queries, ndcg10, mrr }, or null
// without any. `relevance` is between 0 and 1. Figures of equal scores are means over their orders.
export function ranking(scores, relevance, queries) {
  const groups = new Map();
  queries.forEach((query, row) => {
    const name = query.trim().toLowerCase();
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  });
  const [gains, reciprocals] = [[], []];
  for (const rows of groups.values()) {
    const best = rows.map((row) => relevance[row]).sort((one, other) => other - one);
    if (best[0] === best.at(-1)) continue;
    const ties = tied(rows, scores).map((group) => group.map((row) => relevance[row]));
    gains.push(discountedGain(ties.flatMap((group) => group.map(() => mean(group)))) / discountedGain(best));
    reciprocals.push(expectedReciprocal(ties, Math.min(RELEVANT, best[0])));
  }
  return gains.length ? { queries: gains.length, ndcg10: mean(gains), mrr: mean(reciprocals) } : null;
}

// Rows in groups of equal scores, the best first.
function tied(rows, scores) {
  const groups = new Map();
  for (const row of [...rows].sort((one, other) => scores[other] - scores[one])) {
    groups.set(scores[row], [...(groups.get(scores[row]) ?? []), row]);
  }
  return [...groups.values()];
}

// Mean of 1 / (place of the first document of at least this relevance) over the orders of equal scores.
function expectedReciprocal(ties, least) {
  const group = ties.findIndex((values) => values.some((value) => value >= least));
  const before = ties.slice(0, group).flat().length;
  const size = ties[group].length;
  const count = ties[group].filter((value) => value >= least).length;
  let [expected, noneYet] = [0, 1];
  for (let place = 0; place <= size - count; place += 1) {
    expected += (noneYet * count) / (size - place) / (before + place + 1);
    noneYet *= (size - place - count) / (size - place);
  }
  return expected;
}

// The gain is the relevance, so the quotient of two does not depend on the scale of the grades.
const discountedGain = (relevance) =>
  relevance.slice(0, FIRST).reduce((sum, value, place) => sum + value / Math.log2(place + 2), 0);

// Places in the sorted order from 1; equal values share the mean of theirs.
function ranks(values) {
  const order = [...values.keys()].sort((one, other) => values[one] - values[other]);
  const found = new Array(values.length);
  for (let start = 0, end = 0; start < order.length; start = end) {
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let place = start; place < end; place += 1) found[order[place]] = (start + end + 1) / 2;
  }
  return found;
}
