"""Several candidates at once: each judged on its own, one taken back while the others go on, nobody moved."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from feedback import adapters, allocations, experiments, rollouts, shipping, submissions
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove
from feedback.experiments import Experiment
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import rollout
from serving.auth import Caller
from serving.routing import Experiment as Routed
from serving.routing import draw
from serving.routing_table import load_table
from tests.builders import PROJECT, a_completion, a_model, an_adapter

POLICY = RolloutPolicy(
    steps=(0.3, 0.6 - 0.1),
    step_seconds_min=0,
    step_units_min=10,
    step_requests_min=10,
    allocation_seconds_min=0,
)
CALLER = Caller("key-1", PROJECT, "app")
PEOPLE = [f"rater-{number}" for number in range(1500)]


async def a_split(connection: Any, rule: Any = "top-two", many: int = 2, **policy: Any) -> Experiment:
    await a_model(connection, policy=ModelPolicy(rollout=POLICY, **policy))
    versions = [await an_adapter(connection, state="approved") for _ in range(many)]
    names = [version.name for version in versions]
    return await shipping.start_canaries(connection, PROJECT, names, rule=rule, by="ada")


async def routed(database: Database) -> Routed:
    found = (await load_table(database, [])).models[PROJECT, "support"].experiment
    assert found is not None
    return found


async def ask(
    database: Database,
    split: Routed,
    people: Sequence[str],
    up: Mapping[str, bool | None],
    tokens: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Everybody asks once, of the arm that routing gives them, gets `tokens` of it, and says what `up` says of it."""
    asked, said = [], []
    for person in people:
        if (drawn := draw(split, person)) is None:
            continue
        made = a_completion(
            unit=person, rater=person, experiment_id=split.experiment_id, arm=drawn.arm.arm,
            propensity=drawn.propensity, allocation=drawn.allocation,
            output_tokens=tokens.get(drawn.arm.arm, 20),
        )  # fmt: skip
        asked.append(made)
        if (value := up.get(drawn.arm.arm)) is not None:
            said.append(
                submissions.submission(
                    project=PROJECT,
                    completion_id=made.completion_id,
                    rater=person,
                    kind="rating",
                    value=value,
                )
            )
    async with database.begin() as connection:
        await insert_many(connection, asked)
        await submissions.store_all(connection, said)


async def state(database: Database, split: Experiment) -> Experiment:
    async with database.begin() as connection:
        return await experiments.get(connection, PROJECT, split.experiment_id)


def met(split: Routed) -> dict[str, str | None]:
    return {person: drawn.arm.arm if (drawn := draw(split, person)) else None for person in PEOPLE}


async def test_several_candidates_begin_with_even_parts_of_the_first_step(database: Database) -> None:
    async with database.begin() as connection:
        split = await a_split(connection, many=3)
    shares = {arm.arm: arm.weight for arm in split.arms}
    assert shares == pytest.approx(
        {"champion": 0.7, "candidate": 0.1, "candidate-2": 0.1, "candidate-3": 0.1}
    )
    found = list(met(await routed(database)).values())
    assert all(abs(found.count(arm) / len(found) - share) < 0.05 for arm, share in shares.items())


async def test_the_propensity_logged_is_that_of_the_slice_and_its_allocation(database: Database) -> None:
    async with database.begin() as connection:
        split = await a_split(connection)
        known = await allocations.every(connection, split.experiment_id)
    route = await routed(database)
    for person in PEOPLE[:50]:
        drawn = draw(route, person)
        assert drawn is not None and drawn.allocation is not None
        assert drawn.propensity == known[drawn.allocation].shares[drawn.arm.arm]
    assert {one.slice for one in known.values()} == {"uniform", "adaptive"}


async def test_nobody_who_met_a_candidate_meets_another_whatever_becomes_of_the_shares(
    database: Database,
) -> None:
    async with database.begin() as connection:
        split = await a_split(connection)
    route = await routed(database)
    await ask(database, route, PEOPLE[:300], {"candidate": True, "candidate-2": False, "champion": True})
    before = met(route)
    said = []
    for _ in range(7):
        said += await rollout.tick(database)
        now = met(await routed(database))
        moved = {(before[person], now[person]) for person in PEOPLE if before[person] != now[person]}
        assert moved <= {("champion", "candidate"), ("champion", "candidate-2"), ("candidate-2", None)}
        before = now
    assert any("was aborted" in one for one in said) and any("adaptive slice" in one for one in said)
    ended = await state(database, split)
    assert ended.status == "running" and [arm.arm for arm in ended.candidates] == ["candidate"]


async def test_what_does_well_gets_more_of_the_adaptive_slice_and_the_same_of_the_uniform_one(
    database: Database,
) -> None:
    async with database.begin() as connection:
        split = await a_split(connection, rule="thompson")
    await ask(database, await routed(database), PEOPLE[:250], {"candidate": None, "candidate-2": True})
    for _ in range(5):
        await rollout.tick(database)
    async with database.begin() as connection:
        newest = (await allocations.newest(connection, [split.experiment_id]))[split.experiment_id]
    assert newest["uniform"].shares == pytest.approx(
        {"champion": 0.5, "candidate": 0.25, "candidate-2": 0.25}
    )
    adaptive = newest["adaptive"].shares
    assert adaptive["candidate-2"] > 0.25 > adaptive["candidate"] > 0.15
    assert newest["adaptive"].opened == pytest.approx(0.5)


