// State of the page, what changes it, and the keyboard.

const byId = (id) => document.getElementById(id);
const state = { index: DATA.compare ? 1 : 0, compare: DATA.compare, open: new Set(), selected: null, colour: "dtype", weights: false, caches: false,
  changes: false, tab: "graph", metric: "weights" };
const TABS = { graph: "Graph", treemap: "Treemap", ...(DATA.errors.length ? { errors: "Quantization error" } : {}) };
let panes = [];

class Pane {
  constructor(stage, model, marks, heading) {
    this.model = model;
    this.marks = marks;
    const element = make("div", { class: "pane", "data-graph": model.entry.label });
    stage.append(element);
    this.svg = d3.select(element).append("svg").attr("role", "group").attr("aria-label", heading);
    this.g = this.svg.append("g");
    this.zoom = d3.zoom().scaleExtent([0.02, 3]).on("zoom", (event) => {
      this.g.attr("transform", event.transform);
      // What the mouse does to one graph happens to the one beside it.
      if (event.sourceEvent) for (const pane of panes) if (pane !== this) pane.svg.call(pane.zoom.transform, event.transform);
    });
    this.svg.call(this.zoom).on("dblclick.zoom", null).on("click", (event) => event.target === this.svg.node() && act.select(null));
    if (heading) element.append(make("h2", {}, heading));
  }

  draw() {
    this.tree = this.model.tree(state.open, state);
    layoutTree(this.tree, this.model, this.marks);
    drawTree(this.g, this.tree, this.model, state, act);
    this.highlight();
  }

  node(id) {
    const op = this.model.byName.get(id) || this.model.values.get(id)?.op;
    if (op && this.tree.where.has(op)) return this.tree.where.get(op);
    let found = null;
    (function find(group) { for (const child of group.children || []) { if (child.id === id) found = child; if (!child.closed && child.children) find(child); } })(this.tree.root);
    return found;
  }

  highlight() {
    const node = state.selected && this.node(state.selected);
    const near = new Set(), g = this.g;
    g.selectAll(".edge").classed("near", (e) => {
      const touches = node && (e.from === node || e.to === node);
      if (touches) near.add(e.from).add(e.to);
      return touches;
    }).filter(".near").raise();
    g.selectAll(".node").raise().classed("selected", (n) => n === node).classed("near", (n) => n !== node && near.has(n));
    g.selectAll(".cluster").classed("selected", (n) => n === node);
  }

  fit() {
    const { width, height } = this.svg.node().getBoundingClientRect(), { root } = this.tree;
    const scale = Math.min(1, (width - 40) / root.width, Math.max((height - 60) / root.height, 0.35));
    this.svg.call(this.zoom.transform, d3.zoomIdentity.translate((width - root.width * scale) / 2, Math.max(36, (height - root.height * scale) / 2)).scale(scale));
  }

  centre(id) {
    const node = this.node(id);
    if (!node) return;
    const { width, height } = this.svg.node().getBoundingClientRect();
    const scale = Math.max(d3.zoomTransform(this.svg.node()).k, 0.7);
    this.svg.call(this.zoom.transform, d3.zoomIdentity.translate(width / 2 - (node.ax + node.width / 2) * scale, height / 2 - (node.ay + Math.min(node.height, 300) / 2) * scale).scale(scale));
  }

  /** Draw anew so that what is at `id` stays where it is on the screen. */
  redrawAround(id) {
    const before = this.node(id), at = d3.zoomTransform(this.svg.node());
    const place = before && at.apply([before.ax, before.ay]);
    this.draw();
    const after = this.node(id);
    if (place && after) this.svg.call(this.zoom.transform, d3.zoomIdentity.translate(place[0] - after.ax * at.k, place[1] - after.ay * at.k).scale(at.k));
  }
}

