// Report: the cost of compression of a task, as the job measured it.

import { ask } from "../app/api.js";
import { saveFrom } from "../app/downloads.js";
import { interval, megabytes, milliseconds, percent, pValue, times } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { service } from "../app/service_state.js";
import { Choice, Table } from "../app/tables.js";
import { MatrixTable } from "./matrix_table.js";
import { TradeOffChart } from "./trade_off_chart.js";

const FORMATS = { html: ["html", "Page with plots"], json: ["json", "JSON"], markdown: ["md", "Markdown"] };
const PREFERRED = [1, 64];

// Every serving of a variant: in ONNX Runtime, and in the sparse runtime where it was measured.
function servings(report) {
  return report.variants.flatMap((row) => {
    const accuracy = row.evaluation?.accuracy ?? null;
    const onnx = { name: row.variant, row, accuracy, bytes: row.sizes.onnx, points: row.cost?.latency ?? [] };
    if (!row.sparse) return [onnx];
    const sparse = accuracy && { ...accuracy, value: row.sparse.accuracy };
    return [onnx, { name: `${row.variant}, sparse runtime`, row, accuracy: sparse, bytes: row.sparse.bytes, points: row.sparse.latency }];
  });
}

const at = (points, cell) => points.find(({ batch, length }) => `${batch} × ${length}` === cell);

export class ReportSection extends Component {
  state = { task: null, report: null, problem: null, cell: null, measure: "latency" };

  componentDidMount() {
    this.read = () => this.readReport();
    service.addEventListener("change", this.read);
    this.read();
  }

  componentWillUnmount() {
    service.removeEventListener("change", this.read);
  }

  async readReport() {
    const names = service.reports.map(({ task }) => task);
    const task = names.includes(this.state.task) ? this.state.task : names[0];
    if (task === undefined) return;
    try {
      const report = await ask(`v1/reports/${encodeURIComponent(task)}?format=json`);
      this.setState({ task, report, problem: null });
    } catch (problem) {
      this.setState({ task, report: null, problem });
    }
  }

  cells(all) {
    const cells = new Map(all.flatMap(({ points }) => points.map(({ batch, length }) => [`${batch} × ${length}`, [batch, length]])));
    const distance = ([batch, length]) => 1000 * Math.abs(batch - PREFERRED[0]) + Math.abs(length - PREFERRED[1]);
    const usual = [...cells].sort((a, b) => distance(a[1]) - distance(b[1]))[0]?.[0] ?? null;
    return { names: [...cells.keys()], cell: cells.has(this.state.cell) ? this.state.cell : usual };
  }

  body(report) {
    const all = servings(report);
    const { names, cell } = this.cells(all);
    const measures = { latency: [`median of ${cell} tokens, milliseconds`, ({ points }) => 1000 * (at(points, cell)?.p50_seconds ?? NaN)],
      size: ["size of the served file, MB", ({ bytes }) => bytes / 1e6] };
    const [title, of] = measures[this.state.measure];
    return html`
      <section aria-labelledby="findings-title">
        <h2 id="findings-title">Findings</h2>
        <ul>${report.findings.map((finding) => html`<li>${finding}</li>`)}</ul>
        <p class="note">Made ${report.created_at}; <bdi>${report.labels.join(", ")}</bdi>.</p>
        <div class="actions">${this.links()}</div>
      </section>
      <section aria-labelledby="trade-off-title">
        <h2 id="trade-off-title">Accuracy against cost</h2>
        <div class="fields">
          <${Choice} label="Cost" value=${this.state.measure} options=${[["latency", "latency"], ["size", "file size"]]}
            onChange=${(measure) => this.setState({ measure })} />
          ${names.length > 1 && html`<${Choice} label="Texts × tokens of a request" value=${cell} options=${names}
            onChange=${(name) => this.setState({ cell: name })} />`}
        </div>
        <${TradeOffChart} title=${title} points=${all.map((one) => ({ ...one, x: of(one) }))} />
        <${Table} caption="Variants of the report"
          headings=${["Variant", "#Accuracy", "#Kept of dense's", "#McNemar's p", "#Zeros of the encoder", "#File", "#p50", "#p95", "#Speed-up"]}
          rows=${all.map(({ name, row, accuracy, bytes, points }) => {
            const speed = at(points, cell);
            const kept = row.evaluation?.agreement;
            return [name, accuracy ? interval(accuracy.value, accuracy.low, accuracy.high) : "–",
              kept ? interval(kept.accuracy_kept.value, kept.accuracy_kept.low, kept.accuracy_kept.high) : "–", pValue(kept?.mcnemar_p),
              percent(row.encoder_linear.sparsity), megabytes(bytes), milliseconds(speed?.p50_seconds), milliseconds(speed?.p95_seconds), times(speed?.speedup)];
          })} />
        <p class="note">Speed-up over dense fp32 in ONNX Runtime. ${report.variants[0].cost && html`Measured with
          ${" "}${report.variants[0].cost.threads} threads on ${report.variants[0].cost.machine.cpu}.`}</p>
      </section>
      <${MatrixTable} report=${report} />`;
  }

  links() {
    const { task } = this.state;
    const link = service.reports.find((one) => one.task === task);
    return (link?.formats ?? []).map((format) => html`
      <button type="button" onClick=${() => saveFrom(`v1/reports/${encodeURIComponent(task)}?format=${format}`, `${task}.${FORMATS[format][0]}`)
        .catch((problem) => this.setState({ problem }))}>${FORMATS[format][1]}</button>`);
  }

  render(_, { task, report, problem }) {
    const names = service.reports.map((one) => one.task);
    return html`
      <h1>Report</h1>
      ${names.length === 0 && html`<p role="status">${service.problem?.message ?? "The store has no report. `sparserve report TASK` makes one."}</p>`}
      ${names.length > 1 && html`<div class="fields"><${Choice} label="Task" value=${task} options=${names}
        onChange=${(name) => this.setState({ task: name }, this.read)} /></div>`}
      ${problem && html`<p class="error" role="alert">${problem.message}</p>`}
      ${report && this.body(report)}`;
  }
}
