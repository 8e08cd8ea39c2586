"""`hone cost`: what answers and training took, and what came of it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import console, in_record, show_one, show_rows

app = typer.Typer(no_args_is_help=True, help="Cost.")


@app.callback()
def costs() -> None:
    """Cost."""


@app.command("cost")
def cost(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    days: Annotated[float, typer.Option(min=0.01, max=3660, help="How far back, in days.")] = 30.0,
    project: Annotated[
        str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")
    ] = DEFAULT_PROJECT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each version's answers and each run took, and how much better people liked the result."""
    from monitoring.cost import Prices, report
    from monitoring.settings import MonitoringSettings

    until = datetime.now(UTC)
    prices = Prices.of(MonitoringSettings.load())

    async def work(connection: Any) -> dict[str, Any]:
        return await report(
            connection, project, prices, since=until - timedelta(days=days), until=until, model=model
        )

    found = in_record(work)
    if as_json:
        show_one(found, as_json=True)
        return
    answers = ("name", "requests", "failed", "prompt_tokens", "output_tokens", "engine_seconds", "cost")
    show_rows(
        [_answers(one, found) for one in found["versions"]],
        answers,
        as_json=False,
        empty="Nobody asked anything in this time.",
    )
    runs = ("run_id", "name", "state", "rows", "training_seconds", "evaluation_seconds", "cost", "lift")
    show_rows(
        [_run(one, found) for one in found["improvements"]],
        runs,
        as_json=False,
        empty="No run began in this time.",
    )
    console.print(
        f"Together: {found['engine_seconds']:.1f} s of engines, {found['training_seconds']:.1f} s of training, "
        f"{_amount(found['cost'], found)}."
    )


def _answers(one: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {**one, "engine_seconds": f"{one['engine_seconds']:.1f}", "cost": _amount(one["cost"], found)}


def _run(one: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {**one, "cost": _amount(one["cost"], found), "lift": _lift(one["lift"])}


def _amount(cost: float | None, found: dict[str, Any]) -> str:
    return "no price set" if cost is None else f"{cost:.4g} {found['currency']}"


def _lift(lift: dict[str, Any] | None) -> str:
    if lift is None:
        return "not compared yet"
    interval = "" if lift["low"] is None else f" ({lift['low']:+.3f} to {lift['high']:+.3f})"
    return f"{lift['difference']:+.3f}{interval}, {lift['state']}"
