"""Structured logs: for people on a terminal, as JSON lines otherwise. Handlers' lines carry their task's id."""

import logging
import os
import sys
import traceback
from contextvars import ContextVar
from typing import TextIO

import psycopg
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from taskflow.lines import Ear
from taskflow.model import ClaimedTask

current_task: ContextVar[ClaimedTask | None] = ContextVar("current_task", default=None)
"""The task whose handler runs here; the worker sets it, also in the threads of sync handlers."""


def configure(level: str) -> None:
    """Send structlog's and the standard library's lines to stderr in one form, from *level* on."""
    shared = _shared()
    pretty = sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))
    rendering: list[Processor] = (
        # Without the values of variables, which rich would show: payloads, DSNs and tokens are among them.
        [structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)]
        if pretty
        else [structlog.processors.ExceptionRenderer(_format_traceback), structlog.processors.JSONRenderer()]
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


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _name_the_task,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def listen() -> None:
    """From now on, hand what is logged also to who keeps it: ``lines.heard_by``."""
    ear = Ear()
    ear.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_format_traceback),
                _write_line,
            ],
        )
    )
    logging.getLogger().addHandler(ear)


def _write_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """The line as it is kept: its task, time and level are told beside it."""
    for known in ("task_id", "attempt", "timestamp", "level"):
        event.pop(known, None)
    trace = event.pop("exception", None)
    line = " ".join([str(event.pop("event", "")), *(f"{key}={value}" for key, value in event.items())])
    return f"{line}\n{trace}" if trace else line


def without_detail(error: BaseException, text: str | None = None) -> str:
    """*text*, or else the message of *error*, without Postgres's details: they quote rows, and so payloads."""
    text = str(error) if text is None else text
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, psycopg.Error) and one.diag.message_detail:
            text = text.replace(one.diag.message_detail, "(left out, for it may quote a row)")
    return text


def _format_traceback(exc_info: ExcInfo) -> str:
    return without_detail(exc_info[1], "".join(traceback.format_exception(exc_info[1]))).rstrip()


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    out.write("\n" + _format_traceback(exc_info))


def _name_the_task(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (task := current_task.get()) is not None:
        event.setdefault("task_id", task.id)
        event.setdefault("attempt", task.attempt)
    return event
