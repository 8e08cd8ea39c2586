"""The console as a process: what keeps it from starting is told in a sentence."""

import pytest
from sqlalchemy.engine import make_url

from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from monitoring.console.server import serve
from monitoring.settings import MonitoringSettings
from tests.ports import free_port


def test_a_database_that_is_away_is_told_before_anything_listens(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = make_url(database_url).set(port=free_port()).render_as_string(hide_password=False)
    monkeypatch.setenv("HONE_DATABASE_URL", away)
    with pytest.raises(HoneError, match="The database cannot be used: "):
        serve(MonitoringSettings(console_port=free_port()), FeedbackSettings.load())
