"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // ---- light and dark -------------------------------------------------------------------------------------------------
  const theme = byId("theme"), root = document.documentElement;
  const stored = (value) => { // a page from a file may have no storage
    try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
  };
  const paint = (name) => {
    root.dataset.theme = name;
    theme.setAttribute("aria-pressed", String(name === "dark"));
  };
  paint(stored() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  theme.addEventListener("click", () => {
    paint(root.dataset.theme === "dark" ? "light" : "dark");
    stored(root.dataset.theme);
  });

  // ---- the ledger -----------------------------------------------------------------------------------------------------
  const table = byId("all-claims");
  if (table) {
    const bodies = [...table.tBodies], shown = byId("shown-claims");
    const chosen = { verdict: byId("by-verdict"), group: byId("by-group"), text: byId("by-text") };
    const text = new Map(bodies.map((body) => [body, body.textContent.toLowerCase()]));
    const filter = () => {
      const sought = chosen.text.value.trim().toLowerCase();
      for (const body of bodies) {
        body.hidden = !((!chosen.verdict.value || body.dataset.verdict === chosen.verdict.value)
          && (!chosen.group.value || body.dataset.group === chosen.group.value) && text.get(body).includes(sought));
      }
      shown.value = `${bodies.filter((body) => !body.hidden).length} of ${bodies.length} claims`;
    };
    byId("choose-claims").addEventListener("input", filter);
    byId("choose-claims").addEventListener("submit", (event) => event.preventDefault());
    const value = { // what a column is sorted by; what has no number stands last
      name: (body) => body.dataset.name.toLowerCase(),
      group: (body) => body.dataset.group.toLowerCase(),
      verdict: (body) => Number(body.dataset.rank),
      number: (body) => (body.dataset.number === "" ? null : Number(body.dataset.number)),
    };
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => {
        const head = button.parentElement, of = value[button.dataset.key];
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.querySelectorAll("thead [aria-sort]")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const sorted = [...bodies].sort((one, two) => {
          const a = of(one), b = of(two);
          if (a === null || b === null) return (a === null) - (b === null);
          return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
        });
        table.append(...sorted);
      });
    }
  }

  // ---- the gallery ----------------------------------------------------------------------------------------------------
  const given = byId("maps");
  if (given) {
    const { images, maps, fields } = JSON.parse(given.textContent);
    const selects = Object.fromEntries(fields.map((field) => [field, byId(`choose-${field}`)]));
    const show = () => { // each choice leaves those that follow it the values that there are
      let left = maps;
      for (const field of fields) {
        const select = selects[field], before = select.value;
        const values = [...new Set(left.map((map) => map[field]))];
        select.replaceChildren(...values.map((value) => new Option(value, value)));
        select.value = values.includes(before) ? before : values[0];
        left = left.filter((map) => map[field] === select.value);
      }
      const map = left[0], image = byId("shown-image"), picture = byId("shown-map");
      image.src = images[map.image];
      image.alt = `The image ${map.image}`;
      byId("image-text").textContent = map.image;
      picture.src = map.source;
      picture.alt = map.text;
      byId("map-text").textContent = map.text;
    };
    byId("choose-map").addEventListener("input", show);
    byId("choose-map").addEventListener("submit", (event) => event.preventDefault());
    for (const shown of [byId("shown-image"), byId("shown-map")]) {
      shown.addEventListener("load", () => shown.classList.toggle("small", shown.naturalWidth < 100));
    }
    show();
  }

  // ---- on paper nothing is folded -------------------------------------------------------------------------------------
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
})();
