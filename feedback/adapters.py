"""Adapter versions and the one table of legal moves between their states.

A version's weights and name never change and are never used twice; only its state moves, and every move is an
audit row in the same transaction. Promotion and rollback change champion in one commit, so there is exactly one
champion at every moment. What an automatic actor may do is decided here: it may abort, never undo a person.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.database import notify_registry
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.exposure_tables import null_adapters
from feedback.ids import new_hex, version_name
from feedback.privacy_tables import tainted_adapters
from feedback.tables import adapters, runs
from feedback.tuning_tables import fine_tuning_jobs

BASE_ENGINE_NAME = "base"
"""The name under which every engine serves its base model; no alias can produce an adapter of this name."""

MOVES: dict[str, tuple[str, str]] = {
    "pass_gate": ("trained", "candidate"),
    "fail_gate": ("trained", "rejected"),
    "approve": ("candidate", "approved"),
    "reject": ("candidate", "rejected"),
    "withdraw": ("approved", "rejected"),
    "start_canary": ("approved", "canary"),
    "promote": ("canary", "champion"),
    "promote_directly": ("approved", "champion"),
    "abort": ("canary", "candidate"),
    "replace": ("champion", "retired"),
    "roll_back": ("retired", "champion"),
}
"""Every legal move: verb -> (state before, state after)."""

CONTROL = "control"
"""The state of null adapters. No move begins or ends there: they answer beside a candidate, and are never shipped."""

AUTOMATIC_ACTOR = "hone"
VERSION_NUMBER = re.compile(r"[0-9]{1,9}")  # Longer ones are no integers to PostgreSQL.
REFERENCE = re.compile(rf"(?P<model>[^@]+)@(?P<version>{VERSION_NUMBER.pattern})")


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of a model."""

    adapter_id: str
    project: str
    model: str
    version: int
    state: str
    base_model: str
    path: str | None
    files_hash: str | None
    run_id: str | None
    replaces: str | None
    gate: dict[str, Any] | None
    evidence_hash: str | None
    fingerprint: dict[str, Any] | None
    aborted_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def name(self) -> str:
        """What clients see: `support@7`."""
        return version_name(self.model, self.version)

    @property
    def engine_name(self) -> str:
        """What the engine is asked for."""
        return self.adapter_id if self.version else BASE_ENGINE_NAME


