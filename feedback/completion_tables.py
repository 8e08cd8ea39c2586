"""The tables of completions.

A completion is three rows: what it was and how it went, what was said in it, and a redacted copy of that. Each table is
partitioned by the day that its id carries, so that one can be dropped when its time is over, and keeps what lives
longer. The database computes that day (`completion_day`), so an id exists once over all partitions. See
`feedback.tables` for what a column's type means.
"""

from datetime import date

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Double,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.table_parts import COMPLETION_STATUSES, ERROR_CLASSES, metadata, moment, one_of


def _day() -> "tuple[Column[date], CheckConstraint]":
    day = Column("day", Date, primary_key=True, comment="The day in the id: completion_day(completion_id).")
    return day, CheckConstraint("day = completion_day(completion_id)", name="day")


def _said() -> "tuple[Column[object], ...]":
    return (
        Column("request", JSONB, nullable=False, comment="The body as it arrived, without the raw rater id."),
        Column("output_text", Text, nullable=False),
        Column("message", JSONB, comment="The assistant message as the client got it."),
        Column("metadata", JSONB),
    )


def _by_metadata(table: str) -> Index:
    return Index(
        f"ix_{table}_metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=text("metadata IS NOT NULL"),
    )


completions = Table(
    "completions",
    metadata,
    Column("completion_id", Text, primary_key=True),
    *_day(),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("adapter_id", Text, comment="NULL: an upstream answered."),
    Column("version", Integer, comment="NULL: an upstream answered."),
    Column("fallback_for", Integer, comment="The version that should have answered, where another one did."),
    Column("upstream", Text, comment="What the upstream that answered calls its model."),
    Column("experiment_id", Text),
    Column("arm", Text),
    Column("propensity", Double, comment="Probability with which the unit got this arm."),
    Column(
        "allocation", Integer, comment="Which allocation drew the arm; NULL: the experiment has only one."
    ),
    Column("policy_version", Text, comment="Hash of the model's policy that was in force."),
    Column(
        "unit", Text, nullable=False, comment="What assignment was sticky to: rater, session or completion."
    ),
    Column("rater", Text, comment="Pseudonym of the end user."),
    Column("session", Text),
    Column("key_id", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("consent", Boolean, nullable=False, comment="May be trained on."),
    Column("status", Text, nullable=False),
    Column("error", Text),
    Column("error_class", Text, comment="Whose failure it was; NULL where there was none."),
    Column("finish_reason", Text),
    Column(
        "refused",
        Boolean,
        nullable=False,
        server_default="false",
        comment="The answer declines, by its first words or its finish reason.",
    ),
    Column("prompt_tokens", Integer),
    Column("output_tokens", Integer),
    Column("time_to_first_token_seconds", Double),
    Column("time_per_output_token_seconds", Double),
    Column("duration_seconds", Double, nullable=False),
    moment("created_at"),
    moment("recorded_at"),
    one_of("status", COMPLETION_STATUSES),
    one_of("error_class", ERROR_CLASSES),
    CheckConstraint("(status = 'ok') = (error_class IS NULL)", name="error_has_class"),
    CheckConstraint(
        "(upstream IS NULL) = (version IS NOT NULL) AND (upstream IS NULL) = (adapter_id IS NOT NULL)",
        name="who_answered",
    ),
    Index("ix_completions_project_model_created_at", "project", "model", "created_at"),
    Index(
        "ix_completions_experiment_id",
        "experiment_id",
        "unit",
        postgresql_where=text("experiment_id IS NOT NULL"),
    ),
    Index(
        "ix_completions_experiment_failures",
        "experiment_id",
        "arm",
        "error_class",
        postgresql_where=text("experiment_id IS NOT NULL AND error_class IS NOT NULL"),
    ),
    Index("ix_completions_rater", "rater", postgresql_where=text("rater IS NOT NULL")),
    Index("ix_completions_session", "session", postgresql_where=text("session IS NOT NULL")),
    postgresql_partition_by="RANGE (day)",
    comment="Every answered request, once: what answered, for whom, how it went. A partition a month.",
)

completion_texts = Table(
    "completion_texts",
    metadata,
    Column("completion_id", Text, primary_key=True),
    *_day(),
    *_said(),
    Column("prompt_token_ids", ARRAY(Integer)),
    Column("output_token_ids", ARRAY(Integer)),
    _by_metadata("completion_texts"),
    postgresql_partition_by="RANGE (day)",
    comment="What was asked and answered, as it was said. Short-lived: a partition a day.",
)

completion_redacted = Table(
    "completion_redacted",
    metadata,
    Column("completion_id", Text, primary_key=True),
    *_day(),
    *_said(),
    Column("found", JSONB, nullable=False, comment='How many of each type were replaced: {"EMAIL": 1}.'),
    _by_metadata("completion_redacted"),
    postgresql_partition_by="RANGE (day)",
    comment="The same without what the redaction found in it, where the policy asks for that. A partition a day.",
)
