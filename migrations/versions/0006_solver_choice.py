"""The solvers to serve a model version with, as its latest audit found them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.String(36)
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "solver_choice",
        sa.Column("version_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("choice", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_solver_choice_job_id_job"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_solver_choice_version_id_model_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_solver_choice")),
    )
    op.create_index(op.f("ix_solver_choice_job_id"), "solver_choice", ["job_id"])


def downgrade() -> None:
    op.drop_table("solver_choice")
