"""OpenAI's stored completions: list, retrieve, label, read the messages of, and delete what was asked to be stored.

A completion is stored when its request said `store: true`, or the model's policy says so for requests that do not. Only
answers to chats are here, those that were imported included. Nothing of another project can be seen or named. A row
appears within a second or so of its answer.

Asking, on the same path by POST, does not come here.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import browse, stored
from feedback.completions import answered_by
from feedback.errors import HoneError
from feedback.wanted import Wanted, model_and_version
from serving.asked import check_metadata
from serving.auth import Caller
from serving.errors import bad_request
from serving.operators import AdminDeps

PAGE_ROWS, PAGE_ROWS_MAX = 20, 100
METADATA = re.compile(r"metadata\[(.+)\]")
ASKED_WITH = (
    "frequency_penalty",
    "presence_penalty",
    "response_format",
    "seed",
    "service_tier",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
)
SHOWN = ("content", "tool_calls", "refusal", "reasoning_content", "audio", "annotations")


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, and the transaction in which it is answered."""

    connection: AsyncConnection
    caller: Caller


@dataclass(frozen=True, slots=True)
class Listing:
    """What of the query string says which completions."""

    model: Annotated[str | None, Query(description="Only of this model, or version.")] = None
    after: Annotated[str | None, Query(description="Go on after this id.")] = None
    limit: Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX)] = PAGE_ROWS
    order: Literal["asc", "desc"] = "asc"


class Labels(BaseModel):
    """New metadata for a completion; null takes it away."""

    model_config = ConfigDict(extra="forbid")
    metadata: dict[str, Any] | None


def stored_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes beside `POST /v1/chat/completions`."""

    async def visit(request: Request) -> AsyncIterator[Visit]:
        found = deps(request)
        caller = found.identify(request)
        async with found.database.begin() as connection:
            yield Visit(connection, caller)

    router = APIRouter(prefix="/v1/chat/completions", tags=["stored completions"])
    # What was deleted is deleted before the answer says so.
    _add_listing(router, Depends(visit, scope="function"))
    _add_one(router, Depends(visit, scope="function"))
    return router


def _add_listing(router: APIRouter, visiting: Any) -> None:
    @router.get("", summary="List stored completions, filtered by model and `metadata[key]=value`")
    async def list_stored(
        request: Request, asked: Annotated[Listing, Depends()], by: Visit = visiting
    ) -> dict[str, Any]:
        name, version = _model(asked.model)
        wanted = Wanted(
            by.caller.project,
            model=name,
            version=version,
            stored=True,
            metadata=_metadata(request.query_params.multi_items()),
        )
        page = await browse.completions_page(
            by.connection, wanted, after=asked.after, limit=asked.limit, oldest_first=asked.order == "asc"
        )
        return _listing([_completion(row) for row in page.rows], page.after is not None)

    @router.get("/{completion_id}/messages", summary="List what was asked in a stored completion")
    async def list_messages(
        completion_id: str, asked: Annotated[Listing, Depends()], by: Visit = visiting
    ) -> dict[str, Any]:
        row = await stored.one(by.connection, by.caller.project, completion_id)
        messages = _messages(row)
        if asked.order == "desc":
            messages.reverse()
        if asked.after is not None:
            ids = [message["id"] for message in messages]
            if asked.after not in ids:
                raise HoneError(f"after = '{asked.after}' is no message of '{completion_id}'.")
            messages = messages[ids.index(asked.after) + 1 :]
        return _listing(messages[: asked.limit], len(messages) > asked.limit)


def _add_one(router: APIRouter, visiting: Any) -> None:
    @router.get("/{completion_id}", summary="Show a stored completion")
    async def show_stored(completion_id: str, by: Visit = visiting) -> dict[str, Any]:
        return _completion(await stored.one(by.connection, by.caller.project, completion_id))

    @router.post("/{completion_id}", summary="Give a stored completion other metadata")
    async def label_stored(completion_id: str, body: Labels, by: Visit = visiting) -> dict[str, Any]:
        check_metadata(body.metadata)
        return _completion(await stored.label(by.connection, by.caller.project, completion_id, body.metadata))

    @router.delete("/{completion_id}", summary="Delete a completion, its text and what was said of it")
    async def delete_stored(completion_id: str, by: Visit = visiting) -> dict[str, Any]:
        remain = await stored.remove(
            by.connection, by.caller.project, completion_id, by=f"key:{by.caller.key_id}"
        )
        return {
            "object": "chat.completion.deleted",
            "id": completion_id,
            "deleted": True,
            "remains_in": remain,
        }


def _model(asked: str | None) -> tuple[str | None, int | None]:
    try:
        return model_and_version(asked)
    except HoneError as error:
        raise bad_request(str(error), param="model") from error


def _metadata(query: list[tuple[str, str]]) -> dict[str, str]:
    return {found[1]: value for name, value in query if (found := METADATA.fullmatch(name))}


def _listing(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as OpenAI shows a stored completion."""
    request: dict[str, Any] = row["request"] or {}
    message: dict[str, Any] = row["message"] or {"content": row["output_text"]}
    prompt, output = row["prompt_tokens"], row["output_tokens"]
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": (prompt or 0) + (output or 0),
    }
    shown = {name: message[name] for name in SHOWN if message.get(name) not in (None, [])}
    answer = {"content": None, "refusal": None, **shown, "role": "assistant"}
    return {
        "object": "chat.completion",
        "id": row["completion_id"],
        "model": answered_by(row),
        "created": int(row["created_at"].timestamp()),
        "choices": [
            {"index": 0, "message": answer, "finish_reason": row["finish_reason"] or "stop", "logprobs": None}
        ],
        "usage": None
        if prompt is None and output is None
        else usage | {"prompt_tokens": prompt or 0, "completion_tokens": output or 0},
        "metadata": row["metadata"] or {},
        "system_fingerprint": row["adapter_id"],
        "input_user": None,
        **{name: request.get(name) for name in ASKED_WITH},
    }


def _messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = row["request"].get("messages") or []
    return [
        {
            "name": None,
            **{part: value for part, value in message.items() if part != "content"},
            "id": f"{row['completion_id']}-{number}",
            "content": message.get("content") if isinstance(message.get("content"), str) else None,
            "content_parts": message.get("content") if isinstance(message.get("content"), list) else None,
        }
        for number, message in enumerate(asked)
    ]
