// Places of the tasks in the graph, the same every time.

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
