// Models: what is served, what it costs and keeps, what was refused, and the changes that an administrator can make.

import { ask, keys, modelPath } from "../app/api.js";
import { Confirm } from "../app/confirm.js";
import { count, decimals, interval, megabytes, milliseconds, percent, pValue, runtime } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { describeLongTexts } from "../app/long_texts.js";
import { service } from "../app/service_state.js";
import { Table } from "../app/tables.js";
import { hasOneScore } from "../compare/figures/tally.js";
import { VariantActions } from "./actions.js";

const SHOWN_LABELS = 8;

const describeLatency = ({ batch, length, threads, cpu }) =>
  `Latency: median of ${batch === 1 ? "one text" : `${batch} texts`} of ${length} tokens with ${threads} threads on ${cpu}, ` +
  "measured when the bundle was made.";

// The columns of quality: headings, cells of a manifest, and what the figures are.
const LABEL_QUALITY = {
  headings: ["#Accuracy", "#Accuracy kept"],
  cells: ({ evaluation }) => [shown(evaluation?.accuracy), withP(evaluation?.agreement?.accuracy_kept, evaluation?.agreement?.mcnemar_p)],
  note: "Accuracy kept: accuracy divided by dense's on the same test rows, with McNemar's p.",
};
const SCORE_QUALITY = {
  headings: ["#Spearman's correlation", "#Same order as dense"],
  cells: ({ score_evaluation: scores }) => [
    scores ? decimals(scores.spearman) : "–", withP(scores?.agreement?.same_order, scores?.agreement?.nearer_p),
  ],
  note: "Same order as dense: pairs of test rows that both put in the same order. p: sign test of equal distances to the true numbers.",
};

const shown = (estimate) => (estimate ? interval(estimate.value, estimate.low, estimate.high) : "–");
const withP = (estimate, p) => (estimate ? html`${shown(estimate)} <span class="note below">p = ${pValue(p)}</span>` : "–");

// The labels of a task, or what its one score is.
function answers({ labels, problem_type: type }) {
  if (type === "regression") return "a number";
  if (labels.length === 1) return "a relevance between 0 and 1";
  const named = labels.slice(0, SHOWN_LABELS).map((label, place) => html`${place > 0 && ", "}<bdi>${label}</bdi>`);
  return html`${named}${labels.length > SHOWN_LABELS && `, … (${count(labels.length)} labels)`}`;
}

export class ModelsSection extends Component {
  state = { details: new Map(), overrides: null, action: null };

  componentDidMount() {
    this.read = () => this.readDetails();
    service.addEventListener("change", this.read);
    if (service.info) service.read();
  }

  componentWillUnmount() {
    service.removeEventListener("change", this.read);
  }

  // Manifests have more than the list: versions, and the accuracy against dense.
  async readDetails() {
    if (service.problem) return;
    const pairs = service.models.flatMap(({ task, variants }) => variants.map(({ variant }) => [task, variant]));
    const answers = await Promise.allSettled(pairs.map(([task, variant]) => ask(modelPath(task, variant))));
    const details = new Map();
    answers.forEach(({ value }, place) => { if (value) details.set(pairs[place].join("/"), value); });
    let overrides = null;
    if (keys.known) overrides = await ask("v1/admin/overrides", { scope: "admin" }).catch(() => null);
    this.setState({ details, overrides });
  }

  row(task, one, quality) {
    const detail = this.state.details.get(`${task.task}/${one.variant}`);
    const pinned = this.state.overrides?.pinned.some((pin) => pin.task === task.task && pin.variant === one.variant);
    return [
      html`${one.variant} ${one.variant === task.default_variant && html`<span class="badge good">default</span>`}`,
      one.state === "refused" ? html`<span class="badge bad">refused</span> ${one.reason}` : one.state,
      html`<code>${one.version ?? "–"}</code> ${pinned && html`<span class="badge">pinned</span>`}`,
      one.file ? html`<code>${one.file}</code> ${megabytes(one.file_bytes)}, ${runtime(one.runtime)}` : "–",
      percent(one.encoder_sparsity, 0),
      one.latency ? milliseconds(one.latency.p50_seconds) : "–",
      ...quality.cells(detail?.manifest ?? {}),
    ];
  }

  task(task) {
    const refusal = service.refused.find((one) => one.task === task.task && one.variant === null);
    const measured = task.variants.map((one) => one.latency).find(Boolean);
    const quality = hasOneScore(task) ? SCORE_QUALITY : LABEL_QUALITY;
    const isEvaluated = [...this.state.details.values()].some((one) => one.task === task.task
      && (one.manifest?.evaluation || one.manifest?.score_evaluation));
    return html`
      <section aria-label=${task.task}>
        <h2>${task.task}</h2>
        <p class="note">${answers(task)}${task.max_length ? ` · up to ${count(task.max_length)} tokens${describeLongTexts(task)}` : ""}
          ${task.inputs === "pair" && " · pairs of texts"}</p>
        ${refusal && html`<p class="error">Refused: ${refusal.reason}</p>`}
        <${Table} caption=${`Variants of ${task.task}`}
          headings=${["Variant", "State", "Version", "Served file, size, runtime", "#Sparsity", "#Latency", ...quality.headings]}
          rows=${task.variants.map((one) => this.row(task, one, quality))} />
        ${(measured || isEvaluated) && html`<p class="note">${measured && describeLatency(measured)} ${isEvaluated && quality.note}</p>`}
        ${this.state.overrides && task.variants.map((one) => html`
          <${VariantActions} key=${one.variant} task=${task} variant=${one} overrides=${this.state.overrides}
            versions=${this.state.details.get(`${task.task}/${one.variant}`)?.versions ?? []}
            onChoose=${(action) => this.setState({ action })} />`)}
      </section>`;
  }

  render(_, { overrides, action }) {
    return html`
      <h1>Models</h1>
      ${!overrides && !service.problem && html`<p class="lead">To promote, roll back, load or unload, give a key with the scope admin
        under Keys. <code>sparserve keys create NAME --scope admin</code> makes one; the service reads it with <code>--keys-file</code>.</p>`}
      ${service.models.length === 0 && html`<p role="status">${service.problem?.message ?? "No models yet."}</p>`}
      ${service.models.map((task) => this.task(task))}
      ${action && html`<${Confirm} title=${action.title} consequence=${action.consequence}
        act=${async () => { await action.act(); await service.read(); }} onClose=${() => this.setState({ action: null })} />`}`;
  }
}
