"""The demonstration as a story, one method a chapter: ask, rate, train, prove, ship, roll back.

It tells what happened and nothing better: a rejected candidate or an undecided verdict ends it, and the champion
stays what it was. Every wait says what it waits for.
"""

import asyncio
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from rich.console import Console

from deploy.demo.measure import Exam, Score, score_table, take_exam
from deploy.demo.people import Person, Reaction, crowd, visits
from deploy.demo.service import Answer, RunningService
from deploy.demo.shop import Question
from deploy.demo.traffic import Traffic
from deploy.progress import Steps
from feedback.errors import HoneError

EndWith = Literal["champion", "rollback"]

RUN_APPEARS_SECONDS = 180.0
RUN_STALLS_SECONDS = 600.0
"""Without a step, an answer or another phase. A slow machine may take long, as long as it gets on."""
SWITCH_SECONDS = 60.0
POLL_SECONDS = 1.0
VISITS_AT_ONCE = 24
CROWD_QUESTIONS = 3000
EXAMPLES_SHOWN = 6

RECIPE: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "max_length": 256,
    "schedule": "cosine",
    "sft": {"learning_rate": 3e-3, "epochs": 5, "batch_size": 16},
    "dpo": {"learning_rate": 1e-3, "epochs": 3, "batch_size": 16, "sft_weight": 1.0},
    "kto": {"learning_rate": 2e-4, "epochs": 2, "batch_size": 16, "beta": 0.5},
}
"""What trains the demonstration model. A model of a few million parameters wants ten times a real model's rates."""


class GaveUp(HoneError):
    """The loop did not close; the message says where, and the champion is what it was."""


@dataclass(frozen=True)
class Plan:
    """How large the demonstration is."""

    seed: int = 0
    feedback: int = 1000
    """Ratings and written answers after which the worker trains. A fifth is held out, and less than half of that tells
    two versions apart: of 600, what one crowd of three left gave a win rate's lower bound of only 0.52."""
    exam_returns: int = 40
    exam_others: int = 80
    canary_questions_max: int = 1500
    end_with: EndWith = "champion"

    def policy(self) -> dict[str, Any]:
        """The model's policy during the demonstration, in which minutes stand for weeks."""
        return {
            "training": {
                "enabled": True,
                "method": "auto",
                "fresh_feedback_min": self.feedback,
                "interval_hours_min": 0,
                "recipe": RECIPE,
            },
            # Polite answers are longer, and that is what the people want.
            "gate": {"length_ratio_max": 3.0},
            "rollout": {
                "steps": [0.25, 0.5],
                "step_seconds_min": 5,
                "step_units_min": 10,
                "step_requests_min": 10,
                "guardrails": {"output_tokens_ratio_max": 3.0},
            },
        }


