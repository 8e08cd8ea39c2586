"""What answering and training took, summed by the database: requests, tokens, seconds of engines, seconds of runs.

An engine's seconds are those in which it had something to do. Each moment of them is divided equally over the requests
under way there at that moment, whosever they are: so the shares add up to the time that the engine worked, and a
version is not charged for its neighbours. Idle time is nobody's.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Served:
    """What the answers of one version took. `version` is None for the answers of an upstream."""

    model: str
    version: int | None
    upstream: str | None
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    engine_seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What one run took, and what came of it; what nobody measured is None.

    `verdict` is that of the newest experiment in which its version was the candidate.
    """

    run_id: str
    model: str
    version: int | None
    state: str | None
    method: str
    status: str
    created_at: datetime
    rows: int | None
    training_seconds: float | None
    evaluation_seconds: float | None
    energy_watt_hours: float | None
    verdict: dict[str, Any] | None


_SERVED = text("""
WITH met AS (
    SELECT project, model, version, upstream, engine, status, prompt_tokens, output_tokens, created_at AS began,
           created_at + make_interval(secs => duration_seconds) AS ended
    FROM completions
    WHERE created_at >= :since AND created_at < :until AND endpoint NOT LIKE 'import:%'
      AND day >= CAST(:since AT TIME ZONE 'UTC' AS date) - 1
), moments AS (
    SELECT met.*, began AS at, 1 AS change FROM met UNION ALL SELECT met.*, ended, -1 FROM met
), steps AS (
    SELECT *, sum(change) OVER earlier AS busy, lead(at) OVER (PARTITION BY engine ORDER BY at, change) - at AS lasts
    FROM moments WINDOW earlier AS (PARTITION BY engine ORDER BY at, change ROWS UNBOUNDED PRECEDING)
), clocks AS (
    -- The clock of an engine runs at one n-th of the pace while n requests share it.
    SELECT *, coalesce(sum(extract(epoch FROM lasts) / greatest(busy, 1)) OVER (
        PARTITION BY engine ORDER BY at, change ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS clock
    FROM steps
)
SELECT model, version, upstream, count(*) FILTER (WHERE change = 1) AS requests,
       count(*) FILTER (WHERE change = 1 AND status = 'error') AS failed,
       coalesce(sum(prompt_tokens) FILTER (WHERE change = 1), 0) AS prompt_tokens,
       coalesce(sum(output_tokens) FILTER (WHERE change = 1), 0) AS output_tokens,
       CAST(CASE WHEN upstream IS NULL AND bool_or(engine <> '')
           THEN greatest(sum(-change * clock) FILTER (WHERE engine <> ''), 0) ELSE 0 END AS double precision)
           AS engine_seconds
FROM clocks WHERE project = :project AND (CAST(:model AS text) IS NULL OR model = :model)
GROUP BY model, version, upstream ORDER BY model, version NULLS LAST
""")

_TRAINED = text("""
SELECT runs.run_id, runs.model, adapters.version, adapters.state, runs.method, runs.status, runs.created_at,
       (SELECT count(*) FROM dataset_rows WHERE dataset_rows.dataset_id = runs.dataset_id AND split = 'train') AS rows,
       CAST(runs.progress ->> 'seconds' AS double precision) AS training_seconds,
       CAST(adapters.gate #>> '{evidence,seconds}' AS double precision) AS evaluation_seconds,
       CAST(adapters.gate #>> '{evidence,energy_watt_hours}' AS double precision) AS energy_watt_hours,
       (SELECT verdict FROM experiments JOIN arms USING (experiment_id)
        WHERE arms.adapter_id = adapters.adapter_id AND arms.arm = 'candidate' AND verdict IS NOT NULL
        ORDER BY started_at DESC LIMIT 1) AS verdict
FROM runs LEFT JOIN adapters ON adapters.run_id = runs.run_id
WHERE runs.project = :project AND (CAST(:model AS text) IS NULL OR runs.model = :model)
  AND runs.created_at >= :since AND runs.created_at < :until
ORDER BY runs.created_at
""")


async def served(
    connection: AsyncConnection, project: str, *, model: str | None, since: datetime, until: datetime
) -> list[Served]:
    """What answering took in a stretch of time, by version."""
    values = {"project": project, "model": model, "since": since, "until": until}
    return [Served(**row._mapping) for row in await connection.execute(_SERVED, values)]


async def trained(
    connection: AsyncConnection, project: str, *, model: str | None, since: datetime, until: datetime
) -> list[Trained]:
    """What the runs took that began in a stretch of time, oldest first."""
    values = {"project": project, "model": model, "since": since, "until": until}
    return [Trained(**row._mapping) for row in await connection.execute(_TRAINED, values)]
