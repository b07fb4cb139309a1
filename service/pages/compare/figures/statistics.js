// Statistics of proportions and of samples, as the job and the service compute them.

export const Z = 1.959963984540054; // two-sided 95 %

// Confidence interval of a proportion (Wilson 1927): { value, low, high }, or null without observations.
export function proportion(hits, total) {
  if (!total) return null;
  const p = hits / total;
  const scale = 1 + (Z * Z) / total;
  const centre = (p + (Z * Z) / (2 * total)) / scale;
  const half = (Z / scale) * Math.sqrt((p * (1 - p)) / total + (Z * Z) / (4 * total * total));
  return { value: p, low: Math.max(centre - half, 0), high: Math.min(centre + half, 1) };
}

// Two-sided exact McNemar test (1947) of two models on the same rows, from the rows that only one of them gets right.
export function mcnemar(onlyFirst, onlySecond) {
  const discordant = onlyFirst + onlySecond;
  if (discordant === 0) return 1;
  let term = -discordant * Math.LN2; // logarithm of a binomial coefficient over 2^discordant
  let tail = 0;
  for (let hits = 0; hits <= Math.min(onlyFirst, onlySecond); hits += 1) {
    if (hits > 0) term += Math.log((discordant - hits + 1) / hits);
    tail += Math.exp(term);
  }
  return Math.min(2 * tail, 1);
}

// Quantile of a sorted array, with linear interpolation; null if it is empty.
export function quantile(sorted, fraction) {
  if (sorted.length === 0) return null;
  const place = (sorted.length - 1) * fraction;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

export const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
