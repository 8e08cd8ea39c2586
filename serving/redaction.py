"""Where in the gateway a model's redaction happens.

`everything`: before the spool, since that is a file, too; the last bytes of an answer wait for it. `training`: in the
drain, beside the answers. A completion that cannot be redacted is lost, not stored: the recorder counts it.
"""

from typing import Any

import orjson

from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import redact_row
from serving.spool import COMPLETION, ROW
from serving.transcript import SEPARATOR, read_row

MARK = b'"privacy":{"redaction":"training"'
Part = bytes | bytearray


def pack(head: dict[str, Any], raw: bytearray, privacy: PrivacyPolicy) -> tuple[int, tuple[Part, ...]]:
    """The record of a finished completion for the spool: its kind, and the parts of its payload."""
    if privacy.redaction == "training":
        head["privacy"] = privacy.model_dump()
    payload = (orjson.dumps(head), SEPARATOR, raw)
    if privacy.redaction == "everything":
        return ROW, (redact_row(read_row(b"".join(payload)), privacy),)
    return COMPLETION, payload


def read_completion(payload: bytes) -> bytes:
    """The row of a spooled completion, with its redacted copy where its policy asks for one."""
    row = read_row(payload)
    if MARK not in row:
        return row
    # The mark may stand in what the client sent: only the gateway's own field decides.
    asked = orjson.loads(row).get("privacy")
    return redact_row(row, PrivacyPolicy.model_validate(asked)) if asked else row


def read_redacted(payload: bytes) -> bytes:
    """A row that was redacted before it was spooled."""
    return payload
