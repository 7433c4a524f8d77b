"""The Python in docs/python.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import psycopg
from serving import make_token, served_in_a_thread

from taskflow.scopes import Scope

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def block(heading: str) -> str:
    """The first Python below the page's *heading*."""
    found = re.search(
        rf"^## {re.escape(heading)}\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found, heading
    return found[1]


def test_a_task_is_enqueued_together_with_an_order(own_database: str):
    names: dict[str, Any] = {"DATABASE_URL": own_database}
    exec(block("Enqueue in your own transaction"), names)
    with psycopg.connect(own_database) as conn:
        assert conn.execute("SELECT id, type, priority::text FROM taskflow.tasks").fetchall() == [
            (names["id"], "send_email", "high")
        ]
        assert conn.execute("SELECT customer FROM orders").fetchall() == [("ada",)]


def test_a_task_goes_over_http(own_database: str):
    token = make_token(own_database, Scope.ADMIN)
    with served_in_a_thread(own_database) as url:
        names: dict[str, Any] = {"URL": url, "TOKEN": token}
        exec(block("Over HTTP"), names)
    assert (names["task"].status, names["task"].error) == ("cancelled", "ordered twice")
