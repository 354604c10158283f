// Charts as svg.py and ticks.py draw them: the same margins, ticks and classes.
const [LEFT, RIGHT, TOP, BOTTOM] = [44, 10, 8, 32];
const LARGEST = 1e300;
const SMALLEST = 1e-300;

const drawable = (v) => typeof v === "number" && Math.abs(v) < LARGEST;
const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function linearTicks(low, high, count = 5) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k++) ticks.push(+(k * step).toPrecision(12));
  return ticks;
}

function logTicks(low, high) {
  const inside = [];
  for (let k = Math.floor(Math.log10(low) + 1e-9); k <= Math.ceil(Math.log10(high) - 1e-9); k++) {
    for (const m of [1, 2, 5]) {
      const tick = Number(`${m}e${k}`);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) inside.push(tick);
    }
  }
  return inside.length <= 5 ? inside : inside.filter((t) => t.toExponential()[0] === "1");
}

function tickLabel(value, step) {
  let places = step > 0 ? Math.floor(Math.log10(step) + 1e-9) : 0;
  const rounded = Math.round(step / 10 ** places) * 10 ** places;
  if (Math.abs(step - rounded) > 1e-6 * Math.max(step, rounded)) places -= 1; // a step of 2.5 needs one more digit
  if (Math.abs(value) < step * 1e-6) return "0";
  for (const [unit, suffix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (unit <= Math.abs(value) && Math.abs(value) < 1e12 && (Math.abs(value) >= 1e4 || step >= 1e3)) {
      return (value / unit).toFixed(Math.max(0, Math.round(Math.log10(unit)) - places)) + suffix;
    }
  }
  if (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e4) return value.toFixed(Math.max(0, -places));
  const digits = Math.max(0, Math.floor(Math.log10(Math.abs(value))) - places);
  const [mantissa, exponent] = value.toExponential(digits).split("e");
  return `${mantissa}e${Number(exponent)}`;
}

function limits(low, high) {
  if (low > high) return [0, 1];
  if (high - low > Math.max(1e-9 * Math.max(Math.abs(low), Math.abs(high)), SMALLEST)) return [low, high];
  const pad = Math.abs(low) > SMALLEST ? Math.abs(low) / 2 : 0.5;
  return [low - pad, high + pad];
}

// What a chart of these series spans, so that several charts can share their axes.
function span(series, logX = false) {
  const box = [Infinity, -Infinity, Infinity, -Infinity];
  for (const s of series) {
    for (let i = 0; i < s.x.length; i++) {
      const x = s.x[i];
      if (!drawable(x) || (logX && x <= 0)) continue;
      box[0] = Math.min(box[0], x);
      box[1] = Math.max(box[1], x);
      for (const y of [s.y[i], s.low?.[i], s.high?.[i]]) {
        if (!drawable(y)) continue;
        box[2] = Math.min(box[2], y);
        box[3] = Math.max(box[3], y);
      }
    }
  }
  return box;
}

// Series are {label, x, y, css} and maybe {low, high, run, silent}; null leaves a gap.
function drawChart(series, { title, xLabel = "step", logX = false, box = null, near = "x", width = 360, height = 190 }) {
  const [a, b, c, d] = box ?? span(series, logX);
  const [x0, x1] = limits(logX ? Math.log10(a) : a, logX ? Math.log10(b) : b);
  let [y0, y1] = limits(c, d);
  const pad = (y1 - y0) * 0.05;
  [y0, y1] = [y0 - pad, y1 + pad];
  const [right, bottom] = [width - RIGHT, height - BOTTOM];
  const px = (x) => (LEFT + (((logX ? Math.log10(x) : x) - x0) / (x1 - x0)) * (right - LEFT)).toFixed(1);
  const py = (y) => (bottom - ((y - y0) / (y1 - y0)) * (bottom - TOP)).toFixed(2);
  const pieces = (s, columns) => {
    const found = [[]];
    s.x.forEach((x, i) => {
      if ([x, ...columns.map((column) => column[i])].every(drawable) && (x > 0 || !logX)) found.at(-1).push(i);
      else if (found.at(-1).length) found.push([]);
    });
    return found.filter((piece) => piece.length);
  };
  const parts = [
    `<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" tabindex="0" aria-label="${escaped(title)}" data-x="${escaped(xLabel)}" data-near="${near}" data-scale="${x0} ${x1} ${y0} ${y1} ${LEFT} ${right} ${bottom} ${TOP} ${+logX}">`,
  ];
  const yTicks = linearTicks(y0, y1);
  const xTicks = logX ? logTicks(10 ** x0, 10 ** x1) : linearTicks(x0, x1, width < 500 ? 5 : 8);
  let gap = yTicks.length > 1 ? yTicks[1] - yTicks[0] : y1 - y0;
  for (const y of yTicks) {
    parts.push(`<path class="grid" d="M${LEFT} ${py(y)}H${right}"/><text class="yt" x="${LEFT - 6}" y="${(+py(y) + 3.5).toFixed(1)}">${tickLabel(y, gap)}</text>`);
  }
  gap = xTicks.length > 1 ? xTicks[1] - xTicks[0] : x1 - x0;
  for (const x of xTicks) {
    const text = tickLabel(x, logX ? 10 ** Math.floor(Math.log10(x)) : gap);
    parts.push(`<path class="tick" d="M${px(x)} ${bottom}v4"/><text class="xt" x="${px(x)}" y="${bottom + 15}">${text}</text>`);
  }
  parts.push(`<path class="axis" d="M${LEFT} ${bottom}H${right}"/><text class="xl" x="${right}" y="${height - 3}">${escaped(xLabel)}</text>`);
  let drawn = 0;
  for (const s of series) {
    const css = escaped(s.css);
    if (s.low && s.high) {
      for (const piece of pieces(s, [s.low, s.high])) {
        const lower = piece.map((i) => `${px(s.x[i])} ${py(s.low[i])}`);
        const upper = piece.map((i) => `${px(s.x[i])} ${py(s.high[i])}`).reverse();
        if (s.x.length === 1) parts.push(`<path class="bar ${css}" d="M${lower}L${upper}"/>`);
        else parts.push(`<path class="ribbon ${css}" d="M${lower.join(" ")} ${upper.join(" ")}Z"/>`);
      }
    }
    const found = pieces(s, [s.y]);
    if (!found.length) continue;
    drawn += 1;
    // A piece of one point becomes a line of no length, which a round cap turns into a dot.
    const paths = found.map((piece) => `M${(piece.length > 1 ? piece : [...piece, ...piece]).map((i) => `${px(s.x[i])} ${py(s.y[i])}`).join(" ")}`);
    const label = s.silent ? "" : ` data-label="${escaped(s.label)}"`;
    const run = s.run ? ` data-run="${escaped(s.run)}"` : "";
    parts.push(`<path class="line ${css}${s.x.length === 1 ? " dot" : ""}"${label}${run} d="${paths.join("")}"/>`);
  }
  if (!drawn) parts.push(`<text class="none" x="${(LEFT + right) / 2}" y="${height / 2}">no finite value</text>`);
  return `${parts.join("")}</svg>`;
}
