"""Rows that a package of yours makes from the rows of a run, before these are frozen.

The package declares an entry point in the group `hone.augment`; the policy names it (`training.augment`). So only what
is installed where the worker runs can be called, never what a request names. The function is called once for each
method of a run, in a process of its own that ends with it:

    def paraphrase(rows: list[dict], *, method: str, model: str, seed: int) -> Iterable[dict]

`rows` are training rows in TRL's columns. What it returns are rows with the same columns and `from`, the position of
the row each was made from; with `"replace": True` it takes that row's place. A made row has the people, completions and
feedback of its row, so lineage and erasure reach it, and counts with them under `rows_per_rater_max`. It carries its
`origin`. One that asks nearly what is evaluated with is left out. Made rows are at most `augment_share_max` of all.

A hook that fails, returns anything else, or takes too long, fails the run in words.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import orjson

from feedback.datasets import Row
from feedback.errors import HoneError
from feedback.policy import TrainingPolicy
from monitoring.exec_child import bound
from retrain.prompts import group_similar, spoken_text
from retrain.validation import COLUMNS

GROUP = "hone.augment"
TAIL = 600
OVER_RATER, OVER_SHARE = "over the limit of rows of one rater", "over augment_share_max"
EVALUATED, KNOWN = "asks nearly what is evaluated with", "is there already"


class HookFailed(HoneError):
    """The augmentation hook did not do what it must."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """The rows of a run with those that were made, and what became of these."""

    rows: list[Row]
    origin: str
    added: int = 0
    replaced: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands among a dataset's counts."""
        told = {"origin": self.origin, "added": self.added, "replaced": self.replaced}
        return told | ({"left_out": self.left_out} if self.left_out else {})


async def augment(
    rows: Sequence[Row], methods: Sequence[str], model: str, policy: TrainingPolicy, *, seed: int
) -> Augmented:
    """All rows of a run, with what the policy's hook makes of those that are trained on.

    Raises:
        HookFailed: it is not installed, failed, took too long, or returned something that is no row.
    """
    assert policy.augment is not None
    hook = installed(policy.augment)
    origin = _origin(hook)
    train = [row for row in rows if row.split == "train" and not row.columns.get("replay")]
    kept = [row for row in rows if row.split != "train" or row.columns.get("replay")]
    made: list[tuple[Row, Row, bool]] = []
    for method in methods:
        given = list({row.row_hash: row for row in train if row.method in (None, method)}.values())
        for returned in await _call(hook, given, method, model, policy.augment_seconds_max, seed):
            made.append(_made(hook, returned, given, method, origin))
    asked = {spoken_text(row.columns["prompt"]) for row in kept if row.split != "train"}
    return _admitted(train, kept, made, asked, origin, policy)


