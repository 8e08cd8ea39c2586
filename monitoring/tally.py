"""Keep the sums that a verdict needs up to date with the record, at the cost of what is new in it.

The record says which units changed and what they came to before and after (`feedback.exposure_sums`); those are taken
out of the totals and put back. One transaction: the totals move with what they were made from, or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import exposure_sums
from feedback.allocations import Allocation, every
from feedback.experiments import Experiment
from feedback.exposures import UnitCounts
from feedback.metrics import FeedbackPolicy
from monitoring.outcomes import UnitOutcome
from monitoring.totals import Totals

_SHARED = tuple(field.name for field in fields(UnitCounts) if field.name != "allocation")


async def tally(
    connection: AsyncConnection,
    experiment: Experiment,
    weights: Mapping[str, float],
    *,
    control: str,
    votes: FeedbackPolicy | None = None,
    maturation_seconds: float,
) -> Totals:
    """The totals of a running split as the record has it now."""
    shared_out = {} if experiment.allocation is None else await every(connection, experiment.experiment_id)
    change = await exposure_sums.take_changes(
        connection, experiment, votes=votes, maturation_seconds=maturation_seconds
    )
    if change.totals is None:
        totals = Totals(tuple(weights), control)
        async for piece in exposure_sums.all_units(connection, experiment):
            totals.add(outcomes_of(piece, shared_out, weights), weights)
    else:
        totals = Totals.restored(change.totals, weights, control=control)
        if not change.before and not change.after:
            return totals
        totals.take_out(outcomes_of(change.before, shared_out, weights), weights)
        totals.add(outcomes_of(change.after, shared_out, weights), weights)
    await exposure_sums.store_totals(connection, experiment, totals.stored())
    return totals


def outcomes_of(
    counts: Sequence[UnitCounts],
    shared_out: Mapping[int, Allocation] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[UnitOutcome]:
    """Rows of the record as a verdict reads them; with several arms, with what each of them could have been."""
    known: dict[int, dict[str, Any]] = {
        number: {
            "shares": tuple(float(one.shares.get(arm, 0.0)) for arm in weights or ()),
            "decides": one.slice == "uniform",
        }
        for number, one in (shared_out or {}).items()
    }
    return [
        UnitOutcome(**{name: getattr(one, name) for name in _SHARED}, **known.get(one.allocation, {}))
        for one in counts
    ]
