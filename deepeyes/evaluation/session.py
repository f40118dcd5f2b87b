"""One evaluation: what is missing is played, all of it is judged, and the report is written."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.errors import DataError
from deepeyes.evaluation import protocol
from deepeyes.evaluation.bench import BadRow, Bench, Item, read_bench
from deepeyes.evaluation.errors import UsageError
from deepeyes.evaluation.figures import make_report
from deepeyes.evaluation.folder import earlier_model, open_journal, same_settings, say, write_json
from deepeyes.evaluation.jobs import Asking, Job, make_jobs
from deepeyes.evaluation.rendering import render
from deepeyes.evaluation.running import Outcome, Run, Sources, drop_stale
from deepeyes.evaluation.verdicts import Verdicts, judge_all, write_traces
from deepeyes.judging.judge import Judge
from deepeyes.playing.check import check_view
from deepeyes.playing.endpoint import Access, Endpoint, EndpointError, RefusedError
from deepeyes.playing.families import FAMILIES, Family, family_of
from deepeyes.playing.memory import give_back_large_blocks
from deepeyes.playing.pictures import Viewer
from deepeyes.playing.player import Player
from deepeyes.playing.prompts import Prompt, own_prompt, prompt_from
from deepeyes.rows import has_tool
from deepeyes.settings import Coordinates, JudgeKind, Rules, Settings
from deepeyes.traces import MAX_TRAJECTORIES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from deepeyes.playing.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
JUDGE_PATIENCE = 30.0
"""Seconds that a missing judge is waited for, unless DEEPEYES_JUDGE_PATIENCE says otherwise: here nothing is lost."""
VIEW_TRIES = 10
"""How many first rows may be unreadable or refused before the check of the view is given up."""


@dataclass(frozen=True)
class Setup:
    """An evaluation before it begins, all that its command line and the environment decide.

    Attributes:
        options: The command line.
        bench: What is asked.
        settings: Of the plugin, with what flags changed.
        family: Of the model.
        asking: How questions are asked.
        viewer: Who makes the pictures.
        order: Of the options.
        differs: What differs from the protocol, in words.
    """

    options: argparse.Namespace
    bench: Bench
    settings: Settings
    family: Family
    asking: Asking
    viewer: Viewer
    order: str
    differs: tuple[str, ...]


def prepare(options: argparse.Namespace, bench: Bench, settings: Settings, model: str) -> Setup:
    """Decides how a model is asked.

    Args:
        options: The command line.
        bench: What is asked; rows of a source without scoring are moved to the bad ones.
        settings: From the environment.
        model: Served name, which tells the family where no flag does.

    Raises:
        UsageError: A value is not allowed.
    """
    family = FAMILIES[options.family] if options.family else family_of(model)
    settings = _settings(options, settings, family)
    names = ("max_turns", "max_tokens", "max_pixels", "temperature", "crop_source")
    try:
        fixed = protocol.paper(family) if options.protocol == "paper" else protocol.training(os.environ, settings)
        limits, differs = protocol.override(fixed, {name: getattr(options, name) for name in names})
        viewer = Viewer(family, replace(settings, crop_source=limits.crop_source), limits.max_pixels)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _drop_unknown_sources(bench, settings)
    tool = not options.no_tool
    prompt = _prompt(options, settings.coordinates, tool=tool)
    asking = Asking(options.protocol, prompt, tool, limits, settings, settings.coordinates, options.top_p, options.seed)
    order = options.options or ("keep" if bench.cycled else "shuffle")
    return Setup(options, bench, settings, family, asking, viewer, order, tuple(differs))


def _settings(options: argparse.Namespace, settings: Settings, family: Family) -> Settings:
    """Puts the flags of the command line in the place of the plugin's settings."""
    coordinates = settings.coordinates
    if options.coordinates:
        coordinates = Coordinates(options.coordinates)
    elif coordinates is Coordinates.AUTO:
        coordinates = family.coordinates
    patience = settings.judge.patience if os.environ.get("DEEPEYES_JUDGE_PATIENCE") else JUDGE_PATIENCE
    kind = JudgeKind(options.judge) if options.judge in ("server", "rule") else settings.judge.kind
    return replace(
        settings,
        judge=replace(settings.judge, kind=kind, patience=patience),
        rules=Rules(options.rules or settings.rules),
        coordinates=coordinates,
    )


def _prompt(options: argparse.Namespace, coordinates: Coordinates, *, tool: bool) -> Prompt:
    if options.prompt_from is None or not tool:
        return own_prompt(coordinates, tool=tool)
    items = read_bench(str(options.prompt_from), None).items
    try:
        if items[0].row is None:
            raise ValueError("it has no rows in the training schema")  # noqa: TRY301 - one message for both
        return prompt_from(dict(items[0].row))
    except ValueError as error:
        raise UsageError(f"--prompt-from {options.prompt_from}: {error}") from error


