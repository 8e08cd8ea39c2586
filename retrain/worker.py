"""Carry out runs: start their training processes, watch them, start them again, have the result evaluated.

What to do next is read from the record every time, so a worker that is killed is replaced by one that goes on where
the record says. One training process runs at a time. A process that was killed is started again from its last
checkpoint, at most `training_attempts_max` times in all; one that says why it failed is not. A run that is paused, that
the model's policy lets train only at other times, or that cannot go on for a while, is not charged for it. An
evaluation that breaks off is begun again, `EVALUATIONS_MAX` times in all; a database that was away does not count.
"""

import asyncio
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from feedback import engines, models, runs
from feedback.database import Database, is_away
from feedback.errors import NotFound
from feedback.runs import Run
from retrain.children import child_environment
from retrain.engine_sleep import put_to_sleep, wake
from retrain.examine import EVALUATIONS_MAX, examine, give_up
from retrain.settings import RetrainSettings
from retrain.train import EXIT_STOPPED, discard_work, log_file, run_directory
from retrain.when import why_wait

STOP_SECONDS = 60.0
RESTART_SECONDS_MAX = 60.0
BROKEN_OFF = "evaluations_broken_off"
CANNOT_NOW = "it cannot train now"
WAIT_SECONDS = 15.0
"""How long a run that must wait is left alone: starting and stopping costs more than a moment's quiet gains."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Child:
    """A training process."""

    run_id: str
    process: subprocess.Popen[bytes]
    asked_to_stop: datetime | None = None

    def stop(self) -> None:
        """Ask for a checkpoint and an end; insist after a minute."""
        now = datetime.now(UTC)
        if self.asked_to_stop is None:
            self.asked_to_stop = now
            self.process.terminate()
        elif now - self.asked_to_stop > timedelta(seconds=STOP_SECONDS):
            self.process.kill()


class Worker:
    """Advances every unfinished run, a step at each tick."""

    def __init__(self, database: Database, state_dir: Path, settings: RetrainSettings) -> None:
        self.database = database
        self.state_dir = state_dir
        self.settings = settings
        self.child: Child | None = None
        self.evaluations: dict[str, asyncio.Task[None]] = {}
        self.not_before: dict[str, datetime] = {}
        self.waiting_for: dict[str, str] = {}

    async def tick(self) -> None:
        """Look at every unfinished run once."""
        await self._reap()
        await self._reap_evaluations()
        if self.child is None and self.settings.engines_sleep_while_training:
            await self._wake_engines()
        async with self.database.begin() as connection:
            unfinished = await runs.unfinished(connection)
        for run in unfinished:
            if run.phase == "evaluating":
                await self._evaluate(run)
            else:
                await self._train(run)

    async def close(self) -> None:
        """Stop at checkpoints; the runs stay as they are in the record, for whoever comes next."""
        for task in self.evaluations.values():
            task.cancel()
        await asyncio.gather(*self.evaluations.values(), return_exceptions=True)
        self.evaluations.clear()
        while self.child is not None:
            self.child.stop()
            await asyncio.sleep(0.1)
            if self.child.process.poll() is not None:
                try:
                    await self._reap()
                    if self.settings.engines_sleep_while_training:
                        await self._wake_engines()
                finally:
                    self.child = None

    async def _train(self, run: Run) -> None:
        if self.child is not None and self.child.run_id == run.run_id:
            if await self._should_stop(run):
                self.child.stop()
        elif run.cancel_requested:
            await self._give_up(run, "Cancelled on request.", status="cancelled")
        elif run.pause_requested:
            await self._rest(run)
        elif run.attempts >= self.settings.training_attempts_max:
            await self._give_up(
                run,
                f"The training process was killed {run.attempts} times; most often that is the system running out of "
                f"memory. `hone run logs {run.run_id}` shows more. Lower training.recipe.batch_size or max_length in "
                "the model's policy, and train again. The champion was not touched.",
            )
        elif self.child is None and self._rested(run):
            if (reason := await why_wait(self.database, run, self.settings)) is None:
                if await self._engines_may_sleep(run):
                    await self._start(run)
            else:
                await self._wait(run, reason)

    def _leave_alone(self, run_id: str, seconds: float) -> None:
        self.not_before[run_id] = datetime.now(UTC) + timedelta(seconds=seconds)

    def _rested(self, run: Run) -> bool:
        return datetime.now(UTC) >= self.not_before.get(run.run_id, datetime.min.replace(tzinfo=UTC))

    async def _should_stop(self, run: Run) -> bool:
        if run.cancel_requested or run.pause_requested:
            return True
        reason = await why_wait(self.database, run, self.settings)
        if reason is not None:
            await self._wait(run, reason)
        return reason is not None

    async def _rest(self, run: Run) -> None:
        async with self.database.begin() as connection:
            if not await runs.rest(connection, run.run_id):
                return
            message = f"Paused. `hone run resume {run.run_id}` lets it go on from its last checkpoint."
            await runs.add_event(connection, run.run_id, message)
        self.waiting_for.pop(run.run_id, None)

    async def _wait(self, run: Run, reason: str) -> None:
        """Say once why a run is not training."""
        self._leave_alone(run.run_id, WAIT_SECONDS)
        if self.waiting_for.get(run.run_id) != reason:
            self.waiting_for[run.run_id] = reason
            async with self.database.begin() as connection:
                await runs.add_event(connection, run.run_id, f"Waits: {reason}")

    async def _give_up(self, run: Run, reason: str, *, status: str = "failed") -> None:
        await give_up(self.database, run, reason, status=status)
        discard_work(run_directory(self.state_dir, run.run_id))

    async def _engines_may_sleep(self, run: Run) -> bool:
        """Put the engines of the run's base model to sleep, where that is wished; not under an evaluation."""
        if not self.settings.engines_sleep_while_training:
            return True
        async with self.database.begin() as connection:
            if any(one.phase == "evaluating" for one in await runs.unfinished(connection)):
                return False
            model = await models.get(connection, run.project, run.model)
            urls = [
                one.engine for one in await engines.every(connection) if one.base_model == model.base_model
            ]
        if asleep := await put_to_sleep(urls, self.settings.evaluation_engine_api_key):
            log.info("engines sleep", engines=asleep, run_id=run.run_id)
        return True

    @property
    def _engines_sleep(self) -> bool:
        return self.settings.engines_sleep_while_training and self.child is not None

    async def _wake_engines(self) -> None:
        """Also those that a worker before this one left asleep."""
        async with self.database.begin() as connection:
            urls = [one.engine for one in await engines.every(connection)]
        if woken := await wake(urls, self.settings.evaluation_engine_api_key):
            log.info("engines woken", engines=woken)

    async def _start(self, run: Run) -> None:
        async with self.database.begin() as connection:
            started = await runs.start(connection, run.run_id)
        try:
            self.child = Child(run.run_id, self._spawn(run.run_id))
        except OSError as error:
            async with self.database.begin() as connection:
                was = {"status": run.status, "attempts": run.attempts, "started_at": run.started_at}
                await runs.change(connection, run.run_id, **was)
            await self._wait(run, f"its training process cannot be started here: {error}.")
            return
        log.info("training started", run_id=run.run_id, attempt=started.attempts, pid=self.child.process.pid)
        if self.waiting_for.get(run.run_id) == CANNOT_NOW:
            return  # Told already: what it cannot do now may last, and it is tried four times a minute.
        async with self.database.begin() as connection:
            message = f"Training process started, attempt {started.attempts}."
            await runs.add_event(connection, run.run_id, message)

    def _spawn(self, run_id: str) -> subprocess.Popen[bytes]:
        file = log_file(self.state_dir, run_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "retrain.train", "--run", run_id],
                env=child_environment(self.database, self.state_dir, self.settings.training_threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def _reap(self) -> None:
        """Deal with a training process that has ended."""
        child = self.child
        if child is None or (status := child.process.poll()) is None:
            return
        try:
            async with self.database.begin() as connection:
                run = await runs.by_id(connection, child.run_id)
                if run.status != "running" or run.phase == "evaluating":
                    discard_work(run_directory(self.state_dir, run.run_id))
                elif status == EXIT_STOPPED or child.asked_to_stop is not None:
                    # Stopping it was our wish, or what it needs is away: not its failure.
                    await runs.change(connection, run.run_id, attempts=run.attempts - 1)
                    message = "Stopped at a checkpoint." if status == EXIT_STOPPED else _goes_on(status)
                    if child.asked_to_stop is not None:
                        self.waiting_for.pop(run.run_id, None)
                        await runs.add_event(connection, run.run_id, message)
                    elif self.waiting_for.get(run.run_id) != CANNOT_NOW:
                        self.waiting_for[run.run_id] = CANNOT_NOW
                        message = (
                            f"Cannot train now (`hone run logs {run.run_id}` says why); it is tried again."
                        )
                        await runs.add_event(connection, run.run_id, message, level="warn")
                    if child.asked_to_stop is None:
                        self._leave_alone(run.run_id, WAIT_SECONDS)
                else:
                    self._leave_alone(run.run_id, min(RESTART_SECONDS_MAX, 2.0**run.attempts))
                    await runs.add_event(connection, run.run_id, _goes_on(status), level="warn")
        except NotFound:
            log.warning("run vanished", run_id=child.run_id)
        log.info("training process ended", run_id=child.run_id, status=status)
        self.child = None

    async def _evaluate(self, run: Run) -> None:
        task = self.evaluations.get(run.run_id)
        if run.cancel_requested:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del self.evaluations[run.run_id]
            await give_up(self.database, run, "Cancelled on request.", status="cancelled")
        elif task is None and not self._engines_sleep and self._rested(run):
            self.evaluations[run.run_id] = asyncio.create_task(examine(self.database, run, self.settings))

    async def _reap_evaluations(self) -> None:
        """Deal with evaluations that have ended; only one that broke off leaves anything to be done."""
        for run_id in [run_id for run_id, task in self.evaluations.items() if task.done()]:
            task = self.evaluations.pop(run_id)
            if not task.cancelled() and (error := task.exception()) is not None:
                await self._broke_off(run_id, error)

    async def _broke_off(self, run_id: str, error: BaseException) -> None:
        """Let the run be evaluated again after a while; end it where that does not help."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        log.error("evaluation broke off", run_id=run_id, error=repr(error))
        self._leave_alone(run_id, WAIT_SECONDS)
        if is_away(error):
            return
        async with self.database.begin() as connection:
            run = await runs.by_id(connection, run_id)
            times = 1 + (await runs.newest_told(connection, run_id, BROKEN_OFF) or 0)
            message = f"The evaluation broke off ({error!r})."
            await runs.add_event(connection, run_id, message, level="warn", data={BROKEN_OFF: times})
        if times >= EVALUATIONS_MAX:
            reason = (
                f"The evaluation broke off {times} times, at last with {error!r}. `hone logs` shows more. Mend that "
                "and train again. The champion was not touched."
            )
            await give_up(self.database, run, reason)


def _goes_on(status: int) -> str:
    ending = (
        f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    )
    return f"The training process {ending}; it goes on from the last checkpoint."
