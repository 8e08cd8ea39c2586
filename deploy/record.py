"""What `hone up` makes sure of in the record: a key to begin with, and a model that clients can ask for.

Safe to repeat: what is there stays as it is.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.files import write_private
from feedback import keys, models
from feedback.database import Database
from feedback.errors import HoneError
from feedback.keys import DEFAULT_PROJECT

MODEL = "support"
ACTOR = "hone up"


@dataclass(frozen=True)
class Keys:
    """Keys that `hone up` made or found."""

    admin: str | None
    """Only on the first start: the one time that it can be shown."""
    operator_file: Path
    """For commands on this machine and `hone demo`; only its owner can read it."""


async def find_base_model(database: Database) -> str | None:
    """The base model that clients' default alias stands on, else the only base model there is."""
    async with database.begin() as connection:
        known = await models.every(connection)
    for model in known:
        if (model.project, model.model) == (DEFAULT_PROJECT, MODEL):
            return model.base_model
    bases = {model.base_model for model in known}
    return bases.pop() if len(bases) == 1 else None


async def ensure(database: Database, base_model: str, state_dir: Path) -> Keys:
    """Make the default alias, the first admin key and this machine's operator key where they are missing.

    Raises:
        HoneError: the alias stands on another base model.
    """
    operator_file = state_dir / "operator.key"
    kept = _read(operator_file)
    async with database.begin() as connection:
        await _ensure_model(connection, base_model)
        admin, operator = await _ensure_keys(connection, kept)
    if operator is not None:
        write_private(operator_file, operator)
    return Keys(admin=admin, operator_file=operator_file)


async def _ensure_model(connection: AsyncConnection, base_model: str) -> None:
    for model in await models.every(connection):
        if (model.project, model.model) == (DEFAULT_PROJECT, MODEL):
            if model.base_model != base_model:
                raise HoneError(
                    f"Model '{MODEL}' stands on base model '{model.base_model}', and its versions fit no other, but "
                    f"'{base_model}' was asked for. Start with --model {model.base_model}, "
                    "or begin anew with another --state-dir."
                )
            return
    await models.create(connection, project=DEFAULT_PROJECT, model=MODEL, base_model=base_model, by=ACTOR)


async def _ensure_keys(connection: AsyncConnection, kept: str) -> tuple[str | None, str | None]:
    """The admin key and the operator key, each where it had to be made; `kept` is the operator key of before."""
    active = await keys.active(connection)
    admin = operator = None
    if not active:
        _, admin = await keys.create(connection, role="admin", name="first key", by=ACTOR)
    if keys.hash_key(kept) not in {key.key_hash for key in active}:
        _, operator = await keys.create(connection, role="operator", name="this machine", by=ACTOR)
    return admin, operator


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
