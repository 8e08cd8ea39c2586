"""Settings of training: where it runs and how much of the machine it may take.

What training does to the weights is the recipe's, and when it starts is the model's policy: neither is here.
"""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from feedback.settings import HoneSettings


class RetrainSettings(HoneSettings):
    """How the worker trains and evaluates."""

    table: ClassVar[str] = "retrain"

    training_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where runs train; `auto` takes an accelerator when there is one."""
    training_threads: int = Field(1, ge=1, le=1024)
    """CPU threads of a training process. More than the idle cores makes training slower, not faster."""
    training_niceness: int = Field(10, ge=0, le=19)
    """Priority of training below everything else on the machine, as `nice` counts it: serving comes first."""
    training_memory_check: Literal["refuse", "warn", "off"] = "refuse"
    """What to do when a run is estimated to need more memory than is free: fail it, or say so and try."""
    engines_sleep_while_training: bool = False
    """Let the engines of a run's base model sleep while it trains on their accelerator (vLLM's sleep mode, level 1).
    Nobody is answered by a sleeping engine."""
    training_attempts_max: int = Field(3, ge=1, le=100)
    """Starts of one run's training process; killed more often than this, the run has failed."""
    training_events_interval_seconds: float = Field(1.0, ge=0)
    """Shortest time between two progress rows of a run."""
    checkpoint_interval_seconds: float = Field(60.0, gt=0)
    """A killed run repeats at most about this much work."""
    checkpoints_kept: int = Field(2, ge=2, le=100)
    """Checkpoints of a run that stay on disk while it trains."""

    worker_tick_seconds: float = Field(2.0, gt=0)
    """How often the worker looks at runs and rollouts."""
    watch_interval_seconds: float = Field(60.0, gt=0)
    """How often the worker looks at new champions, at alerts, and at old versions' files."""
    drift_interval_seconds: float = Field(600.0, gt=0)
    """How often the worker looks for windows of traffic that are whole and not yet compared."""
    trigger_check_seconds: float = Field(30.0, gt=0)
    """How often the worker asks whether there is enough fresh feedback."""
    adapter_ready_timeout_seconds: float = Field(300.0, gt=0)
    """How long a published candidate may take to be ready on an engine before its run fails."""

    evaluation_concurrency: int = Field(8, ge=1, le=1024)
    """Requests that an evaluation keeps in flight at the engine."""
    evaluation_engine_api_key: SecretStr | None = None
    """Key of the engines, where they were started with one (`engine_api_key` of [serving])."""
    evaluation_timeout_seconds: float = Field(120.0, gt=0)
    """Longest wait for one answer during an evaluation."""
    evaluation_prompts_max: int = Field(300, ge=1)
    """Held-out prompts, and retained prompts, that one evaluation asks at most."""
    judge_url: str | None = None
    """OpenAI-compatible endpoint of a judging model, such as `https://host/v1`. Unset: nothing is judged by a model."""
    judge_model: str | None = None
    """Name of the judging model at `judge_url`."""
    judge_api_key: SecretStr | None = None
    """Key for `judge_url`."""
    training_watts: float | None = Field(None, gt=0)
    """What the machine draws while it trains, for the energy estimate in an adapter's evidence."""
    evaluation_answer_tokens_max: int = Field(256, ge=1)
    """Longest answer that an evaluation lets the engine generate."""

    teacher_url: str | None = None
    """OpenAI-compatible endpoint of a teacher, such as `https://host/v1`; `hone retrain teach` asks it. Unset: none."""
    teacher_model: str | None = None
    """Name of the teacher at `teacher_url`."""
    teacher_api_key: SecretStr | None = None
    """Key for `teacher_url`."""
