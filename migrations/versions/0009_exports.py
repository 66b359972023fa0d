"""Jobs that export a model version, and the files they leave behind."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.String(36)
MOMENT = sa.DateTime(timezone=True)
BEFORE = "kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run', 'predict')"
AFTER = "kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run', 'predict', 'export')"
OF_JOBS = ("result", "model_version", "metric_chunk", "metric_series", "checkpoint", "event")


def upgrade() -> None:
    _set_kinds(AFTER)
    op.create_table(
        "artifact",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_artifact_job_id_job"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_artifact_blob_id_blob")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_artifact")),
        sa.UniqueConstraint("blob_id", name=op.f("uq_artifact_blob_id")),
    )


def downgrade() -> None:
    op.drop_table("artifact")  # its blobs are then nobody's, and removed with the others that are
    # Not left to the foreign keys: they are off while SQLite's tables are rebuilt.
    for table in OF_JOBS:
        op.execute(f"DELETE FROM {table} WHERE job_id IN (SELECT id FROM job WHERE kind = 'export')")  # noqa: S608
    op.execute("DELETE FROM job WHERE kind = 'export'")
    _set_kinds(BEFORE)


def _set_kinds(condition: str) -> None:
    with op.batch_alter_table("job") as job:
        job.drop_constraint(op.f("ck_job_kind"), type_="check")
        job.create_check_constraint(op.f("ck_job_kind"), condition)
