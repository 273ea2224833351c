// Uses the page as a person does, and leaves what it finds as JSON in an element `probed`.
"use strict";
(async () => {
  // Events of this script come from no pointer that could be captured.
  Element.prototype.setPointerCapture = () => {};
  const frame = () => new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(then)));
  const pause = (time) => new Promise((then) => setTimeout(then, time));
  const found = { phases: [], drawn: {} };
  const point = (box, type, x, y) => {
    const at = box.getBoundingClientRect();
    box.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX: at.left + x, clientY: at.top + y, button: 0 }));
  };
  const key = (box, name) => box.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
  const aside = () => document.getElementById("inspector").textContent;
  /** What the side says of the launch: how many values are live, their bytes, and the kernel. */
  const live = () => {
    const phase = state.phase, step = state.hover >= 0 ? state.hover : state.launch;
    const words = [...document.querySelectorAll("#inspector h3")].find((each) => each.textContent.startsWith("Live here"));
    const rows = document.querySelectorAll("#live tr"), listed = phase.liveAt(step);
    const heading = `Live here: ${bytes(phase.live[step])} in ${plural(listed.length, "value")}`;
    const names = listed.every((piece, at) => rows[at].textContent.includes(parts(phase.memory.label[piece])[1])
      && rows[at].textContent.includes(phase.type(phase.memory.buffer[piece])));
    if (words.textContent !== heading || rows.length !== listed.length || !names) return null;
    const kernel = document.querySelector("#inspector pre");
    return {
      step, values: rows.length, bytes: listed.reduce((sum, piece) => sum + phase.memory.bytes[piece], 0),
      kernel: kernel ? kernel.textContent : "",
    };
  };

  const charts = [overview, map, roofline, timeline].filter(Boolean);
  charts.forEach((chart) => chart.resize());
  await frame();
  const box = document.getElementById("memory");
  for (const phase of PHASES) {
    choosePhase(phase);
    await frame();
    const seen = { name: phase.name, peak: phase.live[state.launch], steps: [] };
    for (const share of [0.02, 0.3, 0.6, 0.9]) {
      const step = Math.min(phase.count - 1, Math.floor(share * phase.count));
      point(box, "pointermove", map.x(step + 0.5), map.height / 2);
      await frame();
      seen.steps.push(live() || { wrong: aside() });
    }
    point(box, "pointerleave", 0, 0);
    found.phases.push(seen);
  }

  // A click keeps the launch after the pointer has left; keys go on from there.
  const middle = Math.floor(state.phase.count / 2);
  point(box, "pointerdown", map.x(middle + 0.5), 50);
  point(box, "pointerup", map.x(middle + 0.5), 50);
  point(box, "pointerleave", 0, 0);
  await frame();
  found.click = state.launch === middle && aside().includes(`Launch ${middle + 1} of ${state.phase.count}`);
  key(box, "ArrowRight");
  await frame();
  await frame();
  const told = document.getElementById("status").textContent;
  const moved = box.getAttribute("aria-valuenow") === String(middle + 2) && told === box.getAttribute("aria-valuetext");
  key(box, "p");
  await frame();
  found.keys = moved && state.launch === (state.phase.peak ?? 0);

  // Dragging zooms in, Escape shows everything again.
  point(box, "pointerdown", map.left + 20, 60);
  point(box, "pointermove", map.left + 90, 60);
  point(box, "pointerup", map.left + 90, 60);
  await frame();
  const narrow = state.to - state.from < axisEnd() * 0.9 || state.phase.count < 8;
  key(box, "Escape");
  await frame();
  found.zoomed = narrow && state.to - state.from === axisEnd();

  const input = document.getElementById("find"), wanted = parts(state.phase.label(0))[1];
  input.value = wanted.toUpperCase();
  input.dispatchEvent(new Event("input"));
  await pause(300);
  await frame();
  const count = Array.from({ length: state.phase.count }, (_, step) => step).filter((step) => matches(state.phase, step)).length;
  found.search = count > 0 && document.getElementById("found").textContent === plural(count, "launch");
  input.value = "";
  input.dispatchEvent(new Event("input"));
  await pause(300);

  const heads = () => [...document.querySelectorAll("#kernels thead button")];
  heads()[1].click();
  await frame();
  const launches = [...document.querySelectorAll("#kernels tbody td:nth-child(2)")].map((each) => Number(each.textContent.replace(",", "")));
  found.sorted = launches.length === state.phase.uses.length && launches.every((each, at) => at === 0 || each <= launches[at - 1])
    && heads()[1].parentElement.getAttribute("aria-sort") === "descending";
  document.querySelector("#kernels tbody button").click();
  await frame();
  found.alone = state.phase.steps.kernel[state.launch] === state.kernel && document.querySelectorAll("#kernels tr.on").length === 1;
  state.kernel = -1;
  change("filter");

  // A decision leads to its launch.
  [...document.querySelectorAll("#kinds button")].find((each) => each.textContent.startsWith("not fused")).click();
  const decision = document.querySelector("#decided .decision .name");
  keep(state.phase.count);
  await frame();
  if (decision) decision.closest("button").click();
  await frame();
  found.goes = !decision || state.launch < state.phase.count;

  // Canvases that were drawn hold several colours.
  for (const chart of charts) {
    const { canvas } = chart.layers[0], seen = new Set();
    const pixels = new Uint32Array(chart.layers[0].getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    for (let at = 0; at < pixels.length && seen.size < 50; at += 7) seen.add(pixels[at]);
    found.drawn[chart.box.id] = seen.size;
  }
  found.images = document.querySelectorAll("img").length;
  found.wide = document.documentElement.scrollWidth > innerWidth;
  found.requests = performance.getEntriesByType("resource").map((each) => each.name);
  found.faults = faults;
  return found;
})().catch((fault) => ({ faults: [String(fault), fault.stack] })).then((found) => {
  const out = document.createElement("pre");
  out.id = "probed";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
