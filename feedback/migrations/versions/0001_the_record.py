"""The record."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DAY = "The day in the id: completion_day(completion_id)."
PARTITIONED = ("completions", "completion_texts", "completion_redacted")

COMPLETION_DAY = """
CREATE FUNCTION completion_day(completion_id text) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN DATE '1970-01-01' + CASE
    -- Two cheap tests: one pattern for the whole id costs four times as much, at every row.
    WHEN completion_id LIKE '%-0___________7___________________' AND right(completion_id, 32) ~ '^[0-9a-f]*$'
    THEN (('x' || substr(right(completion_id, 32), 1, 12))::bit(48)::bigint / 86400000)::integer
    ELSE 0
END
"""

MAKE_PARTITIONS = """
CREATE FUNCTION make_partitions(first_day date, last_day date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    span text;
    pattern text;
    start date;
    partition text;
    made integer := 0;
BEGIN
    FOR parent, span, pattern IN VALUES
        ('completions', 'month', '_YYYY_MM'),
        ('completion_texts', 'day', '_YYYY_MM_DD'),
        ('completion_redacted', 'day', '_YYYY_MM_DD')
    LOOP
        start := date_trunc(span, greatest(first_day, DATE '2000-01-01')::timestamp)::date;
        WHILE start <= last_day LOOP
            partition := parent || to_char(start::timestamp, pattern);
            IF to_regclass(partition) IS NULL THEN
                PERFORM pg_advisory_xact_lock(x'686F6E68'::bigint);
            END IF;
            -- Read from the table itself: waiting for the lock does not refresh what to_regclass has cached.
            IF NOT EXISTS (SELECT FROM pg_class WHERE relname = partition AND relkind = 'r') THEN
                -- Attached, not created in place: that would stop every reader and writer of the parent.
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
                EXECUTE format(
                    'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent, partition, start, (start + ('1 ' || span)::interval)::date
                );
                made := made + 1;
            END IF;
            start := (start + ('1 ' || span)::interval)::date;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$
"""

ERASURE_HASH = """
CREATE FUNCTION erasure_hash(subject text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256((SELECT value FROM secrets WHERE name = 'erasure') || convert_to(subject, 'UTF8'))
"""

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Table % only grows: % is refused.', TG_TABLE_NAME, TG_OP
        USING HINT = 'Write another entry that corrects this one.';
END
$$;
"""

EXPOSURE_TRIGGERS = (
    """
CREATE FUNCTION note_exposure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO exposure_changes (experiment_id, unit, day) VALUES (OLD.experiment_id, OLD.unit, OLD.day);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO exposure_changes (experiment_id, unit, day) VALUES (NEW.experiment_id, NEW.unit, NEW.day);
    END IF;
    RETURN NULL;
END
$$
""",
    """
CREATE FUNCTION note_votes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- By its completion's id alone: the completion may be on its way in a transaction that this one cannot see.
    INSERT INTO exposure_changes (completion_id)
    SELECT completion_id FROM changed
    WHERE kind IN ('rating', 'signal') AND completion_id IS NOT NULL
      AND project IN (SELECT project FROM experiments WHERE status = 'running');
    RETURN NULL;
END
$$
""",
    "CREATE TRIGGER exposure_arrives AFTER INSERT ON completions "
    "FOR EACH ROW WHEN (NEW.experiment_id IS NOT NULL) EXECUTE FUNCTION note_exposure()",
    "CREATE TRIGGER exposure_changes AFTER UPDATE OR DELETE ON completions "
    "FOR EACH ROW WHEN (OLD.experiment_id IS NOT NULL) EXECUTE FUNCTION note_exposure()",
    *(
        f"CREATE TRIGGER votes_{verb.lower()} AFTER {verb} ON feedback "
        f"REFERENCING {which} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_votes()"
        for verb, which in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)
"""A change notes itself, in its own transaction, for the sums behind the verdicts (feedback.exposure_sums)."""

AUDIT_TRIGGERS = (
    "CREATE TRIGGER audit_rows_stay BEFORE UPDATE OR DELETE ON audit "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER audit_stays BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_hash")),
        comment="Who did what, on which evidence; each row carries the hash of the one before it.",
    )
    op.execute(COMPLETION_DAY)
    op.create_table(
        "completions",
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment=DAY),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("adapter_id", sa.Text(), nullable=True, comment="NULL: an upstream answered."),
        sa.Column("version", sa.Integer(), nullable=True, comment="NULL: an upstream answered."),
        sa.Column(
            "fallback_for",
            sa.Integer(),
            nullable=True,
            comment="The version that should have answered, where another one did.",
        ),
        sa.Column(
            "upstream",
            sa.Text(),
            nullable=True,
            comment="What the upstream that answered calls its model.",
        ),
        sa.Column("experiment_id", sa.Text(), nullable=True),
        sa.Column("arm", sa.Text(), nullable=True),
        sa.Column(
            "propensity", sa.Double(), nullable=True, comment="Probability with which the unit got this arm."
        ),
        sa.Column(
            "allocation",
            sa.Integer(),
            nullable=True,
            comment="Which allocation drew the arm; NULL: the experiment has only one.",
        ),
        sa.Column(
            "policy_version",
            sa.Text(),
            nullable=True,
            comment="Hash of the model's policy that was in force.",
        ),
        sa.Column(
            "unit",
            sa.Text(),
            nullable=False,
            comment="What assignment was sticky to: rater, session or completion.",
        ),
        sa.Column("rater", sa.Text(), nullable=True, comment="Pseudonym of the end user."),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("consent", sa.Boolean(), nullable=False, comment="May be trained on."),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "error_class",
            sa.Text(),
            nullable=True,
            comment="Whose failure it was; NULL where there was none.",
        ),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column(
            "refused",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="The answer declines, by its first words or its finish reason.",
        ),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("time_to_first_token_seconds", sa.Double(), nullable=True),
        sa.Column("time_per_output_token_seconds", sa.Double(), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('ok', 'error', 'aborted')", name=op.f("ck_completions_status")),
        sa.CheckConstraint(
            "error_class IN ('caller', 'model', 'infrastructure', 'unknown')",
            name=op.f("ck_completions_error_class"),
        ),
        sa.CheckConstraint(
            "(status = 'ok') = (error_class IS NULL)", name=op.f("ck_completions_error_has_class")
        ),
        sa.CheckConstraint(
            "(upstream IS NULL) = (version IS NOT NULL) AND (upstream IS NULL) = (adapter_id IS NOT NULL)",
            name=op.f("ck_completions_who_answered"),
        ),
        sa.CheckConstraint("day = completion_day(completion_id)", name=op.f("ck_completions_day")),
        sa.PrimaryKeyConstraint("completion_id", "day", name=op.f("pk_completions")),
        postgresql_partition_by="RANGE (day)",
        comment="Every answered request, once: what answered, for whom, how it went. A partition a month.",
    )
    op.create_index(
        "ix_completions_experiment_id",
        "completions",
        ["experiment_id", "unit"],
        unique=False,
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )
    op.create_index(
        "ix_completions_experiment_failures",
        "completions",
        ["experiment_id", "arm", "error_class"],
        unique=False,
        postgresql_where=sa.text("experiment_id IS NOT NULL AND error_class IS NOT NULL"),
    )
    op.create_index(
        "ix_completions_project_model_created_at",
        "completions",
        ["project", "model", "created_at"],
        unique=False,
    )
    op.create_index(
        "ix_completions_rater",
        "completions",
        ["rater"],
        unique=False,
        postgresql_where=sa.text("rater IS NOT NULL"),
    )
    op.create_index(
        "ix_completions_session",
        "completions",
        ["session"],
        unique=False,
        postgresql_where=sa.text("session IS NOT NULL"),
    )
    op.create_table(
        "completion_texts",
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment=DAY),
        sa.Column(
            "request",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The body as it arrived, without the raw rater id.",
        ),
        sa.Column("output_text", sa.Text(), nullable=False),
        sa.Column(
            "message",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The assistant message as the client got it.",
        ),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("prompt_token_ids", sa.ARRAY(sa.Integer()), nullable=True),
        sa.Column("output_token_ids", sa.ARRAY(sa.Integer()), nullable=True),
        sa.CheckConstraint("day = completion_day(completion_id)", name=op.f("ck_completion_texts_day")),
        sa.PrimaryKeyConstraint("completion_id", "day", name=op.f("pk_completion_texts")),
        postgresql_partition_by="RANGE (day)",
        comment="What was asked and answered, as it was said. Short-lived: a partition a day.",
    )
    op.create_table(
        "completion_redacted",
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment=DAY),
        sa.Column(
            "request",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The body as it arrived, without the raw rater id.",
        ),
        sa.Column("output_text", sa.Text(), nullable=False),
        sa.Column(
            "message",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The assistant message as the client got it.",
        ),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "found",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment='How many of each type were replaced: {"EMAIL": 1}.',
        ),
        sa.CheckConstraint("day = completion_day(completion_id)", name=op.f("ck_completion_redacted_day")),
        sa.PrimaryKeyConstraint("completion_id", "day", name=op.f("pk_completion_redacted")),
        postgresql_partition_by="RANGE (day)",
        comment="The same without what the redaction found in it, where the policy asks for that. A partition a day.",
    )
    for table in PARTITIONED[1:]:
        op.create_index(
            f"ix_{table}_metadata",
            table,
            ["metadata"],
            unique=False,
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
            postgresql_where=sa.text("metadata IS NOT NULL"),
        )
    for parent in PARTITIONED:
        # Ids that carry no day, and days that cannot be: rows there are deleted, never dropped.
        op.execute(
            f"CREATE TABLE {parent}_other PARTITION OF {parent} FOR VALUES FROM (MINVALUE) TO ('2000-01-01')"
        )
    op.execute(MAKE_PARTITIONS)
    op.create_table(
        "engines",
        sa.Column("engine", sa.Text(), nullable=False, comment="Base URL of the replica."),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("healthy", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True, comment="The last error, in words."),
        sa.Column(
            "limits",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="max_loras, max_lora_rank, max_model_len",
        ),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("engine", name=op.f("pk_engines")),
        comment="Engine replicas as the gateways last saw them.",
    )
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column(
            "completion_id", sa.Text(), nullable=True, comment="What it is about; NULL: a conversation."
        ),
        sa.Column(
            "session", sa.Text(), nullable=True, comment="The conversation it is about; NULL: a completion."
        ),
        sa.Column("rater", sa.Text(), nullable=False, comment="Who says it: a pseudonym, or anonymous."),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="thumbs, a declared metric, or a signal."),
        sa.Column(
            "value",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="true/false, number, text, messages, or the other completion's id.",
        ),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("idempotency_id", sa.Text(), nullable=True),
        sa.Column("effective", sa.Boolean(), nullable=False, comment="False once changed or retracted."),
        sa.Column("key_id", sa.Text(), nullable=True, comment="NULL when a feedback token was used."),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retracted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('rating', 'comment', 'demonstration', 'preference', 'signal')",
            name=op.f("ck_feedback_kind"),
        ),
        sa.CheckConstraint("num_nonnulls(completion_id, session) = 1", name=op.f("ck_feedback_target")),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_feedback")),
        comment="What people said, history included; one effective row per target, rater, kind and name.",
    )
    op.create_index("ix_feedback_project_created_at", "feedback", ["project", "created_at"], unique=False)
    op.create_index(
        "uq_feedback_effective",
        "feedback",
        ["project", "completion_id", "rater", "kind", "name"],
        unique=True,
        postgresql_where=sa.text("effective"),
    )
    op.create_index(
        "uq_feedback_effective_session",
        "feedback",
        ["project", "session", "rater", "kind", "name"],
        unique=True,
        postgresql_where=sa.text("effective AND session IS NOT NULL"),
    )
    op.create_index("ix_feedback_completion_id", "feedback", ["completion_id"], unique=False)
    op.create_table(
        "token_raters",
        sa.Column("completion_id", sa.Text(), nullable=False, comment="The answer that the token came with."),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column(
            "rater", sa.Text(), nullable=False, comment="Who used the token first; nobody else may use it."
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("completion_id", name=op.f("pk_token_raters")),
        comment="Whose a feedback token is that was signed without a rater.",
    )
    op.create_table(
        "retractions",
        sa.Column("feedback_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column(
            "rater", sa.Text(), nullable=True, comment="Who took it back with a token; NULL: an API key did."
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_retractions")),
        comment="What was taken back while the database was away, and had not arrived then.",
    )
    op.create_index(
        "uq_feedback_idempotency",
        "feedback",
        ["project", "idempotency_id"],
        unique=True,
        postgresql_where=sa.text("idempotency_id IS NOT NULL"),
    )
    op.create_table(
        "projects",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_projects")),
        comment="Tenants. Nothing of one is visible to another.",
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
        comment="Keys that this service made for itself: signing feedback tokens, pseudonyms.",
    )
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="First characters, to recognise a key by."),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the whole key."),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True, comment="NULL: unlimited."),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('app', 'operator', 'admin')", name=op.f("ck_keys_role")),
        sa.ForeignKeyConstraint(["project"], ["projects.project"], name=op.f("fk_keys_project")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_keys_key_hash")),
        comment="API keys, hashed. A key belongs to one project and has one role.",
    )
    op.create_table(
        "models",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="The alias that clients ask for."),
        sa.Column(
            "base_model",
            sa.Text(),
            nullable=False,
            comment="Path or hub name of the weights under every adapter.",
        ),
        sa.Column(
            "policy",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="feedback.policy.ModelPolicy",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.project"], name=op.f("fk_models_project")),
        sa.PrimaryKeyConstraint("project", "model", name=op.f("pk_models")),
        comment="Stable names, each with its base model and its policy.",
    )
    op.create_table(
        "adapters",
        sa.Column(
            "adapter_id",
            sa.Text(),
            nullable=False,
            comment="Name in the engine and of the directory; never reused.",
        ),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="0 is the base model itself."),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column(
            "path",
            sa.Text(),
            nullable=True,
            comment="Directory or fsspec URL of the files; NULL for version 0.",
        ),
        sa.Column("files_hash", sa.Text(), nullable=True, comment="SHA-256 over the published files."),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("replaces", sa.Text(), nullable=True, comment="The champion that a promotion replaced."),
        sa.Column(
            "gate",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The gate's report: decision, reasons, checks.",
        ),
        sa.Column(
            "evidence_hash",
            sa.Text(),
            nullable=True,
            comment="SHA-256 of the gate's report, named by every later decision.",
        ),
        sa.Column(
            "fingerprint",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the probe saw when the adapter was first loaded.",
        ),
        sa.Column("aborted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('trained', 'candidate', 'approved', 'canary', 'champion', 'retired', 'rejected', "
            "'control')",
            name=op.f("ck_adapters_state"),
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name=op.f("fk_adapters_project_model")
        ),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("project", "model", "version", name=op.f("uq_adapters_project_model_version")),
        comment="Adapter versions: immutable weights, and the state each is in.",
    )
    op.create_index(
        "uq_adapters_champion",
        "adapters",
        ["project", "model"],
        unique=True,
        postgresql_where=sa.text("state = 'champion'"),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False, comment="Equal content, equal hash."),
        sa.Column(
            "selection",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The query and thresholds that chose the rows.",
        ),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Rows per split, and exclusions with reasons.",
        ),
        sa.Column(
            "balance",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="How the rows are spread: retrain.balance.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "method IN ('sft', 'dpo', 'kto', 'sft+dpo', 'sft+kto')", name=op.f("ck_datasets_method")
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name=op.f("fk_datasets_project_model")
        ),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_datasets")),
        comment="Frozen training and held-out rows of one run.",
    )
    op.create_table(
        "experiments",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "salt",
            sa.Text(),
            nullable=False,
            comment="Mixed into every assignment, so that experiments are independent.",
        ),
        sa.Column(
            "step",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Index into the rollout's steps.",
        ),
        sa.Column(
            "policy_version",
            sa.Text(),
            nullable=False,
            comment="Hash of the policy under which units are assigned.",
        ),
        sa.Column(
            "verdict",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="The newest monitoring.verdict.Verdict.",
        ),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=True,
            comment="promoted, aborted or superseded; NULL while running.",
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "allocation",
            sa.Text(),
            nullable=True,
            comment="How several arms share people; NULL: one candidate, one growing share.",
        ),
        sa.Column(
            "uniform_share",
            sa.Double(),
            server_default="1",
            nullable=False,
            comment="Units that decide, of all.",
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "step_started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('running', 'ended')", name=op.f("ck_experiments_status")),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_experiments_project_model"),
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_experiments")),
        comment="A/B splits of a model's traffic.",
    )
    op.create_index(
        "uq_experiments_running",
        "experiments",
        ["project", "model"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "arms",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False, comment="champion, candidate, candidate-2 and so on"),
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column(
            "weight", sa.Double(), nullable=False, comment="Share of units, 0 to 1; the arms sum to 1."
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it was taken back before the others."),
        sa.CheckConstraint("weight >= 0 AND weight <= 1", name=op.f("ck_arms_weight")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_arms_adapter_id")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.experiment_id"], name=op.f("fk_arms_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", "arm", name=op.f("pk_arms")),
        comment="The versions that an experiment compares.",
    )
    op.create_table(
        "dataset_rows",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("row_number", sa.Integer(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column(
            "method",
            sa.Text(),
            nullable=False,
            comment="Whose columns the row has.",
        ),
        sa.Column("row_hash", sa.Text(), nullable=False),
        sa.Column(
            "columns",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="TRL's columns for the method.",
        ),
        sa.Column("rater", sa.Text(), nullable=True),
        sa.Column("completion_ids", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("feedback_ids", sa.ARRAY(sa.Text()), nullable=False),
        sa.CheckConstraint(
            "split IN ('train', 'held_out', 'time_forward', 'golden')", name=op.f("ck_dataset_rows_split")
        ),
        sa.CheckConstraint("method IN ('sft', 'dpo', 'kto')", name=op.f("ck_dataset_rows_method")),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.dataset_id"],
            name=op.f("fk_dataset_rows_dataset_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("dataset_id", "row_number", name=op.f("pk_dataset_rows")),
        comment="The rows of a dataset, each with the completions and feedback it came from.",
    )
    op.create_index(
        "ix_dataset_rows_completion_ids",
        "dataset_rows",
        ["completion_ids"],
        unique=False,
        postgresql_using="gin",
    )
    op.create_table(
        "engine_adapters",
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('loaded', 'ready', 'failed')", name=op.f("ck_engine_adapters_state")),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_engine_adapters_adapter_id")
        ),
        sa.ForeignKeyConstraint(
            ["engine"], ["engines.engine"], name=op.f("fk_engine_adapters_engine"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("engine", "adapter_id", name=op.f("pk_engine_adapters")),
        comment="Which replica holds which version, and whether it passed the probe.",
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("recipe_hash", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column(
            "adapter_id",
            sa.Text(),
            nullable=True,
            comment="Reserved at the start, published when training ends.",
        ),
        sa.Column(
            "progress",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="step, steps, loss, seconds, memory",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True, comment="What went wrong and what to do."),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("pause_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "method IN ('sft', 'dpo', 'kto', 'sft+dpo', 'sft+kto')", name=op.f("ck_runs_method")
        ),
        sa.CheckConstraint(
            "phase IN ('training', 'publishing', 'evaluating', 'done')", name=op.f("ck_runs_phase")
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_runs_status"),
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.dataset_id"], name=op.f("fk_runs_dataset_id")),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name=op.f("fk_runs_project_model")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        comment="Training runs: a frozen recipe on a frozen dataset.",
    )
    op.create_table(
        "run_events",
        sa.Column("event_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("level IN ('info', 'warn', 'error')", name=op.f("ck_run_events_level")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_run_events_run_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_run_events")),
        comment="What a run did, in order.",
    )
    op.create_index(op.f("ix_run_events_run_id"), "run_events", ["run_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column(
            "filename", sa.Text(), nullable=False, comment="As the client called it; never a path here."
        ),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False, comment="Path or fsspec URL of the content."),
        sa.Column("uploaded_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.project"], name=op.f("fk_files_project")),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_files")),
        comment="Uploaded training and validation files; the content lies outside the database.",
    )
    op.create_index("ix_files_project_created_at", "files", ["project", "created_at"], unique=False)
    op.create_table(
        "search_trials",
        sa.Column("search_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("recipe_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "loss",
            sa.Double(),
            nullable=True,
            comment="Mean loss on rows the trial did not train on; NULL where it failed.",
        ),
        sa.Column(
            "detail",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Loss by fold, and what went wrong.",
        ),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('complete', 'pruned', 'failed')", name=op.f("ck_search_trials_status")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.dataset_id"], name=op.f("fk_search_trials_dataset_id")
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_search_trials_project_model"),
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_search_trials")),
        comment="What a search for a recipe tried, failures included.",
    )
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="The alias whose next version the job trains."),
        sa.Column("asked_model", sa.Text(), nullable=False, comment="What the client named."),
        sa.Column(
            "start_from",
            sa.Text(),
            nullable=True,
            comment="The adapter to continue from; NULL: the base model.",
        ),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column(
            "hyperparameters",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="As asked for; 'auto' where left open.",
        ),
        sa.Column("training_file", sa.Text(), nullable=False),
        sa.Column("validation_file", sa.Text(), nullable=True),
        sa.Column("suffix", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="Before there is a run, and once it has ended."
        ),
        sa.Column(
            "error",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="code, message and param, as OpenAI's clients read them.",
        ),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column(
            "fine_tuned_model",
            sa.Text(),
            nullable=True,
            comment="The ft: name; it answers once an engine holds the version.",
        ),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("result_files", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("method IN ('sft', 'dpo', 'kto')", name=op.f("ck_fine_tuning_jobs_method")),
        sa.CheckConstraint(
            "status IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_fine_tuning_jobs_status"),
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_fine_tuning_jobs_project_model"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_fine_tuning_jobs_run_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_fine_tuning_jobs")),
        comment="Fine-tuning jobs asked for over OpenAI's API; each drives one run.",
    )
    op.create_index(
        "ix_fine_tuning_jobs_project_created_at", "fine_tuning_jobs", ["project", "created_at"], unique=False
    )
    op.create_index("ix_fine_tuning_jobs_run_id", "fine_tuning_jobs", ["run_id"], unique=False)
    op.create_table(
        "run_requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="plan: say what a run would do; now: queue it; dataset: freeze its rows; search: for a recipe.",
        ),
        sa.Column("method", sa.Text(), nullable=True, comment="NULL: what the model's policy says."),
        sa.Column(
            "recipe",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Overrides of the recipe.",
        ),
        sa.Column(
            "search",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Of a search: how many trials, and the sampler.",
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="What the worker planned."
        ),
        sa.Column("refusal", sa.Text(), nullable=True, comment="Why there is no run, in words."),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("dataset_id", sa.Text(), nullable=True, comment="What a dataset request froze."),
        sa.Column(
            "search_id",
            sa.Text(),
            nullable=True,
            comment="What a search's trials are kept under, once it began.",
        ),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('plan', 'now', 'dataset', 'search')", name=op.f("ck_run_requests_kind")),
        sa.CheckConstraint(
            "status IN ('waiting', 'running', 'done', 'refused')", name=op.f("ck_run_requests_status")
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_run_requests_project_model"),
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.dataset_id"], name=op.f("fk_run_requests_dataset_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_run_requests_run_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_run_requests")),
        comment="Plans, runs, datasets and searches asked for over HTTP; the worker answers.",
    )
    op.create_index("ix_run_requests_status", "run_requests", ["status"], unique=False)
    _create_evaluating()
    _create_watching()
    _create_importing()
    _create_reviewing()
    _create_forgetting()
    _create_summing()


