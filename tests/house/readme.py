"""Read the code blocks of the pages, and say how each of them is proved.

Every block is run, or checked as far as it can be, or says itself why not: a title that begins with `NOT_RUN` is
shown above the block to whoever reads the page. `python -m tests.house.readme` counts them and lists the last kind.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.house import tree

NOT_RUN = "Not run by our tests: "

ON_A_SERVICE = "run against a service"
ON_A_RECORD = "run on a record"
IN_A_BROWSER = "run in a browser"
SETTINGS = "loaded as settings"
MAKE = "make targets, tried without running"
SENT = "sent to its route, or compared with what it answers"
NOTHING = "pictures and output, nothing to run"
MARKED = "not run, and marked so"

FENCE = re.compile(
    r"(?ms)^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$"
)


class Block(NamedTuple):
    """One fenced block: the page and line that it starts on, its language, its title and its text."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def reason(self) -> str:
        """Why it is not run; empty if it is."""
        return self.title.removeprefix(NOT_RUN) if self.title.startswith(NOT_RUN) else ""

    @property
    def name(self) -> str:
        """Where it is, as a person would write it."""
        return f"{tree.name(self.page)}:{self.line}"


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a Markdown page in order: all, or those of one language."""
    page = path.read_text()
    found = [
        Block(
            path,
            page.count("\n", 0, one.start("text")) + 1,
            one["language"],
            title(one["options"]),
            one["text"],
        )
        for one in FENCE.finditer(page)
    ]
    return [block for block in found if language in (None, block.language)]


def title(options: str) -> str:
    """Return the title that a fence gives its block."""
    found = re.search(r'title="([^"]*)"', options)
    return found.group(1) if found else ""


@cache
def every_block() -> tuple[Block, ...]:
    """Return the blocks of all pages."""
    pages = [path for path in tree.files(".md") if not path.is_symlink()]
    return tuple(block for page in pages for block in blocks(page))


def proved(way: str) -> list[Block]:
    """Return the blocks that are proved in one way."""
    return [block for block in every_block() if how(block) == way]


def how(block: Block) -> str:
    """Say how a block is proved.

    Raises:
        KeyError: nothing here knows how to run such a block.
    """
    if block.title.startswith(NOT_RUN):
        return MARKED
    if block.language == "bash":
        programs = {shown.split()[0] for shown in map(without_settings, command_lines(block.text))}
        if programs <= {"hone"}:
            return ON_A_RECORD
        return MAKE if programs <= {"make"} else ON_A_SERVICE
    return {
        "python": ON_A_SERVICE,
        "js": IN_A_BROWSER,
        "html": IN_A_BROWSER,
        "toml": SETTINGS,
        "json": SENT,
        "text": NOTHING,
    }[block.language]


def command_lines(text: str) -> Iterator[str]:
    """Walk the commands of a block, each on one line."""
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line and not line.startswith("#"):
            yield line


def without_settings(line: str) -> str:
    """Return a command without what is set for it alone."""
    return re.sub(r"^(?:[A-Z_]+=\S+ +)+(?=\S)", "", line)


def summary() -> str:
    """Say how many blocks are proved in which way, and why the others are not."""
    counts = Counter(map(how, every_block()))
    lines = [f"{number:>4}  {way}" for way, number in counts.most_common()]
    return "\n".join([*lines, *(f"      {block.name}: {block.reason}" for block in proved(MARKED))])


if __name__ == "__main__":
    print(summary())
    sys.exit(0)