async def test_a_worse_candidate_is_taken_back_alone_and_the_last_one_ends_the_split(
    database: Database,
) -> None:
    async with database.begin() as connection:
        split = await a_split(connection, rule="equal")
    route = await routed(database)
    await ask(database, route, PEOPLE[:450], {"champion": True, "candidate": True, "candidate-2": False})
    [said] = await rollout.tick(database)
    assert said.startswith("support@2 was aborted: support@2 is worse than champion")
    left = await state(database, split)
    assert (left.status, [arm.arm for arm in left.candidates]) == ("running", ["candidate"])
    assert left.arm("candidate-2").reason and left.arm("candidate-2").weight == 0
    async with database.begin() as connection:
        with pytest.raises(IllegalMove, match="'support@2' is no canary"):
            await shipping.abort(connection, PROJECT, "support", only="support@2", by="ada", reason="")
        await shipping.abort(connection, PROJECT, "support", only="support@1", by="ada", reason="enough")
        states = [one.state for one in await adapters.of_model(connection, PROJECT, "support")]
    assert ((await state(database, split)).outcome, states) == (
        "aborted",
        ["candidate", "candidate", "champion"],
    )


async def test_the_verdict_names_every_candidate_and_rests_on_the_uniform_slice_alone(
    database: Database,
) -> None:
    async with database.begin() as connection:
        split = await a_split(connection)
    route = await routed(database)
    await ask(database, route, PEOPLE[:200], {"champion": True, "candidate": True})
    await rollout.tick(database)
    verdict = (await state(database, split)).verdict
    assert verdict is not None and set(verdict["candidates"]) == {"candidate", "candidate-2"}
    uniform = {person for person in PEOPLE[:200] if (one := draw(route, person)) and one.allocation == 1}
    assert sum(arm["units"] for arm in verdict["arms"]) == len(uniform) < 200
    assert sum(verdict["sample_ratio"]["units"].values()) == 200


async def test_what_an_operator_reads_names_every_candidate_and_where_it_stands(database: Database) -> None:
    async with database.begin() as connection:
        await a_split(connection, rule="equal", many=3)
    route = await routed(database)
    up = {"champion": True, "candidate": True, "candidate-2": False, "candidate-3": True}
    await ask(database, route, PEOPLE[:600], up)
    await rollout.tick(database)
    await rollout.tick(database)
    async with database.begin() as connection:
        seen = await rollouts.view(connection, PROJECT, "support")
    of = {one["version"]: one for one in seen["candidates"]}
    assert {version: one["state"] for version, one in of.items()} == {
        "support@1": "running", "support@2": "taken_back", "support@3": "running",
    }  # fmt: skip
    assert of["support@2"]["says"].startswith("support@2 is worse than champion")
    assert (
        of["support@2"]["share"] == 0 and seen["share"] == of["support@1"]["share"] + of["support@3"]["share"]
    )
    assert all(version in of[version]["says"] for version in of)
    assert seen["version"] in ("support@1", "support@3") and seen["version"] in seen["says"]


async def test_a_split_whose_candidates_are_all_taken_back_is_told_by_the_last_one(
    database: Database,
) -> None:
    async with database.begin() as connection:
        await a_split(connection, rule="equal")
    for name in ("support@1", "support@2"):
        async with database.begin() as connection:
            await shipping.abort(connection, PROJECT, "support", only=name, by="ada", reason=f"not {name}")
    async with database.begin() as connection:
        seen = await rollouts.view(connection, PROJECT, "support")
    assert (seen["state"], seen["version"], seen["says"]) == ("aborted", "support@2", "not support@2")
    assert [one["says"] for one in seen["candidates"]] == ["not support@1", "not support@2"]


async def test_who_resumed_over_one_candidates_guardrail_is_asked_again_about_anothers(
    database: Database,
) -> None:
    async with database.begin() as connection:
        split = await a_split(connection, rule="equal")
    route = await routed(database)
    await ask(database, route, PEOPLE[:600], {}, tokens={"candidate": 900, "candidate-2": 900})
    paused = []
    for _ in range(2):
        paused += await rollout.tick(database)
        async with database.begin() as connection:
            await shipping.resume(connection, PROJECT, "support", by="ada")
    assert ["support@1" in paused[0], "support@2" in paused[1]] == [True, True]
    async with database.begin() as connection:
        standing = await rollouts.of(connection, split.experiment_id)
    assert standing.accepted == ("output_tokens of support@1", "output_tokens of support@2")


async def test_promoting_one_candidate_takes_the_others_back(database: Database) -> None:
    async with database.begin() as connection:
        split = await a_split(connection)
        await shipping.promote(connection, PROJECT, "support@2", by="ada", reason="I like it")
        states = {one.name: one.state for one in await adapters.of_model(connection, PROJECT, "support")}
    assert states == {"support@0": "retired", "support@1": "candidate", "support@2": "champion"}
    assert (await state(database, split)).outcome == "promoted"


@pytest.mark.parametrize(
    ("names", "rule", "says"),
    [
        (["support@1", "support@1"], "equal", "each once"),
        (["support@1"], "greedy", "expected one of equal, thompson, top-two"),
        ([], "equal", "expected 1 to 9"),
    ],
)
async def test_a_split_that_cannot_be_is_refused(
    database: Database, names: list[str], rule: Any, says: str
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="approved")
        with pytest.raises(HoneError, match=says):
            await shipping.start_canaries(connection, PROJECT, names, rule=rule, by="ada")
