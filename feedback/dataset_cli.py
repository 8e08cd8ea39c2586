"""Commands on datasets: list, show and export them, say what was left out, keep the golden set, decide what waits."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from feedback import datasets, golden, review
from feedback.errors import HoneError
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import actor, console, in_record, show_one, show_rows

Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
DatasetId = Annotated[str, typer.Argument(help="Id, from `hone dataset list`.")]
Model = Annotated[str, typer.Option(help="Model alias.")]
Subject = Annotated[str, typer.Argument(help="Review, from `hone review list`, or id of any answer.")]
Why = Annotated[str, typer.Option(help="Reason, kept with the review.")]
Limit = Annotated[int, typer.Option(help="Most rows to show.", min=1)]

app = typer.Typer(no_args_is_help=True, help="Work on datasets.")
dataset = typer.Typer(
    no_args_is_help=True, help="List, show and export frozen datasets, and keep the golden set."
)
golden_set = typer.Typer(
    no_args_is_help=True, help="Keep questions with their right answers for evaluation, never for training."
)
reviewing = typer.Typer(
    no_args_is_help=True, help="Decide what is trained on: list, approve, include, exclude, correct."
)
app.add_typer(dataset, name="dataset")
app.add_typer(reviewing, name="review")
dataset.add_typer(golden_set, name="golden")


@dataset.command("list")
def list_datasets(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List frozen datasets, newest first."""
    found = in_record(lambda connection: datasets.in_project(connection, project))
    rows = [
        asdict(one) | {name: one.counts.get(name) for name in ("train", *datasets.EVALUATED)} for one in found
    ]
    columns = ("dataset_id", "model", "method", "train", *datasets.EVALUATED, "created_at")
    show_rows(rows, columns, as_json=as_json, empty="No datasets yet.")


