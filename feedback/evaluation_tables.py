"""The table of what two versions answered during an evaluation; see `feedback.tables` for the types."""

from sqlalchemy import Boolean, Column, Double, ForeignKey, ForeignKeyConstraint, Integer, Table, Text

from feedback.tables import metadata

evaluation_answers = Table(
    "evaluation_answers",
    metadata,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("dataset_id", Text, primary_key=True),
    Column("row_number", Integer, primary_key=True),
    Column("champion_answer", Text, nullable=False),
    Column("candidate_answer", Text, nullable=False),
    Column("champion_score", Double, nullable=False),
    Column("candidate_score", Double, nullable=False),
    Column("champion_repeats_it", Boolean, nullable=False, comment="Still the answer that was voted down."),
    Column("candidate_repeats_it", Boolean, nullable=False),
    # An answer may repeat the words of the prompt: it goes when the row goes.
    ForeignKeyConstraint(
        ["dataset_id", "row_number"],
        ["dataset_rows.dataset_id", "dataset_rows.row_number"],
        ondelete="CASCADE",
    ),
    comment="What champion and candidate answered to the held-out rows of a run's dataset.",
)
