"""Which method the data allows, or which two in sequence, in words and numbers. Pure.

Demonstrations teach a changed answer directly, so enough of them mean SFT; with enough preferences besides, which say
what no demonstration does, SFT and then DPO. Without demonstrations, pairs mean DPO, then ratings KTO, then approved
answers SFT: KTO was measured to be unstable on few ratings. SFT and then KTO is taken only when asked for. Too little,
one-sided, one person's or unconsented data is refused, and the sentences say what is missing.
"""

from dataclasses import dataclass
from typing import Any

from feedback.policy import TrainingPolicy
from feedback.tables import SEQUENCES
from retrain.selection import Available

UNCONSENTED = "completion has no consent to training"


@dataclass(frozen=True, slots=True)
class Choice:
    """The method, or None when none is possible, and a sentence about each."""

    method: str | None
    """`sft`, `dpo`, `kto`, or two in sequence such as `sft+dpo`."""
    sentences: tuple[str, ...]
    possible: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        """As stored with the dataset and shown by `hone retrain plan`."""
        return {"method": self.method, "sentences": list(self.sentences), "possible": self.possible}


def choose(available: Available, policy: TrainingPolicy, wanted: str | None = None) -> Choice:
    """Decide by the data; `wanted` (or the policy) may fix the method, not make it possible."""
    wanted = wanted or policy.method
    sft, sft_says = _sft(available, policy)
    dpo, dpo_says = _dpo(available, policy)
    kto, kto_says = _kto(available, policy)
    people, people_say = _people(available, policy)
    possible = {"sft": sft and people, "dpo": dpo and people, "kto": kto and people}
    possible |= {name: all(possible[stage] for stage in name.split("+")) for name in SEQUENCES}
    taught = available.demonstrations >= policy.sft_rows_min
    chosen = available.preferences >= policy.dpo_pairs_min
    order = [*(["sft+dpo"] if chosen else []), "sft", "dpo", "kto"] if taught else ["dpo", "kto", "sft"]
    if wanted != "auto":
        order = [method for method in possible if method == wanted]
    method = next((name for name in order if possible[name]), None)
    sentences = [kto_says, dpo_says, sft_says, _in_sequence(available, policy), *people_say]
    sentences += _left_out(available)
    return Choice(method, (*sentences, _verdict(method, wanted, available)), possible)


def _sft(available: Available, policy: TrainingPolicy) -> tuple[bool, str]:
    taught, liked = available.demonstrations, available.approved
    enough = taught + liked >= policy.sft_rows_min
    detail = f" ({taught} demonstrations, {liked} approved)"
    return enough, _sentence(
        "SFT", taught + liked, policy.sft_rows_min, "demonstrations or approved answers", enough, detail
    )


def _dpo(available: Available, policy: TrainingPolicy) -> tuple[bool, str]:
    enough = available.pairs >= policy.dpo_pairs_min
    return enough, _sentence("DPO", available.pairs, policy.dpo_pairs_min, "pairs", enough)


def _kto(available: Available, policy: TrainingPolicy) -> tuple[bool, str]:
    ratings = available.ratings
    enough = ratings >= policy.kto_ratings_min
    up = (ratings - available.disliked) / ratings if ratings else 0.0
    balanced = min(up, 1 - up) >= policy.minority_share_min
    detail = f", {up:.0%} up" if ratings else ""
    if enough and not balanced:
        detail += f": one-sided, the rarer vote needs {policy.minority_share_min:.0%}"
    return enough and balanced, _sentence(
        "KTO", ratings, policy.kto_ratings_min, "ratings", enough, detail, needed=True
    )


def _in_sequence(available: Available, policy: TrainingPolicy) -> str:
    taught, chosen = available.demonstrations, available.preferences
    enough = taught >= policy.sft_rows_min and chosen >= policy.dpo_pairs_min
    return (
        f"SFT, then DPO: {taught} of {policy.sft_rows_min} demonstrations and {chosen} of {policy.dpo_pairs_min} "
        f"preferences{'' if enough else ', not both enough'}."
    )


def _people(available: Available, policy: TrainingPolicy) -> tuple[bool, list[str]]:
    enough = available.raters >= policy.raters_min
    says = [_sentence("People", available.raters, policy.raters_min, "raters", enough)]
    one_persons = available.largest_share > policy.rater_share_max
    if one_persons:
        says.append(
            f"One person's: {available.largest} rows, {available.largest_share:.0%}, are of one rater; at most "
            f"{policy.rater_share_max:.0%} may be."
        )
    return enough and not one_persons, says


def said(methods: str) -> str:
    """The methods of a run in words."""
    return ", then ".join(methods.upper().split("+"))


def _left_out(available: Available) -> list[str]:
    left_out = sorted(((n, reason) for reason, n in (available.excluded or {}).items() if n), reverse=True)
    if not left_out:
        return []
    return ["Left out: " + "; ".join(f"{n} ({reason})" for n, reason in left_out) + "."]


def _verdict(method: str | None, wanted: str, available: Available) -> str:
    if method is not None:
        return f"Method: {said(method)}" + ("." if wanted == "auto" else ", as asked for.")
    unconsented = (available.excluded or {}).get(UNCONSENTED, 0)
    if unconsented and not available.ratings + available.pairs:
        return (
            f"Not possible: all {unconsented} were said of answers without consent to training. Requests give it with "
            '"store": true, or the model\'s policy with consent_default.'
        )
    if wanted != "auto":
        return f"Not possible: {said(wanted)} was asked for, and the data does not allow it."
    return "Not possible: the data allows no method yet."


def _sentence(
    what: str, have: int, need: int, things: str, enough: bool, detail: str = "", *, needed: bool = False
) -> str:
    ending = "" if enough else ", not enough"
    return f"{what}: {have} of {need} {things}{' needed' if needed else ''}{detail}{ending}."
