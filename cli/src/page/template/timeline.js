// Launches in time: those of the shortest measured run, or, where nothing was measured, one after the
// other as long as they take at the least.
"use strict";

/** The launches of the timeline: phase, step, begin and length in seconds. */
function launchesInTime() {
  if (!DATA.measured) {
    const phase = state.phase;
    return Array.from({ length: phase.count }, (_, step) => [phase.number, step, phase.ends[step], phase.seconds(step)]);
  }
  return DATA.measured.trace.flatMap((run) => run.step.map((step, at) =>
    [run.phase, step, run.begin[at] * 1e-9, run.length[at] * 1e-9]));
}

class Timeline extends Chart {
  constructor() {
    super("timeline", [4, 10, 20, 110]);
    let drag = null;
    const box = this.box;
    box.addEventListener("pointerdown", (event) => {
      box.setPointerCapture(event.pointerId);
      drag = this.drag = { x: this.at(event)[0], now: this.at(event)[0] };
    });
    box.addEventListener("pointermove", (event) => {
      if (drag) { drag.now = this.at(event)[0]; this.point(); }
      const found = this.find(event);
      if (!found) { hideTip(); hover(-1, -1); return; }
      const [number, step, begin, length] = found, phase = PHASES[number], kernel = phase.kernel(step);
      if (phase === state.phase) hover(step, -1);
      showTip(event, nameElement(phase.label(step)), element("div", {}, `${kernel.name}, ${kernel.types}`),
        element("div", {}, `${phase.name}, launch ${step + 1}: ${time(length)} at ${time(begin)}`),
        element("div", {}, speed(kernel, length)));
    });
    box.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const [a, b] = [drag.x, this.at(event)[0]].sort((one, other) => one - other);
      if (b - a > 6) this.view(this.position(a), this.position(b));
      else this.choose(event);
      drag = this.drag = null;
      this.point();
    });
    box.addEventListener("pointerleave", () => { if (!drag) hover(-1, -1); });
    box.addEventListener("dblclick", () => this.all());
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const at = this.position(this.at(event)[0]), factor = event.deltaY > 0 ? 1.25 : 0.8;
      this.view(at - (at - this.from) * factor, at + (this.to - at) * factor);
    }, { passive: false });
  }

  load() {
    this.launches = launchesInTime();
    this.end = this.launches.reduce((most, [, , begin, length]) => Math.max(most, begin + length), 0) || 1;
    this.lanes = CLASSES.filter(([own]) => this.launches.some(([phase, step]) => PHASES[phase].kernel(step).class === own));
    this.all();
  }

  all() { this.view(0, this.end); }

  view(from, to) {
    const width = Math.min(this.end, Math.max(this.end / 1e6, to - from));
    this.from = Math.max(0, Math.min(this.end - width, from));
    this.to = this.from + width;
    this.redraw();
  }

  choose(event) {
    const found = this.find(event);
    if (!found) return;
    if (PHASES[found[0]] !== state.phase) choosePhase(PHASES[found[0]]);
    keep(found[1]);
  }

  x(seconds) { return this.left + (seconds - this.from) / (this.to - this.from) * (this.right - this.left); }
  position(x) { return this.from + (x - this.left) / (this.right - this.left) * (this.to - this.from); }
  get lane() { return (this.bottom - this.top) / Math.max(1, this.lanes.length); }

  find(event) {
    const [x, y] = this.at(event), lane = this.lanes[Math.floor((y - this.top) / this.lane)];
    if (!lane || x < this.left || x > this.right) return null;
    let best = null, nearest = 3;
    for (const launch of this.launches) {
      const [phase, step, begin, length] = launch, x0 = this.x(begin), x1 = this.x(begin + length);
      const away = x < x0 ? x0 - x : x > x1 ? x - x1 : 0;
      if (away < nearest && PHASES[phase].kernel(step).class === lane[0]) {
        [best, nearest] = [launch, away];
        if (away === 0) break;
      }
    }
    return best;
  }

  draw(g) {
    if (!this.launches) return;
    const high = this.lane;
    this.lanes.forEach(([own, words], at) => {
      g.fillStyle = colours.well;
      g.fillRect(this.left, this.top + at * high + 1, this.right - this.left, high - 2);
      write(g, words, this.left - 8, this.top + (at + 0.5) * high, colours.soft, "right");
    });
    for (const value of ticks(this.end, 8 * this.end / (this.to - this.from), false)) {
      const x = this.x(value);
      if (x < this.left - 1 || x > this.right + 1) continue;
      line(g, x, this.top, x, this.bottom, colours.line);
      write(g, time(value), Math.min(x, this.right - 14), this.bottom + 10, colours.faint, "center");
    }
    const lane = new Map(this.lanes.map(([own], at) => [own, this.top + at * high + 2])), narrowed = filtered();
    for (const [number, step, begin, length] of this.launches) {
      const x0 = Math.max(this.left, this.x(begin)), x1 = Math.min(this.right, this.x(begin + length));
      if (x1 <= this.left || x0 >= this.right) continue;
      const phase = PHASES[number], own = phase.kernel(step).class;
      g.globalAlpha = !narrowed || matches(phase, step) ? (phase === state.phase ? 1 : 0.55) : 0.12;
      g.fillStyle = colours[own];
      g.fillRect(x0, lane.get(own), Math.max(0.6, x1 - x0 - (x1 - x0 > 3 ? 0.6 : 0)), high - 4);
    }
    g.globalAlpha = 1;
  }

  mark(g) {
    if (!this.launches) return;
    for (const [at, colour] of [[state.launch, colours.ink], [state.hover, colours.soft]]) {
      for (const [number, step, begin, length] of this.launches) {
        if (step !== at || PHASES[number] !== state.phase) continue;
        const x = this.x(begin + length / 2);
        if (x >= this.left && x <= this.right) line(g, x, this.top, x, this.bottom, colour);
      }
    }
    if (this.drag && Math.abs(this.drag.now - this.drag.x) > 6) {
      g.fillStyle = colours.accent;
      g.globalAlpha = 0.2;
      g.fillRect(this.drag.x, this.top, this.drag.now - this.drag.x, this.bottom - this.top);
      g.globalAlpha = 1;
    }
  }
}

const timeline = DATA.measured || MACHINE ? new Timeline() : null;
if (timeline) {
  byId("timeline-all").addEventListener("click", () => timeline.all());
  on("phase", () => {
    if (!DATA.measured || !timeline.launches) timeline.load();
    const busy = timeline.launches.reduce((sum, launch) => sum + launch[3], 0);
    byId("timeline-note").textContent = DATA.measured
      ? `The shortest of ${plural(DATA.measured.runs, "run")}: ${time(timeline.end)}, of which ${share(timeline.end - busy, timeline.end)} lie between launches.`
      : `As long as they take at the least: ${time(timeline.end)} in all.`;
    timeline.box.setAttribute("aria-label", `${byId("timeline-title").textContent}. ${byId("timeline-note").textContent}`);
  });
  on("phase filter colours", () => timeline.redraw());
  on("launch hover", () => timeline.point());
} else byId("timeline-card").remove();
