// The rest of the page: head, figures, search, and the launch at the side.
"use strict";

byId("title").textContent = DATA.title;
document.title = `${DATA.title} · anyid-rt`;
byId("facts").textContent = DATA.facts.map(([name, value]) => `${name} ${value}`).join(" · ");
byId("footer").textContent = `Made by anyid-rt ${DATA.version}. 1 KiB is 1024 bytes; prefixes of operations are decimal.`;

// ---- phases

function choosePhase(phase) {
  Object.assign(state, { phase, hover: -1, piece: -1, kernel: -1 });
  state.launch = phase.peak === null ? 0 : phase.peak;
  Object.assign(state, { from: 0, to: axisEnd() });
  for (const what of ["phase", "view", "filter", "launch"]) change(what);
}

const tabs = byId("phases");
for (const phase of PHASES) {
  tabs.append(element("button", { type: "button", role: "tab", onclick: () => choosePhase(phase) }, phase.name));
}
tabs.hidden = PHASES.length < 2;
tabs.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  const at = (state.phase.number + by + PHASES.length) % PHASES.length;
  choosePhase(PHASES[at]);
  tabs.children[at].focus();
});
on("phase", () => [...tabs.children].forEach((tab, at) => {
  tab.setAttribute("aria-selected", String(at === state.phase.number));
  tab.tabIndex = at === state.phase.number ? 0 : -1;
}));

// ---- figures

function tile(name, value, note) {
  return element("div", { class: "tile" }, element("span", {}, name), element("b", {}, value), element("span", {}, note));
}

on("phase", () => {
  const phase = state.phase, tiles = [];
  tiles.push(tile("workspace", bytes(phase.workspace), phase.peak === null ? "none is needed" : `peak at launch ${phase.peak + 1}`));
  const ratio = phase.bound ? phase.workspace / phase.bound : 1;
  tiles.push(tile("lower bound", bytes(phase.bound), ratio <= 1 ? "reached" : `workspace is ${ratio.toFixed(3)} ×`));
  tiles.push(tile("without reuse", bytes(phase.naive), phase.workspace ? `${(phase.naive / phase.workspace).toFixed(1)} × as much` : ""));
  tiles.push(tile("launches", phase.count.toLocaleString("en"), plural(phase.uses.length, "kernel")));
  if (phase.timed) {
    const calls = phase.calls > 1 ? `one of ${phase.calls} calls, measured` : "measured";
    tiles.push(tile("time", time(phase.total), phase.measured ? calls : "at the least"));
  }
  const rate = phase.timed && phase.total && phase.flops ? metric(phase.flops / phase.total, "FLOP/s") : "";
  tiles.push(tile("operations", phase.flops ? metric(phase.flops, "FLOP") : "–", rate));
  tiles.push(tile("moved", bytes(phase.moved), phase.timed && phase.total ? metric(phase.moved / phase.total, "B/s") : ""));
  fill(byId("tiles"), ...tiles);

  const held = [
    ["weights", phase.weights, "product"], ["workspace", phase.workspace, "convolution"],
    ["kept for later runs", phase.persistent, "attention"], ["states", phase.states, "rows"],
    ["inputs", phase.inputs, "copy"], ["outputs", phase.outputs, "table"],
  ].filter(([, size]) => size > 0);
  const whole = held.reduce((sum, [, size]) => sum + size, 0);
  fill(byId("resident"), 
    element("div", { class: "bar", "aria-hidden": "true" }, held.map(([, size, colour]) =>
      element("i", { style: { "flex-grow": size / whole, background: `var(--${colour})` } }))),
    element("span", {}, element("b", {}, bytes(whole)), " in all"),
    held.map(([name, size, colour]) => element("span", { class: "key" }, swatch(colour), `${name} `, element("b", {}, bytes(size)))));
  const many = plural(phase.pieces, "value");
  byId("memory-note").textContent = `${many} in a workspace of ${bytes(phase.workspace)}`;
  map.box.setAttribute("aria-label", `Launch of ${phase.name}; the memory map of its ${many}`);
});

