// The page of `serve`: a question about a picture, and what the model does until it answers.
// Whatever a model or a file wrote is put into the page as text (textContent), never as HTML.
"use strict";

const WORDS = {
  zh: {
    key: "密钥", past: "之前的问题", choose: "选择图片", drop: "或拖到这里，或粘贴", question: "问题", ask: "提问", stop: "停止",
    new: "换图片", keys: "Enter 提问，Shift+Enter 换行，Esc 停止。", try: "试一试：", hint: "图里有什么想知道的？",
    remove: "去掉", refused: "未裁剪", view: "模型看到的", stopped: "已停止", nopicture: "先选择一张图片。", picture: "图片",
    wrongkey: "服务器需要密钥，请在右上方输入。", gone: "连接中断。", max_turns: "达到轮数上限，没有答案",
    max_tokens: "达到长度上限，回答被截断",
  },
  en: {
    key: "Key", past: "Past questions", choose: "Choose a picture", drop: "or drop it here, or paste it", question: "Question",
    ask: "Ask", stop: "Stop", new: "New picture", keys: "Enter asks, Shift+Enter breaks the line, Esc stops.", try: "Try one:",
    hint: "What do you want to know about it?", remove: "Remove", refused: "no crop", view: "the model sees",
    stopped: "stopped", nopicture: "Choose a picture first.", picture: "picture",
    wrongkey: "This server asks for a key: type it at the top.", gone: "The connection was lost.",
    max_turns: "out of turns, without an answer", max_tokens: "cut at the limit of tokens",
  },
};
const LANGUAGE = navigator.language.startsWith("zh") ? "zh" : "en";
const SAY = WORDS[LANGUAGE];
const COLOURS = 5;
const at = id => document.getElementById(id);

// A talk: pictures (data URIs), views (their sizes), rounds ({question, turns, zooms, answer, fault, stopped}).
const talks = [];
let shown = null;
let chosen = [];
let running = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Drawing one talk.

const MODES = {think: "thought", tool_call: "call", answer: "answer"};

// A turn as paragraphs: thoughts, calls and the answer by their tags. An answer that stands in no tag is plain text.
function paragraphs(text) {
  const made = [];
  let mode = "";
  for (const piece of text.split(/(<\/?(?:think|tool_call|answer)>)/)) {
    const tag = /^<(\/?)(think|tool_call|answer)>$/.exec(piece);
    if (tag) {
      mode = tag[1] ? "" : MODES[tag[2]];
    } else if (piece.trim()) {
      const paragraph = element("p", {class: mode, dir: "auto"});
      paragraph.textContent = piece.trim();
      made.push(paragraph);
    }
  }
  return made;
}

const colour = number => `b${((number - 1) % COLOURS) + 1}`;

function drawZoom(zoom, number) {
  const caption = element("figcaption", {dir: "auto"});
  const box = zoom.box ? `[${zoom.box.join(", ")}]` : SAY.refused;
  caption.textContent = [zoom.box ? `${number}` : "", zoom.label || "", box, zoom.told || ""].filter(Boolean).join(" \u00b7 ");
  const figure = element("figure", {class: `crop ${zoom.box ? colour(number) : "fault"}`, "data-zoom": number}, caption);
  if (zoom.crop) figure.prepend(element("img", {src: zoom.crop, alt: zoom.label || `crop ${number}`}));
  for (const [event, on] of [["mouseenter", true], ["mouseleave", false], ["focusin", true], ["focusout", false]]) {
    figure.addEventListener(event, () => point(number, on));
  }
  figure.tabIndex = 0;
  return figure;
}

// Lets one box stand out while its crop is looked at.
function point(number, on) {
  for (const picture of document.querySelectorAll(".picture")) {
    picture.classList.toggle("focused", on);
    for (const mark of picture.querySelectorAll("[data-zoom]")) {
      mark.classList.toggle("on", on && mark.dataset.zoom === String(number));
    }
  }
}

