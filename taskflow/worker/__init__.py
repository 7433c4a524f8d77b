"""A worker: one process that claims tasks and runs their handlers."""

from taskflow.worker.processes import Isolation
from taskflow.worker.run import WorkerOptions, run

__all__ = ["Isolation", "WorkerOptions", "run"]
