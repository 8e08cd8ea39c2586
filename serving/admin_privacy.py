"""`/admin/v1/erasures`: forget a person or an answer, over HTTP, with the words and effects of `hone privacy`.

A request is accepted at once and refuses what still arrives from then on; the worker deletes within seconds. Only
administrators may ask, and look.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import erasures
from serving.operators import AdminDeps, Operator, administrator_of


class NewErasure(BaseModel):
    """Whom, or what, to forget."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    rater_id: str | None = Field(None, min_length=1)
    """As the application calls them, or the pseudonym (`rater-...`)."""
    completion_id: str | None = Field(None, min_length=1)
    """One answer, in place of a person."""
    retire_within_days: float | None = Field(None, ge=0)
    """Days until adapters that learned from it are retired; left out: they are only listed."""
    and_future: bool = False
    """Whether to refuse what this rater does later, too."""


def admin_privacy_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes under `/admin/v1/erasures`."""
    router = APIRouter(prefix="/admin/v1", tags=["privacy"])
    may_administer = administrator_of(deps)

    @router.post("/erasures", status_code=202, summary="Erase a rater or a completion; cannot be undone")
    async def create_erasure(body: NewErasure, by: Operator = may_administer) -> dict[str, Any]:
        asked = await erasures.request(
            by.connection,
            by.project,
            rater=body.rater_id,
            completion_id=body.completion_id,
            retire_within_days=body.retire_within_days,
            and_future=body.and_future,
            by=by.actor,
        )
        return await erasures.report(by.connection, asked)

    @router.get("/erasures", summary="List the erasures, without whom they were about")
    async def list_erasures(by: Operator = may_administer) -> dict[str, Any]:
        found = await erasures.in_project(by.connection, by.project)
        return {"object": "list", "data": [one.view() for one in found]}

    @router.get("/erasures/{erasure_id}", summary="Show an erasure and the adapters that learned from it")
    async def show_erasure(erasure_id: str, by: Operator = may_administer) -> dict[str, Any]:
        found = await erasures.get(by.connection, by.project, erasure_id)
        return await erasures.report(by.connection, found)

    return router
