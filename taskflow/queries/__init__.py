"""Read-only statements."""

from taskflow.queries.gates import GroupView, LimitView, QueueView, find_group, find_limits, find_queue_views
from taskflow.queries.listing import Found, TaskSummary, find_ids, find_newest, find_tasks
from taskflow.queries.progress import find_checkpoints, find_lines
from taskflow.queries.series import DAY, HOUR, Span, Step, find_steps
from taskflow.queries.tasks import (
    Progress,
    TaskView,
    Transition,
    find_history,
    find_live,
    find_running,
    find_task,
    touch_tasks,
)

__all__ = [
    "DAY",
    "HOUR",
    "Found",
    "GroupView",
    "LimitView",
    "Progress",
    "QueueView",
    "Span",
    "Step",
    "TaskSummary",
    "TaskView",
    "Transition",
    "find_checkpoints",
    "find_group",
    "find_history",
    "find_ids",
    "find_limits",
    "find_lines",
    "find_live",
    "find_newest",
    "find_queue_views",
    "find_running",
    "find_steps",
    "find_task",
    "find_tasks",
    "touch_tasks",
]
