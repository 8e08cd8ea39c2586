"""Commands on the record: keys, models, versions, datasets, experiments, audit, and the operator's verbs."""

from dataclasses import asdict
from typing import Annotated, Any, cast

import orjson
import typer

from feedback import (
    adapters,
    allocations,
    audit,
    engines,
    experiments,
    keys,
    models,
    shipping,
)
from feedback.errors import HoneError
from feedback.evidence_cli import show_evidence
from feedback.feedback_cli import completion, feedback
from feedback.keys import DEFAULT_PROJECT
from feedback.policy import read_policy
from feedback.terminal import actor, console, in_record, show_one, show_rows

Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Why = Annotated[str, typer.Option(help="Reason, kept in the audit trail.")]
Version = Annotated[str, typer.Argument(help="Version, such as support@7.")]

app = typer.Typer(no_args_is_help=True, help="Work on the record.")


def _group(name: str, help: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=help)
    app.add_typer(group, name=name)
    return group


key = _group("key", "Create, list and revoke API keys.")
model = _group("model", "Create and list models, and change their policies.")
# Mounted by retrain.adapter_cli, which adds what needs the training side.
adapter = typer.Typer(no_args_is_help=True, help="Show, compare, export and import adapter versions.")
adapter.command("evidence")(show_evidence)
experiment = _group("experiment", "List and show traffic splits with their verdicts.")
app.add_typer(feedback, name="feedback")
app.add_typer(completion, name="completion")


