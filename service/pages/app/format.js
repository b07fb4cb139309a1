// Figures as people read them.

const RUNTIMES = { onnx: "ONNX\u00a0Runtime", sparse: "sparse\u00a0runtime" };
const DASH = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const count = (value) => (isNumber(value) ? value.toLocaleString("en") : DASH);

export const percent = (fraction, digits = 1) => (isNumber(fraction) ? `${(100 * fraction).toFixed(digits)}\u00a0%` : DASH);

export const megabytes = (bytes) =>
  isNumber(bytes) ? `${(bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 1)}\u00a0MB` : DASH;

export function milliseconds(seconds) {
  if (!isNumber(seconds)) return DASH;
  const value = 1000 * seconds;
  return `${value.toFixed(value < 1 ? 3 : value < 100 ? 2 : 0)}\u00a0ms`;
}

export const times = (ratio) => (isNumber(ratio) ? `${ratio.toFixed(2)}×` : DASH);

export const decimal = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : DASH);

export const pValue = (p) => (isNumber(p) ? (p < 0.0001 ? "< 0.0001" : p.toFixed(4)) : DASH);

// A fraction with its interval: "97.2 % [95.9, 98.1]".
export function interval(value, low, high, digits = 1) {
  if (!isNumber(value)) return DASH;
  if (!isNumber(low)) return percent(value, digits);
  return `${percent(value, digits)} [${(100 * low).toFixed(digits)}, ${(100 * high).toFixed(digits)}]`;
}

export function duration(seconds) {
  if (!isNumber(seconds)) return DASH;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const runtime = (name) => RUNTIMES[name] ?? DASH;

// A figure that is no fraction, with its interval: "0.912 [0.880, 0.931]".
export const decimals = ({ value, low, high }) => (isNumber(low) ? `${decimal(value)} [${decimal(low)}, ${decimal(high)}]` : decimal(value));

// A setting as a percentage with as many digits as it has, two at most: "0.1 %".
export const setting = (fraction) => `${Number((100 * fraction).toFixed(2))} %`;

// A number of things: "1 row", "2 rows".
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
