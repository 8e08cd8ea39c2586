"""Say what happens, one line each, in every process the same way: JSON for programs, words for a person who looks.

A line has `time`, `level`, `process`, `logger` and `message`; one about a completion has its `completion_id`, and its
`trace_id` where there is a trace. What libraries log, uvicorn among them, goes through the same door.

Nothing that people wrote is in a line unless `log_texts` asks for it: a log outlives every retention and erasure.
Refuses to keep files of its own: lines go to standard error, and whoever started the process keeps them (`hone up` in
`logs/`, with a bound on their size).
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor

from monitoring.settings import MonitoringSettings

QUIET = ("httpx", "httpcore", "apscheduler", "sqlalchemy.engine", "alembic")
"""Libraries whose ordinary lines say nothing that ours do not."""

FIRST = ("time", "level", "process", "logger", "message")


def set_up(process: str, settings: MonitoringSettings | None = None) -> None:
    """Send this process's lines to standard error as the settings say. May be called again."""
    settings = settings or MonitoringSettings.load()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _named(process),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_words() if as_text else _json()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def rotate(log_file: Path, limit_bytes: int) -> None:
    """Past the limit, move the log's text to `<name>.1` and empty it in place: its writer has it open."""
    try:
        if log_file.stat().st_size <= limit_bytes:
            return
    except FileNotFoundError:
        return
    older = log_file.with_name(log_file.name + ".1")
    try:
        shutil.copyfile(log_file, older)
    except OSError:
        older.unlink(missing_ok=True)  # a full disk needs the space more than the old text
    os.truncate(log_file, 0)


def _named(process: str) -> Processor:
    def name(logger: Any, method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return name


def _words() -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")]


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, _line]


def _line(logger: Any, method: str, event: EventDict) -> str:
    event["message"] = event.pop("event")
    ordered = {name: event.pop(name) for name in FIRST if name in event}
    return orjson.dumps({**ordered, **event}, default=_plain).decode()


_plain: Callable[[Any], str] = str
