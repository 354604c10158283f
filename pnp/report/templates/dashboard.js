// The dashboard: what is chosen lives in the address (#…), everything shown follows from it and the data.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Runs as the page asks them: curves and final metrics by name, read when first wanted.
for (const run of D.runs) {
  run.curveIndex = new Map(run.curves.map(([key, x, y]) => [D.curves[key], [x, y]]));
  run.curve = (key) => {
    const at = run.curveIndex.get(key);
    return at ? { x: D.pool[at[0]], y: D.pool[at[1]] } : null;
  };
  run.value = (key) => {
    if (key.startsWith("last/")) return run.curve(key.slice(5))?.y.at(-1);
    run.finals ??= new Map(run.final[0].map((name, i) => [D.finals[name], run.final[1][i]]));
    return run.finals.get(key);
  };
  run.setting = (key) => (key === "state" ? run.state : D.keys[key][2][run.config[key]]);
}
const keyName = (key) => (key === "state" ? "state" : D.keys[key][1]);
const design = D.keys.slice(0, D.design).map((_, i) => i);
const endings = (...words) => D.curves.find((key) => words.includes(key.split("/").at(-1)));
const CLOCK = { images: endings("images_seen", "images"), seconds: endings("seconds", "wall_seconds", "elapsed_seconds") };

const DEFAULTS = {
  by: design.map((key) => D.keys[key][0]).join(","), filter: "", base: "", spread: "interval", each: "", hide: "", sort: "",
  view: "key", metric: "", x: "step", smooth: "1", quality: "", cost: "images", space: "", path: "", concept: "", kind: "certified", of: "", run: "", live: "1",
};
const state = { ...DEFAULTS };
const list = (text) => (text ? text.split(",").map(decodeURIComponent) : []);
const joined = (values) => values.map(encodeURIComponent).join(",");

function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = found.get(key) ?? DEFAULTS[key];
}
function address(changes = {}) {
  const entries = Object.entries({ ...state, ...changes }).filter(([key, value]) => value !== DEFAULTS[key]);
  return `#${new URLSearchParams(entries)}`;
}
function choose(changes, parts = Object.keys(DRAW)) {
  Object.assign(state, changes);
  history.replaceState(null, "", address());
  draw(parts);
}

// ——— groups ———
let shown = { runs: [], groups: [], keys: [], base: null };
function conditions() {
  const found = new Map();
  for (const item of list(state.filter)) {
    const at = item.indexOf("=");
    const name = item.slice(0, at);
    const key = name === "state" ? "state" : D.keys.findIndex((k) => k[0] === name);
    if (key !== -1) found.set(key, [...(found.get(key) ?? []), item.slice(at + 1)]);
  }
  return found;
}
function regroup() {
  const wanted = conditions();
  const runs = D.runs.filter((run) => [...wanted].every(([key, values]) => values.includes(run.setting(key))));
  const keys = list(state.by).map((name) => (name === "state" ? "state" : D.keys.findIndex((k) => k[0] === name))).filter((key) => key !== -1);
  const found = new Map();
  for (const run of runs.filter((r) => !r.repeat)) {
    const values = keys.map((key) => run.setting(key));
    const label = keys.map((key, i) => `${keyName(key)}=${values[i]}`).join(" ") || "all runs";
    if (!found.has(label)) found.set(label, { label, values, words: values.join(" · ") || "all runs", finished: [], unfinished: [] });
    found.get(label)[run.done ? "finished" : "unfinished"].push(run);
  }
  const groups = [...found.values()].sort((a, b) => a.label.localeCompare(b.label, "en", { numeric: true }));
  style(groups, keys);
  const hidden = new Set(list(state.hide));
  groups.forEach((group, i) => {
    group.css = `c${group.colour} d${group.dash} g g${i}`;
    group.hidden = hidden.has(group.label);
    group.drawn = group.finished.length ? group.finished : group.unfinished;
    group.runs = [...group.finished, ...group.unfinished];
  });
  // The default baseline, or the group its first run is in now.
  const original = D.runs.find((run) => design.every((key, i) => run.setting(key) === D.baseline[i]));
  const base = groups.find((g) => g.label === state.base) ?? groups.find((g) => g.runs.includes(original)) ?? groups[0] ?? null;
  shown = { runs, groups, keys, base };
}
// Two runs are a pair when they agree in the data, the seed and every key that tells configurations apart and is not grouped by.
const pairName = (run) => [run.data, run.seed, ...design.filter((key) => !shown.keys.includes(key)).map((key) => run.setting(key))].join(" ");
const visible = () => shown.groups.filter((group) => !group.hidden);
const cellOf = (runs, key) => summary(runs.map((run) => run.value(key)).filter((v) => v !== undefined).map((v) => v ?? NaN), D.t95);

