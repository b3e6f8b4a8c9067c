// Sort by a column's button (click, Enter or Space), numbers by value, missing last; a click on a number goes to its source.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[aria-sort]")];
  const key = (row, i) => {
    const cell = row.cells[i], text = cell.textContent.trim();
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : text === "–" ? null : text;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en"));
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(each => each.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [key(row, i), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));
  body.addEventListener("click", event => {
    const cell = event.target.closest("td[data-go]");
    if (cell) location.hash = cell.dataset.go;
  });
}
