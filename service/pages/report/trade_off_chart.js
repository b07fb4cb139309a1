// Accuracy, or the correlation of scores, against a cost: a point for each serving with its 95 % interval, and the
// frontier of those that none betters.

import { Chart, COLOURS, logarithmicAxis } from "../app/charts.js";
import { html } from "../app/html.js";

const POINT = 5;
const MARGIN = 12;
const NARROW = 480; // names of points that are not on the frontier have no place
const MARGIN_SHARE = 0.005;

// The points that no other one beats in both quality and cost, by cost.
function frontier(points) {
  let best = -Infinity;
  return points.filter(({ quality }) => {
    const better = quality.value > best;
    best = Math.max(best, quality.value);
    return better;
  });
}

function drawer(points, front, scale, colourOf) {
  return (plot) => {
    const { ctx: pen } = plot;
    const ratio = devicePixelRatio;
    const place = ({ x, quality }, value = quality.value) => [plot.valToPos(x, "x", true), plot.valToPos(scale * value, "y", true)];
    pen.save();
    pen.lineWidth = ratio;
    pen.strokeStyle = colourOf(COLOURS[2]);
    pen.setLineDash([6 * ratio, 4 * ratio]);
    pen.beginPath();
    front.forEach((point) => pen.lineTo(...place(point)));
    pen.stroke();
    pen.setLineDash([]);
    pen.font = `${12 * ratio}px system-ui, sans-serif`;
    for (const [index, point] of points.entries()) {
      const [x, y] = place(point);
      const colour = colourOf(COLOURS[point.row.precision === "int8" ? 1 : 0]);
      Object.assign(pen, { strokeStyle: colour, fillStyle: colour });
      if (point.quality.low !== null) {
        pen.beginPath();
        pen.moveTo(x, place(point, point.quality.low)[1]);
        pen.lineTo(x, place(point, point.quality.high)[1]);
        pen.stroke();
      }
      pen.beginPath();
      pen.arc(x, y, POINT * ratio, 0, 2 * Math.PI);
      pen.fill();
      if (plot.bbox.width < NARROW * ratio && !front.includes(point)) continue;
      const toTheLeft = x > plot.bbox.left + plot.bbox.width / 2;
      pen.textAlign = toTheLeft ? "right" : "left";
      pen.fillStyle = colourOf("var(--ink)");
      pen.fillText(point.name, x + (toTheLeft ? -1 : 1) * MARGIN * ratio, y + (index % 2 ? 1.4 : -0.6) * MARGIN * ratio);
    }
    pen.restore();
  };
}

// `measure` names the quality and its axis; `scale` is the factor to the axis's unit.
export function TradeOffChart({ title, measure, points }) {
  const { name, axis, scale } = measure;
  const shown = points.filter(({ x, quality }) => quality && x > 0).sort((one, other) => one.x - other.x);
  if (shown.length < 2) return null;
  const front = frontier(shown);
  const values = shown.flatMap(({ quality: { value, low, high } }) => [scale * (low ?? value), scale * (high ?? value)]);
  const options = (colourOf) => ({
    scales: {
      x: { time: false, distr: 3, range: [shown[0].x / 1.5, shown.at(-1).x * 1.5] },
      y: { range: [Math.min(...values) - MARGIN_SHARE * scale, Math.max(...values) + MARGIN_SHARE * scale] },
    },
    legend: { show: false },
    cursor: { show: false },
    axes: [
      logarithmicAxis(title),
      { label: axis },
    ],
    series: [{}, { points: { show: false }, paths: () => null }],
    hooks: { draw: [drawer(shown, front, scale, colourOf)] },
  });
  const data = [shown.map(({ x }) => x), shown.map(({ quality }) => scale * quality.value)];
  return html`<${Chart} kind=${title + shown.map(({ name, x }) => name + x).join()} options=${options} data=${data}
    label=${`${name} against ${title}; on the frontier: ${front.map(({ name }) => name).join("; ")}. The table below has the figures`}>
    Blue: fp32; orange: int8. Bars are 95 % intervals. The dashed line is the frontier: no other variant is both cheaper and better.
  <//>`;
}
