// Curves

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function smooth(points) {  // a centred mean over a tenth of the curve
  const reach = Math.floor(points.length / 20);
  return points.map(([step], i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1);
    return [step, near.reduce((sum, [, value]) => sum + value, 0) / near.length];
  });
}

function chart(curve) {
  const W = 220, H = 100, left = 32, right = 6, top = 6, bottom = 17;
  const others = curve.others || [];
  const all = [curve.points, ...others.map(other => other.points)].flat();
  const values = all.map(point => point[1]), steps = all.map(point => point[0]).sort((a, b) => a - b);
  let low = Math.min(...values), high = Math.max(...values);
  const share = curve.hint.startsWith("share");
  if (share) { low = 0; high = 1; } else if (low === high) { low -= 0.5; high += 0.5; }
  const first = steps[0], last = steps[steps.length - 1];
  const x = step => left + (last === first ? 0.5 : (step - first) / (last - first)) * (W - left - right);
  const y = value => top + (high - value) / (high - low) * (H - top - bottom);
  const averaged = smooth(curve.points);
  const lineOf = points => points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const path = lineOf(averaged);
  const drawing = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img"},
    ...[low, (low + high) / 2, high].flatMap(value => [
      svg("line", {class: "grid", x1: left, x2: W - right, y1: y(value), y2: y(value)}),
      svg("text", {x: left - 5, y: y(value) + 4, "text-anchor": "end"}, number(value, high - low < 0.1 ? 3 : 2))]),
    ...curve.points.map(([step, value]) => svg("circle", {class: "raw", cx: x(step), cy: y(value), r: steps.length > 150 ? 1.2 : steps.length > 1 ? 2 : 4})),
    svg("path", {class: "mean", d: path}),
    ...others.map((other, i) => svg("path", {class: "other", stroke: COLOURS[i % COLOURS.length], d: lineOf(smooth(other.points))}, svg("title", {}, other.run))),
    ...others.flatMap((other, i) => other.points.length > 20 ? [] : other.points.map(([step, value]) => svg("circle", {fill: COLOURS[i % COLOURS.length], cx: x(step), cy: y(value), r: 2.5}))),
    svg("text", {x: left, y: H - 3}, `step ${first}`),
    ...(last === first ? [] : [svg("text", {x: W - right, y: H - 3, "text-anchor": "end"}, String(last))]));
  const value = make("span", {className: "last"}), end = number(averaged[averaged.length - 1][1], 3);
  value.textContent = end;
  const nearest = event => {
    const at = drawing.createSVGPoint();
    at.x = event.clientX;
    const wanted = at.matrixTransform(drawing.getScreenCTM().inverse()).x;
    return curve.points.reduce((best, point) => Math.abs(x(point[0]) - wanted) < Math.abs(x(best[0]) - wanted) ? point : best);
  };
  drawing.addEventListener("mousemove", event => { const [step, raw] = nearest(event); value.textContent = `step ${step}: ${number(raw, 4)}`; });
  drawing.addEventListener("mouseleave", () => { value.textContent = end; });
  drawing.addEventListener("click", event => {
    const step = String(nearest(event)[0]);
    if ([...$("filter-step").options].some(option => option.value === step)) { $("filter-step").value = step; refresh(true); }
  });
  return make("div", {className: "chart card", title: `${curve.origin}. Dots: each step; line: mean over a tenth of them. Click: trajectories of that step.`},
    value, make("b", {}, curve.name), others.length ? make("span", {className: "small"}, others.map((other, i) => make("span", {style: {color: COLOURS[i % COLOURS.length]}}, `— ${other.run} `))) : null, curve.hint ? make("span", {className: "small"}, curve.hint) : null, drawing);
}

function drawCurves() {
  const draw = main => make("div", {className: "charts"}, data.curves.filter(curve => curve.main === main).map(chart));
  const more = data.curves.filter(curve => !curve.main).length;
  const details = make("details", {}, make("summary", {}, `${count(more, "more curve")} from logging.jsonl`));
  details.addEventListener("toggle", () => { if (details.children.length === 1) details.append(draw(false)); });
  $("curves").append(draw(true), more ? details : "");
}

// An evaluation in the place of curves

function percent(share) { return (100 * share).toFixed(1); }

function interval(block) {
  const bar = make("span", {className: "interval", title: `${percent(block.low)} to ${percent(block.high)} %`},
    make("i", {style: {left: `${100 * block.low}%`, width: `${100 * (block.high - block.low)}%`}}), make("b", {style: {left: `${100 * block.accuracy}%`}}));
  if (block.chance) bar.append(make("u", {title: `chance: ${percent(block.chance)} %`, style: {left: `${100 * block.chance}%`}}));
  return bar;
}

const YES_NO = [["F1 %", "f1"], ["Precision %", "precision"], ["Recall %", "recall"], ["Yes %", "yes"]];

function drawAccuracy() {
  const extra = evaluation.runs.some(run => Object.values(run.blocks).some(block => block.yes_no)) ? YES_NO : [];
  const head = ["Category", ...(evaluation.runs.length > 1 ? ["Run"] : []), "Questions", "Accuracy %", "95 % interval", "", ...extra.map(([name]) => name), "Zooms an answer", "No answer"];
  const chance = evaluation.runs.some(run => Object.values(run.blocks).some(block => block.chance));
  const rows = evaluation.categories.flatMap(name => evaluation.runs.filter(run => run.blocks[name]).map((run, i) => {
    const block = run.blocks[name], of = evaluation.runs.length > 1 ? [make("td", {className: "run-cell", title: run.name}, run.name)] : [];
    return make("tr", {className: name === "all" ? "total" : ""}, make("td", {}, i ? "" : name), of, [String(block.questions), percent(block.accuracy), `${percent(block.low)} – ${percent(block.high)}`].map(cell => make("td", {}, cell)),
      make("td", {className: "wide-cell"}, interval(block)), extra.map(([, part]) => make("td", {}, block.yes_no ? percent(block.yes_no[part]) : "")),
      make("td", {}, (block.zooms / block.answers).toFixed(2)), make("td", {}, String(block.no_answer)));
  }));
  $("curves").append(make("div", {id: "accuracy", className: "card"}, make("h3", {}, `Accuracy by category${chance ? "; the red line is chance" : ""}`),
    evaluation.faults.map(fault => make("p", {className: "fault"}, fault)),
    make("div", {className: "scroll"}, make("table", {}, make("thead", {}, make("tr", {}, head.map(name => make("th", {}, name)))), make("tbody", {}, rows)))));
}
