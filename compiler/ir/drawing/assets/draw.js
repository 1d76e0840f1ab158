// Layout by dagre, one open group at a time, from the inside out; SVG by d3.

const DTYPE_COLOURS = DATA.dtypeColours;
const RANK_COLOURS = ["#f1f3f6", "#e0e9f8", "#c8dbf6", "#aac9f3", "#8ab4ee", "#6f9fe7", "#5c8bdb"];
const KIND_COLOURS = { products: "#ff9f8a", norms: "#ffe38f", elements: "#a6dfb3", shapes: "#d4d7dc", caches: "#9fcbff",
  ranks: "#f7b7c8", types: "#d7c8f7", constants: "#ffc98f" };
const KINDS = { products: "linear matmul attention paged_attention embedding", norms: "layer_norm rms_norm softmax amax",
  shapes: "reshape transpose slice split concat broadcast gather_rows", caches: "kv_update paged_kv_update",
  ranks: "all_gather all_max all_reduce transfer shard", types: "cast quantize dequantize unpack", constants: "const random literal iota" };
const KIND_OF = new Map(Object.entries(KINDS).flatMap(([family, kinds]) => kinds.split(" ").map((kind) => [kind, family])));

const COLOURS = {
  dtype: { of: (op) => dtypeOf(op.results[0][1]), colours: DTYPE_COLOURS },
  rank: { of: (op) => Math.min(rankOf(op.results[0][1]), 6), colours: RANK_COLOURS, text: (rank) => "rank " + rank },
  kind: { of: (op) => KIND_OF.get(op.kind) || "elements", colours: KIND_COLOURS },
};
const colourOf = (op, scheme) => COLOURS[scheme].colours[COLOURS[scheme].of(op)] || "#d4d7dc";

const SIGNS = DATA.markSigns;
const measure = (() => {
  const context = document.createElement("canvas").getContext("2d");
  const known = new Map();
  return (text, bold) => {
    const key = (bold ? "b" : "n") + text;
    if (!known.has(key)) {
      context.font = (bold ? "600 12px " : "11px ") + getComputedStyle(document.body).fontFamily;
      known.set(key, context.measureText(text).width);
    }
    return known.get(key);
  };
})();

function describe(node, model) {
  if (node.op) return node.op.kind + " " + node.op.results.map(([, type]) => type).join(", ");
  const ops = node.members.filter((op) => op.place !== undefined);
  const weights = ops.reduce((sum, op) => sum + op.weights, 0);
  const like = model.alike[node.group] ? "like " + model.alike[node.group] + ", " : "";
  const count = model.groups.get(node.group).length;
  return `${like}${count} ${node.group === "caches" ? "inputs" : "ops"}${weights ? ", " + bytesText(weights) : ""}`;
}

const shortened = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

/** [mark, text] for each sign that a node carries: of an op its own, of a group how many ops have each. */
function badgesOf(node, marks) {
  if (node.op) return marks.has(node.op.name) ? [[marks.get(node.op.name).mark, SIGNS[marks.get(node.op.name).mark]]] : [];
  const counts = d3.rollup(node.members.filter((op) => marks.has(op.name)), (ops) => ops.length, (op) => marks.get(op.name).mark);
  return [...counts].map(([mark, count]) => [mark, SIGNS[mark] + count]);
}

