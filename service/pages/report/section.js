// Report: the cost of compression of a task, as the job measured it.

import { ask } from "../app/api.js";
import { saveFrom } from "../app/downloads.js";
import { decimal, decimals, interval, megabytes, milliseconds, percent, pValue, times } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { service } from "../app/service_state.js";
import { Choice, Table } from "../app/tables.js";
import { MatrixTable } from "./matrix_table.js";
import { TradeOffChart } from "./trade_off_chart.js";

const FORMATS = { html: ["html", "Page with plots"], json: ["json", "JSON"], markdown: ["md", "Markdown"] };
const PREFERRED = [1, 64];

const NONE = "–";
const percents = (estimate) => (estimate ? interval(estimate.value, estimate.low, estimate.high) : NONE);

// The columns of quality of a report: the figure of the chart with its scale, headings, and the cells of a serving.
const LABEL_QUALITY = {
  name: "Accuracy",
  axis: "accuracy, %",
  scale: 100,
  headings: ["#Accuracy", "#Kept of dense's", "#McNemar's p"],
  cells: ({ quality, row, isSparse }) => {
    const kept = isSparse ? null : row.evaluation?.agreement;
    return [percents(quality), percents(kept?.accuracy_kept), pValue(kept?.mcnemar_p)];
  },
};
const SCORE_QUALITY = {
  name: "Spearman's correlation",
  axis: "Spearman's correlation",
  scale: 1,
  headings: ["#Spearman's correlation", "#Same order as dense", "#Sign test's p", "#nDCG@10"],
  cells: ({ quality, row, isSparse }) => {
    const { agreement, ranking } = (isSparse ? null : row.score_evaluation) ?? {};
    return [quality ? decimals(quality) : NONE, percents(agreement?.same_order), pValue(agreement?.nearer_p), decimal(ranking?.ndcg10.value)];
  },
};

// Every serving of a variant: in ONNX Runtime, and in the sparse runtime where it was measured.
function servings(report) {
  return report.variants.flatMap((row) => {
    const quality = row.evaluation?.accuracy ?? row.score_evaluation?.spearman ?? null;
    const onnx = { name: row.variant, row, quality, bytes: row.sizes.onnx, points: row.cost?.latency ?? [] };
    if (!row.sparse) return [onnx];
    const { accuracy, bytes, latency: points } = row.sparse;
    const sparse = accuracy === null ? null : { value: accuracy, low: null, high: null };
    return [onnx, { name: `${row.variant}, sparse runtime`, row, isSparse: true, quality: sparse, bytes, points }];
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
    const quality = report.variants.some((row) => row.score_evaluation) ? SCORE_QUALITY : LABEL_QUALITY;
    const { names, cell } = this.cells(all);
    const measures = { latency: [`median of ${cell} tokens, milliseconds`, ({ points }) => 1000 * (at(points, cell)?.p50_seconds ?? NaN)],
      size: ["size of the served file, MB", ({ bytes }) => bytes / 1e6] };
    const [title, of] = measures[this.state.measure];
    return html`
      <section aria-labelledby="findings-title">
        <h2 id="findings-title">Findings</h2>
        <ul>${report.findings.map((finding) => html`<li>${finding}</li>`)}</ul>
        <p class="note">Made ${report.created_at.slice(0, 16).replace("T", " ")} UTC; ${report.labels.length === 1 ? "one score"
          : report.labels.map((label, place) => html`${place > 0 && ", "}<bdi>${label}</bdi>`)}.</p>
        <div class="actions">${this.links()}</div>
      </section>
      <section aria-labelledby="trade-off-title">
        <h2 id="trade-off-title">${quality.name} against cost</h2>
        <div class="fields">
          <${Choice} label="Cost" value=${this.state.measure} options=${[["latency", "latency"], ["size", "file size"]]}
            onChange=${(measure) => this.setState({ measure })} />
          ${names.length > 1 && html`<${Choice} label="Texts × tokens of a request" value=${cell} options=${names}
            onChange=${(name) => this.setState({ cell: name })} />`}
        </div>
        <${TradeOffChart} title=${title} measure=${quality} points=${all.map((one) => ({ ...one, x: of(one) }))} />
        <${Table} caption="Variants of the report"
          headings=${["Variant", ...quality.headings, "#Zeros of the encoder", "#File", "#p50", "#p95", "#Speed-up"]}
          rows=${all.map((one) => {
            const speed = at(one.points, cell);
            return [one.name, ...quality.cells(one), percent(one.row.encoder_linear.sparsity), megabytes(one.bytes),
              milliseconds(speed?.p50_seconds), milliseconds(speed?.p95_seconds), times(speed?.speedup)];
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
