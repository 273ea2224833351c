// The page of whoever answers. What is open is known to the server alone: a reload shows it again.

import { Pair } from './player.js';

const byId = (id) => document.getElementById(id);
const words = await (await fetch('/en.json')).json();
const say = (key, values = {}) =>
  (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '');
const still = matchMedia('(prefers-reduced-motion: reduce)');

const KEYS = {
  left: ['ArrowLeft', 'a'], right: ['ArrowRight', 'd'], tie: ['ArrowDown', 't'], skip: ['s'],
  play: [' '], back_frame: [','], next_frame: ['.'], restart: ['r'], zoom: ['z'], slower: ['['],
  faster: [']'], full: ['f'], previous: ['u', 'Backspace'], next: ['Enter'], help: ['?'],
};
const NAMES = {
  ArrowLeft: '←', ArrowRight: '→', ArrowDown: '↓', ArrowUp: '↑', ' ': 'Space', Backspace: '⌫',
  Enter: '⏎',
};
const read = (name, other) => { try { return JSON.parse(localStorage.getItem(name)) ?? other; } catch { return other; } };
let keys = { ...KEYS, ...read('anyid.keys', {}) };
let keysOn = read('anyid.keys_on', true);

let me, track, item, answers = {}, current = 0, shown = 0, away = 0, sending = false, toastTimer, halfway = false;
const pair = new Pair(byId('stage'), onPlayer);

const cookie = (name) => document.cookie.split('; ').find((c) => c.startsWith(`${name}=`))?.slice(name.length + 1) ?? '';
const nonce = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, '0')).join('');

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: 'POST', body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', 'X-CSRF': cookie('anyid_csrf') },
  };
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.message), { status: answer.status, ...value });
  return value;
}

