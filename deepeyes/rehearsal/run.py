"""The stages of a rehearsal: rows, rollout server, updates with a save, and going on from it."""

from __future__ import annotations

import json
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.launch import HERE, Command, PlanError, dry_run, module_command
from deepeyes.rehearsal.measured import Figures, figures_of, read_measurements
from deepeyes.rehearsal.programs import GpuMemory, Program, start, wait_for
from deepeyes.rehearsal.rows import QUESTION_WORDS, REFERENCE, write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

PLUGINS = (HERE / "deepeyes_plugin.py", HERE / "deepeyes" / "rehearsal" / "deepeyes_rehearsal.py")
TINY_ARGUMENTS = {
    "rollout": ("--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl"),
    "train": ("--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl", "--check_model", "false"),
}
"""What a hub's name tells and a folder's does not; and no look for a newer one."""
TINY_SETTINGS = {
    "PROMPTS_PER_STEP": "1",
    "NUM_GENERATIONS": "2",
    "PER_DEVICE_BATCH": "2",
    "MAX_TURNS": "2",
    "MAX_COMPLETION_LENGTH": "64",
    "MAX_PIXELS": "50176",
}
"""Of a tiny model on the CPU, where nothing else is said."""
TINY_WORDS = 20  # of a question
JUDGE_PATIENCE = "60"  # seconds; a rehearsal is not worth more
LONGEST_TMPDIR = 70
"""Characters, so that a socket of vLLM in it, with a name of 36, stays within the 107 that Linux allows."""
LOCAL = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 - compared, not bound


