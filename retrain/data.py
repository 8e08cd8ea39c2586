"""From statements to the frozen rows of one run: split, then rendered in TRL's columns, streamed.

- Raters are split by the hash of their name: up to 50 of them exactly the policy's share is held out, beyond that who
  is held out stays so in every later dataset. A question (near-duplicates count as one) or conversation on both sides
  stays on the side that its own hash says.
- What was said in the last days is `time_forward`, once the record is long enough; the operator's questions are
  `golden`. Neither, nor what is held out, is trained on.
- A run that uses methods in sequence gets the rows of each: what a person said may teach in every stage.
- Demonstrations are repeated, at most four times, until they are a third of what SFT trains on: what people taught
  must not drown in what they merely liked.

Rows that are not trained on hold evaluation items instead of TRL's columns: `prompt`, `source`, and the answers known
to be right (`completion`) and wrong (`rejected`).
"""

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ARRAY, Boolean, Integer, Text, column, func, select, table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.completions import for_training
from feedback.datasets import Row
from feedback.golden import Golden
from feedback.policy import TrainingPolicy
from feedback.review_tables import reviews
from feedback.tables import feedback
from retrain.ballots import demonstrated
from retrain.exact import CHOSEN_IDS, OUTPUT_IDS, PROMPT_IDS, REJECTED_IDS
from retrain.prompts import Prompt, answer_column, prompt_of
from retrain.recipe import Method

DEMONSTRATION_REPEATS_MAX = 4
SHARED_QUESTIONS_HELD_OUT = 1 / 3
"""Share of the questions and conversations on both sides that are kept for evaluation."""
FEW_RATERS = 50
RECORD_TIMES_SLICE = 10
TIME_FORWARD_SHARE_MAX = 0.2
BATCH = 1000

SOURCES: dict[Method, str] = {
    "sft": "source IN ('demonstration', 'approved')",
    "kto": "source IN ('demonstration', 'approved', 'disliked')",
    "dpo": "pair",
}


def methods_of(methods: str) -> list[Method]:
    """The methods of a run, in sequence: `sft+dpo` is SFT, then DPO."""
    return cast(list[Method], methods.split("+"))


def _uses(method: Method, source: str, *, pair: bool) -> bool:
    """Whether a method learns from a statement; the same as `SOURCES`."""
    if method == "dpo":
        return pair
    return source in ("demonstration", "approved") or (method == "kto" and source == "disliked")


def _share(what: str) -> str:
    """A number in [0, 1) that depends on a text alone."""
    return f"('x' || substr(encode(sha256(convert_to({what}, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint / 4294967296.0"


_SIDES = f"""
    WITH raters AS (
        SELECT rater, {_share("'rater:' || rater")} AS share FROM ballots WHERE reason IS NULL GROUP BY 1
    ), placed AS (
        SELECT *, row_number() OVER (ORDER BY share, rater COLLATE "C") AS place, count(*) OVER () AS raters FROM raters
    ), sides AS (
        SELECT rater, CASE WHEN raters > {FEW_RATERS} THEN share < :held_out OR place = 1
            ELSE place <= greatest(1, round(CAST(:held_out AS numeric) * raters)) END AS held_out FROM placed
    )
    UPDATE ballots SET split = CASE WHEN held_out THEN 'held_out' ELSE 'train' END
    FROM sides WHERE sides.rater = ballots.rater AND reason IS NULL"""

_BOTH_SIDES = """
    UPDATE ballots SET reason = :reason, split = NULL FROM (
        SELECT {what}, {share} < :shared AS held_out FROM ballots
        WHERE reason IS NULL AND {what} IS NOT NULL GROUP BY 1 HAVING count(DISTINCT split) > 1
    ) AS shared WHERE shared.{what} = ballots.{what} AND reason IS NULL AND held_out <> (split = 'held_out')"""

_TIME_FORWARD = """
    WITH moments AS (
        SELECT number, coalesce(settled_at, at) AS said, max(at) OVER () AS newest, min(at) OVER () AS oldest
        FROM ballots WHERE reason IS NULL AND split = 'train'
    ), late AS (
        SELECT number FROM moments WHERE newest - oldest >= :record AND said > newest - CAST(:days AS interval)
    )
    UPDATE ballots SET split = 'time_forward' FROM late WHERE late.number = ballots.number
    AND (SELECT count(*) FROM late) <= CAST(:share AS float8) * (SELECT count(*) FROM moments)"""

