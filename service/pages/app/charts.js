// A chart by uPlot as a component: follows the width, the colour scheme and new data.

import { html, Component } from "./html.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

export const COLOURS = ["var(--first)", "var(--second)", "var(--third)", "var(--fourth)"];
const HEIGHT = 260;
const dark = matchMedia("(prefers-color-scheme: dark)");

// The colour that a custom property has now: uPlot draws on a canvas, which knows no properties.
export function resolve(colour) {
  const probe = document.createElement("span");
  probe.style.color = colour;
  probe.hidden = true;
  document.body.append(probe);
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

// A logarithmic axis with the ticks 1, 2 and 5 of each power of ten.
export const logarithmicAxis = (label) => ({
  label,
  filter: (_, ticks) => ticks.map((tick) => (/^[125]e/.test(Number(tick.toPrecision(6)).toExponential()) ? tick : null)),
  values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : String(Number(tick.toPrecision(3))))),
});

// `options(colourOf)` returns uPlot's options without the size; `data` its columns. `label` says what the chart shows.
export class Chart extends Component {
  componentDidMount() {
    this.draw();
    this.redraw = () => this.draw();
    dark.addEventListener("change", this.redraw);
    this.observer = new ResizeObserver(() => this.plot.setSize({ width: this.box.clientWidth, height: HEIGHT }));
    this.observer.observe(this.box);
  }

  componentDidUpdate(before) {
    if (before.kind !== this.props.kind) this.draw();
    else if (before.data !== this.props.data) this.plot.setData(this.props.data);
  }

  componentWillUnmount() {
    dark.removeEventListener("change", this.redraw);
    this.observer.disconnect();
    this.plot.destroy();
  }

  draw() {
    this.plot?.destroy();
    const [ink, line] = [resolve("var(--quiet)"), resolve("var(--line)")];
    const options = this.props.options(resolve);
    const axes = (options.axes ?? [{}, {}]).map((axis) => ({
      stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, ...axis,
    }));
    const size = { width: this.box.clientWidth, height: HEIGHT };
    this.plot = new uPlot({ ...size, ...options, axes }, this.props.data, this.box);
  }

  render({ label, children }) {
    return html`<figure class="chart">
      <div role="img" aria-label=${label} ref=${(box) => { this.box = box; }}></div>
      ${children && html`<figcaption class="note">${children}</figcaption>`}
    </figure>`;
  }
}
