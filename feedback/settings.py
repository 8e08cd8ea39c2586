"""Settings of the record, and the one way every package reads its settings.

A settings class is frozen, refuses unknown keys, and reads, in this order of precedence, the environment
(`HONE_<FIELD>`) and its own table of `hone.toml`. Field names are unique over all packages, so an environment
variable means one thing. A model's policy is not a setting: it lives in the record and changes while running.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from feedback.addresses import read_networks
from feedback.errors import HoneError
from feedback.mistakes import explain

TABLES = ("feedback", "monitoring", "serving", "retrain", "deploy")


def config_file() -> Path:
    """Where `hone.toml` is read from: `$HONE_CONFIG`, else the working directory. It need not exist."""
    return Path(os.environ.get("HONE_CONFIG", "hone.toml"))


def read_config_file(path: Path) -> dict[str, Any]:
    """Read `hone.toml`; an absent file is an empty one.

    Raises:
        HoneError: the file is not TOML, or has a table or key that no package reads.
    """
    if not path.exists():
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise HoneError(f"{path} is not valid TOML: {error}. Correct that line.") from error
    for name, value in tables.items():
        if name not in TABLES or not isinstance(value, dict):
            known = ", ".join(f"[{table}]" for table in TABLES)
            raise HoneError(f"{path} has '{name}' at its top level; expected only the tables {known}.")
    return tables


class HoneSettings(BaseSettings):
    """Base of every package's settings; subclasses name their table."""

    model_config = SettingsConfigDict(
        env_prefix="HONE_",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        env_ignore_empty=True,
    )
    table: ClassVar[str]

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Resolve the settings from the environment and `hone.toml`; `overrides` win over both.

        Raises:
            HoneError: a value is not what the field expects, or a key is unknown.
        """
        try:
            return cls(**overrides)
        except SettingsError as error:
            raise HoneError(
                f"{error}: expected JSON for a setting that is a list, such as "
                """HONE_ENGINE_URLS='["http://10.0.0.5:8000"]'. `hone config` shows what holds."""
            ) from error
        except ValidationError as error:
            wrong = explain(error.errors(), cls)
            raise HoneError(
                f"Setting [{cls.table}] {wrong} "
                f"Set it in {config_file()} or as HONE_{wrong.field.upper()}; `hone config` shows what holds."
            ) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit values, then the environment, then the package's table of `hone.toml`."""
        return init_settings, env_settings, _TableSource(settings_cls, cls.table)


class _TableSource(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], table: str) -> None:
        super().__init__(settings_cls)
        self.values: dict[str, Any] = read_config_file(config_file()).get(table, {})

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.values


class FeedbackSettings(HoneSettings):
    """Where the record lives."""

    table: ClassVar[str] = "feedback"

    state_dir: Path = Path(".hone")
    """Directory for everything this machine keeps: embedded database, spool, adapters, runs, logs."""

    database_url: SecretStr | None = None
    """PostgreSQL (15 or newer) as `postgresql://user:password@host/name`.
    Unset: the embedded one that `hone up` starts."""

    feedback_token_lifetime_days: int = 30
    """How long a browser may rate an answer with the signed token that came with it, in days."""

    text_retention_days: int = Field(30, ge=0)
    """How long what was said is kept as it was said, in days; 0: for ever."""

    redacted_retention_days: int = Field(365, ge=0)
    """How long redacted copies are kept, in days; 0: for ever."""

    feedback_text_retention_days: int = Field(365, ge=0)
    """How long comments and corrected answers are kept, in days; votes stay. 0: for ever."""

    completion_retention_days: int = Field(0, ge=0)
    """How long it is kept which version answered whom and how it went, in days; 0: for ever.
    What was asked and answered goes with it at the latest: nobody could tell any more whose it was, and erase it."""

    feedback_bytes_max: int = Field(256 * 1024, gt=0)
    """Longest body of a feedback request, in bytes."""

    feedback_text_chars_max: int = Field(65_536, gt=0)
    """Longest comment or corrected answer, in characters."""

    feedback_rater_requests_per_minute: int | None = Field(60, ge=1)
    """How often one rater may send feedback. Each gateway counts for itself."""

    feedback_address_requests_per_minute: int | None = Field(300, ge=1)
    """How often one address may send feedback with tokens. Many people may share one address."""

    feedback_key_requests_per_minute: int | None = Field(None, ge=1)
    """How often one API key may send feedback, for all of its raters together."""

    trusted_proxies: tuple[str, ...] = ()
    """Proxies whose `X-Forwarded-For` or `Forwarded` is believed, as addresses or networks: ["10.0.0.0/8"].
    Empty: none is, and the peer is the client."""

    public_url: str | None = None
    """Where browsers reach the gateway, such as https://llm.example. Unset: addresses given out are paths."""

    files_url: str | None = None
    """Where uploaded training files lie: a directory or an fsspec URL (`s3://bucket/files`) that gateways and the
    worker can reach. Unset: the folder `files` of the state directory."""

    file_bytes_max: int = Field(512 * 2**20, gt=0)
    """Longest file that may be uploaded, in bytes."""

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        read_networks(value)
        return value

    @property
    def absolute_state_dir(self) -> Path:
        """The state directory as an absolute path: the engine needs absolute adapter paths."""
        return self.state_dir.expanduser().absolute()

    def resolve_database_url(self) -> str:
        """The database to use: the configured one, else the embedded one's address in the state directory.

        Raises:
            HoneError: neither is there.
        """
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        address = self.absolute_state_dir / "postgres.url"
        if not address.exists():
            raise HoneError(
                f"No database: HONE_DATABASE_URL is unset and {address} does not exist. "
                "Start one with `hone up`, or set HONE_DATABASE_URL=postgresql://user:password@host/name."
            )
        return address.read_text().strip()
