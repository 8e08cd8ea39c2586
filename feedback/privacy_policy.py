"""What a model's policy says about personal data in what people write."""

from typing import Literal

from feedback.sections import Section


class PrivacyPolicy(Section):
    """What is replaced by placeholders before it is stored."""

    redaction: Literal["off", "training", "everything"] = "off"
    """`off`: text is kept as it was said. `training`: beside it a redacted copy, the only one that is trained on.
    `everything`: nothing but the redacted copy is ever written down, not even to the spool."""
    presidio: bool = False
    """Whether Presidio's pattern recognisers look too; needs the extra `privacy` where gateways run."""


NOTHING_REDACTED = PrivacyPolicy()
