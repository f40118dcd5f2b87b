"use strict";
// Text of the model enters the page as text nodes only (`make`), never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const {trajectories, groups, evaluation} = data;
const keys = trajectories.map(trajectory => trajectory.key);  // by content: a link stays when the run grows
const placeOf = new Map(keys.map((key, t) => [key, t]));
const COLOURS = ["#e6007e", "#0a6cff", "#e07b00", "#00913a", "#8b3fe0"];  // of the zooms, in order
const CHUNK = 60;  // groups that the list grows by while one scrolls
const LONG = 8000;  // characters of a text shown at once
const SAID = {
  judge: "by the judge", rule: evaluation ? "by rule" : "by the rule judge", math: "by mathematical equality", equal: "equal to the reference, nobody asked",
  no_answer: "no answer, nobody asked", too_long: "answer too long, nobody asked", forged: "forges the judge's markers, nobody asked",
  unparseable: "the judge was asked in vain", unread: "no judge could be asked",
};
const UNTRAINED = {
  evaluation: ["evaluation", "An evaluation pass: it trained nothing, and is in no curve of the trajectories."],
  dynamic_sample: ["dropped", "All rewards of this group are equal, so --dynamic_sample puts others in its place: it trained nothing, and is in no curve of the trajectories."],
};
const $ = id => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const {style, dataset, ...rest} = properties;
  Object.assign(element, rest);
  Object.assign(element.style, style);
  Object.assign(element.dataset, dataset);
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "?";
  const text = Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toFixed(digits));
  return text.replace("-", "−");
}
const reward = value => value === null ? "?" : number(value) + (Number.isInteger(+value.toFixed(2)) ? ".0" : "");
const judged = ({verdict}) => verdict.correct === null ? null : verdict.correct ? "right" : "wrong";
const pill = trajectory => make("span", {className: `pill tag-${judged(trajectory)}`}, judged(trajectory) || "not recorded");
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const bdi = text => make("bdi", {}, text);

function copyButton(text) {
  const button = make("button", {title: "copies this text"}, "copy");
  button.addEventListener("click", async event => {
    event.stopPropagation();
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; }
    catch { button.textContent = "not allowed"; }
    setTimeout(() => { button.textContent = "copy"; }, 1200);
  });
  return button;
}
