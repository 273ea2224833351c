// What the compiler did with values, and what it did not, each with its rule or reason.
"use strict";

/** Kinds of decisions: the field of the data, its name, and how a pair of values is written. */
const KINDS = [
  ["fused", "fused", "+"], ["apart", "not fused", "→"],
  ["shared", "memory shared", ""], ["refused", "memory not shared", "over"],
];
let kind = "fused", reason = -1, shown = 0;
const STEP = 200;

function decisionsOf(phase) { return DATA.decisions[phase.function]; }

/** Names that several launches share: decisions say of them which name it was, but not which launch. */
const repeated = new Set();
{
  const seen = new Set();
  for (const label of PHASES.flatMap((phase) => phase.steps.labels.flat())) {
    if (seen.has(label)) repeated.add(label); else seen.add(label);
  }
}

/** Labels that became one kernel: for each, one of them that stands for all. */
function unions(decisions) {
  if (decisions.of) return decisions.of;
  const of = new Map();
  const find = (label) => {
    let at = label;
    while (of.has(at) && of.get(at) !== at) at = of.get(at);
    if (label !== at) of.set(label, at);
    return at;
  };
  for (const [, label, with_] of decisions.fused) {
    if (repeated.has(label) || repeated.has(with_)) continue;
    const [a, b] = [find(label), find(with_)];
    of.set(a, b);
    if (!of.has(b)) of.set(b, b);
  }
  decisions.of = find;
  return find;
}

/** Labels whose launches are looked for: parts of a value have its name and an index. */
const whole = new Map(DATA.names.labels.map((_, label) => [text(label), label]));

function base(label) {
  const name = text(label), cut = name.replace(/\[[^\]]*\]$/, "");
  return cut !== name && whole.has(cut) ? whole.get(cut) : label;
}

/** Decisions of a kind about a launch. */
function decisionsAt(phase, step, field) {
  const decisions = decisionsOf(phase);
  if (!decisions || step >= phase.count) return [];
  const find = unions(decisions), own = phase.steps.labels[step].map(base);
  if (own.some((label) => repeated.has(label))) return [];
  const groups = new Set(own.map(find));
  if (field === "fused" || field === "apart") {
    return decisions[field].filter(([, label, with_]) => groups.has(find(label)) || groups.has(find(with_)));
  }
  const names = new Set(own);
  return decisions[field].filter(([, label]) => names.has(base(label)));
}

/** A decision as a line; `at` goes to its launch. */
function decisionElement(decisions, field, [number, label, with_]) {
  const between = KINDS.find(([own]) => own === field)[2];
  const both = label === with_ || !between ? [nameElement(label)]
    : field === "refused" ? [nameElement(label), element("span", { class: "arrow" }, between), nameElement(with_)]
      : [nameElement(with_), element("span", { class: "arrow" }, between), nameElement(label)];
  return [...both, element("small", {}, decisions.reasons[number])];
}

/** Goes to the launch that makes a value, or one of those with which it is one kernel. */
function goTo(label) {
  for (const phase of [state.phase, ...PHASES]) {
    const find = decisionsOf(phase) ? unions(decisionsOf(phase)) : (each) => each, group = find(base(label));
    const exact = phase.steps.labels.findIndex((own) => own.some((each) => base(each) === base(label)));
    const step = exact >= 0 ? exact : phase.steps.labels.findIndex((own) => own.some((each) => find(base(each)) === group));
    if (step < 0) continue;
    if (phase !== state.phase) choosePhase(phase);
    keep(step);
    return;
  }
}

function decisionList() {
  const decisions = decisionsOf(state.phase);
  if (!decisions) return;
  const hit = ([number, label, with_]) => !state.query || lower[label].includes(state.query)
    || lower[with_].includes(state.query) || decisions.reasons[number].toLowerCase().includes(state.query);
  fill(byId("kinds"), ...KINDS.map(([own, words]) => element("button", {
    type: "button", role: "radio", "aria-checked": String(own === kind),
    onclick: () => { [kind, reason, shown] = [own, -1, 0]; decisionList(); byId("kinds").querySelector("[aria-checked=true]").focus(); },
  }, `${words} `, element("small", {}, decisions[own].length.toLocaleString("en")))));
  const all = decisions[kind].filter(hit), counts = new Map();
  for (const [number] of all) counts.set(number, (counts.get(number) || 0) + 1);
  const order = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  fill(byId("reasons"), ...order.map(([number, count]) => element("button", {
    type: "button", "aria-pressed": String(reason === number), style: { "--part": `${100 * count / order[0][1]}%` },
    onclick: () => { reason = reason === number ? -1 : number; shown = 0; decisionList(); },
  }, decisions.reasons[number], element("small", {}, count.toLocaleString("en")))));
  const list = all.filter(([number]) => reason < 0 || number === reason), end = Math.max(STEP, shown);
  const rows = list.slice(0, end).map((each) => element("button", {
    type: "button", class: "decision", onclick: () => goTo(each[1]),
  }, ...decisionElement(decisions, kind, each)));
  if (list.length > end) rows.push(element("button", { type: "button", class: "decision more", onclick: () => {
    shown = end + STEP;
    decisionList();
  } }, `${(list.length - end).toLocaleString("en")} more`));
  if (!list.length) {
    const nothing = state.query ? "nothing of this kind matches the search" : "nothing of this kind";
    rows.push(element("p", { class: "more" }, nothing));
  }
  fill(byId("decided"), ...rows);
}

on("phase search", () => {
  shown = 0;
  decisionList();
  const decisions = decisionsOf(state.phase);
  byId("decisions-note").textContent = decisions
    ? `What became one kernel in @${decisions.function}, and what stayed apart; which values share memory. A click leads to the launch.` : "";
});
