// A dialog that names the consequence of an action before it is done, and its fault afterwards.

import { html, Component } from "./html.js";

export class Confirm extends Component {
  state = { busy: false, fault: null };

  componentDidMount() {
    this.dialog.showModal();
  }

  async act() {
    this.setState({ busy: true, fault: null });
    try {
      await this.props.act();
      this.props.onClose();
    } catch (problem) {
      this.setState({ busy: false, fault: problem.message });
    }
  }

  render({ title, consequence, onClose }, { busy, fault }) {
    return html`
      <dialog aria-labelledby="confirm-title" aria-describedby="confirm-text" ref=${(dialog) => { this.dialog = dialog; }} onClose=${onClose}>
        <h2 id="confirm-title">${title}</h2>
        <p id="confirm-text">${consequence}</p>
        ${fault && html`<p class="error" role="alert">${fault}</p>`}
        <div class="actions">
          <button class="primary" type="button" disabled=${busy} onClick=${() => this.act()}>${title}</button>
          <button type="button" onClick=${() => this.dialog.close()}>Cancel</button>
        </div>
      </dialog>`;
  }
}
