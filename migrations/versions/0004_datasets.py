"""Uploaded data sets: a name with numbered versions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(36)
MOMENT = sa.DateTime(timezone=True)
NAME = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("name", NAME, nullable=False),
        sa.Column("latest_version", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint("latest_version >= 1", name=op.f("ck_dataset_latest_version")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_dataset")),
    )
    op.create_table(
        "dataset_version",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("input_shape", sa.JSON(), nullable=False),
        sa.Column("classes", sa.Integer(), nullable=False),
        sa.Column("input_scale", sa.Double(), nullable=False),
        sa.Column("train_samples", sa.BigInteger(), nullable=False),
        sa.Column("test_samples", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("blob_id", ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "classes >= 2 AND train_samples >= 1 AND test_samples >= 1", name=op.f("ck_dataset_version_counts")
        ),
        sa.CheckConstraint("input_scale > 0", name=op.f("ck_dataset_version_input_scale")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_dataset_version_version")),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_dataset_version_blob_id_blob")),
        sa.ForeignKeyConstraint(["name"], ["dataset.name"], name=op.f("fk_dataset_version_name_dataset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_version")),
        sa.UniqueConstraint("blob_id", name=op.f("uq_dataset_version_blob_id")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_dataset_version_name_version")),
    )


def downgrade() -> None:
    op.drop_table("dataset_version")
    op.drop_table("dataset")
