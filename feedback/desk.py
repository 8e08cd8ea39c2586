"""Where feedback is handed in: who speaks, whether they may, and what becomes of it.

Everything that was acknowledged is kept: in the record, or on this gateway's disk while the database is away. The
routes of `feedback.api` and the other products' in `feedback.aliases` all go through here.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg
from fastapi import Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import submissions, tokens
from feedback.addresses import client_address, is_trusted, read_networks
from feedback.database import Database, is_outage
from feedback.errors import NotFound, Refused
from feedback.ids import pseudonym
from feedback.limits import Limit
from feedback.metrics import FeedbackPolicy, find_metric
from feedback.origins import is_allowed, is_own
from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import redact_submission
from feedback.settings import FeedbackSettings
from feedback.submissions import ANONYMOUS, Retraction, Spooled, Submission

STORE_SECONDS = 5.0
WAITING_MAX = 10_000
ORIGIN_REFUSED = "hone.origin_refused"
"""Key of the request's scope that tells the door to leave the page without an answer it may read."""

Policies = Mapping[str, FeedbackPolicy]


class Caller(Protocol):
    """Who calls with an API key."""

    @property
    def key_id(self) -> str:
        """Which key."""

    @property
    def project(self) -> str:
        """Whose completions it may speak of."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says something: the holder of a key, or of one answer's token."""

    project: str
    rater: str | None
    """The pseudonym of who rates; None when neither the request nor the token says."""
    key_id: str | None = None
    grant: tokens.TokenGrant | None = None

    @property
    def binds(self) -> bool:
        """Whether the token is still without a rater."""
        return self.grant is not None and self.grant.rater is None


@dataclass(frozen=True, slots=True)
class Kept:
    """What was acknowledged: under which ids, and whether it is `stored` or `spooled`."""

    ids: list[str]
    status: str


