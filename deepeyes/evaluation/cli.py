"""Evaluates a model on V*Bench, HR-Bench or own rows, with the very zoom that trained it, behind any URL.

    bash deepeyes.sh eval --bench vstar --data DIR --url http://127.0.0.1:8000/v1
    bash deepeyes.sh eval --bench vstar --data DIR --url http://127.0.0.1:8000/v1 --no-tool
    bash deepeyes.sh eval compare output/eval/vstar-MODEL-zoom output/eval/vstar-MODEL-notool

The model is served by anything that speaks the OpenAI protocol: `swift deploy`, `vllm serve`, a hosted API (its key in
`OPENAI_API_KEY`). The folder of a run holds `answers.jsonl` (what was played: a run that is started again goes on
there), `report.json`, and the trajectories for `bash deepeyes.sh report FOLDER`. The judge of the plugin, with its
`DEEPEYES_JUDGE_*` settings, is asked only about answers in which the rule finds no option.

Exit status: 0 every row was asked, answered and read; 1 something was not, and the message says what; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.arguments import Parser
from deepeyes.errors import DataError
from deepeyes.evaluation.bench import BadRow, Bench, EvalError, Item, read_bench
from deepeyes.judging.judge import Judge
from deepeyes.rows import has_tool
from deepeyes.settings import Coordinates, CropSource, JudgeKind, Rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.evaluation.endpoint import Endpoint, EvalScheduler, Family
    from deepeyes.evaluation.run import Job, Journal, Play, Prompt

ROOT = Path(__file__).resolve().parents[2]

JUDGE_PATIENCE = 30.0
"""Seconds that a missing judge is waited for, unless DEEPEYES_JUDGE_PATIENCE says otherwise: here nothing is lost."""
VIEW_TRIES = 10
"""How many first rows may be unreadable or refused before the check of the view is given up."""


class UsageError(EvalError):
    """An option is wrong; the message says which, and what is expected."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of an evaluation."""
    env = os.environ
    parser = Parser(prog="deepeyes.sh eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--bench", required=True, help="vstar, hrbench4k, hrbench8k, or a .parquet, .tsv or .jsonl file")
    add("--data", type=Path, help="folder (or file) of the benchmark")
    add("--url", required=True, help="base URL, as http://127.0.0.1:8000/v1")
    add("--model", help="served name (default: the first of /models)")
    add("--family", choices=["qwen2.5-vl", "qwen3-vl"], help="patch size and box frame (default: by the name)")
    add("--coordinates", choices=["pixel", "norm1000"], help="box frame (default: that of the family)")
    add("--crop-source", choices=["view", "original"], help="default: DEEPEYES_CROP_SOURCE")
    add("--rules", choices=["corrected", "official"], help="default: DEEPEYES_RULES")
    add("--no-tool", action="store_true", help="the baseline: one turn and no zoom")
    add("--blank-crops", action="store_true", help="a control: zooms work, but every crop is grey")
    add("--max-turns", type=_whole, default=env.get("MAX_TURNS") or 5, help="default: MAX_TURNS, else %(default)s")
    add("--max-pixels", type=_whole, default=env.get("MAX_PIXELS") or 602112, help="of a view; as in training")
    add("--max-tokens", type=_whole, default=2048, help="of a turn (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="default: %(default)s")
    add("--top-p", type=float, help="default: that of the server")
    add("--extra", type=_json_object, help="further fields of every request, as JSON: '{\"top_k\": 20}'")
    add("--samples", type=_whole, default=1, help="answers a question (default: %(default)s)")
    add("--options", choices=["shuffle", "cycle", "keep"], help="order (default: keep in a cycled file, else shuffle)")
    add("--seed", type=int, default=0, help="of the order and of sampling (default: %(default)s)")
    add("--limit", type=_whole, help="a random choice of so many questions, by the seed")
    add("--prompt-from", type=Path, metavar="PARQUET", help="take the system turn and the instruction of these rows")
    add("--judge", choices=["server", "rule", "none"], help="for answers that the rule can't read; DEEPEYES_JUDGE")
    add("--concurrency", type=_whole, default=16, help="trajectories under way (default: %(default)s)")
    add("--retries", type=int, default=20, help="of a request, with backoff up to 8 s (default: %(default)s)")
    add("--timeout", type=float, default=300.0, help="seconds for one reply (default: %(default)s)")
    add("--patience", type=float, default=600.0, help="for one reply with its retries (default: %(default)s)")
    add("--skip-view-check", action="store_true", help="do not ask whether the server scales our views again")
    add("--out", type=Path, help="folder of the run (default: output/eval/BENCH-MODEL-zoom, -blank or -notool)")
    add("--fresh", action="store_true", help="begin anew: what the folder of the run holds is renamed")
    return parser.parse_args(arguments)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def say(text: str) -> None:
    """Tells the user what is going on, beside the results."""
    print(f"eval: {text}", file=sys.stderr, flush=True)


# One evaluation


async def evaluate(options: argparse.Namespace, bench: Bench) -> int:
    """Plays what is missing, judges and reports.

    Returns:
        The exit status.
    """
    try:
        import deepeyes_plugin as plugin  # noqa: F401, PLC0415 - brings in swift
    except ValueError as error:  # its SettingsError
        raise UsageError(str(error)) from error
    from deepeyes.evaluation import endpoint as eval_endpoint  # noqa: PLC0415

    endpoint = eval_endpoint.Endpoint(
        url=options.url,
        model=options.model,
        api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY",
        retries=options.retries,
        timeout=options.timeout,
        patience=options.patience,
        extra=options.extra,
    )
    try:
        return await _evaluate(options, bench, endpoint)
    finally:
        await endpoint.close()


async def _evaluate(options: argparse.Namespace, bench: Bench, endpoint: Endpoint) -> int:
    from deepeyes.evaluation import endpoint as eval_endpoint  # noqa: PLC0415
    from deepeyes.evaluation import run as eval_run  # noqa: PLC0415

    earlier = None if options.fresh else _earlier_model(options.out)
    answers = await endpoint.find_model(earlier, wait=False)
    family = eval_endpoint.FAMILIES[options.family] if options.family else eval_endpoint.family_of(endpoint.model)
    _configure(options, family.coordinates)
    endpoint.template = eval_endpoint.EndpointTemplate(family, options.max_pixels)
    _drop_unknown_sources(bench)
    tool = not options.no_tool
    sampling = eval_run.Sampling(options.max_tokens, options.temperature, options.top_p, options.seed)
    play = eval_run.Play(_prompt(options, tool=tool), tool, bench.name, sampling, options.concurrency)
    settings = _settings(options, bench, endpoint, family, play.prompt)
    short = re.sub(r"[^\w.-]+", "-", endpoint.model.rstrip("/").rpartition("/")[2])
    kind = ("blank" if options.blank_crops else "zoom") if tool else "notool"
    out = options.out or ROOT / "output" / "eval" / f"{bench.name}-{short}-{kind}"
    with contextlib.closing(_journal(out, fresh=options.fresh)) as journal:
        seconds, started = _same_settings(out, settings)
        jobs = eval_run.make_jobs(_choose(bench, options), settings["options"], options.seed, options.samples)
        if journal.answers:
            say(f"comparing {len(journal.answers)} answers that are there with the rows")
        stale = await eval_run.drop_stale(jobs, play, journal)
        todo = [job for job in jobs if job.id not in journal.answers]
        if todo and not answers:
            endpoint.model = options.model or ""
            await endpoint.find_model(earlier, wait=True)
            settings |= {"model": endpoint.model, "root": endpoint.root}
            _same_settings(out, settings)
        _tell(jobs, len(todo), stale, started, journal)
        facts: dict[str, Any] = {**settings, "url": options.url, "samples": options.samples, "view_tokens": None}
        notes = [bench.note(), _prompt_note(options, bench)]
        for note in filter(None, notes):
            say(note)
        outcome = eval_run.Outcome()
        start = time.monotonic()
        try:
            if todo:
                scheduler = eval_endpoint.EvalScheduler(endpoint, options.max_turns, blank_crops=options.blank_crops)
                if not options.skip_view_check:
                    facts["view_tokens"] = await _check_view(todo, play, scheduler, endpoint, new=not journal.answers)
                outcome = await eval_run.play_all(jobs, play, scheduler, journal)
        finally:
            times = {"started": started, "wall_seconds": seconds + time.monotonic() - start}
            _write_json(out / "run.json", {"settings": settings, **times})
        bad = dict.fromkeys([*bench.bad, *outcome.bad])
        facts["bad_rows"], facts["refused"] = [asdict(row) for row in bad], [asdict(row) for row in outcome.refused]
        notes.insert(1, (facts["view_tokens"] or {}).get("note"))
        facts["notes"] = list(filter(None, notes))
        return await asyncio.to_thread(_finish, options, journal, jobs, {**facts, **times})


def _tell(jobs: Sequence[Job], missing: int, stale: int, started: float, journal: Journal) -> None:
    """Tells what is to be asked, and what is not."""
    questions, out = len({job.item.group for job in jobs}), journal.directory
    say(f"{len(jobs)} answers to {questions} questions, {missing} to get, in {out}")
    if stale:
        say(f"{stale} of them were to rows that have changed since, and are asked again")
    if kept := len(jobs) - missing:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started))
        say(f"{kept} answers are kept from the run started {when}; another model needs its own --out, or --fresh")


