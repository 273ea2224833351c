// Memory over launches: the curve of live bytes above, and below the place of every value.
"use strict";

/** Positions on the horizontal axis: launches are equally wide, or as wide as they take time. */
function axisAt(step) {
  const phase = state.phase;
  if (state.axis === "launches") return step;
  // What the plan gives is live after the last launch, which takes no time.
  return step > phase.count ? phase.total * 1.004 : phase.ends[step];
}

function axisEnd() { return axisAt(state.phase.count + 1); }

/** The launch at a position. */
function stepAt(position) {
  const phase = state.phase;
  let [low, high] = [0, phase.count];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (axisAt(middle) <= position) low = middle; else high = middle - 1;
  }
  return low;
}

function setView(from, to) {
  const end = axisEnd(), least = end / Math.max(1, state.phase.count) / 2;
  const width = Math.min(end, Math.max(least, to - from));
  state.from = Math.max(0, Math.min(end - width, from));
  state.to = state.from + width;
  change("view");
}

function showAll() { setView(0, axisEnd()); }

/** Zooms by a factor around a position. */
function zoom(factor, around) {
  setView(around - (around - state.from) * factor, around + (state.to - around) * factor);
}

/** Moves the view just so far that a launch is seen. */
function reveal(step) {
  const [a, b] = [axisAt(step), axisAt(step + 1)], width = state.to - state.from;
  if (a < state.from) setView(a - width * 0.1, a + width * 0.9);
  else if (b > state.to) setView(b - width * 0.9, b + width * 0.1);
}

const MARGIN = [6, 10, 4, 64];

class Overview extends Chart {
  constructor() {
    super("overview", MARGIN);
    const position = (event) => (this.at(event)[0] - this.left) / (this.right - this.left) * axisEnd();
    let grip = null;
    this.box.addEventListener("pointerdown", (event) => {
      this.box.setPointerCapture(event.pointerId);
      const at = position(event), whole = state.to - state.from >= axisEnd() * 0.999;
      // Inside the window it is moved, elsewhere a new one is drawn.
      grip = { at, moves: !whole && state.from <= at && at <= state.to, from: state.from, width: state.to - state.from };
    });
    this.box.addEventListener("pointermove", (event) => {
      const at = position(event);
      if (!grip) { hover(stepAt(at), -1); return; }
      if (grip.moves) setView(grip.from + at - grip.at, grip.from + at - grip.at + grip.width);
      else if (Math.abs(at - grip.at) > axisEnd() * 0.005) setView(Math.min(at, grip.at), Math.max(at, grip.at));
    });
    this.box.addEventListener("pointerup", (event) => {
      if (grip && Math.abs(position(event) - grip.at) <= axisEnd() * 0.005) keep(stepAt(grip.at));
      grip = null;
    });
    this.box.addEventListener("pointerleave", () => { if (!grip) hover(-1, -1); });
    this.box.addEventListener("dblclick", showAll);
  }

  x(position) { return this.left + position / axisEnd() * (this.right - this.left); }

  draw(g) {
    const phase = state.phase, most = Math.max(phase.workspace, phase.bound, 1);
    const y = (value) => this.bottom - value / (most * 1.12) * (this.bottom - this.top);
    g.fillStyle = colours.well;
    g.fillRect(this.left, this.top, this.right - this.left, this.bottom - this.top);
    g.beginPath();
    g.moveTo(this.left, this.bottom);
    for (let step = 0; step <= phase.count; step += 1) {
      g.lineTo(this.x(axisAt(step)), y(phase.live[step]));
      g.lineTo(this.x(axisAt(step + 1)), y(phase.live[step]));
    }
    g.lineTo(this.right, this.bottom);
    g.closePath();
    g.fillStyle = colours.accent;
    g.globalAlpha = 0.28;
    g.fill();
    g.globalAlpha = 1;
    line(g, this.left, y(phase.workspace), this.right, y(phase.workspace), colours.soft);
    line(g, this.left, y(phase.bound), this.right, y(phase.bound), colours.peak, 1.5, [5, 4]);
    for (const value of ticks(most, 2, true)) {
      write(g, bytes(value), this.left - 6, Math.min(this.bottom - 6, y(value)), colours.faint, "right");
    }
    if (phase.peak !== null) {
      const x = this.x((axisAt(phase.peak) + axisAt(phase.peak + 1)) / 2), top = y(phase.live[phase.peak]);
      g.fillStyle = colours.peak;
      g.beginPath();
      g.moveTo(x, top + 1);
      g.lineTo(x - 5, top - 7);
      g.lineTo(x + 5, top - 7);
      g.fill();
      const words = `peak ${bytes(phase.workspace)}, lower bound ${bytes(phase.bound)}`;
      const right = x + 12 + g.measureText(words).width < this.right;
      plate(g, words, x + (right ? 12 : -12), Math.max(this.top + 9, top + 12), colours.peak, right ? "left" : "right");
    }
  }

