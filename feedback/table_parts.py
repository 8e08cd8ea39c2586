"""What every table of the record is made with: the one metadata, its names, and the words that columns may hold."""

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, func

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ROLES = ("app", "operator", "admin")
ADAPTER_STATES = ("trained", "candidate", "approved", "canary", "champion", "retired", "rejected", "control")
RUN_STATUSES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
RUN_PHASES = ("training", "publishing", "evaluating", "done")
METHODS = ("sft", "dpo", "kto")
SEQUENCES = ("sft+dpo", "sft+kto")
"""Methods that a run may use one after the other."""
SPLITS = ("train", "held_out", "time_forward", "golden")
FEEDBACK_KINDS = ("rating", "comment", "demonstration", "preference", "signal")
COMPLETION_STATUSES = ("ok", "error", "aborted")
ERROR_CLASSES = ("caller", "model", "infrastructure", "unknown")
ENGINE_ADAPTER_STATES = ("loaded", "ready", "failed")
EXPERIMENT_STATUSES = ("running", "ended")


def moment(name: str, *, required: bool = True) -> "Column[object]":
    """A `timestamptz` column: now unless said otherwise, or NULL until it happens."""
    default = func.now() if required else None
    return Column(name, DateTime(timezone=True), nullable=not required, server_default=default)


def one_of(column: str, allowed: tuple[str, ...]) -> CheckConstraint:
    """A constraint that refuses other words."""
    values = ", ".join(f"'{value}'" for value in allowed)
    return CheckConstraint(f"{column} IN ({values})", name=column)
