// One trajectory

function show(t) {
  selected = t;
  history.replaceState(null, "", `#${keys[t]}`);
  document.querySelectorAll(".chip.selected, .group.current").forEach(element => element.classList.remove("selected", "current"));
  while (drawn < shown.length && shown.indexOf(groupOf[t]) >= drawn) grow();
  const row = document.querySelector(`.group[data-group="${groupOf[t]}"]`), chip = document.querySelector(`.chip[data-t="${t}"]`);
  if (row) { row.classList.add("current"); const list = $("list"); if (row.offsetTop < list.scrollTop + list.offsetTop || row.offsetTop + row.offsetHeight > list.scrollTop + list.offsetTop + list.offsetHeight) list.scrollTop = row.offsetTop - list.offsetTop - 80; }
  if (chip) chip.classList.add("selected");
  const group = groups[groupOf[t]];
  const word = evaluation ? "answers" : "";
  const toggle = make("button", {id: "beside"}, beside ? "One at a time" : `All ${group.members.length} ${word}${word ? " " : ""}side by side`);
  toggle.hidden = evaluation && group.members.length === 1;
  toggle.addEventListener("click", () => { beside = !beside; show(selected); });
  const intro = make("div", {className: "intro card spread"},
    make("div", {}, make("h2", {}, group.question), make("div", {className: "meta"}, `${heading(group)} · `, "reference: ", make("b", {id: "reference"}, group.reference === null ? "not recorded" : group.reference))), toggle);
  $("detail").replaceChildren(intro, ...(beside ? [sideBySide(group)] : [columns(t, group)]));
}

function columns(t, group) {
  const card = (...children) => make("div", {className: "card"}, ...children);
  const trajectory = trajectories[t];
  const left = make("div", {}, card(trajectory.views.length ? views(trajectory, group, 360) : make("p", {className: "small"}, "No image was recorded.")), card(table(group)));
  const prompt = make("details", {className: "prompt"}, make("summary", {}, "Prompt"), data.prompts[group.prompt].map(message =>
    make("div", {className: "turn"}, make("h3", {}, message.role), text(typeof message.content === "string" ? message.content : JSON.stringify(message.content)))));
  return make("div", {className: "columns"}, left,
    make("div", {}, card(...(evaluation ? [make("h3", {}, trajectory.options && trajectory.options.length ? "Options" : "Reference"), choices(trajectory)] : [make("h3", {}, "Reward"), sum(trajectory)]), facts(trajectory, group)), card(prompt, ...turns(trajectory))));
}

function picture(place, least) {
  const size = data.images[place];
  if (!size) return make("span", {className: "small refused"}, "(the image can't be read)");
  const [[width], [shownWidth]] = size;
  const image = make("img", {src: $(`image-${place}`).textContent, alt: ""});
  image.style.width = `${Math.max(Math.min(shownWidth, 900), least)}px`;
  if (width < least) image.className = "small-image";
  return image;
}

function views(trajectory, group, least) {
  return make("figure", {}, make("h3", {}, trajectory.views.length > 1 ? "Images of the prompt" : "What the model sees"), trajectory.views.map((place, index) => {
    if (place === null) return make("p", {className: "refused"}, "(this image could not be recorded)");
    const [size, inside] = data.images[place] || [[0, 0], [0, 0]];  // as recorded, and in this page
    const [width, height] = index === 0 && group.view_size || size;  // what boxes refer to
    const drawn = trajectory.zooms.filter(zoom => zoom.box && (zoom.view || 0) === index);
    const boxes = !width ? [] : drawn.map(zoom => {
      const [x1, y1, x2, y2] = zoom.box, colour = colourOf(trajectory, zoom);
      return make("div", {className: y1 / height < 0.1 ? "box low" : "box", title: JSON.stringify(zoom.box), style: {
        left: `${100 * x1 / width}%`, top: `${100 * y1 / height}%`, width: `${100 * (x2 - x1) / width}%`, height: `${100 * (y2 - y1) / height}%`, outlineColor: colour,
      }}, make("i", {style: {background: colour}}, String(zoom.turn)));
    });
    if (index === 0 && width && trajectory.targets) for (const [x1, y1, x2, y2] of trajectory.targets) {
      const [W, H] = trajectory.original_size;
      boxes.push(make("div", {className: x1 + x2 > W ? "target right-half" : "target", title: `target ${JSON.stringify([x1, y1, x2, y2])}`, style: {left: `${100 * x1 / W}%`, top: `${100 * y1 / H}%`, width: `${100 * (x2 - x1) / W}%`, height: `${100 * (y2 - y1) / H}%`}}, make("i", {}, "target")));
    }
    const caption = `${width} × ${height} px` + (size[0] !== width ? `, scaled from the original of ${size.join(" × ")}` : "") + (inside[0] !== width ? `; in this page ${inside.join(" × ")}` : "");
    return make("div", {}, make("div", {className: "view"}, picture(place, least), boxes), make("div", {className: "small"}, caption));
  }));
}