// As often as it takes: what is sent twice is counted once.
async function insist(path, body) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const value = await ask(path, body);
      byId('fault').textContent = '';
      return value;
    } catch (fault) {
      if (fault.status && fault.status !== 503 && fault.status !== 429) throw fault;
      byId('fault').textContent = say('not_saved');
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

function key(action) { return keysOn && keys[action]?.length ? keys[action][0] : null; }
function label(button, text, action) {
  button.textContent = text;
  const name = action && key(action);
  if (name) {
    const mark = document.createElement('kbd');
    mark.textContent = NAMES[name] ?? name.toUpperCase();
    mark.setAttribute('aria-hidden', 'true');
    button.append(mark);
    button.setAttribute('aria-keyshortcuts', name === ' ' ? 'Space' : name);
  } else {
    button.removeAttribute('aria-keyshortcuts');
  }
}
// A sign for the eye, a name for everybody else.
function symbol(button, sign, name, action) {
  label(button, '', action);
  const [seen, said] = [document.createElement('span'), document.createElement('span')];
  seen.textContent = sign;
  seen.setAttribute('aria-hidden', 'true');
  said.textContent = say(name);
  said.className = 'unseen';
  button.prepend(seen, said);
  button.title = say(name);
}

function show(section) {
  for (const id of ['welcome', 'task', 'done']) byId(id).hidden = id !== section;
  byId('leave').hidden = me?.kind !== 'study' || section === 'welcome';
  byId('rest').hidden = me?.kind !== 'study' || section !== 'task';
}

function buttons() {
  symbol(byId('play'), pair.playing ? '❚❚' : '▶', pair.playing ? 'pause' : 'play', 'play');
  symbol(byId('back_frame'), '◀|', 'back_frame', 'back_frame');
  symbol(byId('next_frame'), '|▶', 'next_frame', 'next_frame');
  symbol(byId('restart'), '⟲', 'restart', 'restart');
  symbol(byId('slower'), '−', 'slower', 'slower');
  symbol(byId('faster'), '+', 'faster', 'faster');
  label(byId('zoom'), pair.zoom > 1 ? say('zoomed', { times: pair.zoom }) : say('zoom'), 'zoom');
  byId('zoom').setAttribute('aria-pressed', String(pair.zoom > 1));
  label(byId('full'), say('full'), 'full');
  label(byId('previous'), say('previous'), 'previous');
  label(byId('done_previous'), say('previous'), 'previous');
  label(byId('next'), say('next'), 'next');
  label(byId('skip'), say('skip'), 'skip');
  label(byId('help_open'), say('help'), 'help');
  label(byId('toast_undo'), say('undo'), 'previous');
  byId('controls').setAttribute('aria-label', say('player'));
  byId('time').setAttribute('aria-label', say('time'));
  byId('tracks').setAttribute('aria-label', say('tracks'));
}

function onPlayer(what) {
  const length = pair.length;
  const scale = (seconds) => seconds.toFixed(1);
  byId('clock').textContent = `${scale(pair.time)} / ${scale(length)} s`;
  byId('speed').textContent = `${pair.speed}×`;
  if (document.activeElement !== byId('time') || what !== 'time') {
    byId('time').value = length ? String(Math.round(1000 * pair.time / length)) : '0';
  }
  byId('time').setAttribute('aria-valuetext', `${scale(pair.time)} s`);
  if (what !== 'time') buttons();
  if (what === 'failed') {
    byId('fault').textContent = say('video_failed');
    if (item) ask('/api/event', { assignment: item.id, kind: 'failed', data: {} }).catch(() => {});
  }
  if (what === 'ready' && !shown) shown = performance.now();
  allow();
}

const seen = () => item && pair.loops >= item.min_watch * 0.98;
let allowed = null;
function allow() {
  if (!item) return;
  const now = Boolean(seen()) && !sending;
  if (now === allowed) return;
  allowed = now;
  for (const button of byId('questions').querySelectorAll('button')) button.disabled = !now;
  byId('next').disabled = !now;
  const before = Object.entries(item.answered);
  byId('hint').textContent = !now && !sending ? say('watch')
    : before.length && me.kind !== 'study' ? say('answered_before', { choice: say(before[0][1]) }) : '';
}

const elements = () => (item.preserve ?? []).map((name) => words[`element_${name}`] ?? name);

function question(name) {
  const kept = elements().join(' & ');
  if (me.kind === 'study') return say(`study_${name}`, { elements: elements().join(', ') });
  if (name === 'prompt' && kept) return say('question_prompt_keep', { elements: kept });
  return say(`question_${name}`);
}

function asked() {
  const box = byId('questions');
  box.replaceChildren();
  byId('ask').className = me.kind === 'study' ? 'study' : '';
  byId('task').className = me.kind === 'study' ? 'task-study' : '';
  item.questions.forEach((name, at) => {
    const group = document.createElement('div');
    group.className = 'question';
    group.setAttribute('role', 'group');
    const title = document.createElement('h3');
    title.id = `q_${name}`;
    title.textContent = me.kind === 'study' ? `${at + 1}. ${question(name)}` : question(name);
    group.setAttribute('aria-labelledby', title.id);
    const choices = document.createElement('div');
    choices.className = 'choices';
    for (const choice of item.tie ? ['left', 'tie', 'right'] : ['left', 'right']) {
      const button = document.createElement('button');
      button.type = 'button';
      button.dataset.choice = choice;
      label(button, say(choice), me.kind === 'study' && at !== current ? null : choice);
      button.setAttribute('aria-pressed', String(answers[name] === choice));
      button.addEventListener('click', () => { current = at; choose(choice); });
      choices.append(button);
    }
    group.append(title, choices);
    group.classList.toggle('current', me.kind === 'study' && at === current);
    box.append(group);
  });
  byId('next').hidden = me.kind !== 'study';
  allowed = null;
  allow();
}

function references() {
  const list = byId('refs');
  list.replaceChildren();
  byId('refs_title').textContent = say(item.refs.length > 1 ? 'references' : 'reference');
  item.refs.forEach((reference, at) => {
    const entry = document.createElement('li');
    const button = document.createElement('button');
    const primary = item.track !== 'identity' && at === 0;
    button.type = 'button';
    button.classList.toggle('primary', primary);
    const name = document.createElement('span');
    name.className = 'unseen';
    name.textContent = say(primary ? 'reference_primary' : 'reference_large', { number: at + 1 });
    const media = document.createElement(reference.kind === 'video' ? 'video' : 'img');
    media.src = `/media/${reference.token}`;
    if (reference.kind === 'video') {
      Object.assign(media, { muted: true, loop: true, playsInline: true, autoplay: !still.matches });
    } else {
      media.alt = '';
    }
    button.append(media, name);
    if (keysOn && at < 9 && me.kind !== 'study') {
      const mark = document.createElement('kbd');
      mark.textContent = String(at + 1);
      mark.setAttribute('aria-hidden', 'true');
      button.append(mark);
    }
    button.addEventListener('click', () => enlarge(at));
    entry.append(button);
    list.append(entry);
  });
}

function enlarge(at) {
  const reference = item?.refs[at];
  if (!reference) return;
  const media = document.createElement(reference.kind === 'video' ? 'video' : 'img');
  media.src = `/media/${reference.token}`;
  if (reference.kind === 'video') Object.assign(media, { muted: true, loop: true, controls: true, autoplay: !still.matches });
  else media.alt = say('reference');
  byId('enlarge_title').textContent = say('enlarge');
  byId('enlarge_view').replaceChildren(media);
  open('enlarge');
}

function open(id) {
  const dialog = byId(id);
  if (dialog.open) return;
  const since = performance.now();
  const playing = pair.playing;
  pair.pause();
  dialog.showModal();
  dialog.addEventListener('close', () => {
    away += performance.now() - since;
    if (playing) pair.play();
  }, { once: true });
}

function progress(value) {
  const { done, of } = value;
  byId('bar').max = Math.max(of, 1);
  byId('bar').value = done;
  byId('bar').setAttribute('aria-label', say('count', { done, of }));
  byId('count').textContent = say('count', { done, of });
}

async function load() {
  let next;
  try {
    next = await insist(`/api/next?track=${track}`);
  } catch (fault) {
    stopped(fault);
    return;
  }
  if (next.finished) {
    item = null;
    sending = false;
    pair.stop();
    show('done');
    const study = me.kind === 'study';
    byId('done_title').textContent = say(study ? 'thanks_title' : 'finished_title');
    byId('done_text').textContent = say(study ? 'thanks_text' : 'finished_text');
    byId('code_text').hidden = !study;
    byId('code').textContent = me.code ?? '';
    byId('main').focus();
    return;
  }
  item = next;
  answers = { ...item.answered };
  current = 0;
  shown = away = 0;
  sending = false;
  show('task');
  byId('practice').hidden = !item.practice;
  for (const side of ['left', 'right']) byId(side).classList.remove('chosen');
  byId('said').hidden = item.prompt === undefined;
  byId('prompt').textContent = item.prompt ?? '';
  byId('keep').textContent = item.preserve?.length ? say('keep', { elements: elements().join(' · ') }) : '';
  byId('fault').textContent = '';
  byId('stage').classList.remove('exchanged');
  ['left', 'right'].forEach((side) => byId(side).querySelector('video').setAttribute('aria-label', say(`${side}_video`)));
  references();
  progress(item.progress);
  pair.load(item.media, item.fps, still.matches);
  asked();
  for (const token of item.ahead) fetch(`/media/${token}`, { priority: 'low' }).catch(() => {});
  const { done, of } = item.progress;
  if (me.kind === 'study' && !halfway && of >= 20 && done === Math.floor(of / 2)) {
    halfway = true;
    open('break');
  }
}

function stopped(fault) {
  item = null;
  sending = false;
  pair.stop();
  show('done');
  const paused = fault.code === 'E1616' && fault.status === 409;
  byId('done_title').textContent = say(paused ? 'paused_title' : 'trouble_title');
  byId('done_text').textContent = paused ? say('paused_text')
    : [fault.message, fault.hint].filter(Boolean).join('. ');
  byId('code_text').hidden = true;
}

function choose(choice) {
  if (!item || !seen() || sending) return;
  if (choice === 'tie' && !item.tie) return;
  answers[item.questions[current]] = choice;
  if (me.kind === 'study') {
    const open = item.questions.findIndex((name) => !answers[name]);
    current = open >= 0 ? open : current;
    asked();
  } else {
    asked();
    send();
  }
}

async function send() {
  if (!item || sending || !seen()) return;
  if (item.questions.some((name) => !answers[name])) {
    byId('hint').textContent = say('all_needed');
    byId('live').textContent = say('all_needed');
    return;
  }
  sending = true;
  allow();
  const one = item.questions.length === 1 ? answers[item.questions[0]] : null;
  if (one === 'left' || one === 'right') byId(one).classList.add('chosen');
  const timing = {
    ms: Math.round(performance.now() - shown - away), plays_left: pair.plays, plays_right: pair.plays,
    watched_left: pair.loops, watched_right: pair.loops,
  };
  const before = item.progress;
  const counted = !item.practice;
  const highlight = new Promise((done) => setTimeout(done, 400));
  const picked = Object.fromEntries(item.questions.map((name) => [name, answers[name]]));
  try {
    await insist('/api/vote', { assignment: item.id, nonce: nonce(), answers: picked, timing });
    const values = { done: before.done + (counted ? 1 : 0), of: before.of };
    byId('live').textContent = say('saved_live', values);
    progress(values);
    toast(say('saved'), true);
  } catch (fault) {
    if (fault.status === 401) { stopped(fault); return; }
    toast(fault.status === 409 ? say('gone') : fault.message, false);
  }
  await highlight;
  load();
}

function toast(text, undo) {
  byId('toast_text').textContent = text;
  byId('toast_undo').hidden = !undo;
  byId('toast').hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { byId('toast').hidden = true; }, 6000);
}

