"""Fixtures of pytest, for suites whose conftest.py says ``pytest_plugins = ["taskflow.testing.fixtures"]``."""

import os
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from taskflow.embedded import private_server
from taskflow.migrate import migrate
from taskflow.testing.database import TaskflowDatabase


@pytest.fixture(scope="session")
def taskflow_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated database for the whole run: on the server of TASKFLOW_TEST_DSN, else an embedded one.

    Your own tables may live there too: create them in a fixture of yours that uses this one.
    """
    given = os.environ.get("TASKFLOW_TEST_DSN")
    if not given:
        with private_server(tmp_path_factory.mktemp("postgres")) as dsn:
            migrate(dsn)
            yield dsn
        return
    name = f"taskflow_test_{uuid4().hex[:12]}"
    with psycopg.connect(given, autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            migrate(dsn := make_conninfo(given, dbname=name))
            yield dsn
        finally:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def taskflow_database(taskflow_dsn: str) -> TaskflowDatabase:
    """The database of ``taskflow_dsn``, in which Taskflow keeps nothing when the test begins."""
    database = TaskflowDatabase(taskflow_dsn)
    database.clear()
    return database