class Rehearsal:
    """One rehearsal."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, tiny: bool, judge: str | None) -> None:
        """Takes the settings; nothing is run yet.

        Args:
            folder: For everything that is written.
            environment: Of the user.
            tiny: Whether the model is a tiny one.
            judge: `server` or `rule`, in place of what the environment says.
        """
        self.folder = folder
        self.environment = dict(environment)
        self.tiny = tiny
        self.train = Command()
        self.gpus = GpuMemory()
        self.programs: list[Program] = []
        self.rollout: Program | None = None
        self.resumed = False
        self.real_datasets: tuple[str, ...] = ()
        self.environment.pop("DEEPEYES_TRACE_DIR", None)
        self.environment |= {"DOCTOR": "false", "REPORT_TO": "none", "OUTPUT_DIR": str(folder / "output")}
        if len(str(folder)) <= LONGEST_TMPDIR:  # what vLLM, torch and wandb leave there goes with the folder
            self.environment["TMPDIR"] = str(folder)
        self.environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        self.environment.setdefault("DEEPEYES_JUDGE_PATIENCE", JUDGE_PATIENCE)
        if judge:
            self.environment["DEEPEYES_JUDGE"] = judge

    @property
    def serves(self) -> bool:
        """Whether a rollout server plays."""
        return self.train.get("vllm_mode") == "server"

    @property
    def by_megatron(self) -> bool:
        """Whether Megatron trains."""
        return bool(self.train.get("tensor_model_parallel_size"))

    @property
    def figures(self) -> Figures:
        """What was measured so far."""
        return figures_of(read_measurements(self.folder))

    def run(self, steps: int) -> Program | None:
        """Runs all stages.

        Args:
            steps: Updates before the save.

        Returns:
            The program that failed; None where all is well.

        Raises:
            PlanError: A script refuses the settings.
        """
        self._settle()
        print(f"rehearsing LAYOUT={self.environment.get('LAYOUT', 'node8')}, {self.train.get('model')}", flush=True)
        if self.serves:
            self._serve()
        print(f"{steps} updates and a save", flush=True)
        failed = self._train("training", "--max_steps", str(steps), "--save_steps", str(steps))
        if failed:
            return failed
        checkpoints = sorted((self.folder / "output").glob(f"**/checkpoint-{steps}"))
        if not checkpoints:
            return self.programs[-1]
        print(f"one more update, resumed from {checkpoints[-1].name}", flush=True)
        more = str(steps + 1)
        resume = ["--resume_from_checkpoint", str(checkpoints[-1])]
        if self.by_megatron:
            resume = ["--mcore_model", str(checkpoints[-1]), "--finetune", "false"]
        failed = self._train("resumed", "--max_steps", more, "--save_steps", more, *resume)
        self.resumed = failed is None
        return failed

    def stop(self) -> None:
        """Ends whatever still runs."""
        for program in self.programs:
            if program.process.poll() is None:
                program.stop()

    def _settle(self) -> None:
        """Makes model and rows, and the settings that follow from the layout."""
        nodes = self.environment.pop("NNODES", "1")
        for name in ("NODE_RANK", "MASTER_ADDR"):
            self.environment.pop(name, None)
        if nodes != "1":
            print(f"one node of the {nodes}: with more of them, ZeRO-3 takes less memory on each GPU", flush=True)
        self.train = self._plan()
        self.real_datasets = self.train.options.get("dataset", ())
        on_cpu = not self.train.environment.get("CUDA_VISIBLE_DEVICES", "")
        on_cpu = on_cpu and "ASCEND_RT_VISIBLE_DEVICES" not in self.train.environment
        if self.tiny:
            from deepeyes.tiny_model import build  # noqa: PLC0415 - torch takes seconds

            self.environment["MODEL"] = str(build(self.folder / "tiny"))
            if on_cpu:
                self.environment = {**TINY_SETTINGS, **self.environment}
            self.train = self._plan()
        if self.serves and "ROLLOUT_PORT" not in self.environment:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.environment["ROLLOUT_PORT"] = str(free.getsockname()[1])
        if self.serves and on_cpu:
            self._replace_swift()
        prompts = int(self.environment.get("PROMPTS_PER_STEP", "24"))
        pixels = int(self.train.environment["MAX_PIXELS"])
        words = TINY_WORDS if self.tiny and on_cpu else QUESTION_WORDS
        self.environment |= {
            "DATASET": str(write_rows(self.folder / "data", prompts * 2, pixels, words)),
            "REHEARSAL_FOLDER": str(self.folder),
            "REHEARSAL_TURNS": self.train.get("max_turns"),
            "REHEARSAL_TOKENS": self.train.get("max_completion_length"),
            "REHEARSAL_ANSWER": REFERENCE,
        }

    def _plan(self) -> Command:
        (train,) = dry_run("deepeyes.sh", "train", environment=self.environment)
        return train

    def _replace_swift(self) -> None:
        """Puts a swift in front that sends no weights, since the CPU has no NCCL."""
        place = self.folder / "bin"
        place.mkdir()
        programs = {
            "python": shlex.quote(sys.executable),
            "swift": shlex.join(module_command("deepeyes.rehearsal.without_sync")),
        }
        for name, command in programs.items():  # no links: a Python finds its packages by where it is called
            (place / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
            (place / name).chmod(0o755)
        self.environment["SWIFT"] = str(place / "swift")

    def _serve(self) -> None:
        words = self._command("rollout")
        host = self.environment.get("ROLLOUT_HOST", "127.0.0.1")
        if any(name not in LOCAL for name in host.split(",")):
            names = [name for name in self.environment if name.startswith("REHEARSAL_")]
            settings = [f"{name}={shlex.quote(self.environment[name])}" for name in names]
            print(f"start on {host}: {' '.join(settings)} ROLLOUT_HOST=0.0.0.0 {shlex.join(words)}", flush=True)
            return
        print("the rollout server starts", flush=True)
        self.rollout = start("rollout", words, self.environment, self.folder / "rollout.log")
        self.programs.append(self.rollout)

    def _train(self, name: str, *arguments: str) -> Program | None:
        words = [*self._command("train"), "--save_total_limit", "1", *arguments]
        program = start(name, words, self.environment, self.folder / f"{name}.log")
        self.programs.append(program)
        return wait_for(program, [self.rollout] if self.rollout else [], self.gpus)

    def _command(self, command: str) -> list[str]:
        words = ["bash", str(HERE / "deepeyes.sh"), command, "--external_plugins", *map(str, PLUGINS)]
        return [*words, *TINY_ARGUMENTS[command]] if self.tiny else words


def rows_of(datasets: tuple[str, ...]) -> int | None:
    """Counts the rows of the files that would be trained on; None where one can't be counted."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - not needed to rehearse

    total = 0
    for entry in datasets:
        name, _, rows = entry.partition("#")
        try:
            if rows:
                total += int(rows)
            elif name.endswith(".parquet"):
                total += int(pq.read_metadata(name).num_rows)
            elif name.endswith(".jsonl"):
                with open(name, "rb") as file:  # noqa: PTH123 - lines are counted, not read
                    total += sum(1 for line in file if line.strip())
            elif name.endswith(".json"):
                total += len(json.loads(Path(name).read_bytes()))
            else:
                return None
        except (OSError, ValueError):
            return None
    return total


__all__ = ["PlanError", "Rehearsal", "rows_of"]
