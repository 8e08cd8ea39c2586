"""The tables of what is watched after training: rollouts, the champion, drift, alerts.

They belong to the record like those of `feedback.tables`, which see for what a column's type means.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.table_parts import ERROR_CLASSES
from feedback.tables import metadata, moment, one_of

ALERT_STATES = ("firing", "resolved")
DRIFT_KINDS = ("input", "output", "feedback")

rollouts = Table(
    "rollouts",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    moment("paused_at", required=False),
    Column("paused_by", Text),
    Column("pause_reason", Text),
    Column(
        "accepted",
        JSONB,
        nullable=False,
        server_default="[]",
        comment="Causes of a pause that a person resumed over; they do not pause this split again.",
    ),
    Column("waiting_for", Text, comment="What the next step waits for, in words."),
    moment("updated_at"),
    comment="Where the rollout of each split stands. No row: it was never paused or looked at.",
)

verdict_looks = Table(
    "verdict_looks",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    Column(
        "minute", DateTime(timezone=True), primary_key=True, comment="The newest look of each minute is kept."
    ),
    Column("step", Integer, nullable=False),
    Column("share", Double, nullable=False, comment="The candidate's share of units."),
    Column("state", Text, nullable=False),
    Column("difference", Double, comment="Net approval, candidate less champion; NULL: too early."),
    Column("low", Double),
    Column("high", Double),
    Column("units", Integer, nullable=False, comment="Units of every arm."),
    Column("rated_units", Integer, nullable=False),
    Column(
        "candidates",
        JSONB,
        comment="Of several candidates: state, difference, low and high of each, by arm. The columns: the leading one.",
    ),
    comment="The verdicts of each split over time: what a worker saw when it looked.",
)

champion_watches = Table(
    "champion_watches",
    metadata,
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), primary_key=True),
    moment("since"),
    Column("report", JSONB, nullable=False, comment="The newest monitoring.champion.Watched."),
    moment("rolled_back_at", required=False),
    moment("checked_at"),
    comment="How each champion does since its promotion, against the time before.",
)

removed_files = Table(
    "removed_files",
    metadata,
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), primary_key=True),
    moment("removed_at"),
    comment="Versions whose files the retention policy removed: they cannot answer again.",
)

shadow_answers = Table(
    "shadow_answers",
    metadata,
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), primary_key=True),
    Column("completion_id", Text, primary_key=True, comment="Whose question was asked again."),
    Column("status", Text, nullable=False, comment="ok or error"),
    Column("error", Text),
    Column("error_class", Text, comment="Whose failure it was; NULL where there was none."),
    Column("finish_reason", Text),
    Column("refused", Boolean, nullable=False, server_default="false"),
    Column("same_text", Boolean, nullable=False, server_default="false", comment="Word for word the same."),
    Column("output_tokens", Integer),
    Column("duration_seconds", Double, nullable=False),
    moment("created_at"),
    one_of("error_class", ERROR_CLASSES),
    CheckConstraint("(status = 'ok') = (error_class IS NULL)", name="error_has_class"),
    comment="How versions without traffic answered real questions. Nobody saw these answers; no text is kept.",
)

drift_reports = Table(
    "drift_reports",
    metadata,
    Column("report_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column(
        "adapter_id", Text, comment="The version whose answers were compared; NULL for prompts and feedback."
    ),
    Column("reference_from", DateTime(timezone=True), nullable=False),
    Column("window_from", DateTime(timezone=True), nullable=False),
    Column("window_to", DateTime(timezone=True), nullable=False),
    Column("rows", Integer, nullable=False, comment="Completions in the window."),
    Column("drifted", Boolean, nullable=False, comment="This window alone differs from the reference."),
    Column("alarm", Boolean, nullable=False, comment="So did enough windows before it, one after the other."),
    Column("tests", JSONB, nullable=False, comment="Each test with its p-value and one sentence."),
    Column("sentence", Text, nullable=False),
    Column("page", Text, comment="Evidently's HTML report, relative to the state directory."),
    moment("created_at"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("kind", DRIFT_KINDS),
    Index("ix_drift_reports_model", "project", "model", "kind", "window_to"),
    comment="Windows of traffic compared with a reference window.",
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="The version that it is about; empty: the model."),
    Column("state", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("sentence", Text, nullable=False, comment="What is wrong, with numbers."),
    Column(
        "seen", Integer, nullable=False, server_default="1", comment="How often it was found while firing."
    ),
    moment("fired_at"),
    moment("seen_at"),
    moment("resolved_at", required=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("state", ALERT_STATES),
    Index(
        "uq_alerts_firing",
        "project",
        "model",
        "rule",
        "subject",
        unique=True,
        postgresql_where=text("state = 'firing'"),
    ),
    comment="What needs a person, once for as long as it lasts.",
)

silences = Table(
    "silences",
    metadata,
    Column("silence_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rule", Text, nullable=False, comment="A rule's name, or * for all."),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    moment("created_at"),
    comment="Alerts that nobody is told of for a while; they fire and resolve all the same.",
)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("alert_id", Text, ForeignKey("alerts.alert_id"), nullable=False),
    Column("channel", Text, nullable=False, comment="webhook, slack or email"),
    Column("event", Text, nullable=False, comment="alert.firing or alert.resolved"),
    Column("message", JSONB, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, comment="Why the last attempt failed."),
    moment("next_attempt_at"),
    moment("delivered_at", required=False),
    moment("given_up_at", required=False),
    moment("created_at"),
    Index(
        "ix_alert_deliveries_waiting",
        "next_attempt_at",
        postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
    ),
    comment="Messages on their way, written with the alert and kept until they arrive.",
)
