// The distinct kernels of a phase: a table, and where they lie under the roofs of the machine.
"use strict";

/** The kernels of a phase with their launches and sums. */
function kernelUses(phase) {
  const uses = new Map();
  for (let step = 0; step < phase.count; step += 1) {
    const number = phase.steps.kernel[step];
    let use = uses.get(number);
    if (!use) {
      use = { number, kernel: KERNELS[number], launches: [], seconds: 0, least: 0 };
      uses.set(number, use);
    }
    use.launches.push(step);
    use.seconds += phase.seconds(step);
    use.least += use.kernel.seconds || 0;
  }
  for (const use of uses.values()) {
    use.flops = use.kernel.flops * use.launches.length;
    use.bytes = use.kernel.bytes * use.launches.length;
    use.each = use.seconds / use.launches.length;
    use.weight = phase.timed ? use.seconds : use.bytes;
  }
  return [...uses.values()].sort((a, b) => b.weight - a.weight || a.number - b.number);
}

/** Shows a kernel alone, or, once more, its next launch. */
function chooseKernel(number) {
  const phase = state.phase, launches = phase.uses.find((use) => use.number === number).launches;
  if (state.kernel === number) keep(launches[(launches.indexOf(state.launch) + 1) % launches.length]);
  else {
    state.kernel = number;
    change("filter");
    keep(launches[0]);
  }
}

// ---- the table

const SORTS = {
  kernel: [(use) => use.kernel.name, 1], launches: [(use) => use.launches.length, -1],
  time: [(use) => use.weight, -1], each: [(use) => use.each, -1],
  operations: [(use) => use.flops, -1], moved: [(use) => use.bytes, -1],
  rate: [(use) => (use.flops || use.bytes) / (use.seconds || 1), -1],
  bound: [(use) => use.kernel.bound || "", 1],
  reached: [(use) => (use.seconds ? use.least / use.seconds : 0), -1],
};
let sorting = ["time", -1];

function kernelTable() {
  const phase = state.phase, columns = [["kernel", "kernel"], ["launches", "launches"]];
  if (phase.timed) columns.push(["time", phase.measured ? "time" : "predicted time"], ["each", "each"]);
  columns.push(["operations", "operations"], ["moved", "moved"]);
  if (phase.timed) columns.push(["rate", "rate"]);
  if (MACHINE) columns.push(["bound", "bound by"]);
  if (MACHINE && phase.measured) columns.push(["reached", "of the roof"]);
  const head = columns.map(([key, words]) => element("th", {
    scope: "col", "aria-sort": sorting[0] === key ? (sorting[1] > 0 ? "ascending" : "descending") : undefined,
  }, element("button", { type: "button", onclick: () => {
    sorting = [key, sorting[0] === key ? -sorting[1] : SORTS[key][1]];
    change("sort");
  } }, words)));
  const [of, direction] = [SORTS[sorting[0]][0], sorting[1]];
  const order = (a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : a.number - b.number) * direction;
  const total = phase.uses.reduce((sum, use) => sum + use.weight, 0);
  const most = Math.max(...phase.uses.map((use) => use.weight), 1e-30);
  const rows = phase.uses.filter((use) => use.launches.some((step) => searched(phase, step)))
    .sort(order).map((use) => element("tr", {
      class: use.number === state.kernel ? "on" : undefined, onclick: () => chooseKernel(use.number),
    }, columns.map(([key]) => cell(key, use, phase, total, most)),
    element("td", { class: "types mono", title: use.kernel.types }, use.kernel.types)));
  fill(byId("kernels"), 
    element("caption", { class: "unseen" }, "Kernels of the phase"),
    element("thead", {}, element("tr", {}, head, element("th", { scope: "col" }, "operands → results"))),
    element("tbody", {}, rows));
}

function cell(key, use, phase, total, most) {
  const { kernel } = use;
  switch (key) {
    case "kernel":
      return element("td", {}, element("button", { type: "button", title: kernel.name },
        swatch(kernel.class), element("span", {}, kernel.name)));
    case "launches": return element("td", {}, use.launches.length.toLocaleString("en"));
    case "time": return element("td", { class: "share" }, `${time(use.seconds)} `,
      element("span", { class: "mono" }, share(use.weight, total)),
      element("i", { style: { width: `${3 * use.weight / most}rem`, background: `var(--${kernel.class})` } }));
    case "each": return element("td", {}, time(use.each));
    case "operations": return element("td", {}, use.flops ? metric(use.flops, "FLOP") : "–");
    case "moved": return element("td", {}, bytes(use.bytes));
    case "rate": return element("td", {}, speed(kernel, use.each));
    case "bound": return element("td", {}, kernel.bound);
    default: return element("td", {}, share(use.least, use.seconds));
  }
}

// ---- the roofline

