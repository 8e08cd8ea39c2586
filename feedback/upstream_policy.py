"""The part of a model's policy about answers from elsewhere, while no engine of ours can give one."""

from pydantic import Field

from feedback.sections import Section


class UpstreamPolicy(Section):
    """Whether the gateway's upstream may answer in the place of this model's versions."""

    enabled: bool = False
    """Whether it is asked when no engine can answer. What people write then leaves this service."""
    model: str | None = Field(None, min_length=1)
    """What the upstream calls the model to ask. Unset: what the setting `upstream_model` says."""
    train: bool = False
    """Whether its answers may be trained on, where there is consent. The upstream's terms may forbid it."""
