// How good the choice of a source is on tasks left out: one row for each strategy, one panel for each metric.

const ADVICE_METRICS = ["regret@1", "regret@3", "NDCG"];

/** Thousandths as papers print them: 37 is `.037`. */
function inThousandths(number) {
  const size = Math.abs(number),
    whole = Math.floor(size / 1000);
  return `${number < 0 ? "−" : ""}${whole || ""}.${String(size % 1000).padStart(3, "0")}`;
}

const adviceText = ([value, low, high]) =>
  value === null ? "–" : `${inThousandths(value)} [${inThousandths(low)}, ${inThousandths(high)}]`;

/** One metric: an axis, and for each strategy a dot with its interval. */
function advicePanel(rows, metric, { x0, width, y0, row }) {
  const known = rows.map((each) => each[metric + 1]).filter(([value]) => value !== null);
  const every = known.flatMap(([value, low, high]) => [value, low, high]).map((number) => number / 1000);
  const [least, most] = [Math.min(...every), Math.max(...every)],
    room = Math.max(0.005, (most - least) * 0.06);
  const x = (value) => x0 + ((value - least + room) / (most - least + 2 * room)) * width;
  const drawn = [svg("text", { x: x0, y: y0 - 6, "font-size": 11.5, "font-weight": 600 }, ADVICE_METRICS[metric])];
  for (const tick of ticks(least, most).filter((_, i, all) => all.length < 5 || i % 2 === 0))
    drawn.push(
      svg("line", { x1: x(tick), x2: x(tick), y1: y0, y2: y0 + rows.length * row, class: "line" }),
      svg(
        "text",
        { x: x(tick), y: y0 + rows.length * row + 14, "font-size": 10, "text-anchor": "middle" },
        inThousandths(Math.round(tick * 1000)),
      ),
    );
  rows.forEach(([name, ...estimates], i) => {
    const [value, low, high, p] = estimates[metric];
    if (value === null) return;
    const y = y0 + (i + 0.5) * row,
      own = i === 0 ? study.compositions[selected.composition].colour : "currentColor";
    const against = p ? `, p = ${p} against the model` : "";
    const text = `${name}: ${ADVICE_METRICS[metric]} ${adviceText(estimates[metric])}${against}`;
    const group = svg(
      "g",
      { class: "estimate", role: "img", "aria-label": text },
      svg("rect", { x: x0, y: y - row / 2, width, height: row, fill: "transparent" }),
      svg("line", { x1: x(low / 1000), x2: x(high / 1000), y1: y, y2: y, stroke: own, "stroke-width": 1.8 }),
      svg("circle", { cx: x(value / 1000), cy: y, r: 4, fill: own }),
    );
    group.addEventListener("pointerenter", () => showTip(text, group.getBoundingClientRect()));
    group.addEventListener("pointerleave", hideTip);
    drawn.push(group);
  });
  return drawn;
}

function drawAdvice() {
  const figure = document.getElementById("advice"),
    data = composition(selected.composition);
  if (!figure || !data) return;
  const { strategies, caption } = data.advice,
    canvas = figure.querySelector(".canvas");
  figure.querySelector(".facts").textContent = caption;
  figure.querySelector(".downloads").hidden = !strategies.length;
  document.getElementById("advice-table").hidden = !strategies.length;
  if (!strategies.length) {
    canvas.replaceChildren(html("p", { textContent: caption }));
    return;
  }
  const { name } = study.compositions[selected.composition];
  const width = Math.min(900, Math.max(330, canvas.clientWidth)),
    narrow = width < 620,
    row = 20,
    left = Math.max(...strategies.map(([each]) => widthOf(each, 11.5))) + 16;
  const panel = (narrow ? width - left : (width - left) / 3) - 24,
    block = strategies.length * row + 46,
    drawn = [];
  ADVICE_METRICS.forEach((_, metric) => {
    const y0 = 44 + (narrow ? metric * block : 0);
    drawn.push(
      ...advicePanel(strategies, metric, {
        x0: left + (narrow ? 0 : metric * (panel + 24)),
        width: panel,
        y0,
        row,
      }),
    );
    if (!narrow && metric) return;
    strategies.forEach(([each], i) =>
      drawn.push(
        svg(
          "text",
          { x: left - 10, y: y0 + (i + 0.5) * row + 4, "font-size": 11.5, "text-anchor": "end" },
          each,
        ),
      ),
    );
  });
  const height = 44 + (narrow ? 3 : 1) * block - 20;
  canvas.replaceChildren(
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height },
      svg("title", {}, `Quality of recommended sources of ${name}`),
      heading(`${name}: regret and NDCG on tasks left out`, width),
      ...drawn,
    ),
  );
  offer(figure, () => `${name} recommend`, adviceRows, data.files.advice || []);
}

/** The numbers of the shown composition as a table, made when its fold is opened. */
function fillAdvice() {
  const fold = document.getElementById("advice-table"),
    data = composition(selected.composition);
  if (!fold?.open || !data) return;
  const rows = data.advice.strategies.map(([name, ...estimates]) => [
    name,
    ...estimates.map(adviceText),
    estimates[0][3] || "–",
  ]);
  const title = `Quality of recommended sources of ${study.compositions[selected.composition].name}`;
  fillTable(fold, title, ["strategy", ...ADVICE_METRICS, "p of regret@1 against the model"], rows);
}

function adviceRows() {
  const { name } = study.compositions[selected.composition];
  const rows = composition(selected.composition).advice.strategies.flatMap(([strategy, ...estimates]) =>
    estimates.map(([value, low, high, p], metric) => [
      name,
      strategy,
      ADVICE_METRICS[metric],
      ...[value, low, high].map((number) => (number === null ? null : number / 1000)),
      p,
    ]),
  );
  return [["composition", "strategy", "metric", "value", "low", "high", "p"], ...rows];
}
