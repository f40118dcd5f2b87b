"""Makes one HTML page of a training run: its curves, and its trajectories with their images, boxes and rewards.

The page needs nothing but a browser: text, images and code are inside it. It reads what the plugin writes with
DEEPEYES_TRACE_DIR (`trajectories-<rank>.jsonl`, `images/`) and what swift logs (`logging.jsonl`, and, where there
is no trace, `completions.jsonl`).

    bash deepeyes.sh report RUN_DIR                       # writes RUN_DIR/report.html
    bash deepeyes.sh report RUN_DIR --screenshots docs    # and the two pictures of the README
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
import statistics
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.arguments import Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

TEMPLATE = Path(__file__).with_name("page.html")
MAX_TRAJECTORIES = 2000  # in a page; its curves are made of all
MAX_SIDE = 1024  # pixels of an image in the page; a larger one is scaled down, and the page says so
SMALL_SIDE = 256  # pixels; an image of up to this size loses nothing
MAX_IMAGE_BYTES = 60_000  # an image of up to this size goes in as it is
RANKS_APART = 300  # seconds; in less than that all ranks of a run begin their traces
ADVANTAGE_EPSILON = 1e-4  # swift adds it to the standard deviation (swift/rl_core/advantage.py)

SHOWCASE = """{
  const {groups, trajectories} = JSON.parse(document.getElementById("data").textContent);
  const good = t => trajectories[t].num_zooms && trajectories[t].verdict.correct;
  const mixed = groups.filter(group => group.members.some(good) && !group.members.every(good));
  if (mixed.length) location.hash = mixed[Math.floor(0.8 * mixed.length)].members.find(good);
}"""
"""Selects what a picture shows best: of a late group in which generations differ, one that zoomed and was right."""

Record = dict[str, Any]
Points = list[tuple[int, float]]
"""A curve: step and value, by rising step."""


class ReportError(RuntimeError):
    """There is nothing to report on; the message says where it was looked for, and how to mend it."""


# Reading


def read_jsonl(path: Path) -> Iterator[Record]:
    """Yield the objects of a JSON Lines file; a line that a crash left unfinished is passed over."""
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def read_traces(directory: Path) -> list[Record]:
    """Read the trajectories that the plugin wrote, in the order of steps and groups.

    Steps count from 1, as swift's log does. Where a run was resumed or begun anew, on as many processes or others, its
    later attempt replaces the steps that it repeats, of every rank. Each record gets a `group`, which the generations
    of one prompt share, and lists its `images` as paths.
    """
    found: dict[tuple[float, str], list[Record]] = defaultdict(list)  # by start and rank
    for path in sorted(directory.glob("trajectories-*.jsonl")):
        for record in read_jsonl(path):
            step = record["step"] if record["step"] is not None else record["batch"]
            images = [directory / "images" / name if name else None for name in record["images"]]
            found[record["run"], path.stem].append({**record, "rank": path.stem, "step": step + 1, "images": images})
    kept: list[Record] = []
    first_repeated = math.inf
    for attempt, starts in reversed(list(enumerate(_attempts(found)))):
        records = [record for start in found if start in starts for record in found[start]]
        records = [record for record in records if record["step"] < first_repeated]
        first_repeated = min([first_repeated, *(record["step"] for record in records)])
        kept += [{**record, "group": group_of(record, attempt)} for record in records]
    order = {group: place for place, group in enumerate(dict.fromkeys(record["group"] for record in kept))}
    return sorted(kept, key=lambda record: (record["group"][:3], order[record["group"]]))


def _attempts(starts: Iterable[tuple[float, str]]) -> list[list[tuple[float, str]]]:
    """Tell the attempts of a run apart, by rising time: in one, each rank starts once, and soon after the others."""
    attempts: list[list[tuple[float, str]]] = []
    for start, rank in sorted(starts):
        now = attempts[-1] if attempts else []
        if not now or start - now[-1][0] > RANKS_APART or rank in [other for _, other in now]:
            attempts.append([])
        attempts[-1].append((start, rank))
    return attempts


def group_of(record: Record, attempt: int) -> tuple[Any, ...]:
    """Name the group of a record: two rows with the same text share swift's prompt id, but not their image."""
    batch = (record["step"], attempt, record["batch"])
    return (*batch, *(str(record[name]) for name in ("prompt_id", "row", "reference")), str(record["images"][:1]))


TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)
THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
ANSWER = re.compile(r".*<answer>(.*?)</answer>", re.DOTALL)
"""The last one that is complete."""
VISION = re.compile(r"<\|vision_start\|>.*?<\|vision_end\|>|<image>", re.DOTALL)


def read_completions(path: Path) -> list[Record]:
    """Read swift's `completions.jsonl` into the records of `read_traces`, as far as it goes.

    It holds no images, boxes, sources or references, and no verdict but the accuracy reward. At the end of a run swift
    writes the last table once more.
    """
    records = []
    generations = read_generations(path.parent)
    tables = list(read_jsonl(path))
    for table in [table for before, table in zip([None, *tables], tables, strict=False) if table != before]:
        columns = {name: values for name, values in table.items() if isinstance(values, list)}
        for number, values in enumerate(zip(*columns.values(), strict=False)):
            row = dict(zip(columns, values, strict=True))
            messages = [match.groups() for match in TURN.finditer(row["prompt"])] or [("user", row["prompt"])]
            if messages[-1] == ("assistant", ""):
                messages.pop()
            length = next((place for place, (role, _) in enumerate(messages) if role == "assistant"), len(messages))
            prompt, rest = messages[:length], messages[length:]
            observations = [VISION.sub("<image>", text) for role, text in rest if role != "assistant"]
            rewards = {name: row.get(f"DeepEyes{name.capitalize()}") for name in ("accuracy", "format", "tool")}
            correct = None if rewards["accuracy"] is None else rewards["accuracy"] > 0
            answer = ANSWER.search(THINK.sub("", row["completion"]))
            question = VISION.sub("", prompt[-1][1]).strip()
            place = number // generations if generations else 0 if question else number
            step = int(row["step"]) if "step" in row else int(row["gen_step"]) + 1  # as Megatron's trainer counts
            records.append(
                {
                    "step": step,
                    "group": (step, place, json.dumps(prompt)),
                    "group_size": None,
                    "rank": "",
                    "source": None,
                    "row": None,
                    "question": question.split("\n")[0],
                    "reference": None,
                    "answer": answer and answer[1].strip(),
                    "verdict": {"correct": correct, "source": None},
                    "score": {**rewards, "total": row.get("DeepEyesReward")},
                    "weights": None,
                    "advantage": row.get("advantages"),
                    "prompt": [{"role": role, "content": VISION.sub("<image>", text)} for role, text in prompt],
                    "turns": [text for role, text in rest if role == "assistant"] + [row["completion"]],
                    "observations": observations,
                    "num_zooms": sum("<image>" in text for text in observations),
                    "num_zoom_errors": sum("<image>" not in text for text in observations),
                    "zooms": [],
                    "view_size": None,
                    "images": [],
                }
            )
    return sorted(records, key=lambda record: record["group"])


def read_generations(folder: Path) -> int | None:
    """Read from swift's `args.json`, where there is one, how many generations a prompt has."""
    try:
        found: int | None = json.loads((folder / "args.json").read_text(encoding="utf-8")).get("num_generations")
    except (OSError, ValueError):
        return None
    return found