def _settings(
    options: argparse.Namespace, bench: Bench, endpoint: Endpoint, family: Family, prompt: Prompt
) -> dict[str, Any]:
    """Returns what an answer depends on besides its row."""
    import deepeyes_plugin as plugin  # noqa: PLC0415

    return {
        "bench": bench.name,
        "model": endpoint.model,
        "root": endpoint.root,
        "tool": not options.no_tool,
        "blank_crops": options.blank_crops,
        "family": family.name,
        "coordinates": plugin.SETTINGS.coordinates.value,
        "crop_source": plugin.SETTINGS.crop_source.value,
        "rules": plugin.SETTINGS.rules.value,
        **{name: getattr(options, name) for name in ("max_turns", "max_pixels", "max_tokens", "temperature", "top_p")},
        "extra": options.extra,
        "options": options.options or ("keep" if bench.cycled else "shuffle"),
        "seed": options.seed,
        "prompt": asdict(prompt),
    }


def _journal(out: Path, *, fresh: bool) -> Journal:
    """Opens the journal of a run; a fresh one takes the place of an earlier run, which is renamed."""
    from deepeyes.evaluation.run import Journal  # noqa: PLC0415

    journal = Journal(out)
    if fresh and (out / "run.json").is_file():
        aside = out.with_name(f"{out.name}-until-{time.strftime('%Y%m%d-%H%M%S')}")
        out.rename(aside)
        journal.close()
        journal = Journal(out)
        say(f"the earlier run is in {aside} now")
    return journal