def downgrade() -> None:
    """Take back."""
    _drop_summing()
    for table in ("exports", "tainted_adapters", "tombstones", "erasures"):
        op.drop_table(table)
    op.execute("DROP FUNCTION erasure_hash(text)")
    for table in ("golden_items", "reviews", "dataset_exclusions"):
        op.drop_table(table)
    op.drop_index("ix_imported_completion_id", table_name="imported")
    op.drop_table("imported")
    _drop_watching()
    op.drop_table("evaluation_answers")
    op.drop_index("ix_run_requests_status", table_name="run_requests")
    op.drop_table("run_requests")
    op.drop_index("ix_fine_tuning_jobs_run_id", table_name="fine_tuning_jobs")
    op.drop_index("ix_fine_tuning_jobs_project_created_at", table_name="fine_tuning_jobs")
    op.drop_table("fine_tuning_jobs")
    op.drop_table("search_trials")
    op.drop_index("ix_files_project_created_at", table_name="files")
    op.drop_table("files")
    op.drop_index(op.f("ix_run_events_run_id"), table_name="run_events")
    op.drop_table("run_events")
    op.drop_table("runs")
    op.drop_table("engine_adapters")
    op.drop_index("ix_dataset_rows_completion_ids", table_name="dataset_rows", postgresql_using="gin")
    op.drop_table("dataset_rows")
    op.drop_table("arms")
    op.drop_index(
        "uq_experiments_running", table_name="experiments", postgresql_where=sa.text("status = 'running'")
    )
    op.drop_table("experiments")
    op.drop_table("datasets")
    op.drop_index(
        "uq_adapters_champion", table_name="adapters", postgresql_where=sa.text("state = 'champion'")
    )
    op.drop_table("adapters")
    op.drop_table("models")
    op.drop_table("keys")
    op.drop_table("secrets")
    op.drop_table("projects")
    op.drop_index(
        "uq_feedback_idempotency",
        table_name="feedback",
        postgresql_where=sa.text("idempotency_id IS NOT NULL"),
    )
    op.drop_table("retractions")
    op.drop_table("token_raters")
    op.drop_index("ix_feedback_completion_id", table_name="feedback")
    op.drop_index(
        "uq_feedback_effective_session",
        table_name="feedback",
        postgresql_where=sa.text("effective AND session IS NOT NULL"),
    )
    op.drop_index("uq_feedback_effective", table_name="feedback", postgresql_where=sa.text("effective"))
    op.drop_index("ix_feedback_project_created_at", table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("engines")
    op.drop_index(
        "ix_completions_session", table_name="completions", postgresql_where=sa.text("session IS NOT NULL")
    )
    op.drop_index(
        "ix_completions_rater", table_name="completions", postgresql_where=sa.text("rater IS NOT NULL")
    )
    op.drop_index("ix_completions_project_model_created_at", table_name="completions")
    op.drop_index(
        "ix_completions_experiment_failures",
        table_name="completions",
        postgresql_where=sa.text("experiment_id IS NOT NULL AND error_class IS NOT NULL"),
    )
    op.drop_index(
        "ix_completions_experiment_id",
        table_name="completions",
        postgresql_where=sa.text("experiment_id IS NOT NULL"),
    )
    for parent in PARTITIONED:
        op.drop_table(parent)
    op.execute("DROP FUNCTION make_partitions(date, date)")
    op.execute("DROP FUNCTION completion_day(text)")
    op.drop_table("audit")
    op.execute("DROP FUNCTION refuse_change()")


def _create_importing() -> None:
    """What other systems recorded."""
    op.create_table(
        "imported",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="The format, such as langfuse."),
        sa.Column(
            "source_id", sa.Text(), nullable=False, comment="Hash of what the completion is called there."
        ),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("project", "source", "source_id", name=op.f("pk_imported")),
        comment="Which completion a row of another system became. "
        "Stays when that is deleted, so that it does not come back.",
    )
    op.create_index("ix_imported_completion_id", "imported", ["completion_id"], unique=False)


