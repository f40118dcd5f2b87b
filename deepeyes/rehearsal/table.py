"""What the rehearsal prints at its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from deepeyes.rehearsal.advice import advise
from deepeyes.rehearsal.run import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.rehearsal.measured import Figures
    from deepeyes.rehearsal.programs import Program
    from deepeyes.rehearsal.run import Rehearsal

TAIL_LINES = 15
HOUR = 3600


def table_rows(rehearsal: Rehearsal) -> list[tuple[str, str]]:
    """Returns what was measured, and its figure."""
    figures = rehearsal.figures
    rows = [(f"{name}, seconds a step", _seconds(figures, name)) for name in ("rollout", "reward", "training")]
    if not rehearsal.serves and rehearsal.train.get("vllm_mode") != "colocate":
        rows.append(("weight sync", "none: the trainer itself plays"))
    elif rehearsal.serves and not rehearsal.train.environment.get("CUDA_VISIBLE_DEVICES"):
        rows.append(("weight sync", "none: a CPU has no NCCL"))
    else:
        rows.append(("weight sync, seconds a step", _seconds(figures, "sync")))
    rows.append(("all of it, seconds a step", _seconds(figures, "step")))
    rows.append(("a checkpoint, seconds", f"{figures.save:.1f}" if figures.save else "not reached"))
    rows.append(("resumed from it", "yes" if rehearsal.resumed else "not reached"))
    tokens = "not measured under Megatron" if rehearsal.by_megatron else "not reached"
    rows.append(("tokens of the longest trajectory", f"{figures.tokens:,}" if figures.tokens else tokens))
    rows += [
        (f"GPU {gpu}, peak GB", f"{used:.1f} of {rehearsal.gpus.total[gpu]:.0f}")
        for gpu, used in sorted(rehearsal.gpus.used.items())
    ]
    rows += [(f"rank {rank}, peak GB of torch", f"{peak:.1f}") for rank, peak in sorted(figures.gpu_gigabytes.items())]
    rows += [(f"{program.name}, peak GB of host memory", f"{program.peak:.1f}") for program in rehearsal.programs]
    rows.append(("an epoch at this pace", _epoch(rehearsal, figures)))
    return rows


def _seconds(figures: Figures, name: str) -> str:
    if name not in figures.seconds:
        return "not reached"
    return f"{figures.seconds[name]:.1f} (the first {figures.first[name]:.1f})"


def _epoch(rehearsal: Rehearsal, figures: Figures) -> str:
    if "step" not in figures.seconds:
        return "not reached"
    count = rows_of(rehearsal.real_datasets)
    if count is None:
        return "unknown: the files of DATASET are not there to be counted"
    prompts = int(rehearsal.environment.get("PROMPTS_PER_STEP", "24"))
    hours = count / prompts * figures.seconds["step"] / HOUR
    return f"{hours:,.1f} hours for {count:,} rows, {prompts} a step; real trajectories are shorter"


def show_figures(rehearsal: Rehearsal) -> None:
    """Prints the table."""
    table = Table("measured in the worst case", "")
    for row in table_rows(rehearsal):
        table.add_row(*row)
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def show_failure(failed: Program, folder: Path) -> None:
    """Says what failed, and the setting to lower."""
    log = failed.log.read_text(encoding="utf-8", errors="replace")
    advice = advise(failed.name, log)
    print("\n".join(failed.tail(TAIL_LINES)), file=sys.stderr)
    if advice:
        print(f"deepeyes: {failed.name} failed: {advice.what} -> {advice.mend}", file=sys.stderr)
    else:
        status = failed.process.returncode
        print(
            f"deepeyes: {failed.name} ended with status {status}; its log is {folder}/{failed.log.name}",
            file=sys.stderr,
        )