function drawBox(place, zoom, number, view) {
  const svg = place.querySelector("svg");
  const [x1, y1, x2, y2] = zoom.box;
  const [width, height] = view.size;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: colour(number)})) {
    rect.setAttribute(key, value);
  }
  rect.dataset.zoom = number;
  const mark = element("span", {class: `number ${colour(number)} ${y1 < 0.06 * height ? "inside" : ""}`, "data-zoom": number});
  mark.textContent = number;
  mark.style.left = `${(100 * x1) / width}%`;
  mark.style.top = `${(100 * y1) / height}%`;
  svg.append(rect);
  place.append(mark);
}

function drawPicture(uri, index, total) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("preserveAspectRatio", "none");
  const image = element("img", {src: uri, alt: total > 1 ? `${SAY.picture} ${index + 1}` : SAY.picture});
  return element("figure", {class: "picture"}, element("div", {class: "shrink"}, image, svg));
}

function drawRound(talk, round, first) {
  const asked = element("p", {class: "asked", dir: "auto"});
  asked.textContent = round.question;
  const made = element("div", {class: "round"}, asked);
  round.turns.forEach((text, turn) => {
    const block = element("div", {class: "turn"}, ...paragraphs(text));
    round.zooms.forEach((zoom, place) => {
      if (zoom.turn === turn + 1) block.append(drawZoom(zoom, first + place));
    });
    made.append(block);
  });
  if (round.fault) {
    const fault = element("p", {class: "fault", role: "alert", dir: "auto"});
    fault.textContent = round.fault;
    made.append(fault);
  }
  if (round.waiting) made.append(element("p", {class: "wait"}));
  else if (SAY[round.stopped]) {
    const meta = element("p", {class: "meta"});
    meta.textContent = SAY[round.stopped];
    made.append(meta);
  }
  return made;
}

function drawTalk(talk) {
  const pictures = element("div", {class: "pictures"});
  const places = talk.pictures.map((uri, index) => drawPicture(uri, index, talk.pictures.length));
  pictures.append(...places);
  const rounds = element("div", {class: "rounds"});
  let number = 1;
  for (const round of talk.rounds) {
    rounds.append(drawRound(talk, round, number));
    for (const zoom of round.zooms) {
      const index = zoom.image ?? 0;
      if (zoom.box && places[index] && talk.views[index]) {
        drawBox(places[index].firstChild, zoom, number, talk.views[index]);
      }
      number += 1;
    }
  }
  return element("div", {class: "talk"}, pictures, rounds);
}

let scheduled = false;

// Draws once a frame, however fast text comes.
function redraw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const page = document.documentElement;
    const follows = running && window.scrollY + window.innerHeight > page.scrollHeight - 120;
    const open = document.activeElement?.closest?.("[data-zoom]")?.dataset.zoom;
    at("talk").replaceChildren(...(shown ? [drawTalk(shown)] : []));
    if (open) at("talk").querySelector(`figure[data-zoom="${open}"]`)?.focus({preventScroll: true});
    drawControls();
    if (follows) window.scrollTo(0, page.scrollHeight); // the newest text stays in sight
  });
}

function drawControls() {
  at("past").hidden = talks.length < 2;
  at("past").replaceChildren(...talks.map(talk => {
    const words = element("span", {dir: "auto"});
    words.textContent = talk.rounds[0].question;
    return element("button", {type: "button", "aria-current": String(talk === shown), onclick: () => open(talk)}, words);
  }));
  at("chosen").replaceChildren(...chosen.map((uri, index) => {
    const remove = element("button", {type: "button", "aria-label": SAY.remove, onclick: () => {
      chosen.splice(index, 1);
      redraw();
    }}, "\u00d7");
    return element("div", {class: "thumb"}, element("img", {src: uri, alt: SAY.picture}), remove);
  }));
  at("ask").hidden = Boolean(running);
  at("stop").hidden = !running;
  at("new").hidden = !shown || Boolean(running);
  at("drop").hidden = Boolean(shown);
  at("examples").hidden = Boolean(shown);
}

function open(talk) {
  shown = talk;
  chosen = [];
  redraw();
}

// Asking.

function messagesOf(talk) {
  const messages = [];
  talk.rounds.forEach((round, index) => {
    const images = index === 0 ? talk.pictures.map(url => ({type: "image_url", image_url: {url}})) : [];
    messages.push({role: "user", content: [...images, {type: "text", text: round.question}]});
    if (round.answer) messages.push({role: "assistant", content: round.answer});
  });
  return messages;
}

