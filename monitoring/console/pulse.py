"""Whether anything changed that a page may show: one short text for the state of a project's record.

It looks at the ends of indexes and at what is unfinished, never at whole tables: every open page asks every few
seconds.
"""

import hashlib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_STATE = text("""
SELECT (SELECT max(sequence) FROM audit),
       (SELECT max(event_id) FROM run_events),
       (SELECT string_agg(run_id || status || phase || progress::text, ',' ORDER BY run_id) FROM runs
        WHERE project = :project AND status IN ('queued', 'running')),
       (SELECT string_agg(experiment_id || step || coalesce(md5(verdict::text), ''), ',' ORDER BY experiment_id)
        FROM experiments WHERE project = :project AND status = 'running'),
       (SELECT string_agg(request_id || status, ',' ORDER BY request_id) FROM run_requests
        WHERE project = :project AND (created_at > now() - interval '1 hour' OR status = 'running')),
       (SELECT count(*) FROM search_trials WHERE search_id IN (
            SELECT search_id FROM run_requests WHERE project = :project AND status = 'running')),
       (SELECT string_agg(engine || healthy, ',' ORDER BY engine) FROM engines),
       (SELECT string_agg(erasure_id || phase || coalesce(waits_for, ''), ',' ORDER BY erasure_id) FROM erasures
        WHERE project = :project AND (phase <> 'done' OR finished_at > now() - interval '1 hour')),
       (SELECT string_agg(alert_id || severity || md5(sentence), ',' ORDER BY alert_id) FROM alerts
        WHERE project = :project AND state = 'firing'),
       (SELECT max(created_at) FROM feedback WHERE project = :project)
""")


async def state(connection: AsyncConnection, project: str) -> str:
    """A text that differs when a page may have to."""
    row = (await connection.execute(_STATE, {"project": project})).one()
    return hashlib.sha256(repr(tuple(row)).encode()).hexdigest()[:16]
