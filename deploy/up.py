"""`hone up`: the whole service of one machine, from nothing to answering, and then kept that way.

Promises: each step shows that it is alive; a part that dies is started again, and one line says so; Ctrl-C or SIGTERM
stops the gateway first (answers under way finish), then worker, console, engine and database; a second Ctrl-C does
not wait; after `kill -9` the next start ends what was left. A state directory has one `hone up` at a time.

Refuses: to be the only way. Each part is a command of its own, and with HONE_DATABASE_URL and HONE_ENGINE_URLS set
this runs only the gateway and the worker.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy.exc import DBAPIError

from deploy import record, services, state
from deploy.base_model import choose_base_model
from deploy.config import refuse_unknown_names
from deploy.files import write_private
from deploy.postgres import EmbeddedPostgres
from deploy.process import Backoff, Child, Service
from deploy.progress import Step, Steps, say
from deploy.settings import Settings
from deploy.welcome import welcome
from feedback.database import Database, migrate, parse_url, why_unusable
from feedback.errors import HoneError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(*, model: str | None, host: str | None, port: int | None, state_dir: Path | None) -> int:
    """Run until told to stop; returns the exit status.

    Raises:
        HoneError: it could not be started; whatever had been started is stopped.
    """
    given: dict[str, Any] = {
        "engine_model": model,
        "gateway_host": host,
        "gateway_port": port,
        "state_dir": state_dir,
    }
    refuse_unknown_names()
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    directory = settings.feedback.absolute_state_dir
    # Logs, the spool and datasets have people's words in them.
    os.umask(0o077)
    state.make(directory)
    with state.held(directory):
        return asyncio.run(_Up(settings, directory).run())


class _Up:
    """One run of `hone up`."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.directory = directory
        self.console = Console()
        self.children: dict[str, Child] = {}
        self.watches: list[asyncio.Task[None]] = []
        self.stopping = False

    async def run(self) -> int:
        work = asyncio.create_task(self._start_and_watch())
        loop = asyncio.get_running_loop()
        for one in SIGNALS:
            loop.add_signal_handler(one, self._on_signal, work, one)
        try:
            await work
        except asyncio.CancelledError:
            if not self.stopping:
                raise
        finally:
            self.stopping = True
            await self._stop()
        return 0

    def _on_signal(self, work: "asyncio.Task[None]", which: signal.Signals) -> None:
        if not self.stopping:
            self.stopping = True
            say(self.console, f"Told to stop by {which.name}.")
            work.cancel()
            return
        say(self.console, "Stopping now, without waiting for answers under way.")
        for name, child in self.children.items():
            if name != "postgres":  # its stop is quick, and spares it a recovery
                child.kill()

    async def _start_and_watch(self) -> None:
        began = time.monotonic()
        with Steps(self.console) as steps:
            if left := await state.end_leftovers(self.directory):
                say(self.console, f"An earlier `hone up` was killed; ended its {', '.join(left)}.")
            addresses = services.choose_addresses(self.settings)
            write_private(self.directory / "gateway.url", addresses.gateway_url)
            url = await self._database(steps)
            async with Database(url, pool_size=1) as database:
                base_model = await choose_base_model(
                    self.settings, database, self.directory, addresses, steps
                )
                keys = await record.ensure(database, base_model, self.directory)
            try:
                await self._parts(steps, addresses, base_model)
                answering = await self._first_answer(steps, addresses)
            except BaseException:
                if keys.admin:  # Nobody could read it later: the record holds its hash.
                    say(
                        self.console,
                        f"The administrator key that this start made, shown only now: {keys.admin}",
                    )
                raise
        seconds = time.monotonic() - began
        running = state.Running(
            addresses.gateway_url, addresses.engine_urls, base_model, addresses.console_url
        )
        with state.announced(self.directory, running):
            print(welcome(running, keys, self.directory, seconds), flush=True)
            if not answering:
                say(
                    self.console,
                    f"No engine holds the model yet: see {running.gateway_url}/health, `hone doctor`.",
                )
            await asyncio.gather(*self.watches)

    async def _database(self, steps: Steps) -> str:
        """Start the embedded database, unless another is configured, and bring its schema up to date."""
        with steps.step("Database") as step:
            if self.settings.feedback.database_url is None:
                await self._embedded_database(step)
            url = self.settings.feedback.resolve_database_url()
            step.update("migrating")
            try:
                await asyncio.to_thread(migrate, url)
            except (OSError, DBAPIError) as error:
                if (reason := why_unusable(error)) is None:
                    raise
                raise _unusable(url, reason) from error
        return url

    async def _embedded_database(self, step: Step) -> None:
        postgres = EmbeddedPostgres(self.directory / "postgres", port=self.settings.deploy.postgres_port)
        step.update("preparing")
        await asyncio.to_thread(postgres.prepare)
        if postgres.home.directory != postgres.directory:
            why = f"PostgreSQL does not run as root, and its user cannot reach {postgres.directory}"
            say(self.console, f"{why}: the database is in {postgres.home.directory}.")
        step.update("starting")
        await self._start(services.postgres_service(postgres))
        write_private(self.directory / "postgres.url", postgres.url)

    async def _parts(self, steps: Steps, addresses: services.Addresses, base_model: str) -> None:
        """Start engine, gateway, worker and console side by side; the engine takes by far the longest."""
        environment = addresses.environment(self.directory)
        parts = [
            services.gateway_service(self.settings, environment, addresses.gateway_url),
            services.worker_service(environment),
            services.console_service(environment, addresses.console_url),
        ]
        if addresses.local_engine:
            environment["HONE_ENGINE_MODEL"] = base_model
            parts.insert(0, services.engine_service(self.settings, environment, addresses.engine_urls[0]))

        async def start(service: Service) -> None:
            with steps.step(service.name.capitalize()) as step:
                log = self.directory / "logs" / f"{service.name}.log"
                step.update(f"log: {log}")
                await self._start(service)

        starts = [asyncio.create_task(start(service)) for service in parts]
        try:
            await asyncio.gather(*starts)
        finally:
            for one in starts:
                one.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def _first_answer(self, steps: Steps, addresses: services.Addresses) -> bool:
        """Wait until the gateway says that it can answer; an engine elsewhere may come later."""
        url, patience = addresses.gateway_url, 120.0 if addresses.local_engine else 2.0
        with steps.step("Service") as step:
            deadline = time.monotonic() + patience
            while await services.http_status(f"{url}/health") != 200:
                step.update(f"waiting for {url}/health")
                if time.monotonic() > deadline:
                    step.result = "no engine holds the model yet"
                    return False
                await asyncio.sleep(0.1)
        return True

    async def _start(self, service: Service) -> None:
        deploy = self.settings.deploy
        child = self.children[service.name] = Child(
            service,
            self.directory,
            say=lambda line: say(self.console, line),
            backoff=Backoff(longest_seconds=deploy.restart_pause_seconds_max),
            log_bytes=deploy.log_bytes_max,
        )
        await child.start()
        self.watches.append(asyncio.create_task(child.keep_running()))

    async def _stop(self) -> None:
        for watch in self.watches:
            watch.cancel()
        await asyncio.gather(*self.watches, return_exceptions=True)
        with Steps(self.console) as steps:
            for name in state.PARTS:
                if name in self.children:
                    with steps.step(f"Stopping {name}", done="stopped"):
                        await self.children[name].stop()
        sys.stdout.flush()


def _unusable(url: str, reason: str) -> HoneError:
    return HoneError(
        f"The database at {parse_url(url).render_as_string(hide_password=True)} cannot be used: {reason}. Start it, "
        "correct HONE_DATABASE_URL, or leave that out: `hone up` then runs a database of its own."
    )
