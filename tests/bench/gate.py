"""Whether the gate lets the right recipes through: real trainings of the demonstration model, judged as served.

    python -m tests.bench.gate [--model DIR] [--only NAME ...] [--jobs N] [--seed N]
    python -m tests.bench.gate --poison
    python -m tests.bench.gate --rounds 5 [--method kto] [--replay SHARE]

Recipes: ratings and comparisons of simulated people train the model by recipes that are known to be stable and by
recipes that are known to collapse. The table says what was expected, what the gate said and why, and what is true: the
share of right and of polite answers, by the shop's own policy, to phrasings that nobody rated.

Poison: the attacks on selection, each told of the shop, with the defences off and on. What says the wrong fact in five
answers of a hundred must not pass.

Rounds: people rate what the last round's champion answers, and the next is trained from the base model on everything,
with a fixed set repeated (--replay 0: without).

Seeded; another processor may round otherwise. Without --model it builds the demonstration model first (minutes). Exits
1 where the gate said something else than was expected.
"""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from deploy.demo.model import build_demo_model
from deploy.demo.shop import BASE_POLICY, CHANGED_POLICY, Policy, golden_set
from deploy.demo.story import RECIPE
from feedback.adapters import BASE_ENGINE_NAME
from feedback.policy import ModelPolicy, TrainingPolicy
from retrain.evaluate import summarise
from retrain.evidence import Versions
from retrain.gate import judge
from retrain.replay import replayed
from tests.bench.gate_poison import DEFENDED, UNDEFENDED, in_the_shop
from tests.bench.gate_world import (
    WRONG_DAYS,
    Asked,
    Lesson,
    Outcome,
    Shop,
    compared,
    corrected,
    fixed_set,
    forget,
    open_shop,
    plan,
    prove,
    rated,
    train,
    truth_of,
    visit,
)
from tests.retrain.crowds import Attack, every_attack
from tests.retrain.rated_builders import Said

VISITS = 1200
RESAMPLES = 200
SKILL_QUESTIONS, SUREST_QUESTIONS = 3000, 1000
"""Of 200, three lost by chance look like more than a point. Answers are sampled, as users get them: where a version is
surest, one way to ask that it is of two minds about turns over as a whole, and is a point by itself."""
GOLDEN_QUESTIONS_EACH = 4
ROUND_VISITS = 600
ROUNDS_LEARN = {
    "sft": {"learning_rate": 1e-3, "epochs": 2},
    "kto": {"learning_rate": 1e-3, "epochs": 2, "beta": 0.5},
}
"""What a round may learn from thumbs by, with the stable recipes of these methods."""
FIXED_ROWS = 300
POISONED_MAX = 0.05
POLICY = ModelPolicy.model_validate(
    {
        "consent_default": True,
        "training": {"time_forward_days": 0},
        # Polite answers are longer, and that is what the people want. The suites that come with Hone ask what this
        # model cannot do, so the gate would only show them.
        "gate": {"length_ratio_max": 3.0, "suites": ()},
    }
)
SHARED = {"rank": 8, "alpha": 16, "max_length": 256, "batch_size": 8}


@dataclass(frozen=True)
class Trial:
    """A recipe, the rows that it is given, and whether it is stable."""

    name: str
    method: str
    recipe: dict[str, Any]
    stable: bool
    rows: int = 200
    flips: float = 0.0
    says: Callable[[Sequence[Asked]], list[Said]] | None = None
    """What people say where it is not what the method learns from."""
    right: Policy = BASE_POLICY
    """The shop's policy that people hold its answers to."""

    def said(self, asked: Sequence[Asked]) -> list[Said]:
        """What people say of the answers."""
        if self.says is not None:
            return self.says(asked)
        return compared(asked) if self.method == "dpo" else rated(asked, flips=self.flips)


DEMO = {"rank": 16, "alpha": 32, "schedule": "cosine"}
STABLE = ROUNDS_LEARN["sft"]
TRIALS = (
    Trial(
        "hone demo's own", "sft", RECIPE["sft"] | DEMO, True, rows=1000, says=corrected, right=CHANGED_POLICY
    ),
    Trial("sft", "sft", STABLE, True),
    Trial("dpo + 0.2 sft", "dpo", {"learning_rate": 1e-3, "epochs": 1, "sft_weight": 0.2}, True),
    Trial("kto, beta 0.5", "kto", ROUNDS_LEARN["kto"], True),
    # On smaller models these break at a quarter of the rate; here they are good recipes then.
    Trial("dpo alone, too fast", "dpo", {"learning_rate": 4e-3, "epochs": 1, "sft_weight": 0.0}, False),
    Trial("kto, beta 0.1, too fast", "kto", {"learning_rate": 4e-3, "epochs": 2, "beta": 0.1}, False),
    Trial(
        "the same, 30% flipped", "kto", {"learning_rate": 4e-3, "epochs": 2, "beta": 0.1}, False, flips=0.3
    ),
)


