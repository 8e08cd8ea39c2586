"""The tables of the record, and nothing else: what each column means, what the database itself forbids.

The migrations build exactly these tables (a test compares). Times are `timestamptz`, durations are seconds,
`jsonb` holds what arrived from outside or what only people read. Feedback names its completion without a foreign
key, because a rating may arrive before the row of the answer it rates.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.completion_tables import completion_redacted as completion_redacted
from feedback.completion_tables import completion_texts as completion_texts
from feedback.completion_tables import completions as completions
from feedback.table_parts import ADAPTER_STATES as ADAPTER_STATES
from feedback.table_parts import COMPLETION_STATUSES as COMPLETION_STATUSES
from feedback.table_parts import ENGINE_ADAPTER_STATES as ENGINE_ADAPTER_STATES
from feedback.table_parts import EXPERIMENT_STATUSES as EXPERIMENT_STATUSES
from feedback.table_parts import FEEDBACK_KINDS as FEEDBACK_KINDS
from feedback.table_parts import METHODS as METHODS
from feedback.table_parts import ROLES as ROLES
from feedback.table_parts import RUN_PHASES as RUN_PHASES
from feedback.table_parts import RUN_STATUSES as RUN_STATUSES
from feedback.table_parts import SEQUENCES as SEQUENCES
from feedback.table_parts import SPLITS as SPLITS
from feedback.table_parts import metadata as metadata
from feedback.table_parts import moment as moment
from feedback.table_parts import one_of as one_of

secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    moment("created_at"),
    comment="Keys that this service made for itself: signing feedback tokens, pseudonyms.",
)

projects = Table(
    "projects",
    metadata,
    Column("project", Text, primary_key=True),
    moment("created_at"),
    comment="Tenants. Nothing of one is visible to another.",
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.project"), nullable=False),
    Column("role", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, comment="First characters, to recognise a key by."),
    Column("key_hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the whole key."),
    Column("requests_per_minute", Integer, comment="NULL: unlimited."),
    moment("created_at"),
    moment("expires_at", required=False),
    moment("revoked_at", required=False),
    one_of("role", ROLES),
    comment="API keys, hashed. A key belongs to one project and has one role.",
)

models = Table(
    "models",
    metadata,
    Column("project", Text, ForeignKey("projects.project"), primary_key=True),
    Column("model", Text, primary_key=True, comment="The alias that clients ask for."),
    Column(
        "base_model", Text, nullable=False, comment="Path or hub name of the weights under every adapter."
    ),
    Column("policy", JSONB, nullable=False, comment="feedback.policy.ModelPolicy"),
    moment("created_at"),
    moment("updated_at"),
    comment="Stable names, each with its base model and its policy.",
)

adapters = Table(
    "adapters",
    metadata,
    Column(
        "adapter_id", Text, primary_key=True, comment="Name in the engine and of the directory; never reused."
    ),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False, comment="0 is the base model itself."),
    Column("state", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("path", Text, comment="Directory or fsspec URL of the files; NULL for version 0."),
    Column("files_hash", Text, comment="SHA-256 over the published files."),
    Column("run_id", Text),
    Column("replaces", Text, comment="The champion that a promotion replaced."),
    Column("gate", JSONB, comment="The gate's report: decision, reasons, checks."),
    Column("evidence_hash", Text, comment="SHA-256 of the gate's report, named by every later decision."),
    Column("fingerprint", JSONB, comment="What the probe saw when the adapter was first loaded."),
    moment("aborted_at", required=False),
    moment("created_at"),
    moment("updated_at"),
    UniqueConstraint("project", "model", "version"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("state", ADAPTER_STATES),
    Index(
        "uq_adapters_champion", "project", "model", unique=True, postgresql_where=text("state = 'champion'")
    ),
    comment="Adapter versions: immutable weights, and the state each is in.",
)

experiments = Table(
    "experiments",
    metadata,
    Column("experiment_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column(
        "salt",
        Text,
        nullable=False,
        comment="Mixed into every assignment, so that experiments are independent.",
    ),
    Column("step", Integer, nullable=False, server_default="0", comment="Index into the rollout's steps."),
    Column(
        "policy_version", Text, nullable=False, comment="Hash of the policy under which units are assigned."
    ),
    Column("verdict", JSONB, comment="The newest monitoring.verdict.Verdict."),
    Column("outcome", Text, comment="promoted, aborted or superseded; NULL while running."),
    Column("reason", Text),
    Column(
        "allocation", Text, comment="How several arms share people; NULL: one candidate, one growing share."
    ),
    Column("uniform_share", Double, nullable=False, server_default="1", comment="Units that decide, of all."),
    moment("started_at"),
    moment("step_started_at"),
    moment("ended_at", required=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("status", EXPERIMENT_STATUSES),
    Index(
        "uq_experiments_running", "project", "model", unique=True, postgresql_where=text("status = 'running'")
    ),
    comment="A/B splits of a model's traffic.",
)

arms = Table(
    "arms",
    metadata,
    Column("experiment_id", Text, ForeignKey("experiments.experiment_id"), primary_key=True),
    Column("arm", Text, primary_key=True, comment="champion, candidate, candidate-2 and so on"),
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), nullable=False),
    Column("weight", Double, nullable=False, comment="Share of units, 0 to 1; the arms sum to 1."),
    moment("ended_at", required=False),
    Column("reason", Text, comment="Why it was taken back before the others."),
    CheckConstraint("weight >= 0 AND weight <= 1", name="weight"),
    comment="The versions that an experiment compares.",
)

engines = Table(
    "engines",
    metadata,
    Column("engine", Text, primary_key=True, comment="Base URL of the replica."),
    Column("base_model", Text, nullable=False),
    Column("healthy", Boolean, nullable=False),
    Column("detail", Text, comment="The last error, in words."),
    Column(
        "limits",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="max_loras, max_lora_rank, max_model_len",
    ),
    moment("checked_at"),
    comment="Engine replicas as the gateways last saw them.",
)

engine_adapters = Table(
    "engine_adapters",
    metadata,
    Column("engine", Text, ForeignKey("engines.engine", ondelete="CASCADE"), primary_key=True),
    Column("adapter_id", Text, ForeignKey("adapters.adapter_id"), primary_key=True),
    Column("state", Text, nullable=False),
    Column("detail", Text),
    moment("checked_at"),
    one_of("state", ENGINE_ADAPTER_STATES),
    comment="Which replica holds which version, and whether it passed the probe.",
)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("content_hash", Text, nullable=False, comment="Equal content, equal hash."),
    Column("selection", JSONB, nullable=False, comment="The query and thresholds that chose the rows."),
    Column("counts", JSONB, nullable=False, comment="Rows per split, and exclusions with reasons."),
    Column(
        "balance",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="How the rows are spread: retrain.balance.",
    ),
    moment("created_at"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("method", (*METHODS, *SEQUENCES)),
    comment="Frozen training and held-out rows of one run.",
)

dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True),
    Column("row_number", Integer, primary_key=True),
    Column("split", Text, nullable=False),
    Column("method", Text, nullable=False, comment="Whose columns the row has."),
    Column("row_hash", Text, nullable=False),
    Column("columns", JSONB, nullable=False, comment="TRL's columns for the method."),
    Column("rater", Text),
    Column("completion_ids", ARRAY(Text), nullable=False),
    Column("feedback_ids", ARRAY(Text), nullable=False),
    one_of("split", SPLITS),
    one_of("method", METHODS),
    Index("ix_dataset_rows_completion_ids", "completion_ids", postgresql_using="gin"),
    comment="The rows of a dataset, each with the completions and feedback it came from.",
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("recipe", JSONB, nullable=False),
    Column("recipe_hash", Text, nullable=False),
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id"), nullable=False),
    Column("adapter_id", Text, comment="Reserved at the start, published when training ends."),
    Column(
        "progress", JSONB, nullable=False, server_default="{}", comment="step, steps, loss, seconds, memory"
    ),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, comment="What went wrong and what to do."),
    Column("requested_by", Text, nullable=False),
    Column("cancel_requested", Boolean, nullable=False, server_default="false"),
    Column("pause_requested", Boolean, nullable=False, server_default="false"),
    moment("created_at"),
    moment("started_at", required=False),
    moment("finished_at", required=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("method", (*METHODS, *SEQUENCES)),
    one_of("status", RUN_STATUSES),
    one_of("phase", RUN_PHASES),
    comment="Training runs: a frozen recipe on a frozen dataset.",
)

run_events = Table(
    "run_events",
    metadata,
    Column("event_id", BigInteger, Identity(), primary_key=True),
    Column("run_id", Text, ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSONB, nullable=False, server_default="{}"),
    moment("at"),
    one_of("level", ("info", "warn", "error")),
    comment="What a run did, in order.",
)

feedback = Table(
    "feedback",
    metadata,
    Column("feedback_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("completion_id", Text, comment="What it is about; NULL: a conversation."),
    Column("session", Text, comment="The conversation it is about; NULL: a completion."),
    Column("rater", Text, nullable=False, comment="Who says it: a pseudonym, or anonymous."),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False, comment="thumbs, a declared metric, or a signal."),
    Column(
        "value",
        JSONB,
        nullable=False,
        comment="true/false, number, text, messages, or the other completion's id.",
    ),
    Column("comment", Text),
    Column("metadata", JSONB),
    Column("idempotency_id", Text),
    Column("effective", Boolean, nullable=False, comment="False once changed or retracted."),
    Column("key_id", Text, comment="NULL when a feedback token was used."),
    moment("created_at"),
    moment("received_at"),
    moment("replaced_at", required=False),
    moment("retracted_at", required=False),
    one_of("kind", FEEDBACK_KINDS),
    CheckConstraint("num_nonnulls(completion_id, session) = 1", name="target"),
    Index(
        "uq_feedback_effective",
        "project",
        "completion_id",
        "rater",
        "kind",
        "name",
        unique=True,
        postgresql_where=text("effective"),
    ),
    Index(
        "uq_feedback_effective_session",
        "project",
        "session",
        "rater",
        "kind",
        "name",
        unique=True,
        postgresql_where=text("effective AND session IS NOT NULL"),
    ),
    Index("ix_feedback_completion_id", "completion_id"),
    Index(
        "uq_feedback_idempotency",
        "project",
        "idempotency_id",
        unique=True,
        postgresql_where=text("idempotency_id IS NOT NULL"),
    ),
    Index("ix_feedback_project_created_at", "project", "created_at"),
    comment="What people said, history included; one effective row per target, rater, kind and name.",
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("project", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    moment("at"),
    comment="Who did what, on which evidence; each row carries the hash of the one before it.",
)

# Registers its tables in `metadata`; it needs what stands above.
from feedback import evaluation_tables as evaluation_tables  # noqa: E402
from feedback import exposure_tables as exposure_tables  # noqa: E402
from feedback import import_tables as import_tables  # noqa: E402
from feedback import privacy_tables as privacy_tables  # noqa: E402
from feedback import review_tables as review_tables  # noqa: E402
from feedback import tuning_tables as tuning_tables  # noqa: E402
from feedback import vote_tables as vote_tables  # noqa: E402
from feedback import watch_tables as watch_tables  # noqa: E402
