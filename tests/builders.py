"""Builders: one call makes a plausible thing; a test names only what matters to it."""

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, models, submissions, uploads
from feedback.adapters import Adapter
from feedback.completions import Completion, insert_many
from feedback.errors import Conflict
from feedback.ids import new_id
from feedback.policy import ModelPolicy
from feedback.uploads import File, FileStore

PROJECT = "default"
PASSED: dict[str, Any] = {"decision": "candidate", "reasons": [], "checks": []}
FAILED: dict[str, Any] = {"decision": "rejected", "reasons": ["it says nothing new"], "checks": []}


async def a_model(
    connection: AsyncConnection,
    model: str = "support",
    *,
    policy: ModelPolicy | None = None,
    base_model: str = "tiny",
) -> models.Model:
    """The model of this name, made if it is not there."""
    try:
        return await models.create(
            connection, project=PROJECT, model=model, base_model=base_model, policy=policy, by="test"
        )
    except Conflict:
        return await models.get(connection, PROJECT, model)


async def an_uploaded_file(connection: AsyncConnection, folder: Path, content: bytes) -> File:
    """`file-1`, rows for training; its content lies in `folder`."""
    return await uploads.create(
        connection,
        file_id="file-1",
        project=PROJECT,
        filename="rows.jsonl",
        purpose="fine-tune",
        stored=FileStore(str(folder)).write("file-1", BytesIO(content)),
        by="ada",
    )


async def an_adapter(
    connection: AsyncConnection,
    *,
    state: str = "candidate",
    model: str = "support",
    path: str = "/nowhere",
    beside: Adapter | None = None,
) -> Adapter:
    """A new version, moved to `state` along the legal moves; the gate compared it with `beside`."""
    await a_model(connection, model)
    adapter_id, version = await adapters.reserve(connection, PROJECT, model)
    adapter = await adapters.register(
        connection,
        adapter_id=adapter_id,
        project=PROJECT,
        model=model,
        version=version,
        base_model="tiny",
        path=path,
        files_hash="0" * 64,
        run_id=None,
        by="test",
    )
    if state == "trained":
        return adapter
    report = FAILED if state == "rejected" else PASSED
    if beside is not None:
        report = {**report, "evidence": {"champion": beside.engine_name}}
    adapter = await adapters.decide(connection, adapter, report=report, evidence_hash="e" * 64, by="test")
    if state in ("candidate", "rejected"):
        return adapter
    adapter = await adapters.move(connection, adapter, "approve", by="ada")
    if state == "approved":
        return adapter
    if state == "champion":
        return await adapters.promote(connection, adapter, by="ada", reason="test")
    raise AssertionError(f"build state '{state}' by hand")


def a_completion(**changes: Any) -> Completion:
    """A finished completion that nobody has rated."""
    completion = Completion(
        completion_id=new_id("chatcmpl"),
        project=PROJECT,
        model="support",
        adapter_id="support--v0-00000000",
        version=0,
        experiment_id=None,
        arm=None,
        propensity=None,
        unit="rater-a",
        rater="rater-a",
        session=None,
        key_id="key-1",
        engine="http://127.0.0.1:1",
        endpoint="/v1/chat/completions",
        consent=True,
        status="ok",
        error=None,
        finish_reason="stop",
        request='{"model":"support","messages":[{"role":"user","content":"How long may I return a lamp?"}]}',
        output_text="Within 30 days.",
        message='{"role":"assistant","content":"Within 30 days."}',
        prompt_token_ids=[1, 2, 3],
        output_token_ids=[4, 5],
        prompt_tokens=3,
        output_tokens=2,
        metadata=None,
        time_to_first_token_seconds=0.01,
        time_per_output_token_seconds=0.002,
        duration_seconds=0.02,
        created_at=datetime.now(UTC),
    )
    return replace(completion, **changes)


async def a_rated_completion(
    connection: AsyncConnection,
    *,
    value: Any = True,
    kind: str = "rating",
    rater: str = "rater-a",
    **changes: Any,
) -> Completion:
    """A completion in the record with one submission about it."""
    completion = a_completion(rater=rater, unit=rater, **changes)
    await insert_many(connection, [completion])
    given = submissions.submission(
        project=PROJECT, completion_id=completion.completion_id, rater=rater, kind=kind, value=value
    )
    await submissions.store(connection, given)
    return completion
