// Try a few texts with one variant: every label and its score.

import { ask, keys, modelPath } from "../app/api.js";
import { count, decimal, milliseconds, percent } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { LongTextChoice, overlong } from "../app/long_texts.js";
import { service } from "../app/service_state.js";
import { Choice } from "../app/tables.js";
import { hasOneScore } from "../compare/figures/tally.js";
import { EXAMPLE } from "../compare/input_form.js";

const SHOWN_LABELS = 5;
const kept = { task: null, variant: null, overlong: null, texts: EXAMPLE, results: null };

const usage = ({ tokens, truncated, windows }) =>
  `${count(tokens)} tokens${truncated ? ", the text was truncated" : ""}${windows > 1 ? `, in ${windows} windows` : ""}`;

export class TrySection extends Component {
  state = { problem: null, busy: false };

  get choice() {
    const names = service.models.filter((one) => service.serving(one.task).length > 0).map((one) => one.task);
    const task = names.includes(kept.task) ? kept.task : names[0];
    const variants = task === undefined ? [] : service.serving(task);
    const usual = service.task(task)?.default_variant;
    const variant = [kept.variant, usual, variants[0]].find((name) => variants.includes(name));
    return { names, task, variants, variant, longTexts: overlong(service.task(task), kept.overlong) };
  }

  change(changes) {
    Object.assign(kept, changes);
    this.setState({});
  }

  async classify(event) {
    event.preventDefault();
    const { task, variant, longTexts } = this.choice;
    const lines = kept.texts.split("\n").filter((line) => line.trim());
    this.setState({ busy: true, problem: null });
    try {
      const inputs = lines.map((line) => {
        const [text, pair] = line.split("\t");
        return pair === undefined ? text : { text, text_pair: pair };
      });
      const body = { inputs, top_k: null, ...(longTexts && { overlong: longTexts }) };
      const answer = await ask(modelPath(task, variant, "classify"), { body });
      const facts = service.task(task);
      kept.results = { lines, answer, isFraction: facts.problem_type !== "regression", oneScore: hasOneScore(facts) };
      this.setState({ busy: false });
    } catch (problem) {
      kept.results = null;
      this.setState({ busy: false, problem });
    }
  }

  form() {
    const { names, task, variants, variant, longTexts } = this.choice;
    const { problem, busy } = this.state;
    return html`
      <form onSubmit=${(event) => this.classify(event)}>
        <div class="fields">
          <${Choice} label="Task" value=${task} options=${names} onChange=${(value) => this.change({ task: value })} />
          <${Choice} label="Variant" value=${variant} options=${variants} onChange=${(value) => this.change({ variant: value })} />
          <${LongTextChoice} task=${service.task(task)} value=${longTexts} onChange=${(value) => this.change({ overlong: value })} />
        </div>
        <label>Texts, one per line; separate the two texts of a pair by a tab
          <textarea dir="auto" spellcheck=${false} value=${kept.texts} onInput=${(event) => this.change({ texts: event.target.value })}
            onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit(); }}></textarea></label>
        <div class="actions"><button class="primary" type="submit" disabled=${busy}>Classify</button>
          <span class="note">Ctrl + Enter classifies</span></div>
        ${problem && html`<p class="error" role="alert">${problem.message}</p>`}
      </form>`;
  }

  results() {
    const { lines, answer, isFraction, oneScore } = kept.results;
    const { total_seconds: total, inference_seconds: inference } = answer.timings;
    return html`<div aria-live="polite">
      <p class="note">${answer.model.variant} · ${milliseconds(total)} in all, ${milliseconds(inference)} of it inference</p>
      ${(answer.warnings ?? []).map((text) => html`<p class="error">Warning: ${text}</p>`)}
      ${answer.predictions.map((labels, row) => html`<div class="result">
        <p class="text" dir="auto">${lines[row]}</p>
        ${labels.slice(0, SHOWN_LABELS).map(({ label, score }) => html`<div class="row">
          <span dir="auto">${label}</span>
          ${isFraction ? html`<progress class="bar" max="1" value=${score} aria-label=${label}></progress>` : html`<span></span>`}
          <span>${oneScore ? decimal(score) : percent(score)}</span></div>`)}
        <p class="note">${usage(answer.usage[row])}</p>
      </div>`)}</div>`;
  }

  render() {
    const { task } = this.choice;
    if (task === undefined) return html`<h1>Try a text</h1><p role="status">${service.problem?.message ?? "No model is loaded yet."}</p>`;
    const url = new URL(`v1/models/${encodeURIComponent(task)}/classify`, document.baseURI);
    return html`
      <h1>Try a text</h1>
      <section aria-label="Try a text">${this.form()}${kept.results && this.results()}</section>
      <section aria-labelledby="terminal-title">
        <h2 id="terminal-title">From a terminal</h2>
        <pre tabindex="0">${`curl ${url} \\\n${keys.known ? "  -H 'Authorization: Bearer YOUR_KEY' \\\n" : ""}` +
          `  -H 'Content-Type: application/json' -d '{"inputs": "a warm, funny, engaging film", "top_k": null}'`}</pre>
        <p class="note">Every route, with its limits and errors: <a href="docs">the API</a>, <a href="openapi.json">openapi.json</a>.</p>
      </section>`;
  }
}
