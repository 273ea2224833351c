// The page of whoever oversees a project: where it stands, who agrees with whom, and what to do.

const byId = (id) => document.getElementById(id);
const cookie = (name) => document.cookie.split('; ').find((c) => c.startsWith(`${name}=`))?.slice(name.length + 1) ?? '';

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: 'POST', body: JSON.stringify(body),
    headers: { 'Content-Type': 'application/json', 'X-CSRF': cookie('anyid_csrf') },
  };
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error([value.message, value.hint].filter(Boolean).join(': '));
  return value;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function button(text, action) {
  const made = element('button', text, { type: 'button' });
  made.addEventListener('click', async () => {
    made.disabled = true;
    try { await action(); } catch (fault) { byId('state').textContent = fault.message; }
    made.disabled = false;
  });
  return made;
}

const number = (value, digits = 2) => (value === null || value === undefined ? 'n/a' : value.toFixed(digits));
const percent = (value) => (value === null || value === undefined ? 'n/a' : `${(100 * value).toFixed(1)} %`);

function table(box, head, rows) {
  const first = element('tr');
  for (const name of head) first.append(element('th', name, { scope: 'col' }));
  const body = element('tbody');
  for (const row of rows) {
    const line = element('tr');
    for (const value of row) {
      const cell = element('td');
      if (typeof value === 'number') { cell.className = 'number'; cell.textContent = value; }
      else if (value instanceof Node) cell.append(value);
      else cell.textContent = value;
      line.append(cell);
    }
    body.append(line);
  }
  const top = element('thead');
  top.append(first);
  box.replaceChildren(top, body);
}

async function refresh() {
  const all = await ask('/api/admin/overview');
  byId('title').textContent = `${all.name} – overview`;
  byId('state').textContent = all.paused ? 'Paused: nobody is asked.' : '';
  byId('pause').textContent = all.paused ? 'Go on' : 'Pause';
  byId('pause').disabled = false;
  byId('pause').onclick = () => ask('/api/admin/pause', { paused: !all.paused }).then(refresh);
  const facts = [];
  if (all.status) {
    const s = all.status;
    facts.push(['matchups', s.matchups], ['not rendered yet', s.waiting],
      ['decided, identity', s.decided[0]], ['decided, prompt', s.decided[1]],
      ['complete in both', s.complete], ['valid pairs', `${s.valid} of ${s.target}`],
      ['yield', percent(s.yield)], ['matchups for the target', s.projected ?? 'n/a']);
    const grid = element('table');
    table(grid, ['decided in both', 'prompt: A', 'prompt: B'],
      [['identity: A', ...s.table[0]], ['identity: B', ...s.table[1]]]);
    byId('table').replaceChildren(grid);
  }
  if (all.withdrawn) facts.push(['withdrew', all.withdrawn]);
  if (all.changed?.length) facts.push(['locked exports that were changed', all.changed.join(', ')]);
  byId('status').replaceChildren(...facts.map(([name, value]) => {
    const box = element('div');
    box.append(element('dt', name, { class: 'soft' }), element('dd', String(value)));
    return box;
  }));
  table(byId('people'), ['pseudonym', 'answers', 'checks failed', 'repeated alike', 'left', 'median', 'odd', 'answers count'],
    all.people.map((p) => [
      p.label, Object.entries(p.answers).map(([t, n]) => `${t} ${n}`).join(', '),
      `${p.checks_failed} of ${p.checks}`, `${p.repeats_alike} of ${p.repeats}`,
      percent(p.left + p.right ? p.left / (p.left + p.right) : null), `${number(p.median_s, 1)} s`,
      p.flags.join('; '),
      button(p.void ? `Count ${p.label}` : `Leave out ${p.label}`, () =>
        ask(`/api/admin/${p.void ? 'restore' : 'void'}`, { label: p.label }).then(refresh)),
    ]));
  table(byId('agreement'), ['track or question', 'items', 'equal', 'Krippendorff’s α', '95 % interval', 'Fleiss’ κ', 'Cohen’s κ'],
    all.agreement.map((a) => [
      a.name, a.items, percent(a.raw), number(a.alpha), a.interval ? `${number(a.interval[0])} to ${number(a.interval[1])}` : 'n/a',
      number(a.fleiss), a.cohen.map((c) => `${c.a}, ${c.b}: ${number(c.kappa)} (${c.items})`).join('; ') || 'n/a',
    ]));
  const forms = all.kind === 'study' ? ['jsonl', 'csv'] : ['dpo', 'jsonl', 'csv', 'videoalign', 'label-studio'];
  byId('exports').replaceChildren(...forms.map((form) => button(form, async () => {
    const made = await ask('/api/admin/export', { form });
    byId('exported').textContent = `${made.lines} lines in ${made.file} of the project, SHA-256 ${made.sha256}`;
  })));
}

function matchup(value) {
  const box = element('article');
  const link = element('a', value.name, { href: `/i/${encodeURI(value.name)}` });
  const title = element('h3');
  title.append(link);
  const videos = value.media.map((token, at) => {
    const video = element('video', null, { src: `/media/${token}`, controls: '', preload: 'metadata', 'aria-label': `Video ${'AB'[at]}` });
    Object.assign(video, { muted: true, loop: true });
    return video;
  });
  const pair = element('div', null, { class: 'pair' });
  pair.append(...videos);
  const both = button('Play both', async () => {
    for (const video of videos) { video.currentTime = 0; }
    await Promise.all(videos.map((video) => video.play()));
  });
  const votes = value.votes.map((v) => `${v.who}, ${v.question}: ${v.winner}`).join('; ');
  box.append(title, element('p', value.prompt), pair, both, element('p', votes, { class: 'soft' }));
  return box;
}

try {
  await refresh();
  const one = /^\/i\/(.+)$/.exec(location.pathname)?.[1];
  if (one) {
    byId('contested_title').textContent = 'Matchup';
    byId('contested').append(matchup(await ask(`/api/admin/matchup?name=${one}`)));
    byId('contested_title').scrollIntoView();
  } else {
    const { matchups } = await ask('/api/admin/contested');
    byId('contested').append(...(matchups.length ? matchups.map(matchup) : [element('p', 'Nowhere yet.')]));
  }
} catch (fault) {
  byId('state').textContent = fault.message;
}