async function ask(question) {
  if (running || !question.trim()) return;
  if (!shown && !chosen.length) return complain(SAY.nopicture);
  if (!shown) {
    shown = {pictures: chosen, views: [], rounds: []};
    talks.push(shown);
    chosen = [];
  }
  const talk = shown;
  talk.rounds = talk.rounds.filter(round => round.answer);
  const round = {question, turns: [], zooms: [], answer: "", fault: "", stopped: "", waiting: true};
  talk.rounds.push(round);
  running = new AbortController();
  redraw();
  try {
    await listen(talk, round);
  } catch (error) {
    if (running.signal.aborted) round.stopped = "stopped";
    else round.fault = error.told || SAY.gone;
  }
  round.waiting = false;
  running = null;
  redraw();
}

async function listen(talk, round) {
  const headers = {"Content-Type": "application/json"};
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const body = JSON.stringify({messages: messagesOf(talk), stream: true, deepeyes: {trace: true}});
  const response = await fetch("v1/chat/completions", {method: "POST", headers, body, signal: running.signal});
  if (response.status === 401) at("key-field").hidden = false;
  if (!response.ok) throw {told: response.status === 401 ? SAY.wrongkey : await faultOf(response)};
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let done = false; !done;) {
    const piece = await reader.read();
    done = piece.done;
    const lines = (rest + (piece.value ?? "")).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data !== "[DONE]") take(talk, round, JSON.parse(data));
    }
    redraw();
  }
  if (!round.stopped) throw {told: round.fault || SAY.gone};
}

async function faultOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

function take(talk, round, chunk) {
  if (chunk.error) throw {told: chunk.error.message};
  round.answer += chunk.choices[0]?.delta.content ?? "";
  const told = chunk.deepeyes ?? {};
  if (told.views) talk.views = told.views;
  if (told.text) round.turns[told.turn - 1] = (round.turns[told.turn - 1] ?? "") + told.text;
  if (told.zoom) round.zooms.push(told.zoom);
  if (told.stopped) round.stopped = told.stopped;
}

// What a user does.

function complain(text) {
  at("talk").replaceChildren(element("p", {class: "fault", role: "alert"}, text));
}

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
}

async function choose(files) {
  const images = [...files].filter(file => file.type.startsWith("image/"));
  if (!images.length || running) return;
  shown = null;
  chosen = [...chosen, ...(await Promise.all(images.map(readFile)))];
  redraw();
  at("question").focus();
}

function start() {
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = SAY[node.dataset.text];
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", SAY[node.dataset.label]);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = SAY[node.dataset.hint];
  document.documentElement.lang = LANGUAGE;
  const submit = () => {
    const question = at("question").value;
    if (running || !question.trim()) return;
    if (shown || chosen.length) at("question").value = "";
    ask(question);
  };
  at("key-field").addEventListener("submit", event => event.preventDefault());
  at("composer").addEventListener("submit", event => { event.preventDefault(); submit(); });
  at("question").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") running?.abort(); });
  at("stop").addEventListener("click", () => running?.abort());
  at("new").addEventListener("click", () => { open(null); at("question").focus(); });
  at("file").addEventListener("change", event => { choose(event.target.files); event.target.value = ""; });
  document.addEventListener("paste", event => choose(event.clipboardData.files));
  document.addEventListener("dragover", event => { event.preventDefault(); at("composer").classList.add("over"); });
  document.addEventListener("dragleave", () => at("composer").classList.remove("over"));
  document.addEventListener("drop", event => {
    event.preventDefault();
    at("composer").classList.remove("over");
    choose(event.dataTransfer.files);
  });
  for (const example of EXAMPLES) {
    at("examples").append(element("button", {type: "button", onclick: () => {
      chosen = [sketch(...example.size, example.draw)];
      at("question").value = "";
      ask(example.question[LANGUAGE]);
    }}, example.name[LANGUAGE]));
  }
  fetch("health").then(response => response.json()).then(body => {
    at("model").textContent = body.model ?? body.error.message;
  }, () => {});
  drawControls();
}

const recorded = at("recorded");
if (recorded) { // the page of one trajectory that `ask --page` writes
  shown = JSON.parse(recorded.textContent);
  at("model").textContent = shown.model;
  redraw();
} else {
  start();
}
