"""The gateway's feedback desk: its keys, its policies, and its spool for when the database is away."""

import asyncio
from collections.abc import Sequence

from feedback.desk import Caller, Desk, Policies
from feedback.errors import Refused
from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import strictest
from feedback.settings import FeedbackSettings
from feedback.submissions import Spooled, Submission, read_spooled
from serving.auth import identify
from serving.gateway import Gateway
from serving.spool import FEEDBACK, Spool, SpoolFull, find_waiting

FULL_SECONDS = 30


def open_desk(gateway: Gateway, settings: FeedbackSettings) -> Desk:
    """The desk that belongs to a running gateway."""

    def caller_of(authorization: str | None) -> Caller:
        value = None if authorization is None else authorization.encode("latin-1")
        return identify(value, gateway.completions.table.keys)

    def policies_of(project: str | None) -> Policies:
        routes = gateway.completions.table.models.values()
        return {
            route.model if project is not None else f"{route.project}/{route.model}": route.feedback
            for route in routes
            if project in (None, route.project)
        }

    async def keep(records: Sequence[bytes]) -> None:
        await keep_feedback(gateway.spool, records)

    async def find(feedback_id: str) -> Spooled | None:
        return await asyncio.to_thread(find_feedback, gateway.spool, feedback_id)

    def privacy_of(project: str) -> PrivacyPolicy:
        # The model is not known before the answer's row is there.
        routes = gateway.completions.table.models.values()
        return strictest(route.privacy for route in routes if route.project == project)

    desk = Desk(
        database=gateway.database,
        settings=settings,
        token_secret=gateway.token_secret,
        pseudonym_secret=gateway.pseudonym_secret,
        identify=caller_of,
        policies=policies_of,
        keep=keep,
        find=find,
        privacy=privacy_of,
    )
    gateway.metrics.counter("hone_feedback_stored", "Feedback stored in the record.", lambda: desk.stored)
    gateway.metrics.counter(
        "hone_feedback_spooled", "Feedback kept on disk while the database was away.", lambda: desk.spooled
    )
    return desk


def find_feedback(spool: Spool, feedback_id: str) -> Spooled | None:
    """The submission of this id, if it waits on this machine's disk: another gateway's, or an earlier process's."""
    for payload in find_waiting(spool.root, FEEDBACK, feedback_id.encode()):
        one = read_spooled(payload)
        if isinstance(one, Submission) and one.feedback_id == feedback_id:
            return one
    return None


async def keep_feedback(spool: Spool, records: Sequence[bytes]) -> None:
    """Keep spooled feedback on disk, past a power cut too: whoever sent it is told that it is safe.

    Raises:
        Refused: 503; the spool or the disk is full, or the disk fails. Of several records some may be kept.
    """
    try:
        for record in records:
            spool.append(FEEDBACK, record)
        await asyncio.to_thread(spool.sync)
    except (SpoolFull, OSError) as error:
        raise Refused(
            f"The database is away and this gateway cannot keep feedback on its disk: {error} Send it again later.",
            status=503,
            code="spool_full",
            seconds=FULL_SECONDS,
        ) from error
