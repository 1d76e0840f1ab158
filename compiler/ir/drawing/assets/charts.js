// The treemap of what ops cost, and the plot of quantization errors.

const METRICS = { weights: ["weights", bytesText], moved: ["bytes read and written", bytesText], flops: ["FLOPs", flopsText] };

function treemap(stage, model, state, act) {
  const chart = make("div", { class: "chart", id: "treemap" });
  const select = make("select", { id: "metric", "aria-label": "What areas stand for" },
    ...Object.entries(METRICS).map(([key, [text]]) => make("option", { value: key }, text)));
  select.value = state.metric;
  select.onchange = () => act.set({ metric: select.value });
  const total = d3.sum(model.ops, (op) => op[state.metric]), text = METRICS[state.metric][1];
  const sizes = sizesText(model);
  chart.append(make("div", { class: "controls" }, make("label", {}, "Area ", select), make("strong", {}, text(total)),
    make("span", { class: "muted" }, `in all, in a step at ${sizes || "fixed sizes"}`)));
  stage.replaceChildren(chart);
  const svg = d3.select(chart).append("svg");
  const { width, height } = svg.node().getBoundingClientRect();
  const root = { name: "", children: new Map() };
  for (const op of model.ops) {
    if (!op[state.metric]) continue;
    let parent = root;
    for (const group of op.path) {
      if (group.includes("..")) continue;
      if (!parent.children.has(group)) parent.children.set(group, { name: group, children: new Map() });
      parent = parent.children.get(group);
    }
    parent.children.set("op " + op.name, { name: op.name, op });
  }
  const hierarchy = d3.hierarchy(root, (node) => (node.children ? [...node.children.values()] : null)).sum((node) => (node.op ? node.op[state.metric] : 0))
    .sort((a, b) => b.value - a.value);
  d3.treemap().size([width, height]).paddingTop((n) => (n.depth === 1 && n.children ? 17 : n.depth ? 2 : 0)).paddingInner(1).paddingRight(2).paddingBottom(2).paddingLeft(2).round(true)(hierarchy);
  const boxes = svg.selectAll(null).data(hierarchy.descendants().filter((n) => n.depth === 1 && n.children)).join("g").attr("class", "box");
  boxes.append("rect").attr("x", (n) => n.x0).attr("y", (n) => n.y0).attr("width", (n) => n.x1 - n.x0).attr("height", (n) => n.y1 - n.y0);
  boxes.append("text").attr("x", (n) => n.x0 + 5).attr("y", (n) => n.y0 + 13)
    .text((n) => fitted([`${n.data.name} · ${text(n.value)}`, n.data.name, n.data.name.split(".").pop()], n.x1 - n.x0 - 8));
  const cells = svg.selectAll(null).data(hierarchy.leaves().filter((n) => n.data.op)).join("g").attr("class", "cell").attr("data-name", (n) => n.data.name)
    .classed("selected", (n) => n.data.name === state.selected).attr("transform", (n) => `translate(${n.x0},${n.y0})`)
    .on("click", (event, n) => act.select(n.data.name)).on("dblclick", (event, n) => { act.set({ tab: "graph" }); act.select(n.data.name, true); });
  const stored = state.colour === "dtype" && state.metric === "weights";
  const fill = ({ data: { op } }) => (stored ? DTYPE_COLOURS[model.storedType(op)] : colourOf(op, state.colour));
  cells.append("rect").attr("width", (n) => n.x1 - n.x0).attr("height", (n) => n.y1 - n.y0).attr("fill", fill);
  cells.append("title").text((n) => `${n.data.name}\n${n.data.op.kind} ${n.data.op.results[0][1]}\n${text(n.value)}, ${percent(n.value / total)}`);
  const local = (n) => (n.parent.data.name && n.data.name.startsWith(n.parent.data.name + ".") ? n.data.name.slice(n.parent.data.name.length + 1) : n.data.name);
  cells.filter((n) => n.y1 - n.y0 > 15).append("text").attr("x", 4).attr("y", 12).text((n) => fitted([n.data.name, local(n)], n.x1 - n.x0 - 6));
  cells.filter((n) => n.y1 - n.y0 > 30).append("text").attr("x", 4).attr("y", 26).style("opacity", 0.75).text((n) => fitted([text(n.value)], n.x1 - n.x0 - 6));
}

