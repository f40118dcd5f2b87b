"""How fast the report page is with 2,000 trajectories, against one with 200.

    python benchmarks/report.py

Every group has its own view of a megapixel, every trajectory its own crop and 300 words. What is measured is what a
reader waits for, in a real headless Chromium: until the page is loaded, and until a filter, a search, the next
trajectory and a group side by side are laid out with their images decoded. Each is the quickest of three. It takes
about two minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tab import Tab
from trace_maker import record_crowd

from deepeyes.report.page import write_report
from deepeyes.report.screenshots import chromium

SIZES = (200, 2000)
VIEW = (1120, 896)

ACTIONS = {  # what is done, and how it is undone
    "filters by answer": (
        "set('filter-verdict', 'change', 'wrong')",
        "set('filter-verdict', 'change', '')",
    ),
    "searches the text": ("set('filter-text', 'input', 'zoom zoom')", "set('filter-text', 'input', '')"),
    "shows the next trajectory": ("press('j')", "press('k')"),
    "shows a group side by side": ("$('beside').click()", "$('beside').click()"),
}
MEASURE = """(async () => {
  const set = (id, event, value) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
  const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const settled = async () => {
    await Promise.all([...document.images].map(image => image.decode()));
    return document.body.offsetHeight;  // lays out
  };
  let quickest = Infinity;
  for (let i = 0; i < 3; i++) {
    const start = performance.now();
    %s;
    await settled();
    quickest = Math.min(quickest, performance.now() - start);
    %s;
    await settled();
  }
  return quickest / 1000;
})()"""


def measure(browser: Tab, folder: Path, number: int) -> dict[str, float]:
    """Returns what a page of `number` trajectories takes: seconds by what is done, and its megabytes."""
    record_crowd(folder, number // 8, VIEW)
    start = time.perf_counter()
    page = write_report(folder)
    found = {"is made (s)": time.perf_counter() - start, "is large (MB)": page.stat().st_size / 1e6}
    opened = []
    for _ in range(3):
        start = time.perf_counter()
        browser.open(page)
        opened.append(time.perf_counter() - start)
    found["opens (s)"] = min(opened)
    for name, (act, undo) in ACTIONS.items():
        found[f"{name} (s)"] = browser.evaluate(MEASURE % (act, undo))
    return found


def main() -> None:
    """Prints the table."""
    found = []
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for number in SIZES:
            (Path(folder) / str(number)).mkdir()
            found.append(measure(Tab(browser), Path(folder) / str(number), number))
    small, large = found
    print(f"{'a page of so many trajectories ...':<36} {SIZES[0]:>8} {SIZES[1]:>8} {'ratio':>9}")
    for name in small:
        print(f"{name:<36} {small[name]:8.3f} {large[name]:8.3f} {large[name] / small[name]:7.2f} x")


if __name__ == "__main__":
    main()
