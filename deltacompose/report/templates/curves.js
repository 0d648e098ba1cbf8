// The curves of training of the selected task: mean over seeds with their range, one line for each composition.

/** Curves by composition and task: steps, mean, least and greatest score in thousandths; parsed when first drawn. */
let curveData = null;
const hiddenCurves = new Set();
function curves() {
  curveData ??= JSON.parse(document.getElementById("curve-data").textContent);
  return curveData;
}

/** The task whose curves are shown: the selected one where it has any, else the first that has. */
function curveTask() {
  const all = Object.values(curves());
  const has = (task) => all.some((tasks) => String(task) in tasks);
  return selected.task !== null && has(selected.task) ? selected.task : study.tasks.findIndex((_, task) => has(task));
}

function drawCurves() {
  const figure = document.getElementById("curves");
  if (!figure) return;
  const task = curveTask(),
    about = study.tasks[task],
    canvas = figure.querySelector(".canvas");
  const lines = Object.entries(curves())
    .filter(([, tasks]) => String(task) in tasks)
    .map(([index, tasks]) => ({ index: Number(index), ...tasks[task] }));
  const shown = lines.filter((line) => !hiddenCurves.has(line.index));
  const width = Math.min(860, Math.max(330, canvas.clientWidth)),
    height = 330,
    left = 46,
    top = 34,
    bottom = height - 44;
  const most = Math.max(1, ...lines.flatMap((line) => line.steps)),
    scores = lines.flatMap((line) => [...line.low, ...line.high]).map((score) => score / 1000);
  const low = Math.min(...scores),
    high = Math.max(...scores, low + 0.01);
  const x = (step) => left + (step / most) * (width - left - 14),
    y = (score) => bottom - ((score - low) / (high - low)) * (bottom - top);
  const drawn = [];
  for (const tick of ticks(low, high))
    drawn.push(
      svg("line", { x1: left, x2: width - 14, y1: y(tick), y2: y(tick), class: "line" }),
      svg(
        "text",
        { x: left - 6, y: y(tick) + 4, "font-size": 10.5, "text-anchor": "end" },
        printed(Math.round(tick * 100)),
      ),
    );
  for (const tick of ticks(0, most))
    drawn.push(
      svg("text", { x: x(tick), y: bottom + 16, "font-size": 10.5, "text-anchor": "middle" }, String(Math.round(tick))),
    );
  drawn.push(
    svg("text", { x: (left + width) / 2, y: height - 10, "font-size": 11, "text-anchor": "middle" }, "training step"),
  );
  for (const line of shown) drawn.push(...oneCurve(line, x, y));
  canvas.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height },
      svg("title", {}, `Training on ${about.name}`),
      heading(`${about.name}: ${about.metric || "score"} on development examples`, width),
      ...drawn,
    ),
  );
  figure.querySelector(".legend").replaceChildren(...lines.map(curveKey));
  offer(
    figure,
    () => `${about.name} training`,
    () => curveRows(task),
    study.files.convergence || [],
  );
}

/** The band and the line of one composition; the shown composition's line is thick. */
function oneCurve({ index, steps, mean, low, high, seeds }, x, y) {
  const { name, colour, shape, dash } = study.compositions[index],
    thick = index === selected.composition;
  const points = (values) => steps.map((step, i) => `${x(step).toFixed(1)} ${y(values[i] / 1000).toFixed(1)}`);
  const band = svg("path", {
    d: `M${points(high).join("L")}L${points(low).reverse().join("L")}Z`,
    fill: colour,
    "fill-opacity": 0.12,
    "pointer-events": "none",
  });
  const line = svg("path", {
    d: `M${points(mean).join("L")}`,
    fill: "none",
    stroke: colour,
    "stroke-width": thick ? 3 : 1.6,
    "stroke-dasharray": dash || null,
    "pointer-events": "none",
  });
  const dots = steps.map((step, i) => {
    const text = `${name}\nstep ${step}: ${(mean[i] / 1000).toFixed(3)} (${(low[i] / 1000).toFixed(3)} to ${(high[i] / 1000).toFixed(3)}, ${seeds} seeds)`;
    const dot = marker(shape, thick ? 4 : 3, {
      transform: `translate(${x(step).toFixed(1)} ${y(mean[i] / 1000).toFixed(1)})`,
      fill: colour,
      class: "cell point",
    });
    dot.addEventListener("pointerenter", () => showTip(text, dot.getBoundingClientRect()));
    dot.addEventListener("pointerleave", hideTip);
    return dot;
  });
  return [band, line, ...dots];
}

/** A key of the legend that shows and hides its line. */
function curveKey({ index }) {
  const { name, colour, shape, dash } = study.compositions[index];
  const picture = svg(
    "svg",
    { viewBox: "0 0 28 14", width: 28, height: 14, "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 28, y1: 7, y2: 7, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash || null }),
    marker(shape, 4, { transform: "translate(14 7)", fill: colour }),
  );
  const button = html("button", { type: "button" }, picture, name);
  button.setAttribute("aria-pressed", !hiddenCurves.has(index));
  button.addEventListener("click", () => {
    if (!hiddenCurves.delete(index)) hiddenCurves.add(index);
    drawCurves();
    [...document.querySelectorAll("#curves .legend button")].find((key) => key.textContent === name)?.focus();
  });
  return html("li", {}, button);
}

function curveRows(task) {
  const rows = Object.entries(curves())
    .filter(([, tasks]) => String(task) in tasks)
    .flatMap(([index, tasks]) => {
      const { steps, mean, low, high, seeds } = tasks[task];
      return steps.map((step, i) => [
        study.compositions[index].name,
        study.tasks[task].name,
        step,
        mean[i] / 1000,
        low[i] / 1000,
        high[i] / 1000,
        seeds,
      ]);
    });
  return [["composition", "task", "step", "mean", "least", "greatest", "seeds"], ...rows];
}
