"""The sums of a running split, kept as it grows: a look costs what is new, not what is old.

Whatever changes a completion or a vote notes the unit and the day (see `feedback.exposure_tables`), in its own
transaction. A look takes those notes, sums these units' days anew from the record, and says what each unit came to
before and after. Nothing is added up in passing: a row of sums is always what the record says of that unit and day, so
late, changed, retracted and erased votes are not cases of their own, and a note too many changes nothing.

Everything is summed anew when the rules changed that it was summed by, or when rows went without a note (`distrust`).
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Text, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.experiments import Experiment
from feedback.exposure_tables import experiment_totals, exposure_changes, exposure_sums
from feedback.exposures import OF_CHANGED_DAYS, OF_EACH_DAY, UnitCounts, counts_of, rules_of
from feedback.metrics import FeedbackPolicy
from feedback.tables import experiments

LAYOUT = "2"
"""Of what is stored in `totals`: sums of another layout are made anew."""
UNITS_PER_PIECE = 20_000

_LOOK_UP_VOTES = text("""
    WITH votes AS (DELETE FROM exposure_changes WHERE experiment_id IS NULL RETURNING completion_id)
    INSERT INTO exposure_changes (experiment_id, unit, day)
    SELECT DISTINCT experiment_id, unit, day FROM completions
    WHERE (completion_id, day) IN (SELECT completion_id, completion_day(completion_id) FROM votes)
      AND experiment_id IS NOT NULL""")
_DROP_LATE = text("""
    DELETE FROM exposure_changes WHERE experiment_id IS NOT NULL
    AND experiment_id NOT IN (SELECT experiment_id FROM experiments WHERE status = 'running')""")

_COUNTS = (
    "requests", "ups", "downs", "exposed", "bad", "errors", "aborted", "refused", "regenerated", "first_tokens",
    "log_first_token_nano", "later_tokens", "log_later_token_nano", "answers", "log_answer_tokens_nano",
)  # fmt: skip
_STORED = (
    "unit", "day", "arm", "propensity", "allocation", "met_at", "bad_at", "error_at", "ripens_at", *_COUNTS
)  # fmt: skip
_STORE = f"""
    INSERT INTO exposure_sums (experiment_id, {", ".join(_STORED)})
    SELECT :experiment_id, {", ".join(_STORED)} FROM (SUMS) AS sums"""
_STORE_ALL = text(_STORE.replace("SUMS", OF_EACH_DAY))
_STORE_CHANGED = text(_STORE.replace("SUMS", OF_CHANGED_DAYS))

# In one order, so that equal sums are equal to the last digit.
_READ = f"""
    SELECT unit, arm, propensity, allocation, min(met_at) AS met_at, min(bad_at) AS bad_at,
           min(error_at) AS error_at, {", ".join(f"sum({name})::bigint AS {name}" for name in _COUNTS)}
    FROM exposure_sums WHERE experiment_id = :experiment_id AND UNITS
    GROUP BY unit, arm, propensity, allocation ORDER BY unit, arm, propensity, allocation"""
_READ_SOME = text(_READ.replace("UNITS", "unit = ANY(CAST(:units AS text[]))"))
_READ_PIECE = text(
    _READ.replace(
        "UNITS",
        "unit > :after AND unit <= (SELECT max(unit) FROM (SELECT DISTINCT unit FROM exposure_sums "
        "WHERE experiment_id = :experiment_id AND unit > :after ORDER BY unit LIMIT :units) AS piece)",
    )
)


@dataclass(frozen=True, slots=True)
class Change:
    """What the units that changed came to before and after; `totals` are those of before, None: begin at nothing.

    Where everything was summed anew, `before` and `after` are empty, and `all_units` reads what is there now.
    """

    totals: dict[str, Any] | None
    before: list[UnitCounts]
    after: list[UnitCounts]


async def look_up_votes(connection: AsyncConnection) -> None:
    """Find out which units the votes since the last look are about; drop the notes of splits that have ended.

    A vote whose completion is not in the record yet needs nothing: the completion brings a note of its own.
    """
    await connection.execute(_LOOK_UP_VOTES)
    await connection.execute(_DROP_LATE)


async def take_changes(
    connection: AsyncConnection,
    experiment: Experiment,
    *,
    votes: FeedbackPolicy | None = None,
    maturation_seconds: float,
) -> Change:
    """Bring the sums of a split up to date; until the transaction ends nobody else can.

    `store_totals` belongs to the same transaction: what is taken here is not brought again.
    """
    rules = rules_of(votes)
    basis = hashlib.sha256(f"{LAYOUT}/{maturation_seconds}/{rules}".encode()).hexdigest()
    values = {
        "experiment_id": experiment.experiment_id,
        "project": experiment.project,
        "rules": rules,
        "maturation_seconds": maturation_seconds,
    }
    known = await _lock(connection, experiment.experiment_id)
    changed = await _take_notes(connection, experiment.experiment_id)
    if known.basis != basis:
        await connection.execute(delete(exposure_sums).where(_of(experiment)))
        await connection.execute(_STORE_ALL, values)
        await connection.execute(
            update(experiment_totals)
            .where(experiment_totals.c.experiment_id == experiment.experiment_id)
            .values(basis=basis)
        )
        return Change(None, [], [])
    if not changed:
        return Change(known.totals, [], [])
    units = sorted({unit for unit, _ in changed})
    before = await _read(connection, experiment, units)
    days = {"units": [unit for unit, _ in changed], "days": [day for _, day in changed]}
    await connection.execute(
        text(
            "DELETE FROM exposure_sums AS old USING unnest(CAST(:units AS text[]), CAST(:days AS date[])) "
            "AS changed (unit, day) WHERE old.experiment_id = :experiment_id "
            "AND old.unit = changed.unit AND old.day = changed.day"
        ),
        days | {"experiment_id": experiment.experiment_id},
    )
    await connection.execute(_STORE_CHANGED, values | days)
    return Change(known.totals, before, await _read(connection, experiment, units))


async def _lock(connection: AsyncConnection, experiment_id: str) -> Any:
    nothing = {"experiment_id": experiment_id, "basis": "", "totals": {}}
    await connection.execute(insert(experiment_totals).values(nothing).on_conflict_do_nothing())
    query = select(experiment_totals).where(experiment_totals.c.experiment_id == experiment_id)
    return (await connection.execute(query.with_for_update())).one()


async def _take_notes(connection: AsyncConnection, experiment_id: str) -> list[tuple[str, Any]]:
    """The units' days to sum anew: those with a note, and those with requests that are old enough now."""
    noted = delete(exposure_changes).where(exposure_changes.c.experiment_id == experiment_id)
    found = {
        (row.unit, row.day)
        for row in await connection.execute(noted.returning(exposure_changes.c.unit, exposure_changes.c.day))
    }
    ripe = select(exposure_sums.c.unit, exposure_sums.c.day).where(
        exposure_sums.c.experiment_id == experiment_id, exposure_sums.c.ripens_at <= func.now()
    )
    found |= {(row.unit, row.day) for row in await connection.execute(ripe)}
    return sorted(found)


