"""The part of a model's policy that says whose feedback is left out of training, and what waits for a person."""

from typing import Literal

from pydantic import Field

from feedback.sections import Section


class DefencePolicy(Section):
    """What selection does against mistakes and abuse. Rows that a reviewer let in pass it all."""

    enabled: bool = True
    """Off: everything below is switched off; the limits per rater stay."""
    opinions_per_hour_max: int = Field(60, ge=1)
    """A rater who says more than this within one hour is left out for that hour."""
    identical_corrections_max: int = Field(20, ge=1)
    """No more corrections of the very same text enter a dataset, whoever wrote them."""
    new_facts: Literal["support", "review", "allow"] = "support"
    """Corrections with numbers, dates, addresses or names that neither question nor answer had: wait until enough
    raters say the same (`support`), wait for a reviewer (`review`), or enter like others (`allow`)."""
    support_raters_min: int = Field(2, ge=1)
    """Distinct raters who must state a new fact on a topic."""
    support_rater_age_hours_min: float = Field(0.0, ge=0)
    """A rater supports a fact only this long after they were first heard of."""
    burst_newcomers_min: int = Field(10, ge=2)
    """From so many raters on who are all new in one hour, on one topic, and say the same, that hour is left out, if it
    is also five times as many as usual. Needs a week of record to know what is usual."""
    trust_raters: bool = False
    """On: raters whose votes disagree with everybody's, or never depend on the answer, are kept."""
