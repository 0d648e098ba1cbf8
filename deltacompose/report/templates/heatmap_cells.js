// What a cell of the heatmap says: in words, as a row of CSV, and in the table of raw scores.

/** Everything that the page knows about a cell, as lines of text. */
function aboutCell(data, s, t) {
  const source = study.tasks[data.sources[s]],
    target = study.tasks[data.targets[t]];
  const place = s * data.targets.length + t,
    unit = study.units[selected.unit],
    values = data.values;
  const digits = Math.round(Math.log10(data.scale));
  const exact = (score) => (score === null ? null : (score / data.scale).toFixed(Math.min(digits, 4)));
  const seeds = data.seeds.map((seed, k) => [seed, data.scores[k][place]]).filter(([, score]) => score !== null);
  const lines = [`${source.name} → ${target.name}`];
  if (seeds.length) {
    const value = values[selected.unit][place],
      spread = data.sd[selected.unit === "lift" ? "score" : selected.unit][place];
    const text =
      value === null
        ? `no value: ${why(data, t)}`
        : printed(value, unit.signed) + (spread === null ? "" : ` ± ${printed(spread)}`);
    lines.push(`${unit.name}: ${text}`);
    lines.push(
      `raw ${target.metric || "score"}: ${printed(values.score[place])}, by seed ${seeds.map(([seed, score]) => `${seed}: ${exact(score)}`).join(", ")}`,
    );
  } else lines.push(data.state[place] === "f" ? "failed" : "missing: not evaluated");
  const levels = Object.entries(data.references).map(([name, level]) => `${name} ${printed(level.score[t])}`);
  lines.push(levels.join(", "));
  const gain = values.lift?.[place] ?? null;
  if (gain !== null) {
    const known = data.low && data.low[place] !== null;
    const interval = known
      ? `95 % interval [${printed(data.low[place], true)}, ${printed(data.high[place], true)}]`
      : "no interval";
    lines.push(`minus untouched: ${printed(gain, true)}, ${interval}`);
  }
  if (data.marked[place] === "1") lines.push(`★ ${data.mark}`);
  if (data.trivial[place] === "1") lines.push("○ the answer was constant in at least one seed");
  if (seeds.length && seeds.length < data.seeds.length) lines.push(`▾ ${seeds.length} of ${data.seeds.length} seeds`);
  return lines;
}

/** Why a cell that ran has no value in the unit. */
function why(data, t) {
  const own = data.unowned.includes(t);
  return own ? "the target's own score is missing" : study.units[selected.unit].undefined;
}

function heatmapRows() {
  const data = composition(selected.composition),
    name = study.compositions[selected.composition].name;
  const rows = [["composition", "seed", "source", "target", "metric", "score", "state", "chance", "untouched"]];
  const state = { ".": "done", f: "failed", m: "missing" };
  data.seeds.forEach((seed, k) =>
    data.sources.forEach((source, s) =>
      data.targets.forEach((target, t) => {
        const place = s * data.targets.length + t,
          score = data.scores[k][place],
          about = study.tasks[target];
        const said =
          score !== null ? "done" : data.failedSeeds.includes(k * data.state.length + place) ? "failed" : "missing";
        rows.push([
          name,
          seed,
          study.tasks[source].name,
          about.name,
          about.metric,
          score === null ? null : score / data.scale,
          said,
          about.chance,
          about.untouched,
        ]);
      }),
    ),
  );
  return rows;
}

/** The raw scores of the shown composition as a table, made when its fold is opened. */
function fillRawScores() {
  const fold = document.getElementById("raw-scores"),
    data = composition(selected.composition);
  if (!fold?.open || !data) return;
  const name = study.compositions[selected.composition].name,
    columns = data.targets.length;
  const shown = (value, place) =>
    value === null ? ({ f: "failed", m: "missing" }[data.state[place]] ?? "–") : printed(value);
  const rows = data.sources.map((task, s) => [
    study.tasks[task].name,
    ...data.values.score.slice(s * columns, (s + 1) * columns).map((value, t) => shown(value, s * columns + t)),
  ]);
  const levels = Object.entries(data.references).map(([level, values]) => [
    level,
    ...values.score.map((value) => (value === null ? "unknown" : printed(value))),
  ]);
  fillTable(
    fold,
    `Mean raw scores of ${name}, ${data.runs}`,
    ["source", ...data.targets.map((task) => study.tasks[task].name)],
    rows,
    levels,
  );
}
