import ast
import re
import shlex
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

from docs.generate import PAGES, anchors, is_group, read, render, settings_classes, walk_commands
from tests.house import tree
from tests.house.readme import blocks

PAGE_FILES = [path for path in tree.files(".md") if not path.is_symlink()]
HAND_WRITTEN = [path for path in PAGE_FILES if path.name not in PAGES]
WITH_COMMANDS = [path for path in HAND_WRITTEN if blocks(path, "bash")]
WITH_PYTHON = [path for path in HAND_WRITTEN if blocks(path, "python")]
WITH_SETTINGS = [path for path in HAND_WRITTEN if blocks(path, "toml")]


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_says_what_the_code_says(page: str) -> None:
    assert read(page) == render(page), f"docs/reference/{page} differs from the code: run `make docs`."


def test_every_error_code_has_a_heading() -> None:
    headings = set(anchors((tree.ROOT / "docs/reference/errors.md").read_text()))
    used = {code for path in tree.product() for code in error_codes(tree.parse(path))}
    assert used, "no error codes found: this test no longer looks where they are"
    assert sorted(used - headings) == []
    assert sorted(code for code in headings if "_" in code and code not in used) == [], (
        "headings of codes no longer used"
    )


def error_codes(module: ast.Module) -> set[str]:
    """Return the literal codes that a file gives to `/v1` errors."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            found |= {
                one.value.value
                for one in node.keywords
                if one.arg == "code"
                and isinstance(one.value, ast.Constant)
                and isinstance(one.value.value, str)
            }
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in node.args.kwonlyargs]
            found |= {
                value.value
                for arg, value in zip(names, node.args.kw_defaults, strict=True)
                if arg == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    return found


@pytest.mark.parametrize("page", PAGE_FILES, ids=tree.name)
def test_the_links_of_a_page_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in set(anchors(linked.read_text()))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=tree.name)
def test_commands_in_pages_exist(page: Path) -> None:
    targets, commands = make_targets(), dict(walk_commands())
    for block in blocks(page, "bash"):
        for words in typed(block.text):
            where = f"{tree.name(page)}:{block.line}: {' '.join(words)}"
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, where
            if words[0].endswith("hone"):
                path = max((p for p in commands if tuple(words[1 : len(p)]) == p[1:]), key=len)
                assert not is_group(commands[path]), f"no such command: {where}"
                # Parses and checks what was typed, and runs nothing.
                commands[path].make_context(where, words[len(path) :])


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z]+):", (tree.ROOT / "Makefile").read_text()))


def typed(text: str) -> list[list[str]]:
    """Return the commands of a block as words; a comment or an assignment is none."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [
        # What a pipe reads is a program of the reader's.
        list(takewhile(lambda word: word != "|", shlex.split(line, comments=True)))
        for line in lines
        if not line.startswith((" ", "'", "}"))
    ]
    bare = [list(drop_assignments(words)) for words in commands]
    return [words for words in bare if words]


def drop_assignments(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


@pytest.mark.parametrize("page", WITH_PYTHON, ids=tree.name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile("\n" * block.line + block.text, tree.name(page), "exec")


@pytest.mark.parametrize("page", WITH_SETTINGS, ids=tree.name)
def test_toml_blocks_are_settings_that_hold(page: Path) -> None:
    known = {one.table: one for one in settings_classes()}
    for block in blocks(page, "toml"):
        for table, values in tomllib.loads(block.text).items():
            assert set(values) <= set(known[table].model_fields), f"{tree.name(page)}:{block.line}"


def test_every_page_but_decisions_is_in_the_navigation() -> None:
    navigation = (tree.ROOT / "mkdocs.yml").read_text()
    docs = tree.ROOT / "docs"
    pages = [path.relative_to(docs) for path in PAGE_FILES if docs in path.parents]
    missing = [str(path) for path in pages if f" {path}\n" not in navigation]
    assert [name for name in missing if not name.startswith("decisions/")] == []


def test_the_newest_change_is_of_this_version() -> None:
    project = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]
    heading = re.search(r"(?m)^## (\S+)", (tree.ROOT / "CHANGELOG.md").read_text())
    assert heading is not None and heading.group(1) == project["version"]


def test_agents_and_people_read_the_same_page() -> None:
    assert (tree.ROOT / "CLAUDE.md").resolve() == tree.ROOT / "AGENTS.md"


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, waiting = set(), [tree.ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = (target.partition("#")[0] for target in re.findall(r"\]\(([^)\s:]+)\)", page.read_text()))
        waiting += [(page.parent / link).resolve() for link in links if link.endswith(".md")]
    assert [tree.name(page) for page in PAGE_FILES if page not in seen] == []
