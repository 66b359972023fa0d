"""The tables.

Plain ``Table`` objects: the store writes with compare-and-set updates and reads into frozen
dataclasses, where mapped classes with an identity map would only show stale rows.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from store.column_types import Document, UtcDateTime, sorted_text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = String(36)
NAME = sorted_text(100)

study = Table(
    "study",
    metadata,
    Column("id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("status", String(20), nullable=False),
    Column("spec", Document, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("cancel_requested_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    PrimaryKeyConstraint("id"),
    CheckConstraint("status IN ('running', 'cancelling', 'succeeded', 'failed', 'cancelled')", name="status"),
    CheckConstraint(
        "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
        name="finished_at_when_terminal",
    ),
    Index(None, "status", "id"),
    Index(None, "name", "id"),
)

job = Table(
    "job",
    metadata,
    Column("id", ID, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("name", NAME),
    Column("status", String(20), nullable=False),
    Column("spec", Document, nullable=False),
    Column("model", NAME),
    Column("model_version", Integer),
    Column("progress_step", BigInteger, nullable=False),
    Column("progress_total", BigInteger, nullable=False),
    Column("progress_message", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("worker", String(255)),
    Column("lease_expires_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("progressed_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("rung_at", UtcDateTime),
    Column("rings", Integer, nullable=False),
    Column("result", Document),
    Column("error", Document),
    Column("event_count", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    # The study it belongs to, and its place there; without a place another job has taken it over.
    Column("study_id", ID, ForeignKey("study.id")),
    Column("study_cell", Integer),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("study_id", "study_cell"),
    CheckConstraint("kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run')", name="kind"),
    CheckConstraint("status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')", name="status"),
    CheckConstraint(
        "(status IN ('running', 'cancelling')) = (lease_expires_at IS NOT NULL)", name="lease_while_running"
    ),
    CheckConstraint(
        "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
        name="finished_at_when_terminal",
    ),
    CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
    CheckConstraint("status = 'succeeded' OR result IS NULL", name="result_when_succeeded"),
    CheckConstraint(
        "attempt >= 0 AND failures >= 0 AND failures <= attempt AND rings >= 0 AND event_count >= 1",
        name="counts",
    ),
    CheckConstraint("progress_step >= 0 AND progress_total >= 0", name="progress"),
    CheckConstraint("study_cell IS NULL OR (study_id IS NOT NULL AND study_cell >= 0)", name="study_cell"),
    # Newest first, with each filter; the id is the time.
    Index(None, "kind", "id"),
    Index(None, "status", "id"),
    Index(None, "model", "id"),
    Index(None, "name", "id"),
    Index(None, "study_id", "id"),
    # The reconciler's questions.
    Index(None, "status", "lease_expires_at"),
    Index(None, "status", "rung_at"),
)

event = Table(
    "event",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("data", Document, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("job_id", "sequence"),
    ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
    CheckConstraint("sequence >= 1", name="sequence"),
)

metric_series = Table(
    "metric_series",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("non_finite", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("last_value", Double),  # null: not finite
    Column("minimum", Double),  # of the finite values; null: there are none
    Column("maximum", Double),
    PrimaryKeyConstraint("job_id", "name"),
    ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
    CheckConstraint("points >= 1 AND non_finite >= 0 AND non_finite <= points", name="counts"),
)

metric_chunk = Table(
    "metric_chunk",
    metadata,
    Column("job_id", ID, nullable=False),
    Column("name", NAME, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("non_finite", Integer, nullable=False),
    Column("minimum", Double),
    Column("maximum", Double),
    Column("packed_steps", LargeBinary, nullable=False),  # int64, little-endian
    Column("packed_values", LargeBinary, nullable=False),  # float64, little-endian
    PrimaryKeyConstraint("job_id", "name", "first_step"),
    ForeignKeyConstraint(["job_id", "name"], ["metric_series.job_id", "metric_series.name"], ondelete="CASCADE"),
    CheckConstraint("first_step <= last_step AND points >= 1", name="steps"),
)

blob = Table(
    "blob",
    metadata,
    Column("id", ID, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("complete", Boolean, nullable=False),
    # Who writes it; both null when no job does. No foreign key: a blob outlives its job.
    Column("job_id", ID),
    Column("attempt", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id"),
    CheckConstraint("size >= 0", name="size"),
    CheckConstraint("(job_id IS NULL) = (attempt IS NULL)", name="writer"),
    Index(None, "job_id"),
)

blob_chunk = Table(
    "blob_chunk",
    metadata,
    Column("blob_id", ID, nullable=False),
    Column("position", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("blob_id", "position"),
    ForeignKeyConstraint(["blob_id"], ["blob.id"], ondelete="CASCADE"),
    CheckConstraint("position >= 0", name="position"),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", ID, nullable=False),
    Column("job_id", ID, ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("metadata", Document, nullable=False),
    Column("blob_id", ID, ForeignKey("blob.id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("job_id", "step"),
    UniqueConstraint("blob_id"),
    CheckConstraint("step >= 0", name="step"),
)

model = Table(
    "model",
    metadata,
    Column("name", NAME, nullable=False),
    Column("latest_version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("name"),
    CheckConstraint("latest_version >= 1", name="latest_version"),
)

model_version = Table(
    "model_version",
    metadata,
    Column("id", ID, nullable=False),
    Column("model", NAME, ForeignKey("model.name", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("job_id", ID, ForeignKey("job.id")),  # of a training
    Column("training_spec", Document, nullable=False),
    Column("solver", Document, nullable=False),
    Column("blob_id", ID, ForeignKey("blob.id"), nullable=False),
    Column("metadata", Document, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Which of the job's runs made it: those of several seeds may share a job.
    Column("run", Integer, nullable=False, server_default="0"),
    Column("origin", String(20), nullable=False, server_default="training"),
    # What it was made from: the version repaired, or the one a training began with.
    Column("parent_model", NAME),
    Column("parent_version", Integer),
    Column("modified_field", Document),  # of a repair, in the place of its parent's field
    PrimaryKeyConstraint("id"),
    UniqueConstraint("model", "version"),
    UniqueConstraint("job_id", "run"),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint("run >= 0", name="run"),
    CheckConstraint("origin IN ('training', 'upload', 'repair')", name="origin"),
    CheckConstraint("(origin = 'training') = (job_id IS NOT NULL)", name="job_of_training"),
    CheckConstraint("(parent_model IS NULL) = (parent_version IS NULL)", name="parent"),
    CheckConstraint("origin <> 'repair' OR parent_model IS NOT NULL", name="parent_of_repair"),
    CheckConstraint("(origin = 'repair') = (modified_field IS NOT NULL)", name="modified_field_of_repair"),
    Index(None, "blob_id"),  # a repair has its parent's
)

# What an alias pointed at and when: rows are added and never changed, and stay when the alias is removed.
model_alias_move = Table(
    "model_alias_move",
    metadata,
    Column("model", NAME, ForeignKey("model.name", ondelete="CASCADE"), nullable=False),
    Column("alias", NAME, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("version", Integer),  # null: the alias was removed
    Column("back_to", Integer),  # the revision that a rollback from here restores; null: there is none
    Column("moved_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("model", "alias", "revision"),
    ForeignKeyConstraint(["model", "version"], ["model_version.model", "model_version.version"]),
    ForeignKeyConstraint(
        ["model", "alias", "back_to"],
        ["model_alias_move.model", "model_alias_move.alias", "model_alias_move.revision"],
    ),
    CheckConstraint("revision >= 1", name="revision"),
    CheckConstraint("kind IN ('move', 'rollback', 'removal')", name="kind"),
    CheckConstraint("(kind = 'removal') = (version IS NULL)", name="version_unless_removed"),
    CheckConstraint("back_to IS NULL OR (back_to < revision AND kind <> 'removal')", name="back_to"),
)

# Where each alias points now; its last move says since when.
model_alias = Table(
    "model_alias",
    metadata,
    Column("model", NAME, nullable=False),
    Column("alias", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    PrimaryKeyConstraint("model", "alias"),
    ForeignKeyConstraint(["model", "version"], ["model_version.model", "model_version.version"]),
    ForeignKeyConstraint(
        ["model", "alias", "revision"],
        ["model_alias_move.model", "model_alias_move.alias", "model_alias_move.revision"],
        ondelete="CASCADE",
    ),
)

dataset = Table(
    "dataset",
    metadata,
    Column("name", NAME, nullable=False),
    Column("latest_version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("name"),
    CheckConstraint("latest_version >= 1", name="latest_version"),
)

dataset_version = Table(
    "dataset_version",
    metadata,
    Column("id", ID, nullable=False),
    Column("name", NAME, ForeignKey("dataset.name"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),  # of the inputs and labels
    Column("input_shape", Document, nullable=False),
    Column("classes", Integer, nullable=False),
    Column("input_scale", Double, nullable=False),
    Column("train_samples", BigInteger, nullable=False),
    Column("test_samples", BigInteger, nullable=False),
    Column("source", Document, nullable=False),
    Column("blob_id", ID, ForeignKey("blob.id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name", "version"),
    UniqueConstraint("blob_id"),
    CheckConstraint("version >= 1", name="version"),
    CheckConstraint("classes >= 2 AND train_samples >= 1 AND test_samples >= 1", name="counts"),
    CheckConstraint("input_scale > 0", name="input_scale"),
)

result = Table(
    "result",
    metadata,
    Column("id", ID, nullable=False),
    Column("job_id", ID, ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("dataset", Document, nullable=False),
    Column("dataset_kind", NAME, nullable=False),
    Column("train_solver", Document, nullable=False),
    Column("train_method", NAME, nullable=False),
    Column("train_steps", Integer),
    Column("test_solver", Document, nullable=False),
    Column("test_method", NAME, nullable=False),
    Column("test_steps", Integer),
    Column("nfe", Double, nullable=False),
    Column("accuracy", Double),
    Column("flip_rate", Double),
    Column("samples", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("study_id", ID, ForeignKey("study.id")),
    Column("seed", BigInteger),  # of a study's run
    PrimaryKeyConstraint("id"),
    CheckConstraint("samples >= 0 AND failures >= 0 AND failures <= samples", name="counts"),
    CheckConstraint("accuracy IS NULL OR (accuracy >= 0 AND accuracy <= 1)", name="accuracy"),
    CheckConstraint("flip_rate IS NULL OR (flip_rate >= 0 AND flip_rate <= 1)", name="flip_rate"),
    Index(None, "job_id"),
    Index(None, "model", "version", "id"),
    Index(None, "dataset_kind", "id"),
    Index(None, "train_method", "id"),
    Index(None, "test_method", "id"),
    Index(None, "accuracy", "id"),
    Index(None, "flip_rate", "id"),
    Index(None, "nfe", "id"),
    Index(None, "study_id", "id"),
)

# What the latest finished audit of a version found out about the solvers to serve it with.
solver_choice = Table(
    "solver_choice",
    metadata,
    Column("version_id", ID, nullable=False),
    Column("job_id", ID, ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("choice", Document, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("version_id"),
    ForeignKeyConstraint(["version_id"], ["model_version.id"], ondelete="CASCADE"),
    Index(None, "job_id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", sorted_text(255), nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("status", Integer),  # null: in flight
    Column("body", Document),
    Column("job_id", ID),
    Column("created_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("key"),
    Index(None, "created_at"),
)