class Roofline extends Chart {
  constructor() {
    super("roofline", [14, 12, 34, 64]);
    this.dots = [];
    this.box.addEventListener("pointermove", (event) => {
      const dot = this.find(event);
      this.box.style.cursor = dot ? "pointer" : "default";
      if (!dot) { hideTip(); return; }
      const { use } = dot, { kernel } = use;
      showTip(event, element("span", { class: "name" }, kernel.name), element("div", {}, kernel.types),
        element("div", {}, `${plural(use.launches.length, "launch")}, ${time(use.seconds)} in all, ${time(use.each)} each`),
        element("div", {}, `${speed(kernel, use.each)}, bound by ${kernel.bound}`
          + (state.phase.measured ? `, ${share(use.least, use.seconds)} of the roof` : "")));
    });
    this.box.addEventListener("click", (event) => {
      const dot = this.find(event);
      if (dot) chooseKernel(dot.use.number);
    });
  }

  find(event) {
    const [x, y] = this.at(event);
    const near = this.dots.filter((dot) => Math.hypot(dot.x - x, dot.y - y) <= dot.r + 3);
    return near.sort((a, b) => a.r - b.r)[0];
  }

  /** Kernels without products have a strip of their own, by the bytes that they move a second. */
  get split() { return this.left + Math.min(170, (this.right - this.left) * 0.2); }

  scales() {
    const phase = state.phase, uses = phase.uses.filter((use) => use.flops && use.seconds);
    const rates = MACHINE.rates.map(([, each]) => each), most = Math.max(...rates);
    const intensity = uses.map((use) => use.flops / use.bytes), ridge = most / MACHINE.bytes;
    const [x0, x1] = [Math.min(0.5, ...intensity) / 1.5, Math.max(ridge * 12, ...intensity) * 1.5];
    const speeds = uses.map((use) => use.kernel.flops / use.each);
    const y1 = Math.max(most, ...speeds) * 3, y0 = Math.max(most / 1e5, Math.min(...speeds, most / 100) / 1.6);
    const plain = phase.uses.filter((use) => !use.flops && use.seconds);
    const moved = plain.map((use) => use.kernel.bytes / use.each);
    const b1 = Math.max(MACHINE.bytes, ...moved) * 2.2;
    const b0 = Math.max(b1 / 1e5, Math.min(...moved, MACHINE.bytes / 30) / 1.6);
    const log = (value, a, b) => Math.log(value / a) / Math.log(b / a);
    const high = this.bottom - this.top, wide = this.right - this.split - 34;
    return {
      uses, plain, x0, x1, y0, y1, b0, b1,
      x: (value) => this.split + 34 + log(value, x0, x1) * wide,
      y: (value) => this.bottom - log(Math.max(value, y0), y0, y1) * high,
      b: (value) => this.bottom - log(Math.max(value, b0), b0, b1) * high,
    };
  }

  draw(g) {
    const phase = state.phase;
    this.dots = [];
    if (!MACHINE || !phase.uses.length) return;
    const s = this.scales(), start = this.split + 34;
    g.fillStyle = colours.well;
    g.fillRect(this.left, this.top, this.split - this.left, this.bottom - this.top);
    g.fillRect(start, this.top, this.right - start, this.bottom - this.top);
    this.grid(g, s, start);
    // The roofs: bytes a second up to the ridge, then products of each type.
    for (const [at, [dtype, each]] of MACHINE.rates.entries()) {
      const ridge = each / MACHINE.bytes, y = s.y(each);
      line(g, s.x(Math.max(s.x0, ridge)), y, this.right, y, colours.soft, 1.5, at ? [] : [6, 4]);
      write(g, `${dtype} ${metric(each, "FLOP/s")}`, s.x(Math.max(s.x0, ridge)) + 8, y - 8, colours.soft);
    }
    const top = Math.max(...MACHINE.rates.map(([, each]) => each));
    g.save();
    g.beginPath();
    g.rect(start, this.top, this.right - start, this.bottom - this.top);
    g.clip();
    line(g, s.x(s.x0), s.y(s.x0 * MACHINE.bytes), s.x(top / MACHINE.bytes), s.y(top), colours.soft, 1.5);
    g.restore();
    line(g, this.left, s.b(MACHINE.bytes), this.split, s.b(MACHINE.bytes), colours.soft, 1.5);
    plate(g, metric(MACHINE.bytes, "B/s"), this.split - 5, s.b(MACHINE.bytes) - 9, colours.soft, "right");
    const most = Math.max(...phase.uses.map((use) => use.seconds));
    const radius = (use) => 3 + 17 * Math.sqrt(use.seconds / most);
    for (const use of s.uses) {
      this.dots.push({ use, x: s.x(use.flops / use.bytes), y: s.y(use.kernel.flops / use.each), r: radius(use) });
    }
    s.plain.forEach((use, at) => {
      // Side by side in the order of their time, as they have no intensity.
      const x = this.left + (at + 0.5) / s.plain.length * (this.split - this.left);
      this.dots.push({ use, x, y: s.b(use.kernel.bytes / use.each), r: radius(use) });
    });
    this.dots.sort((a, b) => b.r - a.r);
    const full = (use) => use.launches.some((step) => matches(phase, step));
    for (const { use, x, y, r } of this.dots) {
      g.beginPath();
      g.arc(x, y, r, 0, 2 * Math.PI);
      g.fillStyle = colours[use.kernel.class];
      g.globalAlpha = full(use) ? 0.62 : 0.08;
      g.fill();
      g.globalAlpha = full(use) ? 1 : 0.15;
      g.lineWidth = use.number === state.kernel ? 2.5 : 1;
      g.strokeStyle = use.number === state.kernel ? colours.ink : colours.card;
      g.stroke();
      g.globalAlpha = 1;
    }
    this.names(g, this.dots.filter(({ use }) => full(use)).slice(0, 12));
  }