@dataset.command("show")
def show_dataset(dataset_id: DatasetId, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Show how a dataset was selected, how its rows are spread, and what was left out for which reason."""
    found = in_record(lambda connection: datasets.get(connection, dataset_id, project=project))
    if as_json:
        show_one(asdict(found), as_json=True)
        return
    shown = {
        name: value for name, value in asdict(found).items() if name not in ("selection", "counts", "balance")
    }
    show_one(shown, as_json=False)
    for sentence in found.selection.get("sentences", []):
        console.print(sentence)
    for part in ("splits", "topics", "versions", "languages"):
        _show_spread(part, found.balance.get(part, {}))
    _show_people(found.balance)
    _show_left_out(found.counts.get("excluded") or {})


@dataset.command("exclusions")
def show_exclusions(
    dataset_id: DatasetId,
    reason: Annotated[str | None, typer.Option(help="Only this reason, or what it begins with.")] = None,
    limit: Limit = 100,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List what was said and did not become a row, each with the reason."""

    async def work(connection: Any) -> list[datasets.Exclusion]:
        await datasets.get(connection, dataset_id, project=project)
        return await datasets.exclusions(connection, dataset_id, reason=reason, limit=limit)

    columns = ("reason", "completion_id", "feedback_id")
    show_rows(
        [asdict(one) for one in in_record(work)], columns, as_json=as_json, empty="Nothing was left out."
    )


@dataset.command("export")
def export_dataset(
    dataset_id: DatasetId,
    split: Annotated[str | None, typer.Option(help="Only train, held_out, time_forward or golden.")] = None,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Print the rows of a dataset as JSON lines with TRL's columns."""
    if split not in (None, "train", *datasets.EVALUATED):
        raise HoneError(f"--split is '{split}'; expected train, held_out, time_forward or golden.")

    async def work(connection: Any) -> None:
        await datasets.get(connection, dataset_id, project=project)
        async for row in datasets.stream_rows(connection, dataset_id, split=split):
            print(orjson.dumps(row.columns | {"split": row.split}).decode())

    in_record(work)


@golden_set.command("add")
def add_golden(
    model: Model,
    file: Annotated[
        Path, typer.Argument(help="JSON lines of {prompt, completion}; prompt is text or messages.")
    ],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Keep questions for evaluation. Safe to repeat: a question that is there gets its new answer."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise HoneError(f"{file} cannot be read ({error.strerror}). Name a file of JSON lines.") from error
    items = [_golden_item(file, number, line) for number, line in enumerate(lines, 1) if line]

    async def work(connection: Any) -> None:
        for prompt, answer in items:
            await golden.add(
                connection, project=project, model=model, prompt=prompt, answer=answer, by=actor()
            )

    in_record(work)
    console.print(f"{len(items)} golden questions are kept. The next dataset of '{model}' has them.")
    if texts := sum(isinstance(prompt, str) for prompt, _ in items):
        console.print(
            f"{texts} of them are plain text: the engine goes on writing where it ends. What people ask in a chat is a "
            'list of messages: {"prompt": [{"role": "user", "content": "..."}], "completion": "..."}',
            markup=False,
        )


@golden_set.command("list")
def list_golden(model: Model, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List the golden questions of a model, oldest first."""
    found = in_record(lambda connection: golden.of_model(connection, project, model))
    columns = ("golden_id", "prompt", "answer", "added_by")
    show_rows([asdict(one) for one in found], columns, as_json=as_json, empty="No golden questions yet.")


@golden_set.command("remove")
def remove_golden(
    golden_id: Annotated[str, typer.Argument(help="Id, from `hone dataset golden list`.")],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Take a question out of the golden set. Datasets that have it keep it."""
    in_record(lambda connection: golden.remove(connection, project, golden_id, by=actor()))
    console.print(f"{golden_id} is golden no more.")


@reviewing.command("list")
def list_reviews(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    status: Annotated[str, typer.Option(help="waiting, included, excluded, corrected, or all.")] = "waiting",
    limit: Limit = 100,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List what waits for a decision, with the question and the answers, oldest first."""
    wanted = review.checked_status(status)
    found = in_record(
        lambda connection: review.with_texts(connection, project, model=model, status=wanted, limit=limit)
    )
    columns = ("review_id", "kind", "status", "question", "before", "after", "reason")
    show_rows(found, columns, as_json=as_json, empty="Nothing waits for a decision.")


@reviewing.command("approve")
def approve(review_id: Subject, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Let in what waits, as it stands. The next dataset has it."""
    in_record(lambda connection: review.approve(connection, project, review_id, by=actor(), reason=reason))
    console.print(f"{review_id} is let in.")


@reviewing.command("include")
def include(subject: Subject, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Let in what a rule or an earlier decision left out. Consent is still needed."""
    done = in_record(
        lambda connection: review.include(connection, project, subject, by=actor(), reason=reason)
    )
    console.print(f"{done.review_id}: what was said of {done.completion_id} is let in.")


@reviewing.command("exclude")
def exclude(subject: Subject, reason: Why = "", project: Project = DEFAULT_PROJECT) -> None:
    """Keep something out of every later dataset. Undo with `include`."""
    done = in_record(
        lambda connection: review.exclude(connection, project, subject, by=actor(), reason=reason)
    )
    console.print(f"{done.review_id}: what was said of {done.completion_id} stays out.")


@reviewing.command("correct")
def correct(
    subject: Subject,
    answer: Annotated[str, typer.Option(help="The right answer; - reads it from standard input.")],
    reason: Why = "",
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Train on this answer in place of what was said. Undo with `exclude`."""
    text = typer.get_text_stream("stdin").read() if answer == "-" else answer
    done = in_record(
        lambda connection: review.correct(
            connection, project, subject, answer=text, by=actor(), reason=reason
        )
    )
    console.print(f"{done.review_id}: {done.completion_id} is trained on with the corrected answer.")


def _golden_item(file: Path, number: int, line: bytes) -> tuple[Any, str]:
    expected = 'an object such as {"prompt": "How long may I return it?", "completion": "Within 14 days."}'
    try:
        item = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise HoneError(f"{file}, line {number} is not JSON: {error}. Expected {expected}.") from error
    if not isinstance(item, dict) or "prompt" not in item or not isinstance(item.get("completion"), str):
        raise HoneError(f"{file}, line {number} has no prompt and completion. Expected {expected}.")
    return item["prompt"], item["completion"]


def _show_spread(part: str, spread: dict[str, dict[str, int]]) -> None:
    if not spread:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(f"\n{part}")
    for column in ("\nfor", "\nagainst", "\nraters"):
        table.add_column(column, justify="right")
    for name, one in spread.items():
        table.add_row(name, str(one["up"]), str(one["down"]), str(one["raters"]))
    console.print(table)


def _show_people(balance: dict[str, Any]) -> None:
    if "raters" not in balance:
        return
    raters, lengths = balance["raters"], balance["answer_characters"]
    console.print(
        f"\n{raters['count']} raters; the one with most has {raters['largest_share']:.0%} of the rows, the first ten "
        f"have {raters['largest_ten_share']:.0%}. Rows each: {_range(raters['rows_each'])}. "
        f"Characters of an answer: {_range(lengths)}."
    )


def _range(quantiles: dict[str, float]) -> str:
    least, median, most = (f"{quantiles[name]:.0f}" for name in ("least", "median", "most"))
    return f"{least} to {most}, median {median}"


def _show_left_out(excluded: dict[str, int]) -> None:
    if excluded:
        console.print("\nLeft out, which `hone dataset exclusions` lists:")
    for reason, number in sorted(excluded.items(), key=lambda item: (-item[1], item[0])):
        console.print(f"  {number:>6}  {reason}", markup=False)
