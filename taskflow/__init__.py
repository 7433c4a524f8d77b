"""Taskflow: a background task queue on PostgreSQL alone."""

from importlib.metadata import version

from taskflow.registry import task
from taskflow.retry import Backoff

__all__ = ["Backoff", "task"]

__version__ = version("taskflow-pg")
