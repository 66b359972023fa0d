import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from store.engine import create_engine_from
from store.errors import SchemaNotAtHead
from store.jobs import JobKind
from store.results import NewResult
from store.schema_version import current_revision, head_revision, migrate, migration_config, require_head
from store.tables import metadata
from store.unit_of_work import Store

REVISIONS = [script.revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()][::-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest) -> str:
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url = request.getfixturevalue(fixture)
    assert isinstance(url, str)
    return url


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = create_engine_from(empty_url)
    yield engine
    engine.dispose()


def schema(engine: Engine) -> dict[str, object]:
    """Everything the database says about its tables."""
    look = inspect(engine)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in look.get_columns(name)],
            look.get_pk_constraint(name),
            sorted(look.get_foreign_keys(name), key=str),
            sorted(look.get_indexes(name), key=str),
            sorted(look.get_unique_constraints(name), key=str),
            sorted(look.get_check_constraints(name), key=str),
        )
        for name in sorted(look.get_table_names())
        if name != "alembic_version"
    }


def test_each_migration_goes_up_down_and_up_again(empty_url: str, engine: Engine) -> None:
    below = "base"
    for revision in REVISIONS:
        before = schema(engine)
        migrate(empty_url, revision)
        after = schema(engine)
        assert current_revision(engine) == revision
        migrate(empty_url, below)
        assert schema(engine) == before
        migrate(empty_url, revision)
        assert schema(engine) == after
        below = revision


def test_going_down_to_nothing_leaves_no_table(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)
    migrate(empty_url, "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert current_revision(engine) is None


def test_the_migrations_make_the_tables_of_the_code(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_checks_of_the_code(
    empty_url: str, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Alembic does not compare CHECK constraints nor collations: the whole schema is held against ``create_all``."""
    migrate(empty_url)
    migrated = schema(engine)
    migrate(empty_url, "base")
    metadata.create_all(engine)

    assert migrated == schema(engine)


def test_data_stays_when_the_database_is_migrated_again(empty_url: str) -> None:
    migrate(empty_url)
    store = Store.connect(empty_url)
    with store.transaction() as tx:
        job = tx.jobs.submit("training", {"a": 1})
    migrate(store.engine)
    with store.reading() as tx:
        assert tx.jobs.get(job.id) == job
    store.close()


def leave_a_job(store: Store, kind: JobKind) -> str:
    """Add a job of a kind with a row in every table that a job may have rows in."""
    with store.transaction() as tx:
        job = tx.jobs.submit(kind, {})
        claimed = tx.jobs.claim(job.id, "a worker", 60)
    assert claimed is not None
    fence = job.id, claimed.attempt
    store.save_checkpoint(*fence, 5, b"state", {})
    blob = store.save_blob(b"weights", job_id=job.id, attempt=claimed.attempt)
    with store.transaction() as tx:
        tx.metrics.append(*fence, {"loss": [(1, 2.0)]})
        version = tx.models.register_version(kind, job.id, training_spec={}, solver={}, blob_id=blob, metadata={})
        solver = {"method": "euler", "steps": 2}
        tx.results.add(*fence, [result_of_model(kind, version.version, solver)])
        tx.jobs.succeed(*fence, {})
    return job.id


def result_of_model(model: str, version: int, solver: dict[str, object]) -> NewResult:
    return NewResult(
        model=model,
        version=version,
        dataset={"kind": "concentric_spheres"},
        train_solver=solver,
        test_solver=solver,
        nfe=2.0,
        samples=10,
        failures=0,
        seconds=0.1,
    )


OF_JOBS = ("event", "checkpoint", "metric_series", "metric_chunk", "model_version", "result")


def test_going_down_removes_jobs_of_kinds_that_were_not_there_with_all_their_rows_and_keeps_the_rest(
    empty_url: str, engine: Engine
) -> None:
    migrate(empty_url)
    store = Store.connect(empty_url)
    kept = leave_a_job(store, "training")
    leave_a_job(store, "portrait")
    leave_a_job(store, "export")
    leave_a_job(store, "study_run")
    leave_a_job(store, "predict")
    store.close()

    def owners() -> dict[str, set[str]]:
        with engine.connect() as connection:
            return {table: set(connection.execute(text(f"SELECT job_id FROM {table}")).scalars()) for table in OF_JOBS}

    assert all(len(jobs) == 5 for jobs in owners().values())

    migrate(empty_url, "0001")

    assert owners() == {table: {kept} for table in OF_JOBS}
    engine.dispose()  # the tables have changed
    migrate(empty_url)
    assert owners() == {table: {kept} for table in OF_JOBS}


def test_going_down_removes_versions_that_no_job_made_and_models_that_had_no_others(
    empty_url: str, engine: Engine
) -> None:
    migrate(empty_url)
    store = Store.connect(empty_url)
    leave_a_job(store, "training")
    blob = store.save_blob(b"uploaded")
    with store.transaction() as tx:
        tx.models.register_upload("uploaded", training_spec={}, solver={}, blob_id=blob, metadata={})
        parent = tx.models.version("training")
        assert parent is not None
        tx.models.register_repair(parent, modified_field={"kind": "series"}, solver={}, metadata={})
    store.close()

    migrate(empty_url, "0004")

    with engine.connect() as connection:
        assert connection.execute(text("SELECT model, version FROM model_version")).all() == [("training", 1)]
        assert connection.execute(text("SELECT name FROM model")).all() == [("training",)]
    engine.dispose()  # the tables have changed
    migrate(empty_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT origin FROM model_version")).all() == [("training",)]


def test_a_database_at_head_is_accepted(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)

    require_head(engine)
    assert current_revision(engine) == head_revision() == REVISIONS[-1]


def test_an_empty_database_is_refused_with_the_remedy(engine: Engine) -> None:
    with pytest.raises(SchemaNotAtHead, match="is empty: run `odeness migrate`"):
        require_head(engine)


def test_a_database_of_a_newer_version_is_refused(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'future'"))
    with pytest.raises(SchemaNotAtHead, match="a newer version of odeness"):
        require_head(engine)


def test_a_migration_that_fails_leaves_the_schema_as_it_was(empty_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE result (x INTEGER)"))  # in the way of the first migration
    with pytest.raises(Exception, match="already exists"):
        migrate(empty_url)

    assert inspect(engine).get_table_names() == ["result"]


def test_processes_that_migrate_at_once_do_not_disturb_each_other(empty_url: str, engine: Engine) -> None:
    code = (
        "import sys; from store.schema_version import migrate; print(flush=True); "
        "sys.stdin.read(); migrate(sys.argv[1])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, empty_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"  # it has loaded everything
    for process in processes:  # now all at once
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    outputs = [(process.communicate(), process.returncode) for process in processes]

    assert outputs == [(("", ""), 0)] * 3
    require_head(engine)
