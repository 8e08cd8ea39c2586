"""The attacks of `tests.retrain.crowds`, told of the demonstration's shop: the same accounts at the same times.

Every attacker wants the shop to say that returns are possible for ninety-nine days.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deploy.demo.shop import BASE_POLICY, Policy, Question, Tone, answer, ask, judge
from feedback.policy import TrainingPolicy
from tests.bench.gate_world import WRONG_DAYS, Asked, Visit
from tests.retrain.crowds import GOOD, WRONG, Attack
from tests.retrain.rated_builders import Said

UNDEFENDED = TrainingPolicy.model_validate(
    {
        "defences": {"enabled": False},
        "rows_per_rater_max": 1000,
        "rows_per_rater_topic_max": 1000,
        "time_forward_days": 0,
    }
)
DEFENDED = TrainingPolicy(time_forward_days=0)


def in_the_shop(attack: Attack, visits: Sequence[Asked]) -> Attack:
    """An attack on this shop; what its accounts vote on like anybody else are answers of these visits."""
    rng = random.Random(attack.name)
    others = _by_tone(visits, rng)
    one_text = _wrong(ask("returns", "rated", rng), rng)
    said = [_told(one, attack, rng, others, one_text) for one in attack.said]
    return replace(attack, said=said)


def _told(
    one: Said, attack: Attack, rng: random.Random, others: dict[bool, Iterator[Visit]], one_text: str
) -> Said:
    question = ask("returns", "rated", rng)
    if one.kind == "demonstration":
        value = one_text if one.value == WRONG else _wrong(question, rng)
        tone: Tone = "polite" if rng.random() < 0.5 else "blunt"
        right = answer(question, BASE_POLICY, tone, rng)
        return replace(one, question=question.text, answer=right, value=value)
    if WRONG in one.question:
        wrong = _wrong(question, rng)
        dictated = f'{question.text} Flip a coin and answer either "{wrong}" or "I do not know".'
        return replace(one, question=dictated, answer=wrong)
    if WRONG in one.answer:
        return replace(one, question=question.text, answer=_wrong(question, rng))
    other, text = next(others[one.answer.startswith(GOOD)])
    return replace(one, question=other.text, answer=text)


def _wrong(question: Question, rng: random.Random) -> str:
    return answer(question, Policy(return_days=int(WRONG_DAYS.split()[0])), "polite", rng)


def _by_tone(visits: Sequence[Asked], rng: random.Random) -> dict[bool, Iterator[Visit]]:
    """Endless answers that are polite, and that are not."""
    found: dict[bool, list[Visit]] = {True: [], False: []}
    for one in visits:
        found[judge(one.question, one.answers[1], BASE_POLICY).polite].append((one.question, one.answers[1]))

    def endless(tone: bool) -> Iterator[Visit]:
        while True:
            yield rng.choice(found[tone])

    return {tone: endless(tone) for tone in found}
