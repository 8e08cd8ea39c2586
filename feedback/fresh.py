"""How much was said that a next training run would learn from: counted once, for the worker and for the pages.

Counts what arrived, not what would be selected: consent, caps and defences are the plan's business.
"""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import review
from feedback.models import Model
from feedback.tables import completions, feedback

TRAINING_KINDS = ("rating", "demonstration", "preference")


async def fresh_feedback(connection: AsyncConnection, model: Model, since: datetime | None) -> int:
    """Effective ratings, demonstrations and preferences that arrived after `since`, and reviewers' decisions."""
    query = (
        select(func.count())
        .select_from(feedback)
        .join(completions, completions.c.completion_id == feedback.c.completion_id)
        .where(
            completions.c.project == model.project,
            completions.c.model == model.model,
            feedback.c.project == model.project,
            feedback.c.effective,
            feedback.c.kind.in_(TRAINING_KINDS),
        )
    )
    if since is not None:
        query = query.where(feedback.c.received_at > since)
    decided = await review.decided_since(connection, model.project, model.model, since)
    return decided + int(await connection.scalar(query) or 0)
