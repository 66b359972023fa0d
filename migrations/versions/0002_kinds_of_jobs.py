"""Two more kinds of jobs: portraits of two-dimensional models, and the runs of a study."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BEFORE = "kind IN ('training', 'sweep', 'audit')"
AFTER = "kind IN ('training', 'sweep', 'audit', 'portrait', 'study_run')"


def upgrade() -> None:
    _set_kinds(AFTER)


def downgrade() -> None:
    op.execute("DELETE FROM job WHERE kind IN ('portrait', 'study_run')")
    _set_kinds(BEFORE)


def _set_kinds(condition: str) -> None:
    with op.batch_alter_table("job") as job:
        job.drop_constraint(op.f("ck_job_kind"), type_="check")
        job.create_check_constraint(op.f("ck_job_kind"), condition)
