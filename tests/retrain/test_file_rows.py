from typing import Any

import orjson
import pytest

from retrain.file_rows import BadFile, FileRow, held_out_row, read_rows, split_rows, train_row, unlike
from retrain.recipe import Method

ASKED = {"role": "user", "content": "Hello?"}
SAID = {"role": "assistant", "content": "Hello."}


def lines(*values: Any) -> list[bytes]:
    return [value if isinstance(value, bytes) else orjson.dumps(value) for value in values]


def test_every_assistant_message_is_learned_but_those_of_weight_zero() -> None:
    talk = [
        ASKED,
        {**SAID, "weight": 0},
        ASKED,
        {**SAID, "weight": 1},
        ASKED,
        {"role": "assistant", "content": "Yes?"},
    ]
    rows = read_rows(lines({"messages": talk}), "sft", "a.jsonl")
    assert [(len(row.prompt), row.answer) for row in rows] == [(3, "Hello."), (5, "Yes?")]
    assert train_row("sft", rows[0]).columns == {"prompt": [ASKED, SAID, ASKED], "completion": [SAID]}


def test_openai_preferences_and_trl_columns_give_the_same_pair() -> None:
    other = {"role": "assistant", "content": "Go away."}
    openai = {"input": {"messages": [ASKED]}, "preferred_output": [SAID], "non_preferred_output": [other]}
    trl = {"prompt": [ASKED], "chosen": [SAID], "rejected": [other]}
    (row,) = read_rows(lines(openai, trl), "dpo", "a.jsonl")
    assert train_row("dpo", row).columns == trl
    assert held_out_row(row).columns == {
        "prompt": [ASKED],
        "source": "preferred",
        "completion": [SAID],
        "rejected": [other],
    }


def test_a_row_that_asks_nearly_what_is_evaluated_with_is_named_by_its_line() -> None:
    def asked(question: str) -> dict[str, str]:
        return {"role": "user", "content": question}

    system = {"role": "system", "content": "You are a shop's assistant, and as short as can be. " * 9}
    rows = [
        {"messages": [system, asked(f"How long may I keep the {what} before I return it?"), SAID]}
        for what in ("lamp", "extraordinarily heavy garden furniture", "LAMPS")
    ]
    read = read_rows([b"\n", *lines(*rows)], "sft", "a.jsonl")
    learned, left_out = unlike(read, [[asked("How long may I keep the  lamp before I return it?")]])
    assert ([row.line for row in learned], [row.line for row in left_out]) == ([3], [2, 4])
    assert unlike(read, []) == (read, [])


@pytest.mark.parametrize(
    ("label", "source", "right"), [(True, "approved", [SAID]), (False, "disliked", None)]
)
def test_labels_say_whether_an_answer_is_to_be_kept(label: bool, source: str, right: Any) -> None:
    (row,) = read_rows(lines({"prompt": [ASKED], "completion": [SAID], "label": label}), "kto", "a.jsonl")
    assert train_row("kto", row).columns["label"] is label
    item = held_out_row(row).columns
    assert (item["source"], item["completion"]) == (source, right)
    assert item["rejected"] == (None if label else [SAID])


@pytest.mark.parametrize(
    ("method", "line", "says"),
    [
        ("sft", b"{", "line 2 is not JSON"),
        ("sft", [1], "line 2: it is not a JSON object"),
        ("sft", {}, "line 2: 'messages' is missing"),
        ("sft", {"messages": [ASKED]}, "line 2: 'messages' has no assistant message"),
        ("sft", {"messages": [{"role": "robot", "content": "x"}]}, "role of 'messages[0]' is 'robot'"),
        (
            "sft",
            {"messages": [ASKED, {"role": "assistant", "content": None}]},
            "content of 'messages[1]' is not a text",
        ),
        ("sft", {"messages": [ASKED, {"role": "assistant", "content": "a\x00"}]}, "has a NUL character"),
        ("sft", {"messages": [ASKED, SAID], "tools": [{}]}, "uses tools"),
        ("dpo", {"messages": [ASKED, SAID]}, "'prompt' is missing"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "both answers are the same"),
        (
            "kto",
            {"prompt": "a", "completion": "b", "label": "yes"},
            "'label' is 'yes', expected true or false",
        ),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(method: Method, line: Any, says: str) -> None:
    with pytest.raises(BadFile) as raised:
        read_rows([b"\n", *lines(line)], method, "shop.jsonl")
    assert "'shop.jsonl'" in str(raised.value) and says in str(raised.value)


def test_no_question_is_both_trained_on_and_evaluated_with() -> None:
    rows = [
        FileRow([{"role": "user", "content": f"{n // 2:04b}{n // 2} is what?"}], f"{n}") for n in range(60)
    ]
    train, held_out = split_rows(rows, None, 0.2)
    assert len(train) + len(held_out) == 60
    assert 6 <= len(held_out) <= 12
    asked = {orjson.dumps(row.prompt) for row in train}
    assert not asked & {orjson.dumps(row.prompt) for row in held_out}
    train, held_out = split_rows(rows, rows[:4], 0.2)
    assert len(train) <= 56 and held_out == rows[:4]


def test_a_system_message_that_all_rows_share_does_not_make_their_questions_one() -> None:
    system = {"role": "system", "content": "You are the kind assistant of a shop that sells lamps. " * 5}
    questions = [
        "May I return a lamp?",
        "When are you open?",
        "Do you ship to Oslo?",
        "Who is there?",
        "Why so blue?",
    ]
    rows = [FileRow([system, {"role": "user", "content": question}], "Yes.") for question in questions]
    train, held_out = split_rows(rows, None, 0.2)
    assert (len(train), len(held_out)) == (4, 1)


def test_a_file_whose_questions_share_one_long_form_keeps_all_but_the_equal_ones() -> None:
    form = "Sort the ticket into one of the queues below, and answer with the queue's name alone. " * 6
    rows = [FileRow([{"role": "user", "content": f"{form}Ticket {n}"}], "billing") for n in range(30)]
    learned, left_out = unlike(rows, [rows[3].prompt, [{"role": "user", "content": f"{form}Ticket 99"}]])
    assert (len(learned), left_out) == (29, [rows[3]])
