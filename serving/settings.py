"""Settings of the gateway and of the engines behind it."""

from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from feedback.settings import HoneSettings


class ServingSettings(HoneSettings):
    """How the gateway listens, relays and records."""

    table: ClassVar[str] = "serving"

    gateway_host: str = "127.0.0.1"
    """Address the gateway listens on. Any other than loopback needs an API key to exist first."""

    gateway_port: int = Field(8000, ge=0, le=65535)
    """Port the gateway listens on; 0 takes a free one."""

    gateway_drain_seconds: float = Field(60.0, ge=0)
    """How long answers under way may go on after SIGTERM, in seconds."""

    gateway_fast_lane: bool = True
    """Serve the relayed routes inside uvicorn's protocol. Off: the same routes as plain ASGI, at a lower rate."""

    engine_urls: tuple[str, ...] = ()
    """Base URLs of the engine replicas. Empty: the one that `hone up` starts on this machine."""

    engine_api_key: SecretStr | None = None
    """What the engines expect as their own API key, if they were started with one."""

    engine_connect_timeout_seconds: float = Field(2.0, gt=0)
    """Longest wait for a connection to an engine."""

    engine_first_byte_timeout_seconds: float = Field(300.0, gt=0)
    """Longest wait for the first byte of an answer: a whole answer, or a stream behind a long queue."""

    engine_idle_stream_timeout_seconds: float = Field(60.0, gt=0)
    """Longest silence inside a stream that has begun."""

    engine_keep_alive_seconds: float = Field(4.0, gt=0)
    """How long an unused connection to an engine is kept. Must be shorter than the engine's own (vLLM: 5 s)."""

    engine_python: Path | None = None
    """Interpreter that has vLLM. Unset: `.venv-engine` beside Hone's own environment, else Hone's own."""

    engine_model: str | None = None
    """Base model of `hone engine`, a directory or a hub name. Unset: the one base model that the registry names."""

    engine_host: str = "127.0.0.1"
    """Address `hone engine` listens on. Only gateways may reach it: an engine loads any file it is told to."""

    engine_port: int = Field(8001, ge=1, le=65535)
    """Port `hone engine` listens on."""

    engine_max_loras: int = Field(4, ge=1)
    """Adapter versions that can run in one step: champion, canary, one under evaluation, and one to spare."""

    engine_max_cpu_loras: int = Field(16, ge=2)
    """Adapter versions that the engine keeps in memory. One is left free for the next load."""

    engine_max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Largest rank the engine accepts. Memory is reserved for this rank, whatever the adapters have."""

    engine_max_model_length_tokens: int | None = Field(None, ge=1)
    """Prompt and answer together, in tokens. Unset: what the model allows and memory holds."""

    engine_gpu_memory_share: float = Field(0.6, gt=0, le=1)
    """Share of the GPU's memory for the engine. The rest is for training on the same GPU; 0.9 if none happens there."""

    engine_cpu_kv_cache_gib: int = Field(1, ge=1)
    """Memory for attention keys and values on a CPU, in GiB."""

    engine_cpu_threads: int | None = Field(None, ge=1)
    """Computing threads on a CPU. Unset: half of the cores."""

    engine_http_keep_alive_seconds: int = Field(120, ge=1)
    """How long the engine keeps an idle connection open. Must be longer than `engine_keep_alive_seconds`."""

    engine_shutdown_timeout_seconds: int = Field(30, ge=0)
    """How long answers under way may take to finish when the engine is asked to stop."""

    engine_tool_parser: str = "hermes"
    """How the base model writes tool calls, as vLLM names it: `hermes` for Qwen 2.5 and 3, `llama3_json`, `mistral`.
    Empty: the engine refuses requests with tools."""

    engine_arguments: tuple[str, ...] = ()
    """More flags for vLLM, each word by itself: ["--max-num-seqs", "64"]."""

    engine_adapter_dir: Path | None = None
    """Where adapters published at a URL are copied to; every engine must see this path. Unset: the state directory."""

    upstream_url: str | None = None
    """Any OpenAI-compatible API, `https://host/v1`, that answers while no engine can. Unset: none.
    A model's policy decides whether it may (`upstream.enabled`)."""

    upstream_api_key: SecretStr | None = None
    """What the upstream expects as its API key."""

    upstream_model: str | None = None
    """What the upstream calls the model to ask, where a model's policy does not name one."""

    upstream_connect_timeout_seconds: float = Field(5.0, gt=0)
    """Longest wait for a connection to the upstream."""

    upstream_first_byte_timeout_seconds: float = Field(60.0, gt=0)
    """Longest wait for the first byte of the upstream's answer."""

    engine_watch: bool = True
    """Look after the engines from this gateway: load, probe, unload.
    Off: what other gateways found is read from the record."""

    engine_check_seconds: float = Field(2.0, gt=0)
    """Pause between two looks at an engine."""

    engine_unload_grace_seconds: float = Field(30.0, ge=0)
    """How long a version stays loaded after it is no longer wanted and its last request ended."""

    engine_probe_tolerance_nats: float = Field(0.3, gt=0)
    """Largest mean difference of log-probabilities between a probe and the version's first one."""

    request_bytes_max: int = Field(16 * 1024 * 1024, gt=0)
    """Longest request body that is read, in bytes."""

    spool_bytes_max: int = Field(4 * 1024**3, gt=0)
    """Most bytes of completions and feedback that wait on disk for the database."""

    record_batch_rows_max: int = Field(1024, gt=0)
    """Most completions in one insert."""

    record_interval_seconds: float = Field(0.2, gt=0)
    """Pause between two inserts into the record."""

    record_in_own_process: bool = True
    """Record in a process beside the gateway's, so that the gateway's core only answers. Off: in the gateway itself."""

    registry_refresh_seconds: float = Field(2.0, gt=0)
    """How often the routing table is read again when no notification came."""

    @field_validator("upstream_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError("expected such as https://host/v1, with the key in upstream_api_key")
        return value
