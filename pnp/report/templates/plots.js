// Curves, trade-offs and bands of the chosen groups.
const OWNERS = ["student", "teacher", "batch"];
const KEY_NAMES = ["knn", "total", "between_cosine", "mean_cosine", "sigma", "effective_rank"];
function splitKey(key) {
  const parts = key.split("/");
  const owner = parts.slice(1).find((part) => OWNERS.includes(part)) ?? "";
  const name = parts.slice(parts.length > 1 ? 1 : 0).filter((part) => part !== owner).join("/");
  return [parts.length > 1 ? parts[0] : "other", name || owner, owner];
}
const noteOf = (section, name) => D.notes[`${section}/${name}`] ?? D.notes[name] ?? "";
const sectionTitle = (section) => D.sections[section] ?? section.replaceAll("_", " ");
const axisName = () => ({ step: "step", images: "images seen", seconds: "seconds" })[state.x] ?? "step";

// Charts are drawn when they come near the screen: a page of hundreds of lines opens at once.
const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.outerHTML = target.chart();
    }
  },
  { rootMargin: "300px" },
);
function lazily(box, name, note, chart, legend = null) {
  const place = Object.assign(h("div", { class: "later" }), { chart });
  box.append(h("figure", { class: "panel" }, h("figcaption", {}, h("strong", {}, name), note ? h("span", { class: "note" }, note) : null, legend), place));
  seen.observe(place);
}

// As wide as there is room for, so that letters keep their size on a telephone.
const fitting = (box, width) => ({ width: Math.max(280, Math.min(width, box.clientWidth || width)), height: 280 });

// A run's curve over the chosen axis, smoothed as chosen.
function along(run, key) {
  const curve = run.curve(key);
  if (!curve) return null;
  const y = smooth(curve.y, +state.smooth);
  const clock = state.x === "step" ? null : CLOCK[state.x] && run.curve(CLOCK[state.x]);
  if (clock) return { x: curve.x.map((step) => at(clock, step)), y };
  return { x: state.x === "images" ? curve.x.map((step) => step * (run.images ?? NaN)) : curve.x, y };
}
// The value of a curve at a step, on the straight line between its neighbours.
function at({ x, y }, step) {
  const i = x.findIndex((known) => known >= step);
  if (i <= 0) return i === 0 && x[0] === step ? y[0] : i === 0 ? (y[0] * step) / x[0] : y.at(-1);
  return y[i - 1] + ((y[i] - y[i - 1]) * (step - x[i - 1])) / (x[i] - x[i - 1]);
}
// The lines of a group: its mean with a ribbon, or every run where asked for or where they share no steps.
function linesOf(group, key, each = state.each === "1") {
  const runs = (each ? group.runs : group.drawn).filter((run) => run.curveIndex.has(key));
  if (!runs.length) return [];
  const curves = runs.map((run) => along(run, key));
  const mean = each ? null : together(curves);
  if (mean) return [{ ...mean, label: group.words, css: group.css }];
  return curves.map((curve, i) => ({ ...curve, label: `${group.words} · seed ${runs[i].seed}`, css: `${group.css} thin`, run: runs[i].id }));
}

function drawLegend() {
  const groups = shown.groups;
  const hide = (labels) => choose({ hide: joined(labels) }, ["curves", "trade", "band"]);
  const hidden = groups.filter((g) => g.hidden).map((g) => g.label);
  const key = (group) => {
    const line = h("span");
    line.innerHTML = `<svg viewBox="0 0 30 8" aria-hidden="true"><path class="line c${group.colour} d${group.dash}" d="M1 4H29"/></svg>`;
    return line.firstChild;
  };
  const boxes = groups.map((group, i) => h("label", {}, h("input", { type: "checkbox", "data-g": `g${i}`, checked: !group.hidden, change: (event) => hide(event.target.checked ? hidden.filter((l) => l !== group.label) : [...hidden, group.label]) }), key(group), h("span", {}, group.words)));
  const all = h("span", { class: "between" }, h("button", { type: "button", class: "chip", click: () => hide([]) }, "show all"), h("button", { type: "button", class: "chip", click: () => hide(groups.map((g) => g.label)) }, "none"));
  refill("legend", h("legend", {}, groupNames().join(" · ")), all, ...boxes);
}

