"""Routing decides the same everywhere, sticks, moves only who must move, and goes only where a version is held."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.auth import Caller
from serving.errors import ApiError
from serving.routing import (
    Arm,
    Experiment,
    ModelRoute,
    RoutingTable,
    Version,
    bucket,
    choose_arm,
    choose_route,
)

CALLER = Caller("key-1", "shop", "app")
V0, V1, V2 = (Version(f"support--v{number}-x", "support", number, f"engine-v{number}") for number in range(3))

units = st.text(min_size=1, max_size=20)
shares = st.floats(0, 1)


def split(share: float, salt: str = "salt") -> Experiment:
    return Experiment("exp-1", salt, (Arm("champion", V1, 1 - share), Arm("candidate", V2, share)))


def table(experiment: Experiment | None = None, **holders: tuple[str, ...]) -> RoutingTable:
    """A model with champion 1 before which 0 was champion; `v1=("gpu-0",)` says who holds what."""
    versions = dict(enumerate((V0, V1, V2)))
    route = ModelRoute("shop", "support", V1, (V0,), experiment, versions)
    held = {version.adapter_id: holders.get(f"v{version.version}", ()) for version in versions.values()}
    return RoutingTable({}, {("shop", "support"): route}, held)


@given(unit=units, salt=units)
def test_a_bucket_is_a_fraction_and_never_changes(unit: str, salt: str) -> None:
    assert 0 <= bucket(salt, unit) < 1
    assert bucket(salt, unit) == bucket(salt, unit)


@given(unit=units, narrow=shares, wide=shares)
def test_widening_moves_units_to_the_candidate_and_none_back(unit: str, narrow: float, wide: float) -> None:
    narrow, wide = sorted((narrow, wide))
    before, after = choose_arm(split(narrow), unit).arm, choose_arm(split(wide), unit).arm
    assert (before, after) != ("candidate", "champion")
    assert (before != after) == (narrow <= bucket("salt", unit) < wide)


@given(share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_arms_get_their_shares(share: float) -> None:
    count = 4000
    met = sum(choose_arm(split(share), f"rater-{number}").arm == "candidate" for number in range(count))
    assert abs(met / count - share) < 0.04


def test_two_experiments_split_independently() -> None:
    both = sum(
        choose_arm(split(0.5, "a"), f"{unit}").arm == choose_arm(split(0.5, "b"), f"{unit}").arm
        for unit in range(4000)
    )
    assert abs(both / 4000 - 0.5) < 0.05


def test_the_champion_answers_outside_experiments() -> None:
    route = choose_route(table(v1=("gpu-0",)), CALLER, "support", "ada")
    assert (route.version, route.experiment_id, route.propensity) == (V1, None, 1.0)


@given(unit=units)
def test_an_arm_names_its_experiment_and_propensity(unit: str) -> None:
    route = choose_route(table(split(0.25), v1=("gpu-0",), v2=("gpu-0",)), CALLER, "support", unit)
    expected = (V2, "candidate", 0.25) if bucket("salt", unit) < 0.25 else (V1, "champion", 0.75)
    assert (route.version, route.arm, route.propensity) == expected
    assert route.experiment_id == "exp-1"


def test_a_pinned_version_answers_whatever_the_experiment() -> None:
    everywhere = table(split(1.0), v0=("gpu-0",), v1=("gpu-0",), v2=("gpu-0",))
    route = choose_route(everywhere, CALLER, "support@0", "ada")
    assert (route.version, route.experiment_id) == (V0, None)


def test_a_champion_that_nobody_holds_yet_leaves_the_earlier_one_in_service() -> None:
    assert choose_route(table(v0=("gpu-0",)), CALLER, "support", "ada").version == V0


def test_a_candidate_that_nobody_holds_gets_no_traffic() -> None:
    route = choose_route(table(split(1.0), v1=("gpu-0",)), CALLER, "support", "ada")
    assert (route.version, route.experiment_id) == (V1, None)


def test_the_least_busy_replica_that_is_not_resting_is_taken() -> None:
    held = table(v1=("gpu-0", "gpu-1", "gpu-2"))
    busy = {"gpu-0": 3, "gpu-1": 2, "gpu-2": 1}.__getitem__
    assert choose_route(held, CALLER, "support", "ada", busy=busy).engine == "gpu-2"
    assert choose_route(held, CALLER, "support", "ada", busy=busy, avoid=("gpu-2",)).engine == "gpu-1"
    assert (
        choose_route(held.without(V1.adapter_id, "gpu-2"), CALLER, "support", "a", busy=busy).engine
        == "gpu-1"
    )


def test_a_replica_that_rests_is_better_than_none() -> None:
    assert choose_route(table(v1=("gpu-0",)), CALLER, "support", "ada", avoid=("gpu-0",)).engine == "gpu-0"


def test_nobody_ready_is_a_503_to_retry() -> None:
    with pytest.raises(ApiError, match="support@1") as refused:
        choose_route(table(), CALLER, "support", "ada")
    assert refused.value.status == 503
    assert (b"retry-after", b"1") in refused.value.headers


@pytest.mark.parametrize(
    "name", ["other", "support@9", "support@x", "@1", "", "support@-1", "support@\u0663"]
)
def test_what_does_not_exist_is_a_404_that_says_what_does(name: str) -> None:
    with pytest.raises(ApiError, match=r"it has: (support|0, 1, 2)") as refused:
        choose_route(table(v1=("gpu-0",)), CALLER, name, "ada")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_another_projects_models_do_not_exist() -> None:
    with pytest.raises(ApiError, match="no models"):
        choose_route(table(v1=("gpu-0",)), Caller("key-2", "bank", "admin"), "support", "ada")


def test_the_champion_answers_for_its_own_arm_while_its_null_adapter_is_not_loaded() -> None:
    null = Version("support--null-x", "support", 0, "support--null-x")
    running = Experiment("exp-1", "salt", (Arm("champion", null, 1.0), Arm("candidate", V2, 0.0)))
    waiting = table(running, v1=("gpu-0",), v2=("gpu-0",))
    loaded = replace(waiting, holders={**waiting.holders, null.adapter_id: ("gpu-0",)})
    for known, answers in ((waiting, V1), (loaded, null)):
        route = choose_route(known, CALLER, "support", "rater-a")
        assert (route.version, route.arm, route.propensity) == (answers, "champion", 1.0)
        assert route.instead_of is None
