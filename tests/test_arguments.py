"""A mistyped flag of a program."""

from __future__ import annotations

import pytest

from deepeyes.arguments import Parser


class TestParser:
    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (["--stesp", "3"], "--steps"),
            (["--Steps", "3"], "--steps"),
            (["-steps", "3"], "--steps"),
            (["--dry_run"], "--dry-run"),
            (["--colour"], ""),
        ],
    )
    def test_a_slip_names_what_was_meant(
        self, words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        parser = Parser(prog="x")
        parser.add_argument("--steps")
        parser.add_argument("--dry-run", action="store_true")
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(words)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.endswith(f"; did you mean {meant}?\n") if meant else "did you mean" not in said
