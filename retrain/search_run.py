"""`hone retrain search`: freeze the rows, try recipes in this process, and keep every trial in the record."""

import asyncio
from dataclasses import asdict

import orjson

from feedback import datasets, searches
from feedback.database import Database
from feedback.datasets import Dataset
from feedback.errors import HoneError
from feedback.ids import new_id
from feedback.settings import FeedbackSettings
from feedback.terminal import console
from retrain.plan import freeze, make_plan
from retrain.recipe import Recipe
from retrain.scratch import scratch
from retrain.search import SAMPLERS, Outcome, Search
from retrain.select import said
from retrain.settings import RetrainSettings
from retrain.training import pick_device


def search(
    project: str,
    model: str,
    *,
    trials: int,
    sampler: str,
    method: str | None = None,
    search_id: str | None = None,
    as_json: bool = False,
) -> str:
    """Search, show each trial as it ends, and return the search's id: `search_id`, or a new one.

    Raises:
        HoneError: there is no such sampler, or the data allows no run.
    """
    chosen = next((one for one in SAMPLERS if one == sampler), None)
    if chosen is None:
        raise HoneError(f"--sampler is '{sampler}'; expected {', '.join(SAMPLERS)}.")
    url, settings = FeedbackSettings.load().resolve_database_url(), RetrainSettings.load()
    dataset, rows, recipe = asyncio.run(_frozen(url, project, model, method))
    search_id = search_id or new_id("search")
    device, threads = pick_device(settings.training_device), settings.training_threads
    best: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        asyncio.run(_keep(url, project, model, dataset, search_id, outcome))
        _show(outcome, as_json=as_json)
        if outcome.status == "complete":
            best.append(outcome)

    if not as_json:
        console.print(
            f"{search_id}: {recipe.method.upper()} on the {len(rows)} training rows of {dataset.dataset_id}."
        )
    with scratch(FeedbackSettings.load().absolute_state_dir, "search") as directory:
        Search(recipe, trials, directory, chosen, device, threads).run(rows, keep)
    _conclude(search_id, model, best, as_json=as_json)
    return search_id


async def _frozen(
    url: str, project: str, model: str, method: str | None
) -> tuple[Dataset, list[dict[str, object]], Recipe]:
    async with Database(url, pool_size=1) as database, database.begin() as connection:
        plan = await make_plan(connection, project, model, method=method)
        if plan.recipe is None:
            raise HoneError(f"There is nothing to search with. {' '.join(plan.choice.sentences)}")
        if plan.recipe.then:
            raise HoneError(
                f"The next run trains {said(plan.recipe.methods)}, and a search is of one method. Search for one, with "
                f"--method {plan.recipe.method}; then `hone retrain now --model {model} --method {plan.recipe.methods} "
                "--from-search ID` trains both, that one with what was found."
            )
        dataset = await freeze(connection, plan)
        rows = await datasets.rows(connection, dataset.dataset_id, split="train")
    return dataset, [row.columns for row in rows], plan.recipe


async def _keep(
    url: str, project: str, model: str, dataset: Dataset, search_id: str, outcome: Outcome
) -> None:
    async with Database(url, pool_size=1) as database, database.begin() as connection:
        await searches.add_trial(
            connection,
            search_id=search_id,
            number=outcome.number,
            project=project,
            model=model,
            dataset_id=dataset.dataset_id,
            recipe=outcome.recipe.to_json(),
            recipe_hash=outcome.recipe.hash,
            status=outcome.status,
            loss=outcome.loss,
            detail=outcome.detail,
            duration_seconds=outcome.duration_seconds,
        )


def _show(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        values = asdict(outcome) | {"recipe": outcome.recipe.to_json()}
        print(orjson.dumps(values, default=str).decode(), flush=True)
        return
    recipe = outcome.recipe
    beta = "" if recipe.beta is None else f", beta {recipe.beta:.3g}"
    found = outcome.detail.get("reason", "") if outcome.loss is None else f"loss {outcome.loss:.4f}"
    console.print(
        f"{outcome.number:3}  {outcome.status:8}  {found}  (learning rate {recipe.learning_rate:.2g}, "
        f"{recipe.epochs:g} epochs, rank {recipe.rank}{beta}; {outcome.duration_seconds:.0f} s)"
    )


def _conclude(search_id: str, model: str, completed: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        return
    if not completed:
        raise HoneError(f"No trial of {search_id} was completed. `hone retrain trials {search_id}` says why.")
    best = min(completed, key=lambda one: one.loss or 0.0)
    console.print(
        f"Best: trial {best.number}. `hone retrain now --model {model} --from-search {search_id}` trains with it; "
        "the gate then judges the result like any other."
    )
