"""Predictions of whole data sets: a kind of job, and a table of packed predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.String(36)
BEFORE = "kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run')"
AFTER = "kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run', 'predict')"
PACKED = ("truth", "label", "status", "nfe", "accepted", "rejected", "probabilities")


def upgrade() -> None:
    _set_kinds(AFTER)
    op.create_table(
        "prediction_chunk",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("first_sample", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in PACKED),
        sa.Column("logits", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "first_sample >= 0 AND samples >= 1 AND seconds >= 0", name=op.f("ck_prediction_chunk_samples")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name=op.f("fk_prediction_chunk_job_id_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "first_sample", name=op.f("pk_prediction_chunk")),
    )


def downgrade() -> None:
    op.drop_table("prediction_chunk")
    # Not left to the foreign keys: they are off while SQLite's tables are rebuilt.
    op.execute("DELETE FROM result WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM model_version WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM metric_chunk WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM metric_series WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM checkpoint WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM event WHERE job_id IN (SELECT id FROM job WHERE kind = 'predict')")
    op.execute("DELETE FROM job WHERE kind = 'predict'")
    _set_kinds(BEFORE)


def _set_kinds(condition: str) -> None:
    with op.batch_alter_table("job") as job:
        job.drop_constraint(op.f("ck_job_kind"), type_="check")
        job.create_check_constraint(op.f("ck_job_kind"), condition)
