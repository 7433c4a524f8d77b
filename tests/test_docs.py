"""The Python in docs/python.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import psycopg

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
