"""Which method the data allows, in words and numbers. Pure.

Demonstrations teach a changed answer directly, so enough of them mean SFT. Without them, pairs mean DPO,
then ratings KTO, then approved answers SFT: KTO was measured to be unstable on few ratings. Too little,
one-sided, one person's or unconsented data is refused, and the sentences say what is missing.
"""

from dataclasses import dataclass
from typing import Any

from feedback.policy import TrainingPolicy
from retrain.recipe import METHODS, Method
from retrain.statements import Material


@dataclass(frozen=True, slots=True)
class Choice:
    """The method, or None when none is possible, and a sentence about each."""

    method: Method | None
    sentences: tuple[str, ...]
    possible: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        """As stored with the dataset and shown by `hone retrain plan`."""
        return {"method": self.method, "sentences": list(self.sentences), "possible": self.possible}


def choose(material: Material, policy: TrainingPolicy, wanted: str | None = None) -> Choice:
    """Decide by the data; `wanted` (or the policy) may fix the method, not make it possible."""
    wanted = wanted or policy.method
    sft, sft_says = _sft(material, policy)
    dpo, dpo_says = _dpo(material, policy)
    kto, kto_says = _kto(material, policy)
    people, people_says = _people(material, policy)
    possible = {"sft": sft and people, "dpo": dpo and people, "kto": kto and people}
    taught = len(material.demonstrations) >= policy.sft_rows_min
    order: list[Method] = ["sft", "dpo", "kto"] if taught else ["dpo", "kto", "sft"]
    if wanted != "auto":
        order = [method for method in METHODS if method == wanted]
    method = next((name for name in order if possible[name]), None)
    sentences = [kto_says, dpo_says, sft_says, people_says, *_left_out(material)]
    return Choice(method, (*sentences, _verdict(method, wanted)), possible)


def _sft(material: Material, policy: TrainingPolicy) -> tuple[bool, str]:
    taught, liked = len(material.demonstrations), len(material.approved)
    enough = taught + liked >= policy.sft_rows_min
    detail = f" ({taught} demonstrations, {liked} approved)"
    return enough, _sentence(
        "SFT", taught + liked, policy.sft_rows_min, "demonstrations or approved answers", enough, detail
    )


def _dpo(material: Material, policy: TrainingPolicy) -> tuple[bool, str]:
    enough = len(material.pairs) >= policy.dpo_pairs_min
    return enough, _sentence("DPO", len(material.pairs), policy.dpo_pairs_min, "pairs", enough)


def _kto(material: Material, policy: TrainingPolicy) -> tuple[bool, str]:
    ratings = material.ratings
    enough = ratings >= policy.kto_ratings_min
    up = (ratings - len(material.disliked)) / ratings if ratings else 0.0
    balanced = min(up, 1 - up) >= policy.minority_share_min
    detail = f", {up:.0%} up" if ratings else ""
    if enough and not balanced:
        detail += f": one-sided, the rarer vote needs {policy.minority_share_min:.0%}"
    return enough and balanced, _sentence(
        "KTO", ratings, policy.kto_ratings_min, "ratings", enough, detail, needed=True
    )


def _people(material: Material, policy: TrainingPolicy) -> tuple[bool, str]:
    enough = material.raters >= policy.raters_min
    return enough, _sentence("People", material.raters, policy.raters_min, "raters", enough)


def _left_out(material: Material) -> list[str]:
    counted = sorted(((n, reason) for reason, n in material.excluded.items() if n), reverse=True)
    if not counted:
        return []
    return ["Left out: " + "; ".join(f"{n} ({reason})" for n, reason in counted) + "."]


def _verdict(method: Method | None, wanted: str) -> str:
    if method is not None:
        return f"Method: {method.upper()}" + ("." if wanted == "auto" else ", as asked for.")
    if wanted != "auto":
        return f"Not possible: {wanted.upper()} was asked for, and the data does not allow it."
    return "Not possible: the data allows no method yet."


def _sentence(
    what: str, have: int, need: int, things: str, enough: bool, detail: str = "", *, needed: bool = False
) -> str:
    ending = "" if enough else ", not enough"
    return f"{what}: {have} of {need} {things}{' needed' if needed else ''}{detail}{ending}."
