// Numbers for the dashboard; every function is pure.
const finite = (v) => typeof v === "number" && Number.isFinite(v);
const average = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

// Mean, sample standard deviation and half of its 95 % interval; a missing number among them is not averaged away.
function summary(values, t95) {
  if (!values.length) return null;
  if (!values.every(finite)) return { mean: NaN, std: null, half: null, n: values.length };
  const mean = average(values);
  const n = values.length;
  if (n === 1) return { mean, std: null, half: null, n };
  const std = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1));
  return { mean, std, half: (t95[n] * std) / Math.sqrt(n), n };
}

// Differences of the values of two lists of [pair, value]; a pair that occurs twice counts with its mean.
function differences(own, other) {
  const table = (list) => {
    const found = new Map();
    for (const [pair, value] of list) found.set(pair, [...(found.get(pair) ?? []), value ?? NaN]);
    return found;
  };
  const theirs = table(other);
  return [...table(own)].filter(([pair]) => theirs.has(pair)).map(([pair, values]) => average(values) - average(theirs.get(pair)));
}

// Mean of each value and its neighbours, `width` in all; gaps stay gaps.
function smooth(values, width) {
  const side = (width - 1) / 2;
  if (side < 1) return values;
  return values.map((v, i) => (finite(v) ? average(values.slice(Math.max(0, i - side), i + side + 1).filter(finite)) : null));
}

// Mean, least and largest of {x, y} curves at the x that all have; null where they share too few.
function together(curves) {
  if (curves.length === 1) return curves[0];
  const maps = curves.slice(1).map(({ x, y }) => new Map(x.map((at, i) => [at, y[i]])));
  const made = { x: [], y: [], low: [], high: [] };
  curves[0].x.forEach((at, i) => {
    if (!maps.every((map) => map.has(at))) return;
    const values = [curves[0].y[i], ...maps.map((map) => map.get(at))];
    const good = values.every(finite);
    made.x.push(at);
    made.y.push(good ? average(values) : null);
    made.low.push(good ? Math.min(...values) : null);
    made.high.push(good ? Math.max(...values) : null);
  });
  return made.x.length * 2 >= Math.min(...curves.map(({ x }) => x.length)) ? made : null;
}

// Points [x, y] that no other beats in both: x as small, and y as large (or small) as possible.
function frontier(points, lower = false) {
  const sorted = points.filter((p) => p.every(finite)).sort((a, b) => a[0] - b[0] || (lower ? a[1] - b[1] : b[1] - a[1]));
  const kept = [];
  for (const p of sorted) if (!kept.length || (lower ? p[1] < kept.at(-1)[1] : p[1] > kept.at(-1)[1])) kept.push(p);
  return kept;
}

// Whether less of a metric is better, by its name.
const lowerIsBetter = (key) => /(^|\/)(band|loss|err)\/|width|plugin|cosine|uniformity|aurc|augrc|erased|excess/.test(key) && !/auroc|recall|precision/.test(key);

// Seven colours, then dashes; with two keys colour says one and the dash the other, as groups.py has it.
function style(groups, keys) {
  const levels = keys.map((_, i) => [...new Set(groups.map((g) => g.values[i]))]);
  const sizes = levels.map((l) => l.length);
  groups.forEach((group, i) => {
    if (keys.length === 2 && Math.min(...sizes) <= 4 && Math.max(...sizes) <= 7) {
      const hue = sizes[0] >= sizes[1] ? 0 : 1;
      group.colour = levels[hue].indexOf(group.values[hue]);
      group.dash = levels[1 - hue].indexOf(group.values[1 - hue]);
    } else [group.colour, group.dash] = [i % 7, Math.floor(i / 7) % 4];
  });
}

const plainNumber = (v) => {
  if (v === null || v === undefined) return "–";
  if (!Number.isFinite(v)) return String(v).toLowerCase();
  const size = Math.abs(v);
  if (size >= 1e7) return v.toPrecision(3);
  if (size >= 1000) return Math.round(v).toLocaleString("en");
  return size >= 10 ? v.toFixed(1) : size >= 0.001 || size === 0 ? v.toFixed(3) : String(+v.toPrecision(2));
};
const spreadNumber = (s, mean) => (Math.abs(mean) >= 1e7 || (mean && Math.abs(mean) < 1e-3) ? plainNumber(s) : s.toFixed((plainNumber(mean).split(".")[1] ?? "").length));