async function previous() {
  if (sending || !me || !track) return;
  try {
    const { undone } = await insist('/api/undo', { track });
    byId('live').textContent = say(undone ? 'undone' : 'no_previous');
    toast(say(undone ? 'undone' : 'no_previous'), false);
    if (undone) load();
  } catch (fault) {
    stopped(fault);
  }
}

function skipMenu() {
  if (!item) return;
  const list = byId('reasons');
  list.replaceChildren(...['broken', 'unsafe', 'other'].map((reason, at) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = `${at + 1}. ${say(`reason_${reason}`)}`;
    button.addEventListener('click', async () => {
      byId('skip_menu').close();
      try {
        await insist('/api/skip', { assignment: item.id, reason });
        toast(say('skipped'), true);
      } catch (fault) {
        toast(fault.message, false);
      }
      load();
    });
    return button;
  }));
  open('skip_menu');
}

function helpTable() {
  byId('keys_on').checked = keysOn;
  byId('keys').replaceChildren(...Object.keys(KEYS).map((action) => {
    const row = document.createElement('tr');
    const name = document.createElement('th');
    name.scope = 'row';
    name.textContent = say(action);
    const cell = document.createElement('td');
    for (const own of keys[action]) {
      const mark = document.createElement('kbd');
      mark.textContent = NAMES[own] ?? own.toUpperCase();
      cell.append(mark);
    }
    const last = document.createElement('td');
    const change = document.createElement('button');
    change.type = 'button';
    change.textContent = say('key_change');
    change.setAttribute('aria-label', `${say('key_change')}: ${say(action)}`);
    change.addEventListener('click', () => {
      change.textContent = say('key_press');
      change.addEventListener('keydown', (event) => {
        if (['Tab', 'Escape', 'Shift', 'Control', 'Alt', 'Meta'].includes(event.key)) { helpTable(); return; }
        event.preventDefault();
        event.stopPropagation();
        const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
        for (const other of Object.keys(keys)) keys[other] = keys[other].filter((k) => k !== pressed);
        keys[action] = [pressed];
        localStorage.setItem('anyid.keys', JSON.stringify(keys));
        helpTable();
        buttons();
        if (item) asked();
      }, { once: true });
    });
    last.append(change);
    row.append(name, cell, last);
    return row;
  }));
}

