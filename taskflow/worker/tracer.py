"""Spans around attempts, as children of those that enqueued their tasks."""

from collections.abc import Sequence
from typing import Any, Final

import psycopg
import structlog

from taskflow.context import CallNext, Context
from taskflow.database import AWAY, Connection
from taskflow.logs import without_detail
from taskflow.queue.trace import find_traces, forget_traces
from taskflow.tracing import SYSTEM, ended, find_tracer
from taskflow.worker.chores import Chore
from taskflow.worker.finisher import FollowUp

log = structlog.get_logger(__name__)

KEPT_DAYS: Final = 7
FORGET_SECONDS: Final = 600.0

MOST: Final = 10_000
"""Tasks that were claimed and did not begin, as when a worker stops, of which a trace is remembered."""


class Tracer:
    """Middleware that makes a span of each attempt. It learns where the tasks of each claim come from."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._traces: dict[int, str] = {}

    @classmethod
    def find(cls) -> "Tracer | None":
        """One for the tracer provider of this process; None if it records no spans."""
        tracer = find_tracer()
        return None if tracer is None else cls(tracer)

    def learns_before(self, follow_up: FollowUp) -> FollowUp:
        """What follows a claim: ``learn``, and then *follow_up*."""

        async def both(conn: Connection, ids: Sequence[int]) -> None:
            await self.learn(conn, ids)
            await follow_up(conn, ids)

        return both

    async def learn(self, conn: Connection, ids: Sequence[int]) -> None:
        """Look up the traces of *ids*, which were just claimed. Raises one of AWAY; what else is wrong is logged."""
        if len(self._traces) > MOST:
            self._traces.clear()
        try:
            self._traces |= await find_traces(conn, ids)
        except psycopg.Error as error:
            if isinstance(error, AWAY):
                raise
            log.warning("traces.unknown", reason=without_detail(error).strip())

    @property
    def chore(self) -> Chore:
        """Forgets what is old."""
        return Chore(FORGET_SECONDS, self._forget)

    async def _forget(self, conn: Connection) -> None:
        await forget_traces(conn, KEPT_DAYS)

    async def call(self, context: Context, call_next: CallNext) -> Any:
        """What the handler returned, from within a span."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        task = context.task
        parent = self._traces.pop(task.id, None)
        attributes: dict[str, Any] = SYSTEM | {
            "messaging.operation.type": "process",
            "messaging.operation.name": "attempt",
            "messaging.destination.name": task.type,
            "messaging.message.id": str(task.id),
            "taskflow.task.name": task.name,
            "taskflow.task.priority": task.priority,
            "taskflow.attempt": task.attempt,
            "taskflow.max_attempts": task.max_attempts,
        }
        span = self._tracer.start_span(
            f"attempt {task.type}",
            TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None,
            trace.SpanKind.CONSUMER,
            attributes,
        )
        with trace.use_span(span, record_exception=False, set_status_on_exception=False), ended(span):
            return await call_next()
