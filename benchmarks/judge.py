"""How long a step waits for its judge: the plugin's client, the openai SDK, and a loop that asks one by one.

    python benchmarks/judge.py          # all; `ahead` or `math` for one of the last parts alone

The judge is tests/judge_server.py in a process of its own, which answers each call after 200 ms, so that what is
above latency x ceil(calls / concurrency) is the client's own. Everything is measured in this one run, on this machine:
the ratios are what to look at. Warm batches are the quickest of three. It takes about two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import openai

from deepeyes.judging.ahead import Ahead
from deepeyes.judging.client import JudgeClient
from deepeyes.judging.judge import Judge
from deepeyes.scoring import score_batch
from deepeyes.settings import JudgeSettings, Rules, Scoring, Settings
from deepeyes.verdicts import Question, fill_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LATENCY = 0.2
"""Seconds; about what a 72B judge on four GPUs takes for a verdict of six tokens."""

ANSWERS = 96
SLOW = 0.3  # seconds; a judge that is busy, for the part on verdicts ahead
SPREAD = 4.0  # seconds over which the trajectories of that part end


@contextlib.contextmanager
def judge_server(latency: float) -> Iterator[str]:
    """Runs the scripted judge in a process of its own, and yields its URL."""
    command = [sys.executable, str(ROOT / "tests" / "judge_server.py"), str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout  # noqa: S101 - for mypy: it is a pipe
        yield process.stdout.readline().strip()
        process.communicate()


def questions(count: int, start: int = 0) -> list[Question]:
    """Makes distinct questions, whose answers have the length of a short sentence."""
    return [
        Question(
            Scoring.VISUAL,
            f"What colour is object {i}?",
            f"Object {i} is teal.",
            f"right, object {i} is of teal colour",
        )
        for i in range(start, start + count)
    ]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Measures one call, or the quickest of several."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def report(name: str, took: float, bound: float) -> None:
    """Prints a line of the table."""
    print(f"{name:<58} {took:8.2f} s {bound:8.2f} s {took / bound:7.2f} x")


def ask_one_by_one(url: str, model: str) -> None:
    """Does what the example of ms-swift does: a loop around the openai SDK."""
    with openai.OpenAI(base_url=url, api_key="EMPTY", max_retries=0) as client:
        for question in questions(ANSWERS):
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": fill_prompt(JudgeSettings().visual_prompt, question)}],
                max_tokens=JudgeSettings().max_tokens,
            )


async def ask_with_sdk(url: str, model: str) -> list[float]:
    """Asks all at once with the asynchronous client of the openai SDK: a cold batch, and three warm ones."""
    times = []
    async with openai.AsyncOpenAI(base_url=url, api_key="EMPTY", max_retries=0) as client:
        for _ in range(4):
            start = time.perf_counter()
            await asyncio.gather(
                *[
                    client.chat.completions.create(
                        model=model,
                        messages=[{"role": "user", "content": fill_prompt(JudgeSettings().visual_prompt, question)}],
                        max_tokens=JudgeSettings().max_tokens,
                    )
                    for question in questions(ANSWERS)
                ]
            )
            times.append(time.perf_counter() - start)
    return times


def client_of(url: str, concurrency: int) -> contextlib.closing[JudgeClient]:
    """Makes a client that closes at the end of a with block."""
    return contextlib.closing(JudgeClient(JudgeSettings(urls=(url,), concurrency=concurrency)))


def measure_speed(url: str) -> None:
    """Compares clients, concurrencies, and batches with and without repeated answers."""
    model = "judge-72b"
    with client_of(url, ANSWERS) as client:
        cold = seconds(lambda: client.verdicts(questions(ANSWERS)))
        warm = seconds(lambda: client.verdicts(questions(ANSWERS)), times=3)
    report(f"{ANSWERS} answers, this client, first step", cold, LATENCY)
    report(f"{ANSWERS} answers, this client, later steps", warm, LATENCY)
    sdk_cold, *sdk_later = asyncio.run(ask_with_sdk(url, model))
    sdk_warm = min(sdk_later)
    report(f"{ANSWERS} answers, openai SDK at once, first step", sdk_cold, LATENCY)
    report(f"{ANSWERS} answers, openai SDK at once, later steps", sdk_warm, LATENCY)
    loop = seconds(lambda: ask_one_by_one(url, model))
    report(f"{ANSWERS} answers, one by one", loop, LATENCY * ANSWERS)
    print(f"one by one takes {loop / warm:.0f} times as long as this client, and {loop / sdk_warm:.0f} times the SDK's")

    for concurrency in (16, 64, 256):
        count = 4 * concurrency
        with client_of(url, concurrency) as client:
            client.verdicts(questions(concurrency, start=count))  # connects
            took = seconds(partial(client.verdicts, questions(count)), 3)
        report(f"{count} answers, {concurrency} in flight", took, LATENCY * math.ceil(count / concurrency))

    groups = [question for question in questions(18) for _ in range(5)] + questions(6)  # 6 groups of 16
    for name, batch in (("18 distinct answers", questions(18)), ("96 answers, 3 distinct in each group of 16", groups)):
        settings = Settings(judge=JudgeSettings(urls=(url,), concurrency=8))
        with contextlib.closing(Judge(settings)) as judge:
            judge.verdicts(questions(8, start=1000))  # connects
            took = seconds(partial(judge.verdicts, batch))
        report(f"{name}, 8 in flight", took, LATENCY * math.ceil(18 / 8))


def measure_memory(url: str) -> None:
    """Measures what a batch takes beyond its questions and their verdicts' list."""
    for count in (1_000, 10_000):
        batch = questions(count)
        with client_of(url, 256) as client:
            client.verdicts(questions(256))
            tracemalloc.start()
            took = seconds(partial(client.verdicts, batch))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        print(f"{count:6d} answers in {took:.1f} s while memory is traced: at most {peak / 1e6:.1f} MB more")


