"""The feedback routes of the gateway's application, without the gateway behind them, for one test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from feedback import submissions, tokens
from feedback.database import Database
from feedback.desk import Caller as AnyCaller
from feedback.desk import Desk, Policies
from feedback.keys import hash_key
from feedback.metrics import FeedbackPolicy
from feedback.settings import FeedbackSettings
from feedback.submissions import Spooled, read_spooled
from serving.app import create_app
from serving.auth import Caller, identify
from serving.settings import ServingSettings
from tests.builders import PROJECT
from tests.ports import free_port

SECRET = b"s" * 32
KEY, OTHER_KEY = "hk_ours", "hk_theirs"
POLICY = FeedbackPolicy.model_validate(
    {
        "metrics": {
            "stars": {"type": "number", "minimum": 1, "maximum": 5},
            "mood": {"type": "category", "values": ["glad", "sad"], "up": ["glad"], "down": ["sad"]},
            "solved": {"level": "session"},
        },
        "allowed_origins": ["https://shop.example", "https://*.shop.example"],
    }
)


@dataclass
class Counter:
    """A client of the feedback routes, and what they kept."""

    client: httpx.AsyncClient
    database: Database
    desk: Desk
    spooled: list[Spooled] = field(default_factory=list)

    async def post(
        self, body: dict[str, Any], token: str | None = None, key: str | None = KEY, **headers: str
    ) -> httpx.Response:
        """Post to `/v1/feedback`, with a token or else a key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["x-hone-feedback-token"] = token
        elif key is not None:
            named["authorization"] = f"Bearer {key}"
        return await self.client.post("/v1/feedback", json=body, headers=named)

    async def get(self, feedback_id: str) -> httpx.Response:
        """What became of it."""
        return await self.client.get(f"/v1/feedback/{feedback_id}", headers=bearer())

    async def rows(self, completion_id: str) -> list[dict[str, Any]]:
        """Everything said of a completion."""
        async with self.database.begin() as connection:
            return await submissions.of_completion(connection, PROJECT, completion_id)

    async def effective(self, completion_id: str) -> list[tuple[str, Any, str]]:
        """Kind, value and rater of what counts."""
        return [(r["kind"], r["value"], r["rater"]) for r in await self.rows(completion_id) if r["effective"]]

    async def drain(self) -> None:
        """Store what was spooled, as the gateway's drain does."""
        async with self.database.begin() as connection:
            await submissions.apply_all(connection, self.spooled)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """The database is away."""
        async with Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none") as gone:
            self.desk.database = gone
            try:
                yield
            finally:
                self.desk.database = self.database


@asynccontextmanager
async def a_counter(
    database: Database, state_dir: Path, policies: Policies | None = None, **settings: Any
) -> AsyncIterator[Counter]:
    """The routes for two projects, of which the tests' own has `policies`."""
    record = FeedbackSettings(state_dir=state_dir, **settings)
    kept: list[Spooled] = []
    mine = {"support": POLICY} if policies is None else policies

    def caller_of(authorization: str | None) -> AnyCaller:
        callers = {
            hash_key(KEY): Caller("key-1", PROJECT, "app"),
            hash_key(OTHER_KEY): Caller("key-2", "other", "app"),
        }
        return identify(None if authorization is None else authorization.encode(), callers)

    async def keep(records: Sequence[bytes]) -> None:
        kept.extend(read_spooled(one) for one in records)

    desk = Desk(
        database=database,
        settings=record,
        token_secret=SECRET,
        pseudonym_secret=SECRET,
        identify=caller_of,
        policies=lambda project: mine if project in (None, PROJECT) else {},
        keep=keep,
    )
    app = create_app(ServingSettings(), record)
    app.state.desk = desk
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        yield Counter(client, database, desk, kept)


def a_token(
    completion_id: str, rater: str | None = "rater-a", *, project: str = PROJECT, seconds: int = 60
) -> str:
    """A token that expires in so many seconds."""
    return tokens.sign(SECRET, completion_id, project, rater, int(datetime.now(UTC).timestamp()) + seconds)


def bearer(key: str = KEY) -> dict[str, str]:
    """The headers of a call with a key."""
    return {"authorization": f"Bearer {key}"}


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return answer.status_code, answer.json()["error"]["code"]
