"""From an uploaded JSONL file to rows of one method. Pure, but for reading lines.

- sft: `{"messages": [...]}`; every assistant message is learned, unless its `weight` is 0. Or TRL's own
  `{"prompt", "completion"}`.
- dpo: `{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}`. Or TRL's own
  `{"prompt", "chosen", "rejected"}`.
- kto: `{"prompt": [...], "completion": [...], "label": true}`.

A line that is not of its method's form is named by number, with what is wrong; the first five are told. Tools, images
and answers that are not text are refused: training could not render them as they would be served.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from feedback.datasets import Row
from feedback.errors import HoneError
from retrain.prompts import Prompt, answer_column, answer_text, group_similar, share_of, spoken_text
from retrain.recipe import Method

ROWS_MIN = 10
"""Fewer rows teach nothing; OpenAI's own limit."""
PROBLEMS_SHOWN = 5
NUL = "\x00"
ROLES = ("system", "developer", "user", "assistant")
FORMS: Mapping[Method, str] = {
    "sft": '{"messages": [..., {"role": "assistant", "content": "..."}]}',
    "dpo": '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}',
    "kto": '{"prompt": [...], "completion": [...], "label": true or false}',
}


class BadFile(HoneError):
    """An uploaded file cannot be trained on."""


class _BadLine(ValueError):
    """What is wrong with one line."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One answer, or two, to one prompt."""

    prompt: Prompt
    answer: str
    rejected: str | None = None
    label: bool | None = None
    line: int = field(default=0, compare=False)
    """Where it stands in its file; lines are counted from 1."""


def read_rows(lines: Iterable[bytes], method: Method, filename: str) -> list[FileRow]:
    """Every row of a file, in order, exact repetitions once.

    Raises:
        BadFile: a line is not of the method's form.
    """
    rows: list[FileRow] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows += [replace(row, line=number) for row in _rows_of(orjson.loads(line), method)]
        except orjson.JSONDecodeError as error:
            problems.append(f"line {number} is not JSON ({error})")
        except _BadLine as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        raise BadFile(
            f"'{filename}' cannot be trained on with {method.upper()}: {'; '.join(problems[:PROBLEMS_SHOWN])}{more}. "
            f"Expected on each line: {FORMS[method]}."
        )
    return list({_key(row): row for row in rows}.values())


def unlike(rows: Sequence[FileRow], evaluated: Iterable[Prompt]) -> tuple[list[FileRow], list[FileRow]]:
    """Rows that may be trained on, and those that ask nearly one of the questions that are evaluated with.

    Where hardly anything would be left, because all questions stand in one long form, only equal ones are taken out.
    """
    asked = {spoken_text(prompt) for prompt in evaluated}
    groups = group_similar([*asked, *(spoken_text(row.prompt) for row in rows)])
    taken = {groups[question] for question in asked}
    if sum(groups[spoken_text(row.prompt)] not in taken for row in rows) < ROWS_MIN <= len(rows):
        groups, taken = {spoken_text(row.prompt): spoken_text(row.prompt) for row in rows}, asked
    return (
        [row for row in rows if groups[spoken_text(row.prompt)] not in taken],
        [row for row in rows if groups[spoken_text(row.prompt)] in taken],
    )


def split_rows(
    training: Sequence[FileRow], validation: Sequence[FileRow] | None, held_out_share: float
) -> tuple[list[FileRow], list[FileRow]]:
    """Rows to train on and rows to evaluate with; no question, near-duplicates included, is on both sides.

    Without validation rows about `held_out_share` of the rows are held out, by the hash of their questions. Where all
    questions are near-duplicates of each other, only equal ones are kept together.
    """
    groups = group_similar(spoken_text(row.prompt) for row in [*training, *(validation or ())])
    if validation is not None:
        held = {groups[spoken_text(row.prompt)] for row in validation}
        return [row for row in training if groups[spoken_text(row.prompt)] not in held], list(validation)
    held = _held_groups([groups[spoken_text(row.prompt)] for row in training], held_out_share)
    if not held:
        groups = {spoken_text(row.prompt): spoken_text(row.prompt) for row in training}
        held = _held_groups(list(groups.values()), held_out_share)
    return (
        [row for row in training if groups[spoken_text(row.prompt)] not in held],
        [row for row in training if groups[spoken_text(row.prompt)] in held],
    )


def _held_groups(group_of_row: Sequence[str], share: float) -> set[str]:
    """Groups in the order of their hashes, as many as fit into `share` of the rows."""
    room = max(1, round(share * len(group_of_row)))
    held: set[str] = set()
    sizes = Counter(group_of_row)
    for group in sorted(sizes, key=lambda group: share_of(f"question:{group}")):
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    return held


