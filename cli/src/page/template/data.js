// The data of the page as the other files use it: names, kernels, and a model of each phase.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);

/** Kinds of kernels, in the order of the legend. Each has a colour of its name. */
const CLASSES = [
  ["product", "products"], ["attention", "attention"], ["convolution", "convolutions"],
  ["rows", "row kernels"], ["copy", "copies"], ["table", "gathers and fills"],
  ["other", "states from before"],
];

/** Kinds of memory, by the numbers that buffers have. */
const ROOTS = ["workspace", "persistent", "input", "weight", "state", "output"];

const KERNELS = DATA.kernels;
const MACHINE = DATA.machine;

/** Operations a second of products on inputs of an element type: the slowest known stands for others. */
function rate(dtype) {
  const found = MACHINE.rates.find(([own]) => own === dtype);
  return found ? found[1] : Math.min(...MACHINE.rates.map(([, each]) => each));
}

for (const kernel of KERNELS) {
  kernel.dtype = (kernel.operands[0] || kernel.results[0] || "f32").split("[")[0];
  kernel.types = kernel.operands.join(", ") + " → " + kernel.results.join(", ");
  if (MACHINE) {
    const arithmetic = kernel.flops / rate(kernel.dtype), memory = kernel.bytes / MACHINE.bytes;
    const limit = Math.max(arithmetic, memory);
    kernel.bound = limit < MACHINE.launch ? "launch" : arithmetic > memory ? "arithmetic" : "memory";
  }
}

/** Scope with a slash, and name. */
function parts(label) {
  const [scope, name] = DATA.names.labels[label].map((word) => DATA.names.words[word]);
  return [scope ? scope + "/" : "", name];
}

function text(label) {
  return parts(label).join("");
}

/** What is searched in a label; made once for each. */
const lower = DATA.names.labels.map((_, label) => text(label).toLowerCase());

// ---- numbers for people

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < 4) { count /= 1024; unit += 1; }
  const digits = unit === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return count.toFixed(digits) + " " + units[unit];
}

/** Three digits and a unit with a prefix for thousands. */
function metric(value, unit) {
  const prefixes = ["", "k", "M", "G", "T", "P", "E"];
  let at = 0;
  while (value >= 999.5 && at < 6) { value /= 1000; at += 1; }
  const digits = at === 0 && Number.isInteger(value) ? 0 : value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return value.toFixed(digits) + " " + prefixes[at] + unit;
}

function time(seconds) {
  if (!(seconds > 0)) return "0 s";
  if (seconds >= 99.5) {
    const whole = Math.round(seconds), [h, m, s] = [whole / 3600, whole / 60 % 60, whole % 60].map(Math.floor);
    return h ? `${h} h ${String(m).padStart(2, "0")} min` : `${m} min ${String(s).padStart(2, "0")} s`;
  }
  const [value, unit] = seconds >= 0.9995 ? [seconds, "s"] : seconds >= 999.5e-6 ? [seconds * 1e3, "ms"]
    : seconds >= 999.5e-9 ? [seconds * 1e6, "µs"] : [seconds * 1e9, "ns"];
  return value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2) + " " + unit;
}

function share(part, whole) {
  const percent = whole > 0 ? 100 * part / whole : 0;
  return (percent >= 99.95 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1)) + " %";
}

function plural(count, word) {
  return count.toLocaleString("en") + " " + word + (count === 1 ? "" : word.endsWith("ch") ? "es" : "s");
}

/** Operations a second where there are any, else bytes a second. */
function speed(kernel, seconds) {
  if (!(seconds > 0)) return "";
  return kernel.flops ? metric(kernel.flops / seconds, "FLOP/s") : metric(kernel.bytes / seconds, "B/s");
}

// ---- a phase

class Phase {
  constructor(data, number) {
    const { pieces, ...rest } = data, count = pieces.from.length;
    Object.assign(this, rest, { memory: pieces, pieces: count, number });
    this.count = data.steps.kernel.length;
    this.live = new Float64Array(this.count + 2);
    for (let i = 0; i < count; i += 1) {
      this.live[pieces.from[i]] += pieces.bytes[i];
      this.live[pieces.to[i] + 1] -= pieces.bytes[i];
    }
    for (let at = 1; at <= this.count; at += 1) this.live[at] += this.live[at - 1];
    // A state's old value was written by no launch of this run.
    const wrote = (i) => pieces.from[i] < this.count
      && data.steps.writes[pieces.from[i]].includes(pieces.buffer[i]);
    this.classes = Array.from({ length: count }, (_, i) => (wrote(i) ? this.kernel(pieces.from[i]).class : "other"));
    this.calls = DATA.measured ? DATA.measured.calls[number] : 0;
    // What ran before the measured runs, such as `prepare`, is predicted.
    this.measured = this.calls ? DATA.measured.seconds[number] : null;
    this.timed = Boolean(this.measured || MACHINE);
    this.ends = new Float64Array(this.count + 1);
    for (let at = 0; at < this.count; at += 1) this.ends[at + 1] = this.ends[at] + this.seconds(at);
  }

  kernel(step) { return KERNELS[this.steps.kernel[step]]; }

