"""Keep the sums that a verdict needs up to date with the record, at the cost of what is new in it.

The record says which units changed and what they came to before and after (`feedback.exposure_sums`); those are taken
out of the totals and put back. One transaction: the totals move with what they were made from, or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import exposure_sums
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
    change = await exposure_sums.take_changes(
        connection, experiment, votes=votes, maturation_seconds=maturation_seconds
    )
    if change.totals is None:
        totals = Totals(tuple(weights), control)
        async for piece in exposure_sums.all_units(connection, experiment):
            totals.add(outcomes_of(piece), weights)
    else:
        totals = Totals.restored(change.totals, weights, control=control)
        if not change.before and not change.after:
            return totals
        totals.take_out(outcomes_of(change.before), weights)
        totals.add(outcomes_of(change.after), weights)
    await exposure_sums.store_totals(connection, experiment, totals.stored())
    return totals


def outcomes_of(counts: Sequence[UnitCounts]) -> list[UnitOutcome]:
    """Rows of the record as a verdict reads them."""
    return [UnitOutcome(**{name: getattr(one, name) for name in _SHARED}) for one in counts]
