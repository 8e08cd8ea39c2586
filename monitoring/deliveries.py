"""Bring messages about alerts to their receivers: a signed webhook, Slack, e-mail. At least once, over restarts.

A message is claimed for a minute, sent, then marked. Whoever dies in between leaves it to be sent again, under the same
`webhook-id`, by which a receiver knows it. A receiver that does not answer is tried again with growing pauses for three
days, and hears of an alert's end only after its beginning. Webhooks are signed as standardwebhooks.com describes:
HMAC-SHA256 over id, timestamp and body.
"""

import asyncio
import base64
import hashlib
import hmac
import smtplib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httpx
import orjson
from sqlalchemy import ColumnElement, FromClause, and_, exists, select, update

from feedback.database import Database
from feedback.errors import HoneError
from feedback.watch_tables import alert_deliveries
from monitoring.settings import MonitoringSettings

CLAIM_SECONDS = 60.0
SEND_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 10.0
PAUSE_SECONDS_MAX = 3600.0
GIVE_UP_DAYS = 3.0
AT_ONCE = 20
SECRET_PREFIX = "whsec_"
WEB = (("http", "https"), "https://host/path")
TELLING = (OSError, httpx.HTTPError, smtplib.SMTPException)
"""Errors whose text alone says what stood in the way."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one receiver. `created_at` is when the alert wrote it."""

    delivery_id: str
    channel: str
    message: dict[str, Any]
    attempts: int
    created_at: datetime


Send = Callable[[Message], Awaitable[None]]


def senders(settings: MonitoringSettings) -> dict[str, Send]:
    """How each configured channel is reached, by its name.

    Raises:
        HoneError: a channel is configured by half, or its secret or address cannot be read.
    """
    found: dict[str, Send] = {}
    if settings.alert_webhook_url is not None:
        if settings.alert_webhook_secret is None:
            raise HoneError(
                "alert_webhook_url is set, but alert_webhook_secret is not: an unsigned webhook can be forged. "
                "Set it to 'whsec_' and 24 to 64 random bytes in base64."
            )
        _read_address("alert_webhook_url", settings.alert_webhook_url, *WEB)
        found["webhook"] = _webhook(
            settings.alert_webhook_url, read_secret(settings.alert_webhook_secret.get_secret_value())
        )
    if settings.alert_slack_url is not None:
        slack_url = settings.alert_slack_url.get_secret_value()
        _read_address("alert_slack_url", slack_url, *WEB)
        found["slack"] = _slack(slack_url)
    if settings.alert_email_to:
        if settings.alert_smtp_url is None:
            raise HoneError(
                "alert_email_to is set, but alert_smtp_url is not. Set it to smtp://user:password@host:587."
            )
        found["email"] = _email(settings, settings.alert_smtp_url.get_secret_value())
    return found


