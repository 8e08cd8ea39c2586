"""One submission, looked at alone: the ballots it casts on answers, or why it casts none. Pure.

A ballot says that a rater holds an answer to a question for right, wrong, or better than another. It holds keys and
facts, and no text: what decides between ballots (`rules`) needs none, and a million of them fit in a temporary table.

- A rating is for or against the answer. A demonstration is for what it says, and against what it replaces; one that
  repeats the answer is for it.
- Only completions with consent, as text conversations or plain text, that ended well and still have their text.
- Comments and signals are never trained on.
"""

import difflib
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from feedback.metrics import FeedbackPolicy
from retrain.defences import claim_keys, dictates, facts, key_of, new_facts
from retrain.language import language_of
from retrain.opinions import Answered, Opinion
from retrain.prompts import Prompt, Unusable, normalised, prompt_of, prompt_text

Source = Literal["demonstration", "preferred", "approved", "disliked"]
Question = tuple[Prompt, str, str]
"""A prompt; it as one normalised text; what was asked last."""

CORRECTED_WORDS_MIN = 4
"""Shorter answers, such as "Yes, of course.", are right for one question and wrong for another."""
EDIT_SHARE = (0.05, 0.8)
"""A correction makes a pair if it changed 5% to 80% of the answer: less is a typo, more another answer."""
DICTATED = "its prompt dictates the answer"


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one submission says of one answer; the columns of the temporary table."""

    completion_id: str
    feedback_id: str | None
    review_id: str | None
    rater: str
    at: datetime
    source: str | None
    reason: str | None
    """Why it does not count; None while it does."""
    reviewed: bool = False
    """Let in by a reviewer: rules about raters and facts do not apply."""
    implied: bool = False
    """Follows from another ballot of the same submission."""
    session: str | None = None
    version: int | None = None
    chat: bool = True
    prompt_key: int | None = None
    answer_key: int | None = None
    rejected_key: int | None = None
    other_id: str | None = None
    """The completion that a preference is for."""
    pair: bool = False
    """Whether it makes a pair (better, worse)."""
    corrected: bool = False
    """Whether the answer it replaces is long enough to be wrong elsewhere too."""
    claims: list[int] | None = None
    """Keys of the facts in the answer."""
    fresh: list[int] | None = None
    """Keys of those that neither question nor earlier answer had."""
    language: str | None = None
    characters: int | None = None
    topic: int | None = None
    features: bytes | None = None
    """What a vote's answer looks like to `defences.Predictor`."""


COLUMNS = tuple(field.name for field in fields(Ballot))


@dataclass(frozen=True, slots=True)
class Cast:
    """Ballots of one submission, and the texts that sketches and topics are made of."""

    ballots: tuple[Ballot, ...]
    question: Question | None = None
    answer: str = ""
    """The normalised answer that was voted on."""


def cast(opinion: Opinion, *, guarded: bool, votes: FeedbackPolicy) -> Cast:
    """The ballots of a submission; `votes` says which metrics count, and as what."""
    try:
        question = question_of(opinion.about)
        if opinion.review == "excluded":
            raise Unusable("a reviewer left it out")
        if opinion.review == "corrected" and opinion.review_id is None:
            raise Unusable("a reviewer corrected it")
        if guarded and opinion.review is None and dictates(question[2]):
            raise Unusable(DICTATED)
        return _cast(opinion, question, votes)
    except Unusable as reason:
        return Cast((_ballot(opinion, None, reason=str(reason)),))


def question_of(completion: Answered) -> Question:
    """The question that a completion answered.

    Raises:
        Unusable: it may not or cannot be trained on.
    """
    if not completion.consent:
        raise Unusable("completion has no consent to training")
    if completion.request is None:
        raise Unusable("completion has no text any more")
    if completion.status != "ok":
        raise Unusable("completion did not end well")
    if completion.has_tool_calls:
        raise Unusable("completion uses tools")
    if completion.withdrawn:
        raise Unusable("completion came from a version that was taken back")
    if not completion.answer.strip():
        raise Unusable("completion is empty")
    try:
        prompt = prompt_of(completion.endpoint, completion.request)
    except Unusable as reason:
        raise Unusable(f"completion {reason}") from None
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return prompt, prompt_text(prompt), asked


