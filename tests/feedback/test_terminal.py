"""How commands speak: what is there to be copied can be copied."""

import io

import pytest
from rich.console import Console
from sqlalchemy.engine import make_url

from feedback import keys, terminal
from feedback.errors import HoneError
from feedback.ids import new_id
from feedback.terminal import in_record, show_rows

ROW = {
    "run_id": new_id("run"),
    "model": "support",
    "status": "succeeded",
    "adapter_id": "support--v1-2dd6bbe5",
    "says": "a sentence that is longer than what is left of the line, and may be folded as often as need be",
}


@pytest.mark.parametrize("width", [80, 100, 200])
def test_an_id_is_never_cut_where_others_can_fold(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=said, width=width, force_terminal=True))
    show_rows([ROW], tuple(ROW), as_json=False, empty="")
    assert ROW["run_id"] in said.getvalue()
    assert ROW["adapter_id"] in said.getvalue()


def test_a_listing_in_a_pipe_has_a_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=said))
    show_rows([ROW], tuple(ROW), as_json=False, empty="")
    assert [len(said.getvalue().splitlines()), ROW["says"] in said.getvalue()] == [2, True]


@pytest.mark.parametrize(
    "wrong", [{"database": "none_such"}, {"port": 9}, {"username": "nobody", "password": "x"}]
)
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(
    database_url: str, wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(database_url).set(**wrong)  # type: ignore[arg-type]
    monkeypatch.setenv("HONE_DATABASE_URL", url.render_as_string(hide_password=False))
    with pytest.raises(HoneError, match=r"The database cannot be used: .+ `hone doctor` looks\."):
        in_record(keys.active)
