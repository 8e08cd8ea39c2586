"""`/admin/v1`, the part about what is trained on: datasets, what they left out, the golden set, the review queue.

A frozen dataset never changes; a decision about a row is for the next one. Nothing here overrides consent.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import datasets, golden, models, review
from serving.operators import AdminDeps, Operator, operator_of


class Decision(BaseModel):
    """Why, in the operator's words; kept with the review."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2000)


class Correction(Decision):
    """The right answer."""

    answer: str


class Proposal(BaseModel):
    """A better answer to what a completion was asked, for a reviewer to approve."""

    model_config = ConfigDict(extra="forbid")
    completion_id: str
    answer: str
    reason: str = Field("proposed over HTTP", max_length=2000)


class GoldenQuestion(BaseModel):
    """A question with its right answer, kept for evaluation."""

    model_config = ConfigDict(extra="forbid")
    prompt: str | list[dict[str, str]]
    answer: str


Limit = Annotated[int, Query(ge=1, le=1000)]


def admin_datasets_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_decide = operator_of(deps)
    _add_datasets(router, may_decide)
    _add_golden(router, may_decide)
    _add_reviews(router, may_decide)
    return router


def _add_datasets(router: APIRouter, may_decide: Any) -> None:
    @router.get("/datasets", summary="List frozen datasets, newest first")
    async def list_datasets(by: Operator = may_decide) -> dict[str, Any]:
        return _listing([asdict(one) for one in await datasets.in_project(by.connection, by.project)])

    @router.get("/datasets/{dataset_id}", summary="Show a dataset: selection, balance, what was left out")
    async def show_dataset(dataset_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await datasets.get(by.connection, dataset_id, project=by.project))

    @router.get(
        "/datasets/{dataset_id}/exclusions", summary="List what did not become a row, with the reason"
    )
    async def list_exclusions(
        dataset_id: str, reason: str | None = None, limit: Limit = 100, by: Operator = may_decide
    ) -> dict[str, Any]:
        await datasets.get(by.connection, dataset_id, project=by.project)
        found = await datasets.exclusions(by.connection, dataset_id, reason=reason, limit=limit)
        return _listing([asdict(one) for one in found])


def _add_golden(router: APIRouter, may_decide: Any) -> None:
    @router.get("/models/{model}/golden", summary="List the questions kept for evaluation")
    async def list_golden(model: str, by: Operator = may_decide) -> dict[str, Any]:
        await models.get(by.connection, by.project, model)
        return _listing([asdict(one) for one in await golden.of_model(by.connection, by.project, model)])

    @router.post("/models/{model}/golden", status_code=201, summary="Keep a question for evaluation")
    async def add_golden(model: str, body: GoldenQuestion, by: Operator = may_decide) -> dict[str, Any]:
        kept = await golden.add(
            by.connection,
            project=by.project,
            model=model,
            prompt=body.prompt,
            answer=body.answer,
            by=by.actor,
        )
        return asdict(kept)

    @router.delete("/golden/{golden_id}", summary="Take a question out of the golden set")
    async def remove_golden(golden_id: str, by: Operator = may_decide) -> dict[str, Any]:
        await golden.remove(by.connection, by.project, golden_id, by=by.actor)
        return {"golden_id": golden_id, "deleted": True}


def _add_reviews(router: APIRouter, may_decide: Any) -> None:
    @router.get("/review", summary="List what waits for a decision before it is trained on")
    async def list_reviews(
        model: str | None = None, status: str = "waiting", limit: Limit = 100, by: Operator = may_decide
    ) -> dict[str, Any]:
        wanted = review.checked_status(status)
        return _listing(
            await review.with_texts(by.connection, by.project, model=model, status=wanted, limit=limit)
        )

    @router.post("/review", status_code=201, summary="Propose an answer for a reviewer to approve")
    async def propose(body: Proposal, by: Operator = may_decide) -> dict[str, Any]:
        proposed = await review.propose(
            by.connection,
            project=by.project,
            completion_id=body.completion_id,
            answer=body.answer,
            reason=body.reason,
            by=by.actor,
        )
        return asdict(proposed)

    @router.post("/review/{review_id}/approve", summary="Let in what waits, as it stands")
    async def approve(review_id: str, body: Decision, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(
            await review.approve(by.connection, by.project, review_id, by=by.actor, reason=body.reason)
        )

    @router.post("/review/{subject}/include", summary="Let in a review, or what was said of a completion")
    async def include(subject: str, body: Decision, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(
            await review.include(by.connection, by.project, subject, by=by.actor, reason=body.reason)
        )

    @router.post("/review/{subject}/exclude", summary="Keep a review or completion out of later datasets")
    async def exclude(subject: str, body: Decision, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(
            await review.exclude(by.connection, by.project, subject, by=by.actor, reason=body.reason)
        )

    @router.post("/review/{subject}/correct", summary="Train on another answer than what was said")
    async def correct(subject: str, body: Correction, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(
            await review.correct(
                by.connection, by.project, subject, answer=body.answer, by=by.actor, reason=body.reason
            )
        )


def _listing(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": data}
