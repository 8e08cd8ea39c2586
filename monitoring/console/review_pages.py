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
async def show(page: Seen, item: str = "") -> Response:
    """One item that waits, the oldest unless another is named, and how many there are."""
    if page.model is None:
        return page.show("start.html")
    asked = page.connection, page.project
    waiting = await review.with_texts(*asked, model=page.model.model, limit=WAITING_SHOWN)
    here = next((number for number, one in enumerate(waiting) if one["review_id"] == item), 0)
    return page.show(
        "review.html",
        item=waiting[here] if waiting else None,
        place=here + 1,
        previous=waiting[here - 1]["review_id"] if here else None,
        following=waiting[here + 1]["review_id"] if here + 1 < len(waiting) else None,
        left=len(waiting),
        most=WAITING_SHOWN,
        decided=await review.decided(*asked, page.model.model, limit=DECIDED_SHOWN),
    )


@router.post("/{subject}/{decision}")
async def decide(subject: str, decision: str, page: Changed) -> Response:
    """Decide about a waiting item (`rev-...`) or a completion, and go on to the next."""
    await _decide(page, subject, decision)
    if subject.startswith("rev-"):
        following = page.form.get("following", "")
        return page.go("/review", done=decision, **({"item": following} if following else {}))
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