def _drop_unknown_sources(bench: Bench, settings: Settings) -> None:
    """Moves own rows of a source that has no scoring to the bad ones."""

    def fault(item: Item) -> str | None:
        try:
            if item.row is not None:
                settings.scoring_of(item.row["data_source"])
        except DataError as error:
            return str(error)
        return None

    faults = {item.id: why for item in bench.items if (why := fault(item))}
    bench.bad += [BadRow(name, why) for name, why in faults.items()]
    bench.items = [item for item in bench.items if item.id not in faults]
    bench.finish()


def jobs_of(setup: Setup) -> list[Job]:
    """Returns the trajectories of a random choice of questions, in the order of the file."""
    options, bench = setup.options, setup.bench
    groups = list(dict.fromkeys(item.group for item in bench.items))
    if options.limit and options.limit < len(groups):
        groups = random.Random(options.seed).sample(groups, options.limit)  # noqa: S311 - no secret
    chosen = set(groups)
    items = [item for item in bench.items if item.group in chosen]
    return make_jobs(items, setup.order, options.seed, options.samples)


def notes_of(setup: Setup) -> list[str]:
    """Returns what a reader of the figures should know."""
    letter = setup.bench.fixed_letter() if setup.order == "keep" else None
    fixed = f"with --options keep the right answer is {letter} everywhere: one who always says it is always right"
    differs = f"unlike the protocol {setup.asking.protocol}: {'; '.join(setup.differs)}" if setup.differs else None
    return list(filter(None, [setup.bench.note(), differs, fixed if letter else None, _prompt_note(setup)]))


def _prompt_note(setup: Setup) -> str | None:
    """Says so where a prompt is not that of the training rows, or --prompt-from is of no use."""
    options, items = setup.options, setup.bench.items
    unused = "; --prompt-from is not used" if options.prompt_from else ""
    if options.no_tool:
        own = any(item.row is None or has_tool(item.row, setup.settings) for item in items)
        return f"without the tool the prompt is the evaluation's own{unused}" if own or unused else None
    if all(item.row is not None for item in items):
        return f"the rows bring their own prompt{unused}" if unused else None
    if unused:
        return None
    return "the prompt is the evaluation's own, not what training showed; --prompt-from PARQUET takes that of its rows"


async def evaluate(options: argparse.Namespace, bench: Bench, settings: Settings) -> int:
    """Plays what is missing, judges and reports.

    Returns:
        The exit status.
    """
    give_back_large_blocks()
    access = Access(
        url=options.url,
        api_key=os.environ.get("OPENAI_API_KEY") or "EMPTY",
        retries=options.retries,
        timeout=options.timeout,
        patience=options.patience,
        extra=options.extra,
    )
    endpoint = Endpoint(access, options.model)
    try:
        earlier = None if options.fresh else earlier_model(options.out)
        answers = await endpoint.find_model(earlier, needed=False)
        setup = prepare(options, bench, settings, endpoint.model)
        out = options.out or ROOT / "output" / "eval" / _folder_name(setup, endpoint.model)
        with contextlib.closing(open_journal(out, fresh=options.fresh)) as journal:
            return await _evaluate(setup, endpoint, journal, earlier, answers=answers)
    finally:
        await endpoint.close()


def _folder_name(setup: Setup, model: str) -> str:
    short = re.sub(r"[^\w.-]+", "-", model.rstrip("/").rpartition("/")[2])
    kind = ("blank" if setup.options.blank_crops else "zoom") if setup.asking.tool else "notool"
    return f"{setup.bench.name}-{short}-{kind}"


async def _evaluate(setup: Setup, endpoint: Endpoint, journal: Journal, earlier: str | None, *, answers: bool) -> int:
    options, out = setup.options, journal.directory
    settings = _recorded(setup, endpoint)
    seconds, started = same_settings(out, settings)
    jobs = jobs_of(setup)
    if journal.answers:
        say(f"comparing {len(journal.answers)} answers that are there with the rows")
    stale = await drop_stale(jobs, setup.asking, setup.viewer, journal)
    todo = [job for job in jobs if job.id not in journal.answers]
    if todo and not answers:
        endpoint.model = options.model or ""
        await endpoint.find_model(earlier)
        settings |= {"model": endpoint.model, "root": endpoint.root}
        same_settings(out, settings)
    _tell(jobs, len(todo), stale, started, journal)
    notes = notes_of(setup)
    for note in notes:
        say(note)
    outcome, tokens, begun = Outcome(), None, time.monotonic()
    player = Player(
        endpoint, setup.viewer, setup.settings, setup.asking.limits.max_turns, blank_crops=options.blank_crops
    )
    try:
        if todo:
            if not options.skip_view_check:
                tokens = await _check_view(setup, todo, endpoint, new=not journal.answers)
            run = Run(setup.asking, player, setup.viewer, journal, setup.bench.name)
            outcome = await run.play_all(jobs, options.concurrency)
    finally:
        times = {"started": started, "wall_seconds": seconds + time.monotonic() - begun}
        write_json(out / "run.json", {"settings": settings, **times})
    if tokens and tokens["note"]:
        notes.insert(1 if setup.bench.note() else 0, tokens["note"])
    facts: dict[str, Any] = {
        **settings,
        **times,
        "url": options.url,
        "samples": options.samples,
        "view_tokens": tokens,
        "differs": list(setup.differs),
        "bad_rows": [asdict(row) for row in dict.fromkeys([*setup.bench.bad, *outcome.bad])],
        "refused": [asdict(row) for row in outcome.refused],
        "notes": notes,
    }
    return await asyncio.to_thread(_finish, setup, journal, jobs, facts)


