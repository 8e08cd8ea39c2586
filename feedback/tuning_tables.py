"""The tables behind OpenAI's fine-tuning calls, requests for runs, and searches for a recipe.

They belong to the record like those of `feedback.tables`, which see for what a column's type means.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from feedback.tables import METHODS, metadata, moment, one_of

JOB_STATUSES = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
RUN_REQUEST_KINDS = ("plan", "now", "dataset", "search")
RUN_REQUEST_STATUSES = ("waiting", "running", "done", "refused")
SAMPLERS = ("bayesian", "random", "grid")
TRIAL_STATUSES = ("complete", "pruned", "failed")

files = Table(
    "files",
    metadata,
    Column("file_id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.project"), nullable=False),
    Column("filename", Text, nullable=False, comment="As the client called it; never a path here."),
    Column("purpose", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("location", Text, nullable=False, comment="Path or fsspec URL of the content."),
    Column("uploaded_by", Text, nullable=False),
    moment("created_at"),
    Index("ix_files_project_created_at", "project", "created_at"),
    comment="Uploaded training and validation files; the content lies outside the database.",
)

fine_tuning_jobs = Table(
    "fine_tuning_jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False, comment="The alias whose next version the job trains."),
    Column("asked_model", Text, nullable=False, comment="What the client named."),
    Column("start_from", Text, comment="The adapter to continue from; NULL: the base model."),
    Column("method", Text, nullable=False),
    Column("hyperparameters", JSONB, nullable=False, comment="As asked for; 'auto' where left open."),
    Column("training_file", Text, nullable=False),
    Column("validation_file", Text),
    Column("suffix", Text),
    Column("seed", BigInteger, nullable=False),
    Column("metadata", JSONB),
    Column("status", Text, nullable=False, comment="Before there is a run, and once it has ended."),
    Column("error", JSONB, comment="code, message and param, as OpenAI's clients read them."),
    Column("run_id", Text, ForeignKey("runs.run_id")),
    Column("fine_tuned_model", Text, comment="The ft: name; it answers once an engine holds the version."),
    Column("trained_tokens", BigInteger),
    Column("result_files", ARRAY(Text), nullable=False, server_default="{}"),
    Column("cancel_requested", Boolean, nullable=False, server_default="false"),
    Column("requested_by", Text, nullable=False),
    moment("created_at"),
    moment("finished_at", required=False),
    moment("withdrawn_at", required=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("method", METHODS),
    one_of("status", JOB_STATUSES),
    Index("ix_fine_tuning_jobs_project_created_at", "project", "created_at"),
    Index("ix_fine_tuning_jobs_run_id", "run_id"),
    comment="Fine-tuning jobs asked for over OpenAI's API; each drives one run.",
)

run_requests = Table(
    "run_requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="plan: say what a run would do; now: queue it; dataset: freeze its rows; search: for a recipe.",
    ),
    Column("method", Text, comment="NULL: what the model's policy says."),
    Column("recipe", JSONB, nullable=False, comment="Overrides of the recipe."),
    Column("search", JSONB, comment="Of a search: how many trials, and the sampler."),
    Column("status", Text, nullable=False),
    Column("plan", JSONB, comment="What the worker planned."),
    Column("refusal", Text, comment="Why there is no run, in words."),
    Column("run_id", Text, ForeignKey("runs.run_id")),
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id"), comment="What a dataset request froze."),
    Column("search_id", Text, comment="What a search's trials are kept under, once it began."),
    Column("requested_by", Text, nullable=False),
    moment("created_at"),
    moment("finished_at", required=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("kind", RUN_REQUEST_KINDS),
    one_of("status", RUN_REQUEST_STATUSES),
    Index("ix_run_requests_status", "status"),
    comment="Plans, runs, datasets and searches asked for over HTTP; the worker answers.",
)

search_trials = Table(
    "search_trials",
    metadata,
    Column("search_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("dataset_id", Text, ForeignKey("datasets.dataset_id"), nullable=False),
    Column("recipe", JSONB, nullable=False),
    Column("recipe_hash", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("loss", Double, comment="Mean loss on rows the trial did not train on; NULL where it failed."),
    Column("detail", JSONB, nullable=False, comment="Loss by fold, and what went wrong."),
    Column("duration_seconds", Double, nullable=False),
    moment("created_at"),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    one_of("status", TRIAL_STATUSES),
    comment="What a search for a recipe tried, failures included.",
)
