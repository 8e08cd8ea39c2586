"""Commands about a running rollout: where it stands, pause, resume."""

from typing import Annotated

import typer

from feedback import rollouts, shipping
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import actor, console, in_record, show_one

Model = Annotated[str, typer.Option(help="Model alias.")]
Why = Annotated[str, typer.Option(help="Reason, kept in the audit trail.")]
Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(no_args_is_help=True, help="Roll out.")


@app.command("rollout")
def rollout(model: Model = "support", project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Show where a model's rollout stands, what its next step waits for, and why the last one ended."""
    found = in_record(lambda connection: rollouts.view(connection, project, model))
    if as_json:
        show_one(found, as_json=True)
        return
    of_each = ("guardrails", "candidates")
    show_one(
        {name: value for name, value in found.items() if value is not None and name not in of_each},
        as_json=False,
    )
    candidates = found.get("candidates", ())
    for one in candidates:
        if len(candidates) > 1:
            console.print(
                f"{one['version']} ({one['state']}, {one['share']:.1%} of raters): {one['says'] or '-'}"
            )
        for sentence in one["guardrails"]:
            console.print(f"  {sentence}")


@app.command("pause")
def pause(model: Model = "support", reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Keep the canary at its share. Guardrails go on watching it; undo with `resume`."""
    why = reason or "an operator paused it"
    in_record(lambda connection: shipping.pause(connection, project, model, by=actor(), reason=why))
    console.print(f"The rollout of '{model}' is paused. `hone resume --model {model}` lets it go on.")


@app.command("resume")
def resume(model: Model = "support", reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Let a paused rollout go on. It does not pause again for what it was paused for."""
    in_record(lambda connection: shipping.resume(connection, project, model, by=actor(), reason=reason))
    console.print(f"The rollout of '{model}' goes on. `hone rollout --model {model}` says what it waits for.")
