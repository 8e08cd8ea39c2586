"""The worker's part in privacy: carry out erasures, retire what they taint, and keep nothing longer than said."""

import asyncio
from pathlib import Path

import structlog

from feedback import erasures, retention, taint
from feedback.database import Database
from feedback.settings import FeedbackSettings
from retrain.alone import alone

log = structlog.get_logger(__name__)


async def carry_out_erasures(database: Database, state_dir: Path) -> None:
    """Go on with every erasure that is not done, then retire what is tainted past its deadline."""
    async with database.begin() as connection:
        unfinished = await erasures.unfinished(connection)
    for erasure in unfinished:
        with alone(erasure_id=erasure.erasure_id):
            now = await erasures.advance(database, erasure.erasure_id, state_dir)
            log.info("erasure", erasure_id=now.erasure_id, phase=now.phase, waits_for=now.waits_for)
    async with database.begin() as connection:
        await taint.spread(connection)
        done = await taint.retire_overdue(connection)
    for sentence in done:
        log.warning("tainted adapter retired", sentence=sentence)


async def keep_no_longer(database: Database, settings: FeedbackSettings) -> None:
    """Make partitions ahead, drop those that are over their time, and the set-aside records of this machine."""
    done = await retention.keep(database, settings)
    days = retention.days_kept(settings, "text_retention_days")
    done += await asyncio.to_thread(retention.drop_set_aside, settings.absolute_state_dir, days)
    for sentence in done:
        log.info("retention", sentence=sentence)
