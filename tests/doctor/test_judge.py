"""A judge that is away, too small, or can't judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.settings import Settings


from doctor_world import ENGINE, free_port, http_server, judge_rightly, levels, only
from judge_server import JudgeServer, say

from deepeyes.doctor.cli import examine, show
from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.judge import check_judge


class TestJudge:
    def check(self, load_core: Callable[..., Settings], *urls: str, **environment: str) -> list[Finding]:
        return check_judge(load_core(DEEPEYES_JUDGE_URLS=",".join(urls), **environment))

    def test_able_judge_is_fine(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(script=judge_rightly, models=("Qwen2.5-VL-72B-Instruct",)) as judge:
            findings = self.check(load_core, judge.url, DEEPEYES_JUDGE_API_KEY="sesame")
        assert [(finding.check, finding.level) for finding in findings] == [
            ("judge", Level.OK),
            ("judge size", Level.OK),
            ("judge verdicts", Level.OK),
        ]
        assert all(call.headers["authorization"] == "Bearer sesame" for call in judge.calls)
        assert "sesame" not in show(findings)

    @pytest.mark.parametrize(
        ("reply", "text"),
        [("Judgement: 1", "a wrong one 1"), ("Judgement: 0", "a right answer got 0"), ("Red!", "got no verdict")],
    )
    def test_poor_judge_is_an_error(self, load_core: Callable[..., Settings], reply: str, text: str) -> None:
        with JudgeServer(script=lambda _: say(reply)) as judge:
            finding = self.check(load_core, judge.url)[-1]
        assert (finding.check, finding.level) == ("judge verdicts", Level.ERROR)
        assert text in finding.found

    @pytest.mark.parametrize(
        ("model", "level"), [("Qwen2.5-VL-7B", Level.WARNING), ("tiny", Level.WARNING), ("a-32B", Level.OK)]
    )
    def test_small_judge_is_a_warning(self, load_core: Callable[..., Settings], model: str, level: Level) -> None:
        with JudgeServer(script=judge_rightly, models=(model,)) as judge:
            assert levels(self.check(load_core, judge.url))["judge size"] is level

    def test_nobody_there(self, load_core: Callable[..., Settings]) -> None:
        finding = only(self.check(load_core, f"http://127.0.0.1:{free_port()}/v1"))
        assert (finding.level, finding.mend) == (Level.ERROR, "bash deploy_judge.sh")

    def test_dead_replica_beside_a_living_one_is_a_warning(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(script=judge_rightly, models=("j-72B",)) as judge:
            findings = self.check(load_core, f"http://127.0.0.1:{free_port()}/v1", judge.url)
        assert [finding.level for finding in findings] == [Level.WARNING, Level.OK, Level.OK, Level.OK]

    def test_rollout_server_is_told_apart(self, load_core: Callable[..., Settings]) -> None:
        with http_server({"/get_engine_type/": (200, ENGINE)}) as port:
            finding = only(self.check(load_core, f"http://127.0.0.1:{port}/v1"))
        assert finding.level is Level.ERROR
        assert finding.found.startswith("a rollout server answers at")

    def test_model_that_is_not_served(self, load_core: Callable[..., Settings]) -> None:
        with JudgeServer(models=("a-72B",)) as judge:
            finding = only(self.check(load_core, judge.url, DEEPEYES_JUDGE_MODEL="b-72B"))
        assert finding.level is Level.ERROR
        assert "serves a-72B, not DEEPEYES_JUDGE_MODEL=b-72B" in finding.found

    def test_judge_that_runs_already_is_put_to_the_test(
        self, load_core: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load_core()
        with JudgeServer(script=judge_rightly, models=("j-72B",)) as judge:
            monkeypatch.setenv("JUDGE_PORT", str(judge.port))
            findings = examine("judge", [], quick=True)
        assert levels(findings)["port"] is Level.WARNING
        assert levels(findings)["judge verdicts"] is Level.OK

    def test_rule_judge_is_a_warning(self, load_core: Callable[..., Settings]) -> None:
        assert only(self.check(load_core, "http://127.0.0.1:1/v1", DEEPEYES_JUDGE="rule")).level is Level.WARNING
