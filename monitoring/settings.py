"""Settings of what is shown and told: console, alerts, traces, logs."""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from feedback.settings import HoneSettings


class MonitoringSettings(HoneSettings):
    """How operators reach the console, and what the service tells of itself."""

    table: ClassVar[str] = "monitoring"

    console_host: str = "127.0.0.1"
    """Address the console listens on. Past this machine, put a proxy with TLS in front and set `console_behind_tls`."""

    console_port: int = Field(8002, ge=0, le=65535)
    """Port the console listens on; 0 takes a free one."""

    console_session_hours: float = Field(12.0, gt=0)
    """How long a person stays signed in, in hours. Revoking the key ends it at once."""

    console_behind_tls: bool = False
    """Whether browsers reach the console over HTTPS: the session cookie is then never sent without it."""

    console_live_seconds: float = Field(2.0, ge=0.2)
    """How often an open page looks for something new in the record, in seconds."""

    console_gateway_url: str = "http://127.0.0.1:8000"
    """The gateway that the console's playground asks. `hone up` sets it to its own."""

    console_engine_api_key: SecretStr | None = None
    """Key of the engines, where they were started with one: comparing two versions asks the engines themselves."""

    alert_webhook_url: str | None = None
    """Where alerts are posted, signed as standardwebhooks.com describes. Unset: nowhere."""
    alert_webhook_secret: SecretStr | None = None
    """Key of the signature: `whsec_` and 24 to 64 random bytes in base64."""
    alert_slack_url: SecretStr | None = None
    """Slack's incoming webhook for alerts. Whoever knows it can write there."""
    alert_email_to: tuple[str, ...] = ()
    """Who gets alerts by e-mail."""
    alert_email_from: str = "hone@localhost"
    """Sender of those e-mails."""
    alert_smtp_url: SecretStr | None = None
    """Mail server, `smtp://user:password@host:587`, or `smtps://` for TLS from the start."""

    traces_url: str | None = None
    """OpenTelemetry collector that gateways send spans to, `http://host:4318/v1/traces`. Unset: none are made."""
    traces_share: float = Field(1.0, ge=0, le=1)
    """Share of traces that begin here and are sent; a client's trace goes on as the client decided."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """How processes write what they do. `auto`: words on a terminal, JSON lines anywhere else."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""
    log_completions: Literal["failed", "all", "none"] = "failed"
    """Which completions get a line in the gateway's log."""
    log_texts: bool = False
    """Whether those lines say what was asked and answered. A log outlives every retention and erasure."""

    price_currency: str = "USD"
    """What the prices are in."""
    price_engine_hour: float | None = Field(None, ge=0)
    """What an hour of a working engine costs. Prices that are not set make no amounts."""
    price_training_hour: float | None = Field(None, ge=0)
    """What an hour of training and evaluating costs."""
    price_million_prompt_tokens: float | None = Field(None, ge=0)
    """What a million tokens of questions cost."""
    price_million_output_tokens: float | None = Field(None, ge=0)
    """What a million tokens of answers cost."""
    price_upstream_million_prompt_tokens: float | None = Field(None, ge=0)
    """What the upstream takes for a million tokens of questions."""
    price_upstream_million_output_tokens: float | None = Field(None, ge=0)
    """What the upstream takes for a million tokens of answers."""
