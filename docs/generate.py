"""Write the reference pages that the code already knows: settings, policy, commands, HTTP, errors, metrics, tables.

`make docs` writes them; a house test fails while one differs from the code. A page here holds facts only: what a
thing is for belongs in its docstring, help text or comment, where the person who changes it sees it.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from starlette.routing import Route

from feedback.policy import ModelPolicy
from feedback.settings import TABLES, HoneSettings
from feedback.terminal import EXIT_STATUSES

if TYPE_CHECKING:
    from typer._click import Command

HERE = Path(__file__).parent
NOTE = "<!-- Written by `make docs` from the code. Change the code, not this page. -->\n"


def main() -> int:
    """Write every page, or name the ones that differ."""
    parser = argparse.ArgumentParser(description="Write the reference pages from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a page differs from the code"
    )
    asked = parser.parse_args()
    stale = stale_pages()
    for name in stale:
        path = HERE / "reference" / name
        print(f"{path.relative_to(HERE.parent)}: {'differs from the code' if asked.check else 'written'}")
        if not asked.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(render(name))
    return 1 if stale and asked.check else 0


def stale_pages() -> list[str]:
    """Return the names of the pages that are not what the code would write now."""
    return [name for name in PAGES if read(name) != render(name)]


def render(name: str) -> str:
    """Return the text that a page ought to have."""
    return NOTE + PAGES[name]().rstrip() + "\n"


def read(name: str) -> str:
    """Return the text that a page has; empty where there is none."""
    path = HERE / "reference" / name
    return path.read_text() if path.exists() else ""


# Settings and policy


def settings_classes() -> list[type[HoneSettings]]:
    """Return every package's settings class, in the order of `hone.toml`."""
    for package in TABLES:
        if (HERE.parent / package / "settings.py").exists():
            importlib.import_module(f"{package}.settings")
    known = {one.table: one for one in descendants(HoneSettings) if one.__module__.split(".")[0] in TABLES}
    return [known[table] for table in TABLES if table in known]


def descendants(base: type[HoneSettings]) -> Iterator[type[HoneSettings]]:
    """Walk the subclasses of a class, and theirs."""
    for one in base.__subclasses__():
        yield one
        yield from descendants(one)


def settings_page() -> str:
    """One heading for each setting of each table."""
    parts = [
        "# Settings\n",
        "A setting comes from the environment (`HONE_` and its name in capitals) or from its table in `hone.toml`; the "
        "environment wins. The file is read from the working directory, or from where `HONE_CONFIG` points. Unknown "
        "tables and keys are refused. `hone config` shows what holds and where it came from. What may change while "
        "the service runs is not a setting but a model's [policy](policy.md).\n",
    ]
    for settings in settings_classes():
        parts.append(f"## [{settings.table}]\n\n{first_paragraph(settings)}\n")
        for name, field in settings.model_fields.items():
            parts.append(
                f"### {name}\n\n{sentence(field.description)}\n\n"
                f"`HONE_{name.upper()}` · {kind(field)} · default {default(field)}\n"
            )
    return "\n".join(parts)


def policy_page() -> str:
    """One heading for each field of a model's policy."""
    parts = [
        "# Policy of a model\n",
        f"{first_paragraph(ModelPolicy)} It is kept with the model, is changed by `hone model policy` or "
        "`PATCH /admin/v1/models/{model}/policy`, and takes effect without a restart; every "
        "change leaves an audit row.\n",
    ]
    parts += policy_fields(ModelPolicy, "")
    return "\n".join(parts)