on("phase filter", () => {
  const phase = state.phase, sums = new Map();
  for (let i = 0; i < phase.pieces; i += 1) {
    const own = sums.get(phase.classes[i]) || [0, 0];
    sums.set(phase.classes[i], [own[0] + 1, own[1] + phase.memory.bytes[i]]);
  }
  fill(byId("legend"), ...CLASSES.filter(([own]) => sums.has(own)).map(([own, words]) => element("button", {
    type: "button", "aria-pressed": String(state.class === own), title: "Show these alone",
    onclick: () => {
      state.class = state.class === own ? "" : own;
      change("filter");
    },
  }, swatch(own), words, element("small", {}, sums.get(own)[0].toLocaleString("en")))),
  ...(state.kernel >= 0 ? [element("button", { type: "button", "aria-pressed": "true", title: "Show all kernels again",
    onclick: () => { state.kernel = -1; change("filter"); } }, `only ${KERNELS[state.kernel].name} ×`)] : []));
});

// ---- the horizontal axis and zooming

on("phase axis", () => fill(byId("axis"), ...["launches", "time"].map((own) => element("button", {
  type: "button", role: "radio", "aria-checked": String(state.axis === own), disabled: own === "time" && !state.phase.total,
  onclick: () => {
    state.axis = own;
    showAll();
    change("axis");
  },
}, own))));
byId("zoom-in").addEventListener("click", () => zoom(0.6, axisAt(state.launch)));
byId("zoom-out").addEventListener("click", () => zoom(1.7, (state.from + state.to) / 2));
byId("zoom-all").addEventListener("click", showAll);

// ---- search

const find = byId("find");
let typed = 0;
find.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(search, 120);
});
find.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { find.value = ""; search(); }
  if (event.key !== "Enter") return;
  search();
  const phase = state.phase;
  for (let by = 1; by <= phase.count; by += 1) {
    const step = (state.launch + (event.shiftKey ? phase.count - by : by)) % phase.count;
    if (matches(phase, step)) { keep(step, true); return; }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !(event.target instanceof HTMLInputElement)) {
    event.preventDefault();
    find.focus();
  }
});

function search() {
  const query = find.value.trim().toLowerCase();
  if (query === state.query) return;
  state.query = query;
  change("search");
  change("filter");
}

on("phase filter search", () => {
  const phase = state.phase;
  let count = 0;
  for (let step = 0; state.query && step < phase.count; step += 1) if (matches(phase, step)) count += 1;
  byId("found").textContent = state.query ? plural(count, "launch") : "";
});

// ---- the launch at the side

const MOST = 60;

function row(phase, piece, step, most) {
  const { from, to, bytes: size, buffer, label } = phase.memory;
  const made = step < phase.count && from[piece] === step && phase.classes[piece] !== "other";
  const tags = [made ? "new" : null, to[piece] === step && step < phase.count ? "last use" : null];
  return element("tr", {
    style: { "--part": `${100 * size[piece] / most}%` },
    onpointerenter: () => hover(state.hover, piece), onpointerleave: () => hover(state.hover, -1),
  }, element("td", {}, swatch(phase.classes[piece]), nameElement(label[piece]),
    tags.filter(Boolean).map((tag) => element("span", { class: "tag" }, tag)),
    element("small", {}, phase.type(buffer[piece]))),
  element("td", {}, bytes(size[piece])));
}

function liveTable(phase, step) {
  const live = phase.liveAt(step), size = phase.memory.bytes;
  const most = live.length ? size[live[0]] : 1, rows = live.slice(0, MOST).map((piece) => row(phase, piece, step, most));
  if (live.length > MOST) {
    const rest = live.slice(MOST).reduce((sum, piece) => sum + size[piece], 0);
    rows.push(element("tr", {}, element("td", {}, `${plural(live.length - MOST, "value")} more`), element("td", {}, bytes(rest))));
  }
  return element("table", { id: "live" }, element("caption", { class: "unseen" }, "Live values"),
    element("colgroup", {}, element("col"), element("col", { class: "size" })), element("tbody", {}, rows));
}

function operandTable(phase, step) {
  const line = (buffer, words) => element("tr", {}, element("td", {},
    element("span", { class: "tag" }, words), " ", element("span", { class: "name" }, breakable(phase.bufferName(buffer, step) || "—")),
    element("small", {}, `${phase.type(buffer)} · ${phase.place(buffer)}`)));
  return element("table", {}, element("caption", { class: "unseen" }, "Operands and results"), element("tbody", {},
    phase.steps.reads[step].map((buffer, at) => line(buffer, `a${at}`)),
    phase.steps.writes[step].map((buffer, at) => line(buffer, `y${at}`))));
}

