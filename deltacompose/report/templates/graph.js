// The task graph of one composition: a spring layout that is the same every time, dragging, and a threshold.

function graphRows() {
  const { graph } = composition(selected.composition);
  const rows = graph.edges.map(([i, j, weight, stability, directions]) => [
    study.tasks[i].name,
    study.tasks[j].name,
    weight / 100,
    stability === null ? null : stability / 100,
    directions,
  ]);
  return [["task", "other_task", "weight", "stability", "directions_known"], ...rows];
}

/** The edges of the shown graph with their lines; `i` and `j` are places in the list of nodes. */
function graphEdges(graph, nodes) {
  const at = new Map(graph.nodes.map((task, i) => [task, i]));
  const heaviest = Math.max(1, ...graph.edges.map(([, , weight]) => weight));
  return graph.edges.map(([source, target, weight, stability, directions]) => {
    const [i, j] = [at.get(source), at.get(target)];
    const own = nodes[i].category && nodes[i].category === nodes[j].category ? nodes[i].category : null;
    const facts = [`weight ${printed(weight)}`];
    if (stability !== null) facts.push(`stands in ${stability} % of the resamples of the seeds`);
    if (directions === 1) facts.push("one direction known");
    const line = svg(
      "line",
      {
        "stroke-width": Math.max(0.5, (5 * weight) / heaviest),
        stroke: study.categories[own]?.colour ?? "#8c8c8c",
        "stroke-opacity": 0.75,
        "stroke-dasharray": directions === 1 ? "8 4" : stability !== null && stability < 50 ? "2 3" : null,
      },
      svg("title", {}, `${nodes[i].name} – ${nodes[j].name}: ${facts.join(", ")}`),
    );
    return { i, j, weight: weight / 100, stability, directions, line };
  });
}

/** The tasks as buttons with the shape and colour of their category; their names tell their neighbours. */
function graphNodes(graph, nodes, edges) {
  return nodes.map((node, i) => {
    const own = study.categories[node.category] ?? { colour: "#0072b2", shape: "o" };
    const near = edges
      .filter((edge) => edge.i === i || edge.j === i)
      .sort((a, b) => b.weight - a.weight)
      .map((edge) => `${nodes[edge.i === i ? edge.j : edge.i].name} ${printed(Math.round(edge.weight * 100))}`);
    const kind = node.category ? `, ${node.category}` : "";
    const label = `${spoken(node)}${kind}; joined to ${near.join(", ") || "none"}`;
    const text = { y: -9, "font-size": 11, "text-anchor": "middle", class: "halo", "aria-hidden": "true" };
    return svg(
      "g",
      { class: "node", role: "button", tabindex: 0, "data-task": graph.nodes[i], "aria-label": label },
      marker(own.shape, 6, { fill: own.colour, stroke: "#ffffff", "stroke-width": 1 }),
      svg("text", text, node.label),
    );
  });
}

function drawGraph() {
  const figure = document.getElementById("graph");
  const data = composition(selected.composition);
  if (!figure || !data) return;
  const canvas = figure.querySelector(".canvas");
  const { graph } = data;
  figure.querySelector(".facts").textContent = graph.caption;
  for (const part of figure.querySelectorAll(".controls, .downloads")) part.hidden = !graph.nodes.length;
  if (!graph.nodes.length) {
    canvas.replaceChildren(html("p", { textContent: graph.caption }));
    figure.querySelector(".legend").replaceChildren();
    return;
  }
  const width = Math.min(980, Math.max(330, canvas.clientWidth));
  const height = Math.max(width < 600 ? 420 : 480, 80 * Math.sqrt(graph.nodes.length));
  const nodes = graph.nodes.map((task) => study.tasks[task]);
  const edges = graphEdges(graph, nodes);
  const groups = graphNodes(graph, nodes, edges);
  const place = layout(nodes, edges, width, height - 30).map(([x, y]) => [x, y + 30]);
  const move = (i) => {
    groups[i].setAttribute("transform", `translate(${place[i][0].toFixed(1)} ${place[i][1].toFixed(1)})`);
    for (const edge of edges.filter((each) => each.i === i || each.j === i)) {
      [edge.i, edge.j].forEach((end, n) => {
        edge.line.setAttribute(`x${n + 1}`, place[end][0].toFixed(1));
        edge.line.setAttribute(`y${n + 1}`, place[end][1].toFixed(1));
      });
    }
  };
  nodes.forEach((_, i) => move(i));
  const { name } = study.compositions[selected.composition];
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height },
    svg("title", {}, `Task graph of ${name}`),
    heading(`${name}: task graph by ${graph.value} values, ${data.runs}`, width),
    ...edges.map((edge) => edge.line),
    ...groups,
  );
  canvas.replaceChildren(drawing);
  dragNodes(drawing, groups, place, move, [width, height]);
  filterEdges(figure, edges);
  emphasize(figure);
  figure.querySelector(".legend").replaceChildren(...graphLegend(edges));
  offer(figure, () => `${name} graph`, graphRows, data.files.graph || []);
}

