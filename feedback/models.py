"""Models: stable names that clients ask for, each with a base model and a policy.

A model is born with version 0, its base, as champion: there is always exactly one champion to fall back to.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import func

from feedback import audit, uploads
from feedback.database import notify_registry
from feedback.errors import Conflict, HoneError, NotFound
from feedback.ids import new_hex
from feedback.policy import ModelPolicy, read_policy
from feedback.tables import adapters, models, projects

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._]|-(?!-)){0,62}")


@dataclass(frozen=True, slots=True)
class Model:
    """An alias and what stands behind it."""

    project: str
    model: str
    base_model: str
    policy: ModelPolicy
    created_at: datetime


async def create(
    connection: AsyncConnection,
    *,
    project: str,
    model: str,
    base_model: str,
    policy: ModelPolicy | None = None,
    by: str,
) -> Model:
    """Register an alias on a base model; its version 0 answers at once.

    Raises:
        HoneError: the name is not 1-63 lower-case letters, digits, `.`, `_` or single `-`.
        Conflict: the project has a model of that name.
        NotFound: the policy names a fixed set that nobody uploaded.
    """
    if not NAME.fullmatch(model):
        raise HoneError(
            f"Model name '{model}' cannot be used: expected 1-63 characters of a-z, 0-9, '.', '_' and single '-', "
            "starting with a letter or digit ('@' and '--' separate versions)."
        )
    policy = policy or ModelPolicy()
    await _check_fixed_set(connection, project, policy)
    await connection.execute(insert(projects).values(project=project).on_conflict_do_nothing())
    row = (
        await connection.execute(
            insert(models)
            .values(
                project=project, model=model, base_model=base_model, policy=policy.model_dump(mode="json")
            )
            .on_conflict_do_nothing()
            .returning(models)
        )
    ).one_or_none()
    if row is None:
        raise Conflict(
            f"Project '{project}' already has a model '{model}'. Choose another name, or change its policy."
        )
    await connection.execute(
        adapters.insert().values(
            adapter_id=f"{model}--v0-{new_hex()[-8:]}",
            project=project,
            model=model,
            version=0,
            state="champion",
            base_model=base_model,
        )
    )
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="model.create",
        subject=model,
        detail={"base_model": base_model, "policy": policy.model_dump(mode="json")},
    )
    await notify_registry(connection, f"model:{model}")
    return _model(row)


async def get(connection: AsyncConnection, project: str, model: str) -> Model:
    """One model.

    Raises:
        NotFound: the project has no such model; the message lists those it has.
    """
    row = (
        await connection.execute(select(models).where(models.c.project == project, models.c.model == model))
    ).one_or_none()
    if row is None:
        names = [entry.model for entry in await in_project(connection, project)]
        raise NotFound(
            f"Project '{project}' has no model '{model}'; it has: {', '.join(names) or 'none'}. "
            "Make one with `hone model create`."
        )
    return _model(row)


async def hold(connection: AsyncConnection, project: str, model: str) -> Model:
    """A model that nobody else decides about until this transaction ends.

    Whoever changes its policy, or which of its versions meet people, holds it before reading what the change rests on:
    that is still so when it is written, and no two decisions wait for each other.

    Raises:
        NotFound: as `get`.
    """
    named = select(models.c.model).where(models.c.project == project, models.c.model == model)
    # A lock on the key as well would keep every row that refers to the model waiting: completions, runs, versions.
    await connection.execute(named.with_for_update(key_share=True))
    return await get(connection, project, model)


async def in_project(connection: AsyncConnection, project: str) -> list[Model]:
    """The models of a project by name."""
    query = select(models).where(models.c.project == project).order_by(models.c.model)
    return [_model(row) for row in await connection.execute(query)]


async def every(connection: AsyncConnection) -> list[Model]:
    """The models of all projects."""
    return [
        _model(row)
        for row in await connection.execute(select(models).order_by(models.c.project, models.c.model))
    ]


async def change_policy(
    connection: AsyncConnection, project: str, model: str, changes: dict[str, Any], *, by: str
) -> Model:
    """Merge `changes` (nested as the policy is) into the policy; takes effect without a restart.

    Raises:
        HoneError: the result is not a valid policy.
        NotFound: it names a fixed set that nobody uploaded.
    """
    before = await hold(connection, project, model)
    policy = read_policy(_merged(before.policy.model_dump(mode="json"), changes))
    if policy.training.replay_file != before.policy.training.replay_file:
        await _check_fixed_set(connection, project, policy)
    row = (
        await connection.execute(
            update(models)
            .where(models.c.project == project, models.c.model == model)
            .values(policy=policy.model_dump(mode="json"), updated_at=func.now())
            .returning(models)
        )
    ).one()
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="model.change_policy",
        subject=model,
        detail={"changes": changes, "from": before.policy.version, "to": policy.version},
    )
    await notify_registry(connection, f"model:{model}")
    return _model(row)


async def _check_fixed_set(connection: AsyncConnection, project: str, policy: ModelPolicy) -> None:
    if (named := policy.training.replay_file) is not None:
        file = await uploads.get(connection, project, named)
        if file.purpose != uploads.TRAINING_PURPOSE:
            raise HoneError(
                f"training.replay_file: '{named}' has purpose '{file.purpose}'; expected '{uploads.TRAINING_PURPOSE}'."
            )


def _merged(current: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(current)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _model(row: Any) -> Model:
    return Model(row.project, row.model, row.base_model, read_policy(row.policy), row.created_at)
