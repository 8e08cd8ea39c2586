"""`/admin/v1/completions` and `/admin/v1/feedback`: the record a page at a time, searched, and streamed out whole.

The same filters as `hone completion list` and `hone feedback list`. A page names the cursor to the next one in `after`.
An export is sent as it is read, through a cursor in the database: a gateway's memory does not grow with it. If the
database goes away in the middle, the connection is closed, and the download fails rather than looking whole.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from feedback import audit, browse, export
from feedback.errors import HoneError
from feedback.wanted import Wanted, model_and_version
from serving.operators import AdminDeps, Operator, operator_of

MEDIA_TYPES = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}


@dataclass(frozen=True, slots=True)
class Filters:
    """What completions and feedback may be filtered by."""

    model: Annotated[str | None, Query(description="A model, or a version such as support@7.")] = None
    arm: str | None = None
    rating: Annotated[Literal["up", "down"] | None, Query(description="Only what got this thumb.")] = None
    rater: str | None = None
    session: str | None = None
    text: Annotated[str | None, Query(description="Said in it; looks 7 days back, or as far as `since`.")] = (
        None
    )
    since: datetime | None = None
    until: datetime | None = None

    def wanted(self, project: str, **more: Any) -> Wanted:
        """These filters for a project.

        Raises:
            HoneError: the version is no number, or a time names no zone.
        """
        name, version = model_and_version(self.model)
        for field, value in (("since", self.since), ("until", self.until)):
            if value is not None and value.tzinfo is None:
                raise HoneError(
                    f"{field} = '{value.isoformat()}' names no zone; expected 2026-05-29T13:46:00Z."
                )
        return Wanted(
            project=project,
            model=name,
            version=version,
            arm=self.arm,
            rating=None if self.rating is None else self.rating == "up",
            rater=self.rater,
            session=self.session,
            text=self.text,
            since=self.since,
            until=self.until,
            **more,
        )


@dataclass(frozen=True, slots=True)
class Said:
    """What only feedback may be filtered by."""

    kind: str | None = None
    name: Annotated[str | None, Query(description="The metric.")] = None
    history: Annotated[bool, Query(description="With what was changed or taken back.")] = False


Limit = Annotated[int, Query(ge=1, le=browse.PAGE_ROWS_MAX)]


def admin_browse_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes that look through the record."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_look = operator_of(deps)

    @router.get("/completions", summary="List completions with their feedback, newest first")
    async def list_completions(
        filters: Annotated[Filters, Depends()],
        after: str | None = None,
        limit: Limit = browse.PAGE_ROWS,
        by: Operator = may_look,
    ) -> dict[str, Any]:
        return _page(
            await browse.completions_page(by.connection, filters.wanted(by.project), after=after, limit=limit)
        )

    @router.get("/feedback", summary="List feedback, newest first")
    async def list_feedback(
        filters: Annotated[Filters, Depends()],
        said: Annotated[Said, Depends()],
        after: str | None = None,
        limit: Limit = browse.PAGE_ROWS,
        by: Operator = may_look,
    ) -> dict[str, Any]:
        wanted = filters.wanted(by.project, kind=said.kind, name=said.name, history=said.history)
        return _page(await browse.feedback_page(by.connection, wanted, after=after, limit=limit))

    @router.get(
        "/feedback/export",
        summary="Stream feedback as JSON lines or Parquet, with TRL's columns or as stored",
    )
    async def export_feedback(
        request: Request,
        filters: Annotated[Filters, Depends()],
        said: Annotated[Said, Depends()],
        columns: Annotated[str, Query(description=", ".join(export.EXPORTS))] = "raw",
        format: Literal["jsonl", "parquet"] = "jsonl",
        by: Operator = may_look,
    ) -> StreamingResponse:
        wanted = filters.wanted(by.project, kind=said.kind, name=said.name, history=said.history)
        export.check(columns, as_parquet=format == "parquet")
        detail = {"columns": columns, "format": format}
        await audit.write(
            by.connection,
            project=by.project,
            actor=by.actor,
            action="feedback.export",
            subject="feedback",
            detail=detail,
        )
        pieces = _pieces(deps(request), wanted, columns, format)
        name = f"feedback-{columns}.{format}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(pieces, media_type=MEDIA_TYPES[format], headers=headers)

    return router


def _page(page: browse.Page) -> dict[str, Any]:
    return {
        "object": "list",
        "data": page.rows,
        "has_more": page.after is not None,
        "after": page.after,
        "searched_since": page.searched_since,
    }


async def _pieces(deps: AdminDeps, wanted: Wanted, columns: str, format: str) -> AsyncIterator[bytes]:
    async with deps.database.begin() as connection:
        rows = export.rows(connection, wanted, columns)
        async for piece in export.parquet(rows) if format == "parquet" else export.json_lines(rows):
            yield piece