def _recorded(setup: Setup, endpoint: Endpoint) -> dict[str, Any]:
    """Returns what an answer depends on besides its row."""
    asking, options = setup.asking, setup.options
    return {
        "bench": setup.bench.name,
        "layout": setup.bench.layout,
        "protocol": asking.protocol,
        "model": endpoint.model,
        "root": endpoint.root,
        "tool": asking.tool,
        "blank_crops": options.blank_crops,
        "family": setup.family.name,
        "coordinates": asking.coordinates.value,
        "rules": setup.settings.rules.value,
        **asking.limits.plain(),
        "top_p": options.top_p,
        "extra": options.extra,
        "options": setup.order,
        "seed": options.seed,
        "prompt": asdict(asking.prompt),
    }


def _tell(jobs: Sequence[Job], missing: int, stale: int, started: float, journal: Journal) -> None:
    """Tells what is to be asked, and what is not."""
    questions, out = len({job.item.group for job in jobs}), journal.directory
    say(f"{len(jobs)} answers to {questions} questions, {missing} to get, in {out}")
    if stale:
        say(f"{stale} of them were to rows that have changed since, and are asked again")
    if kept := len(jobs) - missing:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started))
        say(f"{kept} answers are kept from the run started {when}; another model needs its own --out, or --fresh")


async def _check_view(setup: Setup, todo: Sequence[Job], endpoint: Endpoint, *, new: bool) -> dict[str, Any] | None:
    """Asks what the endpoint makes of the first view that can be made and is not refused.

    Raises:
        EndpointError: See `check_view`; or it refuses all, and nothing was answered before (`new`).
    """
    refusal: RefusedError | None = None
    sources = Sources()
    for job in todo[:VIEW_TRIES]:
        pictures = await sources.pictures(job.item, setup.viewer)
        if pictures is None:  # it is reported when its turn comes
            continue
        picture = pictures[0]
        messages = setup.asking.turns(job)[0]
        try:
            found = await check_view(endpoint, setup.viewer, messages, picture, tool=setup.asking.tool)
        except RefusedError as error:
            refusal = error
            continue
        if found.note:
            say(found.note)
        return {**asdict(found), "size": list(found.size)}
    if refusal and new:
        raise EndpointError(
            f"{endpoint.url} refuses all of the first questions with their images: {refusal}. Does it serve "
            f"{endpoint.model!r}, and does that take images? To ask without this check: --skip-view-check"
        ) from refusal
    return None


def _finish(setup: Setup, journal: Journal, jobs: Sequence[Job], facts: dict[str, Any]) -> int:
    """Judges what was played, and writes and prints the report."""
    out, settings = journal.directory, setup.settings
    judge = None if setup.options.judge == "none" else Judge(settings)
    ruled = settings.judge.kind is JudgeKind.RULE
    label = "rule" if ruled else f"{settings.judge.model or ', '.join(settings.judge.urls)}"
    facts["judge"] = "none" if judge is None else label
    verdicts = Verdicts(out / "verdicts.jsonl", judge, label)
    records = [
        {**journal.answers[job.id], "group": job.item.group, "category": job.item.category}
        for job in jobs
        if job.id in journal.answers
    ]
    try:
        results, traces = judge_all(records, verdicts, settings.rules)
    finally:
        if judge is not None:
            judge.close()
    write_traces(out, traces, facts["started"])
    report = make_report(results, facts)
    write_json(out / "report.json", report)
    print(render(report))
    for fault in report["faults"]:
        say(f"NO MEASUREMENT: {fault}" if report["all"] is None else f"FAULT: {fault}")
    limit = f" --limit {len(traces)}" if len(traces) > MAX_TRAJECTORIES else ""
    if traces:
        say(f"{out / 'report.json'}; every trajectory: bash deepeyes.sh report {out}{limit}")
    if verdicts.error is not None:
        say(f"{verdicts.error}\neval: answers are kept; with a judge, the same command completes the report")
    unread = (report["all"] or {"unread": 1})["unread"]
    return int(bool(report["faults"] or facts["refused"] or facts["bad_rows"] or unread))
