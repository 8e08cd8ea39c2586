"""What a run starts from: the base model, or the champion.

From the base model, on everything that may be learned from, is the default: it forgets nothing that is still in the
record, drifts least, and leaves no trace of what was erased. From the champion, with the base model as the reference,
a run learns only what is new and is faster; the gate's limit on the divergence from the base model holds for both.

The champion is not continued when the policy does not say so, and whatever it says: when that many runs in a row have
already continued one another, when something was erased since the champion was trained, when the base model was
changed, and when the champion's files are not on this machine.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, runs
from feedback.adapters import Adapter
from feedback.lineage import ancestors
from feedback.models import Model
from feedback.privacy_tables import erasures, tainted_adapters


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts, and why, in words."""

    sentence: str
    start_from: str | None = None
    """Directory of the adapter to continue; None: the base model."""
    since: datetime | None = None
    """What was said before this the champion has learned."""


async def choose_start(connection: AsyncConnection, model: Model) -> Start:
    """Decide by the policy and by what happened to the champion."""
    if model.policy.training.start == "base":
        return Start("Starts from the base model, on all that may be learned from.")
    champion = await adapters.champion(connection, model.project, model.model)
    reason = await _why_from_base(connection, model, champion)
    if reason is not None:
        return Start(f"Starts from the base model, since {reason}.")
    said_before = champion.created_at
    if champion.run_id is not None:
        said_before = (await runs.by_id(connection, champion.run_id)).created_at
    return Start(f"Continues {champion.name} on what is new.", champion.path, said_before)


async def _why_from_base(connection: AsyncConnection, model: Model, champion: Adapter) -> str | None:
    if not champion.version:
        return "the champion is the base model"
    if champion.base_model != model.base_model:
        return f"{champion.name} belongs to another base model"
    if not _is_here(champion.path):
        return f"the files of {champion.name} are not on this machine"
    earlier = await ancestors(connection, champion)
    if len(earlier) + 1 >= model.policy.training.from_base_every:
        return f"{champion.name} is the end of {len(earlier) + 1} runs in a row without it"
    if await _erased_since(connection, champion):
        return f"something was erased since {champion.name} was trained"
    return None


async def _erased_since(connection: AsyncConnection, champion: Adapter) -> bool:
    tainted = select(func.count()).where(tainted_adapters.c.adapter_id == champion.adapter_id)
    later = select(func.count()).where(
        erasures.c.project == champion.project, erasures.c.requested_at >= champion.created_at
    )
    return bool(await connection.scalar(tainted) or await connection.scalar(later))


def _is_here(path: str | None) -> bool:
    return path is not None and Path(path).is_dir()