  mark(g) {
    const [from, to] = [this.x(state.from), this.x(state.to)];
    if (state.to - state.from < axisEnd() * 0.999) {
      g.fillStyle = colours.card;
      g.globalAlpha = 0.6;
      g.fillRect(this.left, this.top, from - this.left, this.bottom - this.top);
      g.fillRect(to, this.top, this.right - to, this.bottom - this.top);
      g.globalAlpha = 1;
      g.strokeStyle = colours.accent;
      g.lineWidth = 1.5;
      g.strokeRect(from, this.top, to - from, this.bottom - this.top);
    }
    for (const [step, colour] of [[state.launch, colours.ink], [state.hover, colours.soft]]) {
      if (step < 0) continue;
      const x = this.x((axisAt(step) + axisAt(step + 1)) / 2);
      line(g, x, this.top, x, this.bottom, colour);
    }
  }
}

/** Scopes that follow each other, for the axis: at the depth at which there are most that can still be told apart. */
function scopes(phase) {
  const all = Array.from({ length: phase.count }, (_, step) => parts(phase.label(step))[0].split("/").slice(0, -1));
  let best = [];
  for (let depth = 0; depth < 5; depth += 1) {
    const out = [];
    all.forEach((each, step) => {
      const name = each[depth] || "", last = out[out.length - 1];
      if (last && last.name === name) last.to = step + 1; else out.push({ name, from: step, to: step + 1 });
    });
    if (out.length > Math.max(1, best.length) && out.length <= Math.min(160, phase.count / 4)) best = out;
  }
  return best;
}