def _earlier_model(out: Path | None) -> str | None:
    """Returns the model of a run that is gone on with, which may need no endpoint any more."""
    path = out / "run.json" if out else None
    if path is None or not path.is_file():
        return None
    return str(json.loads(path.read_text(encoding="utf-8"))["settings"]["model"])


def _configure(options: argparse.Namespace, coordinates: Any) -> None:
    """Puts the options of the command line in the place of the plugin's settings."""
    import deepeyes_plugin as plugin  # noqa: PLC0415

    settings = plugin.SETTINGS
    if options.coordinates:
        coordinates = Coordinates(options.coordinates)
    elif settings.coordinates is not Coordinates.AUTO:
        coordinates = settings.coordinates
    patience = settings.judge.patience if os.environ.get("DEEPEYES_JUDGE_PATIENCE") else JUDGE_PATIENCE
    kind = JudgeKind(options.judge) if options.judge in ("server", "rule") else settings.judge.kind
    plugin.SETTINGS = replace(
        settings,
        judge=replace(settings.judge, kind=kind, patience=patience),
        rules=Rules(options.rules or settings.rules),
        crop_source=CropSource(options.crop_source or settings.crop_source),
        coordinates=coordinates,
    )


def _prompt(options: argparse.Namespace, *, tool: bool) -> Prompt:
    import deepeyes_plugin as plugin  # noqa: PLC0415
    from deepeyes.evaluation import run as eval_run  # noqa: PLC0415

    if options.prompt_from is None or not tool:
        return eval_run.own_prompt(plugin.SETTINGS.coordinates, tool=tool)
    items = read_bench(str(options.prompt_from), None).items
    try:
        if items[0].row is None:
            raise ValueError("it has no rows in the training schema")  # noqa: TRY301 - one message for both
        return eval_run.prompt_from(dict(items[0].row))
    except ValueError as error:
        raise UsageError(f"--prompt-from {options.prompt_from}: {error}") from error


