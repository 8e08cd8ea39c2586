"""What each unit met and said, summed by the database: of a split, or of a model's versions in a stretch of time.

This sums anew what it is asked for; `feedback.exposure_sums` keeps the sums of a running split as they grow.

Exposures are completions: each carries the unit, the arm, the probability with which it got that arm, and the version
of the policy under which it did. Only what monitoring.outcomes.UnitOutcome needs leaves the database, one row a unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.console_keys import CONSOLE_KEYS
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Experiment
from feedback.metrics import NET_VOTES, FeedbackPolicy, rules_document

FAILED = "(status = 'error' AND error_class IN ('model', 'unknown'))"
"""Whether a version may be blamed: no caller's error is its own, and none of the infrastructure."""


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """What one unit met and said in one arm, while it had one propensity of that arm in one allocation (0: the only).

    `requests`, `ups`, `downs` count completions older than the maturation window; all else counts every one. A
    completion is one up or one down, whichever it has more of, and bad when it `FAILED` or is down. The logarithms are
    natural, of seconds and of tokens, summed over as many completions as the column before them says.
    """

    unit: str
    arm: str
    propensity: float
    requests: int
    ups: int
    downs: int
    exposed: int
    bad: int
    errors: int
    met_at: datetime
    bad_at: datetime | None
    error_at: datetime | None
    aborted: int
    refused: int
    regenerated: int
    first_tokens: int
    log_first_token_seconds: float
    later_tokens: int
    log_later_token_seconds: float
    answers: int
    log_answer_tokens: float
    allocation: int = 0


def _nano(value: str, condition: str) -> str:
    # Whole numbers: their sum does not depend on the order, nor on what was added and taken away on the way.
    return f"coalesce(sum(round(ln({value}) * 1e9)) FILTER (WHERE {condition}), 0)::bigint"


# Votes are counted over the feedback of these completions only: a look must not read a whole project's.
_SUMS = f"""
, heard AS (
    SELECT feedback.*
    FROM met JOIN feedback ON feedback.completion_id = met.completion_id
    WHERE feedback.project = :project AND effective
), voted AS (
    {NET_VOTES.replace("FROM feedback", "FROM heard")}
), again AS (
    SELECT DISTINCT completion_id FROM heard WHERE kind = 'signal' AND name = 'regenerate' AND value = 'true'
), judged AS (
    SELECT met.*, coalesce(net, 0) AS net, again.completion_id IS NOT NULL AS regenerated,
           {FAILED} AS failed,
           created_at <= now() - make_interval(secs => :maturation_seconds) AS ripe,
           status = 'ok' AND output_tokens > 0 AS whole
    FROM met LEFT JOIN voted USING (completion_id) LEFT JOIN again USING (completion_id)
)
SELECT KEYS,
       count(*) FILTER (WHERE ripe) AS requests,
       count(*) FILTER (WHERE ripe AND net > 0) AS ups,
       count(*) FILTER (WHERE ripe AND net < 0) AS downs,
       count(*) AS exposed,
       count(*) FILTER (WHERE failed OR net < 0) AS bad,
       count(*) FILTER (WHERE failed) AS errors,
       min(created_at) AS met_at,
       min(created_at) FILTER (WHERE failed OR net < 0) AS bad_at,
       min(created_at) FILTER (WHERE failed) AS error_at,
       count(*) FILTER (WHERE status = 'aborted') AS aborted,
       count(*) FILTER (WHERE refused) AS refused,
       count(*) FILTER (WHERE regenerated) AS regenerated,
       count(*) FILTER (WHERE time_to_first_token_seconds > 0) AS first_tokens,
       {_nano("time_to_first_token_seconds", "time_to_first_token_seconds > 0")} AS log_first_token_nano,
       count(*) FILTER (WHERE time_per_output_token_seconds > 0) AS later_tokens,
       {_nano("time_per_output_token_seconds", "time_per_output_token_seconds > 0")} AS log_later_token_nano,
       count(*) FILTER (WHERE whole) AS answers,
       {_nano("output_tokens::double precision", "whole")} AS log_answer_tokens_nano,
       min(created_at) FILTER (WHERE NOT ripe) + make_interval(secs => :maturation_seconds) AS ripens_at
FROM judged GROUP BY KEYS
"""

_COLUMNS = """
SELECT completion_id, completions.day AS day, completions.unit AS unit, created_at, status, error_class,
       output_tokens, time_to_first_token_seconds, time_per_output_token_seconds, refused
"""

_OF_ARMS = f"{_COLUMNS}, arm, propensity, coalesce(allocation, 0) AS allocation FROM completions"
_KEYS = "unit, arm, propensity, allocation"

_OF_SPLIT = f"""
WITH met AS (
    {_OF_ARMS} WHERE experiment_id = :experiment_id AND propensity IS NOT NULL
){_SUMS}""".replace("KEYS", _KEYS)

OF_EACH_DAY = f"""
WITH met AS (
    {_OF_ARMS} WHERE experiment_id = :experiment_id AND propensity IS NOT NULL
){_SUMS}""".replace("KEYS", f"{_KEYS}, day")
"""Sums of a whole split, by day."""

