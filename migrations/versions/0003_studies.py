"""Studies: a grid of trainings as jobs of their own, which may make several model versions each."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.String(36)
MOMENT = sa.DateTime(timezone=True)
NAME = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("cancel_requested_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'cancelling', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_study_status")
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_study_finished_at_when_terminal"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
    )
    op.create_index(op.f("ix_study_status_id"), "study", ["status", "id"])
    op.create_index(op.f("ix_study_name_id"), "study", ["name", "id"])
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("study_id", ID, nullable=True))
        job.add_column(sa.Column("study_cell", sa.Integer(), nullable=True))
        job.create_foreign_key(op.f("fk_job_study_id_study"), "study", ["study_id"], ["id"])
        job.create_unique_constraint(op.f("uq_job_study_id_study_cell"), ["study_id", "study_cell"])
        job.create_check_constraint(
            op.f("ck_job_study_cell"), "study_cell IS NULL OR (study_id IS NOT NULL AND study_cell >= 0)"
        )
        job.create_index(op.f("ix_job_study_id_id"), ["study_id", "id"])
    with op.batch_alter_table("model_version") as version:
        version.add_column(sa.Column("run", sa.Integer(), nullable=False, server_default="0"))
        version.drop_constraint(op.f("uq_model_version_job_id"), type_="unique")
        version.create_unique_constraint(op.f("uq_model_version_job_id_run"), ["job_id", "run"])
        version.create_check_constraint(op.f("ck_model_version_run"), "run >= 0")
    with op.batch_alter_table("result") as result:
        result.add_column(sa.Column("study_id", ID, nullable=True))
        result.add_column(sa.Column("seed", sa.BigInteger(), nullable=True))
        result.create_foreign_key(op.f("fk_result_study_id_study"), "study", ["study_id"], ["id"])
        result.create_index(op.f("ix_result_study_id_id"), ["study_id", "id"])


def downgrade() -> None:
    # What studies made has no place in the tables before; a job may have made several versions.
    op.execute("DELETE FROM result WHERE study_id IS NOT NULL")
    op.execute("DELETE FROM model_version WHERE job_id IN (SELECT id FROM job WHERE study_id IS NOT NULL)")
    # Not left to the foreign keys: they are off while SQLite's tables are rebuilt.
    op.execute("DELETE FROM metric_chunk WHERE job_id IN (SELECT id FROM job WHERE study_id IS NOT NULL)")
    op.execute("DELETE FROM metric_series WHERE job_id IN (SELECT id FROM job WHERE study_id IS NOT NULL)")
    op.execute("DELETE FROM checkpoint WHERE job_id IN (SELECT id FROM job WHERE study_id IS NOT NULL)")
    op.execute("DELETE FROM event WHERE job_id IN (SELECT id FROM job WHERE study_id IS NOT NULL)")
    op.execute("DELETE FROM job WHERE study_id IS NOT NULL")
    with op.batch_alter_table("result") as result:
        result.drop_index(op.f("ix_result_study_id_id"))
        result.drop_constraint(op.f("fk_result_study_id_study"), type_="foreignkey")
        result.drop_column("seed")
        result.drop_column("study_id")
    with op.batch_alter_table("model_version") as version:
        version.drop_constraint(op.f("ck_model_version_run"), type_="check")
        version.drop_constraint(op.f("uq_model_version_job_id_run"), type_="unique")
        version.create_unique_constraint(op.f("uq_model_version_job_id"), ["job_id"])
        version.drop_column("run")
    with op.batch_alter_table("job") as job:
        job.drop_index(op.f("ix_job_study_id_id"))
        job.drop_constraint(op.f("ck_job_study_cell"), type_="check")
        job.drop_constraint(op.f("uq_job_study_id_study_cell"), type_="unique")
        job.drop_constraint(op.f("fk_job_study_id_study"), type_="foreignkey")
        job.drop_column("study_cell")
        job.drop_column("study_id")
    op.drop_table("study")
