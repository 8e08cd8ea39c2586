"""What each abuse gets into a dataset, with the defences off and on: `python -m tests.bench.defences`.

Each attack is added to what one hundred honest people said, four times each; a share is of all rows admitted. Seeded:
the table is the same on every machine.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.postgres import EmbeddedPostgres
from feedback.database import Database, migrate
from feedback.policy import TrainingPolicy
from tests.retrain.crowds import Attack, every_attack, honest
from tests.retrain.rated_builders import kept_share, select

OFF = TrainingPolicy.model_validate(
    {"defences": {"enabled": False}, "rows_per_rater_max": 1000, "rows_per_rater_topic_max": 1000}
)


async def admitted(connection: AsyncConnection, attack: Attack) -> tuple[int, float]:
    """Rows of the attack, and their share."""
    query = "SELECT count(*) FROM ballots WHERE reason IS NULL AND NOT implied"
    ids: dict[str, Any] = {"ids": [one.feedback_id for one in attack.said]}
    theirs = int(await connection.scalar(text(f"{query} AND feedback_id = ANY(:ids)"), ids) or 0)
    every = int(await connection.scalar(text(query)) or 1)
    return theirs, theirs / every


async def table(url: str) -> None:
    """Print a row for each attack."""
    print(
        f"{'attack':<24} {'said':>5} {'off':>5} {'share':>6} {'on':>4} {'share':>6} {'at most':>8} {'honest kept':>12}"
    )
    async with Database(url, pool_size=1) as database:
        for attack in every_attack():
            people, figures = honest(), []
            for policy in (OFF, TrainingPolicy()):
                async with database.engine.connect() as connection, connection.begin() as transaction:
                    await select(connection, [*people, *attack.said], policy)
                    figures.append(
                        (*await admitted(connection, attack), await kept_share(connection, people))
                    )
                    await transaction.rollback()
            (off, off_share, _), (on, on_share, kept) = figures
            print(
                f"{attack.name:<24} {len(attack.said):>5} {off:>5} {off_share:>6.1%} {on:>4} {on_share:>6.1%} "
                f"{attack.rows_max:>8} {kept:>7.1%}",
                flush=True,
            )


def main() -> None:
    """Print the table, from a database of its own."""
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as name:
        Path(name).chmod(0o711)
        settings = {"fsync": "off", "synchronous_commit": "off"}
        with EmbeddedPostgres(Path(name) / "postgres", settings=settings) as server:
            migrate(server.url)
            asyncio.run(table(server.url))


if __name__ == "__main__":
    main()
