"""`hone demo`: simulated people use the running service, and the loop visibly closes.

Everything goes over HTTP to a service that is really running, with a key like anybody else's. It begins by putting
the base model back, and changes the model's policy for as long as it plays.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from deploy.demo.story import EndWith
from feedback.errors import HoneError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    url: Annotated[
        str | None, typer.Option(help="Address of the service. Unset: the gateway of this machine.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="HONE_KEY", help="Operator or admin key. Unset: this machine's, from --state-dir."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model that the people talk to.")] = "support",
    seed: Annotated[int, typer.Option(help="Another seed is another crowd.")] = 0,
    end_with: Annotated[
        EndWith, typer.Option(help="Version that stays: the new champion, or the base model.")
    ] = "champion",
    state_dir: Annotated[
        Path | None, typer.Option(help="State directory of the `hone up` that is running.")
    ] = None,
) -> None:
    """Close the loop before your eyes: simulated people ask, rate, and get better answers. Takes minutes."""
    found_url, found_key = _find(url, key, state_dir)
    raise typer.Exit(asyncio.run(_play(found_url, found_key, model, seed, end_with)))


async def _play(url: str, key: str, model: str, seed: int, end_with: EndWith) -> int:
    from rich.console import Console

    from deploy.demo.service import RunningService
    from deploy.demo.story import GaveUp, Plan, Story
    from deploy.progress import Steps

    console, began = Console(), time.monotonic()
    async with RunningService.connect(url, key, model) as service:
        try:
            with Steps(console) as steps:
                await Story(service, Plan(seed=seed, end_with=end_with), console, steps).play()
        except GaveUp as error:
            console.print(f"The loop did not close. {error}", markup=False, highlight=False)
            return 1
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    console.print(f"The loop closed in {minutes} min {seconds} s.", highlight=False)
    return 0


def _find(url: str | None, key: str | None, state_dir: Path | None) -> tuple[str, str]:
    """The address and the key to use.

    Raises:
        HoneError: no key was given and this machine has none.
    """
    from deploy.services import Addresses
    from deploy.settings import Settings
    from deploy.state import find_running

    settings = Settings.load(**({} if state_dir is None else {"state_dir": state_dir}))
    directory, serving = settings.feedback.absolute_state_dir, settings.serving
    try:
        key = key or (directory / "operator.key").read_text().strip()
    except OSError as error:
        raise HoneError(
            f"There is no key in {directory / 'operator.key'}: {error.strerror}. Start the service with `hone up`, "
            "name its --state-dir, or give --key (or HONE_KEY) and --url."
        ) from error
    if url is None:
        here = Addresses(serving.gateway_host, serving.gateway_port, 0, (), local_engine=False).gateway_url
        running = find_running(directory)
        url = running.gateway_url if running else here
    return url.rstrip("/"), key