function decisionPart(phase, step, field, title) {
  const list = decisionsAt(phase, step, field);
  if (!list.length) return [];
  const decisions = decisionsOf(phase), lines = list.slice(0, 30).map((each) =>
    element("li", {}, ...decisionElement(decisions, field, each)));
  if (list.length > 30) lines.push(element("li", {}, `${list.length - 30} more`));
  return [element("h3", {}, title), element("ul", {}, lines)];
}

let drawn = "";

function inspect() {
  const phase = state.phase, step = state.hover >= 0 ? state.hover : state.launch, aside = byId("inspector");
  const key = `${phase.number} ${step}`;
  if (key === drawn) { highlight(); return; }
  drawn = key;
  const move = (by) => keep(state.launch + by);
  const head = element("div", { class: "launch" },
    element("h2", {}, step < phase.count ? `Launch ${step + 1} of ${phase.count}` : "After the last launch"),
    element("button", { type: "button", "aria-label": "Launch before", onclick: () => move(-1) }, "‹"),
    element("button", { type: "button", "aria-label": "Next launch", onclick: () => move(1) }, "›"),
    element("button", { type: "button", onclick: () => keep(phase.peak === null ? 0 : phase.peak) }, "Peak"));
  const live = phase.liveAt(step);
  const sum = element("h3", {}, `Live here: ${bytes(phase.live[step])} in ${plural(live.length, "value")}`);
  const parts_ = [head];
  if (step < phase.count) {
    const kernel = phase.kernel(step), seconds = phase.seconds(step), figures = [];
    const figure = (name, value) => { if (value) figures.push(element("div", {}, element("dt", {}, name), element("dd", {}, value))); };
    if (phase.timed) figure(phase.measured ? "measured" : "at the least", time(seconds));
    if (phase.measured && kernel.seconds) figure("of the roof", share(kernel.seconds, seconds));
    figure("operations", kernel.flops ? metric(kernel.flops, "FLOP") : "");
    figure("moved", bytes(kernel.bytes));
    if (phase.timed) figure("rate", speed(kernel, seconds));
    figure("bound by", kernel.bound);
    parts_.push(nameElement(phase.label(step)),
      element("div", { class: "kernel" }, swatch(kernel.class), element("span", { class: "mono" }, kernel.name)),
      element("dl", { class: "figures" }, figures), sum, element("div", { class: "box", tabindex: 0, "aria-label": "Live values" }, liveTable(phase, step)),
      element("h3", {}, "Operands and results"), operandTable(phase, step),
      ...decisionPart(phase, step, "fused", "Made one kernel by"), ...decisionPart(phase, step, "apart", "Not fused further"),
      ...decisionPart(phase, step, "shared", "Shares memory"), ...decisionPart(phase, step, "refused", "Does not share memory"),
      element("h3", {}, "Kernel"), element("pre", { tabindex: 0, "aria-label": "Text of the kernel" }, kernel.text));
  } else parts_.push(sum, liveTable(phase, step));
  fill(aside, ...parts_);
  highlight();
}

/** Marks the line of the value under the pointer. */
function highlight() {
  const phase = state.phase, step = state.hover >= 0 ? state.hover : state.launch, live = phase.liveAt(step);
  document.querySelectorAll("#live tr").forEach((line, at) => {
    line.classList.toggle("on", state.piece >= 0 && live[at] === state.piece);
  });
}

on("phase", () => { drawn = ""; });
on("phase launch hover", inspect);

// ---- the launch and phase that the address names: #phase=step&launch=12

function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const phase = PHASES.find((each) => each.name === wanted.get("phase")) || state.phase;
  choosePhase(phase);
  const launch = Number(wanted.get("launch"));
  if (launch >= 1) keep(launch - 1);
  if (wanted.get("axis") === "time" && phase.total) { state.axis = "time"; showAll(); change("axis"); }
}

addEventListener("hashchange", fromAddress);
fromAddress();
tell();
document.documentElement.dataset.ready = "true";