const act = {
  select(id, reveal = false) {
    state.selected = id;
    if (reveal && id) act.reveal(id);
    else panes.forEach((pane) => pane.highlight());
    if (state.tab !== "graph") render();
    else panel();
  },
  reveal(id) {
    const model = MODELS[state.index], op = model.byName.get(id) || model.values.get(id)?.op;
    const group = id.startsWith("group:") ? id.slice(6) : null;
    const inside = op || (group && (model.groups.get(group) || [])[0]);
    if (!inside) return;
    for (const each of inside.path || []) {
      if (each === group) break;
      state.open.add(each);
    }
    if (op?.constant) state.weights = true;
    if (op?.cache) state.caches = true;
    state.tab = "graph";
    render();
    panes.forEach((pane) => pane.centre(id));
  },
  toggle(node, event) {
    event?.stopPropagation();
    const { group } = node;
    state.open.has(group) ? state.open.delete(group) : state.open.add(group);
    panes.forEach((pane) => pane.redrawAround("group:" + group));
  },
  selectOrToggle(node) {
    if (node.group && state.selected === node.id) act.toggle(node);
    else act.select(node.id);
  },
  set(changes) {
    const refit = ["compare", "tab"].some((key) => key in changes && changes[key] !== state[key]);
    Object.assign(state, changes);
    render(refit);
  },
};

function marksOf(index, side) {
  const diff = side ? DATA.diffs[index - 1] : DATA.diffs[index];
  return MODELS[index].marks(diff, side);
}

function panel() {
  const model = MODELS[state.index], before = MODELS[state.index - 1];
  const here = model.byName.has(state.selected) || model.values.has(state.selected) || !state.compare || !before?.byName.has(state.selected);
  if (here) fillPanel(byId("panel"), model, marksOf(state.index, 1), before, state, act);
  else fillPanel(byId("panel"), before, marksOf(state.index - 1, 0), null, state, act);
}

function render(refit = false) {
  const stage = byId("stage"), beside = state.compare && state.index > 0;
  const kept = panes.map((pane) => d3.zoomTransform(pane.svg.node()));
  panes = [];
  controls(); // first: they take room
  panel();
  if (state.tab === "treemap") treemap(stage, MODELS[state.index], state, act);
  else if (state.tab === "errors") errorPlot(stage, MODELS[state.index], state, act);
  else {
    stage.replaceChildren();
    const label = (i) => MODELS[i].entry.label;
    if (beside) panes.push(new Pane(stage, MODELS[state.index - 1], marksOf(state.index - 1, 0), label(state.index - 1)));
    panes.push(new Pane(stage, MODELS[state.index], marksOf(state.index, 1), MODELS.length > 1 ? label(state.index) : ""));
    panes.forEach((pane, i) => {
      pane.draw();
      if (kept.length === panes.length && !refit) pane.svg.call(pane.zoom.transform, kept[i]);
      else pane.fit();
    });
  }
}

function controls() {
  byId("tabs").replaceChildren(...Object.entries(TABS).map(([tab, text]) =>
    make("button", { role: "tab", id: "tab-" + tab, "aria-selected": state.tab === tab, onclick: () => act.set({ tab }) }, text)));
  for (const id of ["weights", "caches", "compare", "changes"]) byId(id).checked = state[id];
  byId("colour").value = state.colour;
  byId("slider-row").hidden = MODELS.length < 2;
  byId("compare-label").hidden = byId("changes-label").hidden = state.index === 0;
  byId("slider").max = MODELS.length - 1;
  byId("slider").value = state.index;
  byId("slider-label").textContent = MODELS[state.index].entry.label;
  const diff = DATA.diffs[state.index - 1];
  byId("summary").textContent = diff ? summary(diff) : `the first of ${MODELS.length}`;
  legend();
}

function summary(diff) {
  const counts = Object.keys(SIGNS).filter((mark) => diff[mark].length).map((mark) => `${diff[mark].length} ${mark}`);
  const head = diff.head.length ? [`${diff.head.length} changes of inputs, outputs, dims or facts`] : [];
  return [...counts, ...head].join(", ") || "nothing changed";
}

function legend() {
  const scheme = COLOURS[state.colour], model = MODELS[state.index], keys = [];
  const shown = model.ops.filter((op) => state.weights || !op.constant);
  const stored = state.tab === "treemap" && state.colour === "dtype" && state.metric === "weights";
  const used = new Set(stored ? shown.filter((op) => op.weights).map((op) => model.storedType(op)) : shown.map(scheme.of));
  const order = Array.isArray(scheme.colours) ? scheme.colours.map((_, i) => i) : Object.keys(scheme.colours);
  for (const key of order.filter((each) => used.has(each))) {
    const item = make("span", { class: "key" }, make("i"), scheme.text ? scheme.text(key) : key);
    item.firstChild.style.background = scheme.colours[key];
    keys.push(item);
  }
  if (state.index > 0) for (const [mark, sign] of Object.entries(SIGNS)) keys.push(make("span", { class: "key outline " + mark }, make("i"), sign + " " + mark));
  const help = make("span", { class: "keys" });
  help.innerHTML = "<kbd>/</kbd> search · <kbd>↑</kbd><kbd>↓</kbd> through values · <kbd>Enter</kbd> open · " + (MODELS.length > 1 ? "<kbd>←</kbd><kbd>→</kbd> graphs · " : "") + "<kbd>f</kbd> fit · <kbd>Esc</kbd> back";
  byId("legend").replaceChildren(...keys, help);
}

