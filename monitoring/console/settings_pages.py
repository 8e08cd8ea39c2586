"""Settings: engines with what they hold, keys, what is kept how long, and the audit trail with its verification.

Keys are made and revoked by administrators only. What is not a policy is a setting, which only the machine's owner
changes, in `hone.toml`: it is shown here and not changed.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select

from feedback import audit, engines, keys
from feedback.errors import HoneError
from feedback.retention import days_kept
from feedback.settings import FeedbackSettings
from feedback.tables import ROLES, adapters, engine_adapters
from monitoring.console.page import Changed, Page, Seen, console_of
from monitoring.console.policy_pages import sections as policy_sections

router = APIRouter(prefix="/settings")

ENTRIES_SHOWN = 100
LOADED_SHOWN = 200


@router.get("")
async def show(page: Seen) -> Response:
    """The page."""
    return await _show(page)


@router.post("/keys")
async def make_key(page: Changed) -> Response:
    """Make a key, and show it this once."""
    page.visitor.require_admin()
    name, days = page.form.get("name", "").strip(), page.form.get("days", "").strip()
    if not name:
        raise HoneError("The key has no name. Name it after who will hold it, such as 'shop backend'.")
    if days and not days.isdecimal():
        raise HoneError(f"The lifetime is '{days}' days; expected a whole number, or nothing for ever.")
    _, secret = await keys.create(
        page.connection,
        role=page.form.get("role", ""),
        name=name[:100],
        project=page.project,
        lifetime_days=float(days) if days else None,
        by=page.visitor.actor,
    )
    return await _show(page, secret=secret)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(key_id: str, page: Changed) -> Response:
    """Stop a key from working."""
    page.visitor.require_admin()
    if key_id == page.visitor.key.key_id:
        raise HoneError("This is the key that you are signed in with. Sign in with another one to revoke it.")
    await keys.revoke(page.connection, page.project, key_id, by=page.visitor.actor)
    return page.go("/settings", done="revoke")


@router.get("/audit")
async def trail(page: Seen) -> Response:
    """The audit trail, and whether it is whole."""
    broken = await audit.verify(page.connection)
    count, newest = await audit.newest(page.connection)
    found = await audit.entries(page.connection, page.project, limit=ENTRIES_SHOWN)
    return page.show("audit.html", entries=found, broken=broken, count=count, newest=newest)


async def _show(page: Page, *, secret: str | None = None) -> Response:
    model = page.model
    return page.show(
        "settings.html",
        secret=secret,
        keys=await keys.in_project(page.connection, page.project) if page.visitor.is_admin else [],
        roles=ROLES,
        engines=await engines.every(page.connection),
        loaded=await _loaded(page),
        changed=[]
        if model is None
        else [one for fields in policy_sections(model.policy).values() for one in fields if one.changed],
        retention=list(retention(console_of(page.request).record)),
        entries=(await audit.entries(page.connection, page.project, limit=5)),
    )


async def _loaded(page: Page) -> dict[str, list[Any]]:
    """What each engine holds of this project's versions, and how each stands there, newest version first."""
    query = (
        select(engine_adapters, adapters.c.model, adapters.c.version, adapters.c.state.label("life"))
        .join(adapters, adapters.c.adapter_id == engine_adapters.c.adapter_id)
        .where(adapters.c.project == page.project)
        .order_by(engine_adapters.c.engine, adapters.c.model, adapters.c.version.desc())
        .limit(LOADED_SHOWN)
    )
    found: dict[str, list[Any]] = {}
    for row in await page.connection.execute(query):
        one = dict(row._mapping) | {"name": f"{row.model}@{row.version}"}
        found.setdefault(row.engine, []).append(one)
    return found


def retention(record: FeedbackSettings) -> Iterator[tuple[str, int, str]]:
    """Each setting about how long something is kept: its name, the days it comes to (0: for ever), what it means."""
    for name, field in type(record).model_fields.items():
        if name.endswith("_retention_days"):
            yield name, days_kept(record, name), (field.description or "").partition(", in days")[0] + "."
