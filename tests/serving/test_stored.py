"""OpenAI's own SDK lists, reads, labels and deletes what it asked to be stored, and sees nothing of anybody else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import text

from feedback import keys, submissions
from feedback.completions import insert_many
from feedback.database import Database
from tests.builders import PROJECT, a_completion
from tests.fakes import fake_engine
from tests.serving.running import Running, running_gateway

ASKED: list[Any] = [{"role": "user", "content": "How long?"}]


@dataclass
class Application:
    """An application with its client."""

    running: Running
    sdk: AsyncOpenAI

    async def ask(self, **fields: Any) -> str:
        answer = await self.sdk.chat.completions.create(model="support", messages=ASKED, **fields)
        name: str = answer.id
        return name

    async def ids(self, **filters: Any) -> list[str]:
        return [one.id async for one in self.sdk.chat.completions.list(**filters)]

    async def key(self, role: str, project: str = PROJECT) -> str:
        async with self.running.database.begin() as connection:
            _, key = await keys.create(connection, role=role, name="test", by="test", project=project)
        headers = {"authorization": f"Bearer {key}"}
        async with asyncio.timeout(60):
            while (await self.running.client.get("/v1/models", headers=headers)).status_code != 200:
                await asyncio.sleep(0.02)
        return key


@pytest.fixture
async def application(database: Database, database_url: str, state_dir: Path) -> AsyncIterator[Application]:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
        AsyncOpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk,
    ):
        yield Application(running, sdk)


async def test_what_was_asked_to_be_stored_is_listed_and_read_again(application: Application) -> None:
    kept = await application.ask(store=True, metadata={"page": "returns"}, temperature=0.5)
    await application.ask(store=False)
    await application.ask()
    await application.running.rows(3)
    assert await application.ids() == [kept]
    found = await application.sdk.chat.completions.retrieve(kept)
    assert found.object == "chat.completion"
    assert found.model == "support@0"
    assert found.choices[0].message.content == "Within 30 days."
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None and found.usage.total_tokens == 6
    assert found.to_dict()["metadata"] == {"page": "returns"}
    assert found.to_dict()["temperature"] == 0.5
    messages = await application.sdk.chat.completions.messages.list(kept)
    assert [(one.id, one.role, one.content) for one in messages.data] == [(f"{kept}-0", "user", "How long?")]


async def test_what_was_not_stored_says_how_it_could_have_been(application: Application) -> None:
    unstored = await application.ask(store=False)
    await application.running.rows(1)
    with pytest.raises(openai.NotFoundError, match="Send `store: true`"):
        await application.sdk.chat.completions.retrieve(unstored)


async def test_lists_are_filtered_ordered_and_paged_by_the_sdk_itself(application: Application) -> None:
    stored = [await application.ask(store=True, metadata={"n": str(n % 2), "all": "yes"}) for n in range(5)]
    await application.running.rows(5)
    assert await application.ids(limit=2) == stored
    assert await application.ids(limit=2, order="desc") == stored[::-1]
    assert await application.ids(after=stored[2]) == stored[3:]
    assert await application.ids(metadata={"n": "1", "all": "yes"}, limit=1) == stored[1::2]
    assert await application.ids(metadata={"n": "7"}) == []
    assert await application.ids(model="support") == stored
    assert await application.ids(model="support@1") == []


async def test_metadata_is_changed_and_taken_away(application: Application) -> None:
    kept = await application.ask(store=True, metadata={"page": "returns"})
    await application.running.rows(1)
    changed = await application.sdk.chat.completions.update(kept, metadata={"page": "shipping"})
    assert changed.to_dict()["metadata"] == {"page": "shipping"}
    assert await application.ids(metadata={"page": "shipping"}) == [kept]
    await application.sdk.chat.completions.update(kept, metadata=None)
    assert await application.ids(metadata={"page": "shipping"}) == []


async def test_deleting_takes_the_text_and_what_was_said_of_it_away(application: Application) -> None:
    kept = await application.ask(store=True)
    [row] = await application.running.rows(1)
    async with application.running.database.begin() as connection:
        given = submissions.submission(
            project=PROJECT, completion_id=kept, rater="rater-a", kind="comment", value="Planted words"
        )
        await submissions.store(connection, given)
    gone = await application.sdk.chat.completions.delete(kept)
    assert (gone.object, gone.id, gone.deleted) == ("chat.completion.deleted", kept, True)
    assert gone.to_dict()["remains_in"] == []
    with pytest.raises(openai.NotFoundError):
        await application.sdk.chat.completions.retrieve(kept)
    with pytest.raises(openai.NotFoundError):
        await application.sdk.chat.completions.delete(kept)
    async with application.running.database.begin() as connection:
        tables = list(
            await connection.scalars(
                text(
                    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                )
            )
        )
        for table in tables:
            left = str(
                (await connection.execute(text(f'SELECT row_to_json(one) FROM "{table}" AS one'))).all()
            )
            assert "Planted words" not in left and "Within 30 days." not in left, table
        entry = await connection.scalar(
            text("SELECT row_to_json(audit) FROM audit WHERE action = 'completion.delete'")
        )
    assert entry["subject"] == kept and row["output_text"] not in str(entry)


async def test_a_dataset_that_holds_a_deleted_completion_is_named(application: Application) -> None:
    kept = await application.ask(store=True)
    await application.running.rows(1)
    async with application.running.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO datasets (dataset_id, project, model, method, content_hash, selection, counts)"
                " VALUES ('ds-1', :project, 'support', 'sft', 'h', '{}', '{}')"
            ),
            {"project": PROJECT},
        )
        await connection.execute(
            text(
                "INSERT INTO dataset_rows"
                " (dataset_id, row_number, split, method, row_hash, columns, completion_ids, feedback_ids)"
                " VALUES ('ds-1', 0, 'train', 'sft', 'h', '{}', ARRAY[:one], ARRAY[]::text[])"
            ),
            {"one": kept},
        )
    gone = await application.sdk.chat.completions.delete(kept)
    assert gone.to_dict()["remains_in"] == ["ds-1"]


async def test_no_project_sees_or_touches_what_another_stored(application: Application) -> None:
    kept = await application.ask(store=True)
    await application.running.rows(1)
    other = AsyncOpenAI(
        base_url=f"{application.running.url}/v1", api_key=await application.key("app", "other"), max_retries=0
    )
    async with other as stranger:
        completions = stranger.chat.completions
        assert [one.id async for one in completions.list()] == []
        for attempt in (
            completions.retrieve(kept),
            completions.update(kept, metadata={"mine": "yes"}),
            completions.delete(kept),
        ):
            with pytest.raises(openai.NotFoundError, match=kept):
                await attempt
        with pytest.raises(openai.NotFoundError, match=kept):
            await completions.messages.list(kept)
        with pytest.raises(openai.NotFoundError, match=kept):
            await completions.list(after=kept)
    assert await application.ids() == [kept]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"limit": 0}, 422, "limit"),
        ({"limit": 101}, 422, "limit"),
        ({"order": "up"}, 422, "order"),
        ({"model": "support@x"}, 400, "model"),
    ],
)
async def test_a_list_that_cannot_be_is_refused_in_openai_s_shape(
    application: Application, change: dict[str, Any], status: int, param: str
) -> None:
    answer = await application.running.client.get("/v1/chat/completions", params=change)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


async def test_metadata_that_is_not_openai_s_is_refused(application: Application) -> None:
    kept = await application.ask(store=True)
    await application.running.rows(1)
    with pytest.raises(openai.BadRequestError, match="at most 512 characters"):
        await application.sdk.chat.completions.update(kept, metadata={"page": "x" * 513})


async def test_without_a_key_nothing_is_shown(application: Application) -> None:
    async with httpx.AsyncClient(base_url=application.running.url, timeout=60) as client:
        assert (await client.get("/v1/chat/completions")).status_code == 401


async def test_an_operator_pages_through_everything_and_streams_it_out(application: Application) -> None:
    rows = [a_completion(consent=n % 2 == 0) for n in range(5)]
    async with application.running.database.begin() as connection:
        await insert_many(connection, rows)
        for row in rows:
            given = submissions.submission(
                project=PROJECT, completion_id=row.completion_id, rater="rater-a", kind="rating", value=True
            )
            await submissions.store(connection, given)
    client, seen, after = application.running.client, list[str](), None
    while True:
        page = (
            await client.get(
                "/admin/v1/completions", params={"limit": 2, **({"after": after} if after else {})}
            )
        ).json()
        seen += [one["completion_id"] for one in page["data"]]
        if (after := page["after"]) is None:
            break
    assert seen == [row.completion_id for row in rows][::-1]
    listed = (await client.get("/admin/v1/feedback", params={"rating": "up", "limit": 3})).json()
    assert len(listed["data"]) == 3 and listed["has_more"]
    lines = (await client.get("/admin/v1/feedback/export", params={"columns": "kto"})).text.splitlines()
    assert len(lines) == 3
    parquet = await client.get("/admin/v1/feedback/export", params={"format": "parquet"})
    assert parquet.content[:4] == b"PAR1" == parquet.content[-4:]


@pytest.mark.parametrize("path", ["/admin/v1/completions", "/admin/v1/feedback", "/admin/v1/feedback/export"])
async def test_an_application_s_key_does_not_look_through_the_record(
    application: Application, path: str
) -> None:
    headers = {"authorization": f"Bearer {await application.key('app')}"}
    assert (await application.running.client.get(path, headers=headers)).status_code == 403
