"""The examples of docs/handlers.md do what the page says."""

import re
from pathlib import Path

from commands import started
from support import Database, log_lines, watching

PAGE = Path(__file__).parents[1] / "docs" / "handlers.md"


def example(heading: str) -> str:
    """The first block of Python under *heading*."""
    found = re.search(rf"^## {heading}$.*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def test_the_examples_of_handlers_run(tmp_path: Path, own_database: str):
    headings = ("Context", "Progress and checkpoints", "Isolation", "Logs", "Middleware")
    (tmp_path / "jobs.py").write_text("\n".join(map(example, headings)))
    with (
        watching(own_database) as db,
        started(tmp_path, "taskflow-worker", "--app", "jobs", DATABASE_URL=own_database) as worker,
    ):
        counted = db.enqueue("count_up", {"steps": 3})
        db.await_status(counted, "succeeded")
        resized = db.enqueue("resize_all", {"images": 10})
        imported = db.enqueue("import_rows", {"rows": [1, 2]})
        converted, endless, broken = (db.enqueue("convert", {"file": file}) for file in ("a", "endless", "broken"))
        cancels_a_sync_handler(db)
        db.await_status(resized, "succeeded")
        assert db.rows("SELECT attempt, fraction, message, checkpoint FROM taskflow.progress") == [
            (2, 1, "resized 10 of 10", {"done": 10})
        ]
        db.await_status(imported, "succeeded")
        lines = db.one("SELECT lines FROM taskflow.lines WHERE task_id = %s", imported)
        assert [line["text"] for line in lines[:2]] == ["imported 1", "imported 2"]
        db.await_status(converted, "succeeded")
        db.await_status(endless, "failed")
        db.await_status(broken, "failed")
        error = "SELECT error FROM taskflow.tasks WHERE id = %s"
        assert db.one(error, endless) == "TimeoutError: the attempt took longer than its 1 s"
        assert db.one(error, broken) == "HandlerDied: the handler's process is gone: it was ended by SIGABRT"
        assert len(db.history(resized)) == 4  # it failed once, and went on
        worker.await_said("count_up took")
        assert worker.end(15) == 0
        assert any(line["event"].startswith("count_up took ") for line in log_lines(worker))


def cancels_a_sync_handler(db: Database) -> None:
    long = db.enqueue("count_up", {"steps": 100_000})
    db.await_status(long, "running")
    db.rows("SELECT taskflow.cancel(ARRAY[%s::bigint])", long)
    db.await_status(long, "cancelled")  # and the worker, which is to end below, does not wait for it