class ScriptedScheduler:
    """swift's own `run` around an engine whose turns end, evenly spread, within `SPREAD` seconds."""

    def __init__(self, url: str) -> None:
        """Loads swift, and the plugin with settings of its own."""
        os.environ.update(DEEPEYES_JUDGE_URLS=url, DEEPEYES_JUDGE_CONCURRENCY="64")
        from swift.infer_engine import protocol  # noqa: PLC0415 - heavy, and read with the settings above

        import deepeyes_plugin  # noqa: PLC0415 - likewise

        self.protocol, self.plugin = protocol, deepeyes_plugin
        self.tokenizer, self.engine = None, self  # swift looks for both
        self.scheduler = deepeyes_plugin.DeepEyesScheduler(infer_engine=self, max_turns=1)

    async def infer_async(self, request: Any, _config: object, **_kwargs: object) -> Any:
        """Answers after the seconds that the request names."""
        await asyncio.sleep(request.data_dict["ends"])
        protocol = self.protocol
        message = protocol.ChatMessage(role="assistant", content=f"<answer>{request.data_dict['answer']}</answer>")
        choice = protocol.ChatCompletionResponseChoice(0, message, "stop", token_ids=[1])
        return protocol.ChatCompletionResponse("scripted", [choice], protocol.UsageInfo(1, 1, 2))

    def step(self, count: int, *, ahead: bool) -> tuple[float, float, float]:
        """Plays a rollout and scores it; returns seconds waited beyond it, share ahead, longest stall."""
        judge_settings = dataclasses.replace(self.plugin.SETTINGS.judge, ahead=ahead)
        settings = dataclasses.replace(self.plugin.SETTINGS, judge=judge_settings)
        start = 1_000_000 * ahead
        asked = questions(count, start)
        rows = [
            {
                "data_source": "vstar",
                "answer": one.answer,
                "ends": SPREAD * (place + 1) / count,
                "reward_model": {"ground_truth": one.reference},
                "extra_info": {"question": one.question},
            }
            for place, one in enumerate(asked)
        ]
        with contextlib.closing(Judge(settings)) as server_judge, contextlib.closing(Judge(settings)) as judge:
            for one in (server_judge, judge):
                one.verdicts(questions(8, start + 500_000))  # connects, as every step but the first finds it
            self.scheduler._ahead = Ahead(settings, lambda: server_judge)  # noqa: SLF001 - what the benchmark is about
            begin = time.perf_counter()
            outputs, stall = asyncio.run(self._play(rows))
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            columns["messages"] = [output.messages for output in outputs]
            columns["rollout_infos"] = [output.rollout_infos for output in outputs]
            completions = [output.messages[-1]["content"] for output in outputs]
            scored = score_batch(completions, columns, settings, judge)
            waited = time.perf_counter() - begin - SPREAD
        return waited, sum(one.verdict.ahead for one in scored) / count, stall

    async def _play(self, rows: list[dict[str, Any]]) -> tuple[list[Any], float]:
        stalls = [0.0]

        async def watch() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                stalls.append(time.perf_counter() - before - 0.005)

        requests = [
            self.protocol.RolloutInferRequest(messages=[{"role": "user", "content": "?"}], data_dict=row)
            for row in rows
        ]
        watcher = asyncio.ensure_future(watch())
        outputs = await asyncio.gather(*[self.scheduler.run(request, None) for request in requests])
        watcher.cancel()
        return list(outputs), max(stalls)


