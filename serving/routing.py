"""Which version answers, and which replica: pure functions over one frozen table.

A request goes to the version it pins (`support@7`), else to the arm of the running experiment that its unit falls
into, else to the champion; always to a replica that holds that version and has passed its probe. A version that no
replica holds yet takes no traffic: the newest earlier champion goes on answering. No clock, no chance, no I/O: the
same table and unit give the same version in every gateway.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from feedback.adapters import VERSION_NUMBER
from feedback.completions import UPSTREAM
from feedback.metrics import FeedbackPolicy
from feedback.privacy_policy import NOTHING_REDACTED, PrivacyPolicy
from feedback.upstream_policy import UpstreamPolicy
from serving.auth import Caller
from serving.errors import ApiError, not_ready, unknown_model


@dataclass(frozen=True, slots=True)
class Version:
    """One adapter version of a model. `served_name` is what the engine calls it.

    An upstream's model stands here without a number and with an empty `adapter_id`: it is no version of ours.
    """

    adapter_id: str
    model: str
    version: int | None
    served_name: str

    @property
    def name(self) -> str:
        """What clients see and pin: `support@7`."""
        return f"{self.model}@{UPSTREAM if self.version is None else self.version}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of an experiment; `weight` is its share of units, 0 to 1."""

    arm: str
    version: Version
    weight: float


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the units, shared out: who owns the line from 0 upwards, and what that comes to, by arm.

    `part` is the share of all units that are in it; `allocation` is the number under which the record has it.
    """

    allocation: int
    part: float
    pieces: tuple[tuple[str, float], ...]
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A split between arms, the champion's first. Weights sum to 1.

    With more than two arms `slices` say who gets what; without, the weights do.
    """

    experiment_id: str
    salt: str
    arms: tuple[Arm, ...]
    slices: tuple[Slice, ...] = ()


class Drawn(NamedTuple):
    """The arm of a unit, the probability with which it got it, and the allocation that this was drawn from."""

    arm: Arm
    propensity: float
    allocation: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Everything routing knows of one model.

    `fallbacks` answer while nobody holds the champion: as the policy says, the earlier champions, newest first, and
    the base model last; the base model alone; or nobody.
    """

    project: str
    model: str
    champion: Version
    fallbacks: tuple[Version, ...] = ()
    experiment: Experiment | None = None
    versions: Mapping[int, Version] = field(default_factory=dict)
    consent_default: bool = False
    policy_version: str | None = None
    privacy: PrivacyPolicy = NOTHING_REDACTED
    feedback: FeedbackPolicy = field(default_factory=FeedbackPolicy)
    upstream: UpstreamPolicy = field(default_factory=UpstreamPolicy)
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What a gateway routes by: callers by key digest, models by (project, name), replicas by adapter that is ready."""

    keys: Mapping[bytes, Caller] = field(default_factory=dict)
    models: Mapping[tuple[str, str], ModelRoute] = field(default_factory=dict)
    holders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fine_tuned: Mapping[tuple[str, str], Version] = field(default_factory=dict)
    """Versions by (project, `ft:` name): pinned, whatever their state."""

    def without(self, adapter_id: str, engine: str) -> "RoutingTable":
        """The same table, in which `engine` does not hold `adapter_id`."""
        left = tuple(holder for holder in self.holders.get(adapter_id, ()) if holder != engine)
        return replace(self, holders={**self.holders, adapter_id: left})


class NobodyHolds(ApiError):
    """503: no engine is ready for the version that would have answered."""

    def __init__(self, version: Version) -> None:
        refusal = not_ready(
            f"No engine is ready for '{version.name}' yet: none holds it with its probe passed. "
            "Try again in a second; `hone doctor` shows what each engine holds."
        )
        super().__init__(
            refusal.status, refusal.message, type=refusal.type, code=refusal.code, headers=refusal.headers
        )
        self.version = version


class Route(NamedTuple):
    """The decision for one request. `propensity` is the chance this unit had of this version.

    `instead_of` is the version that would have answered, if an engine were ready for it.
    """

    engine: str
    version: Version
    experiment_id: str | None = None
    arm: str | None = None
    propensity: float = 1.0
    policy_version: str | None = None
    instead_of: Version | None = None
    allocation: int | None = None


