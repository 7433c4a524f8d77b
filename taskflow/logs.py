"""Structured logs: for people on a terminal, as JSON lines otherwise. Handlers' lines carry their task's id."""

import logging
import sys
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from taskflow.model import ClaimedTask

current_task: ContextVar[ClaimedTask | None] = ContextVar("current_task", default=None)
"""The task whose handler runs here; the worker sets it, also in the threads of sync handlers."""


def configure(level: str) -> None:
    """Send structlog's and the standard library's lines to stderr in one form, from *level* on."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_the_task,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    pretty = sys.stderr.isatty()
    rendering: list[Processor] = (
        # Without the values of variables, which rich would show: payloads, DSNs and tokens are among them.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("yoyo").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _name_the_task(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (task := current_task.get()) is not None:
        event.setdefault("task_id", task.id)
        event.setdefault("attempt", task.attempt)
    return event