def read_secret(text: str) -> bytes:
    """The key in `whsec_...`.

    Raises:
        HoneError: it is not base64 of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise HoneError(
            "alert_webhook_secret is no webhook secret; expected 'whsec_' and 24 to 64 random bytes in base64, such as "
            "`openssl rand -base64 32` writes."
        )
    return key


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


async def deliver(database: Database, channels: Mapping[str, Send]) -> list[str]:
    """Send what is due, once each; returns what could not be sent, one sentence each."""
    failed: list[str] = []
    for message in await _claim(database, list(channels)):
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await channels[message.channel](message)
        except Exception as error:  # Whatever is wrong with one channel keeps no other from telling.
            why = (str(error) if isinstance(error, TELLING) else "") or type(error).__name__
            then = "tried again" if await _note(database, message, error=why) else "given up"
            failed.append(f"{message.channel} did not take {message.delivery_id}: {why}; it is {then}.")
        else:
            await _note(database, message, error=None)
    return failed


async def _claim(database: Database, channels: list[str]) -> list[Message]:
    now = datetime.now(UTC)
    before = alert_deliveries.alias("before")
    due = (
        select(alert_deliveries.c.delivery_id)
        .where(
            _waits(alert_deliveries),
            alert_deliveries.c.next_attempt_at <= now,
            alert_deliveries.c.channel.in_(channels),
            # Told out of order, a receiver that was away for a while takes what is over for what goes on.
            ~exists().where(
                _waits(before),
                before.c.alert_id == alert_deliveries.c.alert_id,
                before.c.channel == alert_deliveries.c.channel,
                before.c.created_at < alert_deliveries.c.created_at,
            ),
        )
        .order_by(alert_deliveries.c.created_at)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    async with database.begin() as connection:
        rows = await connection.execute(
            update(alert_deliveries)
            .where(alert_deliveries.c.delivery_id.in_(due))
            .values(
                attempts=alert_deliveries.c.attempts + 1,
                next_attempt_at=now + timedelta(seconds=CLAIM_SECONDS),
            )
            .returning(alert_deliveries)
        )
        return sorted(
            (
                Message(row.delivery_id, row.channel, row.message, row.attempts, row.created_at)
                for row in rows
            ),
            key=lambda message: message.created_at,
        )


def _waits(messages: FromClause) -> ColumnElement[bool]:
    return and_(messages.c.delivered_at.is_(None), messages.c.given_up_at.is_(None))


async def _note(database: Database, message: Message, *, error: str | None) -> bool:
    """Keep how an attempt ended; whether another one follows."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {"error": error}
    if error is None:
        values["delivered_at"] = now
    elif now - message.created_at > timedelta(days=GIVE_UP_DAYS):
        values["given_up_at"] = now
    else:
        pause = min(PAUSE_SECONDS_MAX, FIRST_PAUSE_SECONDS * 2.0 ** min(message.attempts - 1, 20))
        values["next_attempt_at"] = now + timedelta(seconds=pause)
    async with database.begin() as connection:
        await connection.execute(
            update(alert_deliveries)
            .where(alert_deliveries.c.delivery_id == message.delivery_id)
            .values(**values)
        )
    return "next_attempt_at" in values


def _read_address(setting: str, url: str, schemes: Sequence[str], expected: str) -> SplitResult:
    """The address in a setting, which the message does not quote: it may hold a password."""
    with suppress(ValueError):  # What no address can be, and a port that is no number.
        address = urlsplit(url)
        if address.scheme in schemes and address.hostname and address.port != 0:
            return address
    raise HoneError(f"{setting} cannot be read; expected {expected}.")


def _webhook(url: str, key: bytes) -> Send:
    async def send(message: Message) -> None:
        body, timestamp = orjson.dumps(message.message), int(datetime.now(UTC).timestamp())
        headers = {
            "content-type": "application/json",
            "webhook-id": message.delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(key, message.delivery_id, timestamp, body),
        }
        await _post(url, body, headers)

    return send


def _slack(url: str) -> Send:
    async def send(message: Message) -> None:
        await _post(url, orjson.dumps({"text": in_words(message)}), {"content-type": "application/json"})

    return send


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    async with httpx.AsyncClient(timeout=SEND_SECONDS) as client:
        answer = await client.post(url, content=body, headers=headers)
    if not answer.is_success:
        # Not the URL: Slack's is a secret.
        raise httpx.HTTPError(f"the receiver answered {answer.status_code}")


def _email(settings: MonitoringSettings, url: str) -> Send:
    address = _read_address(
        "alert_smtp_url", url, ("smtp", "smtps"), "smtp://user:password@host:587 or smtps://..."
    )

    def hand_over(letter: EmailMessage) -> None:
        secure = address.scheme == "smtps"
        connect = smtplib.SMTP_SSL if secure else smtplib.SMTP
        host, port = str(address.hostname), address.port or (465 if secure else 587)
        with connect(host, port, timeout=SEND_SECONDS) as server:
            server.ehlo()
            if not secure and server.has_extn("starttls"):
                server.starttls()
            if address.username:
                server.login(unquote(address.username), unquote(address.password or ""))
            server.send_message(letter)

    async def send(message: Message) -> None:
        data = message.message["data"]
        letter = EmailMessage()
        letter["Subject"] = f"[{data['severity']}] {data['model']}: {data['rule'].replace('_', ' ')}"
        letter["From"] = settings.alert_email_from
        letter["To"] = ", ".join(settings.alert_email_to)
        letter["Message-ID"] = f"<{message.delivery_id}@hone>"
        letter.set_content(in_words(message))
        await asyncio.to_thread(hand_over, letter)

    return send


def in_words(message: Message) -> str:
    """The message for people."""
    data = message.message["data"]
    state = "over" if message.message["type"] == "alert.resolved" else data["severity"]
    return f"{data['project']}/{data['model']}, {state}: {data['sentence']}"
