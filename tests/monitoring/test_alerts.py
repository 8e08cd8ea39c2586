"""Alerts are raised once, resolved by themselves, kept quiet on request, and delivered at least once, signed."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from feedback import experiments, models, rollouts, run_requests, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError
from feedback.models import Model
from feedback.policy import ModelPolicy
from feedback.watch_tables import drift_reports
from monitoring import alerts
from monitoring.alert_rules import Condition, conditions
from monitoring.deliveries import Message, deliver, read_secret, senders, sign
from monitoring.settings import MonitoringSettings
from tests.alert_receivers import mail_receiver, web_receiver
from tests.builders import PROJECT, a_completion, a_model, an_adapter

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
DRIFT = Condition("input_drift", "warning", "People ask about the sea.")


async def raise_it(database: Database, *found: Condition, channels: Any = ("webhook",)) -> list[str]:
    async with database.begin() as connection:
        model = await models.get(connection, PROJECT, "support")
        return await alerts.bring_up_to_date(connection, model, found, channels=channels)


async def a_service(database: Database, policy: ModelPolicy | None = None) -> Model:
    async with database.begin() as connection:
        return await a_model(connection, policy=policy)


async def waiting(database: Database) -> list[tuple[str, str]]:
    async with database.begin() as connection:
        rows = await connection.execute(
            text("SELECT channel, event FROM alert_deliveries WHERE delivered_at IS NULL ORDER BY created_at")
        )
        return [(row.channel, row.event) for row in rows]


async def found(database: Database) -> list[tuple[str, str]]:
    async with database.begin() as connection:
        model = await models.get(connection, PROJECT, "support")
        return [(one.rule, one.sentence) for one in await conditions(connection, model)]


async def make_due(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alert_deliveries SET next_attempt_at = now()"))


async def test_an_alert_is_raised_once_and_told_once_for_as_long_as_it_lasts(database: Database) -> None:
    await a_service(database)
    assert await raise_it(database, DRIFT) == ["warning: People ask about the sea."]
    assert await raise_it(database, replace(DRIFT, sentence="They still do.")) == []
    async with database.begin() as connection:
        [alert] = await alerts.listed(connection, PROJECT)
    assert (alert.seen, alert.sentence, alert.state) == (2, "They still do.", "firing")
    assert await waiting(database) == [("webhook", "alert.firing")]


async def test_what_is_over_resolves_itself_and_may_fire_again(database: Database) -> None:
    await a_service(database)
    await raise_it(database, DRIFT)
    assert await raise_it(database) == ["resolved: People ask about the sea."]
    await raise_it(database, DRIFT)
    async with database.begin() as connection:
        states = [alert.state for alert in await alerts.listed(connection, PROJECT)]
    assert states == ["firing", "resolved"]
    assert [event for _, event in await waiting(database)] == [
        "alert.firing",
        "alert.resolved",
        "alert.firing",
    ]


async def test_a_silenced_alert_fires_and_is_told_only_if_it_outlasts_the_silence(database: Database) -> None:
    await a_service(database)
    async with database.begin() as connection:
        await alerts.silence(
            connection, PROJECT, "support", rule="input_drift", hours=1, by="ada", reason="a campaign"
        )
    await raise_it(database, DRIFT)
    assert await waiting(database) == []
    async with database.begin() as connection:
        await connection.execute(text("UPDATE silences SET until = now()"))
    await raise_it(database, DRIFT)
    assert await waiting(database) == [("webhook", "alert.firing")]


async def test_nobody_hears_the_end_of_what_he_never_heard_of(database: Database) -> None:
    await a_service(database)
    async with database.begin() as connection:
        await alerts.silence(connection, PROJECT, "support", rule="*", hours=1, by="ada", reason="")
    await raise_it(database, DRIFT)
    await raise_it(database)
    assert await waiting(database) == []


async def test_a_rule_that_does_not_exist_cannot_be_silenced(database: Database) -> None:
    await a_service(database)
    with pytest.raises(HoneError, match="'moon' is no alert rule"):
        async with database.begin() as connection:
            await alerts.silence(connection, PROJECT, "support", rule="moon", hours=1, by="ada", reason="")


async def test_an_alert_asks_for_a_training_run_once_where_the_policy_says_so(database: Database) -> None:
    await a_service(database, ModelPolicy.model_validate({"alerts": {"retrain_on": ["input_drift"]}}))
    for _ in range(3):
        await raise_it(database, DRIFT)
    async with database.begin() as connection:
        [asked] = await run_requests.waiting(connection)
    assert (asked.model, asked.kind, asked.requested_by) == ("support", "now", AUTOMATIC_ACTOR)


async def test_an_engine_that_is_away_for_one_look_wakes_nobody(database: Database) -> None:
    await a_service(database)
    away = Condition("engines_away", "critical", "No engine is ready.")
    await raise_it(database, away)
    assert await waiting(database) == []
    await raise_it(database, away)
    assert await waiting(database) == [("webhook", "alert.firing")]


async def test_a_canary_that_was_aborted_by_itself_waits_for_a_decision(database: Database) -> None:
    await a_service(database)
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        await experiments.start_canary(connection, candidate, by="ada")
        await shipping.abort(connection, PROJECT, "support", by=AUTOMATIC_ACTOR, reason="it lies")
    assert ("canary_aborted", "support@1 was taken back by itself and waits for a decision: it lies") in (
        await found(database)
    )
    async with database.begin() as connection:
        await shipping.reject(connection, PROJECT, "support@1", by="ada", reason="it does")
    assert "canary_aborted" not in dict(await found(database))


async def test_each_of_several_candidates_that_was_taken_back_is_told_by_itself(database: Database) -> None:
    await a_service(database, ModelPolicy.model_validate({"alerts": {"rules": ["canary_aborted"]}}))
    names = ["support@1", "support@2", "support@3"]
    async with database.begin() as connection:
        for _ in names:
            await an_adapter(connection, state="approved")
        await shipping.start_canaries(connection, PROJECT, names, rule="equal", by="ada")
    for name in names[:2]:
        async with database.begin() as connection:
            await shipping.abort(
                connection, PROJECT, "support", only=name, by=AUTOMATIC_ACTOR, reason=f"{name} lies"
            )
        assert dict(await found(database))["canary_aborted"].endswith(f"waits for a decision: {name} lies")
        await alerts.tick(database, ["webhook"])
    async with database.begin() as connection:
        told = await alerts.listed(connection, PROJECT, "support", state="firing")
        await shipping.promote(connection, PROJECT, "support@3", by="ada", reason="it is the one")
        await shipping.reject(connection, PROJECT, "support@1", by="ada", reason="it does")
    assert {one.subject for one in told if one.rule == "canary_aborted"} == {"support@1", "support@2"}
    assert await waiting(database) == [("webhook", "alert.firing")] * 2
    assert [rule for rule, _ in await found(database)].count("canary_aborted") == 1


async def test_a_candidate_that_made_way_for_another_is_no_alert(database: Database) -> None:
    await a_service(database, ModelPolicy(approval="automatic"))
    names = ["support@1", "support@2"]
    async with database.begin() as connection:
        for _ in names:
            await an_adapter(connection, state="approved")
        await shipping.start_canaries(connection, PROJECT, names, rule="equal", by="ada")
        await shipping.promote(connection, PROJECT, "support@2", by=AUTOMATIC_ACTOR, reason="it is better")
    assert "canary_aborted" not in dict(await found(database))


async def test_an_abort_by_a_person_is_no_alert_and_a_pause_by_the_worker_is_one(database: Database) -> None:
    await a_service(database)
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        split = await experiments.start_canary(connection, candidate, by="ada")
        await rollouts.pause(connection, split, cause="length", by=AUTOMATIC_ACTOR, reason="it rambles")
    assert "rollout_paused" in dict(await found(database))
    async with database.begin() as connection:
        await shipping.abort(connection, PROJECT, "support", by="ada", reason="enough")
    assert not {"canary_aborted", "rollout_paused"} & set(dict(await found(database)))


@pytest.mark.parametrize(
    ("error_class", "told"),
    [
        ("model", {"version_fails": "5 of the newest 20 answers of support@7 failed by themselves"}),
        ("unknown", {"version_fails": "5 of the newest 20 answers of support@7 failed by themselves"}),
        (
            "infrastructure",
            {"infrastructure_fails": "5 of the newest 40 answers of 'support' failed through"},
        ),
        ("caller", {}),
    ],
)
async def test_many_failures_are_told_by_whose_they_are(
    database: Database, error_class: str, told: dict[str, str]
) -> None:
    await a_service(database)
    failed = {"status": "error", "error": "no", "error_class": error_class}
    async with database.begin() as connection:
        rows = [a_completion(version=7, **(failed if number < 4 else {})) for number in range(19)]
        await insert_many(connection, [*rows, *(a_completion(version=6) for _ in range(20))])
    assert not {"version_fails", "infrastructure_fails"} & set(dict(await found(database)))
    async with database.begin() as connection:
        await insert_many(connection, [a_completion(version=7, **failed)])
    now = {rule: says for rule, says in await found(database) if rule.endswith("_fails")}
    assert set(now) == set(told) and all(now[rule].startswith(says) for rule, says in told.items())


async def test_a_rule_the_policy_leaves_out_raises_nothing(database: Database) -> None:
    await a_service(database)
    assert "engines_away" in dict(await found(database))
    async with database.begin() as connection:
        await models.change_policy(connection, PROJECT, "support", {"alerts": {"rules": []}}, by="ada")
    assert await found(database) == []


async def test_drift_of_one_kind_is_told_however_many_windows_of_another_came_since(
    database: Database,
) -> None:
    await a_service(database)
    now = datetime.now(UTC) + timedelta(hours=1)

    def compared(kind: str, number: int, *, alarm: bool) -> dict[str, Any]:
        moments = dict.fromkeys(
            ("reference_from", "window_from", "window_to"), now + timedelta(minutes=number)
        )
        about = {
            "report_id": f"{kind}-{number}",
            "project": PROJECT,
            "model": "support",
            "kind": kind,
            "rows": 500,
        }
        return about | moments | {"drifted": alarm, "alarm": alarm, "tests": [], "sentence": "They changed."}

    rows = [compared("feedback", 0, alarm=True), *(compared("input", n, alarm=n < 25) for n in range(1, 26))]
    async with database.begin() as connection:
        await connection.execute(drift_reports.insert(), rows)
    assert [rule for rule, _ in await found(database) if rule.endswith("_drift")] == ["feedback_drift"]


async def test_a_webhook_is_signed_and_sent_again_until_it_is_taken(database: Database) -> None:
    await a_service(database)
    async with web_receiver() as receiver:
        channels = senders(MonitoringSettings(alert_webhook_url=receiver.url, alert_webhook_secret=SECRET))
        await raise_it(database, DRIFT, channels=list(channels))
        receiver.status = 503
        [failed] = await deliver(database, channels)
        assert "the receiver answered 503" in failed
        assert await deliver(database, channels) == [], "it is not due yet"
        receiver.status = 204
        await make_due(database)
        assert await deliver(database, channels) == []
        await make_due(database)
        assert await deliver(database, channels) == []
    first, second = receiver.posts
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    stamp = int(second.headers["webhook-timestamp"])
    expected = sign(read_secret(SECRET), second.headers["webhook-id"], stamp, second.body)
    assert second.headers["webhook-signature"] == expected
    said = orjson.loads(second.body)
    assert said["type"] == "alert.firing" and said["data"]["sentence"] == DRIFT.sentence


async def test_a_message_whose_sender_died_is_sent_again(database: Database) -> None:
    await a_service(database)
    await raise_it(database, DRIFT)
    sent: list[str] = []

    async def die(message: Message) -> None:
        raise KeyboardInterrupt

    async def send(message: Message) -> None:
        sent.append(message.delivery_id)

    with pytest.raises(KeyboardInterrupt):
        await deliver(database, {"webhook": die})
    assert await deliver(database, {"webhook": send}) == [] and sent == [], "its claim still holds"
    await make_due(database)
    await deliver(database, {"webhook": send})
    assert len(sent) == 1 and await waiting(database) == []


async def test_slack_and_mail_say_it_in_words(database: Database) -> None:
    await a_service(database)
    async with web_receiver() as slack, mail_receiver() as mail:
        channels = senders(
            MonitoringSettings(
                alert_slack_url=slack.url,
                alert_email_to=("ada@shop.example",),
                alert_smtp_url=mail.url,
            )
        )
        await raise_it(database, DRIFT, channels=list(channels))
        assert await deliver(database, channels) == []
    said = "default/support, warning: People ask about the sea."
    assert orjson.loads(slack.posts[0].body) == {"text": said}
    [letter] = mail.letters
    assert said in letter and "To: ada@shop.example" in letter and "[warning] support: input drift" in letter


async def test_a_receiver_that_is_gone_for_days_is_given_up(database: Database) -> None:
    await a_service(database)
    await raise_it(database, DRIFT)
    async with database.begin() as connection:
        long_ago = datetime.now(UTC) - timedelta(days=4)
        await connection.execute(text("UPDATE alert_deliveries SET created_at = :at"), {"at": long_ago})

    async def refuse(message: Message) -> None:
        raise ConnectionError("nobody is there")

    [said] = await deliver(database, {"webhook": refuse})
    assert said.endswith(": nobody is there; it is given up.")
    await make_due(database)
    assert await deliver(database, {"webhook": refuse}) == []


async def test_a_receiver_that_was_away_hears_of_an_alert_before_it_hears_of_its_end(
    database: Database,
) -> None:
    await a_service(database)
    sent: list[tuple[str, str]] = []

    async def refuse(message: Message) -> None:
        raise ConnectionError("nobody is there")

    async def send(message: Message) -> None:
        sent.append((message.channel, message.message["type"]))

    await raise_it(database, DRIFT, channels=("webhook", "slack"))
    await deliver(database, {"webhook": refuse, "slack": send})
    await raise_it(database, channels=("webhook", "slack"))
    for _ in range(2):
        await deliver(database, {"webhook": send, "slack": send})
    assert sent == [("slack", "alert.firing"), ("slack", "alert.resolved")], "the webhook's pause goes on"
    await make_due(database)
    for _ in range(2):
        await deliver(database, {"webhook": send, "slack": send})
    assert sent[2:] == [("webhook", "alert.firing"), ("webhook", "alert.resolved")]


async def test_a_channel_that_breaks_in_no_foreseen_way_keeps_no_other_from_being_told(
    database: Database,
) -> None:
    await a_service(database)
    sent: list[str] = []

    async def broken(message: Message) -> None:
        "secr\u00eft".encode("ascii")  # As SMTP does with a password; the error holds it.

    async def send(message: Message) -> None:
        sent.append(message.channel)

    await raise_it(database, DRIFT, channels=("email", "webhook"))
    [said] = await deliver(database, {"email": broken, "webhook": send})
    assert said.endswith(": UnicodeEncodeError; it is tried again.") and sent == ["webhook"]
    assert await deliver(database, {"email": broken, "webhook": send}) == [], "it waits in its pause"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alert_webhook_url": "http://127.0.0.1:1"}, "alert_webhook_secret is not"),
        ({"alert_webhook_url": "http://127.0.0.1:1", "alert_webhook_secret": "whsec_short"}, "24 to 64"),
        ({"alert_email_to": ("ada@shop.example",)}, "alert_smtp_url is not"),
        ({"alert_email_to": ("a@b.c",), "alert_smtp_url": "mail.example"}, "smtp://user:password@host"),
        ({"alert_email_to": ("a@b.c",), "alert_smtp_url": "smtp://host:port"}, "smtp://user:password@host"),
        ({"alert_slack_url": "hooks.slack.com/services/T0"}, "alert_slack_url cannot be read"),
        ({"alert_webhook_url": "http://[::1", "alert_webhook_secret": SECRET}, "alert_webhook_url cannot be"),
    ],
)
def test_a_channel_that_cannot_work_is_refused_at_the_start(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(HoneError, match=says):
        senders(MonitoringSettings(**settings))


def test_signatures_are_those_of_the_published_example() -> None:
    """The example of the Standard Webhooks specification."""
    key = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
