"""The operator's verbs: approve, reject, start a canary, pause, resume, promote, abort, roll back.

The command line, `/admin/v1`, the console and the worker all come through here, so each verb means one thing. Every
one is a single transaction: registry, experiment and audit row change together or not at all. Each holds the model
before it reads anything, so it decides on what is there when it acts, and of two at a time the second sees the first.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, experiments, models, rollouts, several_arms, version_files
from feedback.adapters import AUTOMATIC_ACTOR, Adapter
from feedback.allocations import Rule
from feedback.errors import HoneError, IllegalMove
from feedback.experiments import Experiment


async def approve(
    connection: AsyncConnection, project: str, reference: str, *, by: str, reason: str = ""
) -> Adapter:
    """Say that a candidate may meet traffic."""
    candidate = await _held(connection, project, reference)
    if by == AUTOMATIC_ACTOR and candidate.aborted_at is not None:
        raise IllegalMove(
            f"{candidate.name} was aborted on {candidate.aborted_at:%Y-%m-%d %H:%M} and stays out "
            "until a person approves it again."
        )
    return await adapters.move(connection, candidate, "approve", by=by, detail={"reason": reason})


async def reject(
    connection: AsyncConnection, project: str, reference: str, *, by: str, reason: str
) -> Adapter:
    """Say that a candidate, or an approved version, shall not ship."""
    candidate = await _held(connection, project, reference)
    verb = "withdraw" if candidate.state == "approved" else "reject"
    return await adapters.move(connection, candidate, verb, by=by, detail={"reason": reason})


async def start_canary(connection: AsyncConnection, project: str, reference: str, *, by: str) -> Experiment:
    """Send the first step's share of traffic to an approved version."""
    candidate = await _held(connection, project, reference)
    return await experiments.start_canary(connection, candidate, by=by)


async def start_canaries(
    connection: AsyncConnection, project: str, references: Sequence[str], *, rule: Rule = "equal", by: str
) -> Experiment:
    """Send the first step's share of traffic to several approved versions at once."""
    candidates = [await _held(connection, project, reference) for reference in references]
    return await several_arms.start(connection, candidates, rule=rule, by=by)


async def pause(
    connection: AsyncConnection, project: str, model: str, *, by: str, reason: str
) -> rollouts.Rollout:
    """Keep the canary at its share; guardrails go on watching it."""
    await models.hold(connection, project, model)
    split = await rollouts.running_split(connection, project, model)
    return await rollouts.pause(connection, split, by=by, reason=reason)


async def resume(
    connection: AsyncConnection, project: str, model: str, *, by: str, reason: str = ""
) -> rollouts.Rollout:
    """Let a paused rollout go on."""
    await models.hold(connection, project, model)
    split = await rollouts.running_split(connection, project, model)
    return await rollouts.resume(connection, split, by=by, reason=reason)


async def promote(
    connection: AsyncConnection, project: str, reference: str, *, by: str, reason: str = ""
) -> Adapter:
    """Make an approved or canary version the champion.

    Raises:
        IllegalMove: the automatic actor tries it where the model's policy wants an operator.
    """
    candidate = await _held(connection, project, reference)
    model = await models.get(connection, project, candidate.model)
    if by == AUTOMATIC_ACTOR and model.policy.approval != "automatic":
        raise IllegalMove(
            f"The policy of '{model.model}' says approval = 'operator': "
            f"a person promotes {candidate.name}, not the worker."
        )
    experiment = await experiments.of_model(connection, project, candidate.model)
    if experiment is not None and candidate.adapter_id not in [
        arm.adapter_id for arm in experiment.candidates
    ]:
        await abort(
            connection, project, candidate.model, by=by, reason=f"{candidate.name} is promoted instead"
        )
        experiment = None
    if experiment is None:
        return await adapters.promote(connection, candidate, by=by, reason=reason)
    for other in experiment.candidates:
        if other.adapter_id != candidate.adapter_id:
            loser = await adapters.by_id(connection, other.adapter_id)
            why = f"{candidate.name} is promoted instead"
            await adapters.move(connection, loser, "abort", by=by, detail={"reason": why})
            await experiments.end_arm(connection, experiment, other, reason=why)
    evidence = f"{reason} [{experiment.verdict['sentence']}]".strip() if experiment.verdict else reason
    champion = await adapters.promote(connection, candidate, by=by, reason=evidence)
    await experiments.end(connection, experiment, outcome="promoted", reason=evidence)
    return champion


async def abort(
    connection: AsyncConnection, project: str, model: str, *, only: str | None = None, by: str, reason: str
) -> Adapter:
    """End the canary: its units go back to the champion, and it needs a person's approval to return.

    Of several canaries all end, or `only` one (`support@8`); the last one's end is the experiment's.

    Raises:
        IllegalMove: the model has no canary, or not this one.
    """
    await models.hold(connection, project, model)
    experiment = await experiments.of_model(connection, project, model)
    if experiment is None:
        raise IllegalMove(
            f"Model '{model}' has no canary to abort. `hone experiment list` shows what is running."
        )
    canaries = [await adapters.by_id(connection, arm.adapter_id) for arm in experiment.candidates]
    if only is not None and experiment.allocation is not None:
        ending = [arm for arm, one in zip(experiment.candidates, canaries, strict=True) if one.name == only]
        if not ending:
            raise IllegalMove(
                f"'{only}' is no canary of '{model}'; there are {', '.join(one.name for one in canaries)}."
            )
        return await several_arms.take_back(connection, experiment, ending[0], by=by, reason=reason)
    if only is not None and only != canaries[0].name:
        raise IllegalMove(f"'{only}' is no canary of '{model}'; there is {canaries[0].name}.")
    moved = [
        await adapters.move(connection, one, "abort", by=by, detail={"reason": reason}) for one in canaries
    ]
    await experiments.end(connection, experiment, outcome="aborted", reason=reason)
    return moved[0]


async def roll_back(
    connection: AsyncConnection, project: str, model: str, *, to: str | None = None, by: str, reason: str = ""
) -> Adapter:
    """Put an earlier champion back; a running canary, compared with a champion that is leaving, ends too.

    Raises:
        HoneError: `to` is a version of another model.
    """
    await models.hold(connection, project, model)
    if to is not None and (other := adapters.parse_reference(to)[0]) != model:
        raise HoneError(
            f"'{to}' is a version of '{other}', and the model to roll back is '{model}'. Name a version of '{model}', "
            f"or roll back '{other}'."
        )
    if await experiments.of_model(connection, project, model) is not None:
        await abort(connection, project, model, by=by, reason="the champion is rolled back")
    restored = await adapters.roll_back(connection, project, model, to=to, by=by, reason=reason)
    await version_files.require(connection, restored)
    return restored


async def _held(connection: AsyncConnection, project: str, reference: str) -> Adapter:
    """The version that `support@7` names, its model held."""
    await models.hold(connection, project, adapters.parse_reference(reference)[0])
    return await adapters.get(connection, project, reference)
