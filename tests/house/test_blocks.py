"""Every code block of every page is run by a test, or says above itself why not."""

import ast

import pytest

from tests.house.readme import MARKED, NOTHING, Block, every_block, how, proved, summary

COMMANDS = ("hone ", "make ", "curl ", "pip ", "python", "docker ", "SELECT ", "CREATE ", "export ", "$ ")


def test_somebody_knows_how_to_run_every_block(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = [f"{block.name} [{block.language}]" for block in every_block() if not knows(block)]
    assert not unknown, f"tests.house.readme says how each language is proved; it does not know {unknown}"
    with capsys.disabled():
        print(f"\ncode blocks of all pages:\n{summary()}")


def knows(block: Block) -> bool:
    try:
        how(block)
    except KeyError:
        return False
    return True


def test_a_block_that_is_not_run_says_why() -> None:
    assert [block.name for block in proved(MARKED) if len(block.reason) < 10] == []


def test_what_could_be_run_does_not_hide_as_plain_text() -> None:
    hidden = [
        block.name
        for block in proved(NOTHING)
        if any(line.startswith(COMMANDS) for line in block.text.splitlines()) or is_python(block.text)
    ]
    assert hidden == []


def is_python(text: str) -> bool:
    try:
        return any(isinstance(one, ast.Assign | ast.Import | ast.ImportFrom) for one in ast.parse(text).body)
    except SyntaxError:
        return False
