from feedback.policy import TrainingPolicy
from retrain.select import choose
from retrain.selection import Available

POLICY = TrainingPolicy()


def available(
    demonstrations: int = 0,
    approved: int = 0,
    disliked: int = 0,
    pairs: int = 0,
    raters: int = 9,
    **more: object,
) -> Available:
    return Available(demonstrations, approved, disliked, pairs, raters, **more)  # type: ignore[arg-type]  # mixed types


def test_enough_demonstrations_mean_sft() -> None:
    assert choose(available(demonstrations=60, approved=200, disliked=200, pairs=200), POLICY).method == "sft"


def test_without_demonstrations_pairs_mean_dpo_then_ratings_kto_then_approval_sft() -> None:
    assert choose(available(approved=200, disliked=200, pairs=100), POLICY).method == "dpo"
    assert choose(available(approved=200, disliked=200, pairs=99), POLICY).method == "kto"
    assert choose(available(approved=200, disliked=50), POLICY).method == "sft"


def test_the_plan_says_in_words_and_numbers_what_the_data_allows() -> None:
    choice = choose(available(approved=251, disliked=161, pairs=18), POLICY)
    assert "KTO: 412 of 300 ratings needed, 61% up." in choice.sentences
    assert "DPO: 18 of 100 pairs, not enough." in choice.sentences
    assert any(
        sentence.startswith("SFT: 251 of 50 demonstrations or approved answers")
        for sentence in choice.sentences
    )
    assert choice.sentences[-1] == "Method: KTO."


def test_one_sided_ratings_do_not_allow_kto() -> None:
    choice = choose(available(approved=390, disliked=10), POLICY, "kto")
    assert choice.method is None
    assert "one-sided" in choice.sentences[0]
    assert "KTO was asked for, and the data does not allow it" in choice.sentences[-1]


def test_data_of_too_few_people_is_refused_whatever_its_size() -> None:
    choice = choose(available(demonstrations=500, raters=1), POLICY)
    assert choice.method is None
    assert "People: 1 of 5 raters, not enough." in choice.sentences


def test_data_that_is_mostly_one_persons_is_refused() -> None:
    choice = choose(available(demonstrations=100, raters=20, largest=61, largest_share=0.61), POLICY)
    assert choice.method is None
    assert "One person's: 61 rows, 61%, are of one rater; at most 50% may be." in choice.sentences


def test_data_without_consent_is_refused_with_what_would_give_it() -> None:
    choice = choose(available(excluded={"completion has no consent to training": 40}, raters=0), POLICY)
    assert choice.method is None
    assert "Left out: 40 (completion has no consent to training)." in choice.sentences
    assert choice.sentences[-1].startswith(
        "Not possible: all 40 were said of answers without consent to training."
    )
    assert '"store": true' in choice.sentences[-1]


def test_too_little_data_is_refused() -> None:
    choice = choose(available(demonstrations=10, approved=10), POLICY)
    assert choice.method is None
    assert not any(choice.possible.values())


def test_the_policy_can_fix_the_method() -> None:
    policy = TrainingPolicy(method="kto")
    assert choose(available(demonstrations=200, disliked=200), policy).method == "kto"
    assert choose(available(demonstrations=200, disliked=200), policy, "sft").method == "sft"


def test_demonstrations_and_preferences_mean_sft_and_then_dpo() -> None:
    choice = choose(available(demonstrations=60, pairs=150, preferences=120), POLICY)
    assert choice.method == "sft+dpo"
    assert "SFT, then DPO: 60 of 50 demonstrations and 120 of 100 preferences." in choice.sentences
    assert choice.sentences[-1] == "Method: SFT, then DPO."
    # Pairs that are corrections say what the demonstrations already teach.
    few = choose(available(demonstrations=60, pairs=150, preferences=99), POLICY)
    assert few.method == "sft"
    assert (
        "SFT, then DPO: 60 of 50 demonstrations and 99 of 100 preferences, not both enough." in few.sentences
    )


def test_sft_and_then_kto_is_taken_when_asked_for_and_possible() -> None:
    rated = available(demonstrations=60, approved=200, disliked=100)
    assert choose(rated, POLICY).method == "sft"
    assert choose(rated, TrainingPolicy(method="sft+kto")).method == "sft+kto"
    choice = choose(available(demonstrations=60, approved=20, disliked=20), POLICY, "sft+kto")
    assert choice.method is None
    assert "SFT, then KTO was asked for, and the data does not allow it" in choice.sentences[-1]
