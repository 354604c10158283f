"use strict";
// The page is complete without this script: it adds values under the pointer, and sorting.
const tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";

const MOST = 16; // rows of values shown at once

const short = (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(2) : String(+v.toPrecision(4)));

// Lines are read back from their paths: positions and the scale give the values, so no number is stored twice.
function lines(chart) {
  chart.lines ??= [...chart.querySelectorAll(".line[data-label]")].map((path) => ({
    path,
    points: (path.getAttribute("d").match(/-?[\d.]+ -?[\d.]+/g) ?? []).map((p) => p.split(" ").map(Number)),
  }));
  return chart.lines.filter(({ path }) => getComputedStyle(path).display !== "none");
}

function clear(chart) {
  chart.querySelectorAll(".cross, .mark").forEach((node) => node.remove());
  tip.hidden = true;
}

function add(chart, name, classes, attributes) {
  const node = chart.appendChild(document.createElementNS(SVG, name));
  node.setAttribute("class", classes);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
}

const least = (list, cost) => list.reduce((best, item) => (cost(item) < cost(best) ? item : best));

// Values at the x nearest to the pointer; where dots are scattered (data-near="xy"), those of the nearest dot.
function show(chart, x, y = null) {
  clear(chart);
  const [x0, x1, y0, y1, left, right, bottom, top, log] = chart.dataset.scale.split(" ").map(Number);
  const xy = y !== null && chart.dataset.near === "xy";
  const far = (p) => (xy ? Math.hypot(p[0] - x, p[1] - y) : Math.abs(p[0] - x));
  const near = lines(chart).map(({ path, points }) => ({ path, at: least(points, far) }));
  if (!near.length) return;
  const nearest = least(near, (n) => far(n.at));
  const at = nearest.at[0];
  const here = near
    .filter((n) => Math.abs(n.at[0] - at) < 3 && (!xy || Math.abs(n.at[1] - nearest.at[1]) < 3))
    .sort((a, b) => a.at[1] - b.at[1]);
  chart.at = at;
  chart.nearest = nearest.path;
  add(chart, "path", "cross", { d: `M${at} ${top}V${bottom}` });
  let step = x0 + ((at - left) / (right - left)) * (x1 - x0);
  step = log ? short(10 ** step) : x1 - x0 > 20 ? Math.round(step).toLocaleString("en") : short(step);
  const head = document.createElement("p");
  head.textContent = `${chart.dataset.x} ${step}`;
  tip.replaceChildren(head);
  if (here.length > MOST) head.append(`, ${MOST} highest of ${here.length}`);
  for (const { path, at: [px, py] } of here.slice(0, MOST)) {
    const css = path.getAttribute("class").replace(/\b(line|dot|front|thin)\b/g, "");
    add(chart, "circle", `mark ${css}`, { cx: px, cy: py, r: 3.5 });
    const row = tip.appendChild(document.createElement("div"));
    const label = row.appendChild(document.createElement("span"));
    label.append(Object.assign(document.createElement("i"), { className: css }), path.dataset.label);
    row.append(short(y0 + ((bottom - py) / (bottom - top)) * (y1 - y0)));
  }
  tip.hidden = false;
  const box = chart.getBoundingClientRect();
  const screen = box.left + (at / chart.viewBox.baseVal.width) * box.width;
  const side = screen + 14 + tip.offsetWidth < innerWidth ? screen + 14 : screen - 14 - tip.offsetWidth;
  tip.style.left = `${Math.max(4, side)}px`;
  tip.style.top = `${Math.max(4, Math.min(box.top + 8, innerHeight - tip.offsetHeight - 4))}px`;
}

// One listener for all charts, those that are drawn later too.
let pointed = null;
function point(event) {
  const chart = event.target.closest?.(".chart") ?? null;
  if (pointed && pointed !== chart) clear(pointed);
  pointed = chart;
  if (!chart) return;
  const box = chart.getBoundingClientRect();
  const unit = chart.viewBox.baseVal.width / box.width;
  show(chart, (event.clientX - box.left) * unit, (event.clientY - box.top) * unit);
}
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.documentElement.addEventListener("pointerleave", () => pointed && clear(pointed));
document.addEventListener("focusout", (event) => event.target.matches?.(".chart") && clear(event.target));
document.addEventListener("keydown", (event) => {
  const chart = event.target.closest?.(".chart");
  if (!chart) return;
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") clear(chart);
  if (!way) return;
  event.preventDefault();
  const xs = lines(chart).flatMap(({ points }) => points.map((p) => p[0]));
  const next = xs.filter((x) => (x - (chart.at ?? -way * 1e9)) * way > 0.01);
  if (next.length) show(chart, way > 0 ? Math.min(...next) : Math.max(...next));
});

// Bring the lines of one configuration forward while its name is pointed at or focused.
function front(name, on) {
  for (const chart of document.querySelectorAll(".chart")) {
    chart.classList.toggle("focus", on);
    chart.querySelectorAll(`.${name}`).forEach((node) => node.classList.toggle("front", on));
  }
}
const named = (event) => event.target.closest?.(".groups label")?.querySelector("input").dataset.g;
for (const [kind, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(kind, (event) => {
    const name = named(event);
    if (name && (kind !== "focusin" || event.target.matches(":focus-visible"))) front(name, on);
  });
}

// `order` is a column and a direction ("2 descending"); `changed` hears of every new order.
function sortable(table, order = "", changed = () => {}) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("thead th")];
  const sort = (column, way) => {
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    const words = heads[column].classList.contains("words");
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const value = (row) => (column && !words ? parseFloat(key(row)) : NaN);
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (isNaN(x) && isNaN(y)) return way * key(a).localeCompare(key(b), "en", { numeric: true });
      return isNaN(x) ? 1 : isNaN(y) ? -1 : way * (x - y);
    });
    body.append(...rows);
  };
  heads.forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      sort(column, way);
      changed(`${column} ${way > 0 ? "ascending" : "descending"}`);
    });
  });
  const [column, way] = order.split(" ");
  if (heads[column]) sort(+column, way === "ascending" ? 1 : -1);
}
document.querySelectorAll("table.sortable").forEach((table) => sortable(table));

// While a sweep is watched: not under somebody's hands, an open list or a typed word would be lost.
const period = Number(document.documentElement.dataset.reload);
if (period) {
  let touched = 0;
  for (const kind of ["pointerdown", "keydown", "input"]) addEventListener(kind, () => (touched = Date.now()));
  setInterval(() => !/\blive=0\b/.test(location.hash) && !document.hidden && Date.now() - touched > 4000 && location.reload(), period * 1000);
}