_TRAINED_BEFORE = """
    UPDATE ballots SET reason = :reason, split = NULL FROM (
        SELECT DISTINCT {what} FROM ballots WHERE split = 'train' AND {what} IS NOT NULL
    ) AS trained WHERE trained.{what} = ballots.{what} AND ballots.split = 'time_forward'"""

_REPEATED = """
    UPDATE ballots SET reason = 'near-duplicate of a question that runs repeat', split = NULL
    WHERE split IN ('held_out', 'time_forward') AND question = ANY(CAST(:repeated AS bigint[]))"""

_ONCE = """
    UPDATE ballots SET reason = 'is the wrong answer of another evaluated row', split = NULL FROM (
        SELECT prompt_key, rejected_key FROM ballots WHERE split IN ('held_out', 'time_forward')
        AND source <> 'disliked' AND rejected_key IS NOT NULL
    ) AS better WHERE split IN ('held_out', 'time_forward') AND source = 'disliked'
    AND ballots.prompt_key = better.prompt_key AND ballots.answer_key = better.rejected_key"""


_LEARNED_BEFORE = """
    WITH old AS (
        SELECT number, row_number() OVER (
            ORDER BY sha256(convert_to(CAST(:since AS text) || completion_id, 'UTF8')), number) AS place
        FROM ballots WHERE reason IS NULL AND split = 'train' AND coalesce(settled_at, at) <= :since
    ), fresh AS (
        SELECT count(*) AS rows FROM ballots
        WHERE reason IS NULL AND split = 'train' AND coalesce(settled_at, at) > :since
    )
    UPDATE ballots SET reason = :reason, split = NULL FROM old, fresh
    WHERE old.number = ballots.number AND old.place > round(fresh.rows * :share / (1 - :share))"""


async def split_statements(
    connection: AsyncConnection,
    policy: TrainingPolicy,
    methods: str,
    *,
    learned_before: datetime | None = None,
    repeated: Sequence[int] = (),
) -> dict[str, Any]:
    """Give every statement its split, and say how many rows that makes.

    Of what was said before `learned_before` a part is trained on again, `replay_share` of all that is. What is near to
    the `repeated` questions is not evaluated with, since every run trains on those.
    """
    await connection.execute(text(_SIDES), {"held_out": policy.held_out_share})
    # Without fresh statistics the planner takes the new splits for empty, and compares every row with every row.
    await connection.execute(text("ANALYZE ballots"))
    for what, label in (("question", "question asked"), ("session", "conversation")):
        share = _share(f"'{what}:' || {what}::text")
        await connection.execute(
            text(_BOTH_SIDES.format(what=what, share=share)),
            {"shared": SHARED_QUESTIONS_HELD_OUT, "reason": f"{label} on both sides of the split"},
        )
    if policy.time_forward_days:
        await _slice_time(connection, timedelta(days=policy.time_forward_days))
    await connection.execute(text(_REPEATED), {"repeated": list(repeated)})
    await connection.execute(text(_ONCE))
    used = " OR ".join(f"({SOURCES[method]})" for method in methods_of(methods))
    await connection.execute(
        text(f"UPDATE ballots SET reason = :reason, split = NULL WHERE split = 'train' AND NOT ({used})"),
        {"reason": f"{methods.upper()} does not use it"},
    )
    if learned_before is not None:
        values = {
            "since": learned_before,
            "share": policy.replay_share,
            "reason": "the champion has learned it",
        }
        await connection.execute(text(_LEARNED_BEFORE), values)
    return await _counts(connection, methods)


async def _slice_time(connection: AsyncConnection, days: timedelta) -> None:
    await connection.execute(
        text(_TIME_FORWARD),
        {"record": RECORD_TIMES_SLICE * days, "days": days, "share": TIME_FORWARD_SHARE_MAX},
    )
    for what, reason in (
        ("question", "question of the last days was asked before"),
        ("session", "conversation of the last days began before"),
    ):
        await connection.execute(text(_TRAINED_BEFORE.format(what=what)), {"reason": reason})


