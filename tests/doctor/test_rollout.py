"""A rollout server that differs from the trainer."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_world import ENGINE, SETTINGS, free_port, http_server, levels, only, rollout_process

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command, Plan
from deepeyes.doctor.rollout import check_rollout


class TestRollout:
    def check(self, port: int, **options: str) -> list[Finding]:
        words = {"model": "m/Qwen2.5-VL-7B", "multi_turn_scheduler": "deepeyes_scheduler", "max_turns": "5", **options}
        command = Command({"MAX_PIXELS": "602112"}, {name: (value,) for name, value in words.items()})
        train = Command({}, {**command.options, "vllm_server_host": ("127.0.0.1",), "vllm_server_port": (str(port),)})
        return check_rollout(Plan("train", train, command))

    def test_equal_settings_are_fine(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="602112") as port:
            assert [finding.level for finding in self.check(port)] == [Level.OK, Level.OK]

    def test_each_difference_is_an_error(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="1003520", DEEPEYES_CROP_SOURCE="original") as port:
            finding = self.check(port, max_turns="7")[-1]
        assert finding.level is Level.ERROR
        assert finding.found == (
            "max_turns is 5 there, 7 here; MAX_PIXELS is 1003520 there, 602112 here; "
            "DEEPEYES_CROP_SOURCE is original there, unset here"
        )

    def test_pixels_of_an_option_differ_from_those_of_the_variable(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="602112") as port:
            finding = self.check(port, max_pixels="200704")[-1]
        assert (finding.level, finding.found) == (Level.ERROR, "max_pixels is unset there, 200704 here")

    @pytest.mark.parametrize(("ours", "level"), [("16384", Level.OK), ("65536", Level.ERROR)])
    def test_server_needs_no_less_room_than_the_trainer(self, ours: str, level: Level) -> None:
        with rollout_process(*SETTINGS, "--vllm_max_model_len", "32768", MAX_PIXELS="602112") as port:
            assert self.check(port, vllm_max_model_len=ours)[-1].level is level

    def test_server_that_can_not_be_looked_into_is_a_warning(self) -> None:
        with http_server({"/get_engine_type/": (200, ENGINE)}) as port:  # in this process, which is no rollout server
            findings = self.check(port)
        assert levels(findings) == {"rollout server": Level.OK, "rollout settings": Level.WARNING}
        assert findings[1].found.startswith("not known")

    @pytest.mark.parametrize(
        ("engine", "text"),
        [
            ({"engine_type": "LLMEngine"}, "expected AsyncLLMEngine"),
            ({"enable_multi_turn": False}, "no multi-turn scheduler"),
        ],
    )
    def test_engine_without_turns_is_an_error(self, engine: dict[str, Any], text: str) -> None:
        with http_server({"/get_engine_type/": (200, {**ENGINE, **engine})}) as port:
            finding = self.check(port)[0]
        assert finding.level is Level.ERROR
        assert text in finding.found

    def test_another_server_is_an_error(self) -> None:
        with http_server({"/v1/models": (200, {"data": [{"id": "judge"}]})}) as port:
            assert "is no rollout server" in only(self.check(port)).found

    def test_nobody_there(self) -> None:
        finding = only(self.check(free_port()))
        assert (finding.level, finding.mend.split("  #")[0]) == (Level.ERROR, "bash deepeyes.sh rollout")

    def test_every_host_is_looked_at(self) -> None:
        with rollout_process(*SETTINGS, MAX_PIXELS="602112") as port:
            words = {"vllm_server_host": ("127.0.0.1", "127.0.0.1"), "vllm_server_port": (str(port), str(free_port()))}
            found = [one.level for one in check_rollout(Plan("train", Command({}, words))) if "server" in one.check]
        assert found == [Level.OK, Level.ERROR]

    @pytest.mark.parametrize("option", ["enable_thinking", "response_prefix", "system", "template", "norm_bbox"])
    def test_what_makes_the_prompt_is_told_to_both(self, option: str) -> None:
        with rollout_process(*SETTINGS, f"--{option}", "x", MAX_PIXELS="602112") as port:
            assert self.check(port, **{option: "x"})[-1].level is Level.OK
            finding = self.check(port)[-1]
        assert (finding.level, finding.found) == (Level.ERROR, f"{option} is x there, unset here")
