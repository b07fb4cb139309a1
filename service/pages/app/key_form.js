// The form for API keys. They stay in memory until the page is left.

import { keys } from "./api.js";
import { html, Component } from "./html.js";

export class KeyForm extends Component {
  state = { classify: "", admin: "" };

  componentDidMount() {
    this.input?.focus();
  }

  submit(event) {
    event.preventDefault();
    keys.set(this.state.classify, this.state.admin);
  }

  field(name, label) {
    return html`<label>${label}
      <input type="password" name=${name} autocomplete="off" spellcheck=${false} value=${this.state[name]}
        ref=${name === "classify" ? (input) => { this.input = input; } : undefined}
        onInput=${(event) => this.setState({ [name]: event.target.value })} /></label>`;
  }

  render({ onClose }) {
    return html`
      <section class="keys" aria-labelledby="keys-title">
        <h2 id="keys-title">API keys</h2>
        <p class="note">The page keeps them in memory until you leave or reload it. A key made with both scopes does for both.</p>
        <form onSubmit=${(event) => this.submit(event)}>
          <div class="fields">
            ${this.field("classify", "Key with the scope classify")}
            ${this.field("admin", "Key with the scope admin, to change models")}
          </div>
          <div class="actions">
            <button class="primary" type="submit">Use keys</button>
            <button type="button" onClick=${onClose}>Close</button>
          </div>
        </form>
      </section>`;
  }
}