OF_CHANGED_DAYS = f"""
WITH changed AS MATERIALIZED (
    SELECT DISTINCT * FROM unnest(CAST(:units AS text[]), CAST(:days AS date[])) AS changed (unit, day)
), met AS (
    {_OF_ARMS} JOIN changed ON changed.unit = completions.unit AND changed.day = completions.day
    WHERE experiment_id = :experiment_id AND propensity IS NOT NULL
){_SUMS}""".replace("KEYS", f"{_KEYS}, day")
"""The same of some units' days."""

_OF_VERSIONS = f"""
WITH met AS (
    {_COLUMNS}, CASE WHEN created_at < :since THEN '{CHAMPION_ARM}' ELSE '{CANDIDATE_ARM}' END AS arm,
    0.5 :: double precision AS propensity, 0 AS allocation
    FROM completions
    WHERE project = :project AND model = :model AND (arm IS NULL OR arm = '{CHAMPION_ARM}')
      AND NOT starts_with(key_id, '{CONSOLE_KEYS}')
      AND ((adapter_id = ANY(:before) AND created_at >= :from_ AND created_at < :since)
           OR (adapter_id = :now AND created_at >= :since))
){_SUMS}""".replace("KEYS", _KEYS)


async def unit_counts(
    connection: AsyncConnection,
    experiment: Experiment,
    *,
    votes: FeedbackPolicy | None = None,
    maturation_seconds: float,
) -> list[UnitCounts]:
    """Sums per unit, arm and propensity of a split; every exposed unit is here, rated or not.

    `votes` says which metrics count as ups and downs; left out, thumbs.
    """
    return await _counts(
        connection,
        _OF_SPLIT,
        {
            "project": experiment.project,
            "experiment_id": experiment.experiment_id,
            "rules": rules_of(votes),
            "maturation_seconds": maturation_seconds,
        },
    )


async def around(
    connection: AsyncConnection,
    project: str,
    model: str,
    *,
    now: str,
    before: Sequence[str],
    from_: datetime,
    since: datetime,
    votes: FeedbackPolicy | None = None,
    maturation_seconds: float,
) -> list[UnitCounts]:
    """Sums per unit of version `now` since its promotion, and of the versions `before` it.

    The first are the arm `candidate`, from `since` on; the others, from `from_` to `since`, are the arm `champion`.
    Requests of a canary, and of operators in the console, count in neither.
    """
    return await _counts(
        connection,
        _OF_VERSIONS,
        {
            "project": project,
            "model": model,
            "now": now,
            "before": list(before),
            "from_": from_,
            "since": since,
            "rules": rules_of(votes),
            "maturation_seconds": maturation_seconds,
        },
    )


async def units_met(
    connection: AsyncConnection, adapter_ids: Sequence[str], *, from_: datetime, since: datetime
) -> int:
    """How many units these versions answered in a stretch of time."""
    found = await connection.scalar(
        text(
            "SELECT count(DISTINCT unit) FROM completions WHERE adapter_id = ANY(:ids) "
            "AND created_at >= :from_ AND created_at < :since"
        ),
        {"ids": list(adapter_ids), "from_": from_, "since": since},
    )
    return int(found or 0)


_EACH = f"""
SELECT unit, arm, propensity, sign(coalesce(net, 0)) :: float8 AS reward,
       coalesce(said.metadata, redacted.metadata) ->> CAST(:key AS text) AS segment,
       CAST(:key AS text) IS NULL OR coalesce(said.completion_id, redacted.completion_id) IS NOT NULL AS known
FROM completions
LEFT JOIN ({NET_VOTES}) AS votes USING (completion_id)
LEFT JOIN completion_texts AS said
       ON CAST(:key AS text) IS NOT NULL AND said.completion_id = completions.completion_id
      AND said.day = completions.day
LEFT JOIN completion_redacted AS redacted
       ON CAST(:key AS text) IS NOT NULL AND redacted.completion_id = completions.completion_id
      AND redacted.day = completions.day
WHERE experiment_id = :experiment_id AND propensity IS NOT NULL
ORDER BY completions.completion_id
"""


async def each(
    connection: AsyncConnection,
    experiment: Experiment,
    *,
    votes: FeedbackPolicy | None = None,
    segment_key: str | None = None,
) -> list[dict[str, Any]]:
    """Every exposure with its `reward` (1 voted up, -1 down, 0 neither) and, of metadata, the value of one key.

    `known` is False where the value is asked for and the metadata are no longer kept, redacted or not.
    """
    values = {
        "project": experiment.project,
        "experiment_id": experiment.experiment_id,
        "rules": rules_of(votes),
        "key": segment_key,
    }
    return [dict(row._mapping) for row in await connection.execute(text(_EACH), values)]


async def _counts(connection: AsyncConnection, statement: str, values: dict[str, Any]) -> list[UnitCounts]:
    return [counts_of(row._mapping) for row in await connection.execute(text(statement), values)]


_NANO = (
    ("log_first_token_seconds", "log_first_token_nano"),
    ("log_later_token_seconds", "log_later_token_nano"),
    ("log_answer_tokens", "log_answer_tokens_nano"),
)


def counts_of(row: Mapping[Any, Any]) -> UnitCounts:
    """A row of sums as they leave the database."""
    values = {name: value for name, value in row.items() if name not in ("ripens_at", "day")}
    for name, nano in _NANO:
        values[name] = values.pop(nano) / 1e9
    return UnitCounts(**values)


def rules_of(votes: FeedbackPolicy | None) -> str:
    """What counts as up and down, as the statements take it."""
    return rules_document((votes or FeedbackPolicy()).rules())
