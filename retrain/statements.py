"""What people hold of which answers, settled. Pure: equal input, equal statements.

- Votes on the same answer to the same question are counted by rater; the majority decides, and a tie is
  left out.
- A demonstration supersedes older demonstrations, and answers approved before it, to the same question. An
  answer that was corrected somewhere is no longer approved for the times it was given before, whatever the
  question.
- Nobody contributes more than `rows_per_rater_max` statements.

Only completions whose `store` consent was given are used. Comments are never trained on. What is left out is
counted under its reason.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from feedback.policy import TrainingPolicy
from retrain.prompts import Prompt, Unusable, normalised, prompt_key, prompt_of
from retrain.rated import Opinion, Rated

Source = Literal["demonstration", "preferred", "approved", "disliked"]

CORRECTED_WORDS_MIN = 4
"""Shorter answers, such as "Yes, of course.", are right for one question and wrong for another."""
EDIT_SHARE = (0.05, 0.8)
"""A correction makes a pair if it changed 5% to 80% of the answer: less is a typo, more another answer."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One answer to one question, and what people hold of it."""

    source: Source
    prompt: Prompt
    answer: str
    rater: str
    at: datetime
    completion_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]
    rejected: str | None = None
    """The worse answer that this one was put in place of, or preferred to."""


@dataclass(frozen=True, slots=True)
class Material:
    """All that may be trained on, before a method is chosen."""

    demonstrations: tuple[Statement, ...] = ()
    approved: tuple[Statement, ...] = ()
    disliked: tuple[Statement, ...] = ()
    pairs: tuple[Statement, ...] = ()
    raters: int = 0
    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def ratings(self) -> int:
        """Rows that KTO would have."""
        return len(self.demonstrations) + len(self.approved) + len(self.disliked)


@dataclass(slots=True)
class _Voice:
    """The newest word of one rater on one answer."""

    source: Source
    opinion: Opinion
    completion_id: str
    rejected: str | None = None


def gather(rated: Sequence[Rated], policy: TrainingPolicy) -> Material:
    """Turn what the record knows into statements that do not contradict each other."""
    excluded: Counter[str] = Counter()
    usable = _usable(rated, excluded)
    voices = _voices(usable.values(), excluded)
    statements = _settled(voices, excluded)
    statements = _current(statements, excluded)
    statements = _capped(statements, policy.rows_per_rater_max, excluded)
    pairs = [*_corrections(statements, excluded), *_preferences(usable, excluded)]
    pairs = _capped(pairs, policy.rows_per_rater_max, excluded)
    return Material(
        demonstrations=tuple(s for s in statements if s.source == "demonstration"),
        approved=tuple(s for s in statements if s.source == "approved"),
        disliked=tuple(s for s in statements if s.source == "disliked"),
        pairs=tuple(pairs),
        raters=len({statement.rater for statement in [*statements, *pairs]}),
        excluded={reason: number for reason, number in excluded.items() if number},
    )


def one_format(material: Material) -> Material:
    """Keep conversations or plain text prompts, whichever are more: one dataset cannot hold both."""
    every = [*material.demonstrations, *material.approved, *material.disliked, *material.pairs]
    chats = sum(not isinstance(statement.prompt, str) for statement in every)
    keep_chats = chats * 2 >= len(every)
    dropped = len(every) - chats if keep_chats else chats
    if not dropped:
        return material

    def kept(statements: Sequence[Statement]) -> tuple[Statement, ...]:
        return tuple(s for s in statements if isinstance(s.prompt, str) != keep_chats)

    return replace(
        material,
        demonstrations=kept(material.demonstrations),
        approved=kept(material.approved),
        disliked=kept(material.disliked),
        pairs=kept(material.pairs),
        excluded=material.excluded | {"other kind of prompt than most": dropped},
    )


def _usable(rated: Iterable[Rated], excluded: Counter[str]) -> dict[str, tuple[Rated, Prompt]]:
    usable = {}
    for completion in rated:
        try:
            usable[completion.completion_id] = (completion, _checked_prompt(completion))
        except Unusable as reason:
            excluded[f"completion {reason}"] += max(1, len(completion.opinions))
    return usable


def _checked_prompt(completion: Rated) -> Prompt:
    if not completion.consent:
        raise Unusable("has no consent to training")
    if completion.request is None:
        raise Unusable("has no text any more")
    if completion.status != "ok":
        raise Unusable("did not end well")
    if completion.has_tool_calls:
        raise Unusable("uses tools")
    if completion.withdrawn:
        raise Unusable("came from a version that was taken back")
    if not completion.answer.strip():
        raise Unusable("is empty")
    return prompt_of(completion.endpoint, completion.request)


Key = tuple[str, str]


def _voices(
    usable: Iterable[tuple[Rated, Prompt]], excluded: Counter[str]
) -> dict[Key, tuple[Prompt, str, dict[str, _Voice]]]:
    """By question and answer: the newest word of each rater."""
    voices: dict[Key, tuple[Prompt, str, dict[str, _Voice]]] = {}

    def add(prompt: Prompt, answer: str, voice: _Voice) -> None:
        _, _, said = voices.setdefault((prompt_key(prompt), normalised(answer)), (prompt, answer, {}))
        before = said.get(voice.opinion.rater)
        if before is None or before.opinion.created_at <= voice.opinion.created_at:
            said[voice.opinion.rater] = voice

    for completion, prompt in usable:
        for opinion in completion.opinions:
            if opinion.kind == "rating":
                source = _vote(opinion)
                if source is None:
                    excluded["rating is not up or down"] += 1
                elif source == "approved" and completion.finish_reason == "length":
                    excluded["approved answer was cut off"] += 1
                else:
                    add(prompt, completion.answer, _Voice(source, opinion, completion.completion_id))
            elif opinion.kind == "demonstration":
                answer = _demonstrated(opinion.value)
                if normalised(answer) == normalised(completion.answer):
                    add(prompt, completion.answer, _Voice("approved", opinion, completion.completion_id))
                    continue
                better = _Voice("demonstration", opinion, completion.completion_id, completion.answer)
                add(prompt, answer, better)
                add(prompt, completion.answer, _Voice("disliked", opinion, completion.completion_id))
    return voices


