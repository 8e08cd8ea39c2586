"""How a dataset is spread: votes, raters, topics, versions that answered, languages, lengths. Stored with it.

It names no rater: shares and quantiles say whether a few people stand behind the rows.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_ROWS = "FROM ballots WHERE split IS NOT NULL"
_UP = (
    "count(*) FILTER (WHERE source <> 'disliked') AS up, count(*) FILTER (WHERE source = 'disliked') AS down"
)
_QUANTILES = "ARRAY[0.0, 0.5, 0.9, 0.99, 1.0]"


async def balance_of(connection: AsyncConnection, topics: Sequence[str]) -> dict[str, Any]:
    """The report on the statements that were given a split."""
    by_topic = await _by(connection, "topic")
    return {
        "splits": await _by(connection, "split"),
        "topics": {_name(topics, topic): counted for topic, counted in by_topic.items()},
        "versions": await _by(connection, "version"),
        "languages": await _by(connection, "language"),
        "raters": await _raters(connection),
        "answer_characters": await _quantiles(connection, f"SELECT characters AS value {_ROWS}"),
    }


async def _by(connection: AsyncConnection, column: str) -> dict[Any, dict[str, int]]:
    counted = f"SELECT {column} AS name, {_UP}, count(DISTINCT rater) AS raters {_ROWS}"
    found = await connection.execute(text(f"{counted} GROUP BY 1 ORDER BY count(*) DESC, 1"))
    return {
        str(row.name) if column != "topic" else row.name: {
            "up": row.up,
            "down": row.down,
            "raters": row.raters,
        }
        for row in found
    }


async def _raters(connection: AsyncConnection) -> dict[str, Any]:
    rows = f"SELECT count(*) AS value {_ROWS} GROUP BY rater"
    query = text(f"""
        WITH said AS ({rows}), ranked AS (SELECT value, row_number() OVER (ORDER BY value DESC) AS place FROM said)
        SELECT count(*) AS raters, coalesce(sum(value), 0) AS rows, coalesce(max(value), 0) AS most,
            coalesce(sum(value) FILTER (WHERE place <= 10), 0) AS most_of_ten FROM ranked""")
    found = (await connection.execute(query)).one()
    total = int(found.rows) or 1
    return {
        "count": found.raters,
        "rows_each": await _quantiles(connection, rows),
        "largest_share": round(int(found.most) / total, 4),
        "largest_ten_share": round(int(found.most_of_ten) / total, 4),
    }


async def _quantiles(connection: AsyncConnection, rows: str) -> dict[str, float]:
    query = text(f"SELECT percentile_disc({_QUANTILES}) WITHIN GROUP (ORDER BY value) FROM ({rows}) AS said")
    found = await connection.scalar(query) or [0] * 5
    return dict(zip(("least", "median", "p90", "p99", "most"), map(float, found), strict=True))


def _name(topics: Sequence[str], topic: int | None) -> str:
    return "unknown" if topic is None or topic >= len(topics) else f"{topic + 1}: {topics[topic]}"