@key.command("create")
def create_key(
    role: Annotated[
        str, typer.Option(help="app (ask and rate), operator (decide) or admin (keys and models).")
    ] = "app",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    requests_per_minute: Annotated[int | None, typer.Option(help="Limit; none if left out.")] = None,
    lifetime_days: Annotated[
        float | None, typer.Option(help="Days until the key expires; never if left out.")
    ] = None,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once."""
    made, secret = in_record(
        lambda connection: keys.create(
            connection,
            role=role,
            name=name,
            project=project,
            requests_per_minute=requests_per_minute,
            lifetime_days=lifetime_days,
            by=actor(),
        )
    )
    show_one(
        {"key": secret, "key_id": made.key_id, "role": made.role, "project": made.project}, as_json=as_json
    )


@key.command("list")
def list_keys(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List the keys of a project, newest first."""
    found = in_record(lambda connection: keys.in_project(connection, project))
    rows = [{name: value for name, value in asdict(one).items() if name != "key_hash"} for one in found]
    columns = ("key_id", "role", "name", "prefix", "created_at", "expires_at", "revoked_at")
    show_rows(rows, columns, as_json=as_json, empty="No keys. `hone key create` makes one.")


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, from `hone key list`.")],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Stop a key from working. Cannot be undone; safe to repeat."""
    in_record(lambda connection: keys.revoke(connection, project, key_id, by=actor()))
    console.print(f"{key_id} no longer works.")


@model.command("create")
def create_model(
    name: Annotated[str, typer.Argument(help="Alias that clients will ask for.")],
    base_model: Annotated[str, typer.Option(help="Base model: the path or hub name that an engine serves.")],
    policy: Annotated[str, typer.Option(help="Policy as JSON; defaults where left out.")] = "{}",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Make a model; its base answers at once as version 0."""
    wanted = read_policy(_json_object(policy))
    made = in_record(
        lambda connection: models.create(
            connection, project=project, model=name, base_model=base_model, policy=wanted, by=actor()
        )
    )
    console.print(f"{made.model}@0 answers with {made.base_model} as soon as an engine serves it.")


@model.command("list")
def list_models(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List the models of a project."""

    async def work(connection: Any) -> list[dict[str, Any]]:
        return [
            {
                "model": one.model,
                "champion": (await adapters.champion(connection, project, one.model)).name,
                "base_model": one.base_model,
                "approval": one.policy.approval,
            }
            for one in await models.in_project(connection, project)
        ]

    columns = ("model", "champion", "base_model", "approval")
    show_rows(in_record(work), columns, as_json=as_json, empty="No models. `hone model create` makes one.")


@model.command("policy")
def policy(
    name: Annotated[str, typer.Argument(help="Model alias.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=JSON, such as rollout.step_seconds_min=60; repeatable."),
    ] = None,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Show a model's policy, or change parts of it. Takes effect without a restart."""

    async def work(connection: Any) -> models.Model:
        for change in set_ or []:
            await models.change_policy(connection, project, name, _policy_change(change), by=actor())
        return await models.get(connection, project, name)

    console.print_json(data=in_record(work).policy.model_dump(mode="json"))


@adapter.command("list")
def list_adapters(
    model_name: Annotated[str, typer.Option("--model", help="Model alias.")] = "support",
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List the versions of a model, newest first."""

    async def work(connection: Any) -> list[dict[str, Any]]:
        await models.get(connection, project, model_name)
        return [
            {"name": one.name} | asdict(one)
            for one in await adapters.of_model(connection, project, model_name)
        ]

    columns = ("name", "state", "adapter_id", "run_id", "created_at")
    show_rows(in_record(work), columns, as_json=as_json, empty="No versions.")


@adapter.command("show")
def show_adapter(reference: Version, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Show a version: its state, the gate's report, where it is loaded, what was decided and by whom."""

    async def work(connection: Any) -> dict[str, Any]:
        found = await adapters.get(connection, project, reference)
        return {
            "name": found.name,
            **asdict(found),
            "may_become": sorted(
                {verb for verb, (before, _) in adapters.MOVES.items() if before == found.state}
            ),
            "engines": [asdict(one) for one in await engines.standing(connection, found.adapter_id)],
            "decisions": [
                f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.actor} {entry.action} {entry.detail.get('reason', '')}".strip()
                for entry in await audit.entries(connection, project, subject=found.name)
            ],
        }

    show_one(in_record(work), as_json=as_json)


@experiment.command("list")
def list_experiments(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List traffic splits, newest first."""
    found = in_record(lambda connection: experiments.in_project(connection, project))
    rows = [
        asdict(one)
        | {
            "share": sum(arm.weight for arm in one.arms if arm.arm != experiments.CHAMPION_ARM),
            "versions": ", ".join(arm.version for arm in one.arms),
            "says": _says(one),
        }
        for one in found
    ]
    columns = ("experiment_id", "versions", "status", "share", "says", "outcome", "started_at")
    show_rows(rows, columns, as_json=as_json, empty="No experiments yet. `hone canary support@1` starts one.")


def _says(split: experiments.Experiment) -> str:
    """The newest verdict, in a word; of several candidates that on each."""
    verdict = split.verdict or {}
    if not (each := verdict.get("candidates")):
        return str(verdict.get("state", "nothing yet"))
    return ", ".join(f"{arm.version} {each[arm.arm]['state']}" for arm in split.arms if arm.arm in each)


@experiment.command("show")
def show_experiment(
    experiment_id: Annotated[str, typer.Argument(help="Id, from `hone experiment list`.")],
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show a split with its arms and newest verdict."""
    found = in_record(lambda connection: experiments.get(connection, project, experiment_id))
    show_one(asdict(found), as_json=as_json)


@app.command("approve")
def approve(reference: Version, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Let a candidate meet traffic. Moves no traffic by itself."""
    done = in_record(
        lambda connection: shipping.approve(connection, project, reference, by=actor(), reason=reason)
    )
    console.print(f"{done.name} is approved. `hone canary {done.name}` gives it its first share of traffic.")


@app.command("reject")
def reject(reference: Version, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Keep a candidate out. Cannot be undone; the version stays on disk."""
    done = in_record(
        lambda connection: shipping.reject(connection, project, reference, by=actor(), reason=reason)
    )
    console.print(f"{done.name} is rejected.")


@app.command("canary")
def canary(
    references: Annotated[list[str], typer.Argument(help="Approved version, such as support@3; or several.")],
    allocation: Annotated[
        str | None,
        typer.Option(help="How several share people: equal (also if left out), thompson or top-two."),
    ] = None,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Send the first step's share of traffic to an approved version, or to several at once. Undo with `abort`."""
    if len(references) == 1 and allocation is None:
        started = in_record(
            lambda connection: shipping.start_canary(connection, project, references[0], by=actor())
        )
    else:
        rule = cast(allocations.Rule, allocation or "equal")
        started = in_record(
            lambda connection: shipping.start_canaries(connection, project, references, rule=rule, by=actor())
        )
    share = started.candidates[0].weight
    says = f"answers {share:.0%}" if len(references) == 1 else f"answer {share:.1%} each"
    console.print(
        f"{', '.join(references)} {says} of raters. `hone experiment show {started.experiment_id}` tells how it goes."
    )


@app.command("promote")
def promote(reference: Version, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Make a version the champion, which answers everybody. Undo with `rollback`."""
    done = in_record(
        lambda connection: shipping.promote(connection, project, reference, by=actor(), reason=reason)
    )
    console.print(
        f"{done.name} is the champion. `hone rollback --model {done.model}` puts the one before it back."
    )


@app.command("abort")
def abort(
    model_name: Annotated[str, typer.Option("--model", help="Model alias.")] = "support",
    only: Annotated[
        str | None, typer.Option(help="Of several canaries this one, such as support@8; all if left out.")
    ] = None,
    reason: Why = "",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """End the canary; its traffic goes back to the champion."""
    why = reason or "an operator ended it"
    done = in_record(
        lambda connection: shipping.abort(connection, project, model_name, only=only, by=actor(), reason=why)
    )
    console.print(f"{done.name} gets no more traffic and needs a new approval to return.")


@app.command("rollback")
def roll_back(
    model_name: Annotated[str, typer.Option("--model", help="Model alias.")] = "support",
    to: Annotated[
        str | None, typer.Option(help="An earlier champion, such as support@3; the last one if left out.")
    ] = None,
    reason: Why = "",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Put an earlier champion back. Takes effect without a restart; undo with `rollback --to`."""
    done = in_record(
        lambda connection: shipping.roll_back(
            connection, project, model_name, to=to, by=actor(), reason=reason
        )
    )
    console.print(f"{done.name} is the champion again.")


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise HoneError(
            f'\'{text}\' is not JSON: {error}. Expected an object such as {{"approval": "operator"}}.'
        ) from error
    if not isinstance(value, dict):
        raise HoneError(f'\'{text}\' is JSON, but not an object such as {{"approval": "operator"}}.')
    return value


def _policy_change(change: str) -> dict[str, Any]:
    field, separator, text = change.partition("=")
    if not separator:
        raise HoneError(f"--set '{change}' has no '='; expected FIELD=VALUE, such as rollout.alpha=0.01.")
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    for name in reversed(field.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value
