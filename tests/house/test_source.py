import ast
import re
from pathlib import Path

import pytest

from tests.house import tree

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b|\bfor now\b", re.IGNORECASE)

PRODUCT = tree.product()

# Written once and never changed: the steps of the schema, and the phrases that the demonstration's people use.
NOT_READ_AS_CODE = [path for path in PRODUCT if "migrations" in path.parts or path.stem == "phrases"]
READ_AS_CODE = [path for path in PRODUCT if path not in NOT_READ_AS_CODE]


def test_there_is_a_product() -> None:
    assert {path.relative_to(tree.ROOT).parts[0] for path in PRODUCT} == set(tree.PACKAGES)


def test_no_file_is_too_long_to_read() -> None:
    long = {
        tree.name(path): lines
        for path in READ_AS_CODE
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert not long, f"More than {FILE_LINES_MAX} lines ask to be divided: {long}"


def test_no_function_is_too_long_to_read() -> None:
    long = {
        f"{tree.name(path)}:{function.name}": length
        for path in READ_AS_CODE
        for function in tree.functions(tree.parse(path))
        if (length := tree.own_lines(function)) > FUNCTION_LINES_MAX
    }
    assert not long, f"More than {FUNCTION_LINES_MAX} lines ask to be divided: {long}"


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{tree.name(path)}:{number}: {line.strip()}"
        for path in tree.files(".py", ".html", ".js", ".css", ".yaml", ".toml", ".sql", under=tree.PACKAGES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line) and not path.name.endswith(".min.js")
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_promises() -> None:
    silent = [tree.name(path) for path in PRODUCT if not ast.get_docstring(tree.parse(path))]
    assert silent == []


def test_suppressions_say_what_they_suppress_and_why() -> None:
    bare = [
        f"{tree.name(path)}:{number}"
        for path in tree.files(".py", under=(*tree.PACKAGES, "tests", "docs", "requirements"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*(noqa|type:\s*ignore)(?!.*[:\[])", line)
    ]
    assert bare == []


@pytest.mark.parametrize("folder", ["common", "core", "utils", "helpers"])
def test_a_helper_lives_with_its_first_user(folder: str) -> None:
    assert not [path for path in PRODUCT if folder in (*path.relative_to(tree.ROOT).parts, path.stem)]


def test_test_names_are_sentences() -> None:
    short = [
        f"{tree.name(path)}: {function.name}"
        for path in tree.files(".py", under=("tests",))
        if path.name.startswith("test_")
        for function in tree.functions(tree.parse(path))
        if function.name.startswith("test_") and function.name.count("_") < 3
    ]
    assert not short, f"A test's name says what behaves how: {short}"


def test_the_repository_names_no_machine_of_its_makers() -> None:
    private = re.compile(r"/work/(main|shared|\.library)|/opt/wheels|/opt/pypi|/tmp/w/")
    this = Path(__file__)
    found = [
        tree.name(path)
        for path in tree.files(".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".html")
        if path != this and private.search(path.read_text())
    ]
    assert found == []