/** Give every node of an open group a place relative to the group, and the group its size. */
function layoutGroup(group, model, ports, marks) {
  const graph = new dagre.graphlib.Graph().setGraph({ rankdir: "TB", nodesep: 22, ranksep: 30, edgesep: 12, marginx: 0, marginy: 0 })
    .setDefaultEdgeLabel(() => ({}));
  if (group.children.length > 250) graph.graph().ranker = "longest-path";
  for (const child of group.children) {
    if (child.children && !child.closed) layoutGroup(child, model, ports, marks);
    else {
      child.sub = shortened(describe(child, model), 46);
      child.title = shortened(child.label, 40);
      child.far = child.stubs ? "↳ from " + child.stubs.map((edge) => edge.from.label).join(", ") : "";
      child.badges = badgesOf(child, marks);
      const signs = d3.sum(child.badges, ([, text]) => measure(text, true) + 8);
      child.width = Math.max(96, measure(child.title, true) + 22 + signs + (child.group ? 16 : 0), measure(child.sub) + 22, measure(child.far) + 22);
      child.height = child.far ? 57 : 42;
    }
    graph.setNode(child.id, { width: child.width, height: child.height });
  }
  const own = ports.get(group) || { in: new Map(), out: new Map(), edges: new Map() };
  for (const [side, edge] of [["in", (port) => ["top", port]], ["out", (port) => [port, "bottom"]]]) {
    if (!own[side].size) continue;
    graph.setNode(side === "in" ? "top" : "bottom", { width: 0, height: 0 });
    for (const port of own[side].values()) {
      graph.setNode(port, { width: 1, height: 1 });
      graph.setEdge(...edge(port), { weight: 20, minlen: 1 });
    }
  }
  for (const [key, [a, b]] of own.edges) graph.setEdge(a, b, { key, weight: 1 });
  dagre.layout(graph);
  // Ways in and out end at the group's border; the ranks that hold their ports take no room.
  const title = group.parent ? 44 : 0, pad = group.parent ? 16 : 0;
  const places = group.children.map((child) => [child, graph.node(child.id)]);
  const ways = graph.edges().map((edge) => graph.edge(edge)).filter(({ key }) => key);
  const extent = [...places.flatMap(([child, at]) => [at.x - child.width / 2, at.x + child.width / 2]), ...ways.flatMap(({ points }) => points.map((p) => p.x))];
  const left = d3.min(extent) ?? 0, right = d3.max(extent) ?? 0;
  const top = d3.min(places, ([child, at]) => at.y - child.height / 2) ?? 0;
  const bottom = d3.max(places, ([child, at]) => at.y + child.height / 2) ?? 0;
  for (const [child, at] of places) {
    child.x = at.x - child.width / 2 - left + pad;
    child.y = at.y - child.height / 2 - top + title;
  }
  group.width = Math.max(right - left + 2 * pad, group.parent ? measure(group.label, true) + 60 : 0);
  group.height = bottom - top + title + pad;
  const inside = (p) => ({ x: p.x - left + pad, y: Math.min(Math.max(p.y - top + title, group.parent ? 26 : 0), group.height) });
  group.routes = new Map(ways.map(({ key, points }) => [key, points.map(inside)]));
}

/** Which parts each edge is made of: inside the groups around its source, between siblings, inside those around its target. */
function planEdges(tree) {
  const ports = new Map();
  const of = (group) => ports.get(group) || ports.set(group, { in: new Map(), out: new Map(), edges: new Map() }).get(group);
  const add = (group, a, b) => { const key = a + "\n" + b; of(group).edges.set(key, [a, b]); return [group, key]; };
  for (const edge of tree.edges) {
    if (edge.stub) {
      (edge.to.stubs ||= []).push(edge);
      continue;
    }
    const source = chain(edge.from), target = chain(edge.to);
    let depth = 0;
    while (source[depth + 1] === target[depth + 1]) depth++;
    edge.parts = [];
    for (let i = source.length - 2; i > depth; i--) {
      const port = "out:" + edge.from.id;
      of(source[i]).out.set(edge.from.id, port);
      edge.parts.push(add(source[i], source[i + 1].id, port));
    }
    edge.parts.push(add(source[depth], source[depth + 1].id, target[depth + 1].id));
    for (let i = depth + 1; i < target.length - 1; i++) {
      const port = "in:" + edge.from.id;
      of(target[i]).in.set(edge.from.id, port);
      edge.parts.push(add(target[i], port, target[i + 1].id));
    }
    edge.level = edge.parts.findIndex(([group]) => group === source[depth]);
  }
  return ports;
}

function settlePlaces(group, x, y) {
  group.ax = x;
  group.ay = y;
  for (const child of group.children || []) {
    child.ax = x + child.x;
    child.ay = y + child.y;
    if (child.children && !child.closed) settlePlaces(child, child.ax, child.ay);
  }
}

const within = (point, node) => ({ x: Math.min(Math.max(point.x, node.ax + 12), node.ax + node.width - 12) });

/** Lay a tree out: sets `ax`, `ay`, `width`, `height` of every node, and `points` of every edge. */
function layoutTree(tree, model, marks) {
  const ports = planEdges(tree);
  layoutGroup(tree.root, model, ports, marks);
  settlePlaces(tree.root, 0, 0);
  for (const edge of tree.edges) {
    if (edge.stub) continue;
    const points = [];
    edge.parts.forEach(([group, key], i) => {
      const part = group.routes.get(key).map((p) => ({ x: p.x + group.ax, y: p.y + group.ay }));
      // At the border of an open group a way ends at the group's port, not in the middle.
      if (i > 0 && i <= edge.level) part.shift();
      if (i < edge.parts.length - 1 && i >= edge.level) part.pop();
      points.push(...part);
    });
    // Arrows leave below and come in above, wherever dagre cut the border.
    Object.assign(points[0], within(points[0], edge.from), { y: edge.from.ay + edge.from.height });
    Object.assign(points[points.length - 1], within(points[points.length - 1], edge.to), { y: edge.to.ay });
    edge.points = points.filter((p, i) => !i || Math.abs(p.y - points[i - 1].y) > 0.5 || Math.abs(p.x - points[i - 1].x) > 0.5);
  }
}

const line = d3.line().x((p) => p.x).y((p) => p.y).curve(d3.curveMonotoneY);

