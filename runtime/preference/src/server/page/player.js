// Two videos that play as one: one clock, one speed, one place, one zoom.
//
// The left one leads. The right one is set to its place where they are more than a frame apart, and
// both begin again together at the end of the shorter one.

const TICK = 100;
const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2];
const ZOOMS = [1, 2, 4];

export class Pair {
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    this.videos = [...stage.querySelectorAll('video')];
    this.views = [...stage.querySelectorAll('.view')];
    this.speed = Number(localStorage.getItem('anyid.speed')) || 1;
    if (!SPEEDS.includes(this.speed)) this.speed = 1;
    this.zoom = 1;
    this.pan = [0.5, 0.5];
    this.fps = 24;
    this.playing = false;
    this.ready = false;
    this.failed = false;
    this.watched = 0;
    this.plays = 0;
    this.last = null;
    for (const video of this.videos) {
      video.addEventListener('canplaythrough', () => this.begin());
      video.addEventListener('error', () => {
        if (!video.getAttribute('src')) return;
        this.failed = true;
        this.changed('failed');
      });
      // What ended by itself begins again with the other one.
      video.addEventListener('ended', () => this.playing && this.again());
    }
    for (const view of this.views) {
      view.addEventListener('pointermove', (event) => {
        if (this.zoom === 1) return;
        const box = view.getBoundingClientRect();
        this.pan = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        this.place();
      });
    }
    setInterval(() => this.tick(), TICK);
  }

  load(tokens, fps, paused) {
    this.fps = fps || 24;
    this.ready = this.failed = false;
    this.watched = this.plays = 0;
    this.last = null;
    this.wanted = !paused;
    this.playing = false;
    this.videos.forEach((video, at) => {
      video.src = `/media/${tokens[at]}`;
      video.playbackRate = this.speed;
      video.load();
    });
    this.setZoom(1);
    this.changed('load');
  }

  get length() {
    const lengths = this.videos.map((video) => video.duration).filter((length) => length > 0);
    return lengths.length === 2 ? Math.min(...lengths) : 0;
  }

  get time() { return this.videos[0].currentTime; }

  begin() {
    if (this.ready || this.videos.some((video) => video.readyState < 4)) return;
    this.ready = true;
    this.changed('ready');
    if (this.wanted) this.play();
  }

  play() {
    if (!this.ready || this.failed) return;
    if (this.time >= this.length - 0.5 / this.fps) this.seek(0);
    this.playing = true;
    this.last = this.time;
    for (const video of this.videos) {
      video.playbackRate = this.speed;
      video.play().catch(() => { this.pause(); });
    }
    this.changed('play');
  }

  pause() {
    this.playing = false;
    for (const video of this.videos) video.pause();
    if (this.ready) this.videos[1].currentTime = this.time;
    this.changed('pause');
  }

  toggle() { if (this.playing) this.pause(); else this.play(); }

  again() {
    if (this.last !== null) this.watched += Math.max(0, this.length - this.last);
    this.plays += 1;
    this.last = 0;
    for (const video of this.videos) {
      video.currentTime = 0;
      video.play().catch(() => { this.pause(); });
    }
    this.changed('loop');
  }

  seek(time) {
    const place = Math.min(Math.max(time, 0), Math.max(0, this.length - 0.5 / this.fps));
    this.last = place;
    for (const video of this.videos) video.currentTime = place;
    this.changed('seek');
  }

  step(frames) {
    if (this.playing) this.pause();
    const frame = Math.floor(this.time * this.fps + 0.01) + frames;
    // The middle of a frame: its borders may be rounded to the next one.
    this.seek((frame + 0.5) / this.fps);
  }

  setSpeed(by) {
    const at = Math.min(Math.max(SPEEDS.indexOf(this.speed) + by, 0), SPEEDS.length - 1);
    this.speed = SPEEDS[at];
    localStorage.setItem('anyid.speed', this.speed);
    for (const video of this.videos) video.playbackRate = this.speed;
    this.changed('speed');
  }

  setZoom(times) {
    this.zoom = times;
    this.pan = [0.5, 0.5];
    this.place();
    this.changed('zoom');
  }

  nextZoom() { this.setZoom(ZOOMS[(ZOOMS.indexOf(this.zoom) + 1) % ZOOMS.length]); }

  move(x, y) {
    this.pan = [this.pan[0] + x, this.pan[1] + y].map((v) => Math.min(Math.max(v, 0), 1));
    this.place();
  }

  place() {
    this.stage.classList.toggle('zoomed', this.zoom > 1);
    for (const video of this.videos) {
      video.style.transformOrigin = `${100 * this.pan[0]}% ${100 * this.pan[1]}%`;
      video.style.transform = this.zoom > 1 ? `scale(${this.zoom})` : '';
    }
  }

  tick() {
    if (!this.playing) return;
    const [left, right] = this.videos;
    const moved = left.currentTime - (this.last ?? left.currentTime);
    if (moved > 0 && moved < 1) this.watched += moved;
    this.last = left.currentTime;
    if (left.currentTime >= this.length - 0.5 / this.fps) { this.again(); return; }
    if (Math.abs(left.currentTime - right.currentTime) > 1 / this.fps) {
      right.currentTime = left.currentTime;
    }
    this.changed('time');
  }

  // How often both have played to their end.
  get loops() { return this.length > 0 ? this.watched / this.length : 0; }

  stop() {
    this.pause();
    for (const video of this.videos) { video.removeAttribute('src'); video.load(); }
  }
}
