// The heatmap of one composition: sources by targets in one unit, with reference rows, marks and a colour scale.

function drawHeatmap() {
  const figure = document.getElementById("heatmap"),
    data = composition(selected.composition);
  if (!figure || !data) return;
  const unit = study.units[selected.unit],
    columns = data.targets.length,
    rows = data.sources.length;
  const wide =
    columns <= 8 ? 60 : columns <= 14 ? 44 : columns <= 20 ? 32 : Math.max(10, Math.min(24, Math.floor(760 / columns)));
  const high = columns <= 14 ? 28 : columns <= 20 ? 22 : wide,
    size = columns <= 20 ? 11 : Math.min(10.5, wide - 0.5);
  const names = [...new Set([...data.sources, ...data.targets])].map((task) => study.tasks[task].label);
  const left = Math.min(200, Math.max(90, ...names.map((name) => widthOf(name, size)))) + 14;
  const levels = Object.keys(data.references),
    gap = 8,
    scaleTop = 44 + (rows + levels.length) * high + gap;
  const names_room = Math.min(190, Math.max(...names.map((name) => widthOf(name, size)))) + 10;
  const width = Math.max(left + columns * wide + 20, 330),
    height = scaleTop + names_room + 46;
  const x = (t) => left + t * wide,
    y = (s) => 40 + s * high,
    below = (r) => y(rows) + gap + r * high;

  const cellsOf = (values, top, row, label) =>
    values.map((value, t) => {
      const place = { x: x(t), y: top, width: wide - 0.6, height: high - 0.6 };
      return value === null
        ? { place, text: label(t), fill: null }
        : { place, text: printed(value, unit.signed), fill: unit.ramp[rampIndex(unit, value)] };
    });
  const texts = [],
    group = (items, attributes) =>
      items.map(({ place, text, fill }, t) => {
        const cell = svg("rect", {
          ...place,
          fill: fill ? fill[0] : null,
          class: fill ? "cell" : text === "missing" ? "cell hatched" : "cell void",
          ...attributes(t, text),
        });
        if (text === "missing") cell.setAttribute("fill", "url(#hatching)");
        if (columns <= 20 && text && text !== "missing" && text !== "failed") {
          texts.push(
            svg(
              "text",
              {
                x: place.x + wide / 2,
                y: place.y + high / 2 + size * 0.36,
                "text-anchor": "middle",
                "font-size": size,
                "pointer-events": "none",
                fill: fill ? fill[1] : null,
              },
              text,
            ),
          );
        }
        return cell;
      });
  const number = (t) => ({ "aria-colindex": t + 2 });
  const grid = svg("g", {
    role: "grid",
    "aria-label": `${unit.name}, sources by targets`,
    "aria-rowcount": rows + levels.length + 1,
    "aria-colcount": columns + 1,
  });
  const label = (name, attributes, chosen) =>
    svg(
      "text",
      { "font-size": size, class: chosen ? "chosen" : null, ...attributes },
      svg("title", {}, name),
      attributes.text,
    );

  data.sources.forEach((task, s) => {
    const values = data.values[selected.unit].slice(s * columns, (s + 1) * columns);
    const state = (t) =>
      ({ ".": why(data, t).startsWith("the target") ? "?" : "–", f: "failed", m: "missing" })[
        data.state[s * columns + t]
      ];
    const about = study.tasks[task];
    const head = label(
      about.name,
      {
        role: "rowheader",
        x: left - 8,
        y: y(s) + high / 2 + size * 0.36,
        "text-anchor": "end",
        text: about.label,
        "data-task": task,
      },
      task === selected.task,
    );
    const cells = group(cellsOf(values, y(s), s, state), (t, text) => ({
      role: "gridcell",
      ...number(t),
      tabindex: -1,
      "data-s": s,
      "data-t": t,
      "aria-label": `${about.name} to ${study.tasks[data.targets[t]].name}: ${text}`,
    }));
    grid.append(svg("g", { role: "row", "aria-rowindex": s + 2 }, head, ...cells));
  });
  levels.forEach((name, r) => {
    const head = label(
      name,
      {
        role: "rowheader",
        x: left - 8,
        y: below(r) + high / 2 + size * 0.36,
        "text-anchor": "end",
        "font-style": "italic",
        text: name,
      },
      false,
    );
    const cells = group(
      cellsOf(data.references[name][selected.unit], below(r), r, () => "–"),
      (t, text) => ({
        role: "gridcell",
        ...number(t),
        "aria-label": `${name}, ${study.tasks[data.targets[t]].name}: ${text}`,
      }),
    );
    grid.append(svg("g", { role: "row", "aria-rowindex": rows + r + 2 }, head, ...cells));
  });
  const columnNames = data.targets.map((task, t) => {
    const about = study.tasks[task],
      at = [x(t) + wide / 2 + size * 0.36, below(levels.length) + 6];
    return label(
      about.name,
      {
        role: "columnheader",
        x: at[0],
        y: at[1],
        transform: `rotate(-90 ${at[0]} ${at[1]})`,
        "text-anchor": "end",
        text: about.label,
        "data-task": task,
      },
      task === selected.task,
    );
  });
  grid.append(svg("g", { role: "row", "aria-rowindex": rows + levels.length + 2 }, ...columnNames));

  const over = svg(
    "g",
    { "pointer-events": "none", "aria-hidden": "true" },
    ...texts,
    ...marks(data, { x, y, wide, high, left, rows, columns }),
  );
  const name = study.compositions[selected.composition].name;
  const title = svg("text", { x: 4, y: 14, "font-size": 12, "font-weight": 600 }, shorten(name, Math.floor(width / 7)));
  const facts = svg(
    "text",
    { x: 4, y: 29, "font-size": 11, class: "muted" },
    shorten(`${unit.name}, ${data.runs}`, Math.floor(width / 6)),
  );
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height },
    svg("title", {}, `Heatmap of ${unit.name} for ${name}`),
    hatching(),
    title,
    facts,
    grid,
    over,
    colourScale(unit, left, height - 34, Math.min(300, width - left - 20)),
  );
  figure.querySelector(".canvas").replaceChildren(drawing);
  figure.querySelector(".facts").textContent = unit.label + ". " + data.caption;
  figure.querySelector(".legend").replaceChildren(...heatmapLegend(data));
  moveInside(drawing, data);
  offer(figure, () => `${name} ${selected.unit}`, heatmapRows, data.files.heatmap[selected.unit] || []);
}

const rampIndex = (unit, value) =>
  Math.round(Math.min(1, Math.max(0, (value / 100 - unit.low) / (unit.high - unit.low))) * (unit.ramp.length - 1));
const shorten = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);
const hatching = () =>
  svg(
    "defs",
    {},
    svg(
      "pattern",
      { id: "hatching", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 5, height: 5, fill: "#ffffff" }),
      svg("line", { x1: 0, y1: 0, x2: 0, y2: 5, stroke: "#8c8c8c", "stroke-width": 1.2 }),
    ),
  );