def _prompt_note(options: argparse.Namespace, bench: Bench) -> str | None:
    """Says so where a prompt is not that of the training rows, or --prompt-from is of no use."""
    unused = "; --prompt-from is not used" if options.prompt_from else ""
    if options.no_tool:
        import deepeyes_plugin as plugin  # noqa: PLC0415

        own = any(item.row is None or has_tool(item.row, plugin.SETTINGS) for item in bench.items)
        return f"without the tool the prompt is the evaluation's own{unused}" if own or unused else None
    if all(item.row is not None for item in bench.items):
        return f"the rows bring their own prompt{unused}" if unused else None
    if unused:
        return None
    return "the prompt is the evaluation's own, not what training showed; --prompt-from PARQUET takes that of its rows"


def _drop_unknown_sources(bench: Bench) -> None:
    """Moves own rows of a source that has no scoring to the bad ones."""
    import deepeyes_plugin as plugin  # noqa: PLC0415

    def fault(item: Item) -> str | None:
        try:
            if item.row is not None:
                plugin.SETTINGS.scoring_of(item.row["data_source"])
        except DataError as error:
            return str(error)
        return None

    faults = {item.id: why for item in bench.items if (why := fault(item))}
    bench.bad += [BadRow(name, why) for name, why in faults.items()]
    bench.items = [item for item in bench.items if item.id not in faults]
    bench.finish()


def _choose(bench: Bench, options: argparse.Namespace) -> list[Item]:
    """Returns the items of a random choice of questions, in the order of the file."""
    groups = list(dict.fromkeys(item.group for item in bench.items))
    if options.limit and options.limit < len(groups):
        groups = random.Random(options.seed).sample(groups, options.limit)  # noqa: S311 - no secret
    chosen = set(groups)
    return [item for item in bench.items if item.group in chosen]