def parse_reference(reference: str) -> tuple[str, int]:
    """Split `support@7`.

    Raises:
        HoneError: it is not of that form.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise HoneError(
            f"'{reference}' does not name an adapter version; expected MODEL@VERSION, such as support@7."
        )
    return match["model"], int(match["version"])


async def reserve(connection: AsyncConnection, project: str, model: str) -> tuple[str, int]:
    """The next adapter id and version number of a model; numbers that a failed run used are not used again."""
    # Two runs of one model could otherwise both take the same number.
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"{project}/{model}"}
    )
    version = await connection.scalar(
        text(
            "SELECT 1 + greatest("
            " (SELECT coalesce(max(version), 0) FROM adapters WHERE project = :project AND model = :model),"
            " (SELECT coalesce(max((regexp_match(adapter_id, '--v([0-9]+)-[0-9a-f]+$'))[1]::int), 0)"
            "    FROM runs WHERE project = :project AND model = :model))"
        ),
        {"project": project, "model": model},
    )
    assert isinstance(version, int)
    return f"{model}--v{version}-{new_hex()[-8:]}", version


async def register(
    connection: AsyncConnection,
    *,
    adapter_id: str,
    project: str,
    model: str,
    version: int,
    base_model: str,
    path: str,
    files_hash: str,
    run_id: str | None,
    by: str,
) -> Adapter:
    """Enter a published version in state `trained`: engines load it, no traffic reaches it."""
    row = (
        await connection.execute(
            adapters.insert()
            .values(
                adapter_id=adapter_id,
                project=project,
                model=model,
                version=version,
                state="trained",
                base_model=base_model,
                path=path,
                files_hash=files_hash,
                run_id=run_id,
            )
            .returning(adapters)
        )
    ).one()
    adapter = Adapter(**row._mapping)
    await _audit(connection, adapter, "adapter.register", by, {"files_hash": files_hash, "run_id": run_id})
    await notify_registry(connection, f"adapter:{adapter_id}")
    return adapter


async def get(connection: AsyncConnection, project: str, reference: str) -> Adapter:
    """The version that `support@7` names.

    Raises:
        NotFound: there is no such version.
    """
    model, version = parse_reference(reference)
    row = (
        await connection.execute(
            select(adapters).where(
                adapters.c.project == project, adapters.c.model == model, adapters.c.version == version
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound(
            f"Project '{project}' has no adapter '{reference}'. `hone adapter list` shows those it has."
        )
    return Adapter(**row._mapping)


async def by_id(connection: AsyncConnection, adapter_id: str) -> Adapter:
    """The version with this engine name.

    Raises:
        NotFound: there is none.
    """
    row = (
        await connection.execute(select(adapters).where(adapters.c.adapter_id == adapter_id))
    ).one_or_none()
    if row is None:
        raise NotFound(f"No adapter has the id '{adapter_id}'.")
    return Adapter(**row._mapping)


async def of_model(connection: AsyncConnection, project: str, model: str) -> list[Adapter]:
    """Every version of a model, newest first; null adapters (feedback.null_adapters) are no versions."""
    query = (
        select(adapters)
        .where(adapters.c.project == project, adapters.c.model == model, adapters.c.state != CONTROL)
        .order_by(adapters.c.version.desc())
    )
    return [Adapter(**row._mapping) for row in await connection.execute(query)]


async def every(connection: AsyncConnection) -> list[Adapter]:
    """Every version of every model, oldest first, and null adapters before them."""
    query = select(adapters).order_by(adapters.c.project, adapters.c.model, adapters.c.version)
    return [Adapter(**row._mapping) for row in await connection.execute(query)]


async def champion(connection: AsyncConnection, project: str, model: str) -> Adapter:
    """The version that answers."""
    row = (
        await connection.execute(
            select(adapters).where(
                adapters.c.project == project, adapters.c.model == model, adapters.c.state == "champion"
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no model '{model}'. `hone model list` shows its models.")
    return Adapter(**row._mapping)


async def wanted_on_engines(connection: AsyncConnection) -> list[Adapter]:
    """Versions that every engine of their base should hold.

    All that may answer or be evaluated; of each model also the former champion that a rollback would restore, the one
    retired last, so that taking a rollback back is as quick, and the base model, which costs an engine nothing and is
    the last to fall back to; whatever answers under an `ft:` name. Not what an erasure retired. A null adapter where
    its base is compared, or soon will be, with what it was made for.
    """
    retired_for_good = select(tainted_adapters.c.adapter_id).where(tainted_adapters.c.retired_at.is_not(None))
    forgotten = set(await connection.scalars(retired_for_good))
    every_version = [one for one in await every(connection) if one.adapter_id not in forgotten]
    needed = await _needed_nulls(connection, every_version)
    wanted = [
        a for a in every_version if a.state not in ("retired", "rejected", CONTROL) or a.adapter_id in needed
    ]
    replaced = {a.replaces for a in every_version if a.state == "champion"}
    retired = sorted((a for a in every_version if a.state == "retired"), key=lambda a: a.updated_at)
    newest = {(a.project, a.model): a.adapter_id for a in retired}.values()
    kept = replaced | set(newest) | await _with_ft_name(connection)
    return wanted + [
        a
        for a in every_version
        if a.state in ("retired", "rejected") and (a.adapter_id in kept or a.version == 0)
    ]


async def _needed_nulls(connection: AsyncConnection, every_version: list[Adapter]) -> set[str]:
    on_base = {(a.project, a.model) for a in every_version if a.state == "champion" and not a.version}
    soon = {
        a.adapter_id
        for a in every_version
        if a.state in ("candidate", "approved", "canary") and (a.project, a.model) in on_base
    }
    pairs = await connection.execute(select(null_adapters))
    return {pair.null_id for pair in pairs if pair.adapter_id in soon}


async def _with_ft_name(connection: AsyncConnection) -> set[str | None]:
    query = (
        select(runs.c.adapter_id)
        .join(fine_tuning_jobs, fine_tuning_jobs.c.run_id == runs.c.run_id)
        .where(runs.c.status == "succeeded", fine_tuning_jobs.c.withdrawn_at.is_(None))
    )
    return set(await connection.scalars(query))


async def decide(
    connection: AsyncConnection, adapter: Adapter, *, report: dict[str, Any], evidence_hash: str, by: str
) -> Adapter:
    """Store the gate's report and make the version a candidate or rejected, as the report says."""
    verb = "pass_gate" if report["decision"] == "candidate" else "fail_gate"
    await connection.execute(
        update(adapters)
        .where(adapters.c.adapter_id == adapter.adapter_id)
        .values(gate=report, evidence_hash=evidence_hash)
    )
    return await move(
        connection,
        adapter,
        verb,
        by=by,
        detail={"evidence_hash": evidence_hash, "reasons": report.get("reasons", [])},
    )


