// Compare a file: two variants on the user's own texts.

import { html, Component } from "../app/html.js";
import { count, counted, duration } from "../app/format.js";
import { LongTextChoice, overlong } from "../app/long_texts.js";
import { service } from "../app/service_state.js";
import { Choice } from "../app/tables.js";
import { hasOneScore } from "./figures/tally.js";
import { recognise } from "./files/columns.js";
import { truthReader } from "./files/true_labels.js";
import { InputForm } from "./input_form.js";
import { Results } from "./results.js";
import { ComparisonRun } from "./run.js";

const REDRAW_MILLISECONDS = 250;
const ROLES = ["text", "pair", "label"];
// A run continues while another section is shown.
const kept = { choice: {}, table: null, columns: null, run: null, notes: [] };

export class CompareSection extends Component {
  constructor(props) {
    super(props);
    this.adopt(props.settings);
    this.redraw = () => {
      if (this.timer) return;
      this.timer = setTimeout(() => {
        this.timer = null;
        this.setState({});
      }, REDRAW_MILLISECONDS);
    };
  }

  componentDidMount() {
    kept.run?.addEventListener("change", this.redraw);
  }

  componentDidUpdate(before) {
    if (before.settings === this.props.settings) return;
    this.adopt(this.props.settings);
    this.setState({});
  }

  componentWillUnmount() {
    clearTimeout(this.timer);
    kept.run?.removeEventListener("change", this.redraw);
  }

  // Take the choices that a link names.
  adopt(settings) {
    for (const name of ["task", "reference", "candidate", "overlong"]) {
      if (settings.has(name)) kept.choice[name] = settings.get(name);
    }
  }

  // The chosen task and variants; what the service does not have is replaced by its default.
  get choice() {
    const names = service.models.filter((one) => service.serving(one.task).length > 1).map((one) => one.task);
    const task = names.includes(kept.choice.task) ? kept.choice.task : names[0];
    const variants = task === undefined ? [] : service.serving(task);
    const reference = variants.includes(kept.choice.reference) ? kept.choice.reference : variants[0];
    const others = variants.filter((name) => name !== reference);
    const usual = service.task(task)?.default_variant;
    const fallback = others.includes(usual) ? usual : others[0];
    const candidate = others.includes(kept.choice.candidate) ? kept.choice.candidate : fallback;
    const longTexts = overlong(service.task(task), kept.choice.overlong);
    return { names, task, variants, reference, others, candidate, longTexts };
  }

  choose(changes) {
    Object.assign(kept.choice, changes);
    this.setState({});
  }

  useTable(table) {
    const wantsPair = service.task(this.choice.task)?.inputs === "pair";
    const columns = recognise(table.names, table.rows, wantsPair);
    for (const role of ROLES) {
      // A link names columns by their number: a name could be a text.
      const place = Number(this.props.settings.get(role)) - 1;
      const least = role === "text" ? 0 : -1;
      const isPlace = Number.isInteger(place) && place >= least && place < table.names.length;
      if (this.props.settings.has(role) && isPlace) columns[role] = place;
    }
    Object.assign(kept, { table, columns });
    this.setState({});
  }

  start() {
    const { task: name, reference, candidate, longTexts } = this.choice;
    const task = service.task(name);
    const { table, columns } = kept;
    const cell = (row, role) => (columns[role] < 0 ? null : row[columns[role]]);
    const truth = columns.label < 0 ? null : truthReader(table.rows.map((row) => row[columns.label]), {
      labels: task.labels, numbers: hasOneScore(task), severalLabels: task.problem_type === "multi_label_classification",
    });
    const rows = table.rows.map((row, place) => ({
      number: place + 1,
      text: cell(row, "text"),
      pair: cell(row, "pair"),
      truth: truth ? truth.of(row[columns.label]) : null,
      truths: truth?.list?.(row[columns.label]) ?? null,
    }));
    const full = rows.filter((row) => row.text.trim());
    kept.notes = truth?.note ? [truth.note] : [];
    if (full.length < rows.length) kept.notes.push(`Left out: ${counted(rows.length - full.length, "row")} without a text.`);
    kept.run?.removeEventListener("change", this.redraw);
    kept.run?.stop();
    kept.run = new ComparisonRun({
      task, reference, candidate, rows: full, overlong: longTexts, limits: service.info.limits,
    });
    kept.run.addEventListener("change", this.redraw);
    history.replaceState(null, "", this.link);
    this.resume();
  }