// Search

let found = [], current = 0;

function search(text) {
  const wanted = text.trim().toLowerCase().replace(/^%/, ""), model = MODELS[state.index];
  const score = ({ name, op }) => { const lower = name.toLowerCase(); return lower === wanted ? 0 : lower.endsWith("." + wanted) ? 1 : lower.includes(wanted) ? 2 : op.kind === wanted ? 3 : op.kind.includes(wanted) ? 4 : 9; };
  found = !wanted ? [] : d3.sort([...model.values.values()].filter((value) => score(value) < 9), score);
  current = 0;
  listResults();
}

function listResults() {
  const box = byId("results");
  box.hidden = !byId("search").value.trim();
  const shown = found.slice(0, 100).map((value, i) => make("a", { class: i === current ? "current" : "", "data-result": value.name, onclick: () => choose(i) },
    make("span", {}, "%" + value.name), make("code", {}, value.op.kind), make("span", { class: "type" }, value.type)));
  const rest = found.length > 100 ? [make("p", { class: "muted" }, `${found.length - 100} more: type on`)] : [];
  box.replaceChildren(...(shown.length ? [...shown, ...rest] : [make("p", { class: "muted" }, "No value and no kind of op has this in its name.")]));
  box.querySelector(".current")?.scrollIntoView({ block: "nearest" });
}

function choose(i) {
  if (!found[i]) return;
  closeSearch();
  act.select(found[i].name, true);
}

function closeSearch() {
  byId("results").hidden = true;
  byId("search").blur();
}

byId("search").addEventListener("input", (event) => search(event.target.value));
byId("search").addEventListener("focus", () => byId("search").value && listResults());
byId("search").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && found.length) current = Math.min(Math.max(current + step, 0), Math.min(found.length, 100) - 1), listResults(), event.preventDefault();
  if (event.key === "Enter") choose(current);
  event.stopPropagation();
  if (event.key === "Escape") byId("search").value = "", closeSearch();
});
byId("stage").addEventListener("pointerdown", () => (byId("results").hidden = true));

// Controls and keys

byId("slider").addEventListener("input", (event) => act.set({ index: Number(event.target.value) }));
byId("colour").addEventListener("change", (event) => act.set({ colour: event.target.value }));
for (const id of ["weights", "caches", "compare", "changes"]) byId(id).addEventListener("change", (event) => act.set({ [id]: event.target.checked }));
byId("fit").onclick = () => panes.forEach((pane) => pane.fit());
byId("close-all").onclick = () => { state.open.clear(); render(true); };

function step(by) {
  const { where } = panes[panes.length - 1].tree;
  const nodes = [...new Set(where.values())];
  const at = nodes.findIndex((node) => node.id === state.selected || node.op?.results.some(([name]) => name === state.selected));
  const next = nodes[Math.min(Math.max(at + by, 0), nodes.length - 1)];
  act.select(next.id);
  panes.forEach((pane) => pane.centre(next.id));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], walk = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.key === "/") byId("search").focus(), byId("search").select();
  else if (event.key === "Escape") closeSearch(), act.select(null);
  else if (move && MODELS.length > 1) act.set({ index: Math.min(Math.max(state.index + move, 0), MODELS.length - 1) });
  else if (walk && panes.length) step(walk);
  else if (event.key === "f") panes.forEach((pane) => pane.fit());
  else if (event.key === "c") byId("close-all").click();
  else if (event.key === "Enter" && state.selected?.startsWith("group:") && panes.length) act.toggle({ group: state.selected.slice(6) });
  else return;
  event.preventDefault();
});

for (const model of MODELS)
  for (const [group, ops] of model.groups)
    if (DATA.open.includes(group) || DATA.open.includes("all")) for (const outer of ops[0].path.slice(0, ops[0].path.indexOf(group) + 1)) state.open.add(outer);
window.addEventListener("resize", () => state.tab !== "graph" && render());
render(true);
document.documentElement.dataset.ready = "true";