async def _read(
    connection: AsyncConnection, experiment: Experiment, units: Sequence[str]
) -> list[UnitCounts]:
    rows = await connection.execute(
        _READ_SOME, {"experiment_id": experiment.experiment_id, "units": list(units)}
    )
    return [counts_of(row._mapping) for row in rows]


async def all_units(
    connection: AsyncConnection, experiment: Experiment, *, piece: int = UNITS_PER_PIECE
) -> AsyncIterator[list[UnitCounts]]:
    """Every unit's sums, in pieces that hold whole units."""
    after = ""
    while True:
        values = {"experiment_id": experiment.experiment_id, "after": after, "units": piece}
        rows = [counts_of(row._mapping) for row in await connection.execute(_READ_PIECE, values)]
        if not rows:
            return
        yield rows
        after = rows[-1].unit


async def store_totals(connection: AsyncConnection, experiment: Experiment, totals: dict[str, Any]) -> None:
    """Keep the sums over all units, for the next look."""
    await connection.execute(
        update(experiment_totals)
        .where(experiment_totals.c.experiment_id == experiment.experiment_id)
        .values(totals=totals, updated_at=func.now())
    )


async def distrust(connection: AsyncConnection) -> None:
    """Have every running split summed anew at its next look: rows went without a note."""
    await connection.execute(update(experiment_totals).values(basis=""))


async def forget(connection: AsyncConnection, project: str, units: Sequence[str]) -> None:
    """Delete a project's rows that name one of these units or completions; the splits they were of are summed anew.

    A unit that is new since the last look has only a note, and requests of its own may stay: those count all the same.
    """
    named = func.any(literal(list(units), ARRAY(Text)))
    of_project = select(experiments.c.experiment_id).where(experiments.c.project == project)
    totals = experiment_totals.c.experiment_id
    # First what a look takes first: the two would otherwise wait for each other.
    await connection.execute(select(totals).where(totals.in_(of_project)).order_by(totals).with_for_update())
    splits = set[str]()
    for table in (exposure_sums, exposure_changes):
        gone = delete(table).where(table.c.unit == named, table.c.experiment_id.in_(of_project))
        splits.update(await connection.scalars(gone.returning(table.c.experiment_id)))
    await connection.execute(update(experiment_totals).where(totals.in_(splits)).values(basis=""))
    await connection.execute(delete(exposure_changes).where(exposure_changes.c.completion_id == named))


async def let_go_of_ended(connection: AsyncConnection) -> None:
    """Delete what splits that have ended no longer need: their newest verdict stays beside them."""
    ended = (
        select(experiment_totals.c.experiment_id)
        .join(experiments, experiments.c.experiment_id == experiment_totals.c.experiment_id)
        .where(experiments.c.status != "running")
    )
    for experiment_id in list(await connection.scalars(ended)):
        for table in (experiment_totals, exposure_sums):
            await connection.execute(delete(table).where(table.c.experiment_id == experiment_id))


def _of(experiment: Experiment) -> Any:
    return exposure_sums.c.experiment_id == experiment.experiment_id