  resume() {
    kept.run.start();
    this.setState({});
  }

  // The settings, never the texts.
  get link() {
    const { task, reference, candidate, longTexts } = this.choice;
    const settings = new URLSearchParams({ task, reference, candidate });
    if (longTexts) settings.set("overlong", longTexts);
    for (const role of ROLES) if (kept.columns) settings.set(role, kept.columns[role] + 1);
    return `#compare?${settings}`;
  }

  form() {
    const { names, task, variants, reference, others, candidate, longTexts } = this.choice;
    const busy = kept.run?.busy;
    return html`
      <div class="fields">
        <${Choice} label="Task" value=${task} options=${names} onChange=${(value) => this.choose({ task: value })} />
        <${Choice} label="Reference" value=${reference} options=${variants} onChange=${(value) => this.choose({ reference: value })} />
        <${Choice} label="Compare with" value=${candidate} options=${others} onChange=${(value) => this.choose({ candidate: value })} />
        <${LongTextChoice} task=${service.task(task)} value=${longTexts} onChange=${(value) => this.choose({ overlong: value })} />
      </div>
      <${InputForm} table=${kept.table} columns=${kept.columns} numbers=${hasOneScore(service.task(task))}
        onTable=${(table) => this.useTable(table)}
        onColumns=${(columns) => { kept.columns = columns; this.setState({}); }} />
      <div class="actions">
        <button class="primary" type="button" disabled=${!kept.table} onClick=${() => (busy ? kept.run.stop() : this.start())}>
          ${busy ? "Stop" : "Compare"}</button>
        ${["stopped", "failed"].includes(kept.run?.state) && html`
          <button type="button" onClick=${() => this.resume()}>Continue</button>`}
        <a href=${this.link}>Link to these settings</a>
      </div>`;
  }

  progress() {
    const { run } = kept;
    const total = run.rows.length;
    const left = run.state === "running" && run.secondsLeft !== null ? `, about ${duration(run.secondsLeft)} left` : "";
    return html`
      <div class="progress">
        <progress class="bar" max=${total} value=${run.done} aria-label="Rows compared"></progress>
        <span>${count(run.done)} of ${counted(total, "row")}${left}</span>
      </div>
      <p role="status" class=${run.message ? "error" : "note"}>${run.message || STATES[run.state]}</p>
      ${kept.notes.map((note) => html`<p class="note">${note}</p>`)}
      ${[...run.warnings].map((warning) => html`<p class="error">Warning: ${warning}</p>`)}
      ${run.refused.length > 0 && html`<p class="error">Refused: ${counted(run.refused.length, "row")}; the first,
        row ${run.refused[0].number}: ${run.refused[0].reason}</p>`}`;
  }

  render() {
    const { run } = kept;
    const task = service.task(this.choice.task);
    const question = task && hasOneScore(task) ? "how often does the smaller model put two rows in the same order"
      : "how often does the smaller model say the same, what does it cost in accuracy";
    return html`
      <h1>Dense and compressed, on your own texts</h1>
      <p class="lead">Drop a file of texts: ${question}, and how much faster is it?</p>
      <section aria-label="Texts and variants">
        ${task === undefined ? html`<${NothingToCompare} />` : this.form()}
        ${run && this.progress()}
      </section>
      ${run && run.tally.rows.length > 0 && html`<${Results} run=${run} />`}`;
  }
}

const STATES = {
  ready: "", running: "Running.", done: "Done.", stopped: "Stopped. The figures are those of the rows compared so far.",
};

function NothingToCompare() {
  if (service.info === null) return html`<p role="status">${service.problem?.message ?? "Loading…"}</p>`;
  return html`<p>No task serves two variants. Publish another one, or see <a href="#models">Models</a> for what was refused.</p>`;
}
