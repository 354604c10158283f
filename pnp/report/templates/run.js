// One run in full, and the start of the page.
function back(run) {
  choose({ run: "" });
  [...document.querySelectorAll("#run-table a")].find((a) => a.textContent === run.id)?.focus();
}
function drawRun() {
  const run = D.runs.find((r) => r.id === state.run);
  $("one").hidden = !run;
  $("everything").hidden = !!run;
  document.title = run ? `${run.id} – P¬P SSL` : TITLE;
  if (!run) return;
  const same = shown.base?.runs ?? [];
  const other = same.find((r) => r.seed === run.seed) ?? same[0] ?? D.runs[0];
  const at = D.runs.indexOf(run);
  const jump = (to, text) => (to ? h("a", { href: address({ run: to.id }) }, text) : null);
  const changed = D.keys.map((_, key) => key).filter((key) => run.setting(key) !== other.setting(key));
  const diff = other === run
    ? h("p", { class: "sub" }, "This run is itself the one that others are compared with.")
    : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Config beside the baseline" }, h("table", {}, headRow(["key", other.id, "this run"], []), h("tbody", {}, changed.map((key) => h("tr", {}, h("th", { scope: "row" }, D.keys[key][0]), h("td", { class: "words" }, other.setting(key)), h("td", { class: "words" }, run.setting(key)))))));
  const withRange = (key) => {
    const [low, high] = [run.value(`${key}/ci_low`), run.value(`${key}/ci_high`)];
    return h("td", {}, plainNumber(run.value(key)), low === undefined || high === undefined ? null : h("small", {}, ` [${plainNumber(low)}, ${plainNumber(high)}]`));
  };
  const columns = D.columns.filter(([key]) => run.value(key) !== undefined);
  const numbers = columns.map(([key, heading]) => h("tr", {}, h("th", { scope: "row" }, heading), withRange(key), h("td", {}, plainNumber(other.value(key)))));
  const panels = new Map();
  for (const key of run.curveIndex.keys()) {
    const [section, name, owner] = splitKey(key);
    const title = `${section} ${name}`;
    panels.set(title, { section, name, lines: [...(panels.get(title)?.lines ?? []), [owner, key]] });
  }
  const css = { student: "c0", teacher: "c1", batch: "c6", "": "c6" };
  const known = Object.keys(D.sections);
  const place = (section) => (known.includes(section) ? known.indexOf(section) : known.length);
  const sections = [...new Set([...panels.values()].map((p) => p.section))].sort((a, b) => place(a) - place(b)).map((section) => {
    const box = h("div", { class: "panels" });
    for (const p of panels.values()) {
      if (p.section !== section) continue;
      const series = p.lines.map(([owner, key]) => ({ label: owner || p.name, ...along(run, key), css: css[owner] }));
      const legend = h("span", { class: "legend" }, series.map((s) => h("span", {}, h("i", { class: s.css }), `${s.label} `, h("b", {}, plainNumber(s.y.at(-1) ?? NaN)))));
      lazily(box, p.name, noteOf(section, p.name), () => drawChart(series, { title: `${p.name} of ${run.id}`, xLabel: axisName() }), legend);
    }
    return h("section", {}, h("h3", {}, sectionTitle(section)), box);
  });
  const bands = h("div", { class: "panels wide" });
  for (const concept of Object.keys(run.bands)) {
    const series = ["teacher", "student", "pixels", "random"].flatMap((name) => {
      const curve = bandOf(run, concept, name, "certified");
      return curve ? [{ ...curve, label: name, css: css[name] ?? `reference d${name === "random" ? 2 : 1}` }] : [];
    });
    const oracle = bandOf(run, concept, "teacher", "oracle") ?? bandOf(run, concept, "student", "oracle");
    if (oracle) series.push({ ...oracle, label: "oracle", css: "c2" });
    const legend = h("span", { class: "legend" }, series.map((s) => h("span", {}, h("i", { class: s.css }), s.label)));
    lazily(bands, concept, "share withheld, certified", () => drawChart(series, { title: `band of ${concept}`, xLabel: "allowed error (a = b)", logX: true, ...fitting(bands, 480) }), legend);
  }
  const finals = D.finals.filter((key) => run.value(key) !== undefined && !/\/ci_(low|high)$/.test(key));
  const facts = (pairs) => h("dl", { class: "facts" }, pairs.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))));
  $("one").replaceChildren(
    h("p", { class: "between" }, h("button", { type: "button", class: "chip", click: () => back(run) }, "← all runs"), jump(D.runs[at - 1], "previous"), jump(D.runs[at + 1], "next"), run.link ? h("a", { href: run.link }, "its own report, with pictures") : null),
    h("h2", { tabindex: "-1" }, run.id),
    h("p", {}, h("span", { class: `state ${run.state}` }, run.state), ` · seed ${run.seed ?? "–"} · step ${run.step.toLocaleString("en")}`, run.seconds === null ? "" : ` · ${run.seconds.toLocaleString("en")} s of training`),
    ...(run.alarms.length || run.error ? [h("section", { class: "alarms" }, h("ul", {}, run.alarms.map((alarm) => h("li", {}, alarm))), run.error ? h("pre", { tabindex: "0" }, run.error) : "")] : []),
    h("h3", {}, "Config beside the baseline"), diff,
    ...(numbers.length ? [h("h3", {}, "Final numbers"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Final numbers" }, h("table", {}, headRow(["metric"], ["this run", "baseline run"]), h("tbody", {}, numbers)))] : []),
    ...sections,
    ...(bands.firstChild ? [h("h3", {}, "Uncertainty band"), bands] : []),
    h("details", {}, h("summary", {}, `${finals.length} final metrics`), facts(finals.map((key) => [key, plainNumber(run.value(key))]))),
    h("details", {}, h("summary", {}, "The whole config"), facts([...D.keys.map((k, i) => [k[0], run.setting(i)]), ...Object.entries(D.common)])),
  );
  $("one").querySelector("h2").focus({ preventScroll: true });
  scrollTo(0, 0);
}

const TITLE = document.title;
const DRAW = { tools: drawTools, table: drawTable, curves: drawCurves, trade: drawTradeOffs, band: drawBand, runs: drawRuns, run: drawRun };
function draw(parts) {
  regroup();
  for (const part of new Set(["tools", ...parts])) DRAW[part]();
}
// Links to a run change the address; links to a section must not, or the choices in it would be lost.
addEventListener("hashchange", () => {
  readAddress();
  draw(Object.keys(DRAW));
});
document.addEventListener("click", (event) => {
  const target = event.target.closest?.("nav a[href^='#']");
  if (target) {
    event.preventDefault();
    if (state.run) choose({ run: "" });
    $(target.hash.slice(1)).scrollIntoView();
    return;
  }
  const chart = event.target.closest?.(".chart");
  const run = chart?.dataset.near === "xy" && chart.nearest?.dataset.run;
  if (run) location.hash = address({ run });
});
let wide = innerWidth;
addEventListener("resize", () => {
  if (wide !== innerWidth && state.view === "overlay") drawCurves();
  wide = innerWidth;
});
readAddress();
document.documentElement.classList.add("live");
draw(Object.keys(DRAW));
document.documentElement.dataset.ready = Math.round(performance.now());
