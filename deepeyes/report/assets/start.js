// Start

document.addEventListener("click", event => {
  const target = event.target.closest("[data-t]");
  if (target) show(Number(target.dataset.t));
});
document.addEventListener("keydown", event => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  if (event.key === "s" && $("beside")) $("beside").click();
  if (event.key === "/") { event.preventDefault(); $("filter-text").focus(); }
  if (event.key === "Enter" && event.target.matches("tr[data-t]")) show(Number(event.target.dataset.t));
});
const linked = () => placeOf.get(location.hash.slice(1));
window.addEventListener("hashchange", () => { const t = linked(); if (t !== undefined && t !== selected) show(t); });
$("list").addEventListener("scroll", event => { const list = event.target; if (drawn < shown.length && list.scrollTop + list.clientHeight > list.scrollHeight - 600) grow(); });
const trajectoryWord = trajectories.length === 1 ? "trajectory" : "trajectories";
$("title").append(data.title, make("span", {className: "summary small"}, `${trajectories.length.toLocaleString("en")} ${trajectoryWord} in ${count(groups.length, "group")}`));
$("hints").append(...[["j", "next"], ["k", "previous"], ["s", "side by side"], ["/", "search"]].flatMap(([key, what]) => [make("kbd", {}, key), ` ${what}  `]));
data.notes.forEach(note => $("notes").append(make("div", {className: "note"}, note)));
if (evaluation) drawAccuracy(); else drawCurves();
buildFilters();
refresh(false);
if (trajectories.length) show(linked() ?? 0);
if (data.watch) {  // the file may have grown; nobody who reads is disturbed
  let touched = 0;
  for (const kind of ["click", "keydown", "wheel", "input"]) document.addEventListener(kind, () => { touched = Date.now(); }, {passive: true});
  setInterval(() => { if (Date.now() - touched > 1000 * data.watch) location.reload(); }, 1000 * data.watch);
}
