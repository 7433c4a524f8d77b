"""For test suites of those who use Taskflow: run handlers at once, drain a queue, look at what was enqueued.

``pytest_plugins = ["taskflow.testing.fixtures"]`` gives pytest a database. docs/testing.md shows all of it.
"""

from taskflow.testing.database import Enqueued, TaskflowDatabase
from taskflow.testing.drain import StillDue
from taskflow.testing.inline import inline
from taskflow.testing.run import Ran, TaskNotSucceeded, run_task, run_task_async

__all__ = [
    "Enqueued",
    "Ran",
    "StillDue",
    "TaskNotSucceeded",
    "TaskflowDatabase",
    "inline",
    "run_task",
    "run_task_async",
]
