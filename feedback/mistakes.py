"""What pydantic found wrong with a value from outside, in words that name the value and say what is expected."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

SHOWN_LENGTH_MAX = 80
OBJECTS = {"model_type", "model_attributes_type", "dict_type", "dataclass_type"}


@dataclass(frozen=True)
class Mistake:
    """One field, what it holds, and what was expected of it."""

    field: str
    """Names and places joined by dots; empty for the whole value."""
    shown: str
    expected: str
    whole: str = "body"
    """What the whole value is called."""

    def __str__(self) -> str:
        end = "" if self.expected.endswith("?") else "."
        return f"'{self.field or self.whole}' is {self.shown}: {self.expected}{end}"


def explain(
    errors: Sequence[Mapping[str, Any]],
    model: type[BaseModel] | None = None,
    *,
    whole: str = "body",
    skip: int = 0,
) -> Mistake:
    """The first of pydantic's `errors()`; with `model`, an unknown field is told what it may have meant.

    `skip` leaves out the first parts of its place, which FastAPI put there ("body", "query") and nobody wrote.
    """
    first = errors[0]
    place = first["loc"][skip:]
    shown = "left out" if first["type"] == "missing" else f"{first.get('input')!r:.{SHOWN_LENGTH_MAX}}"
    return Mistake(".".join(map(str, place)), shown, _expected(first, place, model), whole)


def _expected(error: Mapping[str, Any], place: Sequence[Any], model: type[BaseModel] | None) -> str:
    kind, message = error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        return _no_such_field(str(place[-1]), _model_at(model, place[:-1]))
    if kind == "missing":
        return "it is needed"
    if kind == "value_error":
        return str(error["ctx"]["error"]).rstrip(".")
    if kind in OBJECTS:
        return "expected an object"
    wanted = message.removeprefix("Input should be ").split(", unable to")[0]
    return f"expected {wanted}" if wanted != message else message[0].lower() + message[1:]


def _no_such_field(name: str, model: type[BaseModel] | None) -> str:
    known = sorted(model.model_fields) if model else []
    if near := get_close_matches(name, known, n=1):
        return f"there is no such field; did you mean '{near[0]}'?"
    return f"there is no such field; there are {', '.join(known)}" if known else "there is no such field"


def _model_at(model: type[BaseModel] | None, place: Sequence[Any]) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            model = next(_models_in(field.annotation), None) if field else None
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
