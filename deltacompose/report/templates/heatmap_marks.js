// Signs on the heatmap, its legend and colour scale, and moving inside it by pointer and keys.

/** Frames of own tasks, blocks of categories, signs on cells, and the row and column of the selected task. */
function marks(data, { x, y, wide, high, left, rows, columns }) {
  const drawn = [];
  const spot = (place) => [Math.floor(place / columns), place % columns];
  data.sources.forEach((task, s) => {
    const t = data.targets.indexOf(task);
    if (t >= 0)
      drawn.push(
        svg("rect", {
          x: x(t) + 0.5,
          y: y(s) + 0.5,
          width: wide - 1.6,
          height: high - 1.6,
          class: "strong",
          "stroke-width": 1.4,
        }),
      );
  });
  for (let place = 0; place < data.state.length; place++) {
    if (data.state[place] !== "f") continue;
    const [s, t] = spot(place),
      cx = x(t) + wide / 2,
      cy = y(s) + high / 2,
      r = Math.min(5, wide / 3);
    drawn.push(
      svg("path", {
        d: `M${cx - r} ${cy - r}L${cx + r} ${cy + r}M${cx - r} ${cy + r}L${cx + r} ${cy - r}`,
        class: "failed",
        "stroke-width": 2,
      }),
    );
  }
  const sign = (places, shape, right, down, fill) =>
    [...places].forEach((flag, place) => {
      if (flag !== "1") return;
      const [s, t] = spot(place);
      const at = `translate(${x(t) + right * wide} ${y(s) + down * high})`;
      drawn.push(
        marker(shape, Math.min(2.6, wide / 5), { transform: at, fill, stroke: "#222222", "stroke-width": 0.6 }),
      );
    });
  sign(data.trivial, "o", 0.08, 0.84, "#ffffff");
  sign(data.partial, "v", 0.08, 0.18, "#e69f00");
  sign(data.marked, "*", 0.92, 0.18, "#ffd92f");
  const blocks = (tasks, draw) =>
    tasks.forEach((task, i) => {
      const { category } = study.tasks[task],
        colour = study.categories[category]?.colour;
      if (colour) draw(i, colour, i > 0 && study.tasks[tasks[i - 1]].category !== category);
    });
  blocks(data.sources, (s, fill, first) => {
    drawn.push(svg("rect", { x: left - 5, y: y(s), width: 4, height: high, fill }));
    if (first)
      drawn.push(
        svg("line", { x1: left, x2: x(columns), y1: y(s) - 0.3, y2: y(s) - 0.3, class: "strong", "stroke-width": 1 }),
      );
  });
  blocks(data.targets, (t, fill, first) => {
    drawn.push(svg("rect", { x: x(t), y: y(0) - 5, width: wide, height: 4, fill }));
    if (first)
      drawn.push(
        svg("line", { x1: x(t) - 0.3, x2: x(t) - 0.3, y1: y(0), y2: y(rows), class: "strong", "stroke-width": 1 }),
      );
  });
  const s = data.sources.indexOf(selected.task),
    t = data.targets.indexOf(selected.task);
  if (s >= 0)
    drawn.push(
      svg("rect", { x: x(0), y: y(s), width: wide * columns, height: high, class: "chosen", "stroke-width": 2 }),
    );
  if (t >= 0)
    drawn.push(svg("rect", { x: x(t), y: y(0), width: wide, height: high * rows, class: "chosen", "stroke-width": 2 }));
  return drawn;
}

/** The colours from limit to limit with their values. */
function colourScale(unit, left, top, width) {
  const steps = 50,
    scale = svg("g", { "aria-hidden": "true" });
  for (let i = 0; i < steps; i++) {
    const fill = unit.ramp[Math.round(((i + 0.5) / steps) * (unit.ramp.length - 1))][0];
    scale.append(svg("rect", { x: left + (i * width) / steps, y: top, width: width / steps + 0.5, height: 9, fill }));
  }
  for (const value of ticks(unit.low, unit.high)) {
    const at = left + ((value - unit.low) / (unit.high - unit.low)) * width;
    scale.append(
      svg(
        "text",
        { x: at, y: top + 22, "font-size": 10, "text-anchor": "middle" },
        printed(Math.round(value * 100), unit.signed),
      ),
    );
  }
  return scale;
}

