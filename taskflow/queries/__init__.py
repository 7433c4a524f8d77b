"""Read-only statements."""

from taskflow.queries.listing import Found, TaskSummary, find_ids, find_newest, find_tasks
from taskflow.queries.tasks import TaskView, Transition, find_history, find_live, find_running, find_task

__all__ = [
    "Found",
    "TaskSummary",
    "TaskView",
    "Transition",
    "find_history",
    "find_ids",
    "find_live",
    "find_newest",
    "find_running",
    "find_task",
    "find_tasks",
]