def _vote(opinion: Opinion) -> Source | None:
    if opinion.name != "thumbs" or opinion.value not in (True, False, -1):
        return None
    return "approved" if opinion.value == 1 else "disliked"


def _demonstrated(value: Any) -> str:
    return value if isinstance(value, str) else str(value[-1]["content"])


def _settled(
    voices: dict[Key, tuple[Prompt, str, dict[str, _Voice]]], excluded: Counter[str]
) -> list[Statement]:
    """One statement for each question and answer: what most raters hold of it."""
    statements = []
    for prompt, answer, said in voices.values():
        against = [voice for voice in said.values() if voice.source == "disliked"]
        supporting = [voice for voice in said.values() if voice.source != "disliked"]
        if len(against) == len(supporting):
            excluded["raters disagree"] += len(said)
            continue
        winners = sorted(
            against if len(against) > len(supporting) else supporting,
            key=lambda v: (v.opinion.created_at, v.opinion.feedback_id),
        )
        demonstration = next((voice for voice in winners if voice.source == "demonstration"), None)
        first = demonstration or winners[0]
        statements.append(
            Statement(
                source=first.source,
                prompt=prompt,
                answer=answer,
                rater=first.opinion.rater,
                at=winners[-1].opinion.created_at,
                completion_ids=tuple(sorted({voice.completion_id for voice in winners})),
                feedback_ids=tuple(sorted({voice.opinion.feedback_id for voice in winners})),
                rejected=first.rejected,
            )
        )
        excluded["same answer to the same question, counted once"] += len(said) - 1
    return statements


def _current(statements: list[Statement], excluded: Counter[str]) -> list[Statement]:
    """Without what a newer demonstration supersedes."""
    newest: dict[str, Statement] = {}
    corrected: dict[str, datetime] = {}
    for statement in (s for s in statements if s.source == "demonstration"):
        key = prompt_key(statement.prompt)
        if key not in newest or newest[key].at < statement.at:
            newest[key] = statement
        wrong = normalised(statement.rejected or "")
        if len(wrong.split()) >= CORRECTED_WORDS_MIN:
            corrected[wrong] = max(statement.at, corrected.get(wrong, statement.at))
    kept = []
    for statement in statements:
        teacher = newest.get(prompt_key(statement.prompt))
        if statement.source != "disliked" and teacher not in (None, statement) and statement.at <= teacher.at:
            excluded["superseded by a demonstration"] += 1
        elif statement.source == "approved" and statement.at <= corrected.get(
            normalised(statement.answer), datetime.min.replace(tzinfo=statement.at.tzinfo)
        ):
            excluded["approved answer was corrected elsewhere"] += 1
        else:
            kept.append(statement)
    return kept


def _capped(statements: list[Statement], rows_max: int, excluded: Counter[str]) -> list[Statement]:
    """At most `rows_max` statements of each rater: demonstrations first, then the newest."""
    by_rater: dict[str, list[Statement]] = defaultdict(list)
    for statement in statements:
        by_rater[statement.rater].append(statement)
    kept = []
    for said in by_rater.values():
        said.sort(
            key=lambda s: (s.source == "demonstration", s.at, s.feedback_ids, s.completion_ids), reverse=True
        )
        kept += said[:rows_max]
        excluded["over the limit of rows of one rater"] += len(said[rows_max:])
    return kept


def _corrections(statements: list[Statement], excluded: Counter[str]) -> Iterable[Statement]:
    """Pairs (right answer over the one it was written in place of)."""
    for statement in statements:
        if statement.source != "demonstration" or statement.rejected is None:
            continue
        changed = (
            1
            - difflib.SequenceMatcher(
                None, statement.answer.split(), statement.rejected.split(), autojunk=False
            ).ratio()
        )
        if EDIT_SHARE[0] <= changed <= EDIT_SHARE[1]:
            yield statement
        else:
            excluded["correction is too small or too large to be a pair"] += 1


def _preferences(usable: dict[str, tuple[Rated, Prompt]], excluded: Counter[str]) -> Iterable[Statement]:
    """Pairs (the completion that the preference's value names over the one it was given on)."""
    for worse, prompt in usable.values():
        for opinion in (o for o in worse.opinions if o.kind == "preference"):
            better, its_prompt = usable.get(str(opinion.value), (None, None))
            if better is None or its_prompt is None:
                excluded["preference for a completion that is not there or not usable"] += 1
            elif prompt_key(prompt) != prompt_key(its_prompt):
                excluded["preference between answers to different questions"] += 1
            elif normalised(better.answer) == normalised(worse.answer):
                excluded["preference between equal answers"] += 1
            elif better.finish_reason == "length":
                excluded["preferred answer was cut off"] += 1
            else:
                yield Statement(
                    source="preferred",
                    prompt=prompt,
                    answer=better.answer,
                    rater=opinion.rater,
                    at=opinion.created_at,
                    completion_ids=(better.completion_id, worse.completion_id),
                    feedback_ids=(opinion.feedback_id,),
                    rejected=worse.answer,
                )