def _same_settings(out: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Notes the settings of a new run; refuses to go on with a run of others.

    Returns:
        Seconds that it took so far, and when it was first started.
    """
    path = out / "run.json"
    if not path.is_file():
        now = round(time.time(), 3)
        _write_json(path, {"settings": settings, "started": now, "wall_seconds": 0.0})
        return 0.0, now
    earlier = json.loads(path.read_text(encoding="utf-8"))
    found = earlier["settings"]
    roots = found.get("root"), settings["root"]
    if None in roots:  # not every endpoint says it, nor at any time
        settings["root"] = found["root"] = roots[0] or roots[1]
    differing = [name for name in settings if found.get(name) != settings[name]]
    if differing:
        listed = "; ".join(f"{name}: {found.get(name)!r:.80} then, {settings[name]!r:.80} now" for name in differing)
        raise UsageError(
            f"{out} holds a run with other settings ({listed}). Give this one its own folder with --out, or set the "
            "earlier one aside with --fresh"
        )
    return float(earlier["wall_seconds"]), float(earlier["started"])


async def _check_view(
    todo: Sequence[Job], play: Play, scheduler: EvalScheduler, endpoint: Endpoint, *, new: bool
) -> dict[str, Any] | None:
    """Asks the endpoint how many tokens it makes of the first view that can be made and is not refused.

    Raises:
        EndpointError: It makes more or fewer than a model of this family makes of the view as it is; or it refuses
            all, and nothing was answered before (`new`).
    """
    from deepeyes.evaluation.endpoint import MARKUP_TOKENS, EndpointError, RefusedError  # noqa: PLC0415

    refusal: RefusedError | None = None
    for job in todo[:VIEW_TRIES]:
        try:
            view = (await scheduler.view(await asyncio.to_thread(job.item.load))).image
        except Exception:  # noqa: BLE001, S112 - a row that can't be read is reported when its turn comes
            continue
        messages = play.request(job).messages
        try:
            expected, seen = await endpoint.check_view(messages, view)
        except RefusedError as error:
            refusal = error
            continue
        found: dict[str, Any] = {"size": list(view.size), "expected": expected, "seen": seen, "note": None}
        if seen is None:
            found["note"] = "the endpoint counts no tokens, so whether it shows our views unscaled is not known"
        elif not expected <= seen <= expected + MARKUP_TOKENS:
            raise EndpointError(
                f"{endpoint.url} makes {seen} tokens of a view of {view.width} x {view.height} pixels, where "
                f"{expected} to {expected + MARKUP_TOKENS} were expected: it scales the view again, and boxes would be "
                "out of place. Start the server with MAX_PIXELS at least that of --max-pixels, or name the right "
                "--family; for a model of another kind: --skip-view-check"
            )
        elif play.tool:
            found["note"] = await _crop_note(messages, endpoint)
        if found["note"]:
            say(found["note"])
        return found
    if refusal and new:
        raise EndpointError(
            f"{endpoint.url} refuses all of the first questions with their images: {refusal}. Does it serve "
            f"{endpoint.model!r}, and does that take images? To ask without this check: --skip-view-check"
        ) from refusal
    return None


async def _crop_note(messages: list[dict[str, Any]], endpoint: Endpoint) -> str | None:
    """Says so where the endpoint does not show the smallest crop as training does."""
    from deepeyes.evaluation.endpoint import MARKUP_TOKENS, RefusedError  # noqa: PLC0415

    assert endpoint.template is not None  # noqa: S101 - for mypy: the caller set it
    try:
        least, made = await endpoint.check_view(messages, endpoint.template.smallest())
    except RefusedError as error:
        return f"the endpoint refuses the smallest crop: {error}"
    if made is None or made <= least + MARKUP_TOKENS:
        return None
    return (
        f"the server makes {made} tokens of a crop of {least}: it scales small crops up, unlike "
        'training; for vLLM: --extra \'{"mm_processor_kwargs": {"do_resize": false}}\''
    )


def _finish(options: argparse.Namespace, journal: Journal, jobs: Sequence[Job], facts: dict[str, Any]) -> int:
    """Judges what was played, and writes and prints the report."""
    import deepeyes_plugin as plugin  # noqa: PLC0415
    from deepeyes.evaluation import reporting as eval_report  # noqa: PLC0415
    from deepeyes.report.page import MAX_TRAJECTORIES  # noqa: PLC0415

    out, settings = journal.directory, plugin.SETTINGS
    judge = None if options.judge == "none" else Judge(settings)
    ruled = settings.judge.kind is JudgeKind.RULE
    label = "rule" if ruled else f"{settings.judge.model or ', '.join(settings.judge.urls)}"
    facts["judge"] = "none" if judge is None else label
    verdicts = eval_report.Verdicts(out / "verdicts.jsonl", judge, label)
    records = [
        {**journal.answers[job.id], "group": job.item.group, "category": job.item.category}
        for job in jobs
        if job.id in journal.answers
    ]
    try:
        results, traces = eval_report.judge_all(records, verdicts, settings.rules)
    finally:
        if judge is not None:
            judge.close()
    eval_report.write_traces(out, traces, facts["started"])
    report = eval_report.make_report(results, facts)
    _write_json(out / "report.json", report)
    print(eval_report.render(report))
    limit = f" --limit {len(traces)}" if len(traces) > MAX_TRAJECTORIES else ""
    say(f"{out / 'report.json'}; every trajectory: bash deepeyes.sh report {out}{limit}")
    if verdicts.error is not None:
        say(f"{verdicts.error}\neval: answers are kept; with a judge, the same command completes the report")
    return int(bool(facts["refused"] or facts["bad_rows"] or (report["all"] or {"unread": 1})["unread"]))


def _write_json(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


# Two evaluations


def compare(arguments: Sequence[str]) -> int:
    """Compares two runs and prints the table."""
    from deepeyes.evaluation import reporting as eval_report  # noqa: PLC0415 - with scipy, which takes a second

    parser = Parser(prog="deepeyes.sh eval compare", description="Compares two runs, question by question.")
    parser.add_argument("run_a", type=Path, help="folder of a run")
    parser.add_argument("run_b", type=Path, help="folder of another")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    reports = []
    for folder in (options.run_a, options.run_b):
        path = folder / "report.json"
        if not path.is_file():
            raise UsageError(f"{folder} holds no report.json; expected the folder of a finished evaluation")
        reports.append(json.loads(path.read_text(encoding="utf-8")))
    try:
        figures, text, notes = eval_report.compare_runs(*reports)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(json.dumps(figures, indent=1) if options.json else "\n".join([text, *notes]))
    for note in notes if options.json else ():
        say(note)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command-line words; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["compare"]:
            return compare(words[1:])
        options = parse(words)
        bench = read_bench(options.bench, options.data)
        say(f"{bench.name}: {len(bench.items)} rows, {len(bench.bad)} bad")
        return asyncio.run(evaluate(options, bench))
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, and the same command goes on from there")
        return 130
    except EvalError as error:
        say(str(error))
        return error.status
    except OSError as error:  # a full disk, a folder that can't be written
        say(str(error))
        return 1
