"""The tables of what people decide about datasets: left-out rows, the review queue, the golden set.

They belong to the record like those of `feedback.tables`, which see for what a column's type means.
"""

from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.tables import metadata, moment, one_of

REVIEW_KINDS = ("completion", "correction", "proposal")
REVIEW_STATUSES = ("waiting", "included", "excluded", "corrected")

dataset_exclusions = Table(
    "dataset_exclusions",
    metadata,
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("completion_id", Text, nullable=False),
    Column("feedback_id", Text, comment="NULL: a reviewer's correction, or a proposal."),
    Index("ix_dataset_exclusions_reason", "dataset_id", "reason"),
    comment="What was said and did not become a row of a dataset, each with the reason. No text.",
)

reviews = Table(
    "reviews",
    metadata,
    Column("review_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("completion_id", Text, nullable=False),
    Column("feedback_id", Text, nullable=False, server_default="", comment="Empty: the whole completion."),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="Why it waits, or why an operator took it up."),
    Column("answer", Text, comment="The proposed or corrected answer; NULL: what the rater wrote."),
    Column("proposed_by", Text, nullable=False),
    Column("decided_by", Text),
    moment("created_at"),
    moment("decided_at", required=False),
    UniqueConstraint("completion_id", "feedback_id", "kind"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("kind", REVIEW_KINDS),
    one_of("status", REVIEW_STATUSES),
    Index("ix_reviews_project_status", "project", "model", "status"),
    comment="What a person decides before it is trained on, and what was decided.",
)

golden_items = Table(
    "golden_items",
    metadata,
    Column("golden_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("prompt", JSONB, nullable=False, comment="Plain text, or messages of {role, content}."),
    Column("answer", Text, nullable=False, comment="The right one."),
    Column("added_by", Text, nullable=False),
    moment("created_at"),
    UniqueConstraint("project", "model", "prompt_hash"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    comment="Questions that an operator keeps for evaluation: every dataset has them, none trains on them.",
)
