"""Which checks are made for what, in the order of the report. A new check is a module of its own and an entry here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from deepeyes.doctor.data import check_data
from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.gpus import check_server_gpus, check_train_gpus
from deepeyes.doctor.judge import check_judge, check_replica, judge_size
from deepeyes.doctor.model import check_model
from deepeyes.doctor.packages import check_packages, check_python, packages_of
from deepeyes.doctor.pictures import check_pictures
from deepeyes.doctor.plan import PURPOSES, Plan, has_rollout_server
from deepeyes.doctor.rollout import check_rollout
from deepeyes.doctor.room import check_checkpoints, check_demo_machine
from deepeyes.doctor.row import check_row
from deepeyes.doctor.servers import check_port, engine_of, models_of, reachable
from deepeyes.doctor.training import check_training

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.doctor.plan import Command
    from deepeyes.settings import Settings


class Check(NamedTuple):
    """One entry of the list.

    Attributes:
        purposes: What it is made for.
        find: Looks, and returns what it found; nothing where it does not apply.
        after: It needs the rollout server, which also downloads the model.
        slow: `--quick` leaves it out.
    """

    purposes: tuple[str, ...]
    find: Callable[[Plan, Settings], list[Finding]]
    after: bool = False
    slow: bool = False


def checks_of(purpose: str, *, quick: bool, part: str) -> list[Check]:
    """Returns the checks for a purpose, in the order of the report.

    Args:
        purpose: One of `PURPOSES`.
        quick: Leave the slow ones out.
        part: Of training, what can be told `before` the rollout server is up, what `after` it, or `all`.
    """
    return [
        check
        for check in CHECKS
        if purpose in check.purposes
        and not (quick and check.slow)
        and (part == "all" or purpose != "train" or check.after == (part == "after"))
    ]


def _rollout_port(plan: Plan, _settings: Settings) -> list[Finding]:
    host, port = plan.rollout.get("host"), plan.rollout.number("port", 8000)
    return check_port("port", host, port, "ROLLOUT_PORT", lambda base: engine_of(base) is not None)


def _train_model(plan: Plan, _settings: Settings) -> list[Finding]:
    """A folder that is no model yet is a warning: the row that is loaded next tells for sure."""
    return [
        found._replace(level=Level.WARNING) if found.level is Level.ERROR else found
        for found in check_model(plan.train, "MODEL")
    ]


def _judge_servers(plan: Plan, settings: Settings) -> list[Finding]:
    with ThreadPoolExecutor(max(1, len(plan.judges))) as pool:
        return [
            finding for found in pool.map(lambda one: _judge_server(one, settings), plan.judges) for finding in found
        ]


def _judge_server(command: Command, settings: Settings) -> list[Finding]:
    host, port, key = command.get("host"), command.number("port", 8000), settings.judge.api_key
    finding = check_port("port", host, port, "JUDGE_PORT", lambda base: models_of(f"{base}/v1", key) is not None)
    if finding[0].level is Level.WARNING:  # it runs already: then let it judge
        return finding + check_replica(settings, f"http://{reachable(host)}:{port}/v1")
    gpus = check_server_gpus(f"the judge on port {port}", "JUDGE_GPUS", command)
    return [*check_model(command, "JUDGE_MODEL"), judge_size(command.get("model")), *gpus, *finding]


CHECKS = (
    Check(PURPOSES, lambda _plan, _settings: check_python()),
    Check(PURPOSES, lambda plan, _settings: check_packages(packages_of(plan))),
    Check(("demo",), lambda _plan, _settings: check_demo_machine()),
    Check(("judge",), _judge_servers),
    Check(("rollout",), lambda plan, _settings: check_model(plan.rollout, "MODEL")),
    Check(("rollout",), lambda plan, _settings: check_server_gpus("the rollout server", "ROLLOUT_GPUS", plan.rollout)),
    Check(("rollout",), _rollout_port),
    Check(("train",), _train_model),
    Check(("train",), lambda plan, _settings: check_train_gpus(plan)),
    Check(("train",), lambda _plan, settings: check_judge(settings)),
    Check(("train",), lambda plan, settings: check_data(plan, settings.scoring_of)),
    Check(("train",), check_pictures),
    Check(("train",), lambda plan, _settings: check_training(plan)),
    Check(("train",), lambda plan, _settings: check_checkpoints(plan)),
    Check(
        ("train",), lambda plan, _settings: check_rollout(plan) if has_rollout_server(plan.train) else [], after=True
    ),
    Check(("train",), lambda plan, _settings: check_row(plan), after=True, slow=True),
)
"""Every check. They run side by side; the report keeps this order."""
