"""Fine-tuning jobs, their events and checkpoints in the shapes that OpenAI's clients read.

What OpenAI has no word for is said in an event. Only the finished version is a checkpoint here: those in between serve
to go on after a stop, cannot be asked, and are deleted when the run ends.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, runs
from feedback.fine_tuning import ENDED, Job
from feedback.runs import RunEvent

METHOD_NAMES = {"supervised": "sft", "dpo": "dpo", "kto": "kto"}
OPENAI_NAMES = {method: name for name, method in METHOD_NAMES.items()}


def job_view(job: Job) -> dict[str, Any]:
    """A job; hyperparameters show what was used, once that is known."""
    method, chosen = OPENAI_NAMES[job.method], _hyperparameters(job)
    succeeded = job.status == "succeeded"
    return {
        "object": "fine_tuning.job",
        "id": job.job_id,
        "created_at": int(job.created_at.timestamp()),
        "finished_at": None if job.finished_at is None else int(job.finished_at.timestamp()),
        "estimated_finish": _estimated_finish(job),
        "model": job.asked_model,
        "fine_tuned_model": job.fine_tuned_model if succeeded else None,
        "organization_id": job.project,
        "status": job.status,
        "error": job.error,
        "method": {"type": method, method: {"hyperparameters": chosen}},
        "hyperparameters": chosen if method == "supervised" else {},
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "trained_tokens": job.trained_tokens if succeeded else None,
        "seed": job.seed,
        "integrations": [],
        "metadata": job.metadata,
    }


def _hyperparameters(job: Job) -> dict[str, Any]:
    asked, used = job.hyperparameters, job.recipe
    shown = {
        "n_epochs": used.get("epochs", asked.get("n_epochs", "auto")),
        "batch_size": used.get("batch_size", asked.get("batch_size", "auto")),
        "learning_rate_multiplier": asked.get("learning_rate_multiplier", "auto"),
    }
    if used and shown["learning_rate_multiplier"] == "auto":
        shown["learning_rate_multiplier"] = 1.0
    if job.method != "sft":
        shown["beta"] = used.get("beta", asked.get("beta", "auto"))
    return {
        name: int(value) if name == "n_epochs" and value != "auto" else value for name, value in shown.items()
    }


def _estimated_finish(job: Job) -> int | None:
    if job.status != "running" or "remaining_seconds" not in job.progress:
        return None
    return int(datetime.now(UTC).timestamp() + job.progress["remaining_seconds"])


async def events_of(connection: AsyncConnection, job: Job) -> list[dict[str, Any]]:
    """What the job did, newest first."""
    done = await runs.events(connection, job.run_id) if job.run_id is not None else []
    shown = [_event_view(event) for event in reversed(done)]
    if (last := await _outcome(connection, job)) is not None:
        shown.insert(0, last)
    if job.run_id is None and job.status in ENDED:
        error = job.error or {"message": "The job was cancelled before it began."}
        level = "error" if job.error else "info"
        shown.append(_event(f"{job.job_id}-end", job.finished_at or job.created_at, level, error["message"]))
    shown.append(
        _event(f"{job.job_id}-start", job.created_at, "info", f"Created fine-tuning job: {job.job_id}")
    )
    return shown


async def _outcome(connection: AsyncConnection, job: Job) -> dict[str, Any] | None:
    """What a finished job's version may do now, and what the gate's word means for it."""
    if job.status != "succeeded" or job.run_id is None or job.finished_at is None:
        return None
    run = await runs.by_id(connection, job.run_id)
    adapter = await adapters.by_id(connection, run.adapter_id or "")
    answers = f"New fine-tuned model created: {job.fine_tuned_model}. It is {adapter.name}"
    gate = adapter.gate or {"decision": "not asked", "reasons": []}
    if gate["decision"] == "candidate":
        rest = f"and passed the gate: `hone approve {adapter.name}` lets it meet the traffic of '{adapter.model}'."
    else:
        rest = (
            f"and the gate rejected it, so it cannot become the champion of '{adapter.model}'; whoever asks for it by "
            f"this name is answered all the same. {' '.join(gate['reasons'])}"
        )
    return _event(f"{job.job_id}-end", job.finished_at, "info", f"{answers}, {rest}")


def _event_view(event: RunEvent) -> dict[str, Any]:
    is_step = event.message.startswith("Step ") and "loss" in event.data
    data = (
        {
            "step": event.data["step"],
            "total_steps": event.data.get("steps", event.data["step"]),
            "train_loss": event.data["loss"],
            **event.data,
        }
        if is_step
        else event.data
    )
    view = _event(str(event.event_id), event.at, event.level, event.message)
    return view | {"type": "metrics" if is_step else "message", "data": data}


def _event(name: str, at: datetime, level: str, message: str) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{name}",
        "created_at": int(at.timestamp()),
        "level": level,
        "message": message,
        "type": "message",
        "data": {},
    }


async def checkpoints_of(connection: AsyncConnection, job: Job) -> list[dict[str, Any]]:
    """The finished version with the losses it ended at; nothing before that."""
    if job.run_id is None or job.status != "succeeded":
        return []
    done = await runs.events(connection, job.run_id)
    trained = next((event for event in reversed(done) if "train_loss" in event.data), None)
    if trained is None or job.fine_tuned_model is None:
        return []
    told = trained.data
    metrics = {
        "step": told.get("step"),
        "train_loss": told.get("train_loss"),
        "train_mean_token_accuracy": told.get("train_accuracy"),
        "valid_loss": told.get("valid_loss"),
        "valid_mean_token_accuracy": told.get("valid_mean_token_accuracy"),
        "full_valid_loss": told.get("valid_loss"),
        "full_valid_mean_token_accuracy": told.get("valid_mean_token_accuracy"),
    }
    return [
        {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{job.run_id.rpartition('-')[2]}",
            "created_at": int(trained.at.timestamp()),
            "fine_tuned_model_checkpoint": job.fine_tuned_model,
            "fine_tuning_job_id": job.job_id,
            "step_number": metrics["step"],
            "metrics": metrics,
        }
    ]
