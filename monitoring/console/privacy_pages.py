"""Erasures: forget a person or an answer, and what learned from them. For administrators.

Asking needs the word `erase` typed: nothing brings the rows back. The worker carries it out; the page follows.
"""

from fastapi import APIRouter, Response

from feedback import erasures
from feedback.errors import HoneError
from monitoring.console.page import Changed, Seen

router = APIRouter(prefix="/settings/erasures")

SHOWN = 30
WORD = "erase"


@router.get("")
async def show(page: Seen) -> Response:
    """Every erasure, newest first, with the adapters that learned from what it took."""
    page.visitor.require_admin()
    found = (await erasures.in_project(page.connection, page.project))[::-1][:SHOWN]
    reports = [await erasures.report(page.connection, one) for one in found]
    return page.show("erasures.html", reports=reports, word=WORD)


@router.post("")
async def request(page: Changed) -> Response:
    """Ask for one."""
    page.visitor.require_admin()
    if page.form.get("sure", "").strip().lower() != WORD:
        raise HoneError(f"Type '{WORD}' to say that you are sure: what is erased cannot be brought back.")
    days = page.form.get("days", "").strip()
    if days and not days.isdecimal():
        raise HoneError(f"The deadline is '{days}' days; expected a whole number, or nothing for none.")
    await erasures.request(
        page.connection,
        page.project,
        rater=page.form.get("rater", "").strip() or None,
        completion_id=page.form.get("completion_id", "").strip() or None,
        retire_within_days=float(days) if days else None,
        and_future="and_future" in page.form,
        by=page.visitor.actor,
    )
    return page.go("/settings/erasures", done="erase")