def _create_evaluating() -> None:
    op.create_table(
        "evaluation_answers",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("row_number", sa.Integer(), nullable=False),
        sa.Column("champion_answer", sa.Text(), nullable=False),
        sa.Column("candidate_answer", sa.Text(), nullable=False),
        sa.Column("champion_score", sa.Double(), nullable=False),
        sa.Column("candidate_score", sa.Double(), nullable=False),
        sa.Column(
            "champion_repeats_it",
            sa.Boolean(),
            nullable=False,
            comment="Still the answer that was voted down.",
        ),
        sa.Column("candidate_repeats_it", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_evaluation_answers_run_id")),
        sa.ForeignKeyConstraint(
            ["dataset_id", "row_number"],
            ["dataset_rows.dataset_id", "dataset_rows.row_number"],
            name=op.f("fk_evaluation_answers_dataset_id_row_number"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "dataset_id", "row_number", name=op.f("pk_evaluation_answers")),
        comment="What champion and candidate answered to the held-out rows of a run's dataset.",
    )


def _create_watching() -> None:
    """Rollouts, the champion, drift, alerts."""
    op.create_table(
        "rollouts",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column(
            "accepted",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="Causes of a pause that a person resumed over; they do not pause this split again.",
        ),
        sa.Column("waiting_for", sa.Text(), nullable=True, comment="What the next step waits for, in words."),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.experiment_id"], name=op.f("fk_rollouts_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_rollouts")),
        comment="Where the rollout of each split stands. No row: it was never paused or looked at.",
    )
    op.create_table(
        "verdict_looks",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column(
            "minute",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="The newest look of each minute is kept.",
        ),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("share", sa.Double(), nullable=False, comment="The candidate's share of units."),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "difference",
            sa.Double(),
            nullable=True,
            comment="Net approval, candidate less champion; NULL: too early.",
        ),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("units", sa.Integer(), nullable=False, comment="Units of every arm."),
        sa.Column("rated_units", sa.Integer(), nullable=False),
        sa.Column(
            "candidates",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Of several candidates: state, difference, low and high of each, by arm. "
            "The columns: the leading one.",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.experiment_id"], name=op.f("fk_verdict_looks_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", "minute", name=op.f("pk_verdict_looks")),
        comment="The verdicts of each split over time: what a worker saw when it looked.",
    )
    op.create_table(
        "champion_watches",
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "report",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The newest monitoring.champion.Watched.",
        ),
        sa.Column("rolled_back_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_champion_watches_adapter_id")
        ),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_champion_watches")),
        comment="How each champion does since its promotion, against the time before.",
    )
    op.create_table(
        "removed_files",
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_removed_files_adapter_id")
        ),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_removed_files")),
        comment="Versions whose files the retention policy removed: they cannot answer again.",
    )
    op.create_table(
        "shadow_answers",
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False, comment="Whose question was asked again."),
        sa.Column("status", sa.Text(), nullable=False, comment="ok or error"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "error_class",
            sa.Text(),
            nullable=True,
            comment="Whose failure it was; NULL where there was none.",
        ),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("refused", sa.Boolean(), server_default="false", nullable=False),
        sa.Column(
            "same_text",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="Word for word the same.",
        ),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_shadow_answers_adapter_id")
        ),
        sa.CheckConstraint(
            "error_class IN ('caller', 'model', 'infrastructure', 'unknown')",
            name=op.f("ck_shadow_answers_error_class"),
        ),
        sa.CheckConstraint(
            "(status = 'ok') = (error_class IS NULL)", name=op.f("ck_shadow_answers_error_has_class")
        ),
        sa.PrimaryKeyConstraint("adapter_id", "completion_id", name=op.f("pk_shadow_answers")),
        comment="How versions without traffic answered real questions. Nobody saw these answers; no text is kept.",
    )
    op.create_table(
        "drift_reports",
        sa.Column("report_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "adapter_id",
            sa.Text(),
            nullable=True,
            comment="The version whose answers were compared; NULL for prompts and feedback.",
        ),
        sa.Column("reference_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False, comment="Completions in the window."),
        sa.Column(
            "drifted", sa.Boolean(), nullable=False, comment="This window alone differs from the reference."
        ),
        sa.Column(
            "alarm",
            sa.Boolean(),
            nullable=False,
            comment="So did enough windows before it, one after the other.",
        ),
        sa.Column(
            "tests",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Each test with its p-value and one sentence.",
        ),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column(
            "page",
            sa.Text(),
            nullable=True,
            comment="Evidently's HTML report, relative to the state directory.",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('input', 'output', 'feedback')", name=op.f("ck_drift_reports_kind")),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_drift_reports_project_model"),
        ),
        sa.PrimaryKeyConstraint("report_id", name=op.f("pk_drift_reports")),
        comment="Windows of traffic compared with a reference window.",
    )
    op.create_index(
        "ix_drift_reports_model", "drift_reports", ["project", "model", "kind", "window_to"], unique=False
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column(
            "subject", sa.Text(), nullable=False, comment="The version that it is about; empty: the model."
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False, comment="What is wrong, with numbers."),
        sa.Column(
            "seen",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="How often it was found while firing.",
        ),
        sa.Column("fired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('firing', 'resolved')", name=op.f("ck_alerts_state")),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name=op.f("fk_alerts_project_model")
        ),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alerts")),
        comment="What needs a person, once for as long as it lasts.",
    )
    op.create_index(
        "uq_alerts_firing",
        "alerts",
        ["project", "model", "rule", "subject"],
        unique=True,
        postgresql_where=sa.text("state = 'firing'"),
    )
    op.create_table(
        "silences",
        sa.Column("silence_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False, comment="A rule's name, or * for all."),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("silence_id", name=op.f("pk_silences")),
        comment="Alerts that nobody is told of for a while; they fire and resolve all the same.",
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False, comment="webhook, slack or email"),
        sa.Column("event", sa.Text(), nullable=False, comment="alert.firing or alert.resolved"),
        sa.Column("message", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True, comment="Why the last attempt failed."),
        sa.Column(
            "next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.alert_id"], name=op.f("fk_alert_deliveries_alert_id")),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_alert_deliveries")),
        comment="Messages on their way, written with the alert and kept until they arrive.",
    )
    op.create_index(
        "ix_alert_deliveries_waiting",
        "alert_deliveries",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("delivered_at IS NULL AND given_up_at IS NULL"),
    )