async def move(
    connection: AsyncConnection, adapter: Adapter, verb: str, *, by: str, detail: dict[str, Any] | None = None
) -> Adapter:
    """Make one legal move, with its audit row.

    Raises:
        IllegalMove: the version is not in the state that the verb starts from (anymore).
    """
    before, after = MOVES[verb]
    values: dict[str, Any] = {"state": after, "updated_at": func.now()}
    if verb == "abort":
        values["aborted_at"] = func.now()
    row = (
        await connection.execute(
            update(adapters)
            .where(adapters.c.adapter_id == adapter.adapter_id, adapters.c.state == before)
            .values(**values)
            .returning(adapters)
        )
    ).one_or_none()
    if row is None:
        current = await by_id(connection, adapter.adapter_id)
        raise IllegalMove(_refusal(current, verb))
    moved = Adapter(**row._mapping)
    evidence = {"from": before, "to": after, "evidence_hash": moved.evidence_hash} | (detail or {})
    await _audit(connection, moved, f"adapter.{verb}", by, evidence)
    await notify_registry(connection, f"adapter:{adapter.adapter_id}")
    return moved


async def promote(connection: AsyncConnection, adapter: Adapter, *, by: str, reason: str) -> Adapter:
    """Make an approved or canary version the champion, and retire the one before it, in one commit.

    Raises:
        IllegalMove: it is neither approved nor canary, or the gate did not pass it.
    """
    if adapter.gate is None or adapter.gate["decision"] != "candidate":
        raise IllegalMove(_refusal(adapter, "promote"))
    verb = "promote" if adapter.state == "canary" else "promote_directly"
    if adapter.state != MOVES[verb][0]:
        raise IllegalMove(_refusal(adapter, verb))
    before = await champion(connection, adapter.project, adapter.model)
    return await _crown(connection, adapter, verb, before, by=by, reason=reason)


async def roll_back(
    connection: AsyncConnection, project: str, model: str, *, to: str | None = None, by: str, reason: str
) -> Adapter:
    """Put an earlier champion back: the one replaced last, or `to` (`support@3`).

    Raises:
        IllegalMove: there is no earlier champion, or `to` never was one.
    """
    before = await champion(connection, project, model)
    if to is not None:
        target = await get(connection, project, to)
    elif before.replaces is not None:
        target = await by_id(connection, before.replaces)
    else:
        raise IllegalMove(
            f"{before.name} is the first champion of '{model}': there is no earlier one to roll back to."
        )
    return await _crown(connection, target, "roll_back", before, by=by, reason=reason)


async def _crown(
    connection: AsyncConnection, adapter: Adapter, verb: str, before: Adapter, *, by: str, reason: str
) -> Adapter:
    detail = {"replaces": before.name, "reason": reason}
    await move(connection, before, "replace", by=by, detail={"replaced_by": adapter.name, "reason": reason})
    crowned = await move(connection, adapter, verb, by=by, detail=detail)
    if verb == "roll_back":
        return crowned
    # A rollback keeps what the restored version itself replaced: rolling back twice goes two versions back.
    row = await connection.execute(
        update(adapters)
        .where(adapters.c.adapter_id == adapter.adapter_id)
        .values(replaces=before.adapter_id)
        .returning(adapters)
    )
    return Adapter(**row.one()._mapping)


async def store_fingerprint(
    connection: AsyncConnection,
    adapter_id: str,
    fingerprint: dict[str, Any],
    *,
    replaces: dict[str, Any] | None = None,
) -> None:
    """Keep what the first probe saw; later probes must see the same. Only `replaces` is ever written over."""
    await connection.execute(
        update(adapters)
        .where(
            adapters.c.adapter_id == adapter_id,
            or_(adapters.c.fingerprint.is_(None), adapters.c.fingerprint == replaces),
        )
        .values(fingerprint=fingerprint)
    )


def _refusal(adapter: Adapter, verb: str) -> str:
    starts = sorted({before for name, (before, _) in MOVES.items() if name.startswith(verb)})
    if adapter.gate is not None and adapter.gate["decision"] == "rejected":
        reasons = "; ".join(adapter.gate.get("reasons", [])) or "see its report"
        return f"{adapter.name} ({adapter.adapter_id}) was rejected by the gate: {reasons}. Train another candidate."
    return (
        f"{adapter.name} ({adapter.adapter_id}) is '{adapter.state}'; '{verb}' needs it to be "
        f"'{' or '.join(starts)}'. `hone adapter show {adapter.name}` tells what may come next."
    )


async def _audit(
    connection: AsyncConnection, adapter: Adapter, action: str, by: str, detail: dict[str, Any]
) -> None:
    await audit.write(
        connection, project=adapter.project, actor=by, action=action, subject=adapter.name, detail=detail
    )