const colourOf = (trajectory, zoom) => COLOURS[trajectory.zooms.filter(one => one.box).indexOf(zoom) % COLOURS.length];

function sum({score, weights}) {
  const part = (top, below, name = "") => make("span", {className: name}, top, make("small", {}, below));
  if (!weights) return make("div", {className: "sum"}, part(reward(score.total), "reward", "total"));
  const signed = value => value < 0 ? `(${number(value)})` : number(value);
  const parts = ["accuracy", "format", "tool"].filter(name => weights[name]).flatMap((name, i) => [i ? "+" : null, part(`${number(weights[name])} × ${signed(score[name])}`, name)]);
  return make("div", {className: "sum"}, ...parts, "=", part(reward(score.total), "reward", "total"));
}

function choices({options, right, picked, reference}) {
  if (!options || !options.length) return make("p", {}, bdi(reference || "not recorded"));
  return make("ul", {className: "options"}, options.map((option, i) => {
    const letter = String.fromCharCode(65 + i);
    return make("li", {className: `option${i === right ? " right-one" : " wrong-one"}${letter === picked ? " picked" : ""}`}, `${letter}. ${option}`);
  }));
}

function facts(trajectory, group) {
  const {verdict, answer, advantage, num_zooms, num_zoom_errors, score} = trajectory;
  const rows = [
    ["Answer", answer === null || answer === "" ? "none" : answer.length > 1000 ? `${answer.slice(0, 1000)}…` : answer],
    ...(evaluation && evaluation.runs.length > 1 ? [["Run", trajectory.run]] : []),
    ["Verdict", [pill(trajectory), ` ${verdict.source ? SAID[verdict.source] || verdict.source : ""}${trajectory.untagged ? "; it stood in no <answer>" : ""}`]],
    ["Zooms", `${num_zooms} delivered` + (num_zoom_errors ? `, ${num_zoom_errors} refused` : "")],
    ...(trajectory.refusal ? [["Refused", trajectory.refusal]] : trajectory.finish_reason === "length" ? [["Ended", "cut off at the limit of tokens"]] : []),
    ["Format", score.format === null ? "not recorded" : score.format < 0 ? "error" : "well-formed"],
    ...(evaluation ? [] : [["Advantage", group.untrained ? "none" : advantage === null ? "not recorded" : number(advantage)]]),
  ];
  return make("dl", {}, rows.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
}

function turns(trajectory) {
  return trajectory.turns.map((words, index) => {
    const zoom = trajectory.zooms.find(one => one.turn === index + 1), observation = trajectory.observations[index];
    return make("section", {className: "turn"}, make("h3", {}, `Turn ${index + 1}`, copyButton(words)), text(words), zoom ? crop(trajectory, zoom) : null,
      observation === undefined ? null : make("details", {className: "observation"}, make("summary", {}, "What the model was told"), text(observation)));
  });
}

function crop(trajectory, zoom) {
  if (zoom.error) return make("p", {className: "refused observation"}, `Call refused: ${zoom.error}, for ${JSON.stringify(zoom.bbox_2d)}`);
  const colour = colourOf(trajectory, zoom), [x1, y1, x2, y2] = zoom.box;
  return make("figure", {className: "crop", style: {borderColor: colour}},
    make("figcaption", {}, make("span", {className: "number", style: {background: colour}}, String(zoom.turn)), ` crop [${zoom.box.join(", ")}], ${x2 - x1} × ${y2 - y1} px of the view`, zoom.label ? [", “", bdi(zoom.label), "”"] : null),
    zoom.image === null ? make("span", {className: "small"}, "(the crop could not be recorded)") : picture(zoom.image, 150));
}

function text(words) {  // tags set apart, and what stands inside one in its style
  const box = make("div", {className: "text"});
  const fill = part => {
    const open = [];
    for (const piece of part.split(/(<\/?(?:think|answer|tool_call|tool_response)>|<image>)/)) {
      const tag = /^<(\/?)(\w+)>$/.exec(piece);
      if (tag) box.append(make("span", {className: "tag"}, piece));
      else if (piece) box.append(make("span", {className: open[open.length - 1] || ""}, piece));
      if (tag && tag[1]) open.pop(); else if (tag && tag[2] !== "image") open.push(tag[2]);
    }
  };
  fill(words.slice(0, LONG));
  if (words.length > LONG) {
    const more = make("button", {}, `… ${count(words.length - LONG, "more character")}`);
    more.addEventListener("click", () => { box.replaceChildren(); fill(words); });
    box.append(more);
  }
  return box;
}
