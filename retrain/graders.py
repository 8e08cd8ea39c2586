"""Grade one answer with OpenAI's graders: the same JSON that its evals and fine-tuning take, the same templates.

`string_check`, `text_similarity`, `score_model`, `label_model` and `multi` give a score in [0, 1]. Templates name the
item's fields and the answer: `{{item.expected}}`, `{{sample.output_text}}`. A field that is not there is an error that
names it, never an empty string: a grader that compares with nothing would pass everything or nothing.

Refuses `python` graders (a policy must not run code here) and the similarity measures that need a download.
"""

import ast
import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from feedback.errors import HoneError
from feedback.mistakes import explain
from retrain.prompts import normalised

_TEMPLATE = re.compile(r"\{\{\s*(item|sample)\.([A-Za-z_]\w*)\s*\}\}")


class _Grader(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""


class StringCheck(_Grader):
    """1 where `input` relates to `reference` as `operation` says; `like` is "contains", `ilike` ignores case."""

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(_Grader):
    """How alike `input` and `reference` are."""

    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: Literal[
        "fuzzy_match", "bleu", "chrf", "token_f1", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ]  # fmt: skip

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _is_offline(cls, value: Any) -> Any:
        if value in ("cosine", "meteor", "gleu"):
            raise ValueError(
                f"'{value}' needs data that has to be downloaded; use 'chrf', 'bleu' or 'rouge_l'"
            )
        return value


class Message(BaseModel):
    """One message to a judging model; its content is a template."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class ScoreModel(_Grader):
    """A judging model answers with a number in `range`, which becomes a score in [0, 1]."""

    type: Literal["score_model"]
    input: tuple[Message, ...] = Field(min_length=1)
    model: str | None = None
    range: tuple[float, float] = (0.0, 1.0)

    @field_validator("range")
    @classmethod
    def _has_two_ends(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("it has no room for a score; give the lowest number, then the highest")
        return value


class LabelModel(_Grader):
    """1 where a judging model answers with one of `passing_labels`."""

    type: Literal["label_model"]
    input: tuple[Message, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1)
    passing_labels: tuple[str, ...] = Field(min_length=1)
    model: str | None = None


Single = Annotated[StringCheck | TextSimilarity | ScoreModel | LabelModel, Field(discriminator="type")]


class Multi(_Grader):
    """Several graders joined by an arithmetic expression over their names."""

    type: Literal["multi"]
    graders: dict[str, Single] = Field(min_length=1)
    calculate_output: str

    @field_validator("calculate_output")
    @classmethod
    def _is_arithmetic(cls, value: str) -> str:
        compile_expression(value)
        return value


Grader = Annotated[
    StringCheck | TextSimilarity | ScoreModel | LabelModel | Multi, Field(discriminator="type")
]
_GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)


class JudgingModel(Protocol):
    """Whoever answers for `score_model` and `label_model`."""

    async def ask(self, messages: list[dict[str, str]], *, model: str | None) -> str:
        """The answer's text."""
        ...


def read_grader(value: Mapping[str, Any]) -> Grader:
    """Check a grader that came from outside.

    Raises:
        HoneError: it is none of OpenAI's graders that run here; the message names the field.
    """
    try:
        return _GRADER.validate_python(value)
    except ValidationError as error:
        raise HoneError(f"Grader field {explain(error.errors(), whole='type')}") from error


def models_needed(grader: Grader) -> bool:
    """Whether a judging model has to be asked."""
    inner = grader.graders.values() if isinstance(grader, Multi) else (grader,)
    return any(isinstance(one, ScoreModel | LabelModel) for one in inner)


async def grade(
    grader: Grader, item: Mapping[str, Any], output_text: str, judge: JudgingModel | None = None
) -> float:
    """The score of one answer, in [0, 1].

    Raises:
        HoneError: a template names a field that is not there, a judging model is needed and none is configured, or
            it answered with neither a number nor a label.
    """
    fields = {"item": item, "sample": {"output_text": output_text}}
    if isinstance(grader, Multi):
        scores = {name: await grade(one, item, output_text, judge) for name, one in grader.graders.items()}
        return _clipped(compile_expression(grader.calculate_output)(scores))
    if isinstance(grader, StringCheck):
        return _string_check(
            grader.operation, _filled(grader.input, fields), _filled(grader.reference, fields)
        )
    if isinstance(grader, TextSimilarity):
        return similarity(
            grader.evaluation_metric, _filled(grader.input, fields), _filled(grader.reference, fields)
        )
    if judge is None:
        raise HoneError(
            f"Grader '{grader.name or grader.type}' asks a model, and none is configured: set HONE_JUDGE_URL and "
            "HONE_JUDGE_MODEL, or use a string_check or text_similarity grader."
        )
    messages = [{"role": one.role, "content": _filled(one.content, fields)} for one in grader.input]
    said = await judge.ask(messages, model=grader.model)
    return _score(said, grader.range) if isinstance(grader, ScoreModel) else _label(said, grader)


def similarity(metric: str, given: str, wanted: str) -> float:
    """How alike two texts are on normalised text, in [0, 1]. BLEU and chrF are sacrebleu's."""
    given, wanted = normalised(given), normalised(wanted)
    if metric == "fuzzy_match":
        return difflib.SequenceMatcher(None, given, wanted, autojunk=False).ratio()
    if metric == "token_f1":
        return _overlap_f1(given.split(), wanted.split(), 1)
    if metric == "rouge_l":
        return _rouge_l(given.split(), wanted.split())
    if metric.startswith("rouge_"):
        return _overlap_f1(given.split(), wanted.split(), int(metric[-1]))
    if metric == "bleu":
        from sacrebleu.metrics.bleu import BLEU

        return float(BLEU(effective_order=True).sentence_score(given, [wanted]).score) / 100
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(given, [wanted]).score) / 100


