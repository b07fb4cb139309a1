// Models: what is served, what it costs and keeps, what was refused, and the changes that an administrator can make.

import { ask, keys, modelPath } from "../app/api.js";
import { Confirm } from "../app/confirm.js";
import { interval, megabytes, milliseconds, percent, pValue, runtime } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { service } from "../app/service_state.js";
import { Table } from "../app/tables.js";
import { VariantActions } from "./actions.js";

const SHOWN_LABELS = 8;

const describe = ({ batch, length, threads, cpu }) =>
  `Latency: median of ${batch === 1 ? "one text" : `${batch} texts`} of ${length} tokens with ${threads} threads on ${cpu}, measured ` +
  "when the bundle was made. Accuracy kept: accuracy divided by dense's on the same test rows, with McNemar's p.";

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

  row(task, one) {
    const detail = this.state.details.get(`${task.task}/${one.variant}`);
    const kept = detail?.manifest?.evaluation?.agreement;
    const accuracy = detail?.manifest?.evaluation?.accuracy;
    const pinned = this.state.overrides?.pinned.some((pin) => pin.task === task.task && pin.variant === one.variant);
    return [
      html`${one.variant} ${one.variant === task.default_variant && html`<span class="badge good">default</span>`}`,
      one.state === "refused" ? html`<span class="badge bad">refused</span> ${one.reason}` : one.state,
      html`<code>${one.version ?? "–"}</code> ${pinned && html`<span class="badge">pinned</span>`}`,
      one.file ? html`<code>${one.file}</code> ${megabytes(one.file_bytes)}, ${runtime(one.runtime)}` : "–",
      percent(one.encoder_sparsity, 0),
      one.latency ? milliseconds(one.latency.p50_seconds) : "–",
      accuracy ? interval(accuracy.value, accuracy.low, accuracy.high) : percent(one.accuracy),
      kept ? html`${interval(kept.accuracy_kept.value, kept.accuracy_kept.low, kept.accuracy_kept.high)}
        <span class="note">p = ${pValue(kept.mcnemar_p)}</span>` : "–",
    ];
  }

  task(task) {
    const refusal = service.refused.find((one) => one.task === task.task && one.variant === null);
    const measured = task.variants.map((one) => one.latency).find(Boolean);
    const labels = task.labels.slice(0, SHOWN_LABELS).join(", ") + (task.labels.length > SHOWN_LABELS ? ", …" : "");
    return html`
      <section aria-label=${task.task}>
        <h2>${task.task}</h2>
        <p class="note"><bdi>${labels}</bdi>${task.max_length ? ` · up to ${task.max_length} tokens` : ""}${task.inputs === "pair" ? " · pairs of texts" : ""}</p>
        ${refusal && html`<p class="error">Refused: ${refusal.reason}</p>`}
        <${Table} caption=${`Variants of ${task.task}`}
          headings=${["Variant", "State", "Version", "Served file, size, runtime", "#Sparsity", "#Latency", "#Accuracy", "#Accuracy kept"]}
          rows=${task.variants.map((one) => this.row(task, one))} />
        ${measured && html`<p class="note">${describe(measured)}</p>`}
        ${this.state.overrides && task.variants.map((one) => html`
          <${VariantActions} key=${one.variant} task=${task} variant=${one} overrides=${this.state.overrides}
            versions=${this.state.details.get(`${task.task}/${one.variant}`)?.versions ?? []}
            onChoose=${(action) => this.setState({ action })} />`)}
      </section>`;
  }

  render(_, { overrides, action }) {
    return html`
      <h1>Models</h1>
      ${!overrides && html`<p class="lead">To promote, roll back, load or unload, give a key with the scope admin under Keys.
        <code>sparserve keys create NAME --scope admin</code> makes one; the service reads it with <code>--keys-file</code>.</p>`}
      ${service.models.length === 0 && html`<p role="status">${service.problem?.message ?? "No models yet."}</p>`}
      ${service.models.map((task) => this.task(task))}
      ${action && html`<${Confirm} title=${action.title} consequence=${action.consequence}
        act=${async () => { await action.act(); await service.read(); }} onClose=${() => this.setState({ action: null })} />`}`;
  }
}