// ——— controls ———
function select(label, options, chosen, changed) {
  const box = h("select", { change: (event) => changed(event.target.value) });
  let section = null;
  let parent = box;
  for (const [value, text, group] of options) {
    if (group && group !== section) parent = box.appendChild(h("optgroup", { label: (section = group) }));
    parent.append(h("option", { value, selected: value === chosen }, text));
  }
  return h("label", { class: "tool" }, h("span", {}, label), box);
}
const check = (label, on, changed) => h("label", { class: "tool tick" }, h("input", { type: "checkbox", checked: on, change: (event) => changed(event.target.checked) }), h("span", {}, label));
// Rebuilding controls must not take the keyboard's place away.
function refill(id, ...children) {
  const box = $(id);
  if (!box) return;
  const inside = box.contains(document.activeElement);
  const at = inside ? [...box.querySelectorAll("select, input, button, summary")].indexOf(document.activeElement) : -1;
  const open = box.querySelector("details")?.open;
  box.replaceChildren(...children.flat().filter((child) => child !== null));
  if (open) box.querySelector("details").open = true;
  if (at >= 0) [...box.querySelectorAll("select, input, button, summary")][at]?.focus();
}

const quantities = () => [
  ...D.columns.map(([key, heading]) => [key, heading, "table"]),
  ...D.curves.map((key) => [`last/${key}`, key, "last logged"]),
  ...D.finals.filter((key) => !/\/ci_(low|high)$/.test(key) && !D.columns.some(([column]) => column === key)).map((key) => [key, key, `final: ${key.split("/")[0]}`]),
];

function drawTools() {
  const all = [["state", "state"], ...D.keys.map(([key, name]) => [key, name])];
  const by = list(state.by);
  const ticks = (keys) => keys.map(([key, name]) => check(name, by.includes(key), (on) => choose({ by: joined(on ? [...by, key] : by.filter((k) => k !== key)), hide: "", base: "", sort: "" })));
  const conditionsNow = list(state.filter);
  const values = D.keys.flatMap(([key, name, levels]) => (levels.length <= 60 ? levels.map((v) => [`${key}=${v}`, `${name} = ${v}`, name]) : []));
  const states = [...new Set(D.runs.map((run) => run.state))].map((s) => [`state=${s}`, `state = ${s}`, "state"]);
  refill(
    "tools",
    h("details", { class: "by" }, h("summary", {}, `Group by ${shown.keys.map(keyName).join(", ") || "nothing"}`), h("div", { class: "ticks" }, ticks(all))),
    select("Keep only", [["", "choose a key and value…"], ...states, ...values], "", (value) => value && choose({ filter: joined([...new Set([...conditionsNow, value])]) })),
    conditionsNow.map((item) => h("button", { type: "button", class: "chip", "aria-label": `remove the filter ${item}`, click: () => choose({ filter: joined(conditionsNow.filter((other) => other !== item)) }) }, `${item} ✕`)),
    select("Compare with", shown.groups.map((g) => [g.label, g.words]), shown.base?.label, (base) => choose({ base }, ["table"])),
    select("±", [["interval", "half of the 95 % interval"], ["std", "sample std"]], state.spread, (spread) => choose({ spread }, ["table", "trade"])),
    check("every run by itself", state.each === "1", (on) => choose({ each: on ? "1" : "" }, ["curves", "trade"])),
    D.reload ? check(`reload every ${D.reload} s`, state.live === "1", (on) => choose({ live: on ? "1" : "0" }, [])) : null,
    address() === "#" ? null : h("button", { type: "button", class: "chip", click: () => choose({ ...DEFAULTS, live: state.live }) }, "reset all"),
  );
  $("count").textContent = shown.runs.length ? "" : "No run fits these filters: remove one. ";
  $("count").textContent += `${shown.groups.length} group${shown.groups.length === 1 ? "" : "s"}, ${shown.runs.length} of ${D.runs.length} runs`;
}