def compile_expression(source: str) -> Callable[[Mapping[str, float]], float]:
    """An arithmetic expression over names, as a function of their values; never Python's own `eval`.

    Raises:
        ValueError: it contains anything but numbers, names, + - * / and the functions of OpenAI's `multi`.
    """
    try:
        tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"'{source}' is not an arithmetic expression") from error
    _check(tree)

    def compute(values: Mapping[str, float]) -> float:
        try:
            return float(_value(tree, values))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise HoneError(
                f"calculate_output '{source}' has no value for {dict(values)}: {error}."
            ) from error

    return compute


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp,
    "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=int() | float()) | ast.Name():
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left)
            _check(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            for argument in args:
                _check(argument)
        case _:
            raise ValueError(
                f"'{ast.unparse(node)}' is not allowed: numbers, grader names, + - * / and {', '.join(_FUNCTIONS)}"
            )


def _value(node: ast.expr, values: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=number):
            return number
        case ast.Name(id=name):
            if name not in values:
                raise HoneError(f"calculate_output names '{name}', and the graders are {', '.join(values)}.")
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, values)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_value(argument, values) for argument in args))
    raise AssertionError(f"unchecked expression {ast.dump(node)}")


def _filled(template: str, fields: Mapping[str, Mapping[str, Any]]) -> str:
    def value(match: re.Match[str]) -> str:
        owner, name = match.groups()
        if name not in fields[owner]:
            known = ", ".join(f"{owner}.{one}" for one in fields[owner])
            raise HoneError(f"The grader's template names '{owner}.{name}', and there is {known}.")
        return str(fields[owner][name])

    return _TEMPLATE.sub(value, template)


def _string_check(operation: str, given: str, wanted: str) -> float:
    match operation:
        case "eq":
            return float(given == wanted)
        case "ne":
            return float(given != wanted)
        case "like":
            return float(wanted in given)
        case _:
            return float(wanted.casefold() in given.casefold())


def _score(said: str, bounds: tuple[float, float]) -> float:
    numbers = re.findall(r"-?\d+(?:\.\d+)?", said)
    if not numbers:
        raise HoneError(f"The judging model answered '{said[:100]}', and a number was expected.")
    low, high = bounds
    return _clipped((float(numbers[-1]) - low) / (high - low))


def _label(said: str, grader: LabelModel) -> float:
    # The longest first: "not helpful" must not be read as "helpful".
    found = next(
        (one for one in sorted(grader.labels, key=len, reverse=True) if one.casefold() in said.casefold()),
        None,
    )
    if found is None:
        raise HoneError(
            f"The judging model answered '{said[:100]}', and one of {', '.join(grader.labels)} was expected."
        )
    return float(found in grader.passing_labels)


def _overlap_f1(given: list[str], wanted: list[str], n: int) -> float:
    """F1 over word n-grams (ROUGE-N; Lin 2004)."""
    grams = [tuple(given[i : i + n]) for i in range(len(given) - n + 1)]
    targets = [tuple(wanted[i : i + n]) for i in range(len(wanted) - n + 1)]
    common = sum(min(grams.count(gram), targets.count(gram)) for gram in set(grams))
    return 2 * common / (len(grams) + len(targets)) if common else 0.0


def _rouge_l(given: list[str], wanted: list[str]) -> float:
    """F1 over the longest common subsequence of words (Lin 2004)."""
    lengths = [0] * (len(wanted) + 1)
    for word in given:
        diagonal = 0
        for position, target in enumerate(wanted, 1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if word == target else max(above, lengths[position - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(given) + len(wanted)) if lengths[-1] else 0.0


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))
