"""Review: what a person looks at before it is trained on, one thing at a time, with the keyboard if they like.

Include, exclude and correct act on one waiting item, or on a completion that somebody opened; the next item follows.
"""

from fastapi import APIRouter, Response

from feedback import review
from feedback.errors import NotFound
from monitoring.console.page import Changed, Page, Seen

router = APIRouter(prefix="/review")

WAITING_SHOWN = 100
DECIDED_SHOWN = 20


@router.get("")
async def show(page: Seen) -> Response:
    """The oldest item that waits, and how many there are."""
    if page.model is None:
        return page.show("start.html")
    asked = page.connection, page.project
    waiting = await review.with_texts(*asked, model=page.model.model, limit=WAITING_SHOWN)
    every = await review.in_project(*asked, model=page.model.model, status=None, limit=1000)
    decided = [one for one in every if one.status != "waiting"]
    return page.show(
        "review.html",
        item=waiting[0] if waiting else None,
        left=len(waiting),
        most=WAITING_SHOWN,
        decided=decided[-DECIDED_SHOWN:][::-1],
    )


@router.post("/{subject}/{decision}")
async def decide(subject: str, decision: str, page: Changed) -> Response:
    """Decide about a waiting item (`rev-...`) or a completion, and go on to the next."""
    await _decide(page, subject, decision)
    if subject.startswith("rev-"):
        return page.go("/review", done=decision)
    return page.go(f"/feedback/{subject}", done=decision)


async def _decide(page: Page, subject: str, decision: str) -> None:
    by, why = page.visitor.actor, page.form.get("reason", "").strip()
    if decision == "include":
        await review.include(page.connection, page.project, subject, by=by, reason=why)
    elif decision == "exclude":
        await review.exclude(page.connection, page.project, subject, by=by, reason=why)
    elif decision == "correct":
        answer = page.form.get("answer", "")
        await review.correct(page.connection, page.project, subject, answer=answer, by=by, reason=why)
    else:
        raise NotFound(f"There is no decision '{decision}'; expected include, exclude or correct.")
