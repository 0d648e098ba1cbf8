// Elements, numbers, and what is selected. Every text of the study enters as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const study = JSON.parse(document.getElementById("study-data").textContent);

/** An SVG element with attributes and children; a string becomes a text node. */
function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** An HTML element with properties and children. */
function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Hundredths as papers print them: 87 is `.87`, -5 is `−.05`, with a plus sign where zero is neutral. */
function printed(hundredths, signed = false) {
  if (hundredths === null || hundredths === undefined) return "–";
  const size = Math.abs(hundredths),
    whole = Math.floor(size / 100);
  const sign = hundredths < 0 ? "−" : signed && hundredths > 0 ? "+" : "";
  return `${sign}${whole || ""}.${String(size % 100).padStart(2, "0")}`;
}

/** The data of one composition, parsed when it is first shown. */
const parsed = new Map();
function composition(index) {
  if (!parsed.has(index)) {
    const element = document.getElementById(`composition-data-${index}`);
    parsed.set(index, element ? JSON.parse(element.textContent) : null);
  }
  return parsed.get(index);
}

/** What is selected: indices of a composition and a task (null for none), and a unit. Figures subscribe to changes. */
const selected = { composition: null, task: null, unit: null };
const subscribers = [];
function select(change) {
  const before = { ...selected };
  Object.assign(selected, change);
  for (const redraw of subscribers) redraw(before);
  const task = selected.task === null ? "no task" : study.tasks[selected.task].name;
  if ("task" in change) document.getElementById("spoken").textContent = `Selected ${task} in all figures and tables.`;
}

/** The name of a task for a reader who hears it: the label that is seen comes first where it is shortened. */
const spoken = ({ name, label }) => (label === name ? name : `${label} (${name})`);

const tip = document.getElementById("tip");

/** Show lines of text beside a rectangle of the screen, inside the window. */
function showTip(text, box) {
  tip.textContent = text;
  tip.hidden = false;
  const room = document.documentElement.clientWidth,
    size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(4, box.right + 8), room - size.width - 4);
  const below = box.bottom + 8 + size.height < window.innerHeight;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(below ? box.bottom + 8 : Math.max(0, box.top - size.height - 8)) + window.scrollY}px`;
}
function hideTip() {
  tip.hidden = true;
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});

/** The outline of a marker of some radius around the origin; categories and compositions have one each. */
const SHAPES = {
  o: (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
  s: (r) => polygon(4, r * 1.2, 45),
  D: (r) => polygon(4, r * 1.25, 0),
  "^": (r) => polygon(3, r * 1.3, -90),
  v: (r) => polygon(3, r * 1.3, 90),
  p: (r) => polygon(5, r * 1.15, -90),
  h: (r) => polygon(6, r * 1.15, 0),
  8: (r) => polygon(8, r * 1.1, 22.5),
  "*": (r) => star(r * 1.5),
  P: (r) => cross(r, 0),
  X: (r) => cross(r, 45),
};
function polygon(corners, radius, turn) {
  const points = Array.from({ length: corners }, (_, i) => around(radius, turn + (360 * i) / corners));
  return `M${points.join("L")}Z`;
}
function star(radius) {
  const points = Array.from({ length: 10 }, (_, i) => around(i % 2 ? radius * 0.4 : radius, 36 * i - 90));
  return `M${points.join("L")}Z`;
}
function cross(radius, turn) {
  const near = radius * 0.5,
    far = radius * 1.2;
  const corners = [
    [near, far],
    [near, near],
    [far, near],
  ];
  const points = [0, 90, 180, 270].flatMap((quarter) =>
    corners.map(([x, y]) => around(Math.hypot(x, y), turn + quarter - (Math.atan2(y, x) * 180) / Math.PI)),
  );
  return `M${points.join("L")}Z`;
}
function around(radius, degrees) {
  const angle = (degrees * Math.PI) / 180;
  return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
}
function marker(shape, radius, attributes) {
  return svg("path", { d: (SHAPES[shape] || SHAPES.o)(radius), ...attributes });
}

/** About how wide a text is, in pixels. */
const widthOf = (text, size) => [...text].reduce((sum, c) => sum + (c.charCodeAt(0) > 0x2e7f ? 1.02 : 0.58), 0) * size;

/** Round steps for an axis between two values, about five of them. */
function ticks(low, high) {
  const rough = (high - low) / 5 || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

const shorten = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

/** The title of a drawing, shortened to its width. */
const heading = (text, width) =>
  svg("text", { x: 4, y: 14, "font-size": 12, "font-weight": 600 }, shorten(text, Math.floor(width / 7.6)));
