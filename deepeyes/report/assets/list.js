// Filters and the list

const groupOf = [];
groups.forEach((group, place) => group.members.forEach(member => { groupOf[member] = place; }));
const mean = (group, run) => { const found = group.members.filter(t => trajectories[t].run === run); return found.length ? found.filter(t => trajectories[t].verdict.correct).length / found.length : null; };
function flip(group) {  // between the first two runs
  if (!evaluation || evaluation.runs.length < 2) return null;
  const [a, b] = evaluation.runs.slice(0, 2).map(run => mean(group, run.name));
  return a === null || b === null ? "in one run only" : a < b ? "B better" : a > b ? "A better" : a ? "both right" : "both wrong";
}
const FILTERS = {  // name: [label, value of a trajectory]
  ...(evaluation ? {source: ["Category", t => groups[groupOf[t]].categories]} : {
    step: ["Step", t => groups[groupOf[t]].step],
    source: ["Source", t => groups[groupOf[t]].source],
  }),
  ...(evaluation && evaluation.runs.length > 1 ? {run: ["Run", t => trajectories[t].run], flip: ["Flip", t => flip(groups[groupOf[t]])]} : {}),
  verdict: ["Answer", t => judged(trajectories[t])],
  zoom: ["Zoom", t => trajectories[t].num_zooms ? "zoomed" : trajectories[t].num_zoom_errors ? "every call refused" : "no call"],
  format: ["Format", t => trajectories[t].score.format === null ? null : trajectories[t].score.format < 0 ? "error" : "well-formed"],
  judge: ["Verdict by", t => trajectories[t].verdict.source],
  ...(groups.some(group => group.untrained) ? {trained: ["Trained on", t => { const {untrained} = groups[groupOf[t]]; return untrained ? UNTRAINED[untrained][0] : "yes"; }]} : {}),
};
const SORTS = {  // largest first
  reward: ["reward", t => trajectories[t].score.total], length: ["length of the text", t => trajectories[t].turns.reduce((sum, turn) => sum + turn.length, 0)],
  zooms: ["zooms", t => trajectories[t].num_zooms],
};
let matching = [], shown = [], drawn = 0, selected = null, beside = false;

function buildFilters() {
  for (const [name, [label, value]] of Object.entries(FILTERS)) {
    const counts = new Map();
    trajectories.forEach((_, t) => [value(t)].flat().forEach(one => counts.set(one, (counts.get(one) || 0) + 1)));
    counts.delete(null);
    const keys = [...counts.keys()].sort((a, b) => typeof a === "number" ? a - b : a < b ? -1 : 1);
    const select = make("select", {id: `filter-${name}`, disabled: !keys.length}, make("option", {value: ""}, "all"),
      keys.map(key => make("option", {value: String(key)}, `${key} (${counts.get(key)})`)));
    select.addEventListener("change", () => refresh(true));
    $("filters").append(make("label", {}, label, select));
  }
  const sort = make("select", {id: "sort"}, make("option", {value: ""}, "as recorded"), Object.entries(SORTS).flatMap(([name, [label]]) =>
    [make("option", {value: `-${name}`}, `${label}, most first`), make("option", {value: name}, `${label}, least first`)]));
  sort.addEventListener("change", () => refresh(false));
  $("filters").append(make("label", {}, "Sort", sort));
  const save = make("button", {id: "export", title: "the trajectories that match, as JSON Lines"}, "JSONL");
  save.addEventListener("click", () => {
    const lines = matching.map(t => { const {members, prompt, ...group} = groups[groupOf[t]]; return JSON.stringify({...group, prompt: data.prompts[prompt], ...trajectories[t]}); });
    const link = make("a", {href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "application/jsonl"})), download: `${data.title}.jsonl`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const text = make("input", {id: "filter-text", type: "search", placeholder: "in the question, the text or the answer"});
  text.addEventListener("input", () => refresh(true));
  const step = (sign, label, title) => {
    const button = make("button", {title}, label);
    button.addEventListener("click", () => move(sign));
    return button;
  };
  $("filters").append(make("label", {className: "wide", style: {display: "block"}}, "Text", text),
    make("div", {className: "wide"}, make("span", {id: "count"}), save, step(-1, "‹", "previous (k)"), step(1, "›", "next (j)")));
  $("legend").append(make("span", {className: "pill tag-right"}, evaluation ? "A" : "2.0"), evaluation ? " right, " : " reward of a right answer, ", make("span", {className: "pill tag-wrong"}, evaluation ? "A" : "0.0"), evaluation ? " wrong; ● zoomed, ! format error" : " of a wrong one; ● zoomed, ! format error");
}

function refresh(select) {
  const wanted = Object.entries(FILTERS).map(([name, [, value]]) => [$(`filter-${name}`).value, value]).filter(([chosen]) => chosen);
  const text = $("filter-text").value.toLowerCase();
  const holds = t => [groups[groupOf[t]].question, groups[groupOf[t]].reference || "", ...trajectories[t].turns].some(part => part.toLowerCase().includes(text));
  const sorted = $("sort").value, places = trajectories.map((_, t) => t);
  if (sorted) {
    const value = SORTS[sorted.replace("-", "")][1], sign = sorted.startsWith("-") ? -1 : 1;
    places.sort((a, b) => sign * ((value(a) ?? 0) - (value(b) ?? 0)) || a - b);
  }
  matching = places.filter(t => wanted.every(([chosen, value]) => [value(t)].flat().map(String).includes(chosen)) && (!text || holds(t)));
  shown = [...new Set(matching.map(t => groupOf[t]))];
  $("count").textContent = `${matching.length.toLocaleString("en")} of ${count(trajectories.length, "trajectory").replace("trajectorys", "trajectories")}`;
  drawn = 0;
  $("list").replaceChildren();
  $("list").scrollTop = 0;
  grow();
  if (select && matching.length && !matching.includes(selected)) show(matching[0]);
}

function grow() {  // the list is drawn as far as one scrolls
  const visible = new Set(matching);
  for (const place of shown.slice(drawn, drawn + CHUNK)) {
    const group = groups[place];
    const chips = group.members.filter(t => visible.has(t)).map(t => {
      const {score, num_zooms} = trajectories[t];
      const name = `chip ${judged(trajectories[t])}${num_zooms ? " zoomed" : ""}${score.format < 0 ? " format-error" : ""}${t === selected ? " selected" : ""}`;
      return make("button", {className: name, dataset: {t}}, evaluation ? bdi(trajectories[t].picked || short(trajectories[t].answer || "–")) : reward(score.total));
    });
    $("list").append(make("div", {className: `group${place === groupOf[selected] ? " current" : ""}`, dataset: {group: place}},
      make("span", {className: "head"}, heading(group)), make("span", {className: "question", title: group.question}, group.question), make("div", {className: "chips"}, chips)));
  }
  drawn += CHUNK;
  if (!shown.length) $("list").append(make("p", {className: "empty"}, trajectories.length ? "Nothing matches these filters." : "No trajectories were recorded."));
}

const short = text => text.length > 9 ? `${text.slice(0, 8)}…` : text;
const heading = group => [evaluation ? group.categories.join(", ") : `Step ${group.step}`, evaluation ? null : group.source, group.row === null ? null : `row ${group.row}`, group.untrained ? UNTRAINED[group.untrained][0] : null].filter(part => part !== null).join(" · ");

function move(sign) {
  if (!matching.length) return;
  const at = matching.indexOf(selected);
  show(matching[Math.min(matching.length - 1, Math.max(0, at + sign))]);
}
