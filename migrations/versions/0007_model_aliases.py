"""Aliases of model versions, and all their moves."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NAME = sa.String(100).with_variant(sa.String(100, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "model_alias_move",
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("back_to", sa.Integer(), nullable=True),
        sa.Column("moved_at", MOMENT, nullable=False),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_model_alias_move_revision")),
        sa.CheckConstraint("kind IN ('move', 'rollback', 'removal')", name=op.f("ck_model_alias_move_kind")),
        sa.CheckConstraint(
            "(kind = 'removal') = (version IS NULL)", name=op.f("ck_model_alias_move_version_unless_removed")
        ),
        sa.CheckConstraint(
            "back_to IS NULL OR (back_to < revision AND kind <> 'removal')", name=op.f("ck_model_alias_move_back_to")
        ),
        sa.ForeignKeyConstraint(
            ["model"], ["model.name"], name=op.f("fk_model_alias_move_model_model"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_version.model", "model_version.version"],
            name=op.f("fk_model_alias_move_model_version_model_version"),
        ),
        sa.ForeignKeyConstraint(
            ["model", "alias", "back_to"],
            ["model_alias_move.model", "model_alias_move.alias", "model_alias_move.revision"],
            name=op.f("fk_model_alias_move_model_alias_back_to_model_alias_move"),
        ),
        sa.PrimaryKeyConstraint("model", "alias", "revision", name=op.f("pk_model_alias_move")),
    )
    op.create_table(
        "model_alias",
        sa.Column("model", NAME, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_version.model", "model_version.version"],
            name=op.f("fk_model_alias_model_version_model_version"),
        ),
        sa.ForeignKeyConstraint(
            ["model", "alias", "revision"],
            ["model_alias_move.model", "model_alias_move.alias", "model_alias_move.revision"],
            name=op.f("fk_model_alias_model_alias_revision_model_alias_move"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model", "alias", name=op.f("pk_model_alias")),
    )


def downgrade() -> None:
    op.drop_table("model_alias")
    op.drop_table("model_alias_move")
