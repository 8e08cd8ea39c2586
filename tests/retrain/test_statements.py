from typing import Any

import pytest

from feedback.policy import TrainingPolicy
from retrain.prompts import group_similar, prompt_key
from retrain.statements import Material, gather, one_format
from tests.retrain.rated_builders import a_rated, an_opinion, taught, voted

POLICY = TrainingPolicy()
LAMP = "How long may I return a lamp?"
OLD = "You may return it within 30 days."
NEW = "You may return it within 14 days."


def answers(material: Material) -> set[tuple[str, str]]:
    statements = [*material.demonstrations, *material.approved, *material.disliked]
    return {(statement.source, statement.answer) for statement in statements}


def test_a_correction_teaches_its_answer_and_marks_the_corrected_one_as_wrong() -> None:
    material = gather([taught(LAMP, NEW, wrong=OLD)], POLICY)
    assert answers(material) == {("demonstration", NEW), ("disliked", OLD)}
    assert [(pair.answer, pair.rejected) for pair in material.pairs] == [(NEW, OLD)]


def test_a_correction_equal_to_the_answer_is_approval() -> None:
    material = gather([taught(LAMP, OLD.upper(), wrong=OLD)], POLICY)
    assert answers(material) == {("approved", OLD)}


def test_votes_on_one_answer_are_counted_by_rater_and_a_tie_is_left_out() -> None:
    votes = [voted(LAMP, OLD, True, rater="ann"), voted(LAMP, OLD, False, rater="bob")]
    tied = gather(votes, POLICY)
    assert answers(tied) == set()
    assert tied.excluded["raters disagree"] == 2
    decided = gather([*votes, voted(LAMP, OLD, False, rater="cyd")], POLICY)
    assert answers(decided) == {("disliked", OLD)}


def test_one_rater_voting_ten_times_is_one_voice_and_the_newest_counts() -> None:
    often = [voted(LAMP, OLD, True, rater="ann", minute=n) for n in range(10)]
    material = gather([*often, voted(LAMP, OLD, False, rater="ann", minute=10)], POLICY)
    assert answers(material) == {("disliked", OLD)}


def test_of_two_demonstrations_for_one_question_the_newer_is_taught() -> None:
    material = gather(
        [
            taught(LAMP, "Within 20 days.", minute=1),
            taught("  how long may i return a LAMP? ", NEW, minute=2),
        ],
        POLICY,
    )
    assert {s.answer for s in material.demonstrations} == {NEW}


@pytest.mark.parametrize(("vote_minute", "kept"), [(1, False), (9, True)])
def test_a_demonstration_supersedes_what_was_approved_before_it_only(vote_minute: int, kept: bool) -> None:
    other = "Any time you like, as long as the lamp is unused."
    material = gather(
        [taught(LAMP, NEW, minute=5), voted(LAMP, other, True, rater="bob", minute=vote_minute)], POLICY
    )
    assert (("approved", other) in answers(material)) is kept


def test_an_answer_corrected_for_one_question_is_no_longer_approved_for_another() -> None:
    kettle = "Can I send the kettle back?"
    material = gather(
        [voted(kettle, OLD, True, rater="bob", minute=1), taught(LAMP, NEW, wrong=OLD, minute=2)], POLICY
    )
    assert ("approved", OLD) not in answers(material)
    assert material.excluded["approved answer was corrected elsewhere"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"consent": False}, "completion has no consent to training"),
        ({"status": "aborted"}, "completion did not end well"),
        ({"answer": " "}, "completion is empty"),
        ({"has_tool_calls": True}, "completion uses tools"),
        ({"withdrawn": True}, "completion came from a version that was taken back"),
        ({"endpoint": "/v1/responses"}, "completion came through /v1/responses"),
        ({"finish_reason": "length"}, "approved answer was cut off"),
        ({"request": {"messages": [], "tools": []}}, "completion has no prompt"),
        (
            {"request": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}},
            "completion is not only text",
        ),
    ],
)
def test_what_must_not_be_trained_on_is_left_out_under_its_reason(
    changes: dict[str, Any], reason: str
) -> None:
    material = gather([a_rated(an_opinion(), **changes)], POLICY)
    assert answers(material) == set()
    assert material.excluded[reason] == 1


@pytest.mark.parametrize("value", [0.7, 3, "great"])
def test_only_thumbs_count_as_votes(value: object) -> None:
    assert answers(gather([a_rated(an_opinion(value=value))], POLICY)) == set()
    assert answers(gather([a_rated(an_opinion(value=True, name="solved"))], POLICY)) == set()


def test_nobody_contributes_more_rows_than_the_policy_allows_and_demonstrations_go_first() -> None:
    policy = TrainingPolicy(rows_per_rater_max=3)
    loud = [
        voted(f"Question number {n}?", f"Answer number {n}.", True, rater="loud", minute=n + 1)
        for n in range(50)
    ]
    loud += [taught("What are your hours?", "Nine to five.", rater="loud")]
    material = gather([*loud, voted(LAMP, OLD, True, rater="ann")], policy)
    assert len([s for s in material.approved if s.rater == "loud"]) == 2
    assert [s.answer for s in material.demonstrations] == ["Nine to five."]
    assert [s.answer for s in material.approved if s.rater == "ann"] == [OLD]


def test_a_preference_makes_a_pair_of_two_answers_to_one_question() -> None:
    better = a_rated(answer="Yes, within 14 days.")
    worse = a_rated(an_opinion("preference", better.completion_id), answer="No.")
    material = gather([worse, better], POLICY)
    assert [(p.source, p.answer, p.rejected) for p in material.pairs] == [
        ("preferred", "Yes, within 14 days.", "No.")
    ]
    assert set(material.pairs[0].completion_ids) == {worse.completion_id, better.completion_id}


def test_a_preference_between_answers_to_different_questions_is_no_pair() -> None:
    other = a_rated(question="Something else?", answer="No.")
    material = gather([other, a_rated(an_opinion("preference", other.completion_id))], POLICY)
    assert not material.pairs
    assert material.excluded["preference between answers to different questions"] == 1


def test_the_order_in_which_the_record_is_read_does_not_matter() -> None:
    rated = [
        voted(f"Question {n}?", f"Answer {n}.", n % 3 > 0, rater=f"r{n % 4}", minute=n) for n in range(20)
    ]
    forwards, backwards = gather(rated, POLICY), gather(rated[::-1], POLICY)
    assert answers(forwards) == answers(backwards)
    assert sorted(s.feedback_ids for s in forwards.approved) == sorted(
        s.feedback_ids for s in backwards.approved
    )


def test_a_dataset_keeps_conversations_or_texts_whichever_are_more() -> None:
    text = a_rated(an_opinion(), endpoint="/v1/completions", request={"prompt": "Once upon a time"})
    material = one_format(gather([text, voted(LAMP, OLD, True), voted("Why?", "So.", True)], POLICY))
    assert len(material.approved) == 2
    assert material.excluded["other kind of prompt than most"] == 1


def test_questions_that_differ_only_in_case_and_spaces_are_one() -> None:
    one = [{"role": "user", "content": "How  long?"}]
    other = [{"role": "user", "content": "how long? "}]
    assert prompt_key(one) == prompt_key(other)


def test_near_duplicates_form_one_group_in_any_order() -> None:
    long = "could you please tell me how long i may still return the reading lamp that i bought here"
    texts = [long, long + "?", "what does shipping cost"]
    groups = group_similar(texts)
    assert groups == group_similar(texts[::-1])
    assert groups[long] == groups[long + "?"] != groups["what does shipping cost"]
