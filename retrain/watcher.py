"""What happens between the steps of a training: progress, checkpoints by the clock, an end when it is time.

A loss that is not finite ends the training at once; nothing is saved from it.
"""

import math
import shutil
import time
from pathlib import Path
from typing import Any

from retrain.checkpoints import complete
from retrain.context import Progress, TrainingContext, TrainingFailed, memory_bytes
from retrain.validation import BestWeights, evaluation_steps


class Watcher:
    """The hooks of a trainer callback; `watch` makes one that transformers takes."""

    def __init__(self, context: TrainingContext, best: BestWeights | None = None) -> None:
        self.context = context
        self.best = best
        self.stopped = False
        self.began = self.saved = time.monotonic()
        self.reported = -math.inf
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock; a resumed training does not start at step 0."""
        self.began = self.saved = time.monotonic()
        self.first_step = state.global_step
        if self.best is not None:
            self.best.resume(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint when one is due, or when it is time to stop."""
        self.stopped = self.context.should_stop() and state.global_step < state.max_steps
        due = time.monotonic() - self.saved >= self.context.checkpoint_interval_seconds
        if self.best is not None:
            # Also when it is time to stop: the step is not done again, and its look would be lost.
            control.should_evaluate |= state.global_step % evaluation_steps(state.max_steps) == 0
        control.should_training_stop |= self.stopped
        control.should_save |= self.stopped or due

    def on_evaluate(
        self, args: Any, state: Any, control: Any, model: Any = None, metrics: Any = None, **_: Any
    ) -> None:
        """End the training when the validation loss has stopped falling."""
        if self.best is None or model is None or "eval_loss" not in (metrics or {}):
            return
        if self.best.add(state.global_step, float(metrics["eval_loss"]), model):
            control.should_training_stop = True
            # It ends here, whoever told it to stop: nothing goes on from this step, which would be one too many.
            self.stopped = control.should_save = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark what the trainer has written as whole."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # With the frozen copy of the parent in it, transformers resumes that copy alone, and the adapter in training
        # silently starts over. The copy is made anew from the parent anyway.
        shutil.rmtree(checkpoint / "ref", ignore_errors=True)
        complete(checkpoint)
        self.saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Report the step.

        Raises:
            TrainingFailed: its loss is not finite.
        """
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"The loss became {loss} at step {state.global_step} of {state.max_steps}. Lower "
                f"training.recipe.learning_rate (now {args.learning_rate:g}) in the model's policy."
            )
        now = time.monotonic()
        if (
            now - self.reported >= self.context.report_interval_seconds
            or state.global_step == state.max_steps
        ):
            self.reported = now
            self.context.report(self._progress(state, loss, float(logs.get("learning_rate", 0.0)), now))

    def _progress(self, state: Any, loss: float, learning_rate: float, now: float) -> Progress:
        done = max(1, state.global_step - self.first_step)
        elapsed = now - self.began
        return Progress(
            step=state.global_step,
            steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            loss=loss,
            learning_rate=learning_rate,
            elapsed_seconds=elapsed,
            remaining_seconds=elapsed / done * (state.max_steps - state.global_step),
            memory_bytes=memory_bytes(),
        )


def watch(trainer: Any, context: TrainingContext, best: BestWeights | None = None) -> Watcher:
    """Put a watcher in place of the trainer's own printing."""
    from transformers import PrinterCallback, TrainerCallback

    class WatcherCallback(Watcher, TrainerCallback):
        pass

    watcher = WatcherCallback(context, best)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watcher)
    return watcher
