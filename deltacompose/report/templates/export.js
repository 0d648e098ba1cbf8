// Downloads: a drawing as SVG or PNG, numbers as CSV, all made from what is in the page.

const STYLES = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "stroke-opacity",
  "opacity",
  "font-size",
  "font-style",
  "font-weight",
  "paint-order",
  "display",
];

/** The drawing as a document of its own: colours of the light theme written into every element. */
function standalone(drawing) {
  document.documentElement.dataset.theme = "light";
  const copy = drawing.cloneNode(true);
  const originals = [drawing, ...drawing.querySelectorAll("*")],
    copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((element, i) => {
    const style = getComputedStyle(element),
      target = copies[i];
    if (element.closest("defs, title, desc")) return;
    for (const name of STYLES) target.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "role", "tabindex", "aria-label", "style"]) target.removeAttribute(name);
  });
  delete document.documentElement.dataset.theme;
  const { width, height } = drawing.viewBox.baseVal;
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.setAttribute("font-family", "DejaVu Sans, Arial, sans-serif");
  copy.prepend(svg("rect", { width, height, fill: "#ffffff" }));
  return new XMLSerializer().serializeToString(copy);
}

function save(name, content, type) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = html("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A drawing as PNG, three pixels to each of the page's. */
function savePng(name, drawing) {
  const { width, height } = drawing.viewBox.baseVal,
    scale = Math.min(3, 12000 / Math.max(width, height));
  const image = new Image();
  image.onload = () => {
    const canvas = html("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(name, blob), "image/png");
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(drawing))}`;
}

/** Rows as CSV (RFC 4180); null and undefined are empty. */
function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** A name of a file from any text. */
const fileName = (text) =>
  text
    .replace(/[^A-Za-z0-9=.-]+/g, "_")
    .replace(/^[_.]+|_+$/g, "")
    .slice(0, 80) || "figure";

/** Fill a figure's line of downloads; `rows` gives the data, `files` names files that lie beside the page. */
function offer(figure, name, rows, files = []) {
  const drawing = () => figure.querySelector(".canvas svg");
  const button = (text, act) =>
    html("button", { type: "button", textContent: text, onclick: act, title: `Download ${name()} as ${text}` });
  const links = files.map(([text, address]) => html("a", { textContent: text, href: address, download: "" }));
  figure.querySelector(".downloads").replaceChildren(
    button("SVG", () => save(`${fileName(name())}.svg`, standalone(drawing()), "image/svg+xml")),
    button("PNG", () => savePng(`${fileName(name())}.png`, drawing())),
    button("CSV", () => save(`${fileName(name())}.csv`, csv(rows()), "text/csv")),
    ...(links.length ? [html("span", { textContent: "for print:" }), ...links] : []),
  );
}
