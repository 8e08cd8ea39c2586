"""What other systems export is imported whole, once, and what is wrong with it is named line by line."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from feedback import completions, erasures, keys
from feedback.adapters import get as get_adapter
from feedback.database import Database
from feedback.errors import HoneError
from feedback.importers.formats import FORMATS, chosen, in_order
from feedback.importers.load import Summary, Target, batches, store
from feedback.importers.rows import BadRow, Row, read_rows
from feedback.metrics import FeedbackPolicy, Metric
from feedback.policy import ModelPolicy
from feedback.privacy_policy import PrivacyPolicy
from tests.builders import PROJECT, a_model

EXPORTS = Path(__file__).parent / "exports"
POLICY = ModelPolicy(feedback=FeedbackPolicy(metrics={"helpful": Metric(), "solved": Metric(level="any")}))


async def target(database: Database, source: str, **changes: Any) -> Target:
    """Everything that is imported belongs to version 0 of `support`."""
    async with database.begin() as connection:
        await a_model(connection)
        adapter = await get_adapter(connection, PROJECT, "support@0")
        secret = await keys.service_secret(connection, "pseudonym")
    made = Target(
        PROJECT, adapter, source, consent=True, secret=secret, policy=POLICY, thumbs=("user-feedback",)
    )
    return replace(made, **changes)


async def bring_in(
    database: Database, *paths: Path, size: int = 500, **changes: Any
) -> tuple[Summary, list[BadRow]]:
    summary, bad = Summary(), list[BadRow]()
    for path in paths:
        source = chosen(None, path)
        whose = await target(database, source, **changes)
        for batch in batches(read_rows(path), FORMATS[source], size):
            async with database.begin() as connection:
                bad += await store(connection, batch, whose, summary)
    return summary, bad


async def rows_of(database: Database, query: str) -> Sequence[Any]:
    async with database.begin() as connection:
        return (await connection.execute(text(query))).all()


async def all_completions(database: Database) -> list[dict[str, Any]]:
    async with database.begin() as connection:
        found = await connection.execute(completions.with_text().order_by(text("created_at, output_text")))
        return [dict(row._mapping) for row in found]


SAID = "SELECT kind, name, value, comment, effective FROM feedback ORDER BY created_at, kind"


async def test_a_rated_message_of_open_webui_is_a_completion_with_the_branch_before_it(
    database: Database,
) -> None:
    await bring_in(database, EXPORTS / "open_webui.json")
    first = (await all_completions(database))[0]
    assert [one["content"] for one in first["request"]["messages"]] == [
        "May I return a lamp?",
        "Yes, within 30 days.",
        "And without the box?",
    ]
    assert first["output_text"] == "Only with the box."
    assert (first["model"], first["version"], first["engine"]) == ("support", 0, "")
    assert first["endpoint"] == "import:open-webui"
    assert first["metadata"] == {"imported_model": "llama3.2:3b"}
    assert first["rater"].startswith("rater-")
    assert first["consent"] is True
    assert first["created_at"].timestamp() == 1763370055


async def test_a_thumb_of_open_webui_is_a_rating_and_an_arena_a_preference(database: Database) -> None:
    summary, bad = await bring_in(database, EXPORTS / "open_webui.json")
    said = await rows_of(database, SAID)
    ids = {one["output_text"]: one["completion_id"] for one in await all_completions(database)}
    assert [tuple(row) for row in said] == [
        ("rating", "thumbs", False, "The box is not needed.", True),
        ("preference", "preference", ids["From 50 euros on."], None, True),
        ("rating", "thumbs", True, None, True),
    ]
    worse = await rows_of(database, "SELECT completion_id FROM feedback WHERE kind = 'preference'")
    assert worse[0].completion_id == ids["No."]
    assert [(one.line > 1, "snapshot" in one.reason) for one in bad] == [(True, True)]
    assert summary.skipped == Counter({"nobody gave a thumb": 1})


async def test_scores_of_langfuse_find_the_generation_of_their_trace(database: Database) -> None:
    summary, _ = await bring_in(
        database, EXPORTS / "langfuse_observations.jsonl", EXPORTS / "langfuse_scores.csv"
    )
    opening, sunday = await all_completions(database)
    assert [one["role"] for one in opening["request"]["messages"]] == ["system", "user"]
    assert (opening["output_text"], sunday["output_text"]) == ("At nine.", "Yes.")
    assert (opening["session"], opening["prompt_tokens"], opening["output_tokens"]) == ("chat-77", 24, 9)
    said = await rows_of(
        database, "SELECT completion_id, kind, name, value, comment FROM feedback ORDER BY feedback_id"
    )
    assert Counter((row.completion_id, row.kind, row.name, row.value) for row in said) == Counter(
        [
            (opening["completion_id"], "rating", "thumbs", True),
            (sunday["completion_id"], "rating", "thumbs", False),
            (sunday["completion_id"], "demonstration", "demonstration", "No, on Sundays we are closed."),
            (sunday["completion_id"], "rating", "thumbs", True),
        ]
    )
    assert "Quick\nand right" in {row.comment for row in said}
    assert summary.skipped["an evaluator said it, not a person"] == 1


async def test_what_cannot_be_used_is_named_with_its_line(database: Database) -> None:
    _, bad = await bring_in(
        database, EXPORTS / "langfuse_observations.jsonl", EXPORTS / "langfuse_scores.csv"
    )
    assert [(one.line, one.reason.split(";")[0][:44]) for one in bad] == [
        (4, "'input' is \"\""),
        (5, "it is not JSON: unexpected control character"),
        (7, "what it is about, 'trace/deadbeefdeadbeefdea"),
        (8, "Metric 'tone' is not declared for model 'sup"),
        (10, "it has 2 cells"),
    ]


async def test_the_tables_of_tensorzero_meet_by_the_ids_of_their_rows(database: Database) -> None:
    tables = [EXPORTS / f"tensorzero_{name}.csv" for name in ("boolean_feedback", "comment_feedback")]
    tables += [EXPORTS / "tensorzero_demonstration_feedback.csv", EXPORTS / "tensorzero_chat_inference.csv"]
    summary, bad = await bring_in(database, *in_order(tables, None))
    repaired, price = await all_completions(database)
    assert repaired["request"]["messages"][0] == {"role": "system", "content": "You help."}
    assert repaired["output_text"] == "Yes, in our workshop."
    assert repaired["metadata"] == {"imported_model": "gpt_4o_mini", "function": "answer", "shop": "north"}
    assert repaired["duration_seconds"] == 0.812
    assert price["message"]["tool_calls"][0]["function"] == {"name": "price", "arguments": '{"of": "kettle"}'}
    said = await rows_of(database, "SELECT completion_id, kind, name, value FROM feedback")
    assert {tuple(row) for row in said} == {
        (repaired["completion_id"], "rating", "helpful", True),
        (price["completion_id"], "rating", "solved", False),
        (price["completion_id"], "comment", "comment", "Nobody told me the price."),
        (repaired["completion_id"], "demonstration", "demonstration", "Yes, within a week."),
    }
    assert [one.line for one in bad] == [4, 5]
    assert summary.skipped["an evaluator said it, not a person"] == 1


def as_clickhouse_writes_parquet(source: Path, into: Path) -> None:
    """The same table as Parquet: identifiers as 16 bytes, truth as such, tags as a map."""
    with source.open() as file:
        rows = list(csv.DictReader(file))
    columns = {
        "id": pa.array([UUID(row["id"]).bytes for row in rows], pa.binary(16)),
        "target_id": pa.array([UUID(row["target_id"]).bytes for row in rows], pa.binary(16)),
        "metric_name": pa.array([row["metric_name"].encode() for row in rows], pa.binary()),
        "value": pa.array([row["value"] == "true" for row in rows]),
        "tags": pa.array([[("user_id", "u-9")]] * len(rows), pa.map_(pa.string(), pa.string())),
    }
    pq.write_table(pa.table(columns), into)


async def test_a_table_says_the_same_as_csv_and_as_parquet(database: Database, tmp_path: Path) -> None:
    inferences, feedback = (
        EXPORTS / "tensorzero_chat_inference.csv",
        EXPORTS / "tensorzero_boolean_feedback.csv",
    )
    as_clickhouse_writes_parquet(feedback, tmp_path / "feedback.parquet")
    await bring_in(database, inferences, tmp_path / "feedback.parquet")
    said = await rows_of(database, "SELECT name, value, metadata FROM feedback ORDER BY name")
    assert [tuple(row) for row in said] == [
        ("helpful", True, {"user_id": "u-9"}),
        ("solved", False, {"user_id": "u-9"}),
    ]


async def test_stored_completions_of_openai_bring_their_messages(database: Database) -> None:
    _, bad = await bring_in(database, EXPORTS / "openai_stored.jsonl")
    (haiku,) = await all_completions(database)
    assert haiku["request"]["messages"] == [{"role": "user", "content": "write a haiku about ai"}]
    assert (haiku["output_text"], haiku["finish_reason"]) == ("Mind of circuits hum", "stop")
    assert haiku["metadata"] == {"imported_model": "gpt-4o-2024-08-06", "shop": "north"}
    assert [(one.line, "messages" in one.reason or "list" in one.reason) for one in bad] == [
        (2, True),
        (3, True),
    ]


ALL = [
    "open_webui.json",
    "langfuse_observations.jsonl",
    "langfuse_scores.csv",
    "tensorzero_chat_inference.csv",
]
ALL += ["tensorzero_boolean_feedback.csv", "tensorzero_comment_feedback.csv", "openai_stored.jsonl"]


async def test_importing_twice_changes_nothing(database: Database) -> None:
    everything = """
        SELECT (SELECT json_agg(row_to_json(one) ORDER BY feedback_id) FROM feedback AS one),
               (SELECT json_agg(row_to_json(one) ORDER BY completion_id) FROM completions AS one),
               (SELECT json_agg(row_to_json(one) ORDER BY source, source_id) FROM imported AS one)"""
    first, _ = await bring_in(database, *(EXPORTS / name for name in ALL))
    before = await rows_of(database, everything)
    again, _ = await bring_in(database, *(EXPORTS / name for name in ALL))
    assert (again.completions, again.feedback) == (0, 0)
    assert again.known == first.completions + first.feedback
    await bring_in(database, *(EXPORTS / name for name in ALL), size=1)
    assert await rows_of(database, everything) == before


async def test_a_thumb_turned_round_at_the_source_replaces_the_earlier(
    database: Database, tmp_path: Path
) -> None:
    await bring_in(database, EXPORTS / "open_webui.json")
    (row, *_) = json.loads((EXPORTS / "open_webui.json").read_text())
    row["data"]["rating"], row["updated_at"] = 1, row["updated_at"] + 60
    (tmp_path / "later.json").write_text(json.dumps([row]))
    await bring_in(database, tmp_path / "later.json")
    await bring_in(database, EXPORTS / "open_webui.json")
    said = await rows_of(
        database, "SELECT value, effective FROM feedback WHERE comment IS NOT NULL ORDER BY created_at"
    )
    assert [tuple(one) for one in said] == [(False, False), (True, True)]


async def test_what_was_deleted_here_does_not_come_back(database: Database) -> None:
    await bring_in(database, EXPORTS / "open_webui.json")
    async with database.begin() as connection:
        for table in ("completions", "completion_texts", "feedback"):
            await connection.execute(text(f"DELETE FROM {table}"))
    again, _ = await bring_in(database, EXPORTS / "open_webui.json")
    assert (again.completions, again.feedback) == (0, 0)
    assert again.skipped["what it is about was deleted here"] == 3


async def test_what_a_person_had_erased_does_not_come_back(database: Database, tmp_path: Path) -> None:
    user = json.loads((EXPORTS / "open_webui.json").read_text())[0]["user_id"]
    await bring_in(database, EXPORTS / "open_webui.json")
    async with database.begin() as connection:
        erasure = await erasures.request(connection, PROJECT, rater=user, by="test")
    await erasures.advance(database, erasure.erasure_id, tmp_path)
    left = len(await all_completions(database))
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM imported"))
    again, _ = await bring_in(database, EXPORTS / "open_webui.json")
    assert len(await all_completions(database)) == left == 2
    assert again.skipped["it was erased here"] > 0


async def test_an_erasure_waits_for_an_import_that_looked_for_tombstones_before_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "LOCK_TIMEOUT", "50ms")
    await bring_in(database, EXPORTS / "langfuse_observations.jsonl")
    whose = await target(database, "langfuse")
    [only_feedback] = batches(read_rows(EXPORTS / "langfuse_scores.csv"), FORMATS["langfuse"])
    async with database.begin() as importing:
        await store(importing, only_feedback, whose, Summary())
        async with database.begin() as connection:
            asked = await erasures.request(connection, PROJECT, rater="ada@example.org", by="test")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await erasures.advance(database, asked.erasure_id, tmp_path)
    assert (await erasures.advance(database, asked.erasure_id, tmp_path)).phase == "done"


async def test_two_projects_may_import_the_same_file(database: Database) -> None:
    await bring_in(database, EXPORTS / "openai_stored.jsonl")
    summary, _ = await bring_in(database, EXPORTS / "openai_stored.jsonl", project="other")
    assert summary.completions == 1
    found = await all_completions(database)
    assert {one["project"] for one in found} == {PROJECT, "other"}


async def test_nothing_of_a_rater_is_kept_but_a_pseudonym(database: Database) -> None:
    await bring_in(database, EXPORTS / "langfuse_observations.jsonl", EXPORTS / "langfuse_scores.csv")
    for table in ("completions", "completion_texts", "feedback", "imported"):
        assert "ada@example.org" not in str(
            await rows_of(database, f"SELECT row_to_json({table}) FROM {table}")
        )


async def test_what_a_policy_replaces_is_replaced_in_imported_text_too(
    database: Database, tmp_path: Path
) -> None:
    (row, *_) = json.loads((EXPORTS / "open_webui.json").read_text())
    row["data"]["comment"] = "Write to ada.lovelace@example.org"
    row["snapshot"]["chat"]["chat"]["history"]["messages"]["q1"]["content"] = "I am ada.lovelace@example.org"
    (tmp_path / "export.json").write_text(json.dumps([row]))
    policy = POLICY.model_copy(update={"privacy": PrivacyPolicy(redaction="everything")})
    summary, _ = await bring_in(database, tmp_path / "export.json", policy=policy)
    assert (summary.completions, summary.feedback) == (1, 1)
    for table in ("completions", "completion_texts", "completion_redacted", "feedback"):
        assert "ada.lovelace" not in str(await rows_of(database, f"SELECT row_to_json({table}) FROM {table}"))


def test_a_file_without_a_header_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text('"0192ced0-a8a4-7472-8a02-d45ad8b75a67","exact_match",false\n')
    with pytest.raises(HoneError, match="CSVWithNames"):
        chosen(None, tmp_path / "bare.csv")


def test_a_file_of_no_known_format_is_refused_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"colour": "red"}\n')
    with pytest.raises(HoneError, match=r"the columns colour, which is none .* --format open-webui"):
        chosen(None, tmp_path / "other.jsonl")


def test_a_gzipped_export_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain = EXPORTS / "langfuse_observations.jsonl"
    (tmp_path / "export.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_rows(tmp_path / "export.jsonl.gz")) == list(read_rows(plain))


def test_a_list_that_breaks_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('[{"a": 1},\n {"a": 2},\n {"a": oops},\n {"a": 3}]')
    rows = list(read_rows(tmp_path / "broken.json"))
    assert rows[:2] == [Row(1, {"a": 1}), Row(2, {"a": 2})]
    assert isinstance(rows[2], BadRow) and rows[2].line == 3 and len(rows) == 3


@given(
    items=st.lists(st.dictionaries(st.text(), st.text() | st.integers(-9, 9) | st.none()), max_size=6),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
)
def test_reading_a_list_does_not_depend_on_where_the_file_is_cut(
    items: list[dict[str, Any]], indent: int | None, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("list") / "items.json"
    path.write_text(json.dumps(items, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feedback.importers.rows.CHUNK_CHARACTERS", chunk)
        rows = list(read_rows(path))
    assert [row.fields for row in rows if isinstance(row, Row)] == [
        orjson.loads(orjson.dumps(one)) for one in items
    ]
    assert len(rows) == len(items)
