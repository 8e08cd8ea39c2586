"""`hone adapter`, the part that needs the training side: lineage, export and import of versions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from feedback import adapters, lineage
from feedback.adapters import Adapter
from feedback.cli import adapter as adapter_commands
from feedback.errors import HoneError
from feedback.keys import DEFAULT_PROJECT
from feedback.settings import FeedbackSettings
from feedback.terminal import actor, console, in_record, patience, show_one

Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
Version = Annotated[str, typer.Argument(help="Version, such as support@7.")]

app = typer.Typer(no_args_is_help=True, help="Work on adapter versions.")
app.add_typer(adapter_commands, name="adapter")


@app.callback()
def _group() -> None:
    """Keep `adapter` a command of its own: with a single one, typer would drop its name."""


@adapter_commands.command("lineage")
def show_lineage(
    reference: Version,
    rows: Annotated[
        bool, typer.Option("--rows", help="With every row, its completions and feedback.")
    ] = False,
    project: Project = DEFAULT_PROJECT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show what made a version: run, dataset, people, parents; `hone completion why` goes the other way."""

    async def work(connection: Any) -> dict[str, Any]:
        return await lineage.of_adapter(
            connection, await adapters.get(connection, project, reference), rows=rows
        )

    show_one(in_record(work), as_json=as_json)


@adapter_commands.command("export")
def export_adapter(
    reference: Version,
    to: Annotated[Path, typer.Option(help="Folder to write; it must not be there yet.")],
    form: Annotated[str, typer.Option("--as", help="peft, merged or mlflow.")] = "peft",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Write a version to a folder: as PEFT's files, merged into its base model, or for MLflow. Changes nothing else."""
    from retrain.export import FORMS, export

    chosen = next((one for one in FORMS if one == form), None)
    if chosen is None:
        raise HoneError(f"--as is '{form}'; expected {', '.join(FORMS)}.")

    async def read(connection: Any) -> tuple[Adapter, dict[str, Any]]:
        found = await adapters.get(connection, project, reference)
        return found, await lineage.of_adapter(connection, found)

    found, made_by = in_record(read)
    with patience():
        written = export(found, to.absolute(), chosen, made_by)
    console.print(f"{found.name} is in {written}.")


@adapter_commands.command("import")
def import_adapter(
    directory: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter, as PEFT saves it.")],
    model: Annotated[str, typer.Option(help="Model that it becomes a version of.")],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Bring in a LoRA that was trained elsewhere, as a version that the gate has still to judge. Answers nobody yet."""
    from retrain.bring_in import bring_in

    adapters_dir = FeedbackSettings.load().absolute_state_dir / "adapters"

    async def work(connection: Any) -> Adapter:
        return await bring_in(connection, project, model, directory, adapters_dir=adapters_dir, by=actor())

    made = in_record(work)
    console.print(f"{made.name} will be evaluated. `hone run show {made.run_id}` tells what the gate says.")
