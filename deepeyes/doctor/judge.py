"""The judge: whether it answers, is large enough and can judge."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.gpus import billions
from deepeyes.doctor.servers import engine_of, models_of, reason_of
from deepeyes.errors import JudgeError
from deepeyes.judging.client import JudgeClient
from deepeyes.settings import JudgeKind, Scoring
from deepeyes.verdicts import Question

if TYPE_CHECKING:
    from deepeyes.settings import Settings

MIN_JUDGE_BILLIONS = 32  # with weaker judges, tool use collapses
JUDGE_PATIENCE = 8.0  # seconds for the two sample questions
JUDGE_SAMPLE = ("What colour is the car next to the gate?", "The car next to the gate is red.")
JUDGE_SAMPLE_ANSWERS = {"It is red.": True, "It is blue.": False}


def check_judge(settings: Settings) -> list[Finding]:
    """Asks each judge for its model and two questions whose answers are known."""
    if settings.judge.kind is JudgeKind.RULE:
        text = "DEEPEYES_JUDGE=rule: no LLM is asked, which is for demos and tests"
        return [Finding("judge", Level.WARNING, text, "unset DEEPEYES_JUDGE")]
    findings = [finding for url in settings.judge.urls for finding in check_replica(settings, url)]
    if any(finding.check == "judge verdicts" and finding.level is Level.OK for finding in findings):
        # With one replica that answers well, a dead one costs speed alone: the client passes it over.
        return [
            finding._replace(level=Level.WARNING)
            if finding.check == "judge" and finding.level is Level.ERROR
            else finding
            for finding in findings
        ]
    return findings


def check_replica(settings: Settings, url: str) -> list[Finding]:
    """Asks one judge for its model and for two verdicts."""
    mend = "bash deploy_judge.sh"
    try:
        served = models_of(url, settings.judge.api_key)
    except OSError as error:
        return [Finding("judge", Level.ERROR, f"nothing answers at {url}: {reason_of(error)}", mend)]
    if served is None:
        try:
            rollout = engine_of(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}") is not None
        except OSError:
            rollout = False
        what = (
            "a rollout server answers" if rollout else "what answers lists no models (a wrong DEEPEYES_JUDGE_API_KEY?)"
        )
        return [Finding("judge", Level.ERROR, f"{what} at {url}; expected a judge", mend)]
    if settings.judge.model and settings.judge.model not in served:
        text = f"{url} serves {', '.join(served)}, not DEEPEYES_JUDGE_MODEL={settings.judge.model}"
        return [Finding("judge", Level.ERROR, text, "unset DEEPEYES_JUDGE_MODEL")]
    model = settings.judge.model or (served or ["no model"])[0]
    return [Finding("judge", Level.OK, f"{model} at {url}"), judge_size(model), _ask_judge(settings, url)]


def judge_size(model: str) -> Finding:
    """Tells whether a judge is large enough, by its name."""
    size = billions(model)
    if size is None:
        text = (
            f"the name {model!r} does not tell; expected {MIN_JUDGE_BILLIONS}B or more: with less, tool use collapses"
        )
        return Finding("judge size", Level.WARNING, text)
    if size < MIN_JUDGE_BILLIONS:
        text = f"{size:g}B; expected {MIN_JUDGE_BILLIONS}B or more: with a weaker judge, tool use collapses"
        return Finding("judge size", Level.WARNING, text, "bash deploy_judge.sh  # serves 72B")
    return Finding("judge size", Level.OK, f"{size:g}B")


def _ask_judge(settings: Settings, url: str) -> Finding:
    quick = replace(settings.judge, urls=(url,), patience=JUDGE_PATIENCE, timeout=JUDGE_PATIENCE)
    questions = [Question(Scoring.VISUAL, *JUDGE_SAMPLE, answer) for answer in JUDGE_SAMPLE_ANSWERS]
    client, start = JudgeClient(quick), time.monotonic()
    try:
        verdicts = client.verdicts(questions)
    except JudgeError as error:
        return Finding("judge verdicts", Level.ERROR, str(error), "bash deploy_judge.sh")
    finally:
        client.close()
    took = f"in {time.monotonic() - start:.1f} s"
    if [verdict.correct for verdict in verdicts] == list(JUDGE_SAMPLE_ANSWERS.values()):
        return Finding("judge verdicts", Level.OK, f"two of two are right, {took}")
    said = ["no verdict" if verdict.source == "unparseable" else str(int(verdict.correct)) for verdict in verdicts]
    found = f"a right answer got {said[0]}, a wrong one {said[1]}, {took}; expected 1 and 0"
    if client.unread:
        found += f"; the last reply was {client.unread}"
    return Finding("judge verdicts", Level.ERROR, found, "bash deploy_judge.sh  # serves a model that can judge")
