"""The tables behind verdicts: what each unit of a running experiment met and said, summed, and what changed since.

`exposure_changes` is written by triggers on `completions` and `feedback`, in the transaction of the change itself, so
nothing can change unnoticed. `feedback.exposure_sums` reads it. See `feedback.tables` for what a column's type means.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.tables import metadata, moment, one_of

exposure_changes = Table(
    "exposure_changes",
    metadata,
    Column("change_id", BigInteger, Identity(), primary_key=True),
    Column("experiment_id", Text, comment="NULL: a vote, on a completion that is still to be looked up."),
    Column("unit", Text),
    Column("day", Date),
    Column("completion_id", Text, comment="What was voted on."),
    comment="Units and days of experiments whose sums are no longer right. Emptied by every look: no index pays.",
)

exposure_sums = Table(
    "exposure_sums",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("day", Date, primary_key=True, comment="That of the completions' ids."),
    Column("arm", Text, primary_key=True),
    Column("propensity", Double, primary_key=True),
    Column("allocation", Integer, primary_key=True, comment="0: the experiment has only one."),
    Column("requests", BigInteger, nullable=False, comment="Older than the maturation window."),
    Column("ups", BigInteger, nullable=False),
    Column("downs", BigInteger, nullable=False),
    Column("exposed", BigInteger, nullable=False, comment="Every completion, like all that follows."),
    Column("bad", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    moment("met_at"),
    moment("bad_at", required=False),
    moment("error_at", required=False),
    Column("aborted", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("regenerated", BigInteger, nullable=False),
    Column("first_tokens", BigInteger, nullable=False),
    Column("log_first_token_nano", BigInteger, nullable=False, comment="Natural logarithms, in 1e-9: exact."),
    Column("later_tokens", BigInteger, nullable=False),
    Column("log_later_token_nano", BigInteger, nullable=False),
    Column("answers", BigInteger, nullable=False),
    Column("log_answer_tokens_nano", BigInteger, nullable=False),
    moment("ripens_at", required=False),
    Index(
        "ix_exposure_sums_ripens_at",
        "experiment_id",
        "ripens_at",
        postgresql_where=text("ripens_at IS NOT NULL"),
    ),
    comment="What each unit of a running experiment met and said, by day, arm and propensity.",
)

experiment_totals = Table(
    "experiment_totals",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    Column("basis", Text, nullable=False, comment="Hash of the rules they were summed by; else: sum again."),
    Column("totals", JSONB, nullable=False, comment="monitoring.totals.Totals"),
    moment("updated_at"),
    comment="Sums over the units of each running experiment: all that its verdict needs.",
)

null_adapters = Table(
    "null_adapters",
    metadata,
    Column(
        "adapter_id",
        Text,
        ForeignKey("adapters.adapter_id"),
        primary_key=True,
        comment="The version that is compared with the base.",
    ),
    Column(
        "null_id",
        Text,
        ForeignKey("adapters.adapter_id"),
        nullable=False,
        comment="What answers as the base beside it.",
    ),
    comment="Adapters of zeros, of the same shape: what any adapter costs, without any of what it says.",
)

allocations = Table(
    "allocations",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    Column(
        "allocation",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="Never used twice in an experiment.",
    ),
    Column("slice", Text, nullable=False, comment="uniform or adaptive"),
    Column(
        "pieces",
        JSONB,
        nullable=False,
        comment="Arms and widths from 0 upwards; the rest of the line is the champion's.",
    ),
    Column("shares", JSONB, nullable=False, comment="The probability of each arm."),
    Column("reason", Text, nullable=False),
    moment("at"),
    one_of("slice", ("uniform", "adaptive")),
    comment="How each slice of an experiment with several arms was shared out, and when. Only grows.",
)
