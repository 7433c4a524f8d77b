"""Taskflow: a background task queue on PostgreSQL alone."""

from importlib.metadata import version

from taskflow.context import Context
from taskflow.errors import Fail, RetryAfter
from taskflow.model import Limit
from taskflow.registry import middleware, schedule, task
from taskflow.retry import Backoff
from taskflow.transactions import enqueue, enqueue_many

__all__ = [
    "Backoff",
    "Context",
    "Fail",
    "Limit",
    "RetryAfter",
    "enqueue",
    "enqueue_many",
    "middleware",
    "schedule",
    "task",
]

__version__ = version("taskflow-pg")
