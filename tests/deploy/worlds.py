"""A record on which what the pages tell a person to type can be typed: versions, traffic, votes, a canary, files.

`a_world` fills it once. `World.get_ready` then brings a version into the state that a command asks for, so that a page
may say `hone promote support@3` without the story of how `support@3` came to be a canary.
"""

import asyncio
import hashlib
import json
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import csv, parquet
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, experiments, shipping
from feedback.completions import insert_many
from feedback.database import Database
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM
from tests.builders import PROJECT, a_completion, an_uploaded_file
from tests.monitoring.consoles import a_history, a_trained_version
from tests.retrain.rated_builders import record, taught

EXPORTS = Path(__file__).parents[1] / "feedback" / "exports"
NEWEST_VERSION = 8
NEEDED = {"approve": "candidate", "reject": "candidate", "canary": "approved", "promote": "approved"}
"""In which state a version must be for a command."""
KEPT = (
    b'{"messages": [{"role": "user", "content": "Do you ship?"}, {"role": "assistant", "content": "Yes."}]}'
)
"""An uploaded file with rows for training."""
NEEDS_CANARY = ("abort", "pause", "rollout", "resume")
IDS = {
    "chatcmpl": ("completions", "completion_id"),
    "dataset": ("datasets", "dataset_id"),
    "erasure": ("erasures", "erasure_id"),
    "exp": ("experiments", "experiment_id"),
    "file": ("files", "file_id"),
    "key": ("keys", "key_id"),
    "rev": ("reviews", "review_id"),
    "run": ("runs", "run_id"),
}
"""Where things are whose ids begin so."""


async def a_world(database: Database, files: Path) -> None:
    """A model with two champions one after the other, five candidates, an ended split, and people's words.

    Args:
        files: folder for the content of what was uploaded.
    """
    champion = await a_history(database)
    async with database.begin() as connection:
        await shipping.approve(connection, PROJECT, champion.name, by="ada", reason="")
        await an_ended_split(connection, champion.name)
        await shipping.promote(connection, PROJECT, champion.name, by="ada", reason="")
        for _ in range(champion.version, NEWEST_VERSION):
            await a_trained_version(connection)
        taught_rows = [
            taught(words(number), f"It may come back, {words(number)}.", **by(number)) for number in range(70)
        ]
        await record(connection, taught_rows)
        await an_uploaded_file(connection, files, KEPT)


