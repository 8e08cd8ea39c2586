"""Where a training works, whom it tells, and how it says that it cannot go on."""

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.errors import HoneError

STATUS = Path("/proc/self/status")


class TrainingFailed(HoneError):
    """Training cannot go on with this recipe and these rows."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after a step."""

    step: int
    steps: int
    epoch: float
    loss: float
    learning_rate: float
    elapsed_seconds: float
    remaining_seconds: float
    memory_bytes: int
    stage: str = ""
    """Of a training in stages: which, such as `2 of 2 (DPO)`."""


def _no_report(progress: Progress) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Where a training works and whom it tells."""

    directory: Path
    """Checkpoints and the finished adapter; the same directory again continues what was begun in it."""
    report: Callable[[Progress], None] = _no_report
    should_stop: Callable[[], bool] = lambda: False
    held_out: Sequence[Mapping[str, Any]] = ()
    """Rows whose loss is taken once, at the end."""
    device: str = "cpu"
    threads: int = 1
    report_interval_seconds: float = 1.0
    checkpoint_interval_seconds: float = 60.0
    checkpoints_kept: int = 2


def memory_bytes() -> int:
    """Most memory that this process has held: the accelerator's where one is used, else the machine's."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    if STATUS.exists():
        # What getrusage says outlives exec: it is the larger of this process and of the one that started it.
        lines = STATUS.read_text().splitlines()
        for held in (line.split()[1] for line in lines if line.startswith("VmHWM:")):
            return int(held) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
