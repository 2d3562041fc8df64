
"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });
  const tables = [...document.querySelectorAll("table.leaks")].map((table) => ({
    body: table.tBodies[0],
    headings: [...table.tHead.rows[0].cells],
    rows: [...table.tBodies[0].rows],
  }));
  const rows = tables.flatMap((table) => table.rows);

  // -- sort

  /** Return what a cell is sorted by: a number, null for an unknown one, or text. */
  function sortKey(cell) {
    const { value } = cell.dataset;
    if (value === undefined) return (cell.querySelector("summary") ?? cell).textContent;
    return value === "" ? null : Number(value);
  }

  /** Compare two keys; an unknown one is last in both directions. */
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
  }

  function sort(table, heading) {
    const before = heading.getAttribute("aria-sort");
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = before === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const keyed = table.rows.map((row) => [sortKey(row.cells[heading.cellIndex]), row]);
    keyed.sort(([a], [b]) => compare(a, b, sign));
    table.rows = keyed.map(([, row]) => row);
    const sorted = document.createDocumentFragment();
    for (const row of table.rows) sorted.append(row);
    table.body.append(sorted);
    for (const each of table.headings) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  }

  for (const table of tables) {
    for (const heading of table.headings) {
      const button = heading.querySelector("button");
      button.disabled = false;
      button.addEventListener("click", () => sort(table, heading));
    }
  }

  // -- stacks that are not in the rows

  const stackOf = (details) => document.getElementById(`stack-${details.dataset.stack}`)?.content;

  function fill(details) {
    const stack = stackOf(details);
    if (stack) details.append(stack.cloneNode(true));
    delete details.dataset.stack;
  }

  document.addEventListener("toggle", (event) => event.target.open && fill(event.target), true);

  // -- filter

  const form = document.querySelector(".filter");
  const texts = new Map();
  const total = rows.length.toLocaleString("en");

  /** Return the text of a row in lower case, with its stack. */
  function textOf(row) {
    let text = texts.get(row);
    if (text === undefined) {
      const stack = stackOf(row.querySelector("details"));
      text = `${row.textContent} ${stack?.textContent ?? ""}`.toLowerCase();
      texts.set(row, text);
    }
    return text;
  }

  function filter() {
    const words = form.elements.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = words.length ? textOf(row) : "";
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    form.elements.shown.value = `${shown.toLocaleString("en")} of ${total} shown`;
  }

  if (form) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    // A browser may restore the text of the filter when it loads the page again.
    filter();
  }

  // -- print

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("tr:not([hidden]) details:not([open])")];
    for (const details of opened) {
      fill(details);
      details.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