def installed(name: str) -> EntryPoint:
    """The hook of this name.

    Raises:
        HookFailed: no installed package declares it.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(one.name for one in entry_points(group=GROUP))) or "none"
        raise HookFailed(
            f"training.augment is '{name}', and no package installed beside the worker declares an entry point of that "
            f"name in the group {GROUP} (there: {known}). Install it there, or take it out of the model's policy."
        )
    return next(iter(found))


def _origin(hook: EntryPoint) -> str:
    package = f" ({hook.dist.name} {hook.dist.version})" if hook.dist is not None else ""
    return f"augment:{hook.name}{package}"


async def _call(
    hook: EntryPoint, rows: Sequence[Row], method: str, model: str, seconds: float, seed: int
) -> list[Any]:
    columns = [{name: row.columns[name] for name in COLUMNS[method]} for row in rows]  # type: ignore[index]  # a method's name
    asked = {"hook": hook.name, "rows": columns, "method": method, "model": model, "seed": seed}
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        *bound(sys.executable, "-m", "retrain.augment_child", death_signal=signal.SIGKILL),
        env=os.environ | {"PYTHONPATH": path},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, said = await asyncio.wait_for(process.communicate(orjson.dumps(asked)), seconds)
    except TimeoutError as error:
        raise _failed(hook, f"took longer than augment_seconds_max, {seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _failed(hook, f"failed: {said.decode(errors='replace').strip()[-TAIL:]}")
    returned: list[Any] = orjson.loads(out)
    return returned


def _failed(hook: EntryPoint, what: str) -> HookFailed:
    return HookFailed(
        f"The augmentation hook '{hook.name}' ({hook.value}) {what}. Mend it, or take training.augment out of the "
        "model's policy, then train again. The champion was not touched."
    )


def _made(
    hook: EntryPoint, returned: Any, given: Sequence[Row], method: str, origin: str
) -> tuple[Row, Row, bool]:
    """A made row, the row it was made from, and whether it takes its place."""
    source = returned.get("from") if isinstance(returned, dict) else None
    if not isinstance(source, int) or not 0 <= source < len(given):
        raise _failed(
            hook,
            f"returned a row whose 'from' is {source!r:.40}, expected 0 to {len(given) - 1}, its position",
        )
    row = given[source]
    columns = {name: value for name, value in returned.items() if name not in ("from", "replace")}
    wrong = sorted(
        name
        for name, old in row.columns.items()
        if name in COLUMNS[method] and not _alike(columns.get(name), old)  # type: ignore[index]  # a method's name
    ) or sorted(set(columns) - set(COLUMNS[method]))  # type: ignore[index]  # a method's name
    if wrong:
        raise _failed(hook, f"returned a row whose '{wrong[0]}' is not of the kind that its row has")
    made = replace(row, columns=columns | {"origin": origin})
    return made, row, bool(returned.get("replace"))


def _alike(new: Any, old: Any) -> bool:
    """Whether a column has the form of the one it was made from: a vote, a text, or messages with something in them."""
    if isinstance(old, bool):
        return isinstance(new, bool)
    if isinstance(old, str):
        return isinstance(new, str) and bool(new.strip())
    return (
        isinstance(new, list)
        and bool(new)
        and all(
            isinstance(one, dict)
            and set(one) == {"role", "content"}
            and all(isinstance(value, str) and value.strip() for value in one.values())
            for one in new
        )
    )


def _admitted(
    train: list[Row],
    kept: list[Row],
    made: Sequence[tuple[Row, Row, bool]],
    asked: set[str],
    origin: str,
    policy: TrainingPolicy,
) -> Augmented:
    """Let in what the limits allow, in the order in which it was made."""
    groups = group_similar([*asked, *(spoken_text(row.columns["prompt"]) for row, _, _ in made)])
    evaluated = {groups[text] for text in asked}
    known = {row.row_hash for row in train}
    of_rater = Counter((row.method, row.rater) for row in {row.row_hash: row for row in train}.values())
    room = int(len(known) * policy.augment_share_max / (1 - policy.augment_share_max))
    added: list[Row] = []
    replaced: dict[str, Row] = {}
    left_out: Counter[str] = Counter()
    for row, source, takes_place in made:
        reason = None
        if row.row_hash in known:
            reason = KNOWN
        elif groups[spoken_text(row.columns["prompt"])] in evaluated:
            reason = EVALUATED
        elif not takes_place and of_rater[row.method, row.rater] >= policy.rows_per_rater_max:
            reason = OVER_RATER
        elif len(added) + len(replaced) >= room:
            reason = OVER_SHARE
        if reason is not None:
            left_out[reason] += 1
            continue
        known.add(row.row_hash)
        if takes_place and source.row_hash not in replaced:
            replaced[source.row_hash] = row
        else:
            of_rater[row.method, row.rater] += 1
            added.append(row)
    learned = [replaced.get(row.row_hash, row) for row in train]
    return Augmented([*kept, *learned, *added], origin, len(added), len(replaced), dict(left_out))
