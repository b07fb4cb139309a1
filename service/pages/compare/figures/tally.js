// The figures of a comparison, kept up to date row by row. Knows neither the service nor the page.

import { correlation, nearer, rankCorrelation, ranking, sameOrder, squaredError } from "./one_score.js";
import { mcnemar, mean, proportion, quantile } from "./statistics.js";

const MULTI_LABEL_THRESHOLD = 0.5;

// True for a regression or a reranker, whose answers are one score and no label.
export const hasOneScore = (task) => task.problem_type === "regression" || task.labels.length === 1;

// Counts of pairs of names, such as the predictions of two variants.
export class Crossings {
  #counts = new Map();

  add(row, column) {
    if (!this.#counts.has(row)) this.#counts.set(row, new Map());
    const counts = this.#counts.get(row);
    counts.set(column, (counts.get(column) ?? 0) + 1);
  }

  at(row, column) {
    return this.#counts.get(row)?.get(column) ?? 0;
  }

  entries() {
    return [...this.#counts].flatMap(([row, counts]) => [...counts].map(([column, times]) => ({ row, column, times })));
  }
}

export class Tally {
  #scores = null; // figures of the scores, for so many rows

  // `task` is the task of /v1/models.
  constructor(task, reference, candidate) {
    this.labels = task.labels;
    this.problemType = task.problem_type;
    this.oneScore = hasOneScore(task);
    this.reference = reference;
    this.candidate = candidate;
    this.rows = [];
    this.disagreements = [];
    this.agreed = 0;
    this.crossings = new Crossings();
    this.truths = [new Crossings(), new Crossings()];
    this.labelCounts = new Map(task.labels.map((label) => [label, { reference: 0, candidate: 0, both: 0, truth: 0 }]));
    this.labelled = 0;
    this.right = { reference: 0, candidate: 0, onlyReference: 0, onlyCandidate: 0 };
    this.tokens = [];
    this.truncated = 0;
    this.windowed = 0;
    this.mostWindows = 1;
    this.differences = [];
    this.alone = { reference: [], candidate: [] };
    this.together = { texts: 0, reference: 0, candidate: 0 };
  }

  // `row` is { number, text, pair, truth, truths }, where `truths` lists several true labels; `item` is an entry of the answer's `items`.
  add(row, item) {
    const one = this.#predicted(item.predictions[this.reference]);
    const other = this.#predicted(item.predictions[this.candidate]);
    const done = {
      ...row, reference: one, candidate: other, agree: item.agree, difference: item.max_difference,
      tokens: item.tokens, truncated: item.truncated, windows: item.windows,
    };
    this.rows.push(done);
    this.tokens.push(item.tokens);
    this.differences.push(item.max_difference);
    this.truncated += item.truncated;
    this.windowed += item.windows > 1;
    this.mostWindows = Math.max(this.mostWindows, item.windows);
    if (this.oneScore) {
      this.labelled += row.truth !== null;
      this.disagreements.push(done);
      return;
    }
    this.agreed += item.agree;
    if (!item.agree) this.disagreements.push(done);
    this.crossings.add(one.label, other.label);
    for (const label of one.labels) this.labelCounts.get(label).reference += 1;
    for (const label of other.labels) this.labelCounts.get(label).candidate += 1;
    for (const label of one.labels) this.labelCounts.get(label).both += other.labels.includes(label);
    this.#addTruth(done);
  }

  // The compute seconds of one answer, by variant. A text that was sent alone tells the latency of one request.
  addSeconds(texts, reference, candidate) {
    if (texts === 1) {
      this.alone.reference.push(reference);
      this.alone.candidate.push(candidate);
    } else {
      this.together.texts += texts;
      this.together.reference += reference;
      this.together.candidate += candidate;
    }
  }

  // Null for one score, which has no labels.
  agreement() {
    return this.oneScore ? null : proportion(this.agreed, this.rows.length);
  }

  // Against the true labels; null without any.
  accuracy() {
    if (!this.labelled || this.oneScore) return null;
    const { reference, candidate, onlyReference, onlyCandidate } = this.right;
    return {
      rows: this.labelled,
      reference: proportion(reference, this.labelled),
      candidate: proportion(candidate, this.labelled),
      onlyReference,
      onlyCandidate,
      p: mcnemar(onlyReference, onlyCandidate),
    };
  }

  // Figures of one score: the order of rows, and those against the true numbers, null without any. Null for labels.
  scoreFigures() {
    if (!this.oneScore || !this.rows.length) return null;
    if (this.#scores?.rows !== this.rows.length) {
      const all = ["reference", "candidate"].map((name) => this.rows.map((row) => row[name].score));
      this.#scores = { rows: this.rows.length, sameOrder: sameOrder(all[1], all[0]), against: this.#againstNumbers() };
    }
    return this.#scores;
  }

  difference() {
    return { mean: mean(this.differences), largest: this.differences.reduce((most, one) => Math.max(most, one), 0) };
  }

  latency() {
    const of = (seconds) => {
      const sorted = [...seconds].sort((a, b) => a - b);
      return { sorted, p50: quantile(sorted, 0.5), p95: quantile(sorted, 0.95) };
    };
    const { texts, reference, candidate } = this.together;
    const [one, other] = [of(this.alone.reference), of(this.alone.candidate)];
    const speedup = reference / Math.max(candidate, 1e-9);
    return {
      reference: one,
      candidate: other,
      speedup: one.p50 && other.p50 ? one.p50 / other.p50 : null,
      together: texts ? { texts, reference: reference / texts, candidate: candidate / texts, speedup } : null,
    };
  }

  lengths() {
    const sorted = [...this.tokens].sort((a, b) => a - b);
    const { truncated, windowed, mostWindows } = this;
    return { median: quantile(sorted, 0.5), longest: sorted.at(-1) ?? null, truncated, windowed, mostWindows };
  }

  // One label, or the set of those over the threshold, as the service compares them.
  #predicted({ label, score, scores }) {
    if (this.problemType !== "multi_label_classification") return { label, labels: [label], score, scores };
    const labels = this.labels.filter((name) => scores[name] >= MULTI_LABEL_THRESHOLD);
    return { label: labels.join(", "), labels, score, scores };
  }

  #addTruth({ truth, truths, reference, candidate }) {
    if (truth === null) return;
    this.labelled += 1;
    this.truths[0].add(truth, reference.label);
    this.truths[1].add(truth, candidate.label);
    const labels = truths ?? [truth];
    for (const [name, counts] of this.labelCounts) counts.truth += labels.includes(name);
    const [one, other] = [reference.label === truth, candidate.label === truth];
    this.right.reference += one;
    this.right.candidate += other;
    this.right.onlyReference += one && !other;
    this.right.onlyCandidate += other && !one;
  }

  #againstNumbers() {
    const rows = this.rows.filter(({ truth }) => truth !== null);
    if (!rows.length) return null;
    const isReranker = this.problemType !== "regression";
    const highest = rows.reduce((most, { truth }) => Math.max(most, truth), 0);
    // The grades of relevance are divided by the highest, as by the job.
    const truth = rows.map((row) => (isReranker && highest > 0 ? row.truth / highest : row.truth));
    const queries = isReranker && rows.every(({ pair }) => pair !== null) ? rows.map(({ text }) => text) : [];
    const scores = (name) => rows.map((row) => row[name].score);
    const figures = (found) => ({
      spearman: rankCorrelation(found, truth),
      pearson: correlation(found, truth),
      squaredError: squaredError(found, truth),
      ranking: ranking(found, truth, queries),
    });
    const [reference, candidate] = [scores("reference"), scores("candidate")];
    return {
      rows: rows.length,
      reference: figures(reference),
      candidate: figures(candidate),
      nearer: nearer(reference, candidate, truth),
    };
  }
}