def train_row(method: Method, row: FileRow) -> Row:
    """A row in TRL's columns."""
    answer = answer_column(row.prompt, row.answer)
    columns: dict[str, Any] = {"prompt": row.prompt, "completion": answer}
    if method == "dpo":
        assert row.rejected is not None
        worse = answer_column(row.prompt, row.rejected)
        columns = {"prompt": row.prompt, "chosen": answer, "rejected": worse}
    elif method == "kto":
        columns["label"] = row.label
    return Row("train", columns, None, (), ())


def held_out_row(row: FileRow) -> Row:
    """A row as an item of the evaluation."""
    answer = answer_column(row.prompt, row.answer)
    if row.label is False:
        source, right, wrong = "disliked", None, answer
    elif row.label:
        source, right, wrong = "approved", answer, None
    elif row.rejected is not None:
        source, right, wrong = "preferred", answer, answer_column(row.prompt, row.rejected)
    else:
        source, right, wrong = "demonstration", answer, None
    columns = {"prompt": row.prompt, "source": source, "completion": right, "rejected": wrong}
    return Row("held_out", columns, None, (), ())


def _key(row: FileRow) -> str:
    value = [row.prompt, row.answer, row.rejected, row.label]
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _rows_of(value: Any, method: Method) -> Iterator[FileRow]:
    if not isinstance(value, dict):
        raise _BadLine("it is not a JSON object")
    if value.get("tools") or value.get("functions"):
        raise _BadLine("it uses tools, which are not trained on")
    if method == "sft":
        yield from _sft(value)
    elif method == "dpo":
        yield _dpo(value)
    else:
        yield _kto(value)


def _sft(value: dict[str, Any]) -> Iterator[FileRow]:
    if "messages" not in value and isinstance(value.get("prompt"), str):
        yield FileRow(_text(value, "prompt"), _text(value, "completion"))
        return
    messages = _messages(value, "messages")
    learned = [
        position
        for position, raw in enumerate(value["messages"])
        if raw["role"] == "assistant" and raw.get("weight", 1) != 0
    ]
    if not learned or learned[0] == 0:
        raise _BadLine("'messages' has no assistant message after another one to learn")
    for position in learned:
        yield FileRow(messages[:position], messages[position]["content"])


def _dpo(value: dict[str, Any]) -> FileRow:
    if "input" in value:
        given = value["input"]
        if not isinstance(given, dict):
            raise _BadLine("'input' is not an object with 'messages'")
        prompt: Prompt = _messages(given, "messages")
        row = FileRow(prompt, _answer(value, "preferred_output"), _answer(value, "non_preferred_output"))
    else:
        row = FileRow(_prompt(value), _answer(value, "chosen"), _answer(value, "rejected"))
    if row.answer == row.rejected:
        raise _BadLine("both answers are the same")
    return row


def _kto(value: dict[str, Any]) -> FileRow:
    label = value.get("label")
    if not isinstance(label, bool):
        raise _BadLine(f"'label' is {label!r:.40}, expected true or false")
    return FileRow(_prompt(value), _answer(value, "completion"), label=label)


def _prompt(value: dict[str, Any]) -> Prompt:
    return _text(value, "prompt") if isinstance(value.get("prompt"), str) else _messages(value, "prompt")


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        raise _BadLine(f"'{name}' is {'missing' if name not in value else 'not a text with something in it'}")
    if NUL in text:
        raise _BadLine(f"'{name}' has a NUL character, which the record cannot keep")
    return text


def _answer(value: dict[str, Any], name: str) -> str:
    if isinstance(value.get(name), str):
        return _text(value, name)
    messages = _messages(value, name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise _BadLine(f"'{name}' is not one assistant message")
    return answer_text(messages)


def _messages(value: dict[str, Any], name: str) -> list[dict[str, str]]:
    found = value.get(name)
    if not isinstance(found, list) or not found:
        raise _BadLine(f"'{name}' is {'missing' if name not in value else 'not a list of messages'}")
    return [_message(message, f"{name}[{position}]") for position, message in enumerate(found)]


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise _BadLine(f"'{where}' is not an object with 'role' and 'content'")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise _BadLine(f"the role of '{where}' is {role!r:.40}, expected one of {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise _BadLine(f"'{where}' uses tools, which are not trained on")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise _BadLine(f"the content of '{where}' is not a text with something in it")
    if NUL in content:
        raise _BadLine(f"the content of '{where}' has a NUL character, which the record cannot keep")
    return {"role": role, "content": content}
