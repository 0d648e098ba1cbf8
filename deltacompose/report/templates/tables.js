// Tables: sorting by any column, filtering of rows, and the table of scores with its filters of tasks.

/** The number that a cell sorts by, else its text; cells without a value come last. */
function sortKey(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  const number = Number(
    text
      .replaceAll(",", "")
      .replace("−", "-")
      .replace(/^([+-]?)\./, "$10.")
      .match(/^[+-]?\d+(\.\d+)?/)?.[0] ?? NaN,
  );
  return Number.isNaN(number) ? text : number;
}

function compareKeys(one, other) {
  const numbers = [one, other].map((key) => typeof key === "number");
  if (numbers[0] && numbers[1]) return one - other;
  if (numbers[0] !== numbers[1]) return numbers[0] ? 1 : -1;
  return one.localeCompare(other, undefined, { numeric: true });
}

/** Sort the first body of a table by a column; text ascends first, numbers descend first. */
function sortTable(table, index) {
  const head = table.tHead.rows[0].cells,
    body = table.tBodies[0],
    rows = [...body.rows];
  const keys = new Map(rows.map((row) => [row, sortKey(row.cells[index])]));
  const numeric = [...keys.values()].some((key) => typeof key === "number");
  const before = head[index].getAttribute("aria-sort");
  const order = before ? (before === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
  for (const cell of head) cell.removeAttribute("aria-sort");
  head[index].setAttribute("aria-sort", order);
  const direction = order === "ascending" ? 1 : -1;
  const lacks = (key) => numeric && typeof key === "string";
  rows.sort((a, b) => lacks(keys.get(a)) - lacks(keys.get(b)) || direction * compareKeys(keys.get(a), keys.get(b)));
  body.append(...rows);
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    const button = html("button", { type: "button", className: "sort", textContent: cell.textContent });
    button.addEventListener("click", () => sortTable(table, index));
    cell.replaceChildren(button);
  });
}

/** A field above a long table that keeps the rows with a text. */
function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 8 || table.id === "table-scores") return;
  const field = html("input", { type: "search" }),
    count = html("output");
  const label = html(
    "label",
    { className: "filter" },
    `rows of “${table.caption.textContent}” that contain `,
    field,
    " ",
    count,
  );
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
  table.parentElement.before(label);
}

/** The filters of the table of scores: rows by name, columns by task and category; a category shows its own mean. */
function filterScores(table) {
  const rowsField = document.getElementById("scores-rows"),
    columnsField = document.getElementById("scores-columns");
  const categoryField = document.getElementById("scores-category"),
    count = document.getElementById("scores-count");
  const head = [...table.tHead.rows[0].cells],
    rows = [...table.rows];
  function apply() {
    const row = rowsField.value.toLowerCase(),
      task = columnsField.value.toLowerCase(),
      category = categoryField?.value ?? "";
    const shown = head.map((cell) => {
      const { kind, category: own, task: name } = cell.dataset;
      if (kind === "category") return Boolean(category) && own === category;
      return kind !== "task" || (name.toLowerCase().includes(task) && (!category || own === category));
    });
    for (const line of rows)
      [...line.cells].forEach((cell, i) => {
        cell.hidden = !shown[i];
      });
    for (const line of table.tBodies[0].rows) line.hidden = !line.cells[0].textContent.toLowerCase().includes(row);
    const tasks = head.filter((cell, i) => shown[i] && cell.dataset.kind === "task").length;
    const compositions = [...table.tBodies[0].rows].filter((line) => !line.hidden).length;
    count.textContent = `${compositions} of ${table.tBodies[0].rows.length} compositions, ${tasks} of ${study.tasks.length} tasks`;
  }
  for (const field of [rowsField, columnsField, categoryField]) field?.addEventListener("input", apply);
  apply();
}

/** The visible part of the table of scores as CSV: full numbers, not the printed ones. */
function scoresCsv(table) {
  const lines = [...table.rows].filter((row) => !row.hidden);
  return csv(
    lines.map((row) =>
      [...row.cells]
        .filter((cell) => !cell.hidden)
        .map((cell, i) => cell.dataset.value ?? (cell.dataset.task || cell.textContent.trim())),
    ),
  );
}

/** Mark the column of the selected task, and select a task by a click into its column. */
function linkScores(table) {
  const head = [...table.tHead.rows[0].cells];
  const place = (cell) => study.tasks.findIndex((task) => task.name === head[cell.cellIndex].dataset.task);
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td");
    if (cell && head[cell.cellIndex].dataset.task) select({ task: place(cell) });
  });
  subscribers.push(() => {
    const name = selected.task === null ? null : study.tasks[selected.task].name;
    const index = head.findIndex((cell) => cell.dataset.task === name);
    for (const cell of table.querySelectorAll(".chosen")) cell.classList.remove("chosen");
    if (name !== null && index > 0) for (const row of table.rows) row.cells[index]?.classList.add("chosen");
  });
}

/** Mark the row of the selected task in a table whose rows are tasks. */
function markRows(table) {
  const name = selected.task === null ? null : study.tasks[selected.task].name;
  for (const row of table.tBodies[0].rows) {
    const chosen = name !== null && row.cells[0].textContent === name;
    for (const cell of row.cells) cell.classList.toggle("chosen", chosen);
  }
}

/** Put a table into a fold: rows of texts, whose first is the row's head; `references` stand below and are not sorted. */
function fillTable(fold, caption, head, rows, references = []) {
  const row = ([first, ...texts]) =>
    html(
      "tr",
      {},
      html("th", { scope: "row", textContent: first }),
      ...texts.map((text, i) => {
        const cell = html("td", { textContent: text });
        cell.dataset.label = head[i + 1];
        return cell;
      }),
    );
  const heads = head.map((text) => html("th", { scope: "col", textContent: text }));
  const table = html(
    "table",
    { className: head.length > 9 ? "pinned many" : "pinned" },
    html("caption", { textContent: caption }),
    html("thead", {}, html("tr", {}, ...heads)),
    html("tbody", {}, ...rows.map(row)),
    html("tbody", { className: "references" }, ...references.map(row)),
  );
  const region = html("div", { className: "wide", tabIndex: 0 }, table);
  region.setAttribute("role", "region");
  region.setAttribute("aria-label", caption);
  fold.querySelector(".fill").replaceChildren(region);
  makeSortable(table);
  markRows(table);
}

function startTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    makeFilterable(table);
  }
  subscribers.push(() => document.querySelectorAll("#table-tasks, .fill table").forEach(markRows));
  const scores = document.getElementById("table-scores");
  if (!scores) return;
  filterScores(scores);
  linkScores(scores);
  const button = html("button", { type: "button", textContent: "CSV of what is shown" });
  button.addEventListener("click", () => save("scores.csv", scoresCsv(scores), "text/csv"));
  const links = (study.files.results || []).map(([text, address]) =>
    html("a", { textContent: text, href: address, download: "" }),
  );
  document.getElementById("scores-downloads").append(button, ...links);
}
