"use strict";
// The graphs of the page, and what of them is visible while some groups are open.

const DATA = JSON.parse(document.getElementById("data").textContent);
const STUB_FROM = 9; // so many arrows from one node would hide the rest: its users name it instead

class Model {
  constructor(entry, number) {
    this.entry = entry;
    this.number = number;
    this.alike = entry.alike;
    const constant = new Set(entry.constant);
    this.ops = entry.ops.map((row, i) => {
      const [name, kind, operands, results, attrs, module, passes] = DATA.ops[row];
      const work = entry.work[i] || [0, 0, 0];
      return { name, kind, operands, results, attrs, module, passes, path: DATA.paths[entry.groups[i]],
        constant: constant.has(i), weights: work[0], moved: work[1], flops: work[2], place: i };
    });
    this.inputs = entry.inputs.map(([name, type]) => ({ name, kind: "input", operands: [], results: [[name, type]] }));
    const inputs = new Set(this.inputs.map((input) => input.name));
    this.values = new Map();
    for (const op of [...this.inputs, ...this.ops])
      for (const [name, type] of op.results) this.values.set(name, { name, type, op, users: [], roles: [] });
    this.outputs = entry.outputs.map(([role, name]) => ({ name: "output:" + role, kind: "output", role, operands: [name],
      results: [[name, this.values.get(name).type]], path: [], cache: inputs.has(role) }));
    const states = new Set(this.outputs.filter((output) => output.cache).map((output) => output.role));
    for (const input of this.inputs) {
      input.cache = states.has(input.name);
      input.path = input.cache ? ["caches"] : [];
    }
    for (const op of this.ops) for (const name of new Set(op.operands)) this.values.get(name).users.push(op);
    for (const output of this.outputs) this.values.get(output.operands[0]).roles.push(output.role);
    this.byName = new Map([...this.inputs, ...this.ops, ...this.outputs].map((op) => [op.name, op]));
    this.groups = new Map(); // name -> its ops
    for (const op of [...this.ops, ...this.inputs])
      for (const group of op.path) this.groups.has(group) ? this.groups.get(group).push(op) : this.groups.set(group, [op]);
    this.behind = new Map();
  }

  /** The constant ops that the constant operands of an op are computed from. */
  constantsBehind(op) {
    if (!this.behind.has(op)) {
      const found = new Set();
      for (const name of op.operands) {
        const source = this.values.get(name).op;
        if (source.constant) for (const each of [source, ...this.constantsBehind(source)]) found.add(each);
      }
      this.behind.set(op, found);
    }
    return this.behind.get(op);
  }

  /** The element type of the weights that an op reads, as they are stored; that of its result without weights. */
  storedType(op) {
    const behind = [...this.constantsBehind(op)];
    const packed = behind.find((each) => each.kind === "dequantize");
    const weight = packed ? packed.operands[0] : op.operands.find((name) => this.values.get(name).op.constant);
    return dtypeOf(weight ? this.values.get(weight).type : op.results[0][1]);
  }

  /** Name of op -> {mark, what, was}: what changed in it from `diff`'s first graph (side 0) to its second (side 1). */
  marks(diff, side) {
    const marks = new Map();
    if (!diff) return marks;
    for (const name of diff.moved) marks.set(name, { mark: "moved" });
    for (const pair of diff.renamed) marks.set(pair[side], { mark: "renamed", was: pair[1 - side] });
    for (const pair of diff.changed) marks.set(pair[side], { mark: "changed", what: pair[2].join(", "), was: pair[1 - side] });
    for (const name of side ? diff.added : diff.removed) marks.set(name, { mark: side ? "added" : "removed" });
    for (const op of this.ops) {
      if (op.constant || marks.has(op.name)) continue;
      const changed = [...this.constantsBehind(op)].some((each) => marks.has(each.name));
      if (changed) marks.set(op.name, { mark: "changed", what: "weights", was: op.name, weights: true });
    }
    return marks;
  }

  /** The tree of visible nodes. Node: {id, op | group, label, children (of an open group), parent}. */
  tree(open, shown) {
    const root = { id: "", group: "", children: [], parent: null };
    const made = new Map([["", root]]);
    const place = (op) => {
      let parent = root;
      for (const group of op.path) {
        if (!made.has(group)) {
          const node = { id: "group:" + group, group, children: [], parent, members: [] };
          made.set(group, node);
          parent.children.push(node);
        }
        parent = made.get(group);
        parent.members.push(op);
      }
      parent.children.push({ id: op.name, op, parent });
    };
    const visible = (op) => (op.cache ? shown.caches : !op.constant || shown.weights);
    for (const op of [...this.inputs, ...this.ops, ...this.outputs]) if (visible(op)) place(op);
    const where = new Map(); // op -> visible node
    const settle = (node) => {
      node.children = node.children.map((child) => {
        // A group of one is shown as that one.
        while (child.children && child.children.length === 1 && !/(^|\.)\d+$/.test(child.group)) child = child.children[0];
        child.parent = node;
        if (child.op) where.set(child.op, child);
        else if (open.has(child.group)) settle(child);
        else for (const op of child.members) where.set(op, child), (child.closed = true);
        child.label = this.label(child, node.group);
        return child;
      });
    };
    settle(root);
    return { root, where, edges: this.edges(where) };
  }

  label(node, outer) {
    const name = node.op ? node.op.role ?? node.op.name : node.group;
    if (node.group && (/\.\d+$/.test(name) || name.includes(".."))) return name;
    return outer && name.startsWith(outer + ".") ? name.slice(outer.length + 1) : name;
  }

  /** {from, to, values, stub} between visible nodes, once a pair. */
  edges(where) {
    const found = new Map(), targets = new Map();
    for (const [op, to] of where) {
      for (const name of op.operands) {
        const from = where.get(this.values.get(name).op);
        if (!from || from === to) continue;
        const key = from.id + "\n" + to.id;
        if (!found.has(key)) {
          found.set(key, { from, to, values: new Set() });
          targets.set(from, (targets.get(from) || 0) + 1);
        }
        found.get(key).values.add(name);
      }
    }
    const edges = [...found.values()];
    for (const edge of edges) edge.stub = targets.get(edge.from) >= STUB_FROM;
    return edges;
  }
}

const MODELS = DATA.graphs.map((entry, i) => new Model(entry, i));

const chain = (node) => (node ? [...chain(node.parent), node] : []);
const dtypeOf = (type) => type.slice(0, type.indexOf("["));
const rankOf = (type) => { const dims = type.slice(type.indexOf("[") + 1, -1); return dims ? dims.split(",").length : 0; };

function amount(count, units) {
  let i = 0;
  for (; Math.abs(count) >= 1000 && i < units.length - 1; i++) count /= 1000;
  return (i ? count.toPrecision(3).replace(/\.0+$/, "") : Math.round(count)) + " " + units[i];
}
const bytesText = (count) => amount(count, ["bytes", "kB", "MB", "GB", "TB"]);
const flopsText = (count) => amount(count, ["FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"]);
