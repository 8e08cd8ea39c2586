"""The model's policy: every field with what it means, changed a section at a time.

The checks are those that hold everywhere. A value that they refuse comes back as it was typed, with the reason; nothing
of the section is changed then. Saving changes what differs from what the page showed, so a page that was open for an
hour puts nothing back. Every change is one row of the audit trail.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from feedback import audit, models
from feedback.errors import Conflict, HoneError, NotFound
from feedback.policy import ModelPolicy
from monitoring.console.page import Changed, Page, Seen

router = APIRouter(prefix="/settings/policy")

GENERAL = "general"
TYPED, SHOWN = "value:", "was:"
"""A field's two entries in a form: what a person leaves in it, and what it held when the page was made."""
CHANGES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a policy. `choices` are all that it may be, where that is a short list."""

    name: str
    value: str
    meaning: str
    changed: bool
    choices: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its own name, without its section's."""
        return self.name.rpartition(".")[2].replace("_", " ")


@router.get("")
async def show(page: Seen) -> Response:
    """Every section, and what was changed lately."""
    return await _show(page)


@router.post("")
async def change_one(page: Changed) -> Response:
    """Set one field, named in the form."""
    return await _change(page, {page.form.get("field", ""): page.form.get("value", "")})


@router.post("/{section}")
async def change_section(section: str, page: Changed) -> Response:
    """Set what was changed in one section's form."""
    policy = (await models.hold(page.connection, page.project, page.required_model().model)).policy
    known = {field.name: field for field in sections(policy).get(section, [])}
    if not known:
        raise NotFound(f"A policy has no section '{section}'; it has {', '.join(sections(policy))}.")
    typed, shown = _posted(page, TYPED), _posted(page, SHOWN)
    # Compared with what the page showed: a field that somebody else has changed since then is not put back.
    changed = {
        name: value
        for name, value in typed.items()
        if name in known and value not in (known[name].value, shown.get(name, known[name].value))
    }
    if not changed:
        return page.go("/settings/policy", done="same")
    try:
        _check_unmoved(changed, shown, known)
        async with page.connection.begin_nested():
            return await _change(page, changed)
    except HoneError as error:
        return await _show(page, trouble=str(error), section=section, typed=changed)


def _posted(page: Page, prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): value.strip() if prefix != SHOWN else value
        for name, value in page.form.items()
        if name.startswith(prefix)
    }


def _check_unmoved(changed: Mapping[str, str], shown: Mapping[str, str], known: Mapping[str, Field]) -> None:
    for name in changed:
        if shown.get(name, known[name].value) != known[name].value:
            raise Conflict(
                f"{name}: somebody else has set it to {known[name].value} since you opened the page, where it was "
                f"{shown[name]}. Nothing was saved; save again to set it to {changed[name]}."
            )


async def _change(page: Page, values: dict[str, str]) -> Response:
    changes: dict[str, Any] = {}
    for name, value in values.items():
        inner = changes
        *outer, last = name.split(".")
        for one in outer:
            inner = inner.setdefault(one, {})
        inner[last] = read_value(value)
    model = page.required_model().model
    await models.change_policy(page.connection, page.project, model, changes, by=page.visitor.actor)
    return page.go("/settings/policy", done="policy")


async def _show(
    page: Page, *, trouble: str = "", section: str = "", typed: dict[str, str] | None = None
) -> Response:
    if page.model is None:
        return page.show("start.html")
    changes = await audit.entries(
        page.connection,
        page.project,
        subject=page.model.model,
        action="model.change_policy",
        limit=CHANGES_SHOWN,
    )
    return page.show(
        "policy.html",
        status=400 if trouble else 200,
        sections=sections(page.model.policy),
        trouble=trouble,
        wrong=section,
        typed=typed or {},
        changes=changes,
    )


def sections(policy: ModelPolicy) -> dict[str, list[Field]]:
    """The fields by section, in the policy's order; those of no section first."""
    found: dict[str, list[Field]] = {GENERAL: []}
    for field in _fields(policy):
        section = field.name.partition(".")[0] if "." in field.name else GENERAL
        found.setdefault(section, []).append(field)
    return found


def _fields(policy: BaseModel, prefix: str = "") -> Iterator[Field]:
    plain = policy.model_dump(mode="json")
    for name, field in type(policy).model_fields.items():
        value = getattr(policy, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            meaning = " ".join((field.description or "").split())
            yield Field(f"{prefix}{name}", _written(plain[name]), meaning, value != default, _choices(field))


def _written(value: Any) -> str:
    """A value as a person would type it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _choices(field: FieldInfo) -> tuple[str, ...]:
    if field.annotation is bool:
        return "true", "false"
    return tuple(map(str, get_args(field.annotation))) if get_origin(field.annotation) is Literal else ()


def read_value(text: str) -> Any:
    """What a person typed: JSON, or else a word.

    >>> read_value("0.5"), read_value("operator"), read_value("[0.1, 0.5]")
    (0.5, 'operator', [0.1, 0.5])
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.strip()
