// What the panel says of the selected value, op or group.

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) name === "onclick" ? (element.onclick = value) : element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

const ERRORS = new Map(DATA.errors.map((entry) => [entry.op, entry]));
const percent = (share) => (100 * share).toFixed(2) + " %";

function valueLink(name, type, act) {
  return make("li", {}, make("a", { class: "value", "data-value": name, onclick: () => act.select(name, true) }, "%" + name), " ",
    make("span", { class: "type" }, type));
}

function section(title, items) {
  return items.length ? [make("h3", {}, title), make("ul", {}, ...items)] : [];
}

function facts(rows) {
  return make("dl", {}, ...rows.filter(([, text]) => text !== "" && text !== null && text !== undefined)
    .flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

/** Fill the panel; `marks` are those of the graph shown, `before` is the graph before it. */
function fillPanel(panel, model, marks, before, state, act) {
  const op = model.byName.get(state.selected) || model.values.get(state.selected)?.op;
  const group = (state.selected || "").startsWith("group:") ? state.selected.slice(6) : null;
  let parts;
  if (op) parts = opParts(op, model, marks, before, act);
  else if (group && model.groups.has(group)) parts = groupParts(group, model, act);
  else parts = graphParts(model, state, act);
  panel.replaceChildren(...parts);
  panel.scrollTop = 0;
}

function opParts(op, model, marks, before, act) {
  const users = op.results.flatMap(([name]) => model.values.get(name).users);
  const roles = op.results.flatMap(([name]) => model.values.get(name).roles);
  const mark = marks.get(op.name), error = ERRORS.get(op.name);
  const typed = (name) => valueLink(name, model.values.get(name).type, act);
  const was = mark && before && before.byName.get(mark.was);
  return [
    make("h2", {}, op.role ? "output " + op.role : "%" + op.name),
    make("p", {}, make("code", {}, op.kind), mark ? make("span", { class: "marked " + mark.mark }, "  " + SIGNS[mark.mark] + " " + mark.mark + (mark.what ? ": " + mark.what : "")) : null),
    DATA.kinds[op.kind] ? make("p", { class: "muted" }, DATA.kinds[op.kind]) : null,
    ...section(op.results.length > 1 ? "Results" : "Result", op.results.map(([name]) => typed(name))),
    ...section("Operands", op.operands.map(typed)),
    ...section(`Users (${users.length})`, [...new Set(users)].map((user) => valueLink(user.name, user.kind, act))),
    ...section("Output", roles.map((role) => make("li", {}, role))),
    make("h3", {}, "Provenance"),
    facts([["module", op.module || "none"], ["passes", (op.passes || []).join(", ") || "none: as lifted"], ["was", mark?.mark === "renamed" ? "%" + mark.was : ""]]),
    ...attributes(op.attrs || {}, "Attributes"),
    ...(was && !mark.weights && mark.mark === "changed" ? [make("h3", {}, "Before"), make("p", {}, make("code", {}, lineOf(was)))] : []),
    ...work(op),
    ...(error ? [make("h3", {}, "Quantization"), facts([["error", percent(error.error)], ["recipe", error.recipe]])] : []),
  ].filter(Boolean);
}

function attributes(attrs, title) {
  const rows = Object.entries(attrs);
  return rows.length ? [make("h3", {}, title), facts(rows.map(([name, text]) => [name, make("code", {}, text)]))] : [];
}

function work(op) {
  if (!op.moved) return [];
  return [make("h3", {}, "A step"), facts([["weights", op.weights ? bytesText(op.weights) : ""], ["moved", bytesText(op.moved)],
    ["computed", op.flops ? flopsText(op.flops) : ""]])];
}

function lineOf(op) {
  const attrs = Object.entries(op.attrs || {}).map(([name, text]) => `${name}=${text}`);
  const results = op.results.map(([name, type]) => `%${name}: ${type}`).join(", ");
  return `${results} = ${op.kind}(${[...op.operands.map((name) => "%" + name), ...attrs].join(", ")})`;
}

function groupParts(group, model, act) {
  const ops = model.groups.get(group);
  const sum = (key) => ops.reduce((total, op) => total + (op[key] || 0), 0);
  const kinds = d3.rollups(ops, (each) => each.length, (op) => op.kind).sort((a, b) => b[1] - a[1]);
  const modules = [...new Set(ops.map((op) => op.module).filter(Boolean))];
  return [
    make("h2", {}, group),
    model.alike[group] ? make("p", {}, "The same ops, types and attributes as ", make("a", { class: "value", onclick: () => act.select("group:" + model.alike[group], true) }, model.alike[group]), ", with other weights.") : null,
    facts([["ops", String(ops.length)], ["weights", bytesText(sum("weights"))], ["moved", bytesText(sum("moved"))], ["computed", flopsText(sum("flops"))]]),
    ...section("Kinds of op", kinds.map(([kind, count]) => make("li", {}, `${count} × `, make("code", {}, kind)))),
    ...section("Modules", modules.slice(0, 20).map((module) => make("li", {}, module))),
  ].filter(Boolean);
}

const sizesText = (model) => Object.entries(model.entry.sizes).map(([name, size]) => `${name} ${size}`).join(", ");

function graphParts(model, state, act) {
  const { entry } = model;
  const sizes = sizesText(model);
  const states = model.inputs.filter((input) => input.cache).length;
  return [
    make("h2", {}, entry.name),
    facts([["ops", `${model.ops.length}, ${model.ops.filter((op) => op.constant).length} of them on weights`], ["caches", String(states)], ["usual sizes", sizes]]),
    ...attributes(entry.facts, "Facts"),
    ...section("Inputs", model.inputs.filter((input) => !input.cache).map((input) => valueLink(input.name, input.results[0][1], act))),
    ...section("Outputs", model.outputs.filter((output) => !output.cache).map((output) => valueLink(output.operands[0], output.role, act))),
    make("p", { class: "muted" }, "Click a box to see what it is. + or a double click opens a group; − closes it."),
  ];
}
