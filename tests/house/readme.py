"""Read the code blocks of a page, so that a test can run what the page tells a person to type."""

import re
from pathlib import Path
from typing import NamedTuple


class Block(NamedTuple):
    """One fenced block: the line of the page that it starts on, and its text."""

    line: int
    text: str


def blocks(path: Path, language: str) -> list[Block]:
    """Return the fenced blocks of one language in a Markdown page, in order."""
    page = path.read_text()
    found = re.finditer(rf"(?ms)^```{re.escape(language)}[^\n]*\n(.*?)^```[ ]*$", page)
    return [Block(page.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]
