"""Who may use `/admin`: the caller's role, and the transaction in which a decision happens.

A route asks for `operator_of(deps)` or `administrator_of(deps)` and gets an `Operator`, or the request ends with 403.
What was done is committed, and routed by, before the answer leaves: a client that saw a promotion finds it in force
at the gateway it asked, and within a second at the others.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database
from serving.auth import Caller
from serving.problems import Forbidden

SAFE_METHODS = {"GET", "HEAD"}
BEFORE_THE_ANSWER: Final = "function"
"""FastAPI's own default ends a dependency after the answer: a commit that failed would have been told as done."""


@dataclass(frozen=True, slots=True)
class AdminDeps:
    """What the routes need from the gateway."""

    database: Database
    identify: Callable[[Request], Caller]
    catch_up: Callable[[], Awaitable[None]]
    """Route by what is committed now."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who decides, and the transaction in which it happens."""

    connection: AsyncConnection
    project: str
    role: str
    actor: str


def operator_of(deps: Callable[[Request], AdminDeps]) -> Any:
    """A dependency: a caller with role operator or admin."""
    return Depends(_operator(deps), scope=BEFORE_THE_ANSWER)


def administrator_of(deps: Callable[[Request], AdminDeps]) -> Any:
    """A dependency: a caller with role admin."""
    operator = Depends(_operator(deps), scope=BEFORE_THE_ANSWER)

    async def administrator(by: Annotated[Operator, operator]) -> Operator:
        if by.role != "admin":
            raise Forbidden(f"This key has role '{by.role}'; keys and models are made with an admin key.")
        return by

    return Depends(administrator, scope=BEFORE_THE_ANSWER)


def _operator(deps: Callable[[Request], AdminDeps]) -> Callable[[Request], AsyncIterator[Operator]]:
    async def operator(request: Request) -> AsyncIterator[Operator]:
        found = deps(request)
        caller = found.identify(request)
        if caller.role not in ("operator", "admin"):
            raise Forbidden(
                f"This key has role '{caller.role}'; '{request.url.path}' needs operator or admin."
            )
        async with found.database.begin() as connection:
            yield Operator(connection, caller.project, caller.role, f"key:{caller.key_id}")
        if request.method not in SAFE_METHODS:
            await found.catch_up()

    return operator
