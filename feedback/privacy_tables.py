"""The tables of forgetting: what was erased, what must not come back, which adapters it taints, where exports went.

They belong to the record like those of `feedback.tables`, which see for what a column's type means. Once an erasure is
done, nothing in them names the person: hashes under a secret, times and counts remain.
"""

from sqlalchemy import Column, DateTime, ForeignKey, Index, LargeBinary, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from feedback.tables import metadata, moment, one_of

ERASURE_KINDS = ("rater", "completion")
ERASURE_PHASES = ("requested", "record", "files", "done")

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("phase", Text, nullable=False, comment="What was finished last; a crash goes on from there."),
    Column("subject_hash", LargeBinary, nullable=False, comment="Keyed hash of the pseudonym or id."),
    Column("pending", JSONB, comment="What the next phase needs to know; NULL once done."),
    Column("counts", JSONB, nullable=False, server_default="{}", comment="Rows and files erased, by kind."),
    Column("waits_for", Text, comment="Why it is not done yet, and what to do."),
    Column("requested_by", Text, nullable=False),
    moment("retire_by", required=False),
    moment("requested_at"),
    moment("finished_at", required=False),
    one_of("kind", ERASURE_KINDS),
    one_of("phase", ERASURE_PHASES),
    Index("ix_erasures_project_requested_at", "project", "requested_at"),
    Index("uq_erasures_open", "subject_hash", unique=True, postgresql_where=text("phase <> 'done'")),
    comment="Requests to forget a rater or a completion, and how far each has got.",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("hash", LargeBinary, primary_key=True, comment="Keyed hash of a rater's pseudonym, or of an id."),
    Column("erasure_id", Text, ForeignKey("erasures.erasure_id"), nullable=False),
    Column(
        "until",
        DateTime(timezone=True),
        nullable=False,
        comment="What was made up to then is refused; the year 9999: whatever comes.",
    ),
    comment="What must not come back from a spool, a late vote or an import.",
)

tainted_adapters = Table(
    "tainted_adapters",
    metadata,
    Column("erasure_id", Text, ForeignKey("erasures.erasure_id"), primary_key=True),
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), primary_key=True),
    Column("through", Text, comment="The tainted parent it continues; NULL: its own dataset had the rows."),
    moment("retired_at", required=False),
    Index("ix_tainted_adapters_adapter_id", "adapter_id"),
    comment="Adapters that learned from what was erased.",
)

exports = Table(
    "exports",
    metadata,
    Column("export_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("host", Text, nullable=False, comment="The machine that wrote it."),
    Column("made_by", Text, nullable=False),
    moment("created_at"),
    moment("deleted_at", required=False),
    Index("ix_exports_project_created_at", "project", "created_at"),
    comment="Files that hold what was said, so that an erasure finds them.",
)