/** Keys of the marks that occur. */
function heatmapLegend(data) {
  const small = (child) => svg("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true" }, child);
  const box = (attributes) => small(svg("rect", { x: 1, y: 1, width: 12, height: 12, ...attributes }));
  const dot = (shape, fill) =>
    small(marker(shape, 4, { transform: "translate(7 7)", fill, stroke: "#222222", "stroke-width": 0.6 }));
  const has = (sign) => data.state.includes(sign);
  const empty = data.values[selected.unit].some((value, place) => value === null && data.state[place] === ".");
  const entries = [
    [true, box({ class: "strong" }), "own task"],
    [has("m"), box({ fill: "url(#hatching)" }), "missing"],
    [has("f"), small(svg("path", { d: "M3 3L11 11M3 11L11 3", class: "failed", "stroke-width": 2 })), "failed"],
    [
      empty,
      box({ class: "void" }),
      `– : ${study.units[selected.unit].undefined}; ? : the target's own score is missing`,
    ],
    [data.trivial.length, dot("o", "#ffffff"), "constant answer in a seed"],
    [data.partial.length, dot("v", "#e69f00"), `fewer than ${data.seeds.length} seeds`],
    [data.marked.length, dot("*", "#ffd92f"), data.mark],
    ...Object.entries(study.categories).map(([name, { colour }]) => [name, box({ fill: colour }), name]),
  ];
  return entries.filter(([occurs]) => occurs).map(([, picture, text]) => html("li", {}, picture, text));
}

/** Pointing, keys and clicks inside the grid; one cell can be reached by Tab, the others by the arrow keys. */
function moveInside(drawing, data) {
  const at = new Map(
    [...drawing.querySelectorAll(".cell[data-s]")].map((cell) => [`${cell.dataset.s} ${cell.dataset.t}`, cell]),
  );
  const first = at.get("0 0");
  first?.setAttribute("tabindex", 0);
  const show = (cell) => {
    const lines = aboutCell(data, Number(cell.dataset.s), Number(cell.dataset.t));
    cell.setAttribute("aria-label", lines.join("; "));
    showTip(lines.join("\n"), cell.getBoundingClientRect());
  };
  drawing.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell[data-s]");
    if (cell) show(cell);
    else hideTip();
  });
  drawing.addEventListener("pointerleave", hideTip);
  drawing.addEventListener("focusin", (event) => {
    if (event.target.dataset.s) show(event.target);
  });
  drawing.addEventListener("focusout", hideTip);
  drawing.addEventListener("click", (event) => {
    const label = event.target.closest("[data-task]"),
      cell = event.target.closest(".cell[data-s]");
    if (label) select({ task: Number(label.dataset.task) });
    else if (cell) select({ task: data.sources[Number(cell.dataset.s)] });
  });
  drawing.addEventListener("keydown", (event) => {
    const cell = event.target;
    if (!cell.dataset.s) return;
    const [s, t] = [Number(cell.dataset.s), Number(cell.dataset.t)];
    const steps = {
      ArrowUp: [s - 1, t],
      ArrowDown: [s + 1, t],
      ArrowLeft: [s, t - 1],
      ArrowRight: [s, t + 1],
      Home: [s, 0],
      End: [s, data.targets.length - 1],
    };
    if (event.key === "Enter" || event.key === " ") {
      select({ task: data.sources[s] });
      document.querySelector(`#heatmap .cell[data-s="${s}"][data-t="${t}"]`)?.focus();
    } else if (!(event.key in steps)) return;
    const next = at.get(steps[event.key]?.join(" "));
    if (next) {
      cell.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    }
    event.preventDefault();
  });
}

const rampIndex = (unit, value) =>
  Math.round(Math.min(1, Math.max(0, (value / 100 - unit.low) / (unit.high - unit.low))) * (unit.ramp.length - 1));

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
