// The form that begins an experiment.

import { ask } from "../app/api.js";
import { html, Component } from "../app/html.js";
import { service } from "../app/service_state.js";
import { Choice } from "../app/tables.js";

const MODES = ["shadow", "split"];

export class BeginForm extends Component {
  state = { task: null, candidate: null, mode: "shadow", share: "10", guard: "" };

  choose(event, task, candidate) {
    event.preventDefault();
    const { mode, share, guard } = this.state;
    const agreement = guard && this.hasLabels(task) ? { agreement: Number(guard) / 100 } : null;
    const policy = { mode, candidate, share: Number(share) / 100, guard: agreement };
    const role = mode === "split"
      ? `${candidate} answers ${share} % of the requests for ${task} that name no variant: their clients get its labels.`
      : `${candidate} runs in the background for ${share} % of the requests for ${task}; the default still answers all of them.`;
    this.props.onChoose({
      title: `Begin with ${candidate}`,
      consequence: `${role} The other variant runs beside it, which takes processor time. It ends with the service.`,
      act: () => ask(`v1/compare/${encodeURIComponent(task)}`, { method: "PUT", body: policy, scope: "admin" }),
    });
  }

  // A number has no labels that could agree, so that no guard could stop its candidate.
  hasLabels(task) {
    return service.task(task)?.problem_type !== "regression";
  }

  number(name, label, required) {
    return html`<label>${label}
      <input type="number" min="0.1" max="100" step="any" required=${required} value=${this.state[name]}
        onInput=${(event) => this.setState({ [name]: event.target.value })} /></label>`;
  }

  render({ tasks }, state) {
    if (tasks.length === 0) return null;
    const task = tasks.includes(state.task) ? state.task : tasks[0];
    const variants = service.serving(task).filter((name) => name !== service.task(task)?.default_variant);
    const candidate = variants.includes(state.candidate) ? state.candidate : variants[0];
    return html`
      <section aria-labelledby="begin-title">
        <h2 id="begin-title">Begin an experiment</h2>
        <form onSubmit=${(event) => this.choose(event, task, candidate)}>
          <div class="fields">
            <${Choice} label="Task" value=${task} options=${tasks} onChange=${(value) => this.setState({ task: value })} />
            <${Choice} label="Candidate" value=${candidate} options=${variants} onChange=${(value) => this.setState({ candidate: value })} />
            <${Choice} label="Mode" value=${state.mode} options=${MODES} onChange=${(value) => this.setState({ mode: value })} />
            ${this.number("share", "Share of the requests, %", true)}
            ${this.hasLabels(task) && this.number("guard", "Stop under this agreement, % (optional)", false)}
          </div>
          <p class="note">shadow: the default answers all requests. split: the candidate answers its share.</p>
          <div class="actions"><button class="primary" type="submit">Begin</button></div>
        </form>
      </section>`;
  }
}
