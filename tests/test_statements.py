"""Every SQL constant of the package is PREPAREd against the migrated schema."""

import importlib
import pkgutil
import re
from types import ModuleType

import psycopg
import pytest
from psycopg.pq import ExecStatus

import taskflow

LOOKS_LIKE_SQL = re.compile(r"(\s|--.*\n)*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|CALL|LOCK|COPY)\b")
PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|([s%]))")


def modules() -> list[ModuleType]:
    """The modules of the package, but for the benchmark, which makes tables of its own."""
    names = [found.name for found in pkgutil.walk_packages(taskflow.__path__, "taskflow.")]
    return [importlib.import_module(name) for name in names if not re.search(r"\.bench\b|__main__", name)]


def constants(module: ModuleType) -> dict[str, str]:
    """The module's upper-case texts."""
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }


STATEMENTS = {
    name: value for module in modules() for name, value in constants(module).items() if LOOKS_LIKE_SQL.match(value)
}


def prepare(conn: psycopg.Connection, statement: str, name: str = "") -> None:
    """Let Postgres parse *statement*, as psycopg would send it, and call it *name*.

    AssertionError with Postgres's words if it cannot.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        if found[2] == "%":
            return "%"
        name = found[1] or str(len(numbers))
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    result = conn.pgconn.prepare(name.encode(), PLACEHOLDER.sub(number, statement).encode())
    assert result.status == ExecStatus.COMMAND_OK, result.error_message.decode()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_fits_the_schema(dsn: str, name: str):
    with psycopg.connect(dsn, autocommit=True) as conn:
        prepare(conn, STATEMENTS[name])


def test_no_constant_of_the_queue_is_left_out():
    texts = {
        name
        for module in modules()
        if module.__name__.startswith(("taskflow.queue.", "taskflow.queries."))
        for name in constants(module)
    }
    assert texts <= set(STATEMENTS)
    assert {"taskflow.queue.claim.CLAIM", "taskflow.queries.tasks.TASK", "taskflow.worker.presence.BEAT"} <= set(
        STATEMENTS
    )


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        ("SELECT stauts FROM taskflow.tasks WHERE id = %(id)s", 'column "stauts" does not exist'),
        ("SELECT id FROM tasks", 'relation "tasks" does not exist'),
        ("UPDATE taskflow.tasks SET status = 'done' WHERE id = %(id)s", "invalid input value for enum"),
        ("SELECT id FROM taskflow.tasks WHERE id = %(id)s AND name = %(id)s", "operator does not exist"),
        ("SELECT taskflow.requeue(%(ids)s::text[], 'recovery')", "does not exist"),
        ("SELECT FROM WHERE", "syntax error"),
    ],
)
def test_a_statement_that_does_not_fit_fails_the_check(dsn: str, nonsense: str, words: str):
    assert LOOKS_LIKE_SQL.match(nonsense)
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(AssertionError, match=words):
        prepare(conn, nonsense)
