"""The judge client against a scripted server: every fault, alone and mixed, costs time and never a verdict."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from asking import KEY, UNPARSEABLE, always, eventually, first, questions, settings, truth
from hypothesis import given
from hypothesis import strategies as st
from judge_server import MODEL, JudgeServer, completion, hang, honest, reset, respond, say, stop_halfway, verdict_of

from deepeyes.errors import JudgeError
from deepeyes.judging.client import JudgeClient
from deepeyes.judging.replicas import MAX_BACKOFF, MIN_BACKOFF, backoff
from deepeyes.prompts import VISUAL_PROMPT
from deepeyes.settings import Scoring
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from judge_server import Action, Call
FAULTS = {
    "reset": reset,
    "hang": hang,
    "cut off": stop_halfway,
    **{f"status {status}": respond(status, b"later") for status in (408, 409, 429, 500, 502, 503, 529)},
    "swift deploy without its engine": respond(400, b'{"message": "EngineCore encountered an issue. See ..."}'),
    "retry-after 0": respond(429, b"", "Retry-After: 0\r\n"),
    "retry-after nonsense": respond(503, b"", "Retry-After: soon\r\n"),
    "not JSON": respond(200, b"<html>Bad Gateway</html>"),
    "no body": respond(200, b""),
    "not UTF-8": respond(200, b"\xff\xfe\x00"),
    "endless nesting": respond(200, b"[" * 100_000),
    "JSON, but a list": respond(200, b"[]"),
    "no choices": respond(200, b'{"choices": []}'),
    "no message": respond(200, b'{"choices": [{"message": null}]}'),
    "an error inside status 200": respond(200, b'{"error": {"message": "overloaded"}}'),
    "content in parts": say([{"type": "text", "text": "Judgement: 1"}]),
    "a megabyte": say("Judgement: 1 " * 100_000),
    "no HTTP": lambda writer: _write(writer, b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "wrong gzip": respond(200, completion("Judgement: 1"), "Content-Encoding: gzip\r\n"),
}


async def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()
    writer.close()


class TestFault:
    """A fault after which the same call may succeed."""

    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
    def test_once_a_question_costs_a_retry_and_no_verdict(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], fault: Action
    ) -> None:
        server.script = first(fault)
        client, asked = connect(server, timeout=2), questions(6)
        assert client.verdicts(asked) == truth(asked)
        assert client.stats.retries == 6
        assert (client.stats.calls, client.stats.questions, client.stats.unparseable) == (12, 6, 0)

    def test_faults_of_every_kind_in_2000_calls_change_no_verdict(
        self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        chance, faults = random.Random(7), [fault for fault in FAULTS.values() if fault is not hang]  # noqa: S311

        def script(call: Call) -> Action:
            roll = chance.random()
            return hang if roll < 0.002 else chance.choice(faults) if roll < 0.2 else honest(call)

        server.script = other.script = script
        client, asked = connect(server, other, timeout=1.0), questions(2000)
        assert client.verdicts(asked) == truth(asked)
        assert 200 < client.stats.retries < 1000
        assert client.stats.calls == client.stats.retries + 2000

    @pytest.mark.parametrize("pieces", [3, 40])
    def test_reply_in_pieces_is_put_together(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], pieces: int
    ) -> None:
        server.script = lambda call: say(verdict_of(call.answer), pieces=pieces)
        client, asked = connect(server), questions(4)
        assert client.verdicts(asked) == truth(asked)
        assert client.stats.retries == 0

    def test_reply_of_100_kb_is_read(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.script = lambda call: say(f"{verdict_of(call.answer)}\n{'It says so. ' * 9000}")
        client, asked = connect(server), questions(4)
        assert client.verdicts(asked) == truth(asked)
        assert client.stats.retries == 0

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_retry_after_is_waited_for_whatever_becomes_of_other_calls(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], form: str
    ) -> None:
        def script(call: Call) -> Action:
            if call.answer != "wrong 0" or call.asked:
                return respond(500, b"") if call.answer == "right 1" and not call.asked else honest(call)
            when = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True)
            return respond(429, b"", f"Retry-After: {'1.0' if form == 'seconds' else when}\r\n")

        server.script, server.latency = script, 0.05
        client, asked = connect(server), questions(3)
        assert client.verdicts(asked) == truth(asked)
        times = [call.time for call in server.calls if call.answer == "wrong 0"]
        assert 0.95 < times[1] - times[0] < 10

    @given(st.integers(1, 10_000), st.floats(0, 1))
    def test_backoff_grows_to_a_limit(self, failures: int, jitter: float) -> None:
        delay = backoff(failures, jitter)
        assert MIN_BACKOFF / 2 <= delay <= MAX_BACKOFF
        assert backoff(failures + 1, jitter) >= delay
        assert backoff(1, 0) != backoff(1, 1)


class TestRefusal:
    """What no retry can mend is an error at once."""

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
    def test_other_4xx_raise_with_the_servers_own_words(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], status: int
    ) -> None:
        server.script = always(respond(status, b'{"message": "prompt of 9000 tokens\\nis too long"}'))
        start = time.monotonic()
        with pytest.raises(JudgeError, match=rf"{server.url} .*status {status}: .*prompt of 9000 tokens") as caught:
            connect(server, patience=60).verdicts(questions(100))
        assert time.monotonic() - start < 10
        assert len(server.calls) <= 64
        assert "\n" not in str(caught.value)

    def test_judge_that_begins_to_refuse_all_raises_with_its_own_words(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        client = connect(server)
        client.verdicts(questions(5))
        server.script = always(respond(401, b"key revoked"))
        with pytest.raises(JudgeError, match="status 401: 'key revoked'"):
            client.verdicts(questions(30, start=5))

    def test_client_works_after_an_error(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.script = always(respond(400, b"no"))
        client, asked = connect(server), questions(10)
        with pytest.raises(JudgeError):
            client.verdicts(asked)
        server.script = honest
        assert client.verdicts(asked) == truth(asked)


class TestOutage:
    """A judge that is gone for a while costs time; one that is gone for good ends the training."""

    def test_judge_that_dies_and_comes_back_costs_no_verdict(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.latency = 0.01
        client, asked = connect(server, concurrency=8), questions(300)
        with ThreadPoolExecutor(1) as pool:
            verdicts = pool.submit(client.verdicts, asked)
            assert eventually(lambda: len(server.calls) > 50)
            server.stop()
            time.sleep(0.5)
            assert not verdicts.done()
            server.start()
            assert verdicts.result(30) == truth(asked)
        assert client.stats.retries > 0

    def test_judge_that_starts_later_is_waited_for(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.stop()
        client, asked = connect(server), questions(80)
        with ThreadPoolExecutor(1) as pool:
            verdicts = pool.submit(client.verdicts, asked)
            time.sleep(0.5)
            server.start()
            assert verdicts.result(30) == truth(asked)

    @pytest.mark.parametrize(
        ("fault", "cause"),
        [
            (None, "ClientConnectorError"),
            (hang, r"no reply in 0\.4 s"),
            (reset, "Server disconnected|reset"),
            (respond(503, b"loading"), "status 503: 'loading'"),
            (respond(429, b"slow down", "Retry-After: 30\r\n"), "status 429: 'slow down'"),
            (respond(500, b"broken"), "status 500: 'broken'"),
        ],
        ids=["refused", "hang", "reset", "503", "retry-after longer than the patience", "500"],
    )
    def test_outage_past_the_patience_raises_one_error_that_says_all(
        self,
        server: JudgeServer,
        other: JudgeServer,
        connect: Callable[..., JudgeClient],
        fault: Action | None,
        cause: str,
    ) -> None:
        for one in (server, other):
            if fault is None:
                one.stop()
            else:
                one.script = always(fault)
        client = connect(server, other, patience=3.0, timeout=0.4 if fault is hang else 60.0)
        start = time.monotonic()
        with pytest.raises(JudgeError, match=cause) as caught:
            client.verdicts(questions(100))
        assert 3.0 <= time.monotonic() - start < 20.0
        message = str(caught.value)
        for part in (server.url, other.url, "DEEPEYES_JUDGE_PATIENCE=3", "bash deploy_judge.sh", "DEEPEYES_JUDGE=rule"):
            assert part in message
        assert 3.0 <= float(message.partition("answered for ")[2].split()[0]) < 20.0

    def test_models_that_hang_end_in_time_too(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        """All calls of a batch wait for the one request to `/models`; none of them starts another wait after it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server.port = listener.getsockname()[1]
            client = connect(server, patience=1.0, timeout=0.4)
            start = time.monotonic()
            with pytest.raises(JudgeError, match=r"no reply in 0\.4 s"):
                client.verdicts(questions(64))
            assert time.monotonic() - start < 10.0  # and not 64 x 0.4 s

    def test_patience_below_the_timeout_ends_a_call(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.script = always(hang)
        start = time.monotonic()
        with pytest.raises(JudgeError, match=r"no reply in 0\.5 s"):
            connect(server, patience=0.5, timeout=60).verdicts(questions(3))
        assert time.monotonic() - start < 10

    def test_slow_judge_outlasts_the_patience(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        """The patience is for silence: neither a long batch nor one unlucky question ends it."""
        end = time.monotonic() + 3
        server.script = lambda call: (
            respond(503, b"") if call.answer == "wrong 0" and time.monotonic() < end else honest(call)
        )
        server.latency = 0.1
        asked = questions(50)
        assert connect(server, patience=2.0, concurrency=2).verdicts(asked) == truth(asked)


class TestReplicas:
    """Several URLs."""

    def test_load_is_shared(self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.latency = other.latency = 0.2  # far above the hiccups of a busy machine
        asked = questions(400)
        assert connect(server, other).verdicts(asked) == truth(asked)
        assert 120 < len(server.calls) < 280
        assert max(server.most, other.most) <= 33

    def test_dead_one_is_passed_over(
        self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        other.stop()
        server.latency = 0.02
        client, asked = connect(server, other), questions(400)
        assert client.verdicts(asked) == truth(asked)
        assert len(server.calls) == 400
        assert client.stats.retries < 64

    def test_hanging_one_holds_up_one_burst_and_then_single_calls(
        self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.latency, other.script = 0.01, always(hang)
        client, asked = connect(server, other, timeout=2, concurrency=16), questions(600)
        start = time.monotonic()
        assert client.verdicts(asked) == truth(asked)
        assert 1 <= len(other.calls) <= 8 + 4
        assert time.monotonic() - start < 20

    def test_one_that_comes_back_is_used_again_and_both_are_told(
        self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.latency = other.latency = 0.01
        other.stop()
        client = connect(server, other)
        client.verdicts(questions(1000))
        other.start()
        for step in range(1, 100):
            asked = questions(100, start=1000 * step)
            assert client.verdicts(asked) == truth(asked)
            if len(other.calls) > 100:
                break
        assert len(other.calls) > 100
        assert [line.partition(": Client")[0] for line in log if other.url in line] == [
            f"judge: {other.url} fails and is tried again from time to time",
            f"judge: '{MODEL}' at {other.url}",
            f"judge: {other.url} answers again",
        ]


class TestModel:
    """The first use asks each server for its model."""

    def test_models_is_asked_once_and_its_first_is_named_in_the_log(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.models = ("first", "second")
        client = connect(server)
        client.verdicts(questions(100))
        client.verdicts(questions(100, start=100))
        assert server.searches == 1
        assert {call.body["model"] for call in server.calls} == {"first"}
        assert log == [f"judge: 'first' at {server.url}"]

    def test_setting_chooses_among_them(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.models = ("first", "second")
        asked = questions(3)
        assert connect(server, model="second").verdicts(asked) == truth(asked)
        assert {call.body["model"] for call in server.calls} == {"second"}

    def test_judge_that_restarts_with_another_model_costs_no_verdict(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        client = connect(server)
        client.verdicts(questions(10))
        server.models = ("judge-7b",)
        asked = questions(100, start=10)
        assert client.verdicts(asked) == truth(asked)
        assert log == [f"judge: {name!r} at {server.url}" for name in (MODEL, "judge-7b")]

    def test_model_that_is_not_served_raises_with_the_servers_own_words(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        with pytest.raises(JudgeError, match="The model `gpt-9` does not exist"):
            connect(server, model="gpt-9").verdicts(questions(3))

    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param((200, b'{"engine_type": "AsyncLLMEngine", "enable_multi_turn": true}'), id="open"),
            pytest.param((401, b'{"detail":"Missing bearer token"}'), id="with an API key"),
        ],
    )
    def test_rollout_server_is_told_apart_by_name(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], reply: tuple[int, bytes]
    ) -> None:
        server.routes = {
            ("GET", "/v1/models"): (404, b'{"detail":"Not Found"}'),
            ("POST", "/get_engine_type/"): reply,
        }
        with pytest.raises(JudgeError, match=rf"{server.url} is a rollout server .*DEEPEYES_JUDGE_URLS"):
            connect(server).verdicts(questions(3))

    @pytest.mark.parametrize("status", [400, 401, 404])
    def test_server_without_models_raises_at_once(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], status: int
    ) -> None:
        server.routes = {("GET", "/v1/models"): (status, b"nothing here")}
        with pytest.raises(JudgeError, match=rf"/models answered with status {status}: 'nothing here'.*JUDGE_MODEL"):
            connect(server).verdicts(questions(3))

    def test_gateway_without_models_serves_a_named_one(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.routes = {("GET", "/v1/models"): (404, b"")}
        asked = questions(3)
        assert connect(server, model=MODEL).verdicts(asked) == truth(asked)

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": []}', b'{"data": [{}]}', b"[" * 100_000])
    def test_models_that_make_no_sense_are_asked_for_again(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], body: bytes
    ) -> None:
        server.routes = {("GET", "/v1/models"): (200, body)}
        with pytest.raises(JudgeError, match=r"no list of models|an empty list"):
            connect(server, patience=0.5).verdicts(questions(3))


LATENCY = 0.05  # seconds, of the tests with a bound on time
UNREADABLE = {
    "no content": say(None),
    "empty content": say(""),
    "blank content": say(" \n"),
    "cut off": say("The reference answer says that the", finish_reason="length"),
    "thoughts alone": say(None, reasoning="Hm. Is it Judgement: 1?", finish_reason="length"),
    "thoughts under their older name": say("", reasoning_content="Judgement: 1", finish_reason="stop"),
    "thoughts that never end": say("<think>Judgement: 1", finish_reason="length"),
}
STUCK = {
    "500": respond(500, b"CUDA assert"),
    "400 of a content filter": respond(400, b"blocked by the content filter"),
    "413": respond(413, b"too long"),
    "422": respond(422, b"no"),
}


class TestOneQuestion:
    """One question that no judge will ever answer costs one question."""

    @pytest.mark.parametrize("fault", [*UNREADABLE.values(), *STUCK.values()], ids=[*UNREADABLE, *STUCK])
    def test_of_96_one_is_wrong_and_the_others_are_right(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str], fault: Action
    ) -> None:
        server.script = lambda call: fault if call.answer == "right 5" else honest(call)
        server.latency = LATENCY
        client, asked = connect(server), questions(96)
        start = time.monotonic()
        verdicts = client.verdicts(asked)
        assert time.monotonic() - start < 3
        expected = truth(asked)
        expected[5] = UNPARSEABLE
        assert verdicts == expected
        assert sum(call.answer == "right 5" for call in server.calls) == 3
        assert client.stats.unparseable == 1
        assert any("1 of 96 questions, which count as wrong" in line for line in log)

    @pytest.mark.parametrize("fault", STUCK.values(), ids=STUCK)
    @pytest.mark.parametrize("before", [0, 3])
    def test_alone_in_its_step_it_is_wrong_too(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], fault: Action, before: int
    ) -> None:
        server.script = lambda call: fault if call.answer == "right 5" else honest(call)
        client = connect(server)
        client.verdicts(questions(before))
        assert client.verdicts([questions(6)[5]]) == [UNPARSEABLE]

    def test_prompt_that_hangs_while_others_are_answered_is_wrong(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.script = lambda call: hang if call.answer == "right 1" else honest(call)
        assert connect(server, timeout=0.3, patience=60.0).verdicts(questions(3)) == [
            Verdict(correct=False, source="judge"),
            UNPARSEABLE,
            Verdict(correct=True, source="judge"),
        ]

    @pytest.mark.parametrize("fault", [respond(401, b"no key"), respond(500, b"broken")], ids=["401", "500"])
    def test_replica_that_takes_no_prompt_at_all_costs_no_verdict(
        self, server: JudgeServer, other: JudgeServer, connect: Callable[..., JudgeClient], fault: Action
    ) -> None:
        other.script, server.latency = always(fault), 0.01
        asked = questions(200)
        assert connect(server, other).verdicts(asked) == truth(asked)


class TestMisconfiguration:
    """A judge that replies to all, and never with a verdict."""

    @pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE)
    def test_batch_of_16_without_a_verdict_stops_and_quotes(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], reply: Action
    ) -> None:
        server.script = always(reply)
        with pytest.raises(JudgeError, match="none of 16 questions got a reply with a verdict") as caught:
            connect(server).verdicts(questions(16))
        assert server.url in str(caught.value)

    def test_one_verdict_or_a_smaller_batch_goes_on(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        server.script = lambda call: honest(call) if call.answer == "right 1" else say("")
        client = connect(server)
        assert client.verdicts(questions(40)).count(UNPARSEABLE) == 39
        server.script = always(say(""))
        assert client.verdicts(questions(15, start=50)) == [UNPARSEABLE] * 15

    @pytest.mark.parametrize("name", [name for name in UNREADABLE if "thoughts" in name])
    def test_judge_that_only_thinks_is_told_what_mends_it(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], name: str
    ) -> None:
        server.script = always(UNREADABLE[name])
        with pytest.raises(JudgeError, match=r"spends its tokens on thoughts.*enable_thinking.*JUDGE_MAX_TOKENS"):
            connect(server).verdicts(questions(20))


class TestRequestFields:
    """What a request holds, and servers that refuse a part of it."""

    def test_settings_give_the_room_and_the_extra_fields(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        extra = (("chat_template_kwargs", {"enable_thinking": False}), ("temperature", 0.3))
        connect(server, max_tokens=200, extra=extra).verdicts(questions(1))
        body = server.calls[0].body
        assert (body["max_tokens"], body["temperature"]) == (200, 0.3)
        assert body["chat_template_kwargs"] == {"enable_thinking": False}

    @pytest.mark.parametrize(
        ("field", "refusal"),
        [
            ("seed", (400, "Unsupported parameter: 'seed'")),
            (
                "temperature",
                (400, "'temperature' does not support 0.0 with this model. Only the default is supported."),
            ),
            ("max_tokens", (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")),
            ("seed", (422, "body.seed: Extra inputs are not permitted")),
        ],
    )
    def test_field_that_a_server_refuses_is_left_out_from_then_on(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], field: str, refusal: tuple[int, str]
    ) -> None:
        status, words = refusal
        server.script = lambda call: respond(status, words.encode()) if field in call.body else honest(call)
        server.latency = 0.02
        client, asked = connect(server), questions(40)
        assert client.verdicts(asked) == truth(asked)
        calls = len(server.calls)
        assert client.verdicts(questions(40, start=40)) == truth(questions(40, start=40))
        assert len(server.calls) == calls + 40
        body = server.calls[-1].body
        assert field not in body
        assert ("max_completion_tokens" in body) == (field == "max_tokens")

    def test_refused_field_is_told_once(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.script = lambda call: respond(400, b"unknown field seed") if "seed" in call.body else honest(call)
        connect(server).verdicts(questions(40))
        assert sum("refuses seed" in line for line in log) == 1

    def test_server_that_refuses_all_of_them_is_asked_without(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        names = ("seed", "temperature", "max_tokens", "max_completion_tokens")

        def script(call: Call) -> Action:
            bad = next((name for name in names if name in call.body), None)
            return respond(400, f"{bad} is not supported".encode()) if bad else honest(call)

        server.script = script
        asked = questions(5)
        assert connect(server).verdicts(asked) == truth(asked)

    def test_prompt_that_is_too_long_is_no_refused_field(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        long = b"'max_tokens' is too large: 64. The maximum context length is 2048 tokens and your request has 2100."
        server.script = lambda call: respond(400, long) if call.answer == "right 1" else honest(call)
        assert connect(server).verdicts(questions(4))[1] == UNPARSEABLE
        assert "max_tokens" in server.calls[-1].body


class TestReply:
    """What is asked, and what becomes of a reply without a verdict."""

    def test_request_is_bounded_and_its_fixed_part_comes_first(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        connect(server).verdicts(questions(2))
        first_call, second_call = server.calls
        assert first_call.body["max_tokens"] == 64
        assert first_call.body["temperature"] == 0
        assert first_call.headers["authorization"] == f"Bearer {KEY}"
        fixed = VISUAL_PROMPT.partition("{question}")[0]
        assert len(fixed) > 0.9 * len(VISUAL_PROMPT)
        assert first_call.prompt.startswith(fixed)
        assert second_call.prompt.startswith(fixed)

    def test_mathematics_has_a_prompt_of_its_own(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        client = connect(server, math_prompt="Q {question} R {reference} [Model answer] {answer}")
        client.verdicts([Question(Scoring.MATH, "1 + 1?", "2", "right")])
        assert server.calls[0].prompt == "Q 1 + 1? R 2 [Model answer] right"

    def test_reply_without_verdict_is_asked_again_with_another_seed(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.script = lambda call: honest(call) if call.body["seed"] == 2 else say("Well, it depends.")
        client, asked = connect(server), questions(4)
        assert client.verdicts(asked) == truth(asked)
        assert sorted(call.body["seed"] for call in server.calls) == [0] * 4 + [1] * 4 + [2] * 4
        assert all((call.body["temperature"] > 0) == (call.body["seed"] > 0) for call in server.calls)
        assert (client.stats.unparseable, client.stats.retries) == (0, 0)
        assert len(log) == 1

    def test_judge_that_never_gives_a_verdict_is_wrong_counted_and_told_once(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.script = lambda call: honest(call) if call.answer.startswith("right") else say("Well,\nit depends.")
        client, asked = connect(server), questions(30)
        verdicts = client.verdicts(asked)
        assert verdicts == [
            Verdict(correct=True, source="judge") if question.answer.startswith("right") else UNPARSEABLE
            for question in asked
        ]
        assert (client.stats.unparseable, client.stats.calls) == (10, 50)
        assert log[1].endswith(
            r"to each of 10 of 30 questions, which count as wrong; the last was 'Well,\nit depends.'"
        )
        assert len(log) == 2


class TestCallers:
    """Synchronous and asynchronous callers, threads, loops that come and go, and who loses interest."""

    def test_no_questions_need_no_judge(self, connect: Callable[..., JudgeClient], server: JudgeServer) -> None:
        assert connect(server).verdicts([]) == []
        assert server.connections == 0

    def test_equal_questions_are_asked_once_and_answered_in_order(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        asked = questions(5) * 20
        random.Random(1).shuffle(asked)  # noqa: S311
        assert connect(server).verdicts(asked) == truth(asked)
        assert len(server.calls) == 5

    def test_concurrency_is_reached_and_kept(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.latency = 0.1
        client = connect(server, concurrency=8)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(client.verdicts, [questions(20, start=start) for start in (0, 20, 40)]))
        assert server.most == 8

    def test_connections_outlive_event_loops(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.latency = 0.05
        client = connect(server)
        for step in range(3):
            asked = questions(32, start=32 * step)
            assert asyncio.run(asyncio.to_thread(client.verdicts, asked)) == truth(asked)
        asked = questions(32, start=96)
        assert client.verdicts(asked) == truth(asked)
        assert server.connections == 32

    def test_synchronous_call_inside_a_running_loop_works(
        self, server: JudgeServer, connect: Callable[..., JudgeClient]
    ) -> None:
        client, asked = connect(server), questions(4)

        async def reward() -> list[Verdict]:
            return client.verdicts(asked)

        assert asyncio.run(reward()) == truth(asked)

    def test_ctrl_c_ends_the_wait_and_the_calls(self, server: JudgeServer, connect: Callable[..., JudgeClient]) -> None:
        server.script = always(hang)
        client, asked = connect(server, timeout=2.0), questions(10)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.verdicts(asked)
        timer.join()
        server.script = honest
        assert client.verdicts(asked) == truth(asked)
        time.sleep(2.5)
        assert (client.stats.calls, client.stats.retries) == (20, 0)

    def test_close_ends_waiting_callers_and_the_thread(self, server: JudgeServer) -> None:
        server.script = always(hang)
        before = threading.active_count()
        client = JudgeClient(settings(server))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.verdicts, questions(10))
            assert eventually(lambda: len(server.calls) == 10)
            client.close()
            assert waiting.exception(5) is not None
        client.close()
        assert threading.active_count() == before


class TestSecrecy:
    """The key is in the request, and nowhere else."""

    def test_key_that_the_server_echoes_is_in_no_log_and_no_error(
        self, server: JudgeServer, connect: Callable[..., JudgeClient], log: list[str]
    ) -> None:
        server.models = (f"model of {KEY}",)
        echoes: list[Action] = [
            respond(400, f"bad key {KEY}".encode()),
            respond(500, f"bad key {KEY}".encode()),
            respond(200, f"bad key {KEY}".encode()),
            say(f"I was sent {KEY}."),
            lambda writer: _write(writer, f"HTTP/1.1 {KEY}\r\n{KEY}\r\n\r\n".encode()),
        ]
        told = []
        for echo in echoes:
            server.script = always(echo)
            client = connect(server, patience=0.3)
            try:
                client.verdicts(questions(1))
            except JudgeError as error:
                told.append(f"{error!r} {error.__cause__!r} {error.__context__!r}")
            told.append(repr(client.settings) + repr(client))
        assert len(told) == 9
        assert "***" in "".join(told)
        assert "***" in "".join(log)
        assert KEY not in "".join((*told, *log))
