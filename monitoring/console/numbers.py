"""What the record says about traffic, latency and ratings, in as little work as a page may cost.

Counts come from indexes; latencies from the newest `SAMPLE_ROWS` completions.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.console_keys import CONSOLE_KEYS
from feedback.exposures import FAILED
from feedback.models import Model
from monitoring.console import charts, view

HOURS = 24
DAYS = 14
SAMPLE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests per hour, the candidate's apart."""

    chart: charts.Bars
    total: int
    last_hour: int
    first: datetime
    rows: tuple[charts.Row, ...]


@dataclass(frozen=True, slots=True)
class VersionSpeed:
    """One version's newest answers; `errors` are those that it is to be blamed for."""

    version: int
    requests: int
    errors: int
    first_token_median: float | None
    first_token_slow: float | None
    whole_median: float | None
    whole_slow: float | None


@dataclass(frozen=True, slots=True)
class Ratings:
    """Thumbs per day with a 95% interval of the share of ups."""

    chart: charts.Line
    ups: int
    votes: int
    first: date
    last: date
    rows: tuple[charts.Row, ...]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of all days together."""
        return charts.wilson(self.ups, self.votes)


_TRAFFIC = text("""
SELECT date_bin('1 hour', created_at, :since) AS hour, count(*) AS requests,
       count(*) FILTER (WHERE arm <> 'champion') AS candidate
FROM completions
WHERE project = :project AND model = :model AND created_at >= :since AND day >= :day
GROUP BY hour
""")

_SPEED = text(f"""
WITH newest AS (
    SELECT version, status, error_class, time_to_first_token_seconds, duration_seconds FROM completions
    WHERE project = :project AND model = :model AND created_at >= :since AND day >= :day AND version IS NOT NULL
    ORDER BY created_at DESC LIMIT :rows
)
SELECT version, count(*) AS requests, count(*) FILTER (WHERE {FAILED}) AS errors,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY time_to_first_token_seconds) AS first_token_median,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY time_to_first_token_seconds) AS first_token_slow,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_seconds) AS whole_median,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) AS whole_slow
FROM newest GROUP BY version ORDER BY version DESC
""")

_RATINGS = text("""
SELECT (feedback.created_at AT TIME ZONE 'UTC')::date AS at,
       count(*) FILTER (WHERE value = 'true') AS ups, count(*) AS votes
FROM feedback JOIN completions USING (completion_id)
WHERE feedback.project = :project AND feedback.created_at >= :since AND effective AND kind = 'rating'
  AND name = 'thumbs' AND value IN ('true', 'false')
  AND completions.project = :project AND completions.model = :model
  AND NOT starts_with(completions.key_id, :console_keys)
GROUP BY at
""")


async def traffic(connection: AsyncConnection, model: Model) -> Traffic:
    """The last `HOURS` hours, the one that runs included."""
    now = datetime.now(UTC)
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    found = {row.hour: row for row in await connection.execute(_TRAFFIC, _since(model, first))}
    hours = [first + timedelta(hours=number) for number in range(HOURS)]
    totals = [found[hour].requests if hour in found else 0 for hour in hours]
    parts = [found[hour].candidate if hour in found else 0 for hour in hours]
    labels = [
        f"{hour:%H}:00 UTC: {total} requests, {part} to the candidate"
        for hour, total, part in zip(hours, totals, parts, strict=True)
    ]
    chart = charts.bars(totals, parts, labels, show=view.number)
    rows = tuple(
        (f"{hour:%d %b %H:00}", view.number(total), view.number(part))
        for hour, total, part in zip(reversed(hours), reversed(totals), reversed(parts), strict=True)
    )
    return Traffic(chart, sum(totals), totals[-1], hours[0], rows)


async def speed(connection: AsyncConnection, model: Model) -> list[VersionSpeed]:
    """Every version that answered in the last `HOURS` hours, newest version first."""
    since = _since(model, datetime.now(UTC) - timedelta(hours=HOURS))
    rows = await connection.execute(_SPEED, {**since, "rows": SAMPLE_ROWS})
    return [VersionSpeed(**row._mapping) for row in rows]


async def ratings(connection: AsyncConnection, model: Model) -> Ratings:
    """The last `DAYS` days."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=DAYS - 1 - number) for number in range(DAYS)]
    since = datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC)
    told = {
        row.at: row
        for row in await connection.execute(_RATINGS, {**_since(model, since), "console_keys": CONSOLE_KEYS})
    }
    found = [(told[day].ups, told[day].votes) if day in told else (0, 0) for day in days]
    intervals = [charts.wilson(ups, votes) for ups, votes in found]
    chart = charts.line(
        [ups / votes if votes else None for ups, votes in found],
        [None if one is None else one[0] for one in intervals],
        [None if one is None else one[1] for one in intervals],
        [f"{day:%d %b}: {ups} of {votes} up" for day, (ups, votes) in zip(days, found, strict=True)],
        show=view.percent,
        edges=charts.Scale(0.0, 1.0, 0.25),
    )
    rows = tuple(
        (f"{day:%d %b}", view.percent(ups / votes if votes else None), _interval(one), view.number(votes))
        for day, (ups, votes), one in zip(reversed(days), reversed(found), reversed(intervals), strict=True)
    )
    ups, votes = sum(ups for ups, _ in found), sum(votes for _, votes in found)
    return Ratings(chart, ups, votes, days[0], days[-1], rows)


def _interval(one: tuple[float, float] | None) -> str:
    return view.NOT_KNOWN if one is None else f"{view.percent(one[0])} to {view.percent(one[1])}"


def _since(model: Model, since: datetime) -> dict[str, Any]:
    # A completion's day is its partition: named, the older partitions are not opened.
    day = (since - timedelta(days=1)).date()
    return {"project": model.project, "model": model.model, "since": since, "day": day}
