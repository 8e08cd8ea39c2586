"""Train one adapter in stages, each with its own method on what the stage before it made.

A run with one method trains exactly as that method does alone. With several, each stage works in a directory of its
own; a training that is killed or told to stop goes on in the stage it was in, from that stage's last checkpoint, and
ends with the bytes it would have had. Checkpoints of a stage go when its adapter is whole. Progress counts through all
stages; those to come are counted as if every row fitted.

The result is the last stage's adapter. What each stage took is in it, for the model card and the record.
"""

import gc
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from retrain.checkpoints import sync_directory
from retrain.context import Progress, TrainingContext
from retrain.dpo import train_dpo
from retrain.kto import train_kto
from retrain.recipe import Method, Recipe
from retrain.sft import train_sft
from retrain.step_metrics import one_after_the_other
from retrain.training import RESULT_FILE, Row, TrainingResult, finished_result, steps_of

TRAIN: Mapping[Method, Callable[[Sequence[Row], Recipe, TrainingContext], TrainingResult | None]] = {
    "sft": train_sft,
    "dpo": train_dpo,
    "kto": train_kto,
}
STAGE_DIRECTORIES = "stage-*"


@dataclass(frozen=True, slots=True)
class Material:
    """What one stage trains on, and what its loss is taken on at the end."""

    rows: Sequence[Row]
    held_out: Sequence[Row] = ()


def train_in_stages(
    material: Mapping[Method, Material], recipe: Recipe, context: TrainingContext
) -> TrainingResult | None:
    """Train every stage of the recipe; None when told to stop.

    Raises:
        TrainingFailed: no row of a stage fits, or its loss is not finite.
    """
    stages = recipe.stages
    if len(stages) == 1:
        given = material[recipe.method]
        return TRAIN[recipe.method](given.rows, stages[0], replace(context, held_out=given.held_out))
    planned = [steps_of(stage, len(material[stage.method].rows)) for stage in stages]
    done: list[TrainingResult] = []
    for number, stage in enumerate(stages, 1):
        within = _within(context, number, stage, [result.steps for result in done], planned)
        given = material[stage.method]
        result = finished_result(within.directory)
        if result is None:
            start = str(done[-1].adapter) if done else stage.start_from
            started = stage.model_copy(update={"start_from": start})
            result = TRAIN[stage.method](given.rows, started, replace(within, held_out=given.held_out))
        if result is None:
            return None
        _tidy(within.directory)
        done.append(result)
    return _together(done, stages, context.directory)


def _within(
    context: TrainingContext, number: int, stage: Recipe, before: Sequence[int], planned: Sequence[int]
) -> TrainingContext:
    """The context of one stage: its directory, and progress that counts on from the stages before it."""
    name = f"{number} of {len(planned)} ({stage.method.upper()})"
    past, ahead = sum(before), sum(planned[number:])

    def report(progress: Progress) -> None:
        pace = progress.elapsed_seconds / max(1, progress.step)
        context.report(
            replace(
                progress,
                step=past + progress.step,
                steps=past + progress.steps + ahead,
                remaining_seconds=progress.remaining_seconds + pace * ahead,
                stage=name,
            )
        )

    return replace(context, directory=context.directory / f"stage-{number}", report=report)


def _tidy(directory: Path) -> None:
    """Free what a finished stage held: its model in memory, its checkpoints on the disk."""
    for name in ("checkpoints", "best"):
        shutil.rmtree(directory / name, ignore_errors=True)
    gc.collect()


def _together(done: Sequence[TrainingResult], stages: Sequence[Recipe], directory: Path) -> TrainingResult:
    """The last stage's adapter in the run's own place, whole or not at all."""
    last, partial = done[-1], directory / "adapter.partial"
    result = replace(
        last,
        adapter=directory / "adapter",
        rows=sum(one.rows for one in done),
        rows_left_out=sum(one.rows_left_out for one in done),
        steps=sum(one.steps for one in done),
        seconds=sum(one.seconds for one in done),
        memory_bytes=max(one.memory_bytes for one in done),
        history=one_after_the_other([one.history for one in done]),
        stages=[_told(one, stage) for one, stage in zip(done, stages, strict=True)],
    )
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(last.adapter, partial)
    (partial / RESULT_FILE).write_bytes(orjson.dumps(asdict(result), default=str))
    sync_directory(partial)
    os.replace(partial, result.adapter)
    sync_directory(directory, files=False)
    return result


def _told(result: TrainingResult, stage: Recipe) -> dict[str, Any]:
    """What a stage took, in numbers."""
    names = ("rows", "rows_left_out", "steps", "loss", "seconds")
    return {"method": stage.method, **{name: getattr(result, name) for name in names}, **result.notes}
