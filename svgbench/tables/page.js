"use strict";
const all = (where, what) => [...where.querySelectorAll(what)];
const announce = (text) => { document.getElementById("announced").textContent = text; };

// Sorting: what has no number (a dash, a failure) stays last either way.
for (const table of all(document, "table.sortable")) {
  const heads = all(table, "thead th");
  heads.forEach((head, column) => {
    const button = head.querySelector(".sort");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const way = now ? (now === "ascending" ? "descending" : "ascending") : button.dataset.first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      sort(table, column, way === "ascending" ? 1 : -1);
      announce(`sorted by ${button.innerText.trim()}, ${way}`);
    });
  });
}
function sort(table, column, sign) {
  const body = table.tBodies[0];
  const numeric = [...body.rows].some((row) => row.cells[column].dataset.value !== undefined);
  const key = (row) => (numeric ? Number(row.cells[column].dataset.value ?? NaN) : row.cells[column].textContent);
  const order = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };
  [...body.rows].sort(order).forEach((row) => body.append(row));
}

// Hints: a title becomes a note that the keyboard and a finger reach too; Escape closes it.
const hint = document.getElementById("hint");
for (const place of all(document, "main [title]")) {
  place.dataset.hint = place.title;
  place.removeAttribute("title");
}
function show(place) {
  hint.textContent = place.dataset.hint;
  hint.hidden = false;
  place.setAttribute("aria-describedby", "hint");
  const box = place.getBoundingClientRect();
  const [width, height] = [hint.offsetWidth, hint.offsetHeight];
  const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), innerWidth - width - 8);
  hint.style.left = `${left}px`;
  hint.style.top = `${box.top - height - 8 > 4 ? box.top - height - 8 : box.bottom + 8}px`;
}
function hide() {
  hint.hidden = true;
  all(document, "[aria-describedby=hint]").forEach((place) => place.removeAttribute("aria-describedby"));
}
for (const place of all(document, "[data-hint]")) {
  place.addEventListener("pointerenter", () => show(place));
  place.addEventListener("pointerleave", hide);
  place.addEventListener("focus", () => show(place));
  place.addEventListener("blur", hide);
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", () => {
  const place = document.querySelector("[aria-describedby=hint]");
  if (place && place === document.activeElement) show(place); // the arrows may have scrolled it into view
  else hide();
}, { passive: true, capture: true });

// One stop of the tab key for each table or chart; the arrows go on from there.
for (const group of all(document, "[data-roving]")) {
  const items = () => all(group, "[tabindex][data-hint]");
  if (items()[0]) items()[0].tabIndex = 0;
  group.addEventListener("keydown", (event) => {
    const found = items();
    const at = found.indexOf(event.target);
    const target = at < 0 ? null : event.target.closest("tr") ? across(event, found) : found[at + ({ ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key] ?? NaN)];
    if (!target) return;
    event.preventDefault();
    found.forEach((item) => { item.tabIndex = -1; });
    target.tabIndex = 0;
    target.focus();
  });
}
function across(event, found) {
  const cell = event.target;
  const row = cell.parentElement;
  const next = {
    ArrowRight: () => cell.nextElementSibling, ArrowLeft: () => cell.previousElementSibling,
    ArrowDown: () => row.nextElementSibling?.cells[cell.cellIndex], ArrowUp: () => row.previousElementSibling?.cells[cell.cellIndex],
  }[event.key]?.();
  return found.includes(next) ? next : null;
}

// Curves: a name lifts its line out of the others, while pointed at or for good.
for (const chart of all(document, ".chart")) {
  const keys = all(chart, ".key");
  const light = (shown) => {
    chart.classList.toggle("picked", shown.length > 0);
    all(chart, ".curve").forEach((curve) => curve.classList.toggle("lit", shown.includes(curve.dataset.curve)));
  };
  const kept = () => keys.filter((key) => key.getAttribute("aria-pressed") === "true").map((key) => key.dataset.curve);
  for (const key of keys) {
    key.addEventListener("pointerenter", () => light([...kept(), key.dataset.curve]));
    key.addEventListener("pointerleave", () => light(kept()));
    key.addEventListener("click", () => {
      key.setAttribute("aria-pressed", String(key.getAttribute("aria-pressed") !== "true"));
      light(kept());
    });
  }
}

// Samples: one slider of steps and one choice of guidance for every row.
const ways = document.querySelector(".ways");
if (ways) {
  const steps = JSON.parse(ways.dataset.steps);
  const slider = document.getElementById("steps");
  const draw = () => {
    const step = String(steps[slider.value]);
    const guidance = ways.querySelector("input[name=guidance]:checked").value;
    slider.setAttribute("aria-valuetext", `${step} steps`);
    ways.querySelector("output").textContent = step;
    for (const figure of all(document, ".sheets figure")) {
      const images = all(figure, "img");
      images.forEach((image) => { image.hidden = image.dataset.steps !== step || image.dataset.guidance !== guidance; });
      figure.querySelector(".none").hidden = images.some((image) => !image.hidden);
    }
  };
  ways.addEventListener("input", draw);
  ways.addEventListener("submit", (event) => event.preventDefault());
  draw();
}
