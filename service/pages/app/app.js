// The frame of the page: header, state of the service, keys, and the section that the address names.

import { keys } from "./api.js";
import { html, Component, render } from "./html.js";
import { KeyForm } from "./key_form.js";
import { service } from "./service_state.js";
import { CompareSection } from "../compare/section.js";
import { ExperimentsSection } from "../experiments/section.js";
import { ModelsSection } from "../models/section.js";
import { ReportSection } from "../report/section.js";
import { TrySection } from "../try/section.js";

const SECTIONS = {
  compare: { title: "Compare", view: CompareSection },
  try: { title: "Try", view: TrySection },
  report: { title: "Report", view: ReportSection },
  models: { title: "Models", view: ModelsSection },
  experiments: { title: "Experiments", view: ExperimentsSection },
};
const FIRST = "compare";

// "#compare?task=reviews" names a section and its settings.
function readAddress() {
  const [name, settings = ""] = location.hash.slice(1).split("?");
  return { section: Object.hasOwn(SECTIONS, name) ? name : FIRST, settings: new URLSearchParams(settings) };
}

class App extends Component {
  state = { ...readAddress(), asksForKey: false };

  componentDidMount() {
    addEventListener("hashchange", () => {
      if (location.hash !== "#main") this.setState(readAddress(), () => this.showTitle());
    });
    service.addEventListener("change", () => this.setState({}));
    keys.addEventListener("refused", () => this.setState({ asksForKey: true }));
    keys.addEventListener("change", () => this.setState({ asksForKey: false }));
    this.showTitle();
    service.read();
  }

  showTitle() {
    document.title = `${SECTIONS[this.state.section].title} · sparserve`;
  }

  render(_, { section, settings, asksForKey }) {
    const { view: View } = SECTIONS[section];
    const links = Object.entries(SECTIONS).map(([name, { title }]) =>
      html`<a href=${`#${name}`} aria-current=${name === section ? "page" : undefined}>${title}</a>`);
    return html`
      <header>
        <a class="name" href="./"><img src="pages/icon.svg" alt="" width="22" height="22" /> sparserve</a>
        <${ServiceBadge} />
        <nav aria-label="Sections">${links}</nav>
        <nav aria-label="Service" class="quiet">
          <button type="button" class="link" onClick=${() => this.setState({ asksForKey: !asksForKey })}>Keys</button>
          <a href="docs">API</a><a href="info">Info</a><a href="metrics">Metrics</a>
        </nav>
      </header>
      <main id="main">
        ${asksForKey && html`<${KeyForm} onClose=${() => this.setState({ asksForKey: false })} />`}
        ${service.info?.reason && html`<p class="error">${service.info.reason}</p>`}
        ${service.info && service.problem?.passes && html`<p class="error" role="alert">${service.problem.message} The page keeps trying.</p>`}
        <${View} key=${section} settings=${settings} />
      </main>
      <footer>This page loads nothing from other hosts. Texts are sent to this service alone, which does not log them.</footer>`;
  }
}

function ServiceBadge() {
  let [text, tone] = ["loading…", ""];
  if (service.problem?.status === 401) [text, tone] = ["needs a key", "bad"];
  else if (service.problem?.status === 0) [text, tone] = ["does not answer", "bad"];
  else if (service.problem) [text, tone] = [`error ${service.problem.status}`, "bad"];
  else if (service.info) [text, tone] = service.ready ? ["ready", "good"] : ["not ready", "bad"];
  const why = service.problem?.message ?? service.info?.reason ?? "every default model has answered a warm-up request";
  return html`<span role="status" class=${`badge ${tone}`} title=${why}>${text}</span>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
