// The distribution of the latency of single texts: the share of texts that is answered within a time.

import { Chart, COLOURS, logarithmicAxis } from "../app/charts.js";
import { html } from "../app/html.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const LEAST_TEXTS = 3;

function options(names) {
  return (colourOf) => ({
    scales: { x: { time: false, distr: 3 }, y: { range: [0, 100] } },
    legend: { live: false },
    cursor: { show: false },
    axes: [
      logarithmicAxis("milliseconds"),
      { label: "% of texts within" },
    ],
    series: [{}, ...names.map((name, place) => ({
      label: name,
      stroke: colourOf(COLOURS[place]),
      width: 2,
      dash: place ? [8, 4] : undefined, // not by colour alone
      points: { show: false },
      paths: uPlot.paths.stepped({ align: 1 }),
      spanGaps: true,
    }))],
  });
}

const curve = (sorted) => [
  sorted.map((seconds) => 1000 * seconds),
  sorted.map((_, place) => (100 * (place + 1)) / sorted.length),
];

// The x of a curve must increase: of equal times the last has the share.
function distinct([times, shares]) {
  const keep = times.map((time, place) => time > 0 && time !== times[place + 1]);
  return [times.filter((_, place) => keep[place]), shares.filter((_, place) => keep[place])];
}

export function LatencyChart({ tally, reference, candidate }) {
  if (reference.length < LEAST_TEXTS) return null;
  const names = [tally.reference, tally.candidate];
  const data = uPlot.join([distinct(curve(reference)), distinct(curve(candidate))]);
  return html`<${Chart} kind=${names.join()} options=${options(names)} data=${data}
    label=${`Distribution of the latency of single texts for ${names.join(" and ")}; the table above has the figures`} />`;
}