class MemoryMap extends Chart {
  constructor() {
    super("memory", [6, 10, 30, 64]);
    let drag = null;
    const box = this.box;
    box.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      box.setPointerCapture(event.pointerId);
      drag = { x: this.at(event)[0], now: this.at(event)[0] };
    });
    box.addEventListener("pointermove", (event) => {
      const [x, y] = this.at(event);
      if (drag) { drag.now = x; this.drag = drag; this.point(); }
      const step = this.step(x), piece = state.phase.pieceAt(step, this.byte(y));
      hover(step, piece);
      this.tip(event, step, piece);
    });
    box.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const [a, b] = [drag.x, this.at(event)[0]].sort((one, other) => one - other);
      if (b - a > 6) setView(this.position(a), this.position(b));
      else keep(this.step(drag.x));
      drag = this.drag = null;
      this.point();
    });
    box.addEventListener("pointerleave", () => { if (!drag) hover(-1, -1); });
    box.addEventListener("dblclick", showAll);
    box.addEventListener("wheel", (event) => {
      const width = state.to - state.from;
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        zoom(event.deltaY > 0 ? 1.25 : 0.8, this.position(this.at(event)[0]));
      } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        const by = (event.deltaX || event.deltaY) / (this.right - this.left) * width;
        setView(state.from + by, state.to + by);
      }
    }, { passive: false });
    box.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const phase = state.phase, to = (step) => keep(Math.max(0, Math.min(phase.count, step)), true);
    const keys = {
      ArrowLeft: () => to(state.launch - 1), ArrowRight: () => to(state.launch + 1),
      ArrowDown: () => to(state.launch - 1), ArrowUp: () => to(state.launch + 1),
      PageUp: () => to(state.launch - 10), PageDown: () => to(state.launch + 10),
      Home: () => to(0), End: () => to(phase.count),
      p: () => to(phase.peak === null ? 0 : phase.peak),
      "+": () => zoom(0.6, axisAt(state.launch)), "=": () => zoom(0.6, axisAt(state.launch)),
      "-": () => zoom(1.7, axisAt(state.launch)), Escape: showAll,
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  x(position) { return this.left + (position - state.from) / (state.to - state.from) * (this.right - this.left); }
  position(x) { return state.from + (x - this.left) / (this.right - this.left) * (state.to - state.from); }
  step(x) { return stepAt(Math.max(0, Math.min(axisEnd() * 0.99999, this.position(x)))); }
  get most() { return Math.max(state.phase.workspace, 1) * 1.03; }
  y(byte) { return this.bottom - byte / this.most * (this.bottom - this.top); }
  byte(y) { return (this.bottom - y) / (this.bottom - this.top) * this.most; }

  /** Left, top, width and height of a piece, clipped to the figure. */
  rectangle(piece) {
    const { from, to, offset, bytes: size } = state.phase.memory;
    const x0 = Math.max(this.left, this.x(axisAt(from[piece]))), x1 = Math.min(this.right, this.x(axisAt(to[piece] + 1)));
    const y1 = this.y(offset[piece]), y0 = this.y(offset[piece] + size[piece]);
    return [x0, y0, x1 - x0, y1 - y0];
  }

  draw(g) {
    const phase = state.phase, { label } = phase.memory, narrowed = filtered();
    g.fillStyle = colours.well;
    g.fillRect(this.left, this.top, this.right - this.left, this.bottom - this.top);
    for (const value of ticks(phase.workspace, 6, true)) {
      line(g, this.left, this.y(value), this.right, this.y(value), colours.line);
      write(g, bytes(value), this.left - 6, this.y(value), colours.faint, "right");
    }
    const named = [];
    for (let i = 0; i < phase.pieces; i += 1) {
      let [x, y, w, h] = this.rectangle(i);
      if (w <= 0) continue;
      if (w > 3) { x += 0.5; w -= 1; }
      if (h > 3) { y += 0.5; h -= 1; }
      const full = !narrowed || this.found(i);
      g.globalAlpha = full ? 1 : 0.13;
      g.fillStyle = colours[phase.classes[i]];
      g.fillRect(x, y, Math.max(w, 0.7), Math.max(h, 0.7));
      if (full && w > 54 && h > 15) named.push([i, x, y, w, h]);
    }
    g.globalAlpha = 1;
    if (!phase.pieces) {
      write(g, "This phase needs no workspace.", (this.left + this.right) / 2, (this.top + this.bottom) / 2, colours.soft, "center");
    }
    g.font = "11px ui-monospace, monospace";
    for (const [i, x, y, w, h] of named) {
      const room = Math.floor((w - 12) / 6.7), own = text(label[i]), name = parts(label[i])[1];
      const shown = own.length <= room ? own : name.length <= room ? name : name.slice(0, room - 1) + "…";
      write(g, shown, x + 6, y + h / 2, isLight(colours[phase.classes[i]]) ? "#161615" : "#ffffff");
    }
    g.font = "11px system-ui, sans-serif";
    line(g, this.left, this.y(phase.workspace), this.right, this.y(phase.workspace), colours.soft);
    line(g, this.left, this.y(phase.bound), this.right, this.y(phase.bound), colours.peak, 1.5, [5, 4]);
    if (phase.peak !== null && phase.workspace > 0) {
      const [x0, x1] = [axisAt(phase.peak), axisAt(phase.peak + 1)].map((each) => this.x(each));
      if (x1 > this.left && x0 < this.right) {
        const x = (x0 + x1) / 2;
        line(g, x, this.top, x, this.bottom, colours.peak, 1, [2, 3]);
      }
    }
    this.axis(g);
  }

  /** Whether a value is among what the search and the filters leave. */
  found(piece) {
    const phase = state.phase, { from, buffer, label } = phase.memory;
    if (state.query && !state.class && state.kernel < 0) {
      if (lower[label[piece]].includes(state.query) || phase.type(buffer[piece]).includes(state.query)) return true;
    }
    if (phase.classes[piece] === "other") return state.class === "other";
    return from[piece] < phase.count && matches(phase, from[piece]);
  }

  axis(g) {
    const phase = state.phase, y = this.bottom + 9;
    if (state.axis === "time") {
      for (const value of ticks(phase.total, 8 * phase.total / (state.to - state.from), false)) {
        const x = this.x(value);
        if (x < this.left - 1 || x > this.right + 1) continue;
        line(g, x, this.bottom, x, this.bottom + 3, colours.strong);
        write(g, time(value), x, y + 2, colours.faint, "center");
      }
    } else {
      for (const value of ticks(phase.count, 8 * phase.count / (state.to - state.from), false)) {
        // Launches are counted from 1.
        const x = this.x(value - 0.5);
        if (!Number.isInteger(value) || value < 1 || x < this.left + 8 || x > this.right) continue;
        write(g, String(value), x, y + 2, colours.faint, "center");
      }
    }
    const bands = this.bands || (this.bands = scopes(phase));
    bands.forEach(({ name, from, to }, at) => {
      const x0 = Math.max(this.left, this.x(axisAt(from))), x1 = Math.min(this.right, this.x(axisAt(to)));
      if (x1 <= x0) return;
      g.fillStyle = at % 2 ? colours.line : colours.strong;
      g.fillRect(x0, this.bottom + 19, x1 - x0, 10);
      const short = name.replace(/^.*\.(?=\d)/, "");
      const words = [name, short].find((each) => each && g.measureText(each).width < x1 - x0 - 4);
      g.font = "9px system-ui, sans-serif";
      if (words) write(g, words, (x0 + x1) / 2, this.bottom + 24.5, colours.ink, "center");
      g.font = "11px system-ui, sans-serif";
    });
  }

  mark(g) {
    const phase = state.phase;
    for (const [step, colour, alpha] of [[state.launch, colours.ink, 0.16], [state.hover, colours.ink, 0.07]]) {
      if (step < 0) continue;
      const x0 = Math.max(this.left, this.x(axisAt(step))), x1 = Math.min(this.right, this.x(axisAt(step + 1)));
      if (x1 < this.left || x0 > this.right) continue;
      g.globalAlpha = alpha;
      g.fillStyle = colour;
      g.fillRect(x0, this.top, Math.max(1, x1 - x0), this.bottom - this.top);
      g.globalAlpha = 1;
      line(g, (x0 + x1) / 2, this.top, (x0 + x1) / 2, this.bottom, colour, step === state.launch ? 1.5 : 1);
    }
    if (state.piece >= 0 && state.piece < phase.pieces) {
      const [x, y, w, h] = this.rectangle(state.piece);
      if (w > 0) {
        g.lineWidth = 2;
        g.strokeStyle = colours.card;
        g.strokeRect(x - 1, y - 1, w + 2, h + 2);
        g.strokeStyle = colours.ink;
        g.strokeRect(x, y, w, h);
      }
    }
    if (this.drag && Math.abs(this.drag.now - this.drag.x) > 6) {
      g.fillStyle = colours.accent;
      g.globalAlpha = 0.2;
      g.fillRect(this.drag.x, this.top, this.drag.now - this.drag.x, this.bottom - this.top);
      g.globalAlpha = 1;
    }
  }

  tip(event, step, piece) {
    const phase = state.phase;
    const live = `${bytes(phase.live[step])} live at launch ${Math.min(step + 1, phase.count)}`;
    if (piece < 0) { showTip(event, element("div", {}, live)); return; }
    const { from, to, offset, bytes: size, buffer, label } = phase.memory;
    const until = to[piece] >= phase.count ? "the end" : `launch ${to[piece] + 1}`;
    showTip(event, nameElement(label[piece]),
      element("div", {}, `${phase.type(buffer[piece])}, ${bytes(size[piece])} at ${offset[piece].toLocaleString("en")}`),
      element("div", {}, `launch ${from[piece] + 1} to ${until}: ${from[piece] < phase.count ? phase.kernel(from[piece]).name : ""}`),
      element("div", {}, live));
  }
}

