// The changes of one variant, each with its consequence.

import { ask, modelPath } from "../app/api.js";
import { html, Component } from "../app/html.js";
import { Choice } from "../app/tables.js";

const UNTIL = "This holds in every process of the service until it ends; the store does not change.";
const send = (path, body = {}) => ask(path, { body, scope: "admin" });

export class VariantActions extends Component {
  state = { version: null };

  actions() {
    const { task: { task, default_variant: usual }, variant: { variant, version, state }, overrides } = this.props;
    const repository = (action) => send(`v2/repository/models/${encodeURIComponent(task)}/${action}`, { parameters: { version: variant } });
    const actions = [];
    if (state === "unloaded") {
      return [{
        title: `Load ${variant}`,
        consequence: `${variant} is read from the store, verified and warmed up, and answers then. It takes memory.`,
        act: () => repository("load"),
      }];
    }
    if (variant !== usual && state === "ready") {
      actions.push({
        title: `Make ${variant} the default`,
        consequence: `Requests for ${task} that name no variant are answered by ${variant} instead of ${usual}, at once. This is ` +
          "written to the store: it holds for every service of this store, and after a restart.",
        act: () => send(`v1/admin/models/${encodeURIComponent(task)}/${encodeURIComponent(variant)}/default`),
      });
    }
    actions.push({
      title: `Roll ${variant} back`,
      consequence: `${variant} answers with the version published before ${version ?? "the current one"}. ${UNTIL}`,
      act: () => send(modelPath(task, variant, "rollback")),
    });
    if (overrides.pinned.some((pin) => pin.task === task && pin.variant === variant)) {
      actions.push({
        title: `Unpin ${variant}`,
        consequence: `${variant} follows the store again: its current version answers.`,
        act: () => send(modelPath(task, variant, "unpin")),
      });
    }
    if (state === "ready") {
      const consequence = variant === usual
        ? `Requests for ${task} that name no variant are answered 404 or 503, and the service may no longer be ready. ${UNTIL}`
        : `Requests that name ${variant} are refused; its memory is freed. ${UNTIL}`;
      actions.push({ title: `Unload ${variant}`, consequence, act: () => repository("unload") });
    }
    return actions;
  }

  promotion(version) {
    const { task: { task }, variant: { variant, version: current } } = this.props;
    return {
      title: `Promote ${version} of ${variant}`,
      consequence: `${variant} answers with version ${version} instead of ${current ?? "none"} and is pinned to it: newer versions of ` +
        `the store are not served until it is unpinned. ${UNTIL}`,
      act: () => send(modelPath(task, variant, "promote"), { version }),
    };
  }

  render({ variant: { variant, version: current }, versions, onChoose }, { version }) {
    const others = versions.filter((name) => name !== current);
    const chosen = others.includes(version) ? version : others[0];
    return html`
      <details>
        <summary>Change ${variant}</summary>
        <div class="actions">${this.actions().map((action) => html`
          <button type="button" onClick=${() => onChoose(action)}>${action.title}</button>`)}</div>
        ${others.length > 0 && html`<div class="actions">
          <${Choice} label=${`Other versions of ${variant}`} value=${chosen} options=${others} onChange=${(name) => this.setState({ version: name })} />
          <button type="button" onClick=${() => onChoose(this.promotion(chosen))}>Promote this version</button></div>`}
      </details>`;
  }
}
