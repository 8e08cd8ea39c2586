"""Replace personal data by typed placeholders such as `<EMAIL_1>`, before anything is stored.

Within one conversation the same value gets the same placeholder, in the request and in the answer, and in its next
turn too, which brings the earlier ones along in the same order. Redacting twice changes nothing. What a redacted row
was made of is not in it: token ids, which decode to the original, are left out.

It is a filter, not a guarantee: `feedback.personal_data` says what it does not look for, images are passed by, and the
page on privacy has the measured shares. Presidio's pattern recognisers can be added; nothing is ever downloaded.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import orjson

from feedback.completions import TEXT_COLUMNS, TOKEN_COLUMNS
from feedback.errors import HoneError
from feedback.personal_data import FINDERS, Span, may_hold_any
from feedback.privacy_policy import PrivacyPolicy
from feedback.said import Submission

PLACEHOLDER = re.compile(r"<([A-Z]+(?:_[A-Z]+)*)_(\d{1,6})>")
SAID_KINDS = ("comment", "demonstration")
UNTOUCHED = frozenset(("model", "role", "type", "id", "tool_call_id", "call_id"))
"""Fields of a message that only programs write; other rows refer to them."""
PRESIDIO = (
    "CryptoRecognizer", "DeTaxIdRecognizer", "EsNifRecognizer", "FiPersonalIdentityCodeRecognizer",
    "InAadhaarRecognizer", "ItFiscalCodeRecognizer", "MacAddressRecognizer", "NhsRecognizer", "PlPeselRecognizer",
    "SePersonnummerRecognizer", "UsItinRecognizer", "UsSsnRecognizer",
)  # fmt: skip
"""Those that need no language model: national identity numbers, most with a checksum, and a few others."""
PRESIDIO_SCORE_MIN = 0.4

PASSES_MAX = 8
"""A placeholder in its place may let a finder see what stands beside it; this often is never needed."""

Typed = Callable[[str], Iterator[tuple[str, Span]]]


class Conversation:
    """The placeholders of one conversation; `found` counts the values replaced, by type."""

    def __init__(self, *, presidio: bool = False) -> None:
        self.found: Counter[str] = Counter()
        self._placeholders: dict[tuple[str, str], str] = {}
        self._taken: Counter[str] = Counter()
        self._presidio = presidio_finder() if presidio else None

    def reserve(self, text: str) -> None:
        """Keep the numbers of placeholders that stand in the text already."""
        for kind, number in PLACEHOLDER.findall(text):
            self._taken[kind] = max(self._taken[kind], int(number))

    def text(self, text: str) -> str:
        """The text with placeholders."""
        if not may_hold_any(text) or _is_image(text):
            return text
        for _ in range(PASSES_MAX):
            before = text
            for kind, finder in FINDERS.items():
                text = self._replace(text, ((kind, span) for span in finder(text)))
            if self._presidio:
                text = self._replace(text, self._presidio(text))
            if text == before:
                break
        return text

    def value(self, value: Any) -> Any:
        """A JSON value with placeholders in every string, the names of its fields included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {
                self.text(name): one if name in UNTOUCHED and isinstance(one, str) else self.value(one)
                for name, one in value.items()
            }
        return value

    def _replace(self, text: str, spans: Iterator[tuple[str, Span]]) -> str:
        pieces: list[str] = []
        at = 0
        for kind, (start, end) in sorted(spans, key=lambda one: (one[1][0], -one[1][1])):
            if start >= at:
                pieces += (text[at:start], self._placeholder(kind, text[start:end]))
                at = end
        return "".join((*pieces, text[at:])) if pieces else text

    def _placeholder(self, kind: str, value: str) -> str:
        if PLACEHOLDER.fullmatch(value):
            return value
        plain = value if kind == "KEY" else "".join(filter(_says_something, value)).casefold()
        placeholder = self._placeholders.get((kind, plain))
        if placeholder is None:
            self._taken[kind] += 1
            self.found[kind] += 1
            placeholder = self._placeholders[kind, plain] = f"<{kind}_{self._taken[kind]}>"
        return placeholder


def _says_something(letter: str) -> bool:
    return letter not in " \u00a0-()/"


def _is_image(text: str) -> bool:
    return text.startswith("data:") and ";base64," in text[:128]


def redact_row(row: bytes, policy: PrivacyPolicy) -> bytes:
    """A row of `feedback.completions.insert_documents` with its redacted copy: beside the text, or instead of it."""
    if policy.redaction == "off":
        return row
    values = orjson.loads(row)
    conversation = Conversation(presidio=policy.presidio)
    conversation.reserve(row.decode(errors="replace"))
    copy = {name: conversation.value(values.get(name)) for name in TEXT_COLUMNS}
    values["error"] = conversation.value(values.get("error"))
    values["redacted"] = copy | {"found": dict(conversation.found)}
    if policy.redaction == "everything":
        values |= dict.fromkeys((*TEXT_COLUMNS, *TOKEN_COLUMNS))
    return orjson.dumps(values)


def redact_submission(given: Submission, policy: PrivacyPolicy) -> Submission:
    """What somebody said of an answer, with placeholders; a vote stays as it is."""
    if policy.redaction == "off":
        return given
    conversation = Conversation(presidio=policy.presidio)
    said = (given.value if given.kind in SAID_KINDS else None, given.comment, given.metadata)
    conversation.reserve(orjson.dumps(said).decode())
    value, comment, metadata = map(conversation.value, said)
    return replace(
        given, value=value if given.kind in SAID_KINDS else given.value, comment=comment, metadata=metadata
    )


def strictest(policies: Iterable[PrivacyPolicy]) -> PrivacyPolicy:
    """The policy for what may be about any of several models."""
    found = list(policies)
    modes = {one.redaction for one in found}
    mode = next((mode for mode in ("everything", "training") if mode in modes), "off")
    return PrivacyPolicy.model_validate({"redaction": mode, "presidio": any(one.presidio for one in found)})


@cache
def presidio_finder() -> Typed:
    """Presidio's recognisers of what the own finders do not know.

    Raises:
        HoneError: Presidio is not installed here.
    """
    try:
        from presidio_analyzer import predefined_recognizers
    except ImportError as error:
        raise HoneError(
            "A model's policy says privacy.presidio = true, but Presidio is not installed here. "
            "Install it with `pip install 'hone-llm[privacy]'`, or set privacy.presidio = false."
        ) from error
    recognizers = [getattr(predefined_recognizers, name)() for name in PRESIDIO]

    def find(text: str) -> Iterator[tuple[str, Span]]:
        for recognizer in recognizers:
            for one in recognizer.analyze(text, recognizer.supported_entities, None):
                if one.score >= PRESIDIO_SCORE_MIN:
                    yield one.entity_type, (one.start, one.end)

    return find
