"""Signing in with an operator's key, and out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from feedback.errors import HoneError
from monitoring.console.page import Changed, console_of, read_form, render
from monitoring.console.sessions import find_key

router = APIRouter()


@router.get("/sign-in")
async def show(next_page: Annotated[str, Query(alias="next")] = "/") -> Response:
    """Ask for a key."""
    return _page("", next_page)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session."""
    console, form = console_of(request), await read_form(request)
    next_page = form.get("next", "/")
    try:
        async with console.database.begin() as connection:
            key = await find_key(connection, form.get("key", ""))
    except HoneError as error:
        return _page(str(error), next_page, status=401)
    response = RedirectResponse(_own(next_page), 303)
    console.sessions.begin(response, key)
    return response


@router.post("/sign-out")
async def sign_out(page: Changed) -> Response:
    """End the session in this browser."""
    response = RedirectResponse("/sign-in", 303)
    console_of(page.request).sessions.end(response)
    return response


def _page(trouble: str, next_page: str, *, status: int = 200) -> Response:
    page = render("sign_in.html", trouble=trouble, next_page=_own(next_page))
    return Response(page, status, media_type="text/html; charset=utf-8")


def _own(path: str) -> str:
    """A path of this console: what a link says must not lead a person who just signed in elsewhere."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