  grid(g, s, start) {
    const decades = (a, b) => {
      const out = [];
      for (let at = Math.ceil(Math.log10(a)); 10 ** at <= b; at += 1) out.push(10 ** at);
      return out;
    };
    for (const value of decades(s.x0, s.x1)) {
      line(g, s.x(value), this.top, s.x(value), this.bottom, colours.line);
      write(g, value >= 1000 ? metric(value, "") : String(value), s.x(value), this.bottom + 9, colours.faint, "center");
    }
    for (const value of decades(s.y0, s.y1)) {
      line(g, start, s.y(value), this.right, s.y(value), colours.line);
      write(g, metric(value, "").replace(" ", ""), start - 5, s.y(value), colours.faint, "right");
    }
    for (const value of decades(s.b0, s.b1)) {
      line(g, this.left, s.b(value), this.split, s.b(value), colours.line);
      write(g, metric(value, "B/s"), this.left - 5, s.b(value), colours.faint, "right");
    }
    write(g, "without products", (this.left + this.split) / 2, this.bottom + 24, colours.soft, "center");
    write(g, "operations a byte (FLOP/s upwards)", (start + this.right) / 2, this.bottom + 24, colours.soft, "center");
  }

  /** Names of the largest dots beside, under or above them, where they do not lie over each other. */
  names(g, dots) {
    const taken = dots.map(({ x, y, r }) => [x - r * 0.7, y - r * 0.7, x + r * 0.7, y + r * 0.7]);
    const meets = (box) => ([a, b, c, d]) => a < box[2] && box[0] < c && b < box[3] && box[1] < d;
    const said = new Set();
    for (const { use, x, y, r } of dots) {
      const words = use.kernel.name.length > 32 ? use.kernel.name.slice(0, 31) + "…" : use.kernel.name;
      if (r < 6 || said.has(words)) continue;
      const width = g.measureText(words).width, strip = x < this.split;
      const places = [[x + r + 5, y], [x - r - 5 - width, y]];
      for (let row = 0; row < 6; row += 1) places.push([x - width / 2, y + r + 11 + 15 * row], [x - width / 2, y - r - 9 - 15 * row]);
      const free = places.map(([left, middle]) => [left, middle - 8, left + width, middle + 8]).find((box) =>
        box[0] > (strip ? this.left - 30 : this.split + 36) && box[2] < (strip ? this.split + 28 : this.right)
        && box[1] > this.top && box[3] < this.bottom && !taken.some(meets(box)));
      if (!free) continue;
      taken.push(free);
      said.add(words);
      const middle = (free[1] + free[3]) / 2;
      if (Math.abs(middle - y) > r + 14) line(g, x, y + Math.sign(middle - y) * r, x, middle - Math.sign(middle - y) * 7, colours.strong);
      write(g, words, free[0], middle, colours.ink);
    }
  }
}

const roofline = MACHINE ? new Roofline() : null;
if (!MACHINE) byId("roofline").remove();

on("phase", () => {
  const phase = state.phase;
  phase.uses = phase.uses || kernelUses(phase);
  const total = phase.uses.length, launches = phase.count.toLocaleString("en");
  let words = `${plural(total, "kernel")} in ${launches} launches. `;
  if (!MACHINE) words += "Nothing is stated about the speed of such a device, so no times are predicted.";
  else {
    words += phase.measured ? "Times are measured, and so are the roofs; what stays in the caches can be above the roof of memory."
      : `Times are the least that is possible on a machine of the figures below (${MACHINE.origin}).`;
    words += " The area of a dot is its time.";
  }
  byId("kernels-note").textContent = words;
  if (roofline) {
    const list = phase.uses.slice(0, 3).map((use) => `${use.kernel.name} ${time(use.seconds)}`);
    roofline.box.setAttribute("aria-label", `Roofline of the kernels, which the table below lists; most time: ${list.join(", ")}`);
  }
});
on("phase filter sort", kernelTable);
on("phase filter colours", () => { if (roofline) roofline.redraw(); });
