"""Search for a recipe: learning rate, beta, epochs and rank, by Optuna, on the rows of one frozen dataset.

A trial trains on some of the dataset's training rows and is scored on the others: the mean loss per token of answers
that people hold right. That is comparable between methods and betas, and rises when a preference loss pushes down right
answers with the wrong ones; a method's own loss does neither. Small data is scored in folds, by question, and a trial
that is behind after some folds is given up (pruned). Held-out rows are never touched: the gate keeps them for itself.

Every trial is in the record, failures with their reason. The winner is a recipe for a run, which the gate then judges;
a search decides nothing.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feedback.errors import HoneError
from retrain.context import TrainingContext
from retrain.likelihood import mean_loss
from retrain.prompts import prompt_text, share_of
from retrain.recipe import Recipe, read_recipe
from retrain.stages import TRAIN

if TYPE_CHECKING:
    import optuna

Sampler = Literal["bayesian", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = ("bayesian", "random", "grid")
SMALL_ROWS = 500
"""Fewer rows than this are scored in folds."""
FOLDS = 3
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one trial."""

    number: int
    recipe: Recipe
    status: Literal["complete", "pruned", "failed"]
    loss: float | None
    duration_seconds: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Search:
    """How to search. The same search on the same rows tries the same recipes."""

    recipe: Recipe
    """Where to search around; what is not searched stays as it is here."""
    trials: int
    directory: Path
    """Where its trials are trained, one after the other; nothing stays there."""
    sampler: Sampler = "bayesian"
    device: str = "cpu"
    threads: int = 1

    def space(self) -> dict[str, Sequence[float]]:
        """The values of each field, in order: what a grid tries, and between which the other samplers choose."""
        rate = self.recipe.learning_rate
        values: dict[str, Sequence[float]] = {
            "learning_rate": [rate / 4, rate, min(1.0, rate * 4)],
            "epochs": sorted({max(1.0, self.recipe.epochs / 2), self.recipe.epochs, self.recipe.epochs * 2}),
        }
        if self.recipe.start_from is None:
            values["rank"] = sorted({max(1, self.recipe.rank // 2), self.recipe.rank, self.recipe.rank * 2})
        if self.recipe.method != "sft":
            values["beta"] = [0.05, 0.1, 0.5]
        return values

    def run(self, rows: Sequence[Row], report: Callable[[Outcome], None]) -> None:
        """Try recipes until all trials are done; each is reported as it ends.

        Raises:
            HoneError: there are too few questions to score by.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folds = fold(rows, FOLDS if len(rows) < SMALL_ROWS else 1)
        study = optuna.create_study(
            sampler=self._sampler(), pruner=optuna.pruners.MedianPruner(n_startup_trials=3)
        )
        for _ in range(min(self.trials, self._grid_size())):
            trial = study.ask()
            outcome = self._try(trial, folds)
            state = optuna.trial.TrialState
            told = {"complete": state.COMPLETE, "pruned": state.PRUNED, "failed": state.FAIL}[outcome.status]
            study.tell(trial, outcome.loss if outcome.status == "complete" else None, state=told)
            report(outcome)

    def _grid_size(self) -> int:
        return math.prod(map(len, self.space().values())) if self.sampler == "grid" else self.trials

    def _sampler(self) -> "optuna.samplers.BaseSampler":
        import optuna

        if self.sampler == "grid":
            return optuna.samplers.GridSampler(dict(self.space()), seed=self.recipe.seed)
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=self.recipe.seed)
        return optuna.samplers.TPESampler(seed=self.recipe.seed, n_startup_trials=min(5, self.trials))

    def _chosen(self, trial: "optuna.Trial") -> Recipe:
        space, chosen = self.space(), {}
        for name, values in space.items():
            if self.sampler == "grid" or name in ("rank", "epochs"):
                chosen[name] = trial.suggest_categorical(name, list(values))
            else:
                chosen[name] = trial.suggest_float(name, values[0], values[-1], log=True)
        if "rank" in chosen:
            # What the matrices add is scaled by alpha / rank, which should not change with the rank.
            chosen["alpha"] = max(1, round(self.recipe.alpha / self.recipe.rank * chosen["rank"]))
        return read_recipe(self.recipe.to_json() | chosen)

    def _try(self, trial: "optuna.Trial", folds: Sequence[tuple[list[Row], list[Row]]]) -> Outcome:
        recipe, losses, began = self._chosen(trial), list[float](), time.monotonic()

        def ended(status: Literal["complete", "pruned", "failed"], **detail: Any) -> Outcome:
            loss = sum(losses) / len(losses) if losses and status != "failed" else None
            seconds = time.monotonic() - began
            return Outcome(trial.number, recipe, status, loss, seconds, {"fold_losses": losses, **detail})

        try:
            for number, (learned, scored) in enumerate(folds):
                losses.append(self._score(recipe, learned, scored))
                trial.report(sum(losses) / len(losses), number)
                if number + 1 < len(folds) and trial.should_prune():
                    return ended("pruned")
        except (HoneError, RuntimeError, MemoryError, OSError) as error:
            return ended("failed", reason=f"{type(error).__name__}: {error}"[:500])
        return ended("complete")

    def _score(self, recipe: Recipe, learned: Sequence[Row], scored: Sequence[Row]) -> float:
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            context = TrainingContext(Path(directory), device=self.device, threads=self.threads)
            result = TRAIN[recipe.method](learned, recipe, context)
            assert result is not None
            return mean_loss(recipe, result.adapter, scored, self.device)


def fold(rows: Sequence[Row], folds: int) -> list[tuple[list[Row], list[Row]]]:
    """Rows to learn from and right answers to score by, `folds` times; a question is on one side.

    Raises:
        HoneError: there are too few questions.
    """
    parts = max(folds, 5)

    def part(row: Row) -> int:
        return int(share_of(f"fold:{prompt_text(row['prompt'])}") * parts)

    made = []
    for number in range(folds):
        learned = [row for row in rows if part(row) != number]
        scored = [
            row for row in rows if part(row) == number and row.get("label", True) and not row.get("replay")
        ]
        made.append((learned, scored))
    if not all(learned and scored for learned, scored in made):
        raise HoneError(
            f"The dataset's {len(rows)} training rows have too few different questions to search with. Collect more."
        )
    return made
