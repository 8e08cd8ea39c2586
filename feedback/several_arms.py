"""Experiments with several candidates at once: start one, share it out anew, take one arm back.

People are divided by a hash into two slices. In the uniform slice every candidate that is left has the same share,
whatever is seen; verdicts rest on it alone. The adaptive slice follows the experiment's rule. In both, pieces of the
line are opened as the rollout's steps allow and keep their arm: nobody who met a candidate gets another. Those whose
candidate was taken back get the champion, and count in no arm any more: what they met before is not the champion's.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, allocations, audit, experiments, models
from feedback.adapters import Adapter
from feedback.allocations import CANDIDATES_MAX, RULES, SLICES, Pieces, Rule, Slice, open_evenly, shares_of
from feedback.database import notify_registry
from feedback.errors import HoneError
from feedback.experiments import CHAMPION_ARM, Arm, Experiment


async def start(
    connection: AsyncConnection, candidates: Sequence[Adapter], *, rule: Rule = "equal", by: str
) -> Experiment:
    """Give each of these approved versions an even part of the first step's share.

    Raises:
        IllegalMove: one of them is not approved.
        HoneError: they are not one to nine versions of one model, or the model already has a canary.
    """
    _check(candidates, rule)
    first = candidates[0]
    policy = (await models.get(connection, first.project, first.model)).policy.rollout
    share, uniform = policy.steps[0], 1.0 if rule == "equal" else policy.uniform_share
    experiment_id = await experiments.open_split(
        connection, candidates, share=share, by=by, allocation=rule, uniform_share=uniform
    )
    experiment = await experiments.get(connection, first.project, experiment_id)
    names = [arm.arm for arm in experiment.candidates]
    for part in SLICES if uniform < 1.0 else SLICES[:1]:
        await share_out(
            connection, experiment, part, open_evenly([], names, share), reason="The first step, evenly."
        )
    for candidate in candidates:
        detail = {"experiment_id": experiment_id, "share": share / len(candidates), "allocation": rule}
        await audit.write(
            connection, project=first.project, actor=by, action="experiment.start", subject=candidate.name,
            detail=detail,
        )  # fmt: skip
    return await experiments.get(connection, first.project, experiment_id)


def _check(candidates: Sequence[Adapter], rule: str) -> None:
    names = ", ".join(one.name for one in candidates)
    if rule not in RULES:
        raise HoneError(f"The allocation is '{rule}'; expected one of {', '.join(RULES)}.")
    if not 1 <= len({one.adapter_id for one in candidates}) == len(candidates) <= CANDIDATES_MAX:
        raise HoneError(
            f"{len(candidates)} candidates were named ({names or 'none'}); expected 1 to {CANDIDATES_MAX}, each once."
        )
    if len({one.model for one in candidates}) > 1:
        raise HoneError(f"{names} are versions of several models; expected versions of one.")


async def share_out(
    connection: AsyncConnection, experiment: Experiment, part: Slice, pieces: Pieces, *, reason: str
) -> None:
    """Share a slice out anew; gateways hear of it at once."""
    left = [CHAMPION_ARM, *(arm.arm for arm in experiment.candidates)]
    shares = shares_of(pieces, left, rest=CHAMPION_ARM)
    await allocations.add(connection, experiment.experiment_id, part, pieces, shares, reason=reason)
    newest = (await allocations.newest(connection, [experiment.experiment_id]))[experiment.experiment_id]
    part_of = {"uniform": experiment.uniform_share, "adaptive": 1.0 - experiment.uniform_share}
    overall = {
        name: sum(part_of[which] * float(one.shares.get(name, 0.0)) for which, one in newest.items())
        for name in left
    }
    await experiments.weigh(
        connection, experiment, {name: min(1.0, share) for name, share in overall.items()}
    )
    await notify_registry(connection, f"experiment:{experiment.experiment_id}")


async def take_back(
    connection: AsyncConnection, experiment: Experiment, arm: Arm, *, by: str, reason: str
) -> Adapter:
    """End one arm: its people go back to the champion, and its version needs a person's approval to return.

    The last arm's end is the experiment's.
    """
    adapter = await adapters.by_id(connection, arm.adapter_id)
    moved = await adapters.move(connection, adapter, "abort", by=by, detail={"reason": reason})
    await experiments.end_arm(connection, experiment, arm, reason=reason)
    left = await experiments.get(connection, experiment.project, experiment.experiment_id)
    if not left.candidates:
        await experiments.end(connection, experiment, outcome="aborted", reason=reason)
        return moved
    newest = (await allocations.newest(connection, [experiment.experiment_id]))[experiment.experiment_id]
    for part, one in newest.items():
        await share_out(connection, left, part, one.pieces, reason=f"{adapter.name} was taken back.")
    return moved