  /** Seconds of a launch: measured, or else predicted. */
  seconds(step) { return this.measured ? this.measured[step] : this.kernel(step).seconds || 0; }

  get total() { return this.ends[this.count]; }

  /** The last label of what a launch makes. */
  label(step) {
    const own = this.steps.labels[step];
    return own[own.length - 1];
  }

  /** A launch in words. */
  title(step) { return step >= this.count ? "outputs" : text(this.label(step)); }

  /** Pieces of workspace that are live at a launch, the largest first. */
  liveAt(step) {
    const out = [], { from, to, bytes: size } = this.memory;
    for (let i = 0; i < this.pieces; i += 1) if (from[i] <= step && step <= to[i]) out.push(i);
    return out.sort((a, b) => size[b] - size[a] || a - b);
  }

  /** The piece at a byte of the workspace, or -1. */
  pieceAt(step, byte) {
    const { from, to, offset, bytes: size } = this.memory;
    for (let i = this.pieces - 1; i >= 0; i -= 1) {
      if (from[i] <= step && step <= to[i] && offset[i] <= byte && byte < offset[i] + size[i]) return i;
    }
    return -1;
  }

  /** What an operand is called at a launch: of a view, what it looks at. */
  bufferName(buffer, step) {
    const { root, offset, label } = this.buffers, own = text(label[buffer]);
    if (own) return own;
    if (root[buffer] === 0) {
      const piece = this.pieceAt(step, offset[buffer]);
      if (piece >= 0) return text(this.memory.label[piece]);
    }
    if (root[buffer] === 1) {
      for (const other of PHASES) {
        const { root: roots, offset: places, label: labels } = other.buffers;
        const found = roots.findIndex((kind, at) => kind === 1 && places[at] === offset[buffer] && text(labels[at]));
        if (found >= 0) return text(labels[found]);
      }
    }
    return "";
  }

  /** Where a buffer lies, in words. */
  place(buffer) {
    const { root, index, offset, columns } = this.buffers, kind = ROOTS[root[buffer]];
    const own = root[buffer] < 2 ? kind : `${kind} ${index[buffer]}`;
    const rows = columns.find(([at]) => at === buffer);
    const within = rows ? `, columns ${rows[1]}–${rows[1] + rows[2]} of ${rows[3]} B` : "";
    return `${own} + ${offset[buffer].toLocaleString("en")}${within}`;
  }

  type(buffer) { return text(this.buffers.type[buffer]); }
}

const PHASES = DATA.phases.map((data, number) => new Phase(data, number));

// ---- what is chosen

/** What all parts of the page show; `change` tells them. */
const state = {
  phase: PHASES.find((phase) => phase.name === "step") || PHASES[0],
  /** The launch that is kept, the one under the pointer or -1, the value under the pointer or -1. */
  launch: 0, hover: -1, piece: -1,
  /** What the map shows of the launches. */
  from: 0, to: 1,
  axis: "launches",
  query: "",
  /** A kernel or a class that alone is shown in full, if any. */
  kernel: -1, class: "",
};

const listeners = [];

/** Calls `then` whenever one of `what` changes: phase, view, launch, hover, filter, colours. */
function on(what, then) { listeners.push([what.split(" "), then]); }

let due = new Set();

/** Tells the parts of the page before the next frame that something has changed. */
function change(what) {
  if (due.size === 0) requestAnimationFrame(tell);
  due.add(what);
}

function tell() {
  const now = due;
  due = new Set();
  for (const [wanted, then] of listeners) if (wanted.some((each) => now.has(each))) then();
}

/** Whether a launch is among what the search and the filters leave. */
function matches(phase, step) {
  return (state.kernel < 0 || phase.steps.kernel[step] === state.kernel) && searched(phase, step);
}

/** Whether it is among what the search and the choice of a class leave. */
function searched(phase, step) {
  const kernel = phase.kernel(step);
  if (state.class && kernel.class !== state.class) return false;
  return !state.query || phase.steps.labels[step].some((label) => lower[label].includes(state.query))
    || kernel.name.toLowerCase().includes(state.query) || kernel.types.toLowerCase().includes(state.query);
}

function filtered() { return Boolean(state.query || state.class || state.kernel >= 0); }

// ---- elements

/** An element with attributes and children; text is always text. */
function element(tag, attributes = {}, ...children) {
  const out = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) out.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) out.style.setProperty(key, each);
    else if (value !== undefined && value !== false) out.setAttribute(name, value === true ? "" : value);
  }
  fill(out, ...children);
  return out;
}

/** Puts children, also in lists, in the place of those of an element. */
function fill(out, ...children) {
  out.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
}

const byId = (id) => document.getElementById(id);

/** A long name that may be broken behind slashes. */
function breakable(words) {
  return words.split(/(?<=\/)/).flatMap((piece, at) => (at ? [element("wbr"), piece] : [piece]));
}

function nameElement(label) {
  const [scope, name] = parts(label);
  return element("span", { class: "name" }, scope ? element("i", {}, breakable(scope)) : null, breakable(name || "—"));
}

function swatch(name) {
  return element("span", { class: "swatch", style: { background: `var(--${name})` } });
}