function drawCurves() {
  drawLegend();
  const here = D.curves.filter((key) => shown.runs.some((run) => run.curveIndex.has(key)));
  const twin = (key) => here.includes(key.replace("/student/", "/teacher/"));
  const first = KEY_NAMES.flatMap((name) => here.filter((key) => {
    const [section, own, owner] = splitKey(key);
    return own === name && !["optim", "speed"].includes(section) && (["teacher", ""].includes(owner) || (owner === "student" && !twin(key)));
  }));
  const metric = here.includes(state.metric) ? state.metric : (first[0] ?? here[0]);
  const one = ["overlay", "multiples"].includes(state.view);
  const axes = [["step", "optimizer steps"], ["images", "images seen"], ...(CLOCK.seconds ? [["seconds", "seconds"]] : [])];
  refill(
    "curve-tools",
    select("Show", [["key", "key metrics"], ["all", "all metrics"], ["overlay", "one metric, overlay"], ["multiples", "one metric, a panel per group"]], state.view, (view) => choose({ view }, ["curves"])),
    one ? select("Metric", here.map((key) => [key, key, sectionTitle(splitKey(key)[0])]), metric, (value) => choose({ metric: value }, ["curves"])) : null,
    select("Over", axes, state.x, (x) => choose({ x }, ["curves"])),
    select("Smooth", [["1", "not"], ["5", "over 5 points"], ["15", "over 15 points"]], state.smooth, (value) => choose({ smooth: value }, ["curves"])),
  );
  const box = $("curve-panels");
  box.replaceChildren();
  box.className = state.view === "overlay" ? "panels one" : "panels";
  if (!metric) return;
  const options = { xLabel: axisName() };
  const panel = (parent, key) => {
    const [section, name, owner] = splitKey(key);
    lazily(parent, `${name} ${owner}`.trim(), noteOf(section, name), () => drawChart(visible().flatMap((g) => linesOf(g, key)), { title: `${key} over ${axisName()}`, ...options }));
  };
  const [section, name, owner] = splitKey(metric);
  if (state.view === "overlay") {
    const series = visible().flatMap((g) => linesOf(g, metric));
    const width = Math.max(300, Math.round(box.clientWidth));
    lazily(box, `${name} ${owner}`, noteOf(section, name), () => drawChart(series, { title: `${metric} over ${axisName()}`, ...options, width, height: Math.round(Math.min(460, 180 + width / 4)) }));
  } else if (state.view === "multiples") {
    const found = visible().map((g) => [g, linesOf(g, metric, true)]).filter(([, series]) => series.length);
    const shared = span(found.flatMap(([, series]) => series));
    for (const [group, series] of found) lazily(box, group.words, `${group.runs.length} run${group.runs.length > 1 ? "s" : ""}`, () => drawChart(series, { title: `${metric} of ${group.words}`, ...options, box: shared }));
  } else if (state.view === "all") {
    for (const key of here) panel(box, key);
  } else for (const key of first) panel(box, key);
}

// Dots of groups (bars: their interval or standard deviation), or of every run.
function dots(xOf, yKey) {
  return visible().flatMap((group) => {
    const runs = group.finished.filter((run) => finite(xOf(run)) && finite(run.value(yKey)));
    if (state.each === "1") return runs.map((run) => ({ label: `${group.words} · seed ${run.seed}`, x: [xOf(run)], y: [run.value(yKey)], css: group.css, run: run.id }));
    if (!runs.length) return [];
    const cell = cellOf(runs, yKey);
    const half = state.spread === "std" ? cell.std : cell.half;
    const bar = half === null ? {} : { low: [cell.mean - half], high: [cell.mean + half] };
    return [{ label: group.words, x: [average(runs.map(xOf))], y: [cell.mean], css: group.css, run: runs.length === 1 ? runs[0].id : null, ...bar }];
  });
}

