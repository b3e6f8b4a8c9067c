"use strict";
const all = (query, from = document) => [...from.querySelectorAll(query)];

// Sort by a column's button (click, Enter or Space), numbers by value, missing last; a click on a number goes to its source.
for (const table of all("table.sortable")) {
  const body = table.tBodies[0];
  const heads = all("th[aria-sort]", table);
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
    const cell = event.target.closest("td.num"), from = cell && cell.closest("[data-go]");
    if (from && cell.dataset.v !== undefined) location.hash = from.dataset.go;
  });
}

// Controls show only where they work.
all(".needs-script").forEach(each => { each.hidden = false; });

// The theme: as the system, light, dark. It is kept for the next visit where the browser allows that.
const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
const themeButton = document.querySelector("button.theme");
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themeButton.textContent = "Theme: " + themes.find(([each]) => each === name)[1];
}
themeButton.addEventListener("click", () => {
  const at = themes.findIndex(([each]) => each === document.documentElement.dataset.theme);
  const name = themes[(at + 1) % themes.length][0];
  setTheme(name);
  try { localStorage.setItem("theme", name); } catch { /* a browser that keeps nothing */ }
});
let kept = "";
try { kept = localStorage.getItem("theme") || ""; } catch { /* the same */ }
setTheme(themes.some(([each]) => each === kept) ? kept : "");

// A link into something closed opens it. Print opens everything.
function openTarget() {
  if (location.hash.startsWith("#?")) return;
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.matches(".statement[hidden]")) { form.reset(); show(); }
  for (let each = target; each; each = each.parentElement) if (each.matches("details")) each.open = true;
  if (target.matches(".statement")) target.querySelector("details").open = true;
  target.scrollIntoView({ block: target.matches("tr") ? "center" : "start" });
}
let closed = [];
addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach(each => { each.open = true; }); });
addEventListener("afterprint", () => closed.forEach(each => { each.open = false; }));

// Filters and switches. The state is in the address, behind "#?".
const form = document.querySelector("form.panel");
const data = JSON.parse(document.getElementById("switches").textContent);
const words = { "+": "holds", "-": "opposite holds", "0": "neither", "2": "both hold", "x": "no result", ".": "not made together" };
const statements = all("li.statement").map(item => ({ item, text: item.textContent.toLowerCase(), now: item.querySelector(".now") }));
const byId = new Map(statements.map(each => [each.item.id, each]));
for (const claim of Object.values(data.claims)) {
  const number = new Map(claim.analyses.map((levels, at) => [levels.join(), at]));
  for (const [id, primary, results, why] of claim.statements) {
    const one = byId.get(id);
    if (one && primary !== null) Object.assign(one, { claim, number, primary, results, why });
  }
}

// The result of a statement when some choices are made otherwise: [character, reason, whether any of them is its own].
function result(one, set) {
  const { claim, number, primary, results, why } = one;
  const taken = [...claim.analyses[primary]];
  let touched = false;
  claim.choices.forEach((choice, i) => {
    if (!(choice in set)) return;
    const level = data.choices[choice].indexOf(set[choice]);
    const made = claim.analyses.some((levels, at) => levels[i] === level && results[at] !== ".");
    if (made && taken[i] !== level) { taken[i] = level; touched = true; }
  });
  const at = number.get(taken.join());
  const mark = at === undefined ? "." : results[at];
  return [mark, at !== undefined && at in why ? data.reasons[why[at]] : "", touched];
}

function state() {
  const found = {};
  for (const [name, value] of new FormData(form)) if (value) found[name] = value;
  return found;
}

function show() {
  const now = state(), set = {};
  for (const [name, value] of Object.entries(now)) if (name.startsWith("set-")) set[name.slice(4)] = value;
  const switched = Object.keys(set).length > 0;
  const seen = { "+": 0, "-": 0, "0": 0, "2": 0, "x": 0, ".": 0 };
  let count = 0, moved = 0;
  for (const one of statements) {
    const { word, question, item } = one.item.dataset;
    let mark = "", move = false;
    if (one.claim) {
      const [rule] = result(one, {});
      const [other, reason, touched] = result(one, set);
      mark = other;
      move = other !== rule && other !== ".";
      one.now.hidden = !switched;
      one.now.className = "now" + (move ? " moved" : "");
      one.now.textContent = !touched || other === rule ? `Under these choices: as by the rule (${words[rule]}).`
        : `Under these choices: ${words[other]}${reason ? ` (${reason})` : ""}. By the rule: ${words[rule]}.`;
    }
    const visible = (!now.word || now.word === word) && (!now.question || now.question === question) && (!now.task || now.task === item)
      && (!now.text || now.text.toLowerCase().split(/\s+/).every(part => one.text.includes(part)))
      && (!now.result || now.result === mark) && (!now.moved || move);
    one.item.hidden = !visible;
    if (visible) { count += 1; if (mark) seen[mark] += 1; if (move) moved += 1; }
  }
  const parts = Object.entries(seen).filter(([, n]) => n).map(([mark, n]) => `${words[mark]} ${n}`);
  document.querySelector(".count").textContent = `${count} of ${statements.length} statements shown. `
    + `${switched ? "Under these choices" : "By the rule"}: ${parts.join(", ") || "none"}.` + (switched ? ` ${moved} moved.` : "");
}

function remember() {
  const query = new URLSearchParams(state()).toString();
  history.replaceState(null, "", query ? "#?" + query : location.pathname + location.search);
}
function restore() {
  const query = new URLSearchParams(location.hash.slice(2));
  for (const each of form.elements) {
    if (!each.name) continue;
    const value = query.get(each.name) || "";
    if (each.type === "checkbox") each.checked = value === "1";
    else each.value = each.tagName === "SELECT" && ![...each.options].some(option => option.value === value) ? "" : value;
  }
}
if (form) {
  form.addEventListener("input", () => { show(); remember(); });
  form.addEventListener("submit", event => event.preventDefault());
  form.querySelector("button.reset").addEventListener("click", () => { form.reset(); show(); remember(); });
  const narrow = matchMedia("(max-width: 60rem)").matches;  // there the choices would push the list off the screen
  form.querySelector("details.choose").open = !narrow || location.hash.includes("set-");
  if (location.hash.startsWith("#?")) { restore(); document.getElementById("statements").scrollIntoView(); }
  show();
}
addEventListener("hashchange", () => {
  if (!form || !location.hash.startsWith("#?")) { openTarget(); return; }
  restore();
  show();
  document.getElementById("statements").scrollIntoView();
});
openTarget();