def policy_fields(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Plain fields first, then a section for each nested one."""
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
        elif (inner := value_model(field)) is not None:
            yield f"### {prefix}{name}\n\n{sentence(field.description)}\n\nby name · default none\n"
            yield from policy_fields(inner, f"{prefix}{name}.NAME.")
        else:
            yield f"### {prefix}{name}\n\n{sentence(field.description)}\n\n{kind(field)} · default {default(field)}\n"
    for name, inner in nested:
        yield f"## {name}\n\n{first_paragraph(inner)}\n"
        yield from policy_fields(inner, f"{prefix}{name}.")


def value_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return what a field maps names to, if it maps names to sections."""
    if get_origin(field.annotation) is not dict:
        return None
    _, value = get_args(field.annotation)
    return value if isinstance(value, type) and issubclass(value, BaseModel) else None


def kind(field: FieldInfo) -> str:
    """Return a field's type as a person would say it, with its limits."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(field.annotation))
    words = str(field.annotation) if not isinstance(field.annotation, type) else field.annotation.__name__
    for long, short in (("typing.", ""), ("pathlib._local.", ""), ("pathlib.", ""), ("pydantic.types.", "")):
        words = words.replace(long, short)
    words = (
        words.replace("SecretStr", "secret text")
        .replace(" | None", ", may be unset")
        .replace("NoneType", "None")
    )
    limits = [text for limit in field.metadata for text in limits_of(limit)]
    return f"{words} ({', '.join(limits)})" if limits else words


def limits_of(limit: Any) -> Iterator[str]:
    """Say the bounds that a field's metadata sets."""
    for name, words in (
        ("ge", "at least"),
        ("gt", "above"),
        ("le", "at most"),
        ("lt", "below"),
        ("min_length", "length at least"),
        ("max_length", "length at most"),
    ):
        if getattr(limit, name, None) is not None:
            yield f"{words} {getattr(limit, name)}"


def default(field: FieldInfo) -> str:
    """Return a field's default as it would be written."""
    if field.is_required():
        return "none: it must be set"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return "hidden"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


# Commands


def commands_page() -> str:
    """One heading for each command, with its arguments and options."""
    parts = [
        "# Commands\n",
        "Every command prints help with `--help`, every listing whole rows with `--json`. Tables and colours are for "
        "people: they end at a pipe, and `NO_COLOR` turns colours off.\n",
        "| exit status | means |\n| --- | --- |\n"
        + "\n".join(f"| `{status}` | {cell(meaning)} |" for status, meaning in EXIT_STATUSES.items())
        + "\n",
    ]
    for path, command in walk_commands():
        if not is_group(command):
            parts.append(f"## {' '.join(path)}\n\n{sentence(command.help)}\n{parameters_table(command)}")
    return "\n".join(parts)


def walk_commands() -> Iterator[tuple[tuple[str, ...], "Command"]]:
    """Walk `hone` and all its commands, importing those that are imported only when called."""
    from deploy.cli import app

    yield from walk(typer.main.get_command(app), ("hone",))


def walk(command: "Command", path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], "Command"]]:
    """Walk one command and those below it."""
    yield path, command
    if is_group(command):
        group: Any = command
        context = group.make_context(path[-1], [], resilient_parsing=True)
        for name in group.list_commands(context):
            _, found, _ = group.resolve_command(context, [name])
            yield from walk(found, (*path, name))


def is_group(command: "Command") -> bool:
    """Say whether a command only holds others."""
    return hasattr(command, "list_commands")


