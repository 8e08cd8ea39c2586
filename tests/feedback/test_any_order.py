"""One effective vote, a complete history, nothing acknowledged lost: whatever is sent, repeated or killed when."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from feedback import submissions
from feedback.database import Database
from feedback.desk import Desk, Speaker
from feedback.errors import NotFound, Refused
from feedback.metrics import FeedbackPolicy
from feedback.settings import FeedbackSettings
from feedback.submissions import ANONYMOUS, Retraction, Submission, read_spooled
from tests.builders import PROJECT
from tests.ports import free_port

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
GATEWAYS = st.integers(0, 1)
TARGETS = st.sampled_from([{"completion_id": "chatcmpl-a"}, {"session": "talk"}])
SPEAKER = Speaker(PROJECT, None, "key-1")


@dataclass
class Given:
    """A submission that was acknowledged."""

    vote: tuple[Any, ...]
    at: datetime
    value: bool
    retracted: bool = False


@dataclass
class GatewayOnDisk:
    """What of a gateway outlives its process."""

    spool: list[bytes] = field(default_factory=list)


class Votes(RuleBasedStateMachine):
    """Two gateways, a database that comes and goes, and people who vote."""

    sent = Bundle("sent")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.there = Database(url, pool_size=2)
        self.gone = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        self.up = True
        self.clock = BEGIN
        self.disks = [GatewayOnDisk(), GatewayOnDisk()]
        self.desks = [self.open_desk(disk) for disk in self.disks]
        self.given: dict[str, Given] = {}

    @initialize()
    def start_empty(self) -> None:
        self.run(self.execute("TRUNCATE feedback, retractions, token_raters"))

    @rule(
        target=sent,
        gateway=GATEWAYS,
        about=TARGETS,
        rater=st.sampled_from(["rater-a", None]),
        value=st.booleans(),
        idempotency_id=st.sampled_from([None, None, "one"]),
    )
    def send(
        self, gateway: int, about: dict[str, str], rater: str | None, value: bool, idempotency_id: str | None
    ) -> Submission:
        submission = submissions.submission(
            project=PROJECT,
            rater=rater or ANONYMOUS,
            named=rater is not None,
            kind="rating",
            value=value,
            idempotency_id=idempotency_id,
            completion_id=about.get("completion_id"),
            session=about.get("session"),
        )
        self.hand_in(gateway, submission)
        return submission

    @rule(gateway=GATEWAYS, submission=sent)
    def send_again(self, gateway: int, submission: Submission) -> None:
        if submission.idempotency_id is not None:
            self.hand_in(gateway, submission)

    @rule(gateway=GATEWAYS, submission=sent)
    def take_back(self, gateway: int, submission: Submission) -> None:
        if submission.feedback_id not in self.given:
            return
        with suppress(NotFound):
            self.run(self.desks[gateway].take_back(SPEAKER, submission.feedback_id))
            self.given[submission.feedback_id].retracted = True

    @rule(up=st.booleans())
    def database_comes_or_goes(self, up: bool) -> None:
        self.up = up
        for desk in self.desks:
            desk.database = self.there if up else self.gone

    @rule(gateway=GATEWAYS)
    def kill_the_gateway(self, gateway: int) -> None:
        self.desks[gateway] = self.open_desk(self.disks[gateway])

    @rule(gateway=GATEWAYS, count=st.integers(1, 4), killed_before_it_forgets=st.booleans())
    def drain(self, gateway: int, count: int, killed_before_it_forgets: bool) -> None:
        disk = self.disks[gateway]
        if self.up:
            self.run(self.store(disk.spool[:count]))
            if not killed_before_it_forgets:
                del disk.spool[:count]

    def teardown(self) -> None:
        for disk in self.disks:
            self.run(self.store(disk.spool))
        rows = {row["feedback_id"]: row for row in self.run(self.execute("SELECT * FROM feedback"))}
        self.run(self.there.close())
        self.run(self.gone.close())
        self.runner.close()
        assert set(rows) == set(self.given), "everything acknowledged is in the history, and nothing else"
        for feedback_id, given in self.given.items():
            newest = max(
                (one for one in self.given.values() if one.vote == given.vote), key=lambda one: one.at
            )
            row = rows[feedback_id]
            assert row["value"] == given.value
            assert (row["retracted_at"] is not None) == given.retracted
            assert row["effective"] == (given is newest and not given.retracted)

    # How it is done

    def hand_in(self, gateway: int, submission: Submission) -> None:
        self.clock += timedelta(seconds=1)
        submission = replace(submission, created_at=self.clock)
        try:
            kept = self.run(self.desks[gateway].hand_in([submission]))
        except Refused as refused:
            assert refused.code == "idempotency_conflict"
            return
        assert kept.ids == [submission.feedback_id]
        vote = (submission.completion_id, submission.session, submission.rater)
        self.given.setdefault(submission.feedback_id, Given(vote, self.clock, submission.value))

    def open_desk(self, disk: GatewayOnDisk) -> Desk:
        async def keep(records: Sequence[bytes]) -> None:
            disk.spool.extend(records)

        return Desk(
            database=self.there if self.up else self.gone,
            settings=FeedbackSettings(state_dir=Path("unused")),
            token_secret=b"s" * 32,
            pseudonym_secret=b"s" * 32,
            identify=lambda _: pytest.fail("nobody asks"),
            policies=lambda _: {"support": FeedbackPolicy()},
            keep=keep,
        )

    async def store(self, records: Sequence[bytes]) -> None:
        async with self.there.begin() as connection:
            await submissions.apply_all(connection, [read_spooled(record) for record in records])

    async def execute(self, statement: str) -> list[dict[str, Any]]:
        async with self.there.begin() as connection:
            done = await connection.execute(text(statement))
            return [dict(row._mapping) for row in done] if done.returns_rows else []

    def run(self, work: Any) -> Any:
        return self.runner.run(work)


@pytest.mark.slow
def test_votes_hold_in_any_order(database_url: str) -> None:
    run_state_machine_as_test(
        lambda: Votes(database_url),  # type: ignore[arg-type]  # it takes a factory, too
        settings=settings(
            max_examples=80,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_a_retraction_comes_back_from_the_spool_as_it_went_in() -> None:
    gone = Retraction("fb-1", PROJECT, "rater-a", "chatcmpl-a", BEGIN)
    assert read_spooled(gone.to_json()) == gone