function drawTradeOffs() {
  const options = quantities();
  const quality = options.some(([key]) => key === state.quality) ? state.quality : options[0]?.[0];
  const costs = { images: ["images seen", (run) => run.step * (run.images ?? NaN)], seconds: ["seconds of training", (run) => run.seconds], steps: ["optimizer steps", (run) => run.step] };
  const spaces = [];
  for (const owner of ["teacher", "student"]) {
    if (D.curves.includes(`geometry/${owner}/between_cosine`)) spaces.push([`last/geometry/${owner}`, `embeddings of the ${owner}, last epoch`]);
    for (const what of ["embeddings", "features"]) if (D.finals.includes(`test/${what}/${owner}/between_cosine`)) spaces.push([`test/${what}/${owner}`, `${what} of the ${owner}, test`]);
  }
  const space = spaces.some(([key]) => key === state.space) ? state.space : spaces[0]?.[0];
  $("trade").hidden = !quality;
  if (!quality) return;
  const lower = lowerIsBetter(quality);
  const [costName, cost] = costs[state.cost] ?? costs.images;
  refill(
    "trade-tools",
    select("Quality", options, quality, (value) => choose({ quality: value }, ["trade"])),
    select("Cost", Object.entries(costs).map(([key, [name]]) => [key, name]), state.cost, (value) => choose({ cost: value }, ["trade"])),
    spaces.length ? select("Geometry of", spaces, space, (value) => choose({ space: value }, ["trade"])) : null,
    space?.startsWith("last/") ? check("with the way there", state.path === "1", (on) => choose({ path: on ? "1" : "" }, ["trade"])) : null,
  );
  const box = $("trade-panels");
  box.replaceChildren();
  const size = { ...fitting(box, 480), near: "xy" };
  const heading = options.find(([key]) => key === quality)[1];
  lazily(box, `${heading} against ${costName}`, `stepped line: nobody does better for less (${lower ? "lower" : "higher"} is better)`, () => {
    const series = dots(cost, quality);
    const best = frontier(series.map((s) => [s.x[0], s.y[0]]), lower);
    const line = { label: "frontier", x: [], y: [], css: "frontier", silent: true };
    best.forEach(([x, y], i) => {
      if (i) line.x.push(x), line.y.push(best[i - 1][1]);
      line.x.push(x), line.y.push(y);
    });
    return drawChart(best.length > 1 ? [line, ...series] : series, { title: `${heading} against ${costName}`, xLabel: costName, ...size });
  });
  if (!space) return;
  lazily(box, "effective rank against between-class cosine", "up and to the left: classes apart, many axes in use", () => {
    const [cosine, rank] = ["between_cosine", "effective_rank"].map((name) => `${space}/${name}`);
    const ends = dots((run) => run.value(cosine), rank);
    const ways = state.path === "1" ? visible().flatMap((group) => group.finished.flatMap((run) => way(group, run, space.slice(5)))) : [];
    return drawChart([...ways, ...ends], { title: "effective rank against between-class cosine", xLabel: "between-class cosine", ...size });
  });
}
function way(group, run, place) {
  const [x, y] = ["between_cosine", "effective_rank"].map((name) => run.curve(`${place}/${name}`));
  return x && y && x.y.length === y.y.length && x.y.length > 1 ? [{ label: group.words, x: x.y, y: y.y, css: `${group.css} thin`, silent: true }] : [];
}

// Band width over budgets of one run; without a concept the mean over all of them.
function bandOf(run, concept, name, kind) {
  const found = (concept ? [concept] : Object.keys(run.bands)).map((c) => run.bands[c]?.[name]?.[kind]).filter(Boolean);
  const made = found.length ? together(found.map(([x, y]) => ({ x: D.pool[x], y: D.pool[y] }))) : null;
  return made && { x: made.x, y: made.y };
}

function drawBand() {
  const runs = visible().flatMap((group) => group.finished).filter((run) => Object.keys(run.bands).length);
  $("band").hidden = !runs.length;
  document.querySelector("nav a[href='#band-title']").hidden = !runs.length;
  if (!runs.length) return;
  const concepts = [...new Set(runs.flatMap((run) => Object.keys(run.bands)))];
  const networks = ["teacher", "student"].filter((name) => runs.some((run) => Object.values(run.bands).some((b) => b[name])));
  const options = concepts.length > 1 ? [["", `mean of ${concepts.length} concepts`], ...concepts.map((c) => [c, c])] : concepts.map((c) => [c, c]);
  const concept = concepts.includes(state.concept) ? state.concept : options[0][0];
  const of = networks.includes(state.of) ? state.of : networks[0];
  refill(
    "band-tools",
    select("Concept", options, concept, (value) => choose({ concept: value }, ["band"])),
    select("Thresholds", [["certified", "certified"], ["plugin", "plug-in"]], state.kind, (kind) => choose({ kind }, ["band"])),
    select("Features of", networks.map((n) => [n, n]), of, (value) => choose({ of: value }, ["band"])),
  );
  const mean = (own, name, kind, rest) => {
    const curves = own.map((run) => bandOf(run, concept, name, kind)).filter(Boolean);
    const made = curves.length ? together(curves) : null;
    return made ? [{ ...made, ...rest }] : [];
  };
  const series = visible().flatMap((group) => mean(group.finished, of, state.kind, { label: group.words, css: group.css }));
  // References belong to the data; over several data sets their mean would mean nothing.
  const about = D.keys.map((k, i) => [k[0], i]).filter(([key]) => /^(choices\.)?data(\.|$)|^choices\.experiment$/.test(key) && !/seed$/.test(key));
  const alike = about.every(([, key]) => new Set(runs.map((run) => run.setting(key))).size === 1);
  if (alike) {
    for (const [name, label] of [["pixels", "raw pixels"], ["random", "untrained network"]]) series.push(...mean(runs, name, state.kind, { label, css: "reference d1", low: null }));
    series.push(...mean(runs, of, "oracle", { label: "oracle, irreducible", css: "reference d2", low: null }));
  }
  const box = $("band-panels");
  box.replaceChildren();
  const note = alike ? "grey: raw pixels and untrained network (dashed), oracle where known (dotted)" : "";
  lazily(box, `Share withheld, ${state.kind === "plugin" ? "plug-in" : "certified"}`, note, () => drawChart(series, { title: "band width against the allowed error", xLabel: "allowed error (a = b)", logX: true, ...fitting(box, 480) }));
}
