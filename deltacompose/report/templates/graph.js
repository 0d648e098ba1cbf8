// The task graph of one composition: a spring layout that is the same every time, dragging, and a threshold.

/** Places of the tasks in a width by height area (Fruchterman and Reingold 1991), started on a circle by category. */
function layout(nodes, edges, width, height) {
  const count = nodes.length,
    heaviest = Math.max(1e-9, ...edges.map((edge) => edge.weight));
  const place = nodes.map((_, i) => [Math.cos((2 * Math.PI * i) / count), Math.sin((2 * Math.PI * i) / count)]);
  const near = 1.6 / Math.sqrt(count);
  for (let round = 0; round < 300; round++) {
    const force = place.map(([x, y]) => [-0.05 * x, -0.05 * y]);
    for (let i = 0; i < count; i++)
      for (let j = 0; j < i; j++) {
        const dx = place[i][0] - place[j][0],
          dy = place[i][1] - place[j][1],
          square = Math.max(1e-4, dx * dx + dy * dy);
        const push = (near * near) / square;
        force[i][0] += dx * push;
        force[i][1] += dy * push;
        force[j][0] -= dx * push;
        force[j][1] -= dy * push;
      }
    for (const { i, j, weight } of edges) {
      const dx = place[i][0] - place[j][0],
        dy = place[i][1] - place[j][1];
      const pull = (Math.hypot(dx, dy) / near) * (0.3 + 0.7 * Math.max(0, weight / heaviest));
      force[i][0] -= dx * pull;
      force[i][1] -= dy * pull;
      force[j][0] += dx * pull;
      force[j][1] += dy * pull;
    }
    const step = 0.1 * (1 - round / 300);
    force.forEach(([x, y], i) => {
      const size = Math.hypot(x, y) || 1,
        move = Math.min(step, size) / size;
      place[i][0] += x * move;
      place[i][1] += y * move;
    });
  }
  return apart(stretched(place, width, height), nodes, width, height);
}

function stretched(place, width, height) {
  const [xs, ys] = [0, 1].map((axis) => place.map((point) => point[axis]));
  const scale = (values, size) => {
    const low = Math.min(...values),
      wide = Math.max(...values) - low || 1;
    return (value) => 0.08 * size + (0.84 * size * (value - low)) / wide;
  };
  const [across, down] = [scale(xs, width), scale(ys, height)];
  return place.map(([x, y]) => [across(x), down(y)]);
}

/** Move tasks apart whose names would overlap, each half the way, and keep them inside the area. */
function apart(place, nodes, width, height) {
  const half = nodes.map((node) => [widthOf(node.label, 11) / 2 + 3, 15]);
  for (let round = 0; round < 250; round++) {
    let still = true;
    for (let i = 0; i < place.length; i++)
      for (let j = 0; j < i; j++) {
        const gap = [0, 1].map((axis) => half[i][axis] + half[j][axis] - Math.abs(place[i][axis] - place[j][axis]));
        if (gap[0] <= 0 || gap[1] <= 0) continue;
        const axis = gap[0] < gap[1] ? 0 : 1,
          step = (gap[axis] / 2 + 0.1) * (place[i][axis] >= place[j][axis] ? 1 : -1);
        place[i][axis] += step;
        place[j][axis] -= step;
        still = false;
      }
    place.forEach((point, i) => {
      point[0] = Math.min(width - half[i][0], Math.max(half[i][0], point[0]));
      point[1] = Math.min(height - 8, Math.max(24, point[1]));
    });
    if (still) break;
  }
  return place;
}

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

function drawGraph() {
  const figure = document.getElementById("graph"),
    data = composition(selected.composition);
  if (!figure || !data) return;
  const canvas = figure.querySelector(".canvas"),
    { graph } = data;
  figure.querySelector(".facts").textContent = graph.caption;
  for (const part of figure.querySelectorAll(".controls, .downloads")) part.hidden = !graph.nodes.length;
  if (!graph.nodes.length) {
    canvas.replaceChildren(html("p", { textContent: graph.caption }));
    figure.querySelector(".legend").replaceChildren();
    return;
  }
  const width = Math.min(980, Math.max(330, canvas.clientWidth)),
    height = Math.max(width < 600 ? 420 : 480, 16 * Math.sqrt(graph.nodes.length) * 5);
  const at = new Map(graph.nodes.map((task, i) => [task, i])),
    nodes = graph.nodes.map((task) => study.tasks[task]);
  const edges = graph.edges.map(([i, j, weight, stability, directions]) => ({
    i: at.get(i),
    j: at.get(j),
    weight: weight / 100,
    stability,
    directions,
  }));
  const place = layout(nodes, edges, width, height - 30).map(([x, y]) => [x, y + 30]);
  const heaviest = Math.max(0.01, ...edges.map((edge) => edge.weight));

  for (const edge of edges) {
    const [one, other] = [nodes[edge.i], nodes[edge.j]],
      same = one.category && one.category === other.category;
    const stable =
      edge.stability === null ? "stability unknown" : `stands in ${edge.stability} % of the resamples of the seeds`;
    edge.line = svg(
      "line",
      {
        "stroke-width": Math.max(0.5, (5 * edge.weight) / heaviest),
        stroke: same ? study.categories[one.category].colour : "#8c8c8c",
        "stroke-opacity": 0.75,
        "stroke-dasharray":
          edge.directions === 1 ? "8 4" : edge.stability !== null && edge.stability < 50 ? "2 3" : null,
      },
      svg(
        "title",
        {},
        `${one.name} – ${other.name}: weight ${printed(Math.round(edge.weight * 100))}, ${stable}${edge.directions === 1 ? ", one direction known" : ""}`,
      ),
    );
  }
  const groups = nodes.map((node, i) => {
    const own = study.categories[node.category] || { colour: "#0072b2", shape: "o" };
    const near = edges
      .filter((edge) => edge.i === i || edge.j === i)
      .sort((a, b) => b.weight - a.weight)
      .map((edge) => `${nodes[edge.i === i ? edge.j : edge.i].name} ${printed(Math.round(edge.weight * 100))}`);
    return svg(
      "g",
      {
        class: "node",
        role: "button",
        tabindex: 0,
        "data-task": graph.nodes[i],
        "aria-label": `${spoken(node)}${node.category ? `, ${node.category}` : ""}; joined to ${near.join(", ") || "none"}`,
      },
      marker(own.shape, 6, { fill: own.colour, stroke: "#ffffff", "stroke-width": 1 }),
      svg(
        "text",
        { y: -9, "font-size": 11, "text-anchor": "middle", class: "halo", "aria-hidden": "true" },
        node.label,
      ),
    );
  });
  const move = (i) => {
    groups[i].setAttribute("transform", `translate(${place[i][0].toFixed(1)} ${place[i][1].toFixed(1)})`);
    for (const { i: a, j: b, line } of edges)
      if (a === i || b === i) {
        line.setAttribute("x1", place[a][0].toFixed(1));
        line.setAttribute("y1", place[a][1].toFixed(1));
        line.setAttribute("x2", place[b][0].toFixed(1));
        line.setAttribute("y2", place[b][1].toFixed(1));
      }
  };
  nodes.forEach((_, i) => move(i));
  const name = study.compositions[selected.composition].name;
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height },
    svg("title", {}, `Task graph of ${name}`),
    svg(
      "text",
      { x: 4, y: 14, "font-size": 12, "font-weight": 600 },
      shorten(`${name}: task graph by ${graph.value} values, ${data.runs}`, Math.floor(width / 7.6)),
    ),
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
