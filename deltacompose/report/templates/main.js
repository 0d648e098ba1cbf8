// Start: fill the fields, draw what is shown, and redraw what a change concerns.

function option(value, text) {
  return html("option", { value, textContent: text });
}

/** Units that the shown composition has, the chosen one where it has it. */
function fillUnits() {
  const field = document.getElementById("choose-unit"),
    data = composition(selected.composition);
  if (!field || !data) return;
  const units = Object.keys(data.values);
  if (!units.includes(selected.unit)) selected.unit = units[0];
  field.replaceChildren(...units.map((unit) => option(unit, study.units[unit].name)));
  field.value = selected.unit;
}

function startFields() {
  const compositions = document.getElementById("choose-composition"),
    tasks = document.getElementById("choose-task");
  compositions.append(...study.compositions.map((each, index) => option(index, each.name)));
  tasks.append(option("", "none selected"), ...study.tasks.map((each, index) => option(index, each.name)));
  compositions.addEventListener("change", () => select({ composition: Number(compositions.value) }));
  tasks.addEventListener("change", () => select({ task: tasks.value === "" ? null : Number(tasks.value) }));
  document.getElementById("choose-unit")?.addEventListener("change", (event) => select({ unit: event.target.value }));
  selected.composition = Math.max(
    0,
    study.compositions.findIndex((each, index) => document.getElementById(`composition-data-${index}`)),
  );
  compositions.value = selected.composition;
  fillUnits();
}

/** A composition without transfer keeps the fields; its heatmap and graph say so. */
function drawTransfer() {
  const heatmap = document.getElementById("heatmap"),
    absent = heatmap && !composition(selected.composition);
  for (const name of ["heatmap", "graph", "raw-scores", "advice", "advice-table"]) {
    const part = document.getElementById(name);
    if (part) part.hidden = absent;
  }
  if (!heatmap || absent) return;
  fillUnits();
  drawHeatmap();
  drawGraph();
  fillRawScores();
  drawAdvice();
  fillAdvice();
}

function drawAll() {
  drawTransfer();
  drawLifts();
  fillLifts();
  drawCurves();
}

function redraw(before) {
  const changed = (name) => before[name] !== selected[name];
  document.getElementById("choose-task").value = selected.task ?? "";
  if (changed("composition")) drawTransfer();
  else if (changed("unit") || changed("task")) drawHeatmap();
  const graph = document.getElementById("graph");
  if (graph && changed("task") && !changed("composition")) emphasize(graph);
  if (changed("composition") || changed("task")) {
    drawLifts();
    drawCurves();
  }
  if (changed("composition")) fillLifts();
}

document.documentElement.classList.add("scripted");
startTables();
if (study.compositions.length) {
  startFields();
  subscribers.push(redraw);
  drawAll();
  document.getElementById("raw-scores")?.addEventListener("toggle", fillRawScores);
  document.getElementById("advice-table")?.addEventListener("toggle", fillAdvice);
  document.getElementById("lift-table")?.addEventListener("toggle", fillLifts);
  let waiting = null,
    width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 200);
  });
}
