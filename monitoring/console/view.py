"""How values look in a page: times, shares, numbers, states; and the sentences said after an action.

Pure. A value that is not known is shown as a dash, never as zero.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
from markupsafe import Markup, escape

NOT_KNOWN = "\u2013"

DONE = {
    "approve": "Approved. It gets no traffic until a canary starts.",
    "reject": "Rejected. It stays out.",
    "canary": "The canary has started: it answers the first step's share of traffic.",
    "canaries": "The canaries have started: together they answer the first step's share of traffic.",
    "promote": "Promoted. It answers every new request.",
    "abort": "The canary is ended. Its traffic is back with the champion.",
    "rollback": "Rolled back. The earlier champion answers every new request.",
    "pause": "Paused. The canary keeps its share until you resume.",
    "resume": "Resumed. The rollout goes on by itself.",
    "cancel": "The run stops within seconds. The champion is not touched.",
    "plan": "Asked. The plan appears here in a few seconds, while a worker runs.",
    "train": "Asked. The run appears here in a few seconds, while a worker runs.",
    "dataset": "Asked. The dataset appears here in a few seconds, while a worker runs.",
    "search": "Asked. Trials appear here as they end, while a worker runs and nothing is trained.",
    "withdraw": "Cancelled. What was tried is kept.",
    "revoke": "Revoked. The key stops working within seconds.",
    "policy": "The policy is changed, for every process at once.",
    "same": "Nothing was different, so nothing was changed.",
    "rest": "It rests at its next checkpoint, and goes on when you resume it.",
    "go_on": "It goes on from its last checkpoint.",
    "correct": "Kept. It can be trained on from the next run on.",
    "erase": "Asked. What was theirs until now is refused from here on, and a worker deletes it.",
    "include": "Included.",
    "exclude": "Excluded.",
    "silence": "Silenced.",
}
"""What a page says after an action, by the word in its address."""

STATE_TONES = {
    "champion": "good",
    "canary": "busy",
    "candidate": "wait",
    "approved": "wait",
    "trained": "busy",
    "rejected": "bad",
    "retired": "off",
    "running": "busy",
    "queued": "busy",
    "succeeded": "good",
    "failed": "bad",
    "cancelled": "off",
    "better": "good",
    "worse": "bad",
    "inconclusive": "wait",
    "insufficient_data": "wait",
    "ok": "good",
    "error": "bad",
    "aborted": "off",
    "ready": "good",
    "loaded": "busy",
    "ended": "off",
    "requested": "busy",
    "record": "busy",
    "files": "busy",
    "done": "good",
    "alarm": "bad",
    "drifted": "wait",
    "well": "good",
    "waiting": "wait",
    "included": "good",
    "excluded": "off",
    "corrected": "good",
    "passed": "good",
    "fired": "bad",
    "broken": "bad",
    "quiet": "good",
    "paused": "wait",
    "complete": "good",
    "pruned": "off",
    "probe passed": "good",
    "loaded, not proven": "busy",
    "probe failed": "bad",
    "firing": "bad",
    "resolved": "good",
}
"""The colour of a state; its word is always written beside it."""

_STEPS = ((59.5, 1.0, "s"), (3570.0, 60.0, "min"), (84_600.0, 3600.0, "h"), (float("inf"), 86_400.0, "d"))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago: `3 min ago`, `in 2 h`."""
    if moment is None:
        return NOT_KNOWN
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    words = span(abs(seconds))
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def span(seconds: float | None) -> str:
    """A length of time in one unit: `40 s`, `3 min`, `2 h`, `5 d`."""
    if seconds is None:
        return NOT_KNOWN
    size, unit = next((size, unit) for limit, size, unit in _STEPS if seconds < limit)
    return f"{seconds / size:.0f} {unit}"


def moment(value: datetime | None) -> Markup:
    """A time as people read it, with the exact one beside it."""
    if value is None:
        return Markup(NOT_KNOWN)
    exact = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        exact.isoformat(), f"{exact:%Y-%m-%d %H:%M:%S} UTC", ago(value)
    )


def duration(seconds: float | None) -> str:
    """A latency: `12 ms`, `1.20 s`."""
    if seconds is None:
        return NOT_KNOWN
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as percent."""
    return NOT_KNOWN if share is None else f"{share:.{digits}%}"


def points(share: float | None, digits: int = 1) -> str:
    """A signed difference of shares, in percentage points."""
    if share is None:
        return NOT_KNOWN
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\u2212")


def number(value: float | None) -> str:
    """A count with thin spaces, or a measure with three digits."""
    if value is None:
        return NOT_KNOWN
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.3g}"


def words(name: Any) -> str:
    """A name of the code as words: `win_rate` is `win rate`."""
    return str(name).replace("_", " ").replace(".", " ")


FAULTS = {
    "model": "the model",
    "infrastructure": "engine or network",
    "caller": "the client, or it left",
    "unknown": "unknown",
}


def fault(error_class: str) -> str:
    """What a failure came from."""
    return FAULTS.get(error_class, words(error_class))


def ticks(text: Any) -> Markup:
    """A sentence with what stands between backticks as code."""
    parts = str(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 and number < len(parts) - 1 else escape(part)
        for number, part in enumerate(parts)
    )


def who(actor: Any) -> Markup:
    """An actor of the audit trail, short enough for a table; whole on hover."""
    name = str(actor or "")
    if len(name) <= 20:
        return escape(name)
    return Markup('<span title="{}">{}…{}</span>').format(name, name[:10], name[-5:])


def brief(text: Any, length: int = 90) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def state(name: str) -> Markup:
    """A state as a badge: colour and word."""
    return Markup('<span class="badge {}">{}</span>').format(
        STATE_TONES.get(name, "off"), escape(words(name))
    )


def last_message(request: Any) -> str:
    """What a recorded request asked, as text: its last message, or its prompt."""
    if not isinstance(request, dict):
        return ""
    messages = request.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return content(messages[-1].get("content"))
    return content(request.get("prompt") or request.get("input"))


def content(value: Any) -> str:
    """A message's content as text: text as it is, parts one after the other."""
    if isinstance(value, list):
        return "\n".join(content(one.get("text") if isinstance(one, dict) else one) for one in value)
    return "" if value is None else str(value)


def question(columns: dict[str, Any]) -> str:
    """What a row of a dataset asks: its prompt, or the last thing said before the answer."""
    prompt = columns.get("prompt") or columns.get("messages")
    if not isinstance(prompt, list):
        return content(prompt)
    asked = [one for one in prompt if isinstance(one, dict) and one.get("role") == "user"]
    return content((asked or prompt)[-1].get("content")) if prompt else ""


def pretty(value: Any) -> str:
    """JSON for people."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "span": span,
    "moment": moment,
    "duration": duration,
    "percent": percent,
    "points": points,
    "number": number,
    "words": words,
    "fault": fault,
    "brief": brief,
    "who": who,
    "ticks": ticks,
    "state": state,
    "last_message": last_message,
    "content": content,
    "question": question,
    "pretty": pretty,
}