def parameters_table(command: "Command") -> str:
    """Return the arguments and options of a command as a table; empty where it has none."""
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name or '').upper()}`"
        rows.append(
            f"| {names} | {cell(getattr(parameter, 'help', '') or '')} | {parameter_default(parameter)} |"
        )
    if not rows:
        return ""
    return "\n| name | meaning | default |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def parameter_default(parameter: Any) -> str:
    """Return the default of an argument or option as it would be typed."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or value == ():
        return ""
    return f"`{value}`"


# HTTP


RELAYED = {
    "/v1/chat/completions": "Chat, streamed or not. `model` is an alias or a pinned version (`support@7`).",
    "/v1/completions": "Plain completions, streamed or not.",
    "/v1/responses": "OpenAI's Responses.",
    "/v1/embeddings": "Embeddings.",
    "/v1/messages": "Anthropic's Messages.",
}


def http_page() -> str:
    """Every route: those relayed to the engine, then those of FastAPI, with their fields."""
    from feedback.settings import FeedbackSettings
    from serving.app import create_app
    from serving.settings import ServingSettings

    app = create_app(ServingSettings(), FeedbackSettings())
    schema = app.openapi()
    parts = [
        "# HTTP\n",
        "Send a key as `Authorization: Bearer hk_...`. What else requests and answers carry: [headers](headers.md). "
        "What refusals look like: [errors](errors.md).\n",
        "## Relayed to the engine\n",
        "The body is the engine's business: Hone reads and rewrites only what its own work needs, and every field that "
        "vLLM knows passes through.\n",
    ]
    relayed = [
        route.path for route in app.router.routes if type(route) is Route and "POST" in (route.methods or ())
    ]
    parts += [f"### POST {path}\n\n{RELAYED[path]}\n" for path in relayed]
    parts.append("## Answered by Hone\n")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            text = operation.get("description") or operation.get("summary")
            parts.append(f"### {method.upper()} {path}\n\n{full_stop(text)}\n{body_table(operation, schema)}")
    return "\n".join(parts)


def body_table(operation: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the query and body fields of a route as a table; empty where it takes none."""
    rows = [
        (one["name"], one.get("description", ""), one.get("required", False))
        for one in operation.get("parameters", ())
        if one["in"] == "query"
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    named = schema.get("components", {}).get("schemas", {}).get(body.get("$ref", "").rpartition("/")[2], {})
    needed = named.get("required", ())
    rows += [
        (name, field.get("description", ""), name in needed)
        for name, field in named.get("properties", {}).items()
    ]
    if not rows:
        return ""
    lines = [f"| `{name}` | {cell(text)} | {'required' if must else ''} |" for name, text, must in rows]
    return "\n| field | meaning | |\n| --- | --- | --- |\n" + "\n".join(lines) + "\n"


# Errors


def errors_page() -> str:
    """One heading for each code, under whose failure it is."""
    from serving.error_codes import CODES
    from serving.failures import MEANINGS

    parts = [ERRORS_INTRODUCTION, "| class | means |", "| --- | --- |"]
    parts += [f"| `{name}` | {cell(meaning)} |" for name, meaning in MEANINGS.items()]
    parts += ["", ERRORS_OF_ENGINES, "## Codes\n"]
    parts += [f"### {one.code}\n\n{one.status} · `{one.error_class}` · {one.says}\n" for one in CODES]
    return "\n".join([*parts, ERRORS_ELSEWHERE])


ERRORS_INTRODUCTION = """# Errors

On `/v1` an error is `{"error": {"message", "type", "param", "code"}}`, so OpenAI's SDKs raise their usual
exceptions. Under `/admin` it is a problem detail (RFC 9457, `application/problem+json`). The message says what
happened with the value, what was expected and what to do; `code` is for programs.

## Whose failure it is

Every completion that failed has a class: in the record (`error_class`), in
[hone_errors_total](metrics.md#hone_errors_total) and in the log. The guardrails go by it.
"""

ERRORS_OF_ENGINES = """An engine's refusal without a code of ours is classified by its status: 4xx is the
caller's, but 408, 425 and 429 are the infrastructure's, as 502, 503 and 504 are; 500 is the model's, unless the
engine says that its core has died; any other is unknown. Answers that vLLM refuses to write because their
numbers are not finite are the model's, with whatever status. A request that is the caller's failure is recorded
without what it asked.
"""

ERRORS_ELSEWHERE = """## Other refusals

400 and 422 name the field in `param`. 403 is a key whose role does not allow this, 404 something that the key's
project does not have, 409 a move that the state does not allow. What the engine itself refuses is passed on
with its own words and status.

On the command line a mistake is one sentence on standard error and exit status 2."""


# Metrics and tables


def metrics_page() -> str:
    """One heading for each metric that a process of ours shows."""
    parts = [
        "# Metrics\n",
        "A gateway answers `GET /metrics` in Prometheus' text format. Counts start at zero with the process.\n",
    ]
    for metric in sorted(all_metrics(), key=lambda one: one.name):
        labels = f" · by {', '.join(f'`{label}`' for label in metric.labels)}" if metric.labels else ""
        parts.append(f"### {metric.name}\n\n{sentence(metric.help)}\n\n{metric.type}{labels}\n")
    return "\n".join(parts)


class DescribedMetric(NamedTuple):
    """What a scraper reads of a metric beside its values."""

    name: str
    help: str
    type: str
    labels: tuple[str, ...]


def all_metrics() -> Iterator[DescribedMetric]:
    """Walk the metrics per version, and the plain ones that are declared by `gauge(...)` and `counter(...)`."""
    from monitoring.metrics import RequestMetrics

    for family in RequestMetrics().collect():
        suffix = "_total" if family.type == "counter" else ""
        labels = tuple(getattr(family, "_labelnames", ()))
        yield DescribedMetric(family.name + suffix, family.documentation, family.type, labels)
    for package in TABLES:
        for path in sorted((HERE.parent / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and len(node.args) == 3
                ):
                    name, text = (one.value if isinstance(one, ast.Constant) else "" for one in node.args[:2])
                    if (
                        node.func.attr in ("gauge", "counter")
                        and isinstance(name, str)
                        and isinstance(text, str)
                    ):
                        suffix = "_total" if node.func.attr == "counter" else ""
                        yield DescribedMetric(name + suffix, text, node.func.attr, ())


def tables_page() -> str:
    """One heading for each table of the record, with its columns."""
    from feedback.tables import metadata

    parts = ["# Tables of the record\n", "PostgreSQL 15 or newer. Times are in UTC, durations in seconds.\n"]
    for table in metadata.sorted_tables:
        lines = []
        for column in table.columns:
            marks = ["key"] if column.primary_key else []
            marks += [f"-> {one.column.table.name}" for one in column.foreign_keys]
            empty = "" if column.nullable else "never empty"
            lines.append(
                f"| `{column.name}` | {str(column.type).lower()} | {cell(column.comment or '')} | "
                f"{', '.join([*marks, *([empty] if empty and not marks else [])])} |"
            )
        parts.append(f"## {table.name}\n\n{sentence(table.comment)}\n")
        parts.append("\n".join(["| column | type | meaning | |", "| --- | --- | --- | --- |", *lines, ""]))
    return "\n".join(parts)


# Words


def first_paragraph(thing: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    return sentence((thing.__doc__ or "").strip().split("\n\n")[0])


def sentence(text: str | None) -> str:
    """Return a text on one line, without the markup that only a terminal shows."""
    return " ".join((text or "").replace("\b", "").split())


def full_stop(text: str | None) -> str:
    """Return a text on one line that ends like a sentence."""
    words = sentence(text)
    return words if words.endswith((".", ":", ")")) else words + "."


def cell(text: str) -> str:
    """Return a text that fits a table's cell."""
    return sentence(text).replace("|", "\\|")


def anchors(text: str) -> Iterable[str]:
    """Return the headings of a page as a browser would link to them."""
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.lstrip("#").strip().lower()
            yield "".join(one for one in words if one.isalnum() or one in " -_").replace(" ", "-")


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "policy.md": policy_page,
    "commands.md": commands_page,
    "http.md": http_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "tables.md": tables_page,
}


if __name__ == "__main__":
    sys.exit(main())