def words(number: int) -> str:
    """Three words that are nearly no other's, and state no number."""
    letters = (
        hashlib.sha256(str(number).encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
    )
    return f"{letters[:12]} {letters[12:24]} {letters[24:36]}"


def by(number: int) -> dict[str, Any]:
    """One of twenty people, on one of many days."""
    return {"rater": f"teacher-{number % 20}", "minute": number * 90}


async def an_ended_split(connection: AsyncConnection, reference: str) -> None:
    """Traffic of both arms, with the metadata that a replay can ask about, and votes."""
    split = await shipping.start_canary(connection, PROJECT, reference, by="ada")
    rows = []
    for number in range(80):
        arm = split.arm(CANDIDATE_ARM if number % 4 == 0 else CHAMPION_ARM)
        rows.append(
            a_completion(
                adapter_id=arm.adapter_id,
                version=(await adapters.by_id(connection, arm.adapter_id)).version,
                experiment_id=split.experiment_id,
                arm=arm.arm,
                propensity=0.25 if arm.arm == CANDIDATE_ARM else 0.75,
                rater=f"met-{number}",
                unit=f"met-{number}",
                metadata=json.dumps({"plan": "pro" if number % 3 else "free"}),
            )
        )
    await insert_many(connection, rows)


class Typed(NamedTuple):
    """A command, and what is set for it alone."""

    words: list[str]
    environment: dict[str, str]


@dataclass
class World:
    """A copy of that record, a folder to type in, and what stands for the pages' examples."""

    url: str
    folder: Path

    def __post_init__(self) -> None:
        """Put the files into the folder that the pages speak of."""
        logs = self.folder / "state" / "logs"
        logs.mkdir(parents=True)
        for process in ("gateway", "worker"):
            (logs / f"{process}.log").write_text('{"event": "started", "level": "info"}\n')
        rated = json.loads((EXPORTS / "open_webui.json").read_text())
        whole = [one for one in rated if one.get("snapshot")]
        (self.folder / "feedback-history-export.json").write_text(json.dumps(whole))
        inferences = csv.read_csv(EXPORTS / "tensorzero_chat_inference.csv").slice(0, 1)
        parquet.write_table(inferences, self.folder / "inferences.parquet")
        self.first_rows("tensorzero_boolean_feedback.csv", "thumbs.csv", 2)
        self.first_rows("langfuse_scores.csv", "scores.csv", 4)
        self.first_rows("langfuse_observations.jsonl", "traces.jsonl", 3)
        self.first_rows("openai_stored.jsonl", "stored.jsonl", 1)
        questions = [{"prompt": "What is the capital of Australia?", "expected": "Canberra"}]
        golden = {"prompt": "How long may I return a lamp?", "completion": "Within 30 days of delivery."}
        (self.folder / "golden.jsonl").write_text(json.dumps(golden) + "\n")
        (self.folder / "tone.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))

    def first_rows(self, export: str, name: str, lines: int) -> None:
        """Write the first lines of an export, which hold nothing that an import refuses."""
        kept = (EXPORTS / export).read_text().splitlines()[:lines]
        (self.folder / name).write_text("\n".join(kept))

    def run(self, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        """Run `work` in one transaction on the record."""

        async def connected() -> Any:
            async with Database(self.url, pool_size=1) as database, database.begin() as connection:
                return await work(connection)

        return asyncio.run(connected())

    def read(self, line: str) -> Typed:
        """Return a command as words, with things of this record for ids that end in `...`."""
        line = re.sub(r"\b([a-z]+)-0\w*\.\.\.", lambda found: self.an_id(found.group(1)), line)
        if "..." in line:
            _, newest = self.run(audit.newest)
            line = re.sub(r"\b[0-9a-f]+\.\.\.", newest, line)
        words = shlex.split(line.replace("/srv/", f"{self.folder}/"), comments=True)
        # What a pipe reads is a program of the reader's.
        words = words[: words.index("|")] if "|" in words else words
        first = next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
        return Typed(words[first:], dict(word.split("=", 1) for word in words[:first]))

    def an_id(self, prefix: str) -> str:
        """Return the id of the newest thing whose ids begin so."""
        table, column = IDS[prefix]

        async def newest(connection: AsyncConnection) -> str:
            found = await connection.scalar(text(f"SELECT max({column}) FROM {table}"))
            return str(found)

        return str(self.run(newest))

    def get_ready(self, words: list[str]) -> None:
        """Bring versions and the split into the state that a command needs, as a page's reader has them."""
        verb = words[1] if len(words) > 1 else ""
        if verb in NEEDS_CANARY:
            self.run(self._running)
        if verb in NEEDED:
            for reference in filter(re.compile(r"\w+@\d+").fullmatch, words[2:]):
                self.run(partial(self._in_state, verb=verb, reference=reference))

    async def _running(self, connection: AsyncConnection) -> None:
        if await experiments.of_model(connection, PROJECT, "support") is None:
            reference = f"support@{NEWEST_VERSION}"
            await _set_state(connection, reference, "approved")
            await shipping.start_canary(connection, PROJECT, reference, by="ada")

    async def _in_state(self, connection: AsyncConnection, *, verb: str, reference: str) -> None:
        split = await experiments.of_model(connection, PROJECT, "support")
        if split is not None and verb == "canary":
            await shipping.abort(connection, PROJECT, "support", by="ada", reason="another begins")
        state = (await adapters.get(connection, PROJECT, reference)).state
        if state not in (NEEDED[verb], "canary" if verb == "promote" else NEEDED[verb]):
            await _set_state(connection, reference, NEEDED[verb])


async def _set_state(connection: AsyncConnection, reference: str, state: str) -> None:
    found = await adapters.get(connection, PROJECT, reference)
    await connection.execute(
        text("UPDATE adapters SET state = :state WHERE adapter_id = :adapter_id"),
        {"state": state, "adapter_id": found.adapter_id},
    )
