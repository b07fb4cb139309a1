// Experiments: a candidate beside the default variant on live traffic, as it runs.

import { ask, keys } from "../app/api.js";
import { Confirm } from "../app/confirm.js";
import { count, counted, decimal, decimals, interval, milliseconds, setting } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { service } from "../app/service_state.js";
import { Table, Tile } from "../app/tables.js";
import { hasOneScore } from "../compare/figures/tally.js";
import { BeginForm } from "./begin_form.js";
import { AgreementChart, DifferenceChart, LatencyChart } from "./live_charts.js";

const POLL_SECONDS = 2;
const HISTORY_POINTS = 1000;
const SHOWN_DISAGREEMENTS = 20;
// What has been seen of each task since the page was opened.
const histories = new Map();

const path = (task) => `v1/compare/${encodeURIComponent(task)}`;
const shown = ({ value, low, high }) => interval(value, low, high);
const seconds = ({ value, low, high }) =>
  (low === null ? milliseconds(value) : `${milliseconds(value)} [${milliseconds(low)}, ${milliseconds(high)}]`);

function remember(status) {
  const known = histories.get(status.task);
  const history = known?.since === status.since && known.inputs <= status.inputs ? known : { since: status.since, points: [] };
  history.inputs = status.inputs;
  if (status.inputs > 0) {
    const { agreement, score_difference: difference, default_seconds_per_input: one, candidate_seconds_per_input: other } = status;
    const point = { at: Date.now() / 1000, agreement, difference, one, other };
    history.points = [...history.points.slice(1 - HISTORY_POINTS), point];
  }
  histories.set(status.task, history);
}

// The answers of both: the same labels; of one score, on the same side of 0.5; of a number, which has no labels, the
// difference.
function answersTile({ agreement, score_difference: difference }, task) {
  const none = "no comparison yet";
  if (task?.problem_type === "regression") {
    return { title: "Difference of the numbers, mean", value: difference.value === null ? none : decimals(difference) };
  }
  const title = task && hasOneScore(task) ? "Both at least 0.5, or both under" : "Same labels";
  return { title, value: agreement.value === null ? none : shown(agreement) };
}

export class ExperimentsSection extends Component {
  state = { running: [], idle: [], rows: new Map(), action: null, problem: null };

  componentDidMount() {
    this.poll();
  }

  componentWillUnmount() {
    clearTimeout(this.timer);
    this.left = true;
  }

  async poll() {
    clearTimeout(this.timer);
    const names = service.models.map(({ task }) => task);
    const answers = await Promise.allSettled(names.map((task) => ask(path(task))));
    const running = answers.flatMap(({ value }) => (value ? [value] : []));
    running.forEach(remember);
    const problem = answers.map(({ reason }) => reason).find((reason) => reason && reason.status !== 404) ?? null;
    const rows = new Map();
    if (keys.known) {
      await Promise.allSettled(running.map(async ({ task }) => rows.set(task,
        await ask(`${path(task)}/disagreements?limit=${SHOWN_DISAGREEMENTS}`, { scope: "admin" }))));
    }
    if (this.left) return;
    const known = new Set(running.map(({ task }) => task));
    const idle = names.filter((task) => !known.has(task) && service.serving(task).length > 1);
    this.setState({ running, idle, rows, problem });
    this.timer = setTimeout(() => this.poll(), 1000 * POLL_SECONDS);
  }

  end(status) {
    return {
      title: `End the experiment on ${status.task}`,
      consequence: `${status.policy.candidate} no longer gets requests of ${status.task} that name no variant; the default answers all of them. ` +
        "The figures are lost with the experiment.",
      act: () => ask(path(status.task), { method: "DELETE", scope: "admin" }),
    };
  }

  experiment(status) {
    const { policy, stopped } = status;
    const task = service.task(status.task);
    const isRegression = task?.problem_type === "regression";
    const points = histories.get(status.task)?.points ?? [];
    const names = [status.default?.variant ?? "default", policy.candidate];
    const rows = this.state.rows.get(status.task);
    return html`
      <section key=${status.task} aria-label=${`Experiment on ${status.task}`}>
        <h2>${status.task}: ${policy.candidate} beside ${names[0]}</h2>
        <p class="note">${policy.mode} of ${setting(policy.share)} of the requests since ${new Date(status.since).toLocaleString()}
          ${policy.guard && html`; the guard stops it under ${setting(policy.guard.agreement)} agreement`}</p>
        ${stopped && html`<p class="error">Stopped: ${stopped}</p>`}
        <dl class="tiles">
          <${Tile} ...${answersTile(status, task)} note=${`${counted(status.inputs, "text")}, ${count(status.repeated_inputs)} repeated, ` +
            `not compared: ${counted(status.not_compared, "request")}`} />
          <${Tile} title=${`Time per text, ${names[0]}`} value=${seconds(status.default_seconds_per_input)} />
          <${Tile} title=${`Time per text, ${names[1]}`} value=${seconds(status.candidate_seconds_per_input)} />
        </dl>
        ${isRegression ? html`<${DifferenceChart} points=${points} />`
          : html`<${AgreementChart} points=${points} guard=${policy.guard?.agreement ?? null} />`}
        <${LatencyChart} points=${points} names=${names} />
        ${rows && !isRegression && this.disagreements(status, names, rows)}
        ${keys.known && html`<div class="actions"><button type="button" onClick=${() => this.setState({ action: this.end(status) })}>End</button></div>`}
      </section>`;
  }

  disagreements(status, names, rows) {
    return html`<h3>Latest disagreements</h3>
      <${Table} caption=${`Latest disagreements on ${status.task}`} headings=${["When", "Text", ...names, "#Difference"]}
        rows=${rows.map((row) => [new Date(row.at).toLocaleTimeString(),
          html`<span dir="auto">${row.text ?? "not kept"}${row.text_pair !== null && html` <span class="pair">${row.text_pair}</span>`}</span>`,
          html`<bdi>${row.default_label}</bdi>`, html`<bdi>${row.candidate_label}</bdi>`, decimal(row.difference)])} />`;
  }

  render(_, { running, idle, action, problem }) {
    return html`
      <h1>Experiments</h1>
      <p class="lead">A candidate answers, or shadows, a share of the live requests that name no variant.</p>
      ${problem && html`<p class="error" role="alert">${problem.message}</p>`}
      ${running.length === 0 && !problem && html`<p role="status">No experiment is running.</p>`}
      ${running.map((status) => this.experiment(status))}
      ${keys.known ? html`<${BeginForm} tasks=${idle} onChoose=${(chosen) => this.setState({ action: chosen })} />`
        : html`<p class="note">To begin or end one, and to see the texts, give a key with the scope admin under Keys.</p>`}
      ${action && html`<${Confirm} title=${action.title} consequence=${action.consequence}
        act=${async () => { await action.act(); await this.poll(); }} onClose=${() => this.setState({ action: null })} />`}`;
  }
}