/** Drag by pointer, move by arrow keys, select by a click without movement or by Enter. */
function dragNodes(drawing, groups, place, move, [width, height]) {
  const put = (i, x, y) => {
    place[i] = [Math.min(width - 6, Math.max(6, x)), Math.min(height - 6, Math.max(26, y))];
    move(i);
  };
  groups.forEach((group, i) => {
    let start = null;
    const position = (event) =>
      new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    group.addEventListener("pointerdown", (event) => {
      start = position(event);
      start.moved = false;
      group.setPointerCapture(event.pointerId);
    });
    group.addEventListener("pointermove", (event) => {
      if (!start) return;
      const here = position(event);
      if (Math.hypot(here.x - start.x, here.y - start.y) > 3) start.moved = true;
      if (start.moved) put(i, here.x, here.y);
    });
    group.addEventListener("pointerup", () => {
      if (start && !start.moved) select({ task: Number(group.dataset.task) });
      start = null;
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] }[event.key];
      if (event.key === "Enter" || event.key === " ") select({ task: Number(group.dataset.task) });
      else if (step) put(i, place[i][0] + step[0], place[i][1] + step[1]);
      else return;
      event.preventDefault();
    });
  });
}

/** Show the edges of at least the chosen weight. */
function filterEdges(figure, edges) {
  const range = document.getElementById("threshold"),
    text = document.getElementById("threshold-text");
  const weights = edges.map((edge) => edge.weight),
    low = Math.min(0, ...weights),
    high = Math.max(0.01, ...weights);
  Object.assign(range, {
    min: low.toFixed(2),
    max: (Math.ceil(high * 100) / 100).toFixed(2),
    value: low.toFixed(2),
    disabled: !edges.length,
  });
  range.oninput = () => {
    const least = Number(range.value),
      shown = edges.filter((edge) => edge.weight >= least - 1e-9);
    for (const edge of edges) edge.line.setAttribute("display", shown.includes(edge) ? "inline" : "none");
    text.textContent = `${printed(Math.round(least * 100))}: ${shown.length} of ${edges.length} edges`;
    range.setAttribute("aria-valuetext", text.textContent);
  };
  range.oninput();
  document.getElementById("graph-reset").onclick = drawGraph;
}

/** The selected task and its neighbours stand out. */
function emphasize(figure) {
  for (const group of figure.querySelectorAll(".node")) {
    const chosen = Number(group.dataset.task) === selected.task;
    group.setAttribute("aria-pressed", chosen);
    group.querySelector("text").setAttribute("class", chosen ? "halo chosen" : "halo");
    group.querySelector(".ring")?.remove();
    if (chosen) group.prepend(svg("circle", { r: 11, class: "chosen ring", "stroke-width": 2.5 }));
  }
}

function graphLegend(edges) {
  const picture = (child) => svg("svg", { viewBox: "0 0 22 14", width: 22, height: 14, "aria-hidden": "true" }, child);
  const line = (attributes) =>
    picture(svg("line", { x1: 0, x2: 22, y1: 7, y2: 7, stroke: "#8c8c8c", "stroke-width": 2, ...attributes }));
  const entries = Object.entries(study.categories).map(([name, { colour, shape }]) => [
    picture(marker(shape, 5, { transform: "translate(11 7)", fill: colour })),
    name,
  ]);
  if (edges.some((edge) => edge.stability !== null && edge.stability < 50))
    entries.push([line({ "stroke-dasharray": "2 3" }), "stands in less than half of the resamples of the seeds"]);
  if (edges.some((edge) => edge.directions === 1))
    entries.push([line({ "stroke-dasharray": "8 4" }), "one direction known"]);
  return entries.map(([drawn, text]) => html("li", {}, drawn, text));
}