// ——— tables ———
const numberCell = (cell, n, lead = "") => {
  if (!cell) return h("td", {}, "–");
  const half = state.spread === "std" ? cell.std : cell.half;
  return h("td", { "data-v": cell.mean }, `${lead}${plainNumber(cell.mean)}`, half === null ? null : h("small", {}, ` ± ${spreadNumber(half, cell.mean)}`), cell.n === n ? null : h("small", {}, ` n=${cell.n}`));
};
const headCells = (group) => [h("th", { scope: "row" }, h("i", { class: group.css }), group.values[0] ?? "all runs"), ...group.values.slice(1).map((v) => h("td", { class: "words" }, v))];
const headRow = (names, rest) => h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col", class: "words" }, name)), ...rest.map((name) => h("th", { scope: "col" }, name))));
const groupNames = () => (shown.keys.length ? shown.keys.map(keyName) : ["configuration"]);
// A line as wide as a table puts its last column out of sight: columns nobody here has are left out.
const columnsHere = () => D.columns.filter(([key]) => shown.runs.some((run) => run.value(key) !== undefined));

function drawTable() {
  const columns = columnsHere();
  const kinds = (group) => {
    const count = new Map();
    for (const run of group.finished) for (const kind of new Set(run.alarms.map((a) => a.split(":")[0]))) count.set(kind, (count.get(kind) ?? 0) + 1);
    return [...count].map(([kind, n]) => `${kind} ×${n}`).join(", ") || "–";
  };
  const alarms = shown.groups.some((group) => kinds(group) !== "–");
  const rows = shown.groups.map((group) => h("tr", {}, ...headCells(group), h("td", {}, String(group.finished.length)), ...columns.map(([key]) => numberCell(cellOf(group.finished, key), group.finished.length)), alarms ? h("td", { class: "words" }, kinds(group)) : null));
  const head = headRow(groupNames(), ["n", ...columns.map((c) => c[1])]);
  if (alarms) head.rows[0].append(h("th", { scope: "col", class: "words" }, "alarms"));
  const table = h("table", {}, head, h("tbody", {}, rows));
  const feet = $("means").querySelector("table.sortable tfoot") ?? $("means").foot;
  $("means").foot = feet; // the references do not depend on how runs are grouped; the columns may
  if (feet && columns.length === D.columns.length && shown.keys.length === (D.design || 1) && shown.runs.length === D.runs.length) table.append(feet);
  $("means").replaceChildren(table);
  sortable(table, state.sort, (sort) => choose({ sort }, []));

  const own = new Map(shown.groups.map((group) => [group, (key) => group.finished.filter((run) => run.value(key) !== undefined).map((run) => [pairName(run), run.value(key)])]));
  const paired = shown.groups
    .filter((group) => group !== shown.base)
    .map((group) => [group, columns.map(([key]) => summary(differences(own.get(group)(key), own.get(shown.base)(key)), D.t95))])
    .filter(([, cells]) => cells.some(Boolean));
  $("paired").hidden = !paired.length;
  if (!paired.length) return;
  $("baseline").textContent = shown.base.words;
  const body = paired.map(([group, cells]) => {
    const n = Math.max(...cells.map((cell) => cell?.n ?? 0));
    const made = cells.map((cell) => {
      const node = numberCell(cell, n, cell && cell.mean > 0 ? "+" : "");
      if (cell?.half !== null && Math.abs(cell?.mean) > cell?.half) node.className = "clear";
      return node;
    });
    return h("tr", {}, ...headCells(group), h("td", {}, String(n)), ...made);
  });
  const second = h("table", {}, headRow(groupNames(), ["pairs", ...columns.map((c) => c[1])]), h("tbody", {}, body));
  $("differences").replaceChildren(second);
  sortable(second);
}

function drawRuns() {
  const rows = shown.runs.map((run) => {
    const label = shown.keys.map((key) => `${keyName(key)}=${run.setting(key)}`).join(" ");
    const seen = run.images === null ? null : run.images * run.step;
    const cell = (v) => h("td", { "data-v": v ?? "" }, v === null ? "–" : v.toLocaleString("en"));
    return h("tr", {}, h("th", { scope: "row" }, h("a", { href: address({ run: run.id }) }, run.id)), h("td", { class: "words" }, h("span", { class: `state ${run.state}` }, run.repeat ? `${run.state}, repeated` : run.state)), h("td", { class: "words" }, label), h("td", {}, run.seed ?? "–"), cell(run.step), cell(seen), cell(run.seconds));
  });
  const head = h("thead", {}, h("tr", {}, ...["run", "state", "configuration", "seed", "step", "images", "seconds"].map((name, i) => h("th", { scope: "col", class: i < 3 ? "words" : null }, name))));
  const table = h("table", {}, head, h("tbody", {}, rows));
  $("run-table").replaceChildren(table);
  sortable(table);
}