const overview = new Overview(), map = new MemoryMap();
on("phase", () => { map.bands = null; });
on("phase view colours filter", () => { overview.redraw(); map.redraw(); });
on("launch hover", () => { overview.point(); map.point(); });

/** The launch and the value under the pointer. */
function hover(step, piece) {
  if (step === state.hover && piece === state.piece) return;
  Object.assign(state, { hover: step, piece });
  change("hover");
}

/** Keeps a launch; `told` also says it to screen readers. */
function keep(step, told = false) {
  state.launch = Math.max(0, Math.min(state.phase.count, step));
  reveal(state.launch);
  change("launch");
  if (told) on1(() => { byId("status").textContent = map.box.getAttribute("aria-valuetext"); });
}

/** Calls `then` after the page has taken in a change. */
function on1(then) { requestAnimationFrame(() => requestAnimationFrame(then)); }

on("launch phase", () => {
  const phase = state.phase, step = state.launch;
  map.box.setAttribute("aria-valuemax", phase.count + 1);
  map.box.setAttribute("aria-valuenow", step + 1);
  const what = step < phase.count ? `launch ${step + 1} of ${phase.count}, ${phase.title(step)}, ${phase.kernel(step).name}`
    : "after the last launch";
  map.box.setAttribute("aria-valuetext", `${what}, ${bytes(phase.live[step])} live in ${plural(phase.liveAt(step).length, "value")}`);
});
