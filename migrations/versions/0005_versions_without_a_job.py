"""Model versions that no training job made: uploaded weights, and repairs that share their parent's weights."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.String(36)
NAME = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")

CHECKS = {
    "origin": "origin IN ('training', 'upload', 'repair')",
    "job_of_training": "(origin = 'training') = (job_id IS NOT NULL)",
    "parent": "(parent_model IS NULL) = (parent_version IS NULL)",
    "parent_of_repair": "origin <> 'repair' OR parent_model IS NOT NULL",
    "modified_field_of_repair": "(origin = 'repair') = (modified_field IS NOT NULL)",
}


def upgrade() -> None:
    with op.batch_alter_table("model_version") as version:
        version.add_column(sa.Column("origin", sa.String(length=20), nullable=False, server_default="training"))
        version.add_column(sa.Column("parent_model", NAME, nullable=True))
        version.add_column(sa.Column("parent_version", sa.Integer(), nullable=True))
        version.add_column(sa.Column("modified_field", sa.JSON(), nullable=True))
        version.alter_column("job_id", existing_type=ID, nullable=True)
        version.drop_constraint(op.f("uq_model_version_blob_id"), type_="unique")
        version.create_index(op.f("ix_model_version_blob_id"), ["blob_id"])
        for name, condition in CHECKS.items():
            version.create_check_constraint(op.f(f"ck_model_version_{name}"), condition)


def downgrade() -> None:
    op.execute("DELETE FROM model_version WHERE origin <> 'training'")
    op.execute("DELETE FROM model WHERE name NOT IN (SELECT model FROM model_version)")
    with op.batch_alter_table("model_version") as version:
        for name in CHECKS:
            version.drop_constraint(op.f(f"ck_model_version_{name}"), type_="check")
        version.drop_index(op.f("ix_model_version_blob_id"))
        version.create_unique_constraint(op.f("uq_model_version_blob_id"), ["blob_id"])
        version.alter_column("job_id", existing_type=ID, nullable=False)
        version.drop_column("modified_field")
        version.drop_column("parent_version")
        version.drop_column("parent_model")
        version.drop_column("origin")
