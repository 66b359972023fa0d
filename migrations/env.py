"""Alembic's entry: runs the migrations on the connection that ``store.schema_version`` opened."""

from alembic import context

from store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things: a changed table is rebuilt.
    render_as_batch=True,
    # Alembic believes that SQLite commits at every change of a table. Not with our BEGIN.
    transactional_ddl=True,
    compare_server_default=True,
)
context.run_migrations()