def demonstrated(value: Any) -> str:
    """The text of a demonstration: a string, or messages whose last is the answer."""
    return value if isinstance(value, str) else str(value[-1]["content"])


def _cast(opinion: Opinion, question: Question, votes: FeedbackPolicy) -> Cast:
    said = normalised(opinion.about.answer)
    if opinion.kind == "preference":
        return Cast((_preference(opinion, question),), question, said)
    if opinion.kind == "demonstration" and normalised(demonstrated(opinion.value)) != said:
        return Cast(_correction(opinion, question), question, said)
    up = opinion.kind == "demonstration" or _is_up(opinion, votes)
    if up and opinion.about.finish_reason == "length":
        raise Unusable("approved answer was cut off")
    ballot = _ballot(opinion, question, source="approved" if up else "disliked", answer=opinion.about.answer)
    return Cast((ballot,), question, said)


def _is_up(opinion: Opinion, votes: FeedbackPolicy) -> bool:
    if opinion.name not in votes.votes:
        raise Unusable("rating is of a metric that does not count as a vote")
    up = votes.vote(opinion.name, opinion.value)
    if up is None:
        raise Unusable("rating is neither up nor down")
    return up


def _correction(opinion: Opinion, question: Question) -> tuple[Ballot, Ballot]:
    right, wrong = demonstrated(opinion.value), opinion.about.answer
    if not right.strip():
        raise Unusable("correction is empty")
    better = _ballot(
        opinion,
        question,
        source="demonstration",
        answer=right,
        rejected=wrong,
        pair=_edited(wrong, right),
        corrected=len(normalised(wrong).split()) >= CORRECTED_WORDS_MIN,
        fresh=claim_keys(new_facts(right, question[1], wrong)) or None,
    )
    return better, _ballot(opinion, question, source="disliked", answer=wrong, implied=True)


def _edited(wrong: str, right: str) -> bool:
    matcher = difflib.SequenceMatcher(None, right.split(), wrong.split(), autojunk=False)
    return EDIT_SHARE[0] <= 1 - matcher.ratio() <= EDIT_SHARE[1]


def _preference(opinion: Opinion, question: Question) -> Ballot:
    better, worse = opinion.preferred, opinion.about
    if better is None:
        raise Unusable("preference for a completion that is not there or not usable")
    try:
        its_question = question_of(better)
    except Unusable as reason:
        raise Unusable("preference for a completion that is not there or not usable") from reason
    if its_question[1] != question[1]:
        raise Unusable("preference between answers to different questions")
    if normalised(better.answer) == normalised(worse.answer):
        raise Unusable("preference between equal answers")
    if better.finish_reason == "length":
        raise Unusable("preferred answer was cut off")
    return _ballot(
        opinion,
        question,
        source="preferred",
        answer=better.answer,
        rejected=worse.answer,
        other_id=better.completion_id,
        pair=True,
    )


def _ballot(
    opinion: Opinion,
    question: Question | None,
    *,
    source: Source | None = None,
    reason: str | None = None,
    answer: str | None = None,
    rejected: str | None = None,
    **more: Any,
) -> Ballot:
    about = opinion.about
    return Ballot(
        completion_id=about.completion_id,
        feedback_id=opinion.feedback_id,
        review_id=opinion.review_id,
        rater=opinion.rater,
        at=opinion.created_at,
        source=source,
        reason=reason,
        reviewed=opinion.review == "included",
        session=about.session,
        version=about.version,
        chat=question is None or not isinstance(question[0], str),
        prompt_key=None if question is None else key_of(question[1]),
        answer_key=None if answer is None else key_of(normalised(answer)),
        rejected_key=None if rejected is None else key_of(normalised(rejected)),
        claims=None if answer is None or source == "disliked" else claim_keys(facts(answer)) or None,
        language=None if question is None else language_of(question[2]),
        characters=None if answer is None else len(answer),
        **more,
    )
