"""What a piece of feedback may hold: checked before it is kept, so that all that is kept can be read."""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from feedback.errors import HoneError
from feedback.metrics import BUILT_IN, NAME, SIGNALS
from feedback.tables import FEEDBACK_KINDS

TEXT_CHARS_MAX = 65_536
METADATA_BYTES_MAX = 16_384
ID_CHARS_MAX = 256
DEFAULT_NAMES = {
    "rating": "thumbs",
    "comment": "comment",
    "demonstration": "demonstration",
    "preference": "preference",
}
HEX = re.compile(r"[0-9a-f]{32}")
BARE_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?7[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def check_kind(kind: str, name: str | None) -> str:
    """The name under which feedback of a kind is kept.

    Raises:
        HoneError: the kind is unknown, a signal has no name, or the name has characters that no name may have.
    """
    if kind not in FEEDBACK_KINDS:
        raise HoneError(f"Feedback kind '{kind}' is unknown; expected one of {', '.join(FEEDBACK_KINDS)}.")
    name = name or DEFAULT_NAMES.get(kind)
    if name is None or not NAME.fullmatch(name):
        raise HoneError(f"The name of this {kind} is {name!r}; expected 1-64 letters, digits and _ . : / -")
    if kind in ("rating", "signal") and (kind == "signal") != (name in SIGNALS):
        raise HoneError(
            f"'{name}' is no {kind}; the signals are {', '.join(SIGNALS)}, every other name is a rating."
        )
    return name


def check_value(kind: str, name: str, value: Any, *, text_chars_max: int = TEXT_CHARS_MAX) -> None:
    """Refuse a value that does not fit its kind; a declared metric's scale is the policy's to check.

    Raises:
        HoneError: it does not; the message says what was expected.
    """
    if kind in ("rating", "signal"):
        if (metric := BUILT_IN.get(name)) is not None:
            metric.check(name, value)
        elif not isinstance(value, bool | int | float | str) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise HoneError(
                f"A {kind}'s value is {value!r:.80}; expected true (up), false (down), a number or a category."
            )
        elif isinstance(value, str):
            check_text(kind, value, text_chars_max)
    elif kind == "demonstration" and isinstance(value, list):
        _check_messages(value)
        if len(orjson.dumps(value)) > 4 * text_chars_max:
            raise HoneError(
                f"The messages of this demonstration are longer than {text_chars_max} characters."
            )
    else:
        check_text(kind, value, ID_CHARS_MAX if kind == "preference" else text_chars_max)


def check_text(what: str, value: Any, chars_max: int = TEXT_CHARS_MAX) -> None:
    """Refuse what is not text, is empty, or is too long.

    Raises:
        HoneError: it is.
    """
    if not isinstance(value, str) or not value.strip():
        raise HoneError(f"A {what}'s value is {value!r:.80}; expected text.")
    if len(value) > chars_max:
        raise HoneError(f"A {what} of {len(value)} characters is too long; at most {chars_max} are kept.")


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Refuse more metadata than is kept.

    Raises:
        HoneError: as JSON it is too long.
    """
    if metadata is not None and (length := len(orjson.dumps(metadata))) > METADATA_BYTES_MAX:
        raise HoneError(f"The metadata has {length} bytes as JSON; at most {METADATA_BYTES_MAX} are kept.")


def completion_named(text: str) -> str:
    """The completion that an id means: ours, or its bare digits, which other vendors' clients need (a UUID)."""
    return f"chatcmpl-{text.replace('-', '')}" if BARE_ID.fullmatch(text) else text


def feedback_named(text: str) -> str:
    """The feedback that an id means: ours, or its bare digits as another vendor's client was given them."""
    digits = text.replace("-", "")
    return f"fb-{digits}" if HEX.fullmatch(digits) else text


def bare_id(any_id: str) -> str:
    """An id of ours as the UUID in it."""
    digits = any_id[-32:]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _check_messages(value: list[Any]) -> None:
    well_formed = value and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )
    if not well_formed or value[-1]["role"] != "assistant":
        raise HoneError(
            "A demonstration's value is a list that is not a conversation; "
            "expected messages of {role, content} ending with the assistant's right answer, or the answer as text."
        )