class Desk:
    """The desk of one process."""

    def __init__(
        self,
        *,
        database: Database,
        settings: FeedbackSettings,
        token_secret: bytes,
        pseudonym_secret: bytes,
        identify: Callable[[str | None], Caller],
        policies: Callable[[str | None], Policies],
        keep: Callable[[Sequence[bytes]], Awaitable[None]],
        find: Callable[[str], Awaitable[Spooled | None]] | None = None,
        privacy: Callable[[str], PrivacyPolicy] = lambda project: PrivacyPolicy(),
    ) -> None:
        """Open the desk.

        `identify` reads an `Authorization` header and raises when its key is wrong; `policies` gives those of a project
        by model, of every project for None; `keep` returns when the records are safe on disk, where `find` looks for
        one; `privacy` says what is replaced in a project's feedback before it is kept.
        """
        self.database = database
        self.settings = settings
        self.token_secret = token_secret
        self.identify = identify
        self.policies = policies
        self._pseudonym_secret = pseudonym_secret
        self._keep = keep
        self._find = find
        self._privacy = privacy
        self._proxies = read_networks(settings.trusted_proxies)
        self._raters = Limit("One rater", settings.feedback_rater_requests_per_minute)
        self._keys = Limit("One API key", settings.feedback_key_requests_per_minute)
        self._addresses = Limit("One address", settings.feedback_address_requests_per_minute)
        self.stored = 0
        self.spooled = 0
        self._waiting: OrderedDict[str, Spooled] = OrderedDict()
        self._claims: dict[tuple[str, str], str] = {}

    # Who speaks

    def hear(
        self,
        request: Request,
        *,
        token: str | None,
        authorization: str | None = None,
        completion_id: str | None = None,
        session: str | None = None,
        rater_id: str | None = None,
        count: int = 1,
    ) -> Speaker:
        """Who sends this request, by its token or else its key, within their limits and from an origin that may.

        Raises:
            Refused: 401, 403 or 429; the code says which of these it was.
        """
        authorization = authorization or request.headers.get("authorization")
        if token is None:
            caller = self.identify(authorization)
            self._check_origin(request, caller.project)
            self._keys.take(caller.key_id, count)
            named = self.rater(caller.project, rater_id)
            speaker = Speaker(caller.project, named, caller.key_id)
        else:
            self._addresses.take(self.address(request), count)
            grant = tokens.verify(self.token_secret, token)
            self._check_origin(request, grant.project)
            project = self.identify(authorization).project if authorization else None
            named = self.rater(grant.project, rater_id)
            tokens.check_use(
                grant, completion_id=completion_id, session=session, project=project, rater=named
            )
            speaker = Speaker(grant.project, grant.rater or named, grant=grant)
        if speaker.rater is not None:
            self._raters.take(speaker.rater, count)
        return speaker

    def rater(self, project: str, rater_id: str | None) -> str | None:
        """The pseudonym of a rater, who is named in the application's own terms."""
        return pseudonym(self._pseudonym_secret, project, rater_id) if rater_id else None

    def address(self, request: Request) -> str:
        """The client's address, through the proxies that are trusted."""
        peer = request.client.host if request.client else ""
        headers = request.headers
        return client_address(peer, headers.get("x-forwarded-for"), headers.get("forwarded"), self._proxies)

    def _check_origin(self, request: Request, project: str) -> None:
        origin = request.headers.get("origin")
        if origin is None or self._is_own(request, origin):
            return
        allowed = [entry for policy in self.policies(project).values() for entry in policy.allowed_origins]
        if not is_allowed(origin, allowed):
            request.scope[ORIGIN_REFUSED] = True
            raise Refused(
                f"Pages of '{origin}' may not send feedback to project '{project}'. Add the origin to "
                "feedback.allowed_origins in the policy of one of its models.",
                status=403,
                code="origin_not_allowed",
            )

    def _is_own(self, request: Request, origin: str) -> bool:
        if self.settings.public_url is not None and origin == self.settings.public_url.rstrip("/"):
            return True
        scheme, host = request.url.scheme, request.headers.get("host", "")
        if request.client is not None and is_trusted(request.client.host, self._proxies):
            scheme = request.headers.get("x-forwarded-proto", scheme)
            host = request.headers.get("x-forwarded-host", host)
        return is_own(origin, scheme, host)

    # What they say

    async def hand_in(self, given: Sequence[Submission], *, dry_run: bool = False) -> Kept:
        """Keep submissions, all or none of them.

        Raises:
            Refused: a metric is not declared, or an idempotency id was used for something else.
            NotFound: the completion is another project's.
        """
        for one in given:
            self._check_metric(one, model=None)
        given = [redact_submission(one, self._privacy(one.project)) for one in given]
        if dry_run:
            return Kept([one.feedback_id for one in given], "stored")
        try:
            async with asyncio.timeout(STORE_SECONDS):
                ids = await self._store(given)
        except (OSError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.PostgresError) as error:
            if not is_outage(error):
                raise
            self._check_claims(given)
            await self._spool(given)
            return Kept([one.feedback_id for one in given], "spooled")
        self.stored += len(ids)
        return Kept(ids, "stored")

    async def _store(self, given: Sequence[Submission]) -> list[str]:
        async with self.database.begin() as connection:
            known = await submissions.attributions(
                connection, (name for one in given for name in _about(one))
            )
            for one in given:
                for completion_id in _about(one):
                    if (found := known.get(completion_id)) is None:
                        continue
                    if found.project != one.project:
                        raise NotFound(f"Project '{one.project}' has no completion '{completion_id}'.")
                    if completion_id == one.completion_id:
                        self._check_metric(one, model=found.model)
            return await submissions.store_all(connection, given, known, acknowledged=False)

    def _check_metric(self, given: Submission, *, model: str | None) -> None:
        if given.kind not in ("rating", "signal"):
            return
        metric = find_metric(self.policies(given.project), model, given.name, given.value)
        about = "session" if given.completion_id is None else "completion"
        if metric.level not in (about, "any"):
            raise Refused(
                f"Metric '{given.name}' is about a {metric.level}, but the feedback names a {about}. "
                f"Send a {metric.level}_id, or declare the metric with level '{about}' or 'any'.",
                code="metric_level_mismatch",
                param=f"{about}_id",
            )

    # What becomes of it

    async def take_back(self, speaker: Speaker, feedback_id: str) -> str:
        """Retract a submission; `retracted`, or `spooled` while the database is away.

        Raises:
            NotFound: the speaker has given no such feedback.
        """
        about = speaker.grant.completion_id if speaker.grant else None
        rater = (speaker.rater or ANONYMOUS) if speaker.grant else None
        try:
            async with asyncio.timeout(STORE_SECONDS), self.database.begin() as connection:
                rater = await _rater_of(connection, speaker) if speaker.grant else None
                await submissions.retract(
                    connection, speaker.project, feedback_id, rater=rater, completion_id=about
                )
        except NotFound:
            waiting = await self._spooled(feedback_id)
            if waiting is None or waiting.project != speaker.project:
                raise
        except (OSError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.PostgresError) as error:
            if not is_outage(error):
                raise
        else:
            return "retracted"
        await self._spool([Retraction(feedback_id, speaker.project, rater, about, datetime.now(UTC))])
        return "spooled"

    async def look_up(self, speaker: Speaker, feedback_id: str) -> dict[str, Any]:
        """What became of a submission: its row and the earlier and later ones of the same vote, or that it waits.

        Raises:
            NotFound: the speaker has given no such feedback.
            Refused: 503; the database is away and no gateway of this machine has spooled it.
        """
        row, earlier, away = None, [], None
        try:
            async with self.reading() as connection:
                row = await submissions.get(connection, speaker.project, feedback_id)
                if row is not None and speaker.grant is not None:
                    row = row if row["rater"] == await _rater_of(connection, speaker) else None
                earlier = await submissions.history(connection, row) if row is not None else []
        except Refused as refused:
            away = refused
        if row is not None:
            self._forget(feedback_id)
            return {"status": _status(row), **row, "history": earlier}
        waiting = await self._spooled(feedback_id) if speaker.grant is None else None
        if isinstance(waiting, Submission) and waiting.project == speaker.project:
            return {"status": "spooled", **{name: getattr(waiting, name) for name in submissions.COLUMNS}}
        raise away or NotFound(
            f"There is no feedback '{feedback_id}' of yours in the record. If a gateway on another machine answered it "
            "202, it waits there until the database is back."
        )

    async def _spooled(self, feedback_id: str) -> Spooled | None:
        waiting = self._waiting.get(feedback_id)
        if waiting is None and self._find is not None:
            waiting = await self._find(feedback_id)
        return waiting

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in the record, for what can be answered from it only.

        Raises:
            Refused: 503; the database is away.
        """
        try:
            async with asyncio.timeout(STORE_SECONDS), self.database.begin() as connection:
                yield connection
        except (OSError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.PostgresError) as error:
            if not is_outage(error):
                raise
            raise away() from error

    async def _spool(self, records: Sequence[Spooled]) -> None:
        await self._keep([one.to_json() for one in records])
        self.spooled += len(records)
        for one in records:
            if isinstance(one, Submission):
                self._waiting.setdefault(one.feedback_id, one)
                if one.idempotency_id is not None:
                    self._claims[one.project, one.idempotency_id] = one.feedback_id
        while len(self._waiting) > WAITING_MAX:
            self._forget(next(iter(self._waiting)))

    def _forget(self, feedback_id: str) -> None:
        gone = self._waiting.pop(feedback_id, None)
        if isinstance(gone, Submission) and gone.idempotency_id is not None:
            self._claims.pop((gone.project, gone.idempotency_id), None)

    def _check_claims(self, given: Sequence[Submission]) -> None:
        for one in given:
            claimed = self._claims.get((one.project, one.idempotency_id or ""))
            if claimed not in (None, one.feedback_id) and not one.renews:
                raise Refused(
                    f"The id '{one.idempotency_id}' was used for feedback {claimed}, which says something else. "
                    "Send a new id with new content; to change a vote, send the new one.",
                    status=409,
                    code="idempotency_conflict",
                    param="id",
                )


async def _rater_of(connection: AsyncConnection, speaker: Speaker) -> str:
    """Whose feedback a token speaks for."""
    if speaker.grant is not None and speaker.binds:
        bound = await submissions.bound_rater(connection, speaker.grant.completion_id)
        return bound or speaker.rater or ANONYMOUS
    return speaker.rater or ANONYMOUS


def _about(given: Submission) -> list[str]:
    named = [given.completion_id, given.value if given.kind == "preference" else None]
    return [one for one in named if one is not None]


def _status(row: Mapping[str, Any]) -> str:
    if row["retracted_at"] is not None:
        return "retracted"
    return "stored" if row["effective"] else "replaced"


def away() -> Refused:
    """503: what was asked for is in the record, and the database is away."""
    return Refused(
        "The database is away, and this can be answered from it only. Ask again when it is back.",
        status=503,
        code="record_unavailable",
        seconds=5,
    )
