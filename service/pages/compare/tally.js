// The figures of a comparison, kept up to date row by row. Knows neither the service nor the page.

import { mcnemar, mean, proportion, quantile } from "./statistics.js";

const MULTI_LABEL_THRESHOLD = 0.5;

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
  // `task` is the task of /v1/models.
  constructor(task, reference, candidate) {
    this.labels = task.labels;
    this.problemType = task.problem_type;
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
    this.errors = { reference: [], candidate: [] };
    this.tokens = [];
    this.truncated = 0;
    this.differences = [];
    this.alone = { reference: [], candidate: [] };
    this.together = { texts: 0, reference: 0, candidate: 0 };
  }

  get isRegression() {
    return this.problemType === "regression";
  }

  // `row` is { number, text, pair, truth }; `item` is an entry of the answer's `items`.
  add(row, item) {
    const one = this.#predicted(item.predictions[this.reference]);
    const other = this.#predicted(item.predictions[this.candidate]);
    const done = {
      ...row, reference: one, candidate: other, agree: item.agree, difference: item.max_difference,
      tokens: item.tokens, truncated: item.truncated,
    };
    this.rows.push(done);
    this.tokens.push(item.tokens);
    this.differences.push(item.max_difference);
    this.truncated += item.truncated;
    if (this.isRegression) {
      this.#addErrors(done);
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

  agreement() {
    return this.isRegression ? null : proportion(this.agreed, this.rows.length);
  }

  // Against the true labels; null without any.
  accuracy() {
    if (!this.labelled || this.isRegression) return null;
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

  // Mean absolute errors of a regression against the true values; null without any.
  meanErrors() {
    if (!this.labelled || !this.isRegression) return null;
    return { rows: this.labelled, reference: mean(this.errors.reference), candidate: mean(this.errors.candidate) };
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
    return {
      reference: one,
      candidate: other,
      speedup: one.p50 && other.p50 ? one.p50 / other.p50 : null,
      together: texts
        ? { texts, reference: reference / texts, candidate: candidate / texts, speedup: reference / Math.max(candidate, 1e-9) }
        : null,
    };
  }

  lengths() {
    const sorted = [...this.tokens].sort((a, b) => a - b);
    return { median: quantile(sorted, 0.5), p95: quantile(sorted, 0.95), longest: sorted.at(-1) ?? null, truncated: this.truncated };
  }

  // One label, or the set of those over the threshold, as the service compares them.
  #predicted({ label, score, scores }) {
    const several = this.problemType === "multi_label_classification" || this.labels.length === 1;
    if (this.isRegression || !several) return { label, labels: [label], score, scores };
    const labels = this.labels.filter((name) => scores[name] >= MULTI_LABEL_THRESHOLD);
    return { label: labels.join(", "), labels, score, scores };
  }

  #addTruth({ truth, reference, candidate }) {
    if (truth === null) return;
    this.labelled += 1;
    this.truths[0].add(truth, reference.label);
    this.truths[1].add(truth, candidate.label);
    for (const [name, counts] of this.labelCounts) {
      counts.truth += this.problemType === "multi_label_classification" ? truth.split(", ").includes(name) : truth === name;
    }
    const [one, other] = [reference.label === truth, candidate.label === truth];
    this.right.reference += one;
    this.right.candidate += other;
    this.right.onlyReference += one && !other;
    this.right.onlyCandidate += other && !one;
  }

  #addErrors({ truth, reference, candidate }) {
    if (truth === null) return;
    this.labelled += 1;
    this.errors.reference.push(Math.abs(reference.score - truth));
    this.errors.candidate.push(Math.abs(candidate.score - truth));
  }
}