/** The first text that fits into a width; an empty one if none does. */
const fitted = (texts, width) => texts.find((text) => measure(text) <= width) || "";

function errorPlot(stage, model, state, act) {
  const chart = make("div", { class: "chart", id: "errors" });
  const entries = DATA.errors.map((entry, i) => {
    const layer = /^(.*\.)?(\d+)\.(.*)$/.exec(entry.op);
    return { ...entry, layer: layer ? Number(layer[2]) : null, part: layer ? layer[3] : entry.op, i };
  });
  const within = entries.filter((entry) => entry.layer !== null);
  const parts = [...new Set(entries.map((entry) => entry.part))];
  const colour = d3.scaleOrdinal(parts, d3.schemeTableau10);
  const mean = d3.mean(entries, (entry) => entry.error);
  chart.append(make("div", { class: "controls" }, make("strong", {}, percent(mean)),
    make("span", { class: "muted" }, "relative error of the outputs of quantized ops, on average; by layer:"),
    ...parts.map((part) => { const key = make("span", { class: "key" }, make("i"), part); key.firstChild.style.background = colour(part); return key; })));
  stage.replaceChildren(chart);
  const svg = d3.select(chart).append("svg");
  const { width, height } = svg.node().getBoundingClientRect();
  const last = d3.max(within, (entry) => entry.layer) ?? 0, beyond = last + 1;
  const x = d3.scaleLinear([-0.5, (within.length < entries.length ? beyond : last) + 0.5], [64, width - 24]);
  const y = d3.scaleLinear([0, d3.max(entries, (entry) => entry.error) * 1.08], [height - 46, 14]);
  const step = Math.max(1, Math.ceil(last / 24));
  const ticks = d3.range(0, last + 1, step);
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${height - 46})`)
    .call(d3.axisBottom(x).tickValues(within.length < entries.length ? [...ticks, beyond] : ticks).tickFormat((n) => (n > last ? "others" : n)));
  svg.append("g").attr("class", "axis").attr("transform", "translate(64,0)").call(d3.axisLeft(y).ticks(6, "%"))
    .call((g) => g.selectAll(".tick line").clone().attr("x2", width - 88).attr("stroke-opacity", 0.6));
  svg.append("text").attr("class", "axis-title").attr("x", width / 2).attr("y", height - 10).attr("text-anchor", "middle").attr("fill", "currentColor").attr("font-size", 12).text("layer");
  const means = d3.rollups(within, (each) => d3.mean(each, (entry) => entry.error), (entry) => entry.layer).sort((a, b) => a[0] - b[0]);
  svg.append("path").attr("class", "mean").attr("d", d3.line()(means.map(([layer, error]) => [x(layer), y(error)])));
  const spread = d3.scaleLinear([0, Math.max(1, parts.length - 1)], [-1, 1]);
  const room = Math.min(14, (x(1) - x(0)) * 0.3);
  svg.selectAll(null).data(entries).join("circle").attr("class", "dot").attr("data-name", (e) => e.op).classed("selected", (e) => e.op === state.selected)
    .attr("cx", (e) => x(e.layer ?? beyond) + room * spread(parts.indexOf(e.part))).attr("cy", (e) => y(e.error)).attr("r", 5.5).attr("fill", (e) => colour(e.part))
    .on("click", (event, e) => act.select(e.op)).append("title").text((e) => `${e.op}\n${percent(e.error)}\n${e.recipe}`);
}
