"""Open WebUI's feedback export: Admin, Evaluations, Feedbacks, Export (`/api/v1/evaluations/feedbacks/all/export`).

Each row is a thumb on one message, with the whole chat beside it (`snapshot`). The rated message becomes a completion,
the branch that leads to it its conversation, the thumb a rating, `comment` or else `reason` its comment. In the arena,
where two models answered the same message, the loser becomes a completion too and the thumb a preference. A row without
`snapshot` is refused: it would be a rating of nothing.
"""

from collections.abc import Iterator
from typing import Any

from feedback.errors import HoneError
from feedback.importers.found import Answer, Found, Said, Skipped, blocks_text, labels, moment, required, text

Messages = dict[str, dict[str, Any]]
RATINGS = {"1": True, "-1": False, "1.0": True, "-1.0": False}


class OpenWebui:
    """Rows of `feedback-history-export-*.json`."""

    def recognises(self, fields: dict[str, Any]) -> bool:
        """A row has `data` with the rating and `meta` with the chat."""
        data, meta = fields.get("data"), fields.get("meta")
        return (
            isinstance(data, dict)
            and isinstance(meta, dict)
            and bool({"chat_id", "message_id"} & meta.keys())
        )

    def read(self, fields: dict[str, Any]) -> Iterator[Found]:
        """The rated answer, its rivals in the arena, and what was said."""
        if fields.get("type") not in (None, "rating"):
            yield Skipped(f"its type is '{fields['type']}', not 'rating'")
            return
        data, meta = _object(fields, "data"), _object(fields, "meta")
        rating = RATINGS.get(str(data.get("rating")))
        chat, messages = _chat(fields)
        rated = messages.get(required(meta, "message_id"))
        if rated is None:
            raise HoneError(f"the chat in 'snapshot' has no message '{meta['message_id']}', which was rated")
        rater, session = required(fields, "user_id"), required(meta, "chat_id")
        answers = [rated, *(_rivals(rated, messages) if meta.get("arena") and rating is not None else [])]
        for message in answers:
            yield _answer(message, messages, chat, rater, session, fields)
        yield from _said(fields, data, rating, [_name(session, message) for message in answers], rater)


def _said(
    fields: dict[str, Any], data: dict[str, Any], rating: bool | None, names: list[str], rater: str
) -> Iterator[Found]:
    at = moment(fields.get("updated_at") or fields.get("created_at"), "updated_at")
    row, about = required(fields, "id"), (names[0],)
    detail = {name: data[name] for name in ("reason", "tags", "details") if data.get(name)}
    comment = text(data, "comment") or text(data, "reason")
    if rating is not None:
        yield Said(row, about, at, "rating", rating, comment=comment, rater=rater, metadata=detail or None)
    elif comment is not None:
        yield Said(row, about, at, "comment", comment, rater=rater, metadata=detail or None)
    else:
        yield Skipped("nobody gave a thumb")
    for rival in names[1:]:
        worse, better = (rival, names[0]) if rating else (names[0], rival)
        if rating or len(names) == 2:
            yield Said(row, (worse,), at, "preference", None, rater=rater, better=better)


def _answer(
    message: dict[str, Any],
    messages: Messages,
    chat: dict[str, Any],
    rater: str,
    session: str,
    fields: dict[str, Any],
) -> Answer:
    branch = _branch(message, messages)
    system = text(chat, "system") or text(chat.get("params") or {}, "system")
    if system:
        branch.insert(0, {"role": "system", "content": system})
    said = blocks_text(message.get("content"))
    if not branch or not said.strip():
        raise HoneError("the rated message is empty, or answers nothing")
    model = text(message, "model", "selectedModelId")
    usage = message.get("usage") if isinstance(message.get("usage"), dict) else {}
    return Answer(
        source_id=_name(session, message),
        created_at=moment(message.get("timestamp") or fields.get("created_at"), "timestamp"),
        messages=branch,
        message={"role": "assistant", "content": said},
        model=model,
        rater=rater,
        session=session,
        finish_reason="stop" if message.get("done", True) else None,
        prompt_tokens=_count(usage, "prompt_tokens", "prompt_eval_count"),
        output_tokens=_count(usage, "completion_tokens", "eval_count"),
        metadata=labels(imported_model=model),
    )


def _name(session: str, message: dict[str, Any]) -> str:
    # A cloned or shared chat keeps the ids of its messages.
    return f"{session}/{message['id']}"


def _chat(fields: dict[str, Any]) -> tuple[dict[str, Any], Messages]:
    """The chat of a snapshot, which Open WebUI wraps once or twice, and its messages by id."""
    found = fields.get("snapshot")
    while isinstance(found, dict):
        history = found.get("history")
        if isinstance(history, dict) and isinstance(history.get("messages"), dict | list):
            listed = history["messages"]
            values = listed.values() if isinstance(listed, dict) else listed
            return found, {one["id"]: one for one in values if isinstance(one, dict) and one.get("id")}
        found = found.get("chat")
    raise HoneError(
        "it has no 'snapshot' with the chat, so nobody can tell what was rated; "
        "export from Admin, Evaluations, Feedbacks, which includes it"
    )


def _branch(message: dict[str, Any], messages: Messages) -> list[dict[str, Any]]:
    """The messages that led to this one, oldest first."""
    branch: list[dict[str, Any]] = []
    seen: set[str] = set()
    parent = message.get("parentId")
    while isinstance(parent, str) and parent in messages and parent not in seen:
        seen.add(parent)
        one = messages[parent]
        branch.append({"role": one.get("role", "user"), "content": blocks_text(one.get("content"))})
        parent = one.get("parentId")
    return branch[::-1]


def _rivals(rated: dict[str, Any], messages: Messages) -> list[dict[str, Any]]:
    """Other answers to the same message."""
    return [
        one
        for one in messages.values()
        if one.get("parentId") == rated.get("parentId")
        and one["id"] != rated["id"]
        and one.get("role") == "assistant"
        and blocks_text(one.get("content")).strip()
    ]


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise HoneError(f"'{name}' is {value!r}; expected an object")
    return value


def _count(usage: Any, *names: str) -> int | None:
    return next((usage[name] for name in names if isinstance(usage.get(name), int)), None)
