"""`hone replay`: what another split would have done, from an experiment's logged propensities."""

from typing import Annotated, Any

import typer

from feedback import experiments, exposures, models
from feedback.errors import HoneError
from feedback.experiments import Experiment
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import console, in_record, show_one

app = typer.Typer(no_args_is_help=True, help="Replay.")


@app.callback()
def replays() -> None:
    """Replay."""


@app.command("replay")
def replay(
    experiment_id: Annotated[str, typer.Argument(help="Experiment; see `hone experiment list`.")],
    give: Annotated[str, typer.Option(help="Arm in question.")] = "candidate",
    where: Annotated[
        str | None, typer.Option(help="Only requests with this metadata, such as plan=pro; all if left out.")
    ] = None,
    otherwise: Annotated[str, typer.Option(help="Arm for the other requests.")] = "champion",
    project: Annotated[
        str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")
    ] = DEFAULT_PROJECT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate how another split would have been rated, from what was logged. Asks nobody and changes nothing."""
    from monitoring.replay import Choice, Replay
    from monitoring.replay import give as giving
    from monitoring.replay import replay as estimate

    key, _, value = (where or "").partition("=")
    if where and not (key and value):
        raise HoneError(f"--where {where}: expected KEY=VALUE of the requests' metadata, such as plan=pro.")

    async def work(connection: Any) -> tuple[Replay, int]:
        experiment: Experiment = await experiments.get(connection, project, experiment_id)
        policy = (await models.get(connection, project, experiment.model)).policy
        logged = await exposures.each(
            connection, experiment, votes=policy.feedback, segment_key=key if where else None
        )
        rule = giving(give, to=value, otherwise=otherwise) if where else giving(give)
        known = [one for one in logged if one.pop("known")]
        if logged and not known:
            raise HoneError(
                f"--where {where}: the metadata of all {len(logged)} requests are over their time and deleted, so "
                "nobody can tell which these were. Leave --where out, or keep texts or redacted copies for longer."
            )
        return estimate([Choice(**one) for one in known], rule), len(logged) - len(known)

    found, left_out = in_record(work)
    if as_json:
        from dataclasses import asdict

        show_one(asdict(found) | {"requests_left_out": left_out}, as_json=True)
        return
    to = f"`{give}` for {where}, `{otherwise}` for the rest" if where else f"`{give}` for everybody"
    console.print(f"If it had been {to}: net approval per request, with 95% intervals")
    for name in ("logged", "inverse_propensity", "self_normalised", "doubly_robust"):
        one = getattr(found, name)
        shown = name.replace("_", " ")
        console.print(f"  {shown:<20} {one.mean:+.3f}  ({one.low:+.3f} to {one.high:+.3f})", highlight=False)
    console.print(
        f"{found.requests} requests of {found.units} people; it rests on as much as {found.effective_units:.0f} "
        "people would tell who all met the rule.",
        highlight=False,
    )
    if left_out:
        console.print(f"Left out: {left_out} requests whose metadata are no longer kept.", highlight=False)
