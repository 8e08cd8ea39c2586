"""Settings: keys, the model's policy, engines, and the audit trail with its verification.

Keys are made and revoked by administrators only. A policy is changed one field at a time, with the same checks as
everywhere; what is not a policy is a setting, which only the machine's owner changes, in `hone.toml`.
"""

from collections.abc import Iterator
from typing import Any

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from feedback import audit, engines, keys, models
from feedback.errors import HoneError
from feedback.tables import ROLES
from monitoring.console.page import Changed, Page, Seen

router = APIRouter(prefix="/settings")

ENTRIES_SHOWN = 100


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


@router.post("/policy")
async def change_policy(page: Changed) -> Response:
    """Set one field of the policy."""
    model = page.required_model()
    field, value = page.form.get("field", ""), page.form.get("value", "")
    changes: dict[str, Any] = {}
    inner = changes
    *sections, last = field.split(".")
    for section in sections:
        inner[section] = inner = {}
    inner[last] = read_value(value)
    await models.change_policy(page.connection, page.project, model.model, changes, by=page.visitor.actor)
    return page.go("/settings", done="policy")


@router.get("/audit")
async def trail(page: Seen) -> Response:
    """The audit trail, and whether it is whole."""
    broken = await audit.verify(page.connection)
    found = await audit.entries(page.connection, page.project, limit=ENTRIES_SHOWN)
    return page.show("audit.html", entries=found, broken=broken)


async def _show(page: Page, *, secret: str | None = None) -> Response:
    model = page.model
    return page.show(
        "settings.html",
        secret=secret,
        keys=await keys.in_project(page.connection, page.project) if page.visitor.is_admin else [],
        roles=ROLES,
        engines=await engines.every(page.connection),
        ready=await engines.ready(page.connection),
        policy=[] if model is None else list(policy_fields(model.policy)),
        entries=(await audit.entries(page.connection, page.project, limit=5)),
    )


def policy_fields(policy: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str, bool]]:
    """Each field as (dotted name, value as JSON, what it means, whether it is not the default)."""
    for name, field in type(policy).model_fields.items():
        value = getattr(policy, name)
        if isinstance(value, BaseModel):
            yield from policy_fields(value, f"{prefix}{name}.")
        else:
            shown = orjson.dumps(policy.model_dump(mode="json")[name]).decode()
            yield f"{prefix}{name}", shown, field.description or "", value != _default(field)


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def read_value(text: str) -> Any:
    """What a person typed: JSON, or else a word.

    >>> read_value("0.5"), read_value("operator"), read_value("[0.1, 0.5]")
    (0.5, 'operator', [0.1, 0.5])
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.strip()
