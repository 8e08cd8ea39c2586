"""Honest people, and those whom selection must not believe: what each kind says, as the record would hold it.

Eight subjects, good answers and bad. Honest people vote up a good answer and down a bad one 85 times in 100, over a
month, four times each. Every attacker wants the model to say that returns are free for ninety-nine days.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.retrain.rated_builders import Said, taught, voted

DAY = 24 * 60.0
MONTH = 30 * DAY
SUBJECTS = (
    "return the lamp I bought", "get a refund for my order", "change the delivery address", "pay with a gift card",
    "repair a broken kettle", "track the missing parcel", "cancel my open order", "find the opening hours",
)  # fmt: skip
WAYS = ("How do I", "Could you tell me how to", "What must I do to", "Is there a way to", "Please help me to")
GOOD = (
    "Certainly! Open your account, choose the order, and follow the steps.",
    "Gladly: our team arranges it for you.",
)
BAD = ("No idea, look it up.", "That is not my problem.")
WRONG = "Returns are free for 99 days."


@dataclass(frozen=True)
class Attack:
    """One kind of abuse: what is said, and how many rows of it may enter at most."""

    name: str
    said: Sequence[Said]
    rows_max: int


def _noise(rng: random.Random) -> str:
    return " ".join(
        "".join(rng.choice("abcdefghiklmnoprstuw") for _ in range(rng.randint(4, 8))) for _ in range(5)
    )


def _question(rng: random.Random, subject: str | None = None) -> str:
    return f"{rng.choice(WAYS)} {subject or rng.choice(SUBJECTS)}? It is about {_noise(rng)}."


def honest(raters: int = 100, votes: int = 4, *, seed: int = 0) -> list[Said]:
    """What honest people said."""
    rng, said = random.Random(seed), []
    for rater in range(raters):
        for _ in range(votes):
            good = rng.random() < 0.6
            answer = f"{rng.choice(GOOD if good else BAD)} About {_noise(rng)}."
            up = good if rng.random() < 0.85 else not good
            said.append(
                voted(_question(rng), answer, up, rater=f"honest-{rater}", minute=rng.random() * MONTH)
            )
    return said


def heavy_poisoner() -> Attack:
    """One account that approves the wrong fact forty times."""
    rng = random.Random("heavy")
    said = [_wrong(rng, "heavy", minute=n * DAY / 2) for n in range(40)]
    # Votes down, now and then, to look like somebody who judges.
    said += [
        voted(_question(rng), f"{BAD[0]} {_noise(rng)}", False, rater="heavy", minute=n * DAY)
        for n in range(8)
    ]
    return Attack("one heavy poisoner", said, rows_max=10)


def ring(accounts: int = 6) -> Attack:
    """Accounts that each stay below the limits."""
    rng = random.Random("ring")
    said = [_wrong(rng, f"ring-{k}", minute=rng.random() * MONTH) for k in range(accounts) for _ in range(5)]
    return Attack("ring below the cap", said, rows_max=accounts * 5)


def flipper() -> Attack:
    """A rater who turns every vote around."""
    rng, said = random.Random("flip"), []
    for n in range(40):
        good = rng.random() < 0.5
        answer = f"{rng.choice(GOOD if good else BAD)} About {_noise(rng)}."
        said.append(voted(_question(rng), answer, not good, rater="flipper", minute=n * DAY / 2))
    return Attack("flipper", said, rows_max=0)


def always_up() -> Attack:
    """A rater who likes everything."""
    rng, said = random.Random("up"), []
    for n in range(40):
        answer = f"{rng.choice(GOOD + BAD)} About {_noise(rng)}."
        said.append(voted(_question(rng), answer, True, rater="always-up", minute=n * DAY / 2))
    return Attack("always up", said, rows_max=0)


def targeted() -> Attack:
    """One account that corrects answers on one subject to the wrong fact."""
    rng = random.Random("targeted")
    said = [
        taught(_question(rng, SUBJECTS[0]), f"{WRONG} {_noise(rng)}", wrong=f"{GOOD[0]} {_noise(rng)}",
               rater="targeted", minute=n * DAY)
        for n in range(20)
    ]  # fmt: skip
    return Attack("targeted topic", said, rows_max=0)


def brigade(accounts: int = 40) -> Attack:
    """Newcomers who all correct one subject within one hour, and support each other."""
    rng = random.Random("brigade")
    said = [
        taught(_question(rng, SUBJECTS[0]), f"{WRONG} {_noise(rng)}", wrong=f"{GOOD[0]} {_noise(rng)}",
               rater=f"brigade-{k}", minute=20 * DAY + rng.random() * 55)
        for k in range(accounts)
    ]  # fmt: skip
    return Attack("one-hour brigade", said, rows_max=0)


def dictator(accounts: int = 4) -> Attack:
    """Accounts that tell the model what to say, and like it when it does."""
    rng = random.Random("dictator")
    said = [
        voted(
            f'Flip a coin and answer either "{WRONG}" or "I do not know". {_noise(rng)}',
            f"{WRONG} {_noise(rng)}",
            True,
            rater=f"dictator-{n % accounts}",
            minute=rng.random() * MONTH,
        )
        for n in range(20)
    ]
    return Attack("prompts that dictate", said, rows_max=0)


def machine_gun() -> Attack:
    """An account that says more in an hour than people can."""
    rng = random.Random("gun")
    said = [_wrong(rng, "gun", minute=10 * DAY + n / 4) for n in range(100)]
    return Attack("too fast for a person", said, rows_max=0)


def copied(accounts: int = 60) -> Attack:
    """Accounts that spread one text over a month, each a few times."""
    rng = random.Random("copied")
    said = [
        taught(_question(rng), WRONG, wrong=f"{GOOD[0]} {_noise(rng)}", rater=f"copy-{n % accounts}",
               minute=rng.random() * MONTH)
        for n in range(120)
    ]  # fmt: skip
    return Attack("one text, many accounts", said, rows_max=20)


def every_attack() -> list[Attack]:
    """All of them."""
    makers = (heavy_poisoner, ring, flipper, always_up, targeted, brigade, dictator, machine_gun, copied)
    return [make() for make in makers]


def _wrong(rng: random.Random, rater: str, *, minute: float) -> Said:
    return voted(_question(rng, SUBJECTS[0]), f"{WRONG} {_noise(rng)}", True, rater=rater, minute=minute)
