// Building and updating the page. All text is set as text, never as HTML.

/** Makes an element. Children are nodes or texts. */
export function make(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") e.addEventListener("click", value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

/**
 * Shows rows in the body of a table. A row of the same key keeps its element, so that it keeps the
 * focus and a selection. Cells are texts, or elements with a property "same": a cell is replaced
 * only if that has changed. While the reader points at the table, its rows keep their places.
 */
export function fill(table, rows, keyOf, cellsOf, emptyText) {
  const body = table.tBodies[0];
  const held = table.matches(":hover") || table.contains(document.activeElement);
  const old = new Map([...body.rows].map((tr) => [tr.dataset.key, tr]));
  const focused = document.activeElement;
  const seen = new Set();
  let at = 0;
  for (const row of rows) {
    const key = String(keyOf(row));
    if (seen.has(key)) continue;
    seen.add(key);
    let tr = old.get(key);
    const isNew = !tr;
    if (isNew) {
      tr = make("tr", {});
      tr.dataset.key = key;
    }
    cellsOf(row).forEach((cell, i) => setCell(tr, i, cell));
    tr.classList.toggle("warn", Boolean(row.warn));
    if (isNew && held) body.append(tr);
    else if (!held && body.rows[at] !== tr) body.insertBefore(tr, body.rows[at] ?? null);
    at++;
  }
  for (const [key, tr] of old) if (!seen.has(key)) tr.remove();
  if (rows.length === 0) {
    const width = table.tHead.rows[0].cells.length;
    const tr = make("tr", {}, make("td", { colspan: width, class: "quiet" }, emptyText));
    tr.dataset.key = "\0";
    body.append(tr);
  }
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function setCell(tr, i, cell) {
  let td = tr.cells[i];
  if (!td) {
    td = make(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : {});
    tr.append(td);
  }
  if (cell instanceof Node) {
    if (td.same !== cell.same || cell.same === undefined) td.replaceChildren(cell);
    td.same = cell.same;
  } else if (typeof cell === "object" && cell !== null) {
    setText(td, cell.text);
    td.className = cell.class ?? "";
    if (cell.title !== undefined && td.title !== cell.title) td.title = cell.title;
  } else {
    setText(td, cell);
  }
}

/** Sets a text if it has changed. */
export function setText(e, text) {
  const wanted = String(text);
  if (e.textContent !== wanted) e.textContent = wanted;
}

/** Draws a chart of numbers from zero to the largest one. */
export function chart(svg, points) {
  const most = Math.max(...points, 1e-9);
  const line = points.map((v, i) => `${(i * 100) / Math.max(points.length - 1, 1)},${24 - (v / most) * 22}`).join(" ");
  svg.firstElementChild.setAttribute("points", line);
}

/** Makes an empty chart. */
export function newChart() {
  const of = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const svg = of("svg");
  for (const [name, value] of [["viewBox", "0 0 100 26"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) {
    svg.setAttribute(name, value);
  }
  svg.append(of("polyline"));
  return svg;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A number, shortened from 100,000. */
export const count = (n) => (n < 100_000 ? whole : short).format(n);

/** A rate per second. */
export const rate = (n) => (n === undefined ? "–" : n > 0 && n < 10 ? n.toFixed(1) : count(n));

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${i > 0 && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

/** A duration in microseconds. */
export function micros(us) {
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${(us / 1000).toPrecision(3)} ms`;
  return `${(us / 1e6).toPrecision(3)} s`;
}

/** How long ago something was, in milliseconds. */
export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The time of day. */
export const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
