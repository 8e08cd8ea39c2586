"""The parts of a model's policy about what is watched while it answers: drift, and who is told of what."""

from typing import Literal, Self

from pydantic import Field, model_validator

from feedback.sections import Section

RuleName = Literal[
    "canary_aborted",
    "rollout_paused",
    "champion_worse",
    "champion_rolled_back",
    "input_drift",
    "output_drift",
    "feedback_drift",
    "training_failed",
    "engines_away",
    "version_fails",
    "infrastructure_fails",
]


class DriftPolicy(Section):
    """How traffic is compared with the traffic that the champion began with."""

    enabled: bool = True
    """Whether windows are compared."""
    reference_rows: int = Field(1000, ge=200)
    """Completions after a promotion that later windows are compared with."""
    window_rows: int = Field(500, ge=200)
    """Completions of one window."""
    rows_per_rater_max: int = Field(5, ge=1)
    """Completions of one rater that enter a window at most."""
    votes_seconds: float = Field(3600.0, ge=0)
    """How long after its answer a vote counts; windows of feedback wait for it. 0: every vote there is, at once."""
    alarm_p: float = Field(0.005, gt=0, lt=0.1)
    """A window this unlikely without drift is an alarm at once, all columns of the window together."""
    repeat_p: float = Field(0.02, gt=0, lt=0.1)
    """A window this unlikely is an alarm when the windows before it were, too."""
    windows_in_a_row: int = Field(2, ge=1)
    """How many windows in a row that takes."""
    pages: bool = True
    """Whether Evidently writes an HTML page about each window that drifted, where it is installed."""

    @model_validator(mode="after")
    def _alarm_is_stricter(self) -> Self:
        if self.alarm_p > self.repeat_p:
            raise ValueError("alarm_p must not be above repeat_p")
        return self


class AlertPolicy(Section):
    """Which alerts exist, whom they reach is in the settings of the worker."""

    rules: tuple[RuleName, ...] = (
        "canary_aborted",
        "rollout_paused",
        "champion_worse",
        "champion_rolled_back",
        "input_drift",
        "output_drift",
        "feedback_drift",
        "training_failed",
        "engines_away",
        "version_fails",
        "infrastructure_fails",
    )
    """Rules that raise an alert. Leaving one out resolves its alert."""
    retrain_on: tuple[RuleName, ...] = ()
    """Rules whose alert also asks the worker for a training run, once for each time it fires."""