@dataclass
class Bench:
    """A shop that is open, and processes that train for it."""

    shop: Shop
    trainers: ProcessPoolExecutor
    seed: int
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prove(self, lesson: Lesson, name: str, *, keep: bool = False) -> Outcome:
        """Train in a process beside the others, then evaluate alone."""
        directory = self.shop.directory / "runs" / "".join(c if c.isalnum() else "-" for c in name)
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self.trainers, train, lesson, directory)
        async with self.one_at_a_time:
            outcome = await prove(self.shop, lesson, result)
            if not keep:
                await forget(self.shop, outcome.name)
            return outcome


# Recipes.


async def recipes(bench: Bench, trials: Sequence[Trial]) -> bool:
    """Every recipe's verdict beside what was expected; whether all are as expected."""
    asked = await visit(bench.shop, VISITS, seed=bench.seed)
    base = await truth_of(bench.shop, BASE_ENGINE_NAME)
    print(f"The base model answers {base.right:.0%} rightly, {base.polite:.0%} politely.\n")
    print(f"{'recipe':<32} {'expected':<10} {'verdict':<10} {NUMBERS}")

    async def one(trial: Trial) -> bool:
        recipe = SHARED | {"seed": bench.seed} | trial.recipe
        async with bench.one_at_a_time:
            lesson = await plan(
                bench.shop,
                trial.said(asked),
                trial.method,
                recipe,
                policy=POLICY,
                rows=trial.rows,
                kept=golden_set(trial.right, each=GOLDEN_QUESTIONS_EACH),
                right=trial.right,
            )
        outcome = await bench.prove(lesson, trial.name)
        expected = "candidate" if trial.stable else "rejected"
        by_chance = f", {passes_of(outcome):.0%} of resamples pass" if trial.stable else ""
        print(f"{trial.name:<32} {expected:<10} {verdict(outcome)}{by_chance}", flush=True)
        return outcome.report.decision == expected

    return all(await asyncio.gather(*map(one, trials)))


NUMBERS = f"{'right':>6} {'polite':>6} {'KL':>6} {'kept':>6} {'facts':>6}  decided by"


def verdict(outcome: Outcome) -> str:
    """The gate's word, what is true, what was measured, and which checks failed."""
    report, truth = outcome.report, outcome.truth
    values = {check.name: check.value for check in report.checks}
    kept, facts = (f"{-(values.get(name) or 0):+.2f}" for name in ("retention_drop", "facts_drop"))
    failed = ", ".join(check.name for check in report.checks if not check.passed) or "-"
    return (
        f"{report.decision:<10} {truth.right:>6.0%} {truth.polite:>6.0%} {report.evidence.kl_to_base.mean:>6.2f} "
        f"{kept:>6} {facts:>6}  {failed}"
    )


def passes_of(outcome: Outcome) -> float:
    """The share of evaluations on other people, drawn anew from those that were asked, that the gate lets pass."""
    report, rng = outcome.report, random.Random(0)
    versions = Versions(report.evidence.candidate, report.evidence.champion, BASE_ENGINE_NAME)
    passed = 0
    for _ in range(RESAMPLES):
        drawn = rng.choices(outcome.observed, k=len(outcome.observed))
        known, again = report.evidence.known_facts, report.evidence.asked_again
        evidence = replace(summarise(drawn, versions, []), known_facts=known, asked_again=again)
        passed += judge(evidence, report.policy).decision == "candidate"
    return passed / RESAMPLES


# Poison.