def read_log(path: Path) -> dict[str, Points]:
    """Read the curves of swift's `logging.jsonl`, by their names there; a step that was logged twice counts once."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_jsonl(path):
        if "train_runtime" in line or "global_step/max_steps" not in line:
            continue  # the summary at the end
        step = int(str(line["global_step/max_steps"]).partition("/")[0])
        for name, value in line.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                curves[name][step] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def find_run(run_dir: Path) -> dict[str, Path]:
    """Find the files of the newest run in or below a folder.

    Returns:
        Any of `trace` (the folder of the trace files), `log` (logging.jsonl), `completions` (completions.jsonl).

    Raises:
        ReportError: The folder does not exist or holds none of them.
    """
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is not a folder; give the folder of a run, such as swift's --output_dir")
    traces: dict[Path, float] = {}
    logs: dict[Path, float] = {}
    for folder, _, names in os.walk(run_dir):
        for name in names:
            path = Path(folder, name)
            if re.fullmatch(r"trajectories-.*\.jsonl", name) and path.stat().st_size:
                traces[path.parent] = max(traces.get(path.parent, 0), path.stat().st_mtime)
            elif name in ("logging.jsonl", "completions.jsonl"):
                logs[path.parent] = max(logs.get(path.parent, 0), path.stat().st_mtime)
    if not traces and not logs:
        raise ReportError(
            f"{run_dir} holds no trajectories-*.jsonl, logging.jsonl or completions.jsonl; "
            "train with DEEPEYES_TRACE_DIR=<folder>, or give the folder that swift trained into"
        )
    trace, log = max(traces, key=traces.__getitem__, default=None), max(logs, key=logs.__getitem__, default=None)
    if trace and log:
        near = _nearest_log(trace, logs)
        begun = near / "args.json"  # swift writes it when it starts
        stale = begun.exists() and traces[trace] < begun.stat().st_mtime <= logs[near]
        if (near != log and logs[log] > traces[trace]) or (stale and not trace.is_relative_to(near)):
            trace = None  # a newer run, which wrote no trace
        else:
            log = near
    found = {"trace": trace, "log": log and log / "logging.jsonl", "completions": log and log / "completions.jsonl"}
    return {name: path for name, path in found.items() if path and path.exists()}


def _nearest_log(trace: Path, logs: dict[Path, float]) -> Path:
    """Give the folder of the log that a trace belongs to: the nearest in the tree, and of those the newest."""

    def shared(folder: Path) -> int:
        return len(Path(os.path.commonpath([str(folder), str(trace)])).parts)

    return max(logs, key=lambda folder: (shared(folder), logs[folder]))


# What the page shows


def advantages(rewards: Sequence[float]) -> list[float]:
    """Give the advantages of a group as GRPO does: (reward - mean) / (standard deviation + 0.0001).

    The deviation is that of a sample (n - 1), as in swift with its default `--scale_rewards group`.
    """
    deviation = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
    mean = statistics.fmean(rewards)
    return [(reward - mean) / (deviation + ADVANTAGE_EPSILON) for reward in rewards]


def choose(records: Sequence[Record], limit: int) -> list[Record]:
    """Choose whole groups, spread evenly over the steps, with up to `limit` records in all."""
    sizes = Counter(record["group"] for record in records)
    if len(records) <= limit or not sizes:
        return list(records)
    groups = list(sizes)
    count = min(len(groups), max(1, limit * len(groups) // len(records)))
    chosen = {groups[place * len(groups) // count] for place in range(count)}
    return [record for record in records if record["group"] in chosen]


def mean_curve(records: Sequence[Record], value: Callable[[Record], float | None]) -> Points:
    """Average a value of the trajectories over each step."""
    steps: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if (number := value(record)) is not None:
            steps[record["step"]].append(number)
    return [(step, statistics.fmean(numbers)) for step, numbers in sorted(steps.items())]


def make_curves(log: dict[str, Points], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Make the curves: first what tells whether a run learns, then all else that swift logged."""
    accuracy, formats, tool = (f"rewards/DeepEyes{name}/mean" for name in ("Accuracy", "Format", "Tool"))
    main: list[tuple[str, str, Points, Callable[[Record], float | None]]] = [
        ("Reward", "mean reward", log.get("reward", []), lambda record: record["score"]["total"]),
        ("Accuracy", "share of right answers", log.get(accuracy, []), lambda record: record["score"]["accuracy"]),
        ("Tool use", "share that got a crop", [], lambda record: float(record["num_zooms"] > 0)),
        ("Tool reward", "share: right and zoomed", log.get(tool, []), lambda record: record["score"]["tool"]),
        (
            "Format errors",
            "share of trajectories",
            [(step, -value) for step, value in log.get(formats, [])],
            lambda record: None if record["score"]["format"] is None else -record["score"]["format"],
        ),
        ("Turns", "mean a trajectory", log.get("num_turns", []), lambda record: float(len(record["turns"]))),
    ]
    curves = []
    for name, hint, logged, value in main:
        points = logged or mean_curve(records, value)
        if points:
            origin = "all, from logging.jsonl" if logged else "of the recorded trajectories"
            curves.append({"name": name, "hint": hint, "origin": origin, "points": points, "main": True})
    used = {"reward", accuracy, formats, tool, "num_turns", "epoch", "train_speed(s/it)"}
    for name, points in log.items():
        if name not in used:
            curves.append({"name": name, "hint": "", "origin": "logging.jsonl", "points": points, "main": False})
    return curves


