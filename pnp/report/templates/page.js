"use strict";
// The page is complete without this script: it adds values under the pointer, and sorting.
const tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";

const MOST = 16; // rows of values shown at once

const short = (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(2) : String(+v.toPrecision(4)));

// Lines are read back from their paths: positions and the scale give the values, so no number is stored twice.
function lines(chart) {
  chart.lines ??= [...chart.querySelectorAll(".line")].map((path) => ({
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

function show(chart, x) {
  clear(chart);
  const [x0, x1, y0, y1, left, right, bottom, top, log] = chart.dataset.scale.split(" ").map(Number);
  const near = lines(chart).map(({ path, points }) => ({
    path,
    at: points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best)),
  }));
  if (!near.length) return;
  const at = near.map((n) => n.at[0]).reduce((best, p) => (Math.abs(p - x) < Math.abs(best - x) ? p : best));
  const here = near.filter((n) => Math.abs(n.at[0] - at) < 3).sort((a, b) => a.at[1] - b.at[1]);
  chart.at = at;
  add(chart, "path", "cross", { d: `M${at} ${top}V${bottom}` });
  let step = x0 + ((at - left) / (right - left)) * (x1 - x0);
  step = log ? short(10 ** step) : x1 - x0 > 20 ? Math.round(step).toLocaleString("en") : short(step);
  const head = document.createElement("p");
  head.textContent = `${chart.dataset.x} ${step}`;
  tip.replaceChildren(head);
  if (here.length > MOST) head.append(`, ${MOST} highest of ${here.length}`);
  for (const { path, at: [px, py] } of here.slice(0, MOST)) {
    const css = path.getAttribute("class").replace(/\b(line|dot|front)\b/g, "");
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

for (const chart of document.querySelectorAll(".chart")) {
  const width = chart.viewBox.baseVal.width;
  const move = (event) => {
    const box = chart.getBoundingClientRect();
    show(chart, ((event.clientX - box.left) / box.width) * width);
  };
  chart.addEventListener("pointermove", move);
  chart.addEventListener("pointerdown", move);
  chart.addEventListener("pointerleave", () => clear(chart));
  chart.addEventListener("blur", () => clear(chart));
  chart.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") clear(chart);
    if (!way) return;
    event.preventDefault();
    const xs = lines(chart).flatMap(({ points }) => points.map((p) => p[0]));
    const next = xs.filter((x) => (x - (chart.at ?? -way * 1e9)) * way > 0.01);
    if (next.length) show(chart, way > 0 ? Math.min(...next) : Math.max(...next));
  });
}

for (const box of document.querySelectorAll(".groups input")) {
  const front = (on) => {
    for (const chart of document.querySelectorAll(".chart")) {
      chart.classList.toggle("focus", on);
      chart.querySelectorAll(`.${box.dataset.g}`).forEach((node) => node.classList.toggle("front", on));
    }
  };
  for (const [event, on] of [["pointerenter", true], ["pointerleave", false]]) box.parentElement.addEventListener(event, () => front(on));
  box.addEventListener("focus", () => box.matches(":focus-visible") && front(true));
  box.addEventListener("blur", () => front(false));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const value = (row) => (column ? parseFloat(key(row)) : NaN);
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (isNaN(x) && isNaN(y)) return order * key(a).localeCompare(key(b), "en", { numeric: true });
        return isNaN(x) ? 1 : isNaN(y) ? -1 : order * (x - y);
      });
      body.append(...rows);
    });
  });
}