/** Draw a tree that has its layout into the `g` of a pane. */
function drawTree(g, tree, model, state, act) {
  g.selectAll("*").remove();
  const nodes = [], clusters = [];
  (function gather(group) {
    for (const child of group.children) {
      if (child.children && !child.closed) clusters.push(child), gather(child);
      else nodes.push(child);
    }
  })(tree.root);
  const cluster = g.selectAll(null).data(clusters).join("g").attr("class", "cluster").attr("data-group", (n) => n.group)
    .classed("selected", (n) => state.selected === "group:" + n.group);
  cluster.append("rect").attr("x", (n) => n.ax).attr("y", (n) => n.ay).attr("width", (n) => n.width).attr("height", (n) => n.height)
    .attr("rx", 9).on("click", (event, n) => act.select("group:" + n.group)).on("dblclick", (event, n) => act.toggle(n, event));
  cluster.append("text").attr("x", (n) => n.ax + 10).attr("y", (n) => n.ay + 17)
    .text((n) => "− " + n.label + (model.alike[n.group] ? ", like " + model.alike[n.group] : "")).on("click", (event, n) => act.toggle(n, event));
  const drawn = tree.edges.filter((edge) => !edge.stub);
  g.selectAll(null).data(drawn).join("path").attr("class", "edge").attr("d", (e) => line(e.points))
    .append("title").text((e) => [...e.values].join("\n"));
  g.selectAll(null).data(drawn).join("path").attr("class", "arrow").attr("d", ({ points }) => {
    const { x, y } = points[points.length - 1];
    return `M${x - 4},${y - 7}L${x + 4},${y - 7}L${x},${y}Z`;
  });
  const node = g.selectAll(null).data(nodes).join("g").attr("data-name", (n) => n.id)
    .attr("class", (n) => ["node", n.group ? "group" : "", n.op && !n.op.path.length && n.op.place === undefined ? "end" : "",
      (n.group || "").includes("..") ? "run" : ""].join(" "))
    .attr("transform", (n) => `translate(${n.ax},${n.ay})`).attr("tabindex", 0).attr("role", "button")
    .attr("aria-label", (n) => n.label + ", " + n.sub)
    .on("click", (event, n) => (n.group && event.target.closest(".opener") ? act.toggle(n, event) : act.select(n.id)))
    .on("dblclick", (event, n) => n.group && act.toggle(n, event))
    .on("keydown", (event, n) => { if (event.key === "Enter") { event.stopPropagation(); act.selectOrToggle(n, event); } });
  node.filter(".run").selectAll(null).data((n) => [[n, 8], [n, 4]]).join("rect").attr("class", "back")
    .attr("x", ([, by]) => by).attr("y", ([, by]) => by).attr("width", ([n]) => n.width).attr("height", ([n]) => n.height).attr("rx", 7);
  node.append("rect").attr("class", "body").attr("width", (n) => n.width).attr("height", (n) => n.height)
    .attr("rx", (n) => (n.op && n.op.place === undefined ? 21 : 7)).attr("fill", (n) => (n.op ? colourOf(n.op, state.colour) : null));
  node.append("title").text((n) => (n.op ? n.op.name : n.group + ": double-click opens it"));
  node.append("text").attr("class", "name").attr("x", (n) => (n.group ? 24 : 11)).attr("y", 18).text((n) => n.title);
  node.append("text").attr("class", "sub").attr("x", 11).attr("y", 34).text((n) => n.sub);
  const opener = node.filter((n) => n.group).append("g").attr("class", "opener");
  opener.append("rect").attr("width", 24).attr("height", 24).attr("fill", "transparent");
  opener.append("text").attr("class", "toggle").attr("x", 10).attr("y", 18).text("+");
  node.filter((n) => n.far).append("text").attr("class", "sub far").attr("x", 11).attr("y", 49).text((n) => n.far)
    .on("click", (event, n) => { event.stopPropagation(); act.select(n.stubs[0].from.id, true); });
  drawMarks(node, state);
}

function drawMarks(node, state) {
  node.filter((n) => n.op && n.badges.length).append("rect").attr("class", (n) => "mark " + n.badges[0][0]).attr("x", -3).attr("y", -3)
    .attr("width", (n) => n.width + 6).attr("height", (n) => n.height + 6).attr("rx", 9);
  node.each(function (n) {
    let x = n.width - 7;
    for (const [mark, text] of n.badges) {
      d3.select(this).append("text").attr("class", "badge " + mark).attr("x", x).attr("y", 16).attr("text-anchor", "end").text(text);
      x -= 8 + measure(text, true);
    }
  });
  node.filter((n) => n.op && n.badges.length).each(function (n) { this.classList.add(n.badges[0][0]); });
  if (state.changes) node.classed("dim", (n) => !n.badges.length);
}