Picture = tuple[Path, tuple[int, int] | None]
"""An image file, and the size in which the model saw it where that is known."""


class Gallery:
    """The images of a page, each in it once.

    Attributes:
        sizes: For each image its width and height in pixels, and those of what the page holds; None if unreadable.
        uris: For each image what the page holds, as a data URI.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        """Read the images, in the size that the model saw and no larger than `MAX_SIDE`."""
        self._places = {picture: place for place, picture in enumerate(dict.fromkeys(pictures))}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL
            made = list(pool.map(_inline, self._places))
        self.sizes = [image and image[:2] for image in made]
        self.uris = [image[2] if image else "" for image in made]

    def place(self, picture: Picture | None) -> int | None:
        """Give the number of an image in the page."""
        return self._places[picture] if picture else None


def _inline(picture: Picture) -> tuple[tuple[int, int], tuple[int, int], str] | None:
    """Return an image's size, its size in the page, and it as a data URI; None where it can't be read."""
    path, seen = picture
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            size, kind = image.size, (image.format or "").lower()
            seen = seen or size
            shrink = min(1, MAX_SIDE / max(seen))
            inside = (max(1, round(seen[0] * shrink)), max(1, round(seen[1] * shrink)))
            image.load()
            if inside != size or len(content) > MAX_IMAGE_BYTES or kind not in ("png", "jpeg", "webp", "gif"):
                small = image.convert("RGBA" if image.has_transparency_data else "RGB").resize(inside)
                buffer = io.BytesIO()
                small.save(buffer, "WEBP", quality=85, method=2, lossless=max(inside) <= SMALL_SIDE)
                content, kind = buffer.getvalue(), "webp"
            return size, inside, f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    except Exception:  # noqa: BLE001 - Pillow raises anything for a broken file, and the text is worth having
        return None


def _pictures(record: Record) -> list[Picture | None]:
    """Give the images of a record; the first is what boxes refer to, and may be recorded in another size."""
    seen = [tuple(record["view_size"])] if record["view_size"] else []
    sizes = [*seen, *[None] * len(record["images"])]
    return [path and (path, size) for path, size in zip(record["images"], sizes, strict=False)]


def make_page(
    title: str,
    curves: list[dict[str, Any]],
    records: list[Record],
    notes: list[str],
    generations: int | None = None,
) -> str:
    """Fill the template.

    Args:
        title: Name of the run.
        curves: See `make_curves`.
        records: The trajectories to show, those of a group next to each other.
        notes: What a reader must know of where this comes from.
        generations: How many a group has, where that is known; else as many as the ranks that recorded it had.
    """
    gallery = Gallery([picture for record in records for picture in _pictures(record) if picture])
    prompts: dict[str, int] = {}
    groups: dict[Any, dict[str, Any]] = {}
    trajectories: list[dict[str, Any]] = []
    for record in records:
        prompt = prompts.setdefault(json.dumps(record["prompt"]), len(prompts))
        group = groups.setdefault(
            record["group"],
            {
                **{name: record[name] for name in ("step", "source", "row", "question", "reference", "view_size")},
                "prompt": prompt,
                "members": [],
                "expected": {},
            },
        )
        group["members"].append(len(trajectories))
        group["expected"][record["rank"]] = record["group_size"]
        images = [gallery.place(picture) for picture in _pictures(record)]
        delivered = max(0, len(images) - record["num_zooms"])
        crops = iter(images[delivered:])
        zooms = [{**zoom, "image": None if zoom["error"] else next(crops, None)} for zoom in record["zooms"]]
        names = ("turns", "observations", "answer", "verdict", "score", "weights", "num_zooms", "num_zoom_errors")
        trajectories.append(
            {
                **{name: record[name] for name in names},
                "zooms": zooms,
                "views": images[:delivered],
                "advantage": record.get("advantage"),
            }
        )
    for group in groups.values():
        members = [trajectories[place] for place in group["members"]]
        expected = group.pop("expected").values()
        group["missing"] = 0 if None in expected else max(generations or 0, sum(expected)) - len(members)
        rewards = [member["score"]["total"] for member in members]
        if all(member["advantage"] is None for member in members) and None not in rewards:
            for member, advantage in zip(members, advantages(rewards), strict=True):
                member["advantage"] = advantage
    data = {
        "title": title,
        "notes": notes,
        "curves": curves,
        "prompts": [json.loads(prompt) for prompt in prompts],
        "images": gallery.sizes,
        "groups": list(groups.values()),
        "trajectories": trajectories,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    code = template.partition("<script>")[2].partition("</script>")[0]
    parts = {
        "TITLE": _escape(f"{title} - DeepEyes report"),
        "CODE_HASH": "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        "DATA": script_json(data),
        "IMAGES": "\n".join(
            f'<script type="text/plain" id="image-{place}">{uri}</script>' for place, uri in enumerate(gallery.uris)
        ),
    }
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    r"""Encode for a script element: `<` becomes \u003c, so that no text can end the element or open another."""
    text = json.dumps(_finite(value), separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not know, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _escape(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def write_report(run_dir: Path, out: Path | None = None, limit: int = MAX_TRAJECTORIES) -> Path:
    """Write the page of the newest run in or below `run_dir`.

    Args:
        run_dir: Folder of a run, or of several.
        out: The page; by default `report.html` in `run_dir`.
        limit: Trajectories in the page at the most, or a little more so that groups are whole.

    Returns:
        Path of the page.

    Raises:
        ReportError: There is nothing to report on.
    """
    run_dir = run_dir.expanduser().resolve()
    found = find_run(run_dir)
    log = read_log(found["log"]) if "log" in found else {}
    records = read_traces(found["trace"]) if "trace" in found else []
    read = [path for name, path in found.items() if name != "completions" or not records]
    notes = [f"Made of {' and '.join(os.path.relpath(path, run_dir.parent) for path in read)}"]
    if not records and "completions" in found:
        records = read_completions(found["completions"])
        notes.append(
            "This run wrote no trace, so there are no images, boxes, references or judge's verdicts. "
            "Train with DEEPEYES_TRACE_DIR=<folder> to see them."
        )
    elif not records:
        notes.append("No trajectories were recorded. Train with DEEPEYES_TRACE_DIR=<folder> to see them.")
    if not records and not log:
        raise ReportError(f"{', '.join(map(str, found.values()))} is empty; nothing was logged yet")
    shown = choose(records, limit)
    if len(shown) < len(records):
        notes.append(
            f"The page shows {len(shown):,} of {len(records):,} recorded trajectories: whole groups, spread evenly "
            "over the steps. --limit changes it. The curves are of all."
        )
    several = len({record["rank"] for record in records}) > 1  # one rank alone has all of a group
    generations = read_generations(found["log"].parent) if several and "log" in found else None
    page = make_page(run_dir.name, make_curves(log, records), shown, notes, generations)
    out = out or run_dir / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)
    return out


def write_screenshots(page: Path, folder: Path) -> list[Path]:
    """Take the two pictures of the README: a trajectory, and a group side by side. Needs a Chromium.

    Raises:
        BrowserError: There is no browser, or the page has nothing to show.
    """
    from contextlib import closing  # noqa: PLC0415

    from deepeyes.report.browser import Browser  # noqa: PLC0415 - only pictures need it

    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with closing(Browser()) as browser:
        browser.open(page, 1440, 1080)
        browser.evaluate(SHOWCASE)
        browser.evaluate("scrollTo(0, 0)")
        for name in ("report", "report-group"):
            browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
            taken.append(folder / f"{name}.png")
            taken[-1].write_bytes(browser.screenshot())
            browser.click("#beside")
    return taken


def main() -> int:
    """Run the program; returns its exit code."""
    parser = Parser(prog="deepeyes.sh report", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run_dir", type=Path, help="folder of a run (trace, swift's output), or of several: the newest")
    parser.add_argument("--out", type=Path, help="the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--limit", type=int, default=MAX_TRAJECTORIES, help="trajectories in the page (default: %(default)s)"
    )
    parser.add_argument(
        "--screenshots", type=Path, metavar="FOLDER", help="also take two pictures of the page (needs Chromium)"
    )
    arguments = parser.parse_args()
    try:
        page = write_report(arguments.run_dir, arguments.out, arguments.limit)
        pictures = write_screenshots(page, arguments.screenshots) if arguments.screenshots else []
    except (ReportError, RuntimeError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(*[page, *pictures], sep="\n")
    return 0
