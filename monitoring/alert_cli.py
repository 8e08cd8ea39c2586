"""Commands about alerts: list them, silence a rule, try the channels."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import actor, console, in_record, show_rows

if TYPE_CHECKING:
    from monitoring.deliveries import Message, Send

Model = Annotated[str, typer.Option(help="Model alias.")]
Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

app = typer.Typer(no_args_is_help=True, help="Watch.")
alert = typer.Typer(no_args_is_help=True, help="List and silence alerts, and try how they are delivered.")
app.add_typer(alert, name="alert")

COLUMNS = ("state", "severity", "model", "rule", "fired_at", "resolved_at", "sentence")


@app.callback()
def watch() -> None:
    """Watch."""


@alert.command("list")
def list_alerts(
    model: Annotated[str | None, typer.Option(help="Only alerts of this model.")] = None,
    firing: Annotated[bool, typer.Option("--firing", help="Only those that fire now.")] = False,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List alerts, those that fire first, then the newest."""
    from monitoring import alerts

    state = "firing" if firing else None
    found = in_record(lambda connection: alerts.listed(connection, project, model, state=state))
    show_rows([asdict(one) for one in found], COLUMNS, as_json=as_json, empty="No alerts.")


@alert.command("silence")
def silence(
    rule: Annotated[str, typer.Argument(help="Rule, such as input_drift; '*' is every rule.")],
    model: Model = "support",
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="For how long.")] = 8.0,
    reason: Annotated[str, typer.Option(help="Reason, kept in the audit trail.")] = "",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Tell nobody of a rule's alerts for some hours. They fire and resolve all the same."""
    from monitoring import alerts

    until = in_record(
        lambda connection: alerts.silence(
            connection, project, model, rule=rule, hours=hours, by=actor(), reason=reason
        )
    )
    console.print(f"'{rule}' of '{model}' is silent until {until.astimezone():%Y-%m-%d %H:%M}.")


@alert.command("test")
def try_channels() -> None:
    """Send a message through every configured channel now, and say which took it."""
    from monitoring.deliveries import Message, senders
    from monitoring.settings import MonitoringSettings

    channels = senders(MonitoringSettings.load())
    if not channels:
        console.print("No channel is configured: set alert_webhook_url, alert_slack_url or alert_email_to.")
        raise typer.Exit(1)
    now = datetime.now(UTC)
    data = {"project": DEFAULT_PROJECT, "model": "support", "rule": "test", "severity": "warning"}
    content = {
        "type": "alert.test",
        "timestamp": now.isoformat(),
        "data": data | {"sentence": "This is a test."},
    }
    failed = False
    for name, send in channels.items():
        try:
            asyncio.run(_send(send, Message("msg-test", name, content, 1, now)))
        except (
            Exception
        ) as error:  # Whatever stands in the way of a channel is what the person wants to read.
            failed = True
            console.print(f"{name} did not take it: {error!r}")
        else:
            console.print(f"{name} took it.")
    raise typer.Exit(1 if failed else 0)


async def _send(send: "Send", message: "Message") -> None:
    await send(message)
