// Gains over the untouched backbone with their intervals.

/** Tasks down, one dot with its interval for the shown composition. */
function drawLifts() {
  const figure = document.getElementById("lift");
  if (!figure) return;
  const mine = study.lifts.filter(([index, , value]) => index === selected.composition && value !== null);
  const canvas = figure.querySelector(".canvas"),
    { name, colour, shape } = study.compositions[selected.composition];
  figure.querySelector(".downloads").hidden = !mine.length;
  if (!mine.length) {
    canvas.replaceChildren(html("p", { textContent: `No gain of ${name} is known.` }));
    return;
  }
  const row = mine.length > 30 ? 15 : 20,
    size = mine.length > 30 ? 10.5 : 11.5,
    width = Math.min(760, Math.max(330, canvas.clientWidth));
  const left = Math.min(0.42 * width, Math.max(...mine.map(([, task]) => widthOf(study.tasks[task].label, size)))) + 16;
  const every = mine.flatMap(([, , value, low, high]) => [value, low ?? value, high ?? value, 0]);
  const [least, most] = [Math.min(...every) / 100, Math.max(...every) / 100],
    room = Math.max(0.02, (most - least) * 0.05);
  const x = (value) => left + ((value - least + room) / (most - least + 2 * room)) * (width - left - 14);
  const height = 40 + mine.length * row + 26,
    drawn = [];
  for (const tick of ticks(least, most))
    drawn.push(
      svg("line", {
        x1: x(tick),
        x2: x(tick),
        y1: 28,
        y2: height - 24,
        class: Math.abs(tick) < 1e-9 ? "strong" : "line",
      }),
      svg(
        "text",
        { x: x(tick), y: height - 8, "font-size": 10.5, "text-anchor": "middle" },
        printed(Math.round(tick * 100), true),
      ),
    );
  mine.forEach(([, task, value, low, high, seeds, covers], i) => {
    const y = 40 + i * row,
      about = study.tasks[task],
      chosen = task === selected.task;
    const interval =
      low === null ? "no interval" : `95 % interval [${printed(low, true)}, ${printed(high, true)}] over ${covers}`;
    const text = `${spoken(about)}: gain ${printed(value, true)}, ${interval}, ${seeds} seeds`;
    const group = svg(
      "g",
      { class: "cell", role: "button", tabindex: 0, "data-task": task, "aria-label": text, "aria-pressed": chosen },
      svg("rect", { x: 0, y: y - row / 2, width, height: row, fill: "transparent" }),
      svg(
        "text",
        {
          x: left - 10,
          y: y + size * 0.36,
          "font-size": size,
          "text-anchor": "end",
          class: chosen ? "chosen" : null,
          "aria-hidden": "true",
        },
        about.label,
      ),
      marker(shape, 4, {
        transform: `translate(${x(value / 100)} ${y})`,
        fill: low === null ? "none" : colour,
        stroke: colour,
        "stroke-width": 1.4,
      }),
    );
    if (low !== null)
      group.append(
        svg("line", { x1: x(low / 100), x2: x(high / 100), y1: y, y2: y, stroke: colour, "stroke-width": 1.8 }),
      );
    const act = () => select({ task });
    group.addEventListener("pointerenter", () => showTip(text, group.getBoundingClientRect()));
    group.addEventListener("pointerleave", hideTip);
    group.addEventListener("click", act);
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        act();
        document.querySelector(`#lift [data-task="${task}"]`)?.focus();
        event.preventDefault();
      }
    });
    drawn.push(group);
  });
  canvas.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height },
      svg("title", {}, `Gains of ${name} over the untouched backbone`),
      heading(`${name}: score minus the untouched backbone's`, width),
      ...drawn,
    ),
  );
  offer(figure, () => `${name} gain`, liftRows, study.files.lift || []);
}

/** The gains of the shown composition as a table, made when its fold is opened. */
function fillLifts() {
  const fold = document.getElementById("lift-table");
  if (!fold?.open) return;
  const { name } = study.compositions[selected.composition];
  const rows = study.lifts
    .filter(([index]) => index === selected.composition)
    .map(([, task, value, low, high, seeds, covers]) => [
      study.tasks[task].name,
      study.tasks[task].category,
      value === null ? "unknown" : printed(value, true),
      low === null ? "no interval" : `[${printed(low, true)}, ${printed(high, true)}]`,
      String(seeds),
      low === null ? "nothing" : covers,
    ]);
  fillTable(
    fold,
    `Gains of ${name} over the untouched backbone`,
    ["task", "category", "gain", "95 % interval", "seeds", "interval covers"],
    rows,
  );
}

function liftRows() {
  const rows = study.lifts.map(([index, task, value, low, high, seeds, covers]) => [
    study.compositions[index].name,
    study.tasks[task].name,
    ...[value, low, high].map((number) => (number === null ? null : number / 100)),
    seeds,
    covers,
  ]);
  return [["composition", "task", "gain", "low", "high", "seeds", "interval_covers"], ...rows];
}
