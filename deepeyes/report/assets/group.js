// A group

function advantageBar(advantage, group) {
  const most = Math.max(...group.members.map(t => Math.abs(trajectories[t].advantage)), 1e-9), half = 50 * Math.abs(advantage) / most;
  return make("span", {className: "bar"}, make("i", {style: {left: `${advantage < 0 ? 50 - half : 50}%`, width: `${half}%`, background: advantage < 0 ? "var(--wrong)" : "var(--right)"}}));
}

function explain(group) {
  if (evaluation) return null;
  if (group.untrained) return make("p", {className: "small untrained", style: {marginTop: "8px"}}, UNTRAINED[group.untrained][1]);
  const own = trajectories[group.members[0]].weights !== null, {divided} = data;
  return make("p", {className: "small", style: {marginTop: "8px"}}, own
    ? divided === null ? "Advantages are not shown: with this run's --advantage_estimator and --scale_rewards they do not follow from the rewards of a group alone."
      : `Advantage = ${divided ? "(reward − mean) / (standard deviation + 0.0001)" : "reward − mean"} within this group, as GRPO computes it ${divided ? "(deviation with n − 1)" : "with this run's --scale_rewards none"}. From deepeyes_reward alone: other rewards or weights of a run are not in it.`
    : "Advantage as swift logged it.",
  group.missing ? ` ${count(group.missing, "generation")} of this group ${group.missing === 1 ? "was" : "were"} not recorded, so the true advantages differ.` : "");
}

function table(group) {
  const widths = ["26px", null, "54px", "60px", "114px"];
  const head = ["#", "Answer", "Zooms", evaluation ? "Tokens" : "Reward", evaluation ? evaluation.runs.length > 1 ? "Run" : "Read by" : "Advantage"].map((name, i) => make("th", {style: {width: widths[i] || "auto"}}, name));
  const rows = group.members.map((t, index) => {
    const {answer, num_zooms, score, advantage} = trajectories[t], verdict = judged(trajectories[t]);
    return make("tr", {className: t === selected ? "selected" : "", dataset: {t}, tabIndex: 0}, make("td", {}, String(index + 1)),
      make("td", {style: {color: verdict && `var(--${verdict})`}, title: answer || ""}, `${verdict ? verdict === "right" ? "✓ " : "✗ " : ""}${answer || "none"}`),
      make("td", {}, String(num_zooms)), make("td", {title: score.format < 0 ? "format error" : ""}, evaluation ? String((trajectories[t].tokens || [0, 0])[1]) : reward(score.total) + (score.format < 0 ? " !" : "")),
      evaluation ? make("td", {title: trajectories[t].run}, evaluation.runs.length > 1 ? trajectories[t].run : trajectories[t].verdict.source) : make("td", {}, group.untrained ? "none" : advantage === null ? "?" : [advantageBar(advantage, group), number(advantage)]));
  });
  return make("div", {}, make("h3", {}, evaluation ? `${count(group.members.length, "answer")} to this question` : `Group: ${count(group.members.length, "generation")} of this prompt`),
    make("table", {}, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)), explain(group));
}

function sideBySide(group) {
  const cards = group.members.map((t, index) => {
    const trajectory = trajectories[t], {advantage} = trajectory;
    return make("div", {className: "card", dataset: {beside: t}},
      make("h3", {}, `#${index + 1} `, pill(trajectory), evaluation ? ` ${trajectory.run}` : null), evaluation ? choices(trajectory) : sum(trajectory),
      evaluation ? null : make("div", {className: "advantage"}, advantage === null ? null : advantageBar(advantage, group), group.untrained ? UNTRAINED[group.untrained][0] : `advantage ${number(advantage)}`),
      trajectory.views.length ? views(trajectory, group, 230) : null, ...turns(trajectory));
  });
  return make("div", {}, make("div", {className: "beside"}, cards), explain(group));
}
