"""What decides between ballots: one statement a rule, each leaving out some under a reason. All inside PostgreSQL.

The rules run in order over a temporary table, `ballots` (retrain.ballots.Ballot, with a number), which ends with the
transaction. A ballot that has a reason no longer counts for the rules after it. `reviewed` ballots pass the rules
about raters, facts and limits.

First those who may not be believed, so that they outvote nobody; then what is held of each answer (the newest word of
each rater, the majority, one ballot for each answer); then what newer corrections overtake; then limits. Equal ballots
give equal outcomes in whatever order they arrived: ties are broken by time, then by id.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.policy import TrainingPolicy

UNSUPPORTED = "states facts that too few others state; waits for a reviewer"
ONE_WAY_VOTES_MIN = 10
ONE_WAY_CHANCE_MAX = 0.001
BURST_TIMES_USUAL = 5
BURST_RECORD_HOURS_MIN = 7 * 24
BURST_SAME_SHARE, BURST_USUAL_SHARE = 0.9, 0.7

CREATE = """
CREATE TEMPORARY TABLE ballots (
    completion_id text NOT NULL, feedback_id text, review_id text, rater text NOT NULL, at timestamptz NOT NULL,
    source text, reason text, reviewed boolean NOT NULL, implied boolean NOT NULL, session text, version integer,
    chat boolean NOT NULL, prompt_key bigint, answer_key bigint, rejected_key bigint, other_id text,
    pair boolean NOT NULL, corrected boolean NOT NULL, claims bigint[], fresh bigint[], language text,
    characters integer, topic integer, features bytea, number integer PRIMARY KEY, question bigint,
    settled_at timestamptz, statement integer, split text
) ON COMMIT DROP
"""
# `question` is prompt_key, or the group of near-duplicates it is in; `statement` the ballot that stands for this one.

ID = "coalesce(feedback_id, review_id)"


@dataclass(frozen=True, slots=True)
class Rule:
    """Ballots whose `number` the query selects are left out under `reason`."""

    reason: str
    query: str


FAST = Rule(
    "its rater said more in an hour than people can",
    """
    WITH hours AS (
        SELECT rater, date_bin('1 hour', at, 'epoch') AS hour FROM ballots
        WHERE NOT implied AND NOT reviewed AND review_id IS NULL GROUP BY 1, 2 HAVING count(*) > :per_hour
    )
    SELECT number FROM ballots JOIN hours ON ballots.rater = hours.rater
    AND date_bin('1 hour', at, 'epoch') = hours.hour WHERE reason IS NULL AND NOT reviewed""",
)
ONE_WAY = Rule(
    "its rater votes the same whatever the answer",
    """
    WITH votes AS (
        SELECT rater, count(*) AS said, count(*) FILTER (WHERE source = 'approved') AS up FROM ballots
        WHERE reason IS NULL AND NOT implied AND source IN ('approved', 'disliked') GROUP BY 1
    ), others AS (
        SELECT rater, said, up, sum(said) OVER () - said AS by_others,
            (sum(up) OVER () - up + 1.0) / (sum(said) OVER () - said + 2.0) AS usual FROM votes
    ), one_way AS (
        SELECT rater FROM others WHERE said >= :votes AND by_others >= 2 * :votes AND
        ((up = said AND power(usual, said) < :chance) OR (up = 0 AND power(1 - usual, said) < :chance))
    )
    SELECT number FROM ballots JOIN one_way USING (rater)
    WHERE reason IS NULL AND NOT reviewed AND NOT implied AND source IN ('approved', 'disliked')""",
)
DISTRUSTED = Rule(
    "its rater disagrees with everybody",
    "SELECT number FROM ballots WHERE rater = ANY(:distrusted) AND reason IS NULL AND NOT reviewed",
)
BURST = Rule(
    "newcomers came in one hour and all said the same",
    """
    WITH span AS (
        SELECT min(at) AS start, extract(epoch FROM max(at) - min(at)) / 3600 AS hours FROM ballots WHERE NOT implied
    ),
    first AS (
        SELECT rater, date_bin('1 hour', min(at), 'epoch') AS hour FROM ballots WHERE NOT implied GROUP BY 1
    ), new AS (
        SELECT topic, hour, source, rater, number FROM ballots JOIN first USING (rater)
        WHERE date_bin('1 hour', at, 'epoch') = hour AND reason IS NULL AND NOT implied AND NOT reviewed
        AND source IS NOT NULL
    ), looked_at AS (
        -- On each topic, and on all together.
        SELECT * FROM new UNION ALL SELECT -1, hour, source, rater, number FROM new
    ), sources AS (
        SELECT topic, hour, source, count(DISTINCT rater) AS raters, count(*) AS said FROM looked_at GROUP BY 1, 2, 3
    ), bursts AS (
        SELECT *, sum(said) OVER (PARTITION BY topic, hour) AS in_hour,
            (SELECT count(*) FROM new) AS in_all,
            sum(said) FILTER (WHERE topic = -1) OVER (PARTITION BY source) AS alike,
            sum(raters) OVER (PARTITION BY topic) AS newcomers FROM sources
    )
    SELECT DISTINCT looked_at.number FROM looked_at JOIN bursts USING (topic, hour, source), span
    WHERE bursts.hour >= span.start + make_interval(hours => :record_hours) AND bursts.raters >= :newcomers
    AND bursts.raters > :times * greatest(1, (bursts.newcomers - bursts.raters) / span.hours)
    AND bursts.said >= :same_share * bursts.in_hour
    AND bursts.alike - bursts.said <= :usual_share * (bursts.in_all - bursts.in_hour)""",
)
REPLACED = Rule(
    "replaced by a newer word of its rater on the same answer",
    f"""
    SELECT number FROM (
        SELECT number, row_number() OVER (
            PARTITION BY prompt_key, answer_key, rater ORDER BY reviewed DESC, at DESC, {ID} DESC, implied
        ) AS place FROM ballots WHERE reason IS NULL AND source <> 'preferred'
    ) AS words WHERE place > 1""",
)
_SIDES = """
    WITH sides AS (
        SELECT prompt_key, answer_key, bool_or(reviewed AND source <> 'disliked') AS let_in,
            count(*) FILTER (WHERE source <> 'disliked') AS above, count(*) FILTER (WHERE source = 'disliked') AS below
        FROM ballots WHERE reason IS NULL AND source <> 'preferred' GROUP BY 1, 2
        HAVING count(*) FILTER (WHERE source = 'disliked') > 0
    )
    SELECT number FROM ballots JOIN sides USING (prompt_key, answer_key)
    WHERE reason IS NULL AND source <> 'preferred' AND """
DISAGREED = Rule("raters disagree", f"{_SIDES} above = below AND NOT let_in")
OUTVOTED = Rule(
    "outvoted on the same answer",
    f"{_SIDES} ((above > below OR let_in) = (source = 'disliked')) AND above > 0",
)
_SETTLE = f"""
    WITH settled AS (
        SELECT number, max(at) OVER answer AS newest, first_value(number) OVER (
            answer ORDER BY source = 'demonstration' DESC, reviewed DESC, at, {ID}
        ) AS first FROM ballots WHERE reason IS NULL AND source <> 'preferred'
        WINDOW answer AS (PARTITION BY prompt_key, answer_key)
    )
    UPDATE ballots SET statement = settled.first, settled_at = settled.newest
    FROM settled WHERE settled.number = ballots.number"""
MERGED = Rule(
    "same answer to the same question, counted once",
    "SELECT number FROM ballots WHERE reason IS NULL AND statement <> number",
)
SUPERSEDED = Rule(
    "superseded by a demonstration",
    f"""
    WITH newest AS (
        SELECT DISTINCT ON (prompt_key) prompt_key, number, settled_at FROM ballots
        WHERE reason IS NULL AND source = 'demonstration'
        ORDER BY prompt_key, reviewed DESC, settled_at DESC, {ID} DESC
    )
    SELECT ballots.number FROM ballots JOIN newest USING (prompt_key)
    WHERE reason IS NULL AND source IN ('demonstration', 'approved') AND ballots.number <> newest.number
    AND ballots.settled_at <= newest.settled_at""",
)
CORRECTED = Rule(
    "approved answer was corrected elsewhere",
    """
    WITH wrong AS (
        SELECT rejected_key AS answer_key, max(settled_at) AS newest FROM ballots
        WHERE reason IS NULL AND source = 'demonstration' AND corrected GROUP BY 1
    )
    SELECT number FROM ballots JOIN wrong USING (answer_key)
    WHERE reason IS NULL AND source = 'approved' AND NOT reviewed AND settled_at <= newest""",
)
SUPPORT = Rule(
    UNSUPPORTED,
    """
    WITH fresh_facts AS MATERIALIZED (SELECT DISTINCT unnest(fresh) AS claim FROM ballots WHERE reason IS NULL),
    said AS (SELECT *, at - min(at) OVER (PARTITION BY rater) AS age FROM ballots),
    supported AS (
        SELECT topic, claim FROM said, unnest(claims) AS claim
        WHERE source IN ('demonstration', 'approved') AND (reason IS NULL OR reason = ANY(:merged)) AND age >= :age
        AND claim IN (SELECT claim FROM fresh_facts) GROUP BY 1, 2 HAVING count(DISTINCT rater) >= :supporters
    )
    SELECT number FROM ballots WHERE reason IS NULL AND fresh IS NOT NULL AND NOT reviewed AND EXISTS (
        SELECT FROM unnest(fresh) AS fact WHERE NOT EXISTS (
            SELECT FROM supported WHERE supported.topic = ballots.topic AND supported.claim = fact
        )
    )""",
)
NEAR_DUPLICATE = Rule(
    "near-duplicate of a question with the same answer",
    f"""
    SELECT number FROM (
        SELECT number, row_number() OVER (
            PARTITION BY question, answer_key, source = 'disliked'
            ORDER BY reviewed DESC, source = 'demonstration' DESC, settled_at DESC, {ID} DESC
        ) AS place FROM ballots WHERE reason IS NULL AND source <> 'preferred'
    ) AS alike WHERE place > 1""",
)
IDENTICAL = Rule(
    "over the limit of corrections with the same text",
    f"""
    SELECT number FROM (
        SELECT number, row_number() OVER (PARTITION BY answer_key ORDER BY settled_at DESC, {ID}) AS place
        FROM ballots WHERE reason IS NULL AND source = 'demonstration' AND NOT reviewed
    ) AS alike WHERE place > :identical""",
)
GOLDEN = Rule(
    "near-duplicate of a golden question",
    "SELECT number FROM ballots WHERE reason IS NULL AND question = ANY(:golden)",
)
_PLACE = f"""
    SELECT number FROM (
        SELECT number, row_number() OVER (
            PARTITION BY rater, source = 'preferred'{{topic}}
            ORDER BY source = 'demonstration' DESC, coalesce(settled_at, at) DESC, {ID} DESC, answer_key
        ) AS place FROM ballots WHERE reason IS NULL AND NOT reviewed
    ) AS said WHERE place > """
PER_TOPIC = Rule(
    "over the limit of rows of one rater on one topic", _PLACE.format(topic=", topic") + ":per_topic"
)
PER_RATER = Rule("over the limit of rows of one rater", _PLACE.format(topic="") + ":per_rater")
OTHER_FORM = Rule(
    "other kind of prompt than most",
    """
    SELECT number FROM ballots WHERE reason IS NULL
    AND chat <> (SELECT count(*) FILTER (WHERE chat) * 2 >= count(*) FROM ballots WHERE reason IS NULL)""",
)


async def apply_rules(
    connection: AsyncConnection, policy: TrainingPolicy, *, distrusted: list[str], golden: list[int]
) -> None:
    """Leave out what the rules leave out; afterwards ballots without a reason are statements."""
    guard = policy.defences
    if guard.enabled:
        await _apply(connection, FAST, per_hour=guard.opinions_per_hour_max)
        if not guard.trust_raters:
            await _apply(connection, ONE_WAY, votes=ONE_WAY_VOTES_MIN, chance=ONE_WAY_CHANCE_MAX)
            await _apply(connection, DISTRUSTED, distrusted=distrusted)
        await _apply(
            connection,
            BURST,
            record_hours=BURST_RECORD_HOURS_MIN,
            newcomers=guard.burst_newcomers_min,
            times=BURST_TIMES_USUAL,
            same_share=BURST_SAME_SHARE,
            usual_share=BURST_USUAL_SHARE,
        )
    for rule in (REPLACED, DISAGREED, OUTVOTED):
        await _apply(connection, rule)
    await connection.execute(text(_SETTLE))
    # Without fresh statistics the planner takes what was just settled for empty, and compares every row with every row.
    await connection.execute(text("ANALYZE ballots"))
    for rule in (MERGED, SUPERSEDED, CORRECTED):
        await _apply(connection, rule)
    if guard.enabled and guard.new_facts != "allow":
        await _apply(
            connection,
            SUPPORT,
            merged=[MERGED.reason, SUPERSEDED.reason],
            age=timedelta(hours=guard.support_rater_age_hours_min),
            supporters=guard.support_raters_min if guard.new_facts == "support" else 2**31 - 1,
        )
    await _apply(connection, NEAR_DUPLICATE)
    if guard.enabled:
        await _apply(connection, IDENTICAL, identical=guard.identical_corrections_max)
    await _apply(connection, GOLDEN, golden=golden)
    await _apply(connection, PER_TOPIC, per_topic=policy.rows_per_rater_topic_max)
    await _apply(connection, PER_RATER, per_rater=policy.rows_per_rater_max)
    await _apply(connection, OTHER_FORM)


async def _apply(connection: AsyncConnection, rule: Rule, **values: Any) -> None:
    await connection.execute(
        text(
            f"UPDATE ballots SET reason = :reason FROM ({rule.query}) AS left_out "
            "WHERE ballots.number = left_out.number"
        ),
        {"reason": rule.reason, **values},
    )