def measure_ahead(url: str) -> None:
    """Compares what a step waits beyond its rollout, with and without verdicts ahead."""
    scripted = ScriptedScheduler(url)
    print(f"\n384 trajectories end over {SPREAD:g} s, the judge takes {SLOW:g} s, 64 in flight; beyond the rollout:")
    waits = {}
    for ahead in (False, True):
        waits[ahead], share, stall = scripted.step(384, ahead=ahead)
        name = "asked when a trajectory ends" if ahead else "asked by the reward"
        print(
            f"{name:<58} {waits[ahead]:8.2f} s   {100 * share:3.0f} % ahead, loop stalled {1000 * stall:.0f} ms at most"
        )
    print(f"verdicts ahead: {waits[False] / max(waits[True], 1e-3):.1f} times less to wait")


def maths(pairs: Iterable[tuple[str, str]]) -> list[Question]:
    """Makes mathematical questions of references and answers."""
    return [Question(Scoring.MATH, "How long is it?", *pair) for pair in pairs]


def verify(judge: Judge, asked: list[Question], rules: Rules) -> None:
    """Has mathematics look at answers, and nobody asks the judge."""
    known = [judge._math.at_once(one.reference, one.answer, rules) for one in asked]  # noqa: SLF001 - times mathematics alone
    pending = [judge._math.confirm(pairs) for pairs in known if isinstance(pairs, list)]  # noqa: SLF001 - likewise
    for one in pending:
        one.result()


def measure_math(url: str) -> None:
    """Compares mathematics and judge calls, each alone, with both; and has mathematics meet what never ends."""
    warm, first, second = (maths((rf"\sqrt{{{n}}}", rf"{k}\sqrt{{{n + 1}}}") for n in range(2, 258)) for k in (2, 3, 5))
    calls = questions(256, start=5000)
    print("\n256 wrong surds, and 256 calls of a judge that takes 200 ms, 64 in flight")
    for rules in Rules:
        with contextlib.closing(Judge(Settings(rules=rules, judge=JudgeSettings(urls=(url,))))) as judge:
            judge.verdicts([*questions(64), *warm])  # connects, and starts the processes
            mathematics = seconds(partial(verify, judge, first, rules))
            alone = seconds(partial(judge.verdicts, calls))
            both = seconds(partial(judge.verdicts, second))
        print(f"{rules.value + ': mathematics alone':<58} {mathematics:8.2f} s")
        print(f"{rules.value + ': judge calls alone':<58} {alone:8.2f} s")
        report(f"{rules.value}: both", both, max(mathematics, alone))
    towers = maths((r"\frac{1}{3}", rf"{n}^{{9^{{9^{{9}}}}}}") for n in range(2, 66))
    with contextlib.closing(Judge(Settings(rules=Rules.OFFICIAL, judge=JudgeSettings(urls=(url,))))) as judge:
        took = seconds(partial(judge.verdicts, towers))
    print(f"{'official: 64 towers of powers, start of processes included':<58} {took:8.2f} s")


def main() -> None:
    """Prints the table."""
    if sys.argv[1:] == ["ahead"]:
        with judge_server(SLOW) as url:
            measure_ahead(url)
        return
    if sys.argv[1:] == ["math"]:
        with judge_server(LATENCY) as url:
            measure_math(url)
        return
    print(f"{'a judge that answers after 200 ms':<58} {'took':>10} {'at best':>10} {'ratio':>9}")
    with judge_server(LATENCY) as url:
        measure_speed(url)
        measure_math(url)
    with judge_server(0.0) as url:
        measure_memory(url)
    with judge_server(SLOW) as url:
        measure_ahead(url)


if __name__ == "__main__":
    main()
