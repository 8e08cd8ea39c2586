"""A model's policy: what may change while the service runs, kept in the record with an audit row per change.

Consent, training thresholds, the gate's limits, the rollout's steps. Defaults are safe: a person approves every
promotion, nothing is trained on without consent, and a rollout starts with a small share.
"""

import hashlib
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, ValidationError, field_validator

from feedback.defence_policy import DefencePolicy as DefencePolicy
from feedback.errors import HoneError
from feedback.gate_policy import GatePolicy as GatePolicy
from feedback.metrics import FeedbackPolicy as FeedbackPolicy
from feedback.mistakes import explain
from feedback.privacy_policy import PrivacyPolicy as PrivacyPolicy
from feedback.rollout_policy import RolloutPolicy as RolloutPolicy
from feedback.sections import Section as Section
from feedback.upstream_policy import UpstreamPolicy as UpstreamPolicy
from feedback.watch_policy import AlertPolicy, DriftPolicy

WINDOW = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class TrainingPolicy(Section):
    """When a run starts and what it needs."""

    enabled: bool = True
    """Whether the schedule may start runs; `hone retrain now` always may."""
    method: Literal["auto", "sft", "dpo", "kto", "sft+dpo", "sft+kto"] = "auto"
    """Fix the method, or two in sequence, or let the data decide."""
    fresh_feedback_min: int = Field(200, ge=1)
    """Ratings and demonstrations since the last run before the schedule starts another."""
    interval_hours_min: float = Field(1.0, ge=0)
    """Hours between two scheduled runs, at least."""
    sft_rows_min: int = Field(50, ge=1)
    """Demonstrations plus approved answers that SFT needs."""
    dpo_pairs_min: int = Field(100, ge=1)
    """Pairs (better, worse) that DPO needs."""
    kto_ratings_min: int = Field(300, ge=1)
    """Ratings that KTO needs; below it KTO was measured to be unstable."""
    minority_share_min: float = Field(0.1, ge=0, le=0.5)
    """The rarer of up and down must have at least this share for KTO."""
    raters_min: int = Field(5, ge=1)
    """Distinct raters a dataset needs."""
    rows_per_rater_max: int = Field(10, ge=1)
    """No rater contributes more rows to one dataset."""
    rows_per_rater_topic_max: int = Field(5, ge=1)
    """No rater contributes more rows on one topic to one dataset."""
    rater_share_max: float = Field(0.5, gt=0, le=1)
    """No rater may stand behind more than this share of a dataset's rows; otherwise there is no run."""
    held_out_share: float = Field(0.2, gt=0, lt=0.5)
    """Share of raters whose rows are never trained on."""
    time_forward_days: float = Field(1.0, ge=0)
    """What was said in the last days is kept for evaluation, once the record is ten times as long; 0: nothing is."""
    defences: DefencePolicy = DefencePolicy()
    windows: tuple[Annotated[str, Field(pattern=WINDOW)], ...] = ()
    """Times of day (UTC) in which runs may train, such as `22:00-06:00`; empty: always. A run rests outside them."""
    queue_depth_max: int | None = Field(None, ge=0)
    """Requests under way and waiting on the model's engines above which runs rest; unset: they never do."""
    start: Literal["base", "champion"] = "base"
    """What runs start from: the base model, on all that people said; or, faster, the champion, on what is new."""
    from_base_every: int = Field(5, ge=1, le=5)
    """Runs in a row that may start from one another before the next starts from the base model again."""
    replay_share: float = Field(0.2, ge=0, le=0.5)
    """Share of a run's rows that may repeat the fixed set of `replay_file` and, after the champion, earlier rounds."""
    replay_file: str | None = None
    """Uploaded file (`file-...`, rows for SFT) that every run repeats a part of, to keep skills nobody rates."""
    augment: str | None = None
    """Entry point (group `hone.augment`) of an installed package that makes further rows from a run's rows."""
    augment_share_max: float = Field(0.5, gt=0, lt=1)
    """Share of a run's rows that `augment` may have made."""
    augment_seconds_max: float = Field(600.0, gt=0)
    """`augment` is given up, and the run has failed, after this time."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the recipe, by field name (retrain.recipe.Recipe). `null` in a change takes one away."""

    @field_validator("recipe")
    @classmethod
    def _without_those_taken_away(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _without_nulls(value)


class ModelPolicy(Section):
    """Everything about a model that an operator may change without a restart."""

    approval: Literal["operator", "automatic"] = "operator"
    """Who approves and promotes: a person, or the worker on a passed gate and a `better` verdict."""
    consent_default: bool = False
    """Whether a completion without `store` may be trained on."""
    training: TrainingPolicy = TrainingPolicy()
    gate: GatePolicy = GatePolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    upstream: UpstreamPolicy = UpstreamPolicy()
    drift: DriftPolicy = DriftPolicy()
    alerts: AlertPolicy = AlertPolicy()
    feedback: FeedbackPolicy = FeedbackPolicy()
    privacy: PrivacyPolicy = PrivacyPolicy()

    @property
    def version(self) -> str:
        """Hash of the policy, logged with every assignment made under it."""
        return hashlib.sha256(orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    of_methods = {name: _without_nulls(inner) for name, inner in value.items() if isinstance(inner, dict)}
    return {name: inner for name, inner in (value | of_methods).items() if inner is not None}


def read_policy(value: dict[str, Any]) -> ModelPolicy:
    """Check a policy that came from outside.

    Raises:
        HoneError: a field is unknown or out of range; the message names it.
    """
    try:
        return ModelPolicy.model_validate(value)
    except ValidationError as error:
        raise HoneError(f"Policy field {explain(error.errors(), ModelPolicy)}") from error