def _drop_watching() -> None:
    op.drop_table("shadow_answers")
    op.drop_index(
        "ix_alert_deliveries_waiting",
        table_name="alert_deliveries",
        postgresql_where=sa.text("delivered_at IS NULL AND given_up_at IS NULL"),
    )
    op.drop_table("alert_deliveries")
    op.drop_table("silences")
    op.drop_index("uq_alerts_firing", table_name="alerts", postgresql_where=sa.text("state = 'firing'"))
    op.drop_table("alerts")
    op.drop_index("ix_drift_reports_model", table_name="drift_reports")
    op.drop_table("drift_reports")
    op.drop_table("removed_files")
    op.drop_table("champion_watches")
    op.drop_table("verdict_looks")
    op.drop_table("rollouts")


def _create_reviewing() -> None:
    """Left-out rows, the review queue, the golden set."""
    op.create_table(
        "dataset_exclusions",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column(
            "feedback_id", sa.Text(), nullable=True, comment="NULL: a reviewer's correction, or a proposal."
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.dataset_id"],
            name=op.f("fk_dataset_exclusions_dataset_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("dataset_id", "number", name=op.f("pk_dataset_exclusions")),
        comment="What was said and did not become a row of a dataset, each with the reason. No text.",
    )
    op.create_index("ix_dataset_exclusions_reason", "dataset_exclusions", ["dataset_id", "reason"])
    op.create_table(
        "reviews",
        sa.Column("review_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("completion_id", sa.Text(), nullable=False),
        sa.Column(
            "feedback_id",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Empty: the whole completion.",
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "reason", sa.Text(), nullable=False, comment="Why it waits, or why an operator took it up."
        ),
        sa.Column(
            "answer",
            sa.Text(),
            nullable=True,
            comment="The proposed or corrected answer; NULL: what the rater wrote.",
        ),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('completion', 'correction', 'proposal')", name=op.f("ck_reviews_kind")),
        sa.CheckConstraint(
            "status IN ('waiting', 'included', 'excluded', 'corrected')", name=op.f("ck_reviews_status")
        ),
        sa.ForeignKeyConstraint(
            ["project", "model"], ["models.project", "models.model"], name=op.f("fk_reviews_project_model")
        ),
        sa.PrimaryKeyConstraint("review_id", name=op.f("pk_reviews")),
        sa.UniqueConstraint(
            "completion_id", "feedback_id", "kind", name=op.f("uq_reviews_completion_id_feedback_id_kind")
        ),
        comment="What a person decides before it is trained on, and what was decided.",
    )
    op.create_index("ix_reviews_project_status", "reviews", ["project", "model", "status"])
    op.create_table(
        "golden_items",
        sa.Column("golden_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column(
            "prompt",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Plain text, or messages of {role, content}.",
        ),
        sa.Column("answer", sa.Text(), nullable=False, comment="The right one."),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "model"],
            ["models.project", "models.model"],
            name=op.f("fk_golden_items_project_model"),
        ),
        sa.PrimaryKeyConstraint("golden_id", name=op.f("pk_golden_items")),
        sa.UniqueConstraint(
            "project", "model", "prompt_hash", name=op.f("uq_golden_items_project_model_prompt_hash")
        ),
        comment="Questions that an operator keeps for evaluation: every dataset has them, none trains on them.",
    )


def _create_forgetting() -> None:
    op.create_table(
        "erasures",
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "phase", sa.Text(), nullable=False, comment="What was finished last; a crash goes on from there."
        ),
        sa.Column(
            "subject_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="Keyed hash of the pseudonym or id.",
        ),
        sa.Column(
            "pending",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="What the next phase needs to know; NULL once done.",
        ),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Rows and files erased, by kind.",
        ),
        sa.Column("waits_for", sa.Text(), nullable=True, comment="Why it is not done yet, and what to do."),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("retire_by", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('rater', 'completion')", name=op.f("ck_erasures_kind")),
        sa.CheckConstraint(
            "phase IN ('requested', 'record', 'files', 'done')", name=op.f("ck_erasures_phase")
        ),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasures")),
        comment="Requests to forget a rater or a completion, and how far each has got.",
    )
    op.create_index("ix_erasures_project_requested_at", "erasures", ["project", "requested_at"], unique=False)
    op.create_index(
        "uq_erasures_open",
        "erasures",
        ["subject_hash"],
        unique=True,
        postgresql_where=sa.text("phase <> 'done'"),
    )
    op.create_table(
        "tombstones",
        sa.Column(
            "hash",
            sa.LargeBinary(),
            nullable=False,
            comment="Keyed hash of a rater's pseudonym, or of an id.",
        ),
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column(
            "until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="What was made up to then is refused; the year 9999: whatever comes.",
        ),
        sa.ForeignKeyConstraint(
            ["erasure_id"], ["erasures.erasure_id"], name=op.f("fk_tombstones_erasure_id")
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_tombstones")),
        comment="What must not come back from a spool, a late vote or an import.",
    )
    op.create_table(
        "tainted_adapters",
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column(
            "through",
            sa.Text(),
            nullable=True,
            comment="The tainted parent it continues; NULL: its own dataset had the rows.",
        ),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["erasure_id"], ["erasures.erasure_id"], name=op.f("fk_tainted_adapters_erasure_id")
        ),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_tainted_adapters_adapter_id")
        ),
        sa.PrimaryKeyConstraint("erasure_id", "adapter_id", name=op.f("pk_tainted_adapters")),
        comment="Adapters that learned from what was erased.",
    )
    op.create_index("ix_tainted_adapters_adapter_id", "tainted_adapters", ["adapter_id"], unique=False)
    op.create_table(
        "exports",
        sa.Column("export_id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False, comment="The machine that wrote it."),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("export_id", name=op.f("pk_exports")),
        comment="Files that hold what was said, so that an erasure finds them.",
    )
    op.create_index("ix_exports_project_created_at", "exports", ["project", "created_at"], unique=False)
    op.execute(ERASURE_HASH)
    op.execute(REFUSE_CHANGE)
    for trigger in AUDIT_TRIGGERS:
        op.execute(trigger)


def _create_summing() -> None:
    op.create_table(
        "exposure_changes",
        sa.Column("change_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "experiment_id",
            sa.Text(),
            nullable=True,
            comment="NULL: a vote, on a completion that is still to be looked up.",
        ),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("completion_id", sa.Text(), nullable=True, comment="What was voted on."),
        sa.PrimaryKeyConstraint("change_id", name=op.f("pk_exposure_changes")),
        comment="Units and days of experiments whose sums are no longer right. Emptied by every look: no index pays.",
    )
    counts = ("requests", "ups", "downs", "exposed", "bad", "errors")
    says = {
        "requests": "Older than the maturation window.",
        "exposed": "Every completion, like all that follows.",
    }
    measures = (
        "aborted", "refused", "regenerated", "first_tokens", "log_first_token_nano", "later_tokens",
        "log_later_token_nano", "answers", "log_answer_tokens_nano",
    )  # fmt: skip
    says["log_first_token_nano"] = "Natural logarithms, in 1e-9: exact."
    op.create_table(
        "exposure_sums",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="That of the completions' ids."),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("allocation", sa.Integer(), nullable=False, comment="0: the experiment has only one."),
        *(sa.Column(name, sa.BigInteger(), nullable=False, comment=says.get(name)) for name in counts),
        sa.Column("met_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("bad_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_at", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False, comment=says.get(name)) for name in measures),
        sa.Column("ripens_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.experiment_id"],
            name=op.f("fk_exposure_sums_experiment_id"),
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id", "unit", "day", "arm", "propensity", "allocation", name=op.f("pk_exposure_sums")
        ),
        comment="What each unit of a running experiment met and said, by day, arm and propensity.",
    )
    op.create_index(
        "ix_exposure_sums_ripens_at",
        "exposure_sums",
        ["experiment_id", "ripens_at"],
        unique=False,
        postgresql_where=sa.text("ripens_at IS NOT NULL"),
    )
    op.create_table(
        "experiment_totals",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column(
            "basis",
            sa.Text(),
            nullable=False,
            comment="Hash of the rules they were summed by; else: sum again.",
        ),
        sa.Column(
            "totals",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="monitoring.totals.Totals",
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.experiment_id"],
            name=op.f("fk_experiment_totals_experiment_id"),
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_experiment_totals")),
        comment="Sums over the units of each running experiment: all that its verdict needs.",
    )
    op.create_table(
        "allocations",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("allocation", sa.Integer(), nullable=False, comment="Never used twice in an experiment."),
        sa.Column("slice", sa.Text(), nullable=False, comment="uniform or adaptive"),
        sa.Column(
            "pieces",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Arms and widths from 0 upwards; the rest of the line is the champion's.",
        ),
        sa.Column(
            "shares",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The probability of each arm.",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("slice IN ('uniform', 'adaptive')", name=op.f("ck_allocations_slice")),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.experiment_id"], name=op.f("fk_allocations_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", "allocation", name=op.f("pk_allocations")),
        comment="How each slice of an experiment with several arms was shared out, and when. Only grows.",
    )
    op.create_table(
        "null_adapters",
        sa.Column(
            "adapter_id", sa.Text(), nullable=False, comment="The version that is compared with the base."
        ),
        sa.Column("null_id", sa.Text(), nullable=False, comment="What answers as the base beside it."),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.adapter_id"], name=op.f("fk_null_adapters_adapter_id")
        ),
        sa.ForeignKeyConstraint(["null_id"], ["adapters.adapter_id"], name=op.f("fk_null_adapters_null_id")),
        sa.PrimaryKeyConstraint("adapter_id", name=op.f("pk_null_adapters")),
        comment="Adapters of zeros, of the same shape: what any adapter costs, without any of what it says.",
    )
    for statement in EXPOSURE_TRIGGERS:
        op.execute(statement)


def _drop_summing() -> None:
    for trigger, table in (
        ("exposure_arrives", "completions"),
        ("exposure_changes", "completions"),
        ("votes_insert", "feedback"),
        ("votes_update", "feedback"),
        ("votes_delete", "feedback"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute("DROP FUNCTION note_exposure()")
    op.execute("DROP FUNCTION note_votes()")
    for table in ("null_adapters", "allocations", "experiment_totals", "exposure_sums", "exposure_changes"):
        op.drop_table(table)
