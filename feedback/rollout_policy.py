"""The part of a model's policy about traffic: how it moves to a candidate, what pauses it, what takes it back.

A window says when traffic may be raised, in words: `mon-fri 09:00-17:00`. Nothing here ever delays an abort.
"""

import re
from datetime import datetime, time
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from feedback.sections import Section

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WINDOW = re.compile(
    r"(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? (?P<from>\d\d:\d\d)-(?P<to>\d\d:\d\d)", re.ASCII
)

GuardrailName = Literal[
    "bad_answers",
    "units_with_bad_answers",
    "units_with_errors",
    "time_to_first_token",
    "time_per_output_token",
    "output_tokens",
    "refusals",
    "client_aborts",
    "regenerations",
]


class GuardrailPolicy(Section):
    """How much worse a candidate may be in each respect before its guardrail fires."""

    bad_answers_odds_max: float = Field(1.0, ge=1)
    """Failed or voted-down answers, as a multiple of the champion's odds."""
    errors_odds_max: float = Field(1.0, ge=1)
    """Raters who met an error, as a multiple of the champion's odds."""
    refusals_odds_max: float = Field(1.5, ge=1)
    """Answers that refuse, as a multiple of the champion's odds."""
    client_aborts_odds_max: float = Field(1.5, ge=1)
    """Answers that their client left before the end, as a multiple of the champion's odds."""
    regenerations_odds_max: float = Field(1.5, ge=1)
    """Answers that people had generated again, as a multiple of the champion's odds."""
    time_to_first_token_ratio_max: float = Field(1.5, ge=1)
    """Typical time to the first token, as a multiple of the champion's."""
    time_per_output_token_ratio_max: float = Field(1.5, ge=1)
    """Typical time per token after the first, as a multiple of the champion's."""
    output_tokens_ratio_max: float = Field(2.0, ge=1)
    """Typical length of an answer, as a multiple of the champion's."""
    output_tokens_ratio_min: float = Field(0.5, gt=0, le=1)
    """Typical length of an answer, as a share of the champion's."""
    pausing: tuple[GuardrailName, ...] = ("output_tokens",)
    """Guardrails that pause the rollout, for a person to look, instead of aborting it."""


class ChampionWatchPolicy(Section):
    """How the guardrails go on after a promotion."""

    enabled: bool = True
    """Whether a new champion is compared with the one before it."""
    hours: float = Field(168.0, gt=0)
    """How long after its promotion a champion is watched."""
    reference_hours: float = Field(168.0, gt=0)
    """Time before the promotion to compare with. Whole weeks keep nights and Sundays on both sides."""
    ratio_max: float = Field(1.5, ge=1)
    """Multiple of the earlier champion's rates, times and lengths that is tolerated."""
    action: Literal["alert", "roll_back"] = "alert"
    """What happens when it is worse: people are told, or the earlier champion also comes back by itself."""


class RolloutPolicy(Section):
    """How traffic moves to an approved candidate, and what stops it."""

    steps: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5)
    """Candidate's share of units at each step, rising."""
    pause_at: tuple[float, ...] = ()
    """Steps at which the rollout waits for a person's `resume`."""
    step_seconds_min: float = Field(600.0, ge=0)
    """Shortest time at a step."""
    step_units_min: int = Field(20, ge=0)
    """Units that must have met the candidate for each step so far."""
    step_requests_min: int = Field(50, ge=0)
    """Requests that the candidate must have answered for each step so far."""
    windows: tuple[str, ...] = ()
    """When traffic may be raised, such as `mon-fri 09:00-17:00`; empty is always. Aborts never wait."""
    timezone: str = "UTC"
    """Time zone of the windows, such as `Europe/Berlin`."""
    units_min: int = Field(50, ge=2)
    """Units per arm before ratings are compared."""
    rated_units_min: int = Field(20, ge=1)
    """Units with at least one vote per arm before ratings are compared."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Error rate of the verdict, however often one looks."""
    guardrail_alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that an equal candidate is ever called worse, all guardrails together."""
    uniform_share: float = Field(0.5, gt=0, le=1)
    """With several candidates: units whose arm is drawn by chance alone, of all; verdicts rest on them."""
    allocation_seconds_min: float = Field(600.0, ge=0)
    """With several candidates: shortest time before more is given to those that do well."""
    maturation_seconds: float = Field(0.0, ge=0)
    """Completions younger than this are not scored yet."""
    versions_kept: int = Field(10, ge=1)
    """Retired versions whose files stay on disk, newest first: any of them is one `rollback` away."""
    fallbacks: Literal["earlier_champions", "base", "none"] = "earlier_champions"
    """Who answers while no engine is ready for the champion: earlier champions and then the base, the base, nobody."""
    shadow_share: float = Field(0.0, ge=0, le=1)
    """Share of answered questions that the newest candidate without traffic is asked, too, unseen by anyone."""
    shadow_questions_max: int = Field(30, ge=1)
    """Questions that it is asked at one look of the worker at most."""
    guardrails: GuardrailPolicy = GuardrailPolicy()
    champion_watch: ChampionWatchPolicy = ChampionWatchPolicy()

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not rising or not 0 < self.steps[0] <= self.steps[-1] <= 0.5:
            raise ValueError("steps must be rising shares above 0 and at most 0.5")
        if unknown := sorted(set(self.pause_at) - set(self.steps)):
            raise ValueError(f"pause_at names {unknown}, which are no steps")
        return self

    @field_validator("windows")
    @classmethod
    def _windows_can_be_read(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        for window in windows:
            _read_window(window)
        return windows

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("expected the name of a time zone, such as Europe/Berlin") from error
        return name

    def may_widen(self, now: datetime) -> bool:
        """Whether traffic may be raised at this moment."""
        local = now.astimezone(ZoneInfo(self.timezone))
        return not self.windows or any(_inside(_read_window(window), local) for window in self.windows)


Window = tuple[frozenset[int], time, time]


def _read_window(text: str) -> Window:
    match = WINDOW.fullmatch(text)
    days = {match["first"], match["last"] or match["first"]} if match else set()
    if match is None or not days <= set(DAYS):
        raise ValueError(f"'{text}' is no window; expected such as 'mon-fri 09:00-17:00'")
    first, last = DAYS.index(match["first"]), DAYS.index(match["last"] or match["first"])
    try:
        opens, closes = time.fromisoformat(match["from"]), time.fromisoformat(match["to"])
    except ValueError as error:
        raise ValueError(f"'{text}' has a time that no clock shows") from error
    if opens >= closes:
        raise ValueError(f"'{text}' ends before it begins; write a window past midnight as two")
    span = range(first, last + 1) if first <= last else (*range(first, 7), *range(last + 1))
    return frozenset(span), opens, closes


def _inside(window: Window, now: datetime) -> bool:
    days, opens, closes = window
    return now.weekday() in days and opens <= now.time() < closes
