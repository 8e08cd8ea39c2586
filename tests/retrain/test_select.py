from feedback.policy import TrainingPolicy
from retrain.select import choose
from retrain.statements import Material, Source, Statement
from tests.retrain.rated_builders import START

POLICY = TrainingPolicy()


def statements(source: Source, number: int) -> tuple[Statement, ...]:
    return tuple(
        Statement(
            source, f"question {n}", f"answer {n}", f"rater-{n % 9}", START, (f"c{n}",), (f"f{n}",), "worse"
        )
        for n in range(number)
    )


def material(
    demonstrations: int = 0, approved: int = 0, disliked: int = 0, pairs: int = 0, raters: int = 9
) -> Material:
    return Material(
        demonstrations=statements("demonstration", demonstrations),
        approved=statements("approved", approved),
        disliked=statements("disliked", disliked),
        pairs=statements("preferred", pairs),
        raters=raters,
    )


def test_enough_demonstrations_mean_sft() -> None:
    assert choose(material(demonstrations=60, approved=200, disliked=200, pairs=200), POLICY).method == "sft"


def test_without_demonstrations_pairs_mean_dpo_then_ratings_kto_then_approval_sft() -> None:
    assert choose(material(approved=200, disliked=200, pairs=100), POLICY).method == "dpo"
    assert choose(material(approved=200, disliked=200, pairs=99), POLICY).method == "kto"
    assert choose(material(approved=200, disliked=50), POLICY).method == "sft"


def test_the_plan_says_in_words_and_numbers_what_the_data_allows() -> None:
    choice = choose(material(approved=251, disliked=161, pairs=18), POLICY)
    assert "KTO: 412 of 300 ratings needed, 61% up." in choice.sentences
    assert "DPO: 18 of 100 pairs, not enough." in choice.sentences
    assert any(
        sentence.startswith("SFT: 251 of 50 demonstrations or approved answers")
        for sentence in choice.sentences
    )
    assert choice.sentences[-1] == "Method: KTO."


def test_one_sided_ratings_do_not_allow_kto() -> None:
    choice = choose(material(approved=390, disliked=10), POLICY, "kto")
    assert choice.method is None
    assert "one-sided" in choice.sentences[0]
    assert "KTO was asked for, and the data does not allow it" in choice.sentences[-1]


def test_data_of_too_few_people_is_refused_whatever_its_size() -> None:
    choice = choose(material(demonstrations=500, raters=1), POLICY)
    assert choice.method is None
    assert "People: 1 of 5 raters, not enough." in choice.sentences


def test_too_little_data_is_refused() -> None:
    choice = choose(material(demonstrations=10, approved=10), POLICY)
    assert choice.method is None
    assert not any(choice.possible.values())


def test_the_policy_can_fix_the_method() -> None:
    policy = TrainingPolicy(method="kto")
    assert choose(material(demonstrations=200, disliked=200), policy).method == "kto"
    assert choose(material(demonstrations=200, disliked=200), policy, "sft").method == "sft"
