// An experiment's agreement and latency over the time that the page has watched it, with intervals.

import { Chart, COLOURS } from "../app/charts.js";
import { setting } from "../app/format.js";
import { html } from "../app/html.js";

const LEAST_POINTS = 2;
const PERCENT = 100;
const MILLISECONDS = 1000;

const line = (label, colour, more = {}) => ({ label, stroke: colour, width: 2, points: { show: false }, ...more });
const edge = (colour) => ({ label: "", stroke: colour, width: 0.5, points: { show: false } });
// Columns of an estimate: value, low, high.
const columns = (estimates, scale) => ["value", "low", "high"].map((name) =>
  estimates.map((one) => (one[name] === null ? null : scale * one[name])));

function chart(label, caption, kind, title, data, series, bands) {
  const options = (colourOf) => ({
    legend: { show: false },
    cursor: { show: false },
    axes: [{}, { label: title, size: 60 }],
    series: [{}, ...series(colourOf)],
    bands: bands(colourOf),
  });
  return html`<${Chart} kind=${kind} options=${options} data=${data} label=${label}>${caption}<//>`;
}

const faint = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", 0.18)");

export function AgreementChart({ points, guard }) {
  if (points.length < LEAST_POINTS) return null;
  const level = guard === null ? [] : [points.map(() => PERCENT * guard)];
  const data = [points.map(({ at }) => at), ...columns(points.map(({ agreement }) => agreement), PERCENT), ...level];
  return chart(
    `Agreement over time with its interval${guard === null ? "" : `, and the guard at ${setting(guard)}`}`,
    guard === null ? "Agreement with its 95 % interval." : "Agreement with its 95 % interval; dashed: the guard.",
    `agreement ${guard}`, "same labels, %", data,
    (colourOf) => [
      line("agreement", colourOf(COLOURS[0])), edge(colourOf(COLOURS[0])), edge(colourOf(COLOURS[0])),
      ...(guard === null ? [] : [line("guard", colourOf("var(--warn)"), { dash: [6, 4] })]),
    ],
    (colourOf) => [{ series: [3, 2], fill: faint(colourOf(COLOURS[0])) }]);
}

export function DifferenceChart({ points }) {
  if (points.length < LEAST_POINTS) return null;
  const data = [points.map(({ at }) => at), ...columns(points.map(({ difference }) => difference), 1)];
  return chart("Difference of the numbers over time with its interval", "Mean difference with its 95 % interval.", "difference",
    "difference", data,
    (colourOf) => [line("difference", colourOf(COLOURS[0])), edge(colourOf(COLOURS[0])), edge(colourOf(COLOURS[0]))],
    (colourOf) => [{ series: [3, 2], fill: faint(colourOf(COLOURS[0])) }]);
}

export function LatencyChart({ points, names }) {
  if (points.length < LEAST_POINTS) return null;
  const data = [points.map(({ at }) => at), ...columns(points.map(({ one }) => one), MILLISECONDS), ...columns(points.map(({ other }) => other), MILLISECONDS)];
  return chart(
    `Time per text over time with intervals: ${names.join(" and ")}`,
    `Mean compute time with 95 % intervals. Blue, solid: ${names[0]}; orange, dashed: ${names[1]}.`, names.join(), "milliseconds per text", data,
    (colourOf) => COLOURS.slice(0, 2).flatMap((colour, place) => [
      line(names[place], colourOf(colour), { dash: place ? [8, 4] : undefined }), edge(colourOf(colour)), edge(colourOf(colour)),
    ]),
    (colourOf) => [{ series: [3, 2], fill: faint(colourOf(COLOURS[0])) }, { series: [6, 5], fill: faint(colourOf(COLOURS[1])) }]);
}
