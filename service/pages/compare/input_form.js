// The texts to compare: a dropped or chosen file, or pasted lines, and the columns to use.

import { counted } from "../app/format.js";
import { html, Component } from "../app/html.js";
import { Choice } from "../app/tables.js";
import { readLines } from "./files/table_reader.js";

const ENDINGS = ".csv,.tsv,.tab,.txt,.json,.jsonl,.ndjson,.gz";
const FILE_BYTES_MOST = 256 * 2 ** 20;
export const EXAMPLE = "a warm, funny, engaging film\nthe plot is thin and the jokes are old\nnot bad, but not good either";
const NONE = [-1, "none"];

export class InputForm extends Component {
  state = { pasted: EXAMPLE, reading: false, fault: null, over: false };

  // Read a file in a worker; the page stays responsive.
  read(file) {
    if (!file) return;
    if (file.size > FILE_BYTES_MOST) {
      this.setState({ fault: `${file.name} has more than ${FILE_BYTES_MOST / 2 ** 20} MB: split it.` });
      return;
    }
    this.setState({ reading: true, fault: null });
    const worker = new Worker(new URL("files/table_worker.js", import.meta.url), { type: "module" });
    const end = (fault) => {
      worker.terminate();
      this.setState({ reading: false, fault });
    };
    worker.onmessage = ({ data }) => {
      end(data.fault ?? null);
      if (data.table) this.props.onTable({ ...data.table, name: file.name });
    };
    worker.onerror = () => end(`${file.name} could not be read: the browser has not enough memory, or the file is gone.`);
    worker.postMessage(file);
  }

  drop(event) {
    event.preventDefault();
    this.setState({ over: false });
    this.read(event.dataTransfer.files[0]);
  }

  usePasted() {
    const table = readLines(this.state.pasted);
    if (table.rows.length === 0) this.setState({ fault: "There is no text: write one per line." });
    else {
      this.setState({ fault: null });
      this.props.onTable({ ...table, name: "pasted lines" });
    }
  }

  columns() {
    const { table, columns, numbers, onColumns } = this.props;
    const names = table.names.map((name, place) => [place, name]);
    const choice = (role, label, options) => html`
      <${Choice} label=${label} value=${columns[role]} options=${options}
        onChange=${(place) => onColumns({ ...columns, [role]: Number(place) })} />`;
    return html`
      <p role="status"><strong>${table.name}</strong>: ${counted(table.rows.length, "row")}.
        ${table.notes.map((note) => html` ${note}`)} ${!table.named && "There is no header row."}</p>
      <div class="fields">
        ${choice("text", "Text", names)}
        ${choice("pair", "Second text", [NONE, ...names])}
        ${choice("label", numbers ? "True number" : "True label", [NONE, ...names])}
      </div>`;
  }

  render({ table }, { pasted, reading, fault, over }) {
    return html`
      <div class=${`drop ${over ? "over" : ""}`}
        onDragOver=${(event) => { event.preventDefault(); this.setState({ over: true }); }}
        onDragLeave=${() => this.setState({ over: false })} onDrop=${(event) => this.drop(event)}>
        <label>Drop a CSV, TSV or JSON-lines file here, or choose one
          <input type="file" accept=${ENDINGS} onChange=${(event) => this.read(event.target.files[0])} /></label>
        <p class="note">The file stays in this browser; its texts go to this service alone, in small requests.</p>
      </div>
      <details>
        <summary>Or paste texts</summary>
        <label>Texts, one per line; separate the two texts of a pair by a tab
          <textarea dir="auto" spellcheck=${false} value=${pasted}
            onInput=${(event) => this.setState({ pasted: event.target.value })}></textarea></label>
        <div class="actions"><button type="button" onClick=${() => this.usePasted()}>Use these lines</button></div>
      </details>
      ${reading && html`<p role="status">Reading the file…</p>`}
      ${fault && html`<p class="error" role="alert">${fault}</p>`}
      ${table && this.columns()}`;
  }
}
