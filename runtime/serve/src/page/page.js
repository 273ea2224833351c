// The page of the server: asks for videos, shows how far they are, plays them.
"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const form = at("form");
  let token = sessionStorage.getItem("token") || "";
  let model = null;
  let chosen = [];
  let watched = null;
  const shown = new Map();

  function make(tag, about = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(about)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...inside);
    return element;
  }

  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  function tell(text) { at("said").textContent = text; }

  function fault(error) {
    at("fault").textContent = error ? error.message : "";
    at("fault").hidden = !error;
  }

  // An answer of the server; faults are its own words with their code.
  async function ask(path, options = {}) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server cannot be reached.");
    }
    if (answer.ok) return answer;
    const said = await answer.json().then((body) => body.error, () => null);
    if (answer.status === 401) {
      at("locked").hidden = false;
      at("token").focus();
    }
    const help = said && said.help ? ` (${said.help})` : "";
    throw new Error(said ? `${said.code}: ${said.message}${help}` : `HTTP ${answer.status}`);
  }

  const json = async (path, options) => (await ask(path, options)).json();

  async function begin() {
    try {
      model = (await json("/v1/models")).data[0];
      at("locked").hidden = true;
      fault(null);
      const { usual, multiples, limits } = model;
      for (const name of ["width", "height", "frames", "steps", "guidance"]) {
        form.elements[name].value = usual[name];
      }
      for (const name of ["frames", "steps"]) form.elements[name].max = limits[name];
      form.elements.width.step = multiples.width;
      form.elements.height.step = multiples.height;
      form.elements.width.min = multiples.width;
      form.elements.height.min = multiples.height;
      at("model").textContent = `model ${model.id}`;
      at("about-sizes").textContent =
        `Width in steps of ${multiples.width}, height of ${multiples.height}; ` +
        `the number of frames is ${multiples.frames}, 24 a second.`;
      await refresh();
    } catch (error) {
      at("model").textContent = "";
      fault(error);
    }
  }

  function choose(files) {
    const most = model ? model.limits.references : 5;
    chosen = chosen.concat([...files]);
    if (chosen.length > most) fault(new Error(`At most ${most} references are taken.`));
    else fault(null);
    chosen = chosen.slice(0, most);
    showChosen();
  }

  function showChosen() {
    at("chosen").replaceChildren(...chosen.map((file, place) => {
      const parts = [];
      if (file.type.startsWith("image/")) {
        const url = URL.createObjectURL(file);
        const picture = make("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) });
        picture.onerror = () => picture.remove();
        parts.push(picture);
      }
      parts.push(make("span", { title: file.name }, file.name));
      parts.push(make("button", {
        type: "button",
        "aria-label": `Leave out ${file.name}`,
        onclick: () => {
          chosen.splice(place, 1);
          showChosen();
          at("references").focus();
        },
      }, "×"));
      return make("li", {}, ...parts);
    }));
  }

  async function send(event) {
    event.preventDefault();
    const body = new FormData();
    const value = (name) => form.elements[name].value.trim();
    body.append("prompt", value("prompt"));
    if (value("width") && value("height")) {
      body.append("size", `${value("width")}x${value("height")}`);
    }
    for (const name of ["frames", "steps", "guidance", "seed"]) {
      if (value(name)) body.append(name, value(name));
    }
    for (const file of chosen) body.append("input_reference", file, "reference");
    at("send").disabled = true;
    try {
      const video = await json("/v1/videos", { method: "POST", body });
      fault(null);
      show(video, true);
      tell("The video is in the queue.");
      watch();
    } catch (error) {
      fault(error);
    } finally {
      at("send").disabled = false;
    }
  }

  const words = {
    queued: "waiting", in_progress: "being made", completed: "ready", failed: "failed",
    cancelled: "cancelled",
  };

  function state(video) {
    if (video.status === "queued" && video.queue_position) {
      return `waiting, ${video.queue_position} before it`;
    }
    if (video.status === "in_progress" && video.stage) {
      const { name, done, total } = video.stage;
      return `being made: ${name}${total ? ` ${done} of ${total}` : ""}`;
    }
    return words[video.status] || video.status;
  }

  async function load(video, frame) {
    const path = `/v1/videos/${video.id}/content`;
    const [width] = video.size.split("x").map(Number);
    const player = make("video", { controls: true, loop: true, muted: true, playsInline: true,
      preload: "metadata", className: width < 160 ? "small" : "" });
    player.setAttribute("aria-label", video.prompt);
    const offered = (source) => {
      player.src = source;
      const link = frame.parentElement.querySelector(".save");
      link.href = source;
      link.hidden = false;
      frame.replaceChildren(player);
    };
    // A player cannot send the token, so that the video is fetched for it.
    if (!token) return offered(path);
    try {
      offered(URL.createObjectURL(await (await ask(path)).blob()));
    } catch (error) {
      frame.replaceChildren(make("p", { className: "fault" }, error.message));
    }
  }

  function card(video) {
    const frame = make("div", { className: "frame" });
    const about = make("div", { className: "what" });
    const item = make("li", {}, frame, about);
    const entry = { item, frame, about, status: null };
    about.append(
      make("p", { className: "prompt" }, video.prompt),
      make("p", { className: "facts" },
        [video.size, count(video.frames, "frame"), count(video.steps, "step"),
          `guidance ${video.guidance}`, `seed ${video.seed}`,
          count(video.references, "reference")].join(", ")),
      entry.state = make("p", {}),
      entry.bar = make("progress", { max: 100, value: 0 }),
      entry.note = make("p", { className: "hint" }),
      entry.actions = make("div", { className: "actions" }),
    );
    entry.bar.setAttribute("aria-label", "Progress");
    return entry;
  }

  function act(label, video, method, path, after) {
    let busy = false;
    return make("button", {
      type: "button",
      // It stays as it is meanwhile: what is disabled loses the focus.
      onclick: async () => {
        if (busy) return;
        busy = true;
        try {
          after(await json(path, { method }));
        } catch (error) {
          fault(error);
        } finally {
          busy = false;
        }
      },
    }, label, make("span", { className: "unseen" }, ` ${video.prompt}`));
  }

  // Puts a video into the list, or what is new of it; `first` is for those that have just come.
  function show(video, first) {
    let entry = shown.get(video.id);
    if (!entry) {
      entry = card(video);
      shown.set(video.id, entry);
      if (first) at("list").prepend(entry.item);
      else at("list").append(entry.item);
      at("none").hidden = true;
    }
    entry.video = video;
    entry.state.textContent = state(video);
    entry.bar.hidden = video.status !== "in_progress";
    entry.bar.value = video.progress;
    const said = video.error ? [`${video.error.code}: ${video.error.message}`] : video.warnings;
    entry.note.textContent = said.join(" · ");
    entry.note.className = video.error ? "fault" : "hint";
    if (entry.status === video.status) return;
    const before = entry.status;
    entry.status = video.status;
    const over = ["completed", "failed", "cancelled"].includes(video.status);
    if (before && over) tell(`The video is ${words[video.status]}: ${video.prompt}`);
    const path = `/v1/videos/${video.id}`;
    const held = entry.actions.contains(document.activeElement);
    entry.actions.replaceChildren(
      make("a", { className: "save", hidden: true, download: `${video.id}.mp4` }, "Save"),
      over
        ? act("Delete", video, "DELETE", path, () => remove(video.id))
        : act("Cancel", video, "POST", `${path}/cancel`, (now) => { show(now); watch(); }),
    );
    if (held) entry.actions.querySelector("button").focus();
    if (video.status !== "completed") {
      entry.frame.replaceChildren(make("p", { className: "soft" }, words[video.status]));
    } else if (before || !token) {
      load(video, entry.frame);
    } else {
      entry.frame.replaceChildren(
        make("button", { type: "button", onclick: () => load(video, entry.frame) }, "Show"));
    }
  }

  function remove(id) {
    const entry = shown.get(id);
    if (!entry) return;
    const held = entry.item.contains(document.activeElement);
    entry.item.remove();
    shown.delete(id);
    at("none").hidden = shown.size > 0;
    if (held) at("videos").focus();
  }

  // Follows the oldest video that is not finished; the next one when that is.
  async function watch() {
    if (watched) return;
    const open = [...shown.values()].filter((entry) =>
      ["queued", "in_progress"].includes(entry.status));
    if (!open.length) return;
    open.sort((a, b) => (a.video.queue_position ?? -1) - (b.video.queue_position ?? -1));
    watched = open[0].video.id;
    let lost = false;
    try {
      const answer = await ask(`/v1/videos/${watched}/events`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const data = event.split("\n").find((line) => line.startsWith("data:"));
          if (!data) continue;
          const video = JSON.parse(data.slice(5));
          if (video.object === "video") show(video);
          else remove(video.id);
        }
      }
    } catch {
      lost = true;
    }
    watched = null;
    if (lost) await new Promise((resolve) => setTimeout(resolve, 3000));
    try {
      await refresh();
    } catch (error) {
      fault(error);
      setTimeout(watch, 5000);
    }
  }

  async function refresh() {
    const page = await json("/v1/videos?limit=20");
    for (const video of page.data.slice().reverse()) show(video, true);
    at("more").hidden = !page.has_more;
    at("more").onclick = () => older().catch(fault);
    watch();
  }

  async function older() {
    const last = at("list").lastElementChild;
    const entry = [...shown.values()].find((entry) => entry.item === last);
    const page = await json(`/v1/videos?limit=20&after=${entry.video.id}`);
    for (const video of page.data) show(video, false);
    at("more").hidden = !page.has_more;
  }

  form.addEventListener("submit", send);
  at("references").addEventListener("change", (event) => {
    choose(event.target.files);
    event.target.value = "";
  });
  at("unlock").addEventListener("click", () => {
    token = at("token").value.trim();
    sessionStorage.setItem("token", token);
    begin();
  });
  at("token").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      at("unlock").click();
    }
  });
  const drop = at("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (name === "drop") choose(event.dataTransfer.files);
    });
  }
  begin();
})();
