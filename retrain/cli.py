"""Commands that train: plan or start a run, follow, list and cancel runs, and the worker that carries them out."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from feedback import adapters, run_requests, runs, searches
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.errors import HoneError, NotFound, Unwell
from feedback.keys import DEFAULT_PROJECT
from feedback.runs import Run, RunEvent
from feedback.settings import FeedbackSettings
from feedback.tables import METHODS, SEQUENCES
from feedback.terminal import actor, console, in_record, patience, show_one, show_rows

POLL_SECONDS = 0.5
ENDED = ("succeeded", "failed", "cancelled")

Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Model = Annotated[str, typer.Option(help="Model to train, such as support.")]
Method = Annotated[
    str, typer.Option(help="auto, sft, dpo, kto, sft+dpo or sft+kto; auto lets the data decide.")
]
RunId = Annotated[str, typer.Argument(help="Run, as `hone run list` shows it.")]

app = typer.Typer(no_args_is_help=True, help="Train.")
retrain = typer.Typer(no_args_is_help=True, help="Plan or start a training run, or search for a recipe.")
run = typer.Typer(no_args_is_help=True, help="List, follow, pause and cancel training runs.")
app.add_typer(retrain, name="retrain")
app.add_typer(run, name="run")


@app.command("worker")
def worker() -> None:
    """Train, evaluate and roll out, until stopped. Several may run; one works, the others stand by."""
    from monitoring.logs import set_up
    from retrain.scheduler import serve

    set_up("worker")
    serve()


@retrain.command("plan")
def plan_run(
    model: Model, method: Method = "auto", project: Project = DEFAULT_PROJECT, as_json: AsJson = False
) -> None:
    """Show the rows and recipe that the next run would use. Changes nothing."""
    from retrain.plan import make_plan

    planned = in_record(lambda connection: make_plan(connection, project, model, method=_method(method)))
    if as_json:
        print(orjson.dumps(planned.to_json()).decode())
        return
    for sentence in planned.choice.sentences:
        console.print(sentence)
    if planned.recipe is not None:
        counts = planned.counts
        console.print(
            f"\nRows: {counts['train']} to train on, {counts['held_out']} held out for the evaluation."
        )
        for stage in planned.recipe.stages:
            shown = stage.to_json().items()
            show_one({name: value for name, value in shown if value is not None}, as_json=False)


@retrain.command("now")
def start_run(
    model: Model,
    method: Method = "auto",
    from_search: Annotated[
        str | None, typer.Option(help="Search whose best recipe to take, from `hone retrain search`.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Queue a run; the worker trains and evaluates it. Does not change what answers."""
    from retrain.plan import make_plan, queue

    async def plan_and_queue(connection: Any) -> Run:
        chosen, overrides = _method(method), None
        if from_search is not None:
            chosen, overrides = await searches.best(connection, project, from_search, methods=chosen)
        planned = await make_plan(connection, project, model, method=chosen, overrides=overrides)
        return await queue(connection, planned, by=actor())

    queued = in_record(plan_and_queue)
    if queued.status == "failed":
        raise HoneError(f"{queued.run_id} failed before it began. {queued.error}")
    if as_json:
        print(orjson.dumps(asdict(queued), default=str).decode())
    else:
        console.print(f"Queued {queued.run_id}: {queued.method.upper()} on {queued.dataset_id}.")
    if watch:
        _follow(project, queued.run_id, as_json=as_json)


@retrain.command("freeze")
def freeze_rows(
    model: Model, method: Method = "auto", project: Project = DEFAULT_PROJECT, as_json: AsJson = False
) -> None:
    """Make a dataset of the rows that the next run would use. Trains nothing."""
    from retrain.plan import freeze_dataset

    made = in_record(lambda connection: freeze_dataset(connection, project, model, method=_method(method)))
    if as_json:
        print(orjson.dumps(asdict(made), default=str).decode())
    else:
        console.print(
            f"{made.dataset_id}: {made.counts['train']} rows to train on, {made.counts['held_out']} held out. "
            f"`hone dataset show {made.dataset_id}` says how they were chosen."
        )