def choose_route(
    table: RoutingTable,
    caller: Caller,
    model: str,
    unit: str,
    *,
    busy: Callable[[str], int] = lambda engine: 0,
    avoid: Collection[str] = (),
) -> Route:
    """Decide one request.

    Args:
        model: what the client asked for, `support` or `support@7`.
        unit: who or what sticks to an arm: a rater, else a session, else the completion itself.
        busy: requests under way on a replica; the least busy one is taken.
        avoid: replicas that just failed; taken only when nothing else holds the version.

    Raises:
        ApiError: 404 when the project has no such model or version, 503 when no replica is ready for it.
    """
    route = table.models.get((caller.project, model))
    if route is None:
        pinned = find_pinned(table, caller.project, model)
        return Route(_replica(table, pinned, busy, avoid), pinned)
    drawn = draw(route.experiment, unit) if route.experiment else None
    answers = _held_of_arm(table, route, drawn.arm) if drawn is not None else None
    if drawn is not None and answers is not None:
        assert route.experiment is not None
        engine = _replica(table, answers, busy, avoid)
        return Route(
            engine,
            answers,
            route.experiment.experiment_id,
            drawn.arm.arm,
            drawn.propensity,
            route.policy_version,
            allocation=drawn.allocation,
        )
    version = _newest_held(table, route)
    engine = _replica(table, version, busy, avoid)
    meant = drawn.arm.version if drawn is not None else route.champion
    instead_of = meant if meant is not version else None
    return Route(engine, version, policy_version=route.policy_version, instead_of=instead_of)


def _held_of_arm(table: RoutingTable, route: ModelRoute, arm: Arm) -> Version | None:
    """What answers for an arm. The champion answers for its own arm where its null adapter is not loaded yet."""
    assert route.experiment is not None
    own = (arm.version, route.champion) if arm is route.experiment.arms[0] else (arm.version,)
    return next((version for version in own if table.holders.get(version.adapter_id)), None)


def draw(experiment: Experiment, unit: str) -> Drawn | None:
    """The arm that a unit gets, and how likely that was; None for a unit whose arm was taken back.

    With several candidates one hash says in which slice the unit is, another one where on its line. Pieces are only
    ever added there, so a unit that met a candidate meets no other.
    """
    if not experiment.slices:
        arm = choose_arm(experiment, unit)
        return Drawn(arm, arm.weight)
    which, position = bucket(f"{experiment.salt}/slice", unit), bucket(experiment.salt, unit)
    found = next((one for one in experiment.slices[:-1] if which < one.part), experiment.slices[-1])
    edge, owner = 0.0, experiment.arms[0].arm
    for name, width in found.pieces:
        edge += width
        if position < edge:
            owner = name
            break
    known = {arm.arm: arm for arm in experiment.arms}
    return Drawn(known[owner], found.shares[owner], found.allocation) if owner in known else None


def choose_arm(experiment: Experiment, unit: str) -> Arm:
    """The arm this unit sticks to.

    The unit's bucket is a number in [0, 1). The first arm owns the upper end of that line and every other arm is laid
    out upwards from 0, so a candidate whose weight grows takes units over from the champion and gives none back.
    """
    position, edge = bucket(experiment.salt, unit), 0.0
    champion, *others = experiment.arms
    for arm in others:
        edge += arm.weight
        if position < edge:
            return arm
    return champion


def bucket(salt: str, unit: str) -> float:
    """Where a unit lies on the line from 0 to 1: the first 8 bytes of SHA-256 of `salt:unit`, as a fraction."""
    digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / (1 << 53)


def find_pinned(table: RoutingTable, project: str, name: str) -> Version:
    """The version that `support@7`, or an `ft:` name, names.

    Raises:
        ApiError: 404; the message lists what exists.
    """
    if (version := table.fine_tuned.get((project, name))) is not None:
        return version
    model, at, number = name.rpartition("@")
    route = table.models.get((project, model)) if at else None
    if route is None:
        models = sorted(known for owner, known in table.models if owner == project)
        raise unknown_model(
            f"Model '{name}' does not exist in project '{project}'; it has: {', '.join(models) or 'no models'}. "
            "Ask for one of these, or for a version of it such as 'support@7'."
        )
    version = route.versions.get(int(number)) if VERSION_NUMBER.fullmatch(number) else None
    if version is None:
        raise unknown_model(
            f"Model '{model}' has no version '{number}'; it has: {', '.join(map(str, sorted(route.versions)))}. "
            f"Ask for '{model}' to get the version in service."
        )
    return version


def _newest_held(table: RoutingTable, route: ModelRoute) -> Version:
    for version in (route.champion, *route.fallbacks):
        if table.holders.get(version.adapter_id):
            return version
    return route.champion


def _replica(
    table: RoutingTable, version: Version, busy: Callable[[str], int], avoid: Collection[str]
) -> str:
    holders = table.holders.get(version.adapter_id, ())
    if len(holders) == 1:
        return holders[0]
    if not holders:
        raise NobodyHolds(version)
    rested = [engine for engine in holders if engine not in avoid] or holders
    return min(rested, key=busy)
