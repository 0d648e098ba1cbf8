// The heatmap of one composition: sources by targets in one unit, with reference rows, marks and a colour scale.

/** Sizes and places of a heatmap: wide cells with numbers for up to 20 columns, small squares for more. */
function heatmapPlan(data) {
  const columns = data.targets.length;
  const rows = data.sources.length;
  const levels = Object.keys(data.references);
  const small = Math.max(10, Math.min(24, Math.floor(760 / columns)));
  const wide = columns <= 8 ? 60 : columns <= 14 ? 44 : columns <= 20 ? 32 : small;
  const high = columns <= 14 ? 28 : columns <= 20 ? 22 : wide;
  const size = columns <= 20 ? 11 : Math.min(10.5, wide - 0.5);
  const names = [...new Set([...data.sources, ...data.targets])].map((task) => study.tasks[task].label);
  const longest = Math.max(...names.map((name) => widthOf(name, size)));
  const left = Math.min(200, Math.max(90, longest)) + 14;
  const x = (t) => left + t * wide;
  const y = (s) => 40 + s * high;
  const below = (r) => y(rows) + 8 + r * high;
  const width = Math.max(x(columns) + 20, 330);
  const height = below(levels.length) + Math.min(190, longest) + 60;
  return { columns, rows, levels, wide, high, size, left, x, y, below, width, height };
}

/** A cell with its colour and, where there is room, its text; `value` is null where `text` says why. */
function heatmapCell(plan, unit, value, text, place, attributes) {
  const [fill, ink] = value === null ? [null, null] : unit.ramp[rampIndex(unit, value)];
  const { wide, high, size, columns } = plan;
  const cell = svg("rect", {
    ...place,
    width: wide - 0.6,
    height: high - 0.6,
    fill: text === "missing" ? "url(#hatching)" : fill,
    class: value === null && text !== "missing" ? "cell void" : "cell",
    role: "gridcell",
    ...attributes,
  });
  if (columns > 20 || text === "missing" || text === "failed") return [cell, null];
  const middle = { x: place.x + wide / 2, y: place.y + high / 2 + size * 0.36, "text-anchor": "middle" };
  return [cell, svg("text", { ...middle, "font-size": size, fill: ink }, text)];
}

/** A name at a row or a column, in full as its title. */
function heatmapName(plan, name, text, task, attributes) {
  const chosen = task !== null && task === selected.task ? "chosen" : null;
  const own = { "font-size": plan.size, "text-anchor": "end", class: chosen, "data-task": task };
  return svg("text", { ...own, ...attributes }, svg("title", {}, name), text);
}

/** One row of the grid; `texts` collects what is printed on the cells. */
function heatmapRow(plan, { index, top, name, label, task, values, missing, about }, texts) {
  const unit = study.units[selected.unit];
  const head = heatmapName(plan, name, label, task, {
    role: "rowheader",
    x: plan.left - 8,
    y: top + plan.high / 2 + plan.size * 0.36,
    "font-style": task === null ? "italic" : null,
  });
  const cells = values.map((value, t) => {
    const text = value === null ? missing(t) : printed(value, unit.signed);
    const attributes = { "aria-colindex": t + 2, ...about(t, text) };
    const [cell, over] = heatmapCell(plan, unit, value, text, { x: plan.x(t), y: top }, attributes);
    if (over) texts.push(over);
    return cell;
  });
  return svg("g", { role: "row", "aria-rowindex": index }, head, ...cells);
}

/** The rows of the sources, which can be pointed at and moved through. */
function sourceRows(plan, data, texts) {
  const signs = (s, t) =>
    ({ ".": data.unowned.includes(t) ? "?" : "–", f: "failed", m: "missing" })[data.state[s * plan.columns + t]];
  return data.sources.map((task, s) => {
    const { name, label } = study.tasks[task];
    const row = { index: s + 2, top: plan.y(s), name, label, task, missing: (t) => signs(s, t) };
    const values = data.values[selected.unit].slice(s * plan.columns, (s + 1) * plan.columns);
    const about = (t, text) => ({
      tabindex: -1,
      "data-s": s,
      "data-t": t,
      "aria-label": `${name} to ${study.tasks[data.targets[t]].name}: ${text}`,
    });
    return heatmapRow(plan, { ...row, values, about }, texts);
  });
}

/** The rows of a random delta, the untouched backbone and chance. */
function referenceRows(plan, data, texts) {
  return plan.levels.map((name, r) => {
    const row = { index: plan.rows + r + 2, top: plan.below(r), name, label: name, task: null, missing: () => "–" };
    const about = (t, text) => ({ "aria-label": `${name}, ${study.tasks[data.targets[t]].name}: ${text}` });
    return heatmapRow(plan, { ...row, values: data.references[name][selected.unit], about }, texts);
  });
}

/** The names of the targets below the last row. */
function targetNames(plan, data) {
  const names = data.targets.map((task, t) => {
    const [x, y] = [plan.x(t) + plan.wide / 2 + plan.size * 0.36, plan.below(plan.levels.length) + 6];
    const turned = { role: "columnheader", x, y, transform: `rotate(-90 ${x} ${y})` };
    return heatmapName(plan, study.tasks[task].name, study.tasks[task].label, task, turned);
  });
  return svg("g", { role: "row", "aria-rowindex": plan.rows + plan.levels.length + 2 }, ...names);
}

function drawHeatmap() {
  const figure = document.getElementById("heatmap");
  const data = composition(selected.composition);
  if (!figure || !data) return;
  const unit = study.units[selected.unit];
  const { name } = study.compositions[selected.composition];
  const plan = heatmapPlan(data);
  const { width, height, left } = plan;
  const texts = [];
  const grid = svg(
    "g",
    {
      role: "grid",
      "aria-label": `${unit.name}, sources by targets`,
      "aria-rowcount": plan.rows + plan.levels.length + 2,
      "aria-colcount": plan.columns + 1,
    },
    ...sourceRows(plan, data, texts),
    ...referenceRows(plan, data, texts),
    targetNames(plan, data),
  );
  const facts = shorten(`${unit.name}, ${data.runs}`, Math.floor(width / 6));
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height },
    svg("title", {}, `Heatmap of ${unit.name} for ${name}`),
    hatching(),
    heading(name, width),
    svg("text", { x: 4, y: 29, "font-size": 11, class: "muted" }, facts),
    grid,
    svg("g", { "pointer-events": "none", "aria-hidden": "true" }, ...texts, ...marks(data, plan)),
    colourScale(unit, left, height - 34, Math.min(300, width - left - 20)),
  );
  figure.querySelector(".canvas").replaceChildren(drawing);
  figure.querySelector(".facts").textContent = `${unit.label}. ${data.caption}`;
  figure.querySelector(".legend").replaceChildren(...heatmapLegend(data));
  moveInside(drawing, data);
  offer(figure, () => `${name} ${selected.unit}`, heatmapRows, data.files.heatmap[selected.unit] || []);
}
