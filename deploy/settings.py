"""Settings of `hone up`, and all packages' settings together."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field

from feedback.settings import FeedbackSettings, HoneSettings
from monitoring.settings import MonitoringSettings
from retrain.settings import RetrainSettings
from serving.settings import ServingSettings


class DeploySettings(HoneSettings):
    """How `hone up` runs the processes of one machine."""

    table: ClassVar[str] = "deploy"

    postgres_port: int | None = Field(None, ge=1, le=65535)
    """Loopback port of the embedded PostgreSQL. Unset: a free one, kept from then on."""

    restart_pause_seconds_max: float = Field(30.0, gt=0)
    """Longest pause before a process that keeps dying is started again."""

    log_bytes_max: int = Field(20_000_000, ge=100_000)
    """Size at which a process's log is moved aside; one older file is kept."""

    engine_start_timeout_seconds: float = Field(1800.0, gt=0)
    """How long an engine may take to be ready. Downloading and loading a large model takes many minutes."""

    engine_hung_seconds: float = Field(300.0, ge=10)
    """An engine that runs but has not answered `/health` for this long is killed and started again."""

    gateway_hung_seconds: float = Field(60.0, ge=10)
    """A gateway that runs but has not answered `/status` for this long is killed and started again."""


@dataclass(frozen=True)
class Settings:
    """The settings of every package, resolved together."""

    feedback: FeedbackSettings
    monitoring: MonitoringSettings
    serving: ServingSettings
    retrain: RetrainSettings
    deploy: DeploySettings

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Resolve all of them; an override goes to the package that has a field of its name.

        Raises:
            HoneError: a value is not what its field expects, or a key is unknown.
        """

        def own(package: type[HoneSettings]) -> dict[str, Any]:
            return {name: value for name, value in overrides.items() if name in package.model_fields}

        return cls(
            feedback=FeedbackSettings.load(**own(FeedbackSettings)),
            monitoring=MonitoringSettings.load(**own(MonitoringSettings)),
            serving=ServingSettings.load(**own(ServingSettings)),
            retrain=RetrainSettings.load(**own(RetrainSettings)),
            deploy=DeploySettings.load(**own(DeploySettings)),
        )


CLASSES: tuple[type[HoneSettings], ...] = (
    FeedbackSettings,
    MonitoringSettings,
    ServingSettings,
    RetrainSettings,
    DeploySettings,
)
"""Every settings class, in the order of the import direction, lowest first."""
