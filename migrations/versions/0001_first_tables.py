"""The first tables: jobs, events, metrics, blobs, checkpoints, models, results, idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out here rather than imported from the store: a migration must not change when it does.
ID = sa.String(36)
MOMENT = sa.DateTime(timezone=True)
NAME = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")
KEY = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "blob",
        sa.Column("id", ID, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("(job_id IS NULL) = (attempt IS NULL)", name=op.f("ck_blob_writer")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blob_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob")),
    )
    op.create_index(op.f("ix_blob_job_id"), "blob", ["job_id"])
    op.create_table(
        "idempotency",
        sa.Column("key", KEY, nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=True),
        sa.Column("job_id", ID, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_created_at"), "idempotency", ["created_at"])
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("name", NAME, nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model", NAME, nullable=True),
        sa.Column("model_version", sa.Integer(), nullable=True),
        sa.Column("progress_step", sa.BigInteger(), nullable=False),
        sa.Column("progress_total", sa.BigInteger(), nullable=False),
        sa.Column("progress_message", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("lease_expires_at", MOMENT, nullable=True),
        sa.Column("heartbeat_at", MOMENT, nullable=True),
        sa.Column("progressed_at", MOMENT, nullable=True),
        sa.Column("cancel_requested_at", MOMENT, nullable=True),
        sa.Column("rung_at", MOMENT, nullable=True),
        sa.Column("rings", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_job_error_when_failed")),
        sa.CheckConstraint(
            "(status IN ('running', 'cancelling')) = (lease_expires_at IS NOT NULL)",
            name=op.f("ck_job_lease_while_running"),
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_job_finished_at_when_terminal"),
        ),
        sa.CheckConstraint("kind IN ('training', 'sweep', 'audit')", name=op.f("ck_job_kind")),
        sa.CheckConstraint("status = 'succeeded' OR result IS NULL", name=op.f("ck_job_result_when_succeeded")),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_job_status"),
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND failures >= 0 AND failures <= attempt AND rings >= 0 AND event_count >= 1",
            name=op.f("ck_job_counts"),
        ),
        sa.CheckConstraint("progress_step >= 0 AND progress_total >= 0", name=op.f("ck_job_progress")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_kind_id"), "job", ["kind", "id"])
    op.create_index(op.f("ix_job_model_id"), "job", ["model", "id"])
    op.create_index(op.f("ix_job_name_id"), "job", ["name", "id"])
    op.create_index(op.f("ix_job_status_id"), "job", ["status", "id"])
    op.create_index(op.f("ix_job_status_lease_expires_at"), "job", ["status", "lease_expires_at"])
    op.create_index(op.f("ix_job_status_rung_at"), "job", ["status", "rung_at"])
    op.create_table(
        "model",
        sa.Column("name", NAME, nullable=False),
        sa.Column("latest_version", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint("latest_version >= 1", name=op.f("ck_model_latest_version")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_model")),
    )
    op.create_table(
        "blob_chunk",
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("position >= 0", name=op.f("ck_blob_chunk_position")),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_blob_chunk_blob_id_blob"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("blob_id", "position", name=op.f("pk_blob_chunk")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("step >= 0", name=op.f("ck_checkpoint_step")),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_checkpoint_blob_id_blob")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_checkpoint_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint")),
        sa.UniqueConstraint("blob_id", name=op.f("uq_checkpoint_blob_id")),
        sa.UniqueConstraint("job_id", "step", name=op.f("uq_checkpoint_job_id_step")),
    )
    op.create_table(
        "event",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_event_sequence")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_event_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "sequence", name=op.f("pk_event")),
    )
    op.create_table(
        "metric_series",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("non_finite", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("last_value", sa.Double(), nullable=True),
        sa.Column("minimum", sa.Double(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "points >= 1 AND non_finite >= 0 AND non_finite <= points", name=op.f("ck_metric_series_counts")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_metric_series_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_metric_series")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", ID, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("training_spec", sa.JSON(), nullable=False),
        sa.Column("solver", sa.JSON(), nullable=False),
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("version >= 1", name=op.f("ck_model_version_version")),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_model_version_blob_id_blob")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_model_version_job_id_job")),
        sa.ForeignKeyConstraint(
            ["model"], ["model.name"], name=op.f("fk_model_version_model_model"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("blob_id", name=op.f("uq_model_version_blob_id")),
        sa.UniqueConstraint("job_id", name=op.f("uq_model_version_job_id")),
        sa.UniqueConstraint("model", "version", name=op.f("uq_model_version_model_version")),
    )
    op.create_table(
        "result",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.JSON(), nullable=False),
        sa.Column("dataset_kind", NAME, nullable=False),
        sa.Column("train_solver", sa.JSON(), nullable=False),
        sa.Column("train_method", NAME, nullable=False),
        sa.Column("train_steps", sa.Integer(), nullable=True),
        sa.Column("test_solver", sa.JSON(), nullable=False),
        sa.Column("test_method", NAME, nullable=False),
        sa.Column("test_steps", sa.Integer(), nullable=True),
        sa.Column("nfe", sa.Double(), nullable=False),
        sa.Column("accuracy", sa.Double(), nullable=True),
        sa.Column("flip_rate", sa.Double(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("accuracy IS NULL OR (accuracy >= 0 AND accuracy <= 1)", name=op.f("ck_result_accuracy")),
        sa.CheckConstraint(
            "flip_rate IS NULL OR (flip_rate >= 0 AND flip_rate <= 1)", name=op.f("ck_result_flip_rate")
        ),
        sa.CheckConstraint("samples >= 0 AND failures >= 0 AND failures <= samples", name=op.f("ck_result_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_result_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
    )
    op.create_index(op.f("ix_result_accuracy_id"), "result", ["accuracy", "id"])
    op.create_index(op.f("ix_result_dataset_kind_id"), "result", ["dataset_kind", "id"])
    op.create_index(op.f("ix_result_flip_rate_id"), "result", ["flip_rate", "id"])
    op.create_index(op.f("ix_result_job_id"), "result", ["job_id"])
    op.create_index(op.f("ix_result_model_version_id"), "result", ["model", "version", "id"])
    op.create_index(op.f("ix_result_nfe_id"), "result", ["nfe", "id"])
    op.create_index(op.f("ix_result_test_method_id"), "result", ["test_method", "id"])
    op.create_index(op.f("ix_result_train_method_id"), "result", ["train_method", "id"])
    op.create_table(
        "metric_chunk",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("non_finite", sa.Integer(), nullable=False),
        sa.Column("minimum", sa.Double(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.Column("packed_steps", sa.LargeBinary(), nullable=False),
        sa.Column("packed_values", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("first_step <= last_step AND points >= 1", name=op.f("ck_metric_chunk_steps")),
        sa.ForeignKeyConstraint(
            ["job_id", "name"],
            ["metric_series.job_id", "metric_series.name"],
            name=op.f("fk_metric_chunk_job_id_name_metric_series"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "name", "first_step", name=op.f("pk_metric_chunk")),
    )


def downgrade() -> None:
    op.drop_table("metric_chunk")
    op.drop_table("result")
    op.drop_table("model_version")
    op.drop_table("metric_series")
    op.drop_table("event")
    op.drop_table("checkpoint")
    op.drop_table("blob_chunk")
    op.drop_table("model")
    op.drop_table("job")
    op.drop_table("idempotency")
    op.drop_table("blob")