const DO = {
  left: () => choose('left'), right: () => choose('right'), tie: () => choose('tie'), skip: skipMenu,
  play: () => pair.toggle(), back_frame: () => pair.step(-1), next_frame: () => pair.step(1),
  restart: () => { pair.seek(0); pair.play(); }, zoom: () => pair.nextZoom(), slower: () => pair.setSpeed(-1),
  faster: () => pair.setSpeed(1), previous, help: () => { helpTable(); open('help'); },
  next: () => { if (me?.kind === 'study') send(); },
  full: () => { if (document.fullscreenElement) document.exitFullscreen(); else byId('stage').requestFullscreen(); },
};

document.addEventListener('keydown', (event) => {
  if (!keysOn || event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target;
  const field = target.matches('textarea, select, input:not([type=checkbox]):not([type=range])');
  if (field) return;
  const dialog = document.querySelector('dialog[open]');
  if (dialog) {
    if (dialog.id === 'skip_menu' && /^[1-3]$/.test(event.key)) {
      event.preventDefault();
      byId('reasons').children[Number(event.key) - 1].click();
    }
    return;
  }
  if (event.key === ' ' && target.matches('button, a, input')) return;
  if (event.key === 'Enter' && target.matches('button, a')) return;
  if (event.key.startsWith('Arrow') && target.matches('input[type=range]')) return;
  if (event.shiftKey && event.key.startsWith('Arrow') && pair.zoom > 1) {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    event.preventDefault();
    pair.move(...step[event.key]);
    return;
  }
  if (byId('task').hidden && byId('done').hidden) return;
  if (/^[1-9]$/.test(event.key) && item) {
    event.preventDefault();
    const at = Number(event.key) - 1;
    if (me.kind !== 'study') enlarge(at);
    else if (at < item.questions.length) { current = at; asked(); }
    return;
  }
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = Object.keys(keys).find((name) => keys[name].includes(pressed));
  if (action && (item || action === 'previous' || action === 'help')) {
    event.preventDefault();
    DO[action]();
  }
});

for (const id of ['play', 'back_frame', 'next_frame', 'restart', 'slower', 'faster', 'zoom', 'full', 'skip', 'next', 'previous']) {
  byId(id).addEventListener('click', () => DO[id]());
}
byId('done_previous').addEventListener('click', previous);
byId('toast_undo').addEventListener('click', previous);
byId('help_open').addEventListener('click', DO.help);
byId('exchange').addEventListener('click', () => byId('stage').classList.toggle('exchanged'));
byId('rest').addEventListener('click', () => open('break'));
byId('time').addEventListener('input', (event) => pair.seek(pair.length * event.target.value / 1000));
byId('keys_on').addEventListener('change', (event) => {
  keysOn = event.target.checked;
  localStorage.setItem('anyid.keys_on', JSON.stringify(keysOn));
  buttons();
  if (item) { asked(); references(); }
});
byId('keys_reset').addEventListener('click', () => {
  keys = { ...KEYS };
  localStorage.removeItem('anyid.keys');
  helpTable();
  buttons();
  if (item) asked();
});
for (const button of document.querySelectorAll('dialog .close')) {
  button.addEventListener('click', () => button.closest('dialog').close());
}
document.addEventListener('visibilitychange', () => {
  if (!item) return;
  const data = { hidden: document.hidden };
  ask('/api/event', { assignment: item.id, kind: 'focus', data }).catch(() => {});
});

byId('agree').addEventListener('submit', async (event) => {
  event.preventDefault();
  const agree = [...byId('agree').querySelectorAll('input')].map((box) => box.checked);
  if (!agree.every(Boolean)) {
    byId('agree_fault').textContent = say('consent_needed');
    byId('agree').querySelectorAll('input')[agree.indexOf(false)].focus();
    return;
  }
  try {
    await insist('/api/consent', { agree });
    load();
  } catch (fault) {
    byId('agree_fault').textContent = fault.message;
  }
});
byId('withdraw').addEventListener('click', () => open('sure'));
byId('withdraw_yes').addEventListener('click', async () => {
  byId('sure').close();
  try {
    await insist('/api/withdraw', { confirm: true });
    item = null;
    pair.stop();
    show('done');
    byId('leave').hidden = true;
    byId('done_previous').hidden = true;
    byId('code_text').hidden = true;
    byId('done_title').textContent = say('withdrawn_title');
    byId('done_text').textContent = say('withdrawn_text');
  } catch (fault) {
    stopped(fault);
  }
});

// Headings, lists, bold words and paragraphs, as texts and nothing else.
function markdown(text, box) {
  box.replaceChildren();
  const line = (parent, content) => content.split('**').forEach((part, at) => {
    if (at % 2) { const bold = document.createElement('b'); bold.textContent = part; parent.append(bold); }
    else parent.append(part);
  });
  for (const block of text.split(/\n\s*\n/).map((b) => b.trim()).filter(Boolean)) {
    const heading = /^(#{1,3}) (.*)$/.exec(block);
    if (heading) {
      const title = document.createElement('h2');
      line(title, heading[2]);
      box.append(title);
    } else if (block.startsWith('- ')) {
      const list = document.createElement('ul');
      for (const entry of block.split('\n')) {
        const point = document.createElement('li');
        line(point, entry.replace(/^- /, ''));
        list.append(point);
      }
      box.append(list);
    } else {
      const paragraph = document.createElement('p');
      line(paragraph, block);
      box.append(paragraph);
    }
  }
}

async function start() {
  for (const element of document.querySelectorAll('[data-t]')) element.textContent = say(element.dataset.t);
  buttons();
  try {
    me = await insist('/api/me');
  } catch (fault) {
    stopped(fault);
    return;
  }
  byId('who').textContent = me.label;
  const wanted = /^\/t\/(\w+)$/.exec(location.pathname)?.[1];
  track = me.tracks.includes(wanted) ? wanted : me.start;
  if (me.tracks.length > 1) {
    byId('tracks').hidden = false;
    byId('tracks').replaceChildren(...me.tracks.map((name) => {
      const link = document.createElement('a');
      link.href = `/t/${name}`;
      link.textContent = say(`track_${name}`);
      if (name === track) link.setAttribute('aria-current', 'page');
      return link;
    }));
  }
  const name = say(`name_${me.kind}`);
  byId('title').textContent = name;
  document.title = me.tracks.length > 1 ? `${name} – ${say(`track_${track}`)}` : name;
  if (!me.consented) {
    markdown(me.instructions, byId('instructions'));
    show('welcome');
    return;
  }
  load();
}

start();
