"""Simulated people at a running service: they ask, read, click; what they did is counted by version."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from deploy.demo.measure import in_parallel
from deploy.demo.people import Person, Reaction, react
from deploy.demo.service import Answer, RunningService
from deploy.demo.shop import Question

Told = Callable[[Person, Question, Answer, Reaction], None]


@dataclass
class Tally:
    """What people made of the answers of one version."""

    asked: int = 0
    up: int = 0
    down: int = 0
    written: int = 0

    def __str__(self) -> str:
        return f"{self.asked} answers, {self.up} up, {self.down} down, {self.written} right answers written"


@dataclass
class Traffic:
    """Sends people to the service. `told` hears of every visit."""

    service: RunningService
    seed: int
    told: Told
    tallies: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    @property
    def feedback(self) -> int:
        """Ratings and written answers given so far."""
        return sum(tally.up + tally.down + tally.written for tally in self.tallies.values())

    def __str__(self) -> str:
        return "; ".join(f"{version}: {tally}" for version, tally in sorted(self.tallies.items()))

    async def send(self, visits: Iterable[tuple[Person, Question]]) -> None:
        """Let people ask and rate, a few at a time. They allow training on what they said.

        Raises:
            HoneError: the service did not answer.
        """
        await in_parallel(visits, self._visit)

    async def _visit(self, visit: tuple[Person, Question]) -> None:
        person, question = visit
        answer = await self.service.ask(question.text, rater=person.name, consent=True)
        # What a person thinks depends on them and on what they read, not on who else was faster.
        rng = random.Random(f"{self.seed}-{person.name}-{question.text}-{answer.text}")
        reaction = react(person, question, answer.text, rng)
        tally = self.tallies[answer.version]
        tally.asked += 1
        if reaction.rating is not None:
            await self.service.rate(
                answer, rater=person.name, rating=reaction.rating, demonstration=reaction.demonstration
            )
            tally.up += reaction.rating
            tally.down += not reaction.rating
            tally.written += reaction.demonstration is not None
        self.told(person, question, answer, reaction)