async def _counts(connection: AsyncConnection, methods: str) -> dict[str, Any]:
    """Rows of each split and source, rows of each stage, and how often SFT repeats a demonstration."""
    sources: dict[str, dict[str, int]] = {}
    found = await connection.execute(
        text(
            "SELECT split, source, count(*) FROM ballots WHERE split IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        )
    )
    for split, source, number in found:
        sources.setdefault(split, {})[source] = number
    raters = await connection.execute(
        text(
            "SELECT count(DISTINCT rater), count(DISTINCT rater) FILTER (WHERE split = 'held_out') "
            "FROM ballots WHERE split IS NOT NULL"
        )
    )
    train = sources.get("train", {})
    repeats = _repeats(train) if "sft" in methods_of(methods) else 1
    every, held_out = raters.one()
    stages = await _stage_rows(connection, methods, (repeats - 1) * train.get("demonstration", 0))
    return {
        "train": sum(stages.values()),
        "held_out": sum(sources.get("held_out", {}).values()),
        "time_forward": sum(sources.get("time_forward", {}).values()),
        "train_sources": train,
        "held_out_sources": sources.get("held_out", {}),
        "raters": every,
        "held_out_raters": held_out,
        "demonstration_repeats": repeats,
    } | ({"stages": stages} if len(stages) > 1 else {})


async def _stage_rows(connection: AsyncConnection, methods: str, repeated: int) -> dict[str, int]:
    counted = ", ".join(f"count(*) FILTER (WHERE {SOURCES[m]}) AS {m}" for m in methods_of(methods))
    found = (await connection.execute(text(f"SELECT {counted} FROM ballots WHERE split = 'train'"))).one()
    return {name: number + (repeated if name == "sft" else 0) for name, number in found._mapping.items()}


def _repeats(train: dict[str, int]) -> int:
    demonstrations, liked = train.get("demonstration", 0), train.get("approved", 0)
    if not demonstrations:
        return 1
    return max(1, min(DEMONSTRATION_REPEATS_MAX, math.ceil(liked / 2 / demonstrations)))


async def stream_rows(
    connection: AsyncConnection, methods: str, counts: dict[str, Any], golden: Sequence[Golden]
) -> AsyncIterator[list[Row]]:
    """The rows of every split, in batches of no particular order."""
    await connection.execute(text("CLOSE ALL"))
    await connection.execute(text("DROP TABLE IF EXISTS merged"))
    await connection.execute(text(_MERGED))
    async with connection.stream(_statements(), execution_options={"yield_per": BATCH}) as result:
        async for batch in result.partitions(BATCH):
            made = [(row, found.source) for found in batch for row in _rows(found, methods)]
            taught = [
                row
                for row, source in made
                if row.split == "train" and source == "demonstration" and row.method in (None, "sft")
            ]
            yield [row for row, _ in made] + taught * (counts["demonstration_repeats"] - 1)
    yield [_in_stage(golden_row(item), methods_of(methods)[0], methods) for item in golden]


_MERGED = """
    CREATE TEMPORARY TABLE merged ON COMMIT DROP AS
    SELECT statement, array_agg(DISTINCT completion_id) AS completion_ids,
        array_agg(DISTINCT feedback_id) FILTER (WHERE feedback_id IS NOT NULL) AS feedback_ids
    FROM ballots WHERE statement IS NOT NULL GROUP BY 1 HAVING count(*) > 1"""


def _statements() -> Any:
    """Statements beside their texts."""
    names = ("split", "source", "rater", "completion_id", "other_id", "feedback_id", "review_id")
    typed = (column("number", Integer), column("pair", Boolean))
    ballots = table("ballots", *(column(name, Text) for name in names), *typed)
    merged = table(
        "merged",
        column("statement", Integer),
        column("completion_ids", ARRAY(Text)),
        column("feedback_ids", ARRAY(Text)),
    )
    about, better = for_training().subquery("about"), for_training().subquery("better")
    return (
        select(
            ballots,
            about.c.endpoint,
            about.c.request,
            about.c.output_text,
            about.c.prompt_token_ids,
            about.c.output_token_ids,
            about.c.redacted,
            better.c.output_text.label("better_text"),
            better.c.output_token_ids.label("better_token_ids"),
            better.c.redacted.label("better_redacted"),
            func.coalesce(func.to_jsonb(reviews.c.answer), feedback.c.value).label("value"),
            merged.c.completion_ids,
            merged.c.feedback_ids,
        )
        .join(about, about.c.completion_id == ballots.c.completion_id)
        .join(better, better.c.completion_id == ballots.c.other_id, isouter=True)
        .join(feedback, feedback.c.feedback_id == ballots.c.feedback_id, isouter=True)
        .join(reviews, reviews.c.review_id == ballots.c.review_id, isouter=True)
        .join(merged, merged.c.statement == ballots.c.number, isouter=True)
        .where(ballots.c.split.is_not(None))
    )


def _rows(found: Any, methods: str) -> Iterator[Row]:
    """What a statement becomes: an evaluation item, or a row of each method that learns from it."""
    used = methods_of(methods)
    for method in used if found.split == "train" else used[:1]:
        if found.split != "train" or _uses(method, found.source, pair=found.pair):
            yield _in_stage(_row(found, method), method, methods)


def _in_stage(row: Row, method: Method, methods: str) -> Row:
    """The row with its method, where it is not the dataset's."""
    return row if method == methods else replace(row, method=method)


def _row(found: Any, method: Method) -> Row:
    prompt, right, wrong = prompt_of(found.endpoint, found.request), found.output_text, None
    if found.source == "demonstration":
        right, wrong = demonstrated(found.value), found.output_text
    elif found.source == "preferred":
        right, wrong = found.better_text, found.output_text
    elif found.source == "disliked":
        right, wrong = None, found.output_text
    columns = (
        _train_columns(method, prompt, right, wrong)
        if found.split == "train"
        else _item_columns(prompt, found.source, right, wrong)
    )
    if found.split == "train":
        columns |= _served_tokens(found, method)
    others = [found.other_id] if found.other_id else []
    return Row(
        split=found.split,
        columns=columns,
        rater=found.rater,
        completion_ids=tuple(sorted(found.completion_ids or [found.completion_id, *others])),
        feedback_ids=tuple(sorted(found.feedback_ids or filter(None, [found.feedback_id]))),
    )


def _served_tokens(found: Any, method: Method) -> dict[str, Any]:
    """The recorded tokens of the answers in a row that were served as they stand there."""
    if found.redacted or not found.prompt_token_ids:
        return {}
    tokens = {PROMPT_IDS: found.prompt_token_ids}
    if method == "dpo":
        answers = {REJECTED_IDS: found.output_token_ids}
        if found.source == "preferred" and not found.better_redacted:
            answers[CHOSEN_IDS] = found.better_token_ids
    else:
        answers = {OUTPUT_IDS: found.output_token_ids if found.source in ("approved", "disliked") else None}
    answers = {name: ids for name, ids in answers.items() if ids}
    return tokens | answers if answers else {}


def _train_columns(method: Method, prompt: Prompt, right: str | None, wrong: str | None) -> dict[str, Any]:
    if method == "kto":
        answer = right if right is not None else wrong
        assert answer is not None
        return {"prompt": prompt, "completion": answer_column(prompt, answer), "label": right is not None}
    assert right is not None
    if method == "sft":
        return {"prompt": prompt, "completion": answer_column(prompt, right)}
    assert wrong is not None
    return {
        "prompt": prompt,
        "chosen": answer_column(prompt, right),
        "rejected": answer_column(prompt, wrong),
    }


def _item_columns(prompt: Prompt, source: str, right: str | None, wrong: str | None) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "source": source,
        "completion": None if right is None else answer_column(prompt, right),
        "rejected": None if wrong is None else answer_column(prompt, wrong),
    }


def golden_row(item: Golden) -> Row:
    """A golden question as an item of the evaluation."""
    return Row("golden", _item_columns(item.prompt, "golden", item.answer, None), None, (), ())
