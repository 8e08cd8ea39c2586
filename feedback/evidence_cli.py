"""`hone adapter evidence`: the page on which a version is decided."""

from typing import Annotated, Any

import orjson
import typer
from rich.markdown import Markdown

from feedback import adapters, evidence_page
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import console, in_record


def show_evidence(
    reference: Annotated[str, typer.Argument(help="Version, such as support@7.")],
    project: Annotated[
        str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")
    ] = DEFAULT_PROJECT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the compared answers.")] = False,
) -> None:
    """Show what a decision about a version rests on: checks, changed answers, data, training, costs, weaknesses."""

    async def work(connection: Any) -> dict[str, Any]:
        return await evidence_page.of_version(connection, await adapters.get(connection, project, reference))

    page = in_record(work)
    if as_json:
        print(orjson.dumps(page, default=str).decode())
    elif console.is_terminal:
        console.print(Markdown(evidence_page.to_markdown(page)))
    else:
        print(evidence_page.to_markdown(page), end="")