@retrain.command("requests")
def list_requests(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List what was asked of the worker, in the console or over HTTP, newest first."""
    found = in_record(lambda connection: run_requests.in_project(connection, project))
    columns = ("request_id", "model", "kind", "status", "refusal", "requested_by", "created_at")
    show_rows([asdict(one) for one in found], columns, as_json=as_json, empty="Nothing was asked for yet.")


@retrain.command("cancel")
def cancel_request(
    request_id: Annotated[str, typer.Argument(help="Id, from `hone retrain requests`.")],
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Withdraw what the worker was asked for, or end a search; what was tried is kept."""
    in_record(lambda connection: run_requests.cancel(connection, project, request_id, by=actor()))
    console.print(f"{request_id} is cancelled.")


@retrain.command("search")
def search_recipe(
    model: Model,
    trials: Annotated[int, typer.Option(min=1, help="Recipes to try.")] = 20,
    sampler: Annotated[str, typer.Option(help="bayesian, random or grid.")] = "bayesian",
    method: Method = "auto",
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Try recipes on the rows of the next run, here and now, and say which learns best. Changes no answer."""
    from retrain.search_run import search

    search(project, model, trials=trials, sampler=sampler, method=_method(method), as_json=as_json)


@retrain.command("trials")
def show_trials(
    search_id: Annotated[str, typer.Argument(help="Search, as `hone retrain search` named it.")],
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show what a search tried, failures included, best first."""
    found = in_record(lambda connection: searches.trials(connection, project, search_id))
    found.sort(key=lambda one: (one.loss is None, one.loss, one.number))
    shown = ("learning_rate", "epochs", "rank", "beta")
    rows = [asdict(one) | {name: one.recipe.get(name) for name in shown} for one in found]
    columns = ("number", "status", "loss", *shown, "duration_seconds")
    show_rows(rows, columns, as_json=as_json, empty="No trials.")


@retrain.command("reward")
def score_answers(
    version: Annotated[str, typer.Argument(help="Evaluated version, such as support@7.")],
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the reward model.")] = 2e-4,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Train a reward model on people's pairs, and say whose answers it prefers. Decides nothing."""
    from retrain.reward_run import reward

    report = reward(project, version, learning_rate=learning_rate)
    print(orjson.dumps(report).decode()) if as_json else console.print(report["sentence"])


@retrain.command("teach")
def ask_teacher(
    model: Model,
    limit: Annotated[int, typer.Option(min=1, help="Answers to ask about, newest first.")] = 50,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Ask the configured teacher for better answers to what was voted down. They wait for a review."""
    from retrain.settings import RetrainSettings
    from retrain.teacher import Lesson, teach

    async def work() -> Lesson:
        async with Database(FeedbackSettings.load().resolve_database_url(), pool_size=1) as database:
            return await teach(database, project, model, limit=limit, settings=RetrainSettings.load())

    with patience():
        found = asyncio.run(work())
    for failure in found.failures:
        console.print(failure)
    console.print(
        f"Asked about {found.asked} answers: {found.proposed} proposals wait in `hone review list`, {found.same} were "
        f"answered alike, {len(found.failures)} failed."
    )


@run.command("list")
def list_runs(
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    found = in_record(lambda connection: runs.in_project(connection, project, model=model))
    show_rows(
        [asdict(one) for one in found],
        ("run_id", "model", "method", "status", "phase", "adapter_id", "created_at"),
        as_json=as_json,
        empty="No runs yet. `hone retrain plan --model NAME` says what a run would need.",
    )


@run.command("show")
def show_run(
    run_id: RunId,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show a run, what it did, and what the gate said."""
    if watch:
        _follow(project, run_id, as_json=as_json)
        return

    async def read(connection: Any) -> tuple[Run, list[RunEvent], Adapter | None]:
        found = await runs.get(connection, project, run_id)
        return found, await runs.events(connection, run_id), await _adapter(connection, found)

    found, events, adapter = in_record(read)
    gate = adapter.gate if adapter else None
    if as_json:
        events_shown = [asdict(event) for event in events]
        print(orjson.dumps({**asdict(found), "events": events_shown, "gate": gate}, default=str).decode())
        return
    show_one({name: value for name, value in asdict(found).items() if name != "recipe"}, as_json=False)
    for event in (event for event in events if not event.message.startswith("Step ")):
        console.print(f"{event.at.astimezone():%H:%M:%S}  {event.message}")
    _show_gate(adapter)


@run.command("cancel")
def cancel_run(run_id: RunId, project: Project = DEFAULT_PROJECT) -> None:
    """Stop a run; the worker ends it within seconds. Does not change what answers."""
    in_record(lambda connection: runs.request_cancel(connection, project, run_id, by=actor()))
    console.print(f"{run_id} will stop.")


@run.command("pause")
def pause_run(run_id: RunId, project: Project = DEFAULT_PROJECT) -> None:
    """Let a run rest at its next checkpoint, and its version number wait. Undo with `resume`."""
    in_record(lambda connection: runs.request_pause(connection, project, run_id, by=actor()))
    console.print(f"{run_id} will rest. `hone run resume {run_id}` lets it go on.")


@run.command("resume")
def resume_run(run_id: RunId, project: Project = DEFAULT_PROJECT) -> None:
    """Let a paused run go on from its last checkpoint."""
    in_record(lambda connection: runs.resume(connection, project, run_id, by=actor()))
    console.print(f"{run_id} will go on.")


@run.command("logs")
def show_logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run ends.")] = False,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Print what a run's training processes said, on the machine where the worker runs."""
    from retrain.run_log import print_log

    state_dir = FeedbackSettings.load().absolute_state_dir

    def ended() -> bool:
        return in_record(lambda connection: runs.get(connection, project, run_id)).status in ENDED

    has_ended = ended()
    print_log(state_dir, run_id, until=ended if follow and not has_ended else None)


def _method(method: str) -> str | None:
    if method not in (allowed := ("auto", *METHODS, *SEQUENCES)):
        raise HoneError(f"--method is '{method}'; expected {', '.join(allowed)}.")
    return None if method == "auto" else method


def _follow(project: str, run_id: str, *, as_json: bool) -> None:
    """Show the run until it ends; a failed run ends the command with status 1."""
    url = FeedbackSettings.load().resolve_database_url()
    ended, adapter = asyncio.run(_watch(url, project, run_id, as_json=as_json))
    if ended.status != "succeeded":
        raise Unwell(f"{run_id} ended as '{ended.status}': {ended.error}")
    if not as_json:
        _show_gate(adapter)


async def _watch(url: str, project: str, run_id: str, *, as_json: bool) -> tuple[Run, Adapter | None]:
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=as_json,
    )
    seen = 0
    async with Database(url, pool_size=1) as database:
        with bar:
            task = bar.add_task("queued", total=None, detail="")
            while True:
                async with database.begin() as connection:
                    found = await runs.get(connection, project, run_id)
                    events = await runs.events(connection, run_id, after=seen)
                    adapter = await _adapter(connection, found)
                _show_events(events, bar, as_json=as_json)
                seen = events[-1].event_id if events else seen
                bar.update(task, **_bar_state(found))
                if found.status in ENDED:
                    return found, adapter
                await asyncio.sleep(POLL_SECONDS)


def _show_events(events: Sequence[RunEvent], bar: Progress, *, as_json: bool) -> None:
    for event in events:
        if as_json:
            print(orjson.dumps(asdict(event), default=str).decode(), flush=True)
        elif not event.message.startswith("Step "):
            bar.console.print(f"{event.at.astimezone():%H:%M:%S}  {event.message}")


def _bar_state(found: Run) -> dict[str, Any]:
    """What the bar shows of a run."""
    progress, label = found.progress, found.phase if found.status == "running" else found.status
    if found.phase == "evaluating" and "evaluated" in progress:
        return {
            "description": label,
            "completed": progress["evaluated"],
            "total": progress["items"],
            "detail": "questions",
        }
    if "steps" in progress:
        remaining = int(progress["remaining_seconds"])
        detail = (
            f"loss {progress['loss']:.3f}  {remaining // 60}:{remaining % 60:02} left  "
            f"{progress['memory_bytes'] / 2**20:.0f} MiB"
        )
        stage = f" {progress['stage']}" if progress.get("stage") and found.phase == "training" else ""
        return {
            "description": f"{label}{stage}",
            "completed": progress["step"],
            "total": progress["steps"],
            "detail": detail if found.phase == "training" else "",
        }
    return {"description": label}


def _show_gate(adapter: Adapter | None) -> None:
    if adapter is None or adapter.gate is None:
        return
    colour = "green" if adapter.gate["decision"] == "candidate" else "red"
    console.print(
        f"\n{adapter.name} is '{adapter.state}'. The gate says [{colour}]{adapter.gate['decision']}[/]."
    )
    for check in adapter.gate["checks"]:
        console.print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['sentence']}")
    if adapter.gate["decision"] == "candidate" and adapter.state == "candidate":
        console.print(f"Next: hone approve {adapter.name}")


async def _adapter(connection: Any, found: Run) -> Adapter | None:
    try:
        return await adapters.by_id(connection, found.adapter_id or "")
    except NotFound:
        return None
