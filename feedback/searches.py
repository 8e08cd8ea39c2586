"""Searches for a recipe: every trial with what came of it. A failed trial is data: the next one avoids it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import HoneError, NotFound
from feedback.tuning_tables import search_trials

SEARCHED, SEARCHED_SHAPE = ("learning_rate", "epochs", "beta"), ("rank", "alpha")
"""What a search finds: for its method, and for the adapter, which all stages of a run share."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe that was tried."""

    search_id: str
    number: int
    project: str
    model: str
    dataset_id: str
    recipe: dict[str, Any]
    recipe_hash: str
    status: str
    loss: float | None
    detail: dict[str, Any]
    duration_seconds: float
    created_at: datetime


async def add_trial(connection: AsyncConnection, **values: Any) -> None:
    """Keep a trial; columns as in `search_trials`."""
    await connection.execute(search_trials.insert().values(**values))


async def trials(connection: AsyncConnection, project: str, search_id: str) -> list[Trial]:
    """The trials of a search in their order.

    Raises:
        NotFound: the project has no such search.
    """
    query = (
        select(search_trials)
        .where(search_trials.c.project == project, search_trials.c.search_id == search_id)
        .order_by(search_trials.c.number)
    )
    found = [Trial(**row._mapping) for row in await connection.execute(query)]
    if not found:
        raise NotFound(f"Project '{project}' has no search '{search_id}'. `hone retrain search` makes one.")
    return found


async def winner(connection: AsyncConnection, project: str, search_id: str) -> Trial:
    """The trial with the lowest loss.

    Raises:
        NotFound: there is no such search, or none of its trials was completed.
    """
    completed = [one for one in await trials(connection, project, search_id) if one.status == "complete"]
    if not completed:
        raise NotFound(f"No trial of {search_id} was completed; `hone retrain trials {search_id}` says why.")
    return min(completed, key=lambda trial: (trial.loss, trial.number))


async def best(
    connection: AsyncConnection, project: str, search_id: str, *, methods: str | None
) -> tuple[str, dict[str, Any]]:
    """What a search found, as what wins over the policy's recipe in a run of `methods`, and these methods.

    Raises:
        NotFound: there is no such search, or none of its trials was completed.
        HoneError: the search was of another method.
    """
    recipe = (await winner(connection, project, search_id)).recipe
    method = str(recipe["method"])
    methods = methods or method
    if method not in methods.split("+"):
        raise HoneError(
            f"--method is '{methods}', and the search was of {method.upper()}: it found nothing for that. Leave out "
            f"--method, or name a search of it."
        )
    of_method = {name: recipe[name] for name in SEARCHED if recipe.get(name) is not None}
    return methods, {method: of_method} | {name: recipe[name] for name in SEARCHED_SHAPE}