class Story:
    """Plays on a service. `steps` and `console` show it."""

    def __init__(self, service: RunningService, plan: Plan, console: Console, steps: Steps) -> None:
        self.service, self.plan, self.console, self.steps = service, plan, console, steps
        self.exam = Exam.of(plan.seed, plan.exam_returns, plan.exam_others)
        self.scores: list[Score] = []
        self.base = f"{service.model}@0"
        self.examples_left = 0

    async def play(self) -> None:
        """Close the loop once.

        Raises:
            GaveUp: the gate or the verdict said no.
            HoneError: the service cannot do it; the message says why.
        """
        before = await self._prepare()
        try:
            await self._measure("before", self.base)
            self._refuse_another_model()
            candidate = await self._follow(await self._collect())
            await self._approve(candidate)
            await self._split(candidate)
            await self._promote(candidate)
            await self._measure("after", candidate)
            await self._roll_back(self.base)
            await self._measure("rolled back", self.base)
            if self.plan.end_with == "champion":
                await self._roll_back(candidate)
                await self._measure("restored", candidate)
        finally:
            # Thresholds for minutes are no good for weeks. The recipe stays: this base model needs it.
            before["training"]["recipe"] = RECIPE
            await self.service.change_policy({name: before[name] for name in self.plan.policy()})
        self._conclude(candidate)

    async def _prepare(self) -> dict[str, Any]:
        """Begin from the base model and without a canary; returns the policy as it was."""
        view = await self.service.model_view()
        begins = "hone demo begins"
        if view["experiment"] is not None:
            self._say("A canary is left from before: it is ended first.")
            await self.service.decide(f"/models/{self.service.model}/abort", reason=begins)
        if view["champion"] != self.base:
            self._say(f"The champion is {view['champion']}: {self.base}, the base model, is put back first.")
            await self.service.decide(f"/models/{self.service.model}/rollback", to=self.base, reason=begins)
        self._say(
            "The shop has changed a policy: returns within 14 days, no longer 30. And its customers like to be "
            f"treated politely. '{self.service.model}' knows neither."
        )
        await self.service.change_policy(self.plan.policy())
        policy = view["policy"]
        assert isinstance(policy, dict)
        return policy

    async def _measure(self, title: str, version: str) -> None:
        """Ask what nobody rates, and check who answered."""
        await self._switched_to(version)
        with self.steps.step(f"Measuring: {title}", done=f"{version} answered") as step:
            score = await take_exam(
                self.service,
                self.exam,
                title,
                lambda done, of: step.update(
                    f"{done} of {of} questions in phrasings nobody rates", done / of
                ),
            )
        if score.version != version:
            raise GaveUp(
                f"{score.version} answered where {version} should have: somebody else is deciding too."
            )
        self.scores.append(score)
        self._say(
            f"{title}: {score.returns_changed:.0%} say 14 days, {score.returns_base:.0%} say 30 days, "
            f"{score.polite:.0%} are polite, {score.others_right:.0%} of the other topics are right."
        )

    def _refuse_another_model(self) -> None:
        if self.scores[0].others_right < 0.5:
            raise HoneError(
                f"'{self.service.model}' answers {self.scores[0].others_right:.0%} of the made-up shop's questions "
                "rightly: it does not stand on the demonstration model. Start a service that does, with "
                "`hone up --state-dir demo` and no --model, and give its address with --url."
            )

    async def _collect(self) -> dict[str, Any]:
        """People ask and rate until the worker begins to train by itself; returns the run."""
        known = {run["run_id"] for run in await self._runs()}
        traffic = Traffic(self.service, self.plan.seed, self._tell)
        people = visits(crowd(self.plan.seed, CROWD_QUESTIONS), self.plan.seed)
        self.examples_left = EXAMPLES_SHOWN
        with self.steps.step("People ask and rate", done="enough to learn from") as step:
            while traffic.feedback < self.plan.feedback:
                await traffic.send(islice(people, VISITS_AT_ONCE))
                step.update(str(traffic), min(1.0, traffic.feedback / self.plan.feedback))
        self._say(str(traffic))
        with self.steps.step("Waiting for the worker", done="it trains by itself") as step:
            deadline = time.monotonic() + RUN_APPEARS_SECONDS
            while time.monotonic() < deadline:
                step.update("it asks every half minute whether there is enough fresh feedback")
                if new := [run for run in await self._runs() if run["run_id"] not in known]:
                    return new[0]
                await asyncio.sleep(POLL_SECONDS)
        raise GaveUp(
            f"No training run began within {RUN_APPEARS_SECONDS:.0f} s of enough feedback. `hone retrain plan` says "
            "what is missing, and `hone doctor` whether the worker runs."
        )

    async def _follow(self, run: dict[str, Any]) -> str:
        """Watch a run to its end; returns the candidate's name."""
        with self.steps.step(f"Training ({run['method'].upper()})", done="trained and evaluated") as step:
            moved, before = time.monotonic(), run
            while run["status"] in ("queued", "running"):
                step.update(*_standing(run))
                if (run["phase"], run["progress"]) != (before["phase"], before["progress"]):
                    moved, before = time.monotonic(), run
                if time.monotonic() > moved + RUN_STALLS_SECONDS:
                    raise GaveUp(
                        f"{run['run_id']} has not moved for {RUN_STALLS_SECONDS:.0f} s. `hone run show "
                        f"{run['run_id']}` says where it stands, and `hone doctor` whether the worker runs."
                    )
                await asyncio.sleep(POLL_SECONDS)
                run = await self.service.read(f"/runs/{run['run_id']}")
        if run["status"] != "succeeded":
            raise GaveUp(f"{run['run_id']} {run['status']}: {run['error']}")
        versions = await self.service.listing("/adapters", model=self.service.model)
        adapter = next(one for one in versions if one["adapter_id"] == run["adapter_id"])
        self._say(f"The gate's report on {adapter['name']}:")
        for check in adapter["gate"]["checks"]:
            self._say(f"  {'pass' if check['passed'] else 'FAIL'}  {check['sentence']}")
        if adapter["state"] != "candidate":
            raise GaveUp(rejection(adapter, self.base))
        return str(adapter["name"])

    async def _approve(self, candidate: str) -> None:
        """The operator reads the evidence and approves."""
        await self.service.decide(
            f"/adapters/{candidate}/approve", reason="hone demo: the gate's report convinces"
        )
        await self.service.decide(f"/adapters/{candidate}/canary")
        self._say(
            f"{candidate} is approved and meets traffic: 25% of the people, then half, who stay with their version."
        )

    async def _split(self, candidate: str) -> None:
        """Other people use both versions until the verdict."""
        traffic = Traffic(self.service, self.plan.seed, self._tell)
        seed = self.plan.seed + 1_000_000
        people = visits(crowd(seed, self.plan.canary_questions_max), seed)
        self.examples_left = EXAMPLES_SHOWN
        with self.steps.step("Canary", done="the verdict is better") as step:
            while batch := tuple(islice(people, VISITS_AT_ONCE)):
                await traffic.send(batch)
                verdict = await self._verdict(candidate)
                step.update(f"{verdict['state']}; {traffic}" if verdict else str(traffic))
                if verdict and verdict["state"] == "better":
                    self._say(str(traffic))
                    self._say(f"Verdict: {verdict['sentence']}")
                    return
        await self.service.decide(f"/models/{self.service.model}/abort", reason="hone demo: no verdict")
        raise GaveUp(
            f"{self.plan.canary_questions_max} questions gave no verdict, and that is no pass: {candidate} is taken "
            f"back. {self.base} stays champion."
        )

    async def _verdict(self, candidate: str) -> dict[str, Any] | None:
        experiment = (await self.service.model_view())["experiment"]
        if experiment is None:
            raise GaveUp(f"The canary of {candidate} was ended: `hone experiment list` says why.")
        verdict = experiment["verdict"]
        assert verdict is None or isinstance(verdict, dict)
        return verdict

    async def _promote(self, candidate: str) -> None:
        await self.service.decide(f"/adapters/{candidate}/promote", reason="hone demo: the verdict is better")
        self._say(f"{candidate} is the champion.")

    async def _roll_back(self, version: str) -> None:
        await self.service.decide(
            f"/models/{self.service.model}/rollback", to=version, reason="hone demo: one command away"
        )
        self._say(f"Rolled back: {version} is the champion.")

    async def _switched_to(self, version: str) -> None:
        """Wait until the decision has reached the gateway."""
        deadline = time.monotonic() + SWITCH_SECONDS
        while True:
            answer = await self.service.ask("Hello!", rater="examiner", consent=False)
            if answer.version == version:
                return
            if time.monotonic() > deadline:
                raise GaveUp(
                    f"{answer.version} still answers {SWITCH_SECONDS:.0f} s after {version} was decided."
                )
            await asyncio.sleep(0.1)

    async def _runs(self) -> list[dict[str, Any]]:
        return await self.service.listing("/runs", model=self.service.model)

    def _tell(self, person: Person, question: Question, answer: Answer, reaction: Reaction) -> None:
        """Show the first few visits in full."""
        if self.examples_left == 0 or reaction.rating is None:
            return
        self.examples_left -= 1
        thumb = "thumb up" if reaction.rating else "thumb down"
        wrote = f', and writes: "{reaction.demonstration}"' if reaction.demonstration else ""
        self._say(f'  {person.name}: "{question.text}" {answer.version}: "{answer.text}" -> {thumb}{wrote}')

    def _conclude(self, candidate: str) -> None:
        self.console.print()
        self.console.print(score_table(self.exam, self.scores))
        self._say(f'The first question was: "{self.exam.returns[0].text}"')
        for score in self.scores:
            self._say(f'  {score.title} ({score.version}): "{score.example}"')
        other = self.base if self.plan.end_with == "champion" else candidate
        self._say(
            f"The champion is now {self.scores[-1].version}. `hone rollback --model {self.service.model} --to {other}` "
            "puts the other one back."
        )

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def rejection(adapter: dict[str, Any], champion: str) -> str:
    """Which checks failed, in the gate's own sentences; without a check, the gate's reasons."""
    gate, name = adapter["gate"] or {}, adapter["name"]
    failed = [
        f"{check['name']}: {check['sentence']}" for check in gate.get("checks", ()) if not check["passed"]
    ]
    why = "\n".join(f"  {line}" for line in failed or gate.get("reasons", ()))
    return (
        f"The gate rejected {name}, and the champion stays {champion}:\n{why}\n"
        f"`hone adapter show {name}` has the whole report; `hone demo --seed` with another number is another crowd."
    )


def _standing(run: dict[str, Any]) -> tuple[str, float | None]:
    """What a run is doing, and the share of it that is done where that is known."""
    progress = run["progress"]
    if run["phase"] == "evaluating":
        if progress.get("items"):
            done = progress["evaluated"] / progress["items"]
            return (
                f"answers held-out questions beside the champion: {progress['evaluated']} of {progress['items']}",
                done,
            )
        return "waits until the engine has loaded the candidate", None
    if progress.get("steps"):
        done = progress["step"] / progress["steps"]
        return f"step {progress['step']} of {progress['steps']}, loss {progress['loss']:.3f}", done
    return "starts the training process", None