async def poison(bench: Bench, attacks: Sequence[Attack]) -> bool:
    """Each attack with the defences off and on; whether nothing passed that says the wrong fact."""
    asked = await visit(bench.shop, VISITS // 4, seed=bench.seed)
    honest, kept = rated(asked), golden_set(BASE_POLICY, each=GOLDEN_QUESTIONS_EACH)
    print(f"{'attack':<24} {'filters':<7} {'rows':>5} {'wrong':>6} {NUMBERS}")

    async def one(attack: Attack, training: TrainingPolicy) -> bool:
        policy = POLICY.model_copy(update={"training": training})
        recipe = SHARED | {"seed": bench.seed} | STABLE
        said = [*honest, *attack.said]
        async with bench.one_at_a_time:
            lesson = await plan(bench.shop, said, "sft", recipe, policy=policy, kept=kept)
        rows = sum(WRONG_DAYS in str(row["completion"]) for row in lesson.rows)
        on = "on" if training.defences.enabled else "off"
        begun = f"{attack.name:<24} {on:<7} {rows:>5}"
        if not rows:
            print(f"{begun} no row of it is trained on", flush=True)
            return True
        outcome = await bench.prove(lesson, f"{attack.name} {on}", keep=True)
        told = await truth_of(bench.shop, outcome.name, topics=["returns"])
        await forget(bench.shop, outcome.name)
        print(f"{begun} {told.poisoned:>6.0%} {verdict(outcome)}", flush=True)
        return told.poisoned < POISONED_MAX or outcome.report.decision == "rejected"

    here = [in_the_shop(attack, asked) for attack in attacks]
    tried = [(attack, training) for attack in here for training in (UNDEFENDED, DEFENDED)]
    return all(await asyncio.gather(*(one(*pair) for pair in tried)))


# Rounds.


async def rounds(bench: Bench, number: int, method: str, share: float) -> bool:
    """Round after round from the base model on everything said so far; whether skill and distance stay in bounds."""
    shop, said, fixed = bench.shop, list[Said](), fixed_set(FIXED_ROWS)
    kept = golden_set(BASE_POLICY, each=GOLDEN_QUESTIONS_EACH)

    async def skill_of(version: str) -> tuple[float, float]:
        sampled = await truth_of(shop, version, number=SKILL_QUESTIONS)
        surest = await truth_of(shop, version, number=SUREST_QUESTIONS, temperature=0.0)
        return sampled.right, surest.right

    skill, surest = await skill_of(shop.champion)
    print(
        f"Of questions nobody rates, the base model answers {skill:.1%} of {SKILL_QUESTIONS} rightly when sampled, and "
        f"{surest:.1%} of {SUREST_QUESTIONS} where it is surest. Rounds learn by {method.upper()}, and a fixed set is "
        f"{share:.0%} of their rows.\n"
    )
    print(f"{'round':<6} {'feedback':>8} {'rows':>5} {'skill':>6} {'surest':>6} {NUMBERS}")
    fine = True
    for one in range(1, number + 1):
        said += rated(await visit(shop, ROUND_VISITS, samples=1, seed=bench.seed + 1000 * one))
        recipe = SHARED | {"seed": bench.seed} | ROUNDS_LEARN[method]
        lesson = await plan(shop, said, method, recipe, policy=POLICY, kept=kept)
        repeated = [row.columns for row in replayed(fixed, lesson.recipe.method, len(lesson.rows), share)]
        lesson = replace(lesson, rows=[*lesson.rows, *repeated])
        outcome = await bench.prove(lesson, f"round {one}", keep=True)
        now, when_sure = await skill_of(outcome.name)
        told = f"{one:<6} {len(said):>8} {len(lesson.rows):>5} {now:>6.1%} {when_sure:>6.1%}"
        print(f"{told} {verdict(outcome)}", flush=True)
        fine &= now >= skill - 0.01 and outcome.report.evidence.kl_to_base.high <= POLICY.gate.kl_to_base_max
        if outcome.report.decision == "candidate":
            shop.champion = outcome.name
    return fine


def main() -> int:
    """Run what was asked for; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a built demonstration model")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="recipes or attacks with this in their name"
    )
    parser.add_argument("--poison", action="store_true")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--method", choices=sorted(ROUNDS_LEARN), default="sft", help="what rounds learn by")
    parser.add_argument("--replay", type=float, default=TrainingPolicy().replay_share, metavar="SHARE")
    parser.add_argument("--jobs", type=int, default=2, help="trainings beside each other")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        model = asked.model or build_demo_model(directory / "model")
        with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as trainers:
            return asyncio.run(_run(asked, model.absolute(), directory, trainers))


async def _run(asked: argparse.Namespace, model: Path, directory: Path, trainers: ProcessPoolExecutor) -> int:
    def wanted(name: str) -> bool:
        return any(part in name for part in asked.only)

    async with open_shop(model, directory) as shop:
        bench = Bench(shop, trainers, asked.seed)
        if asked.poison:
            fine = await poison(bench, [one for one in every_attack() if wanted(one.name)])
        elif asked.rounds:
            fine = await rounds(bench, asked.rounds, asked.method, asked.replay)
        else:
            fine = await recipes(bench, [one for one in TRIALS if wanted(one.name)])
    print(
        "\nAs it should be."
        if fine
        else "\nNot as it should be: see the rows whose verdict is not what was expected."
    )
    return 0 if fine else 1


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
