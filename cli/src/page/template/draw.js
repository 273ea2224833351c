// Canvases that follow the size and the colours of the page.
"use strict";

/** The colours of the style sheet, read again when the page turns light or dark. */
const colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["page", "card", "well", "line", "strong", "ink", "soft", "faint", "accent", "peak"];
  for (const name of names.concat(CLASSES.map(([own]) => own))) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
}
readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); change("colours"); });

/** Two canvases in an element: the figure, and what follows the pointer. */
class Chart {
  constructor(id, margins) {
    this.box = byId(id);
    this.margins = margins;
    this.layers = [0, 1].map(() => {
      const canvas = element("canvas", { "aria-hidden": "true" });
      this.box.append(canvas);
      return canvas.getContext("2d");
    });
    this.width = this.height = 0;
    new ResizeObserver(() => this.resize()).observe(this.box);
    this.box.addEventListener("pointerleave", () => hideTip());
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box, scale = devicePixelRatio || 1;
    if (!width || (width === this.width && height === this.height && scale === this.scale)) return;
    Object.assign(this, { width, height, scale });
    for (const { canvas } of this.layers) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    this.redraw();
  }

  redraw() {
    if (!this.width) return;
    this.clear(0);
    this.draw(this.layers[0]);
    this.point();
  }

  /** Draws what follows the pointer anew. */
  point() {
    if (!this.width) return;
    this.clear(1);
    if (this.mark) this.mark(this.layers[1]);
  }

  clear(layer) {
    const g = this.layers[layer];
    g.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    g.clearRect(0, 0, this.width, this.height);
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    g.globalAlpha = 1;
    g.setLineDash([]);
  }

  get left() { return this.margins[3]; }
  get right() { return this.width - this.margins[1]; }
  get top() { return this.margins[0]; }
  get bottom() { return this.height - this.margins[2]; }

  /** The pointer in pixels of the chart. */
  at(event) {
    const box = this.box.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
}

function line(g, x0, y0, x1, y1, colour, width = 1, dash = []) {
  g.strokeStyle = colour;
  g.lineWidth = width;
  g.setLineDash(dash);
  g.beginPath();
  g.moveTo(x0, y0);
  g.lineTo(x1, y1);
  g.stroke();
  g.setLineDash([]);
}

function write(g, words, x, y, colour, align = "left") {
  g.fillStyle = colour;
  g.textAlign = align;
  g.fillText(words, x, y);
}

/** Words on a ground of their own, so that they can be read over anything. */
function plate(g, words, x, y, colour, align = "left") {
  const width = g.measureText(words).width, left = align === "left" ? x : align === "right" ? x - width : x - width / 2;
  g.fillStyle = colours.card;
  g.globalAlpha = 0.85;
  g.fillRect(left - 3, y - 8, width + 6, 16);
  g.globalAlpha = 1;
  write(g, words, left, y, colour);
}

/** Round steps that divide `0..most` into about `wanted` parts; of bytes in powers of two. */
function ticks(most, wanted, binary) {
  const rough = most / wanted;
  if (!(rough > 0)) return [0];
  let step;
  if (binary) step = 2 ** Math.ceil(Math.log2(rough));
  else {
    const base = 10 ** Math.floor(Math.log10(rough));
    step = [1, 2, 5, 10].map((each) => each * base).find((each) => each >= rough);
  }
  const out = [];
  for (let value = 0; value <= most * 1.0001; value += step) out.push(value);
  return out;
}

/** Whether dark words are read better than light ones on a colour `#rrggbb`. */
function isLight(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.3 * r + 0.59 * g + 0.11 * b > 140;
}

// ---- the tip beside the pointer

function showTip(event, ...children) {
  const tip = byId("tip");
  fill(tip, ...children);
  tip.style.display = "block";
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const y = Math.min(event.clientY + 14, innerHeight - height - 8);
  tip.style.left = Math.max(4, x) + "px";
  tip.style.top = Math.max(4, y) + "px";
}

function hideTip() { byId("tip").style.display = "none"; }
